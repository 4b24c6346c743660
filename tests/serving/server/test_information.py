"""Routes about the server: models, health, metrics, tokens, state, and the OpenAPI description."""

from __future__ import annotations

import contextlib
import math
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pa_lite.api.server import running_server
from pa_lite.ggml.metadata import boolean
from pa_lite.serving.host import Host, open_host
from pa_lite.serving.server import run
from pa_lite.serving.server.descriptions import Health, ModelCard, ModelList, State, Text, TokenizerInfo, Tokens
from pa_lite.serving.server.options import ServeOptions
from pa_lite.serving.server.run import RunningServer
from tests.engine.test_refusals import changed
from tests.support.http_requests import call, eventually
from tests.support.served import ONE, Lams, user

SAMPLED: dict[str, Any] = {"temperature": 100.0, "seed": 1}  # hardly ever the end of a text
_SAMPLE = re.compile(r'([a-z_]+)((?:\{(?:[a-z]+="[^"\\\n]*",?)+\})?) (\S+)')


def read(text: str) -> dict[str, float]:
    """Return the samples of Prometheus' text format by name and labels; fail for anything that is not valid."""
    assert text.endswith("\n")
    found: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            assert rest
            if what == "TYPE":
                assert rest in ("counter", "gauge", "histogram")
                assert name not in kinds
                kinds[name] = rest
            else:
                assert what == "HELP"
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        name = match[1]
        family = name if name in kinds else re.sub("_(bucket|sum|count)$", "", name)
        assert (kinds[family] == "histogram") == (family != name)
        assert match[1] + match[2] not in found
        found[match[1] + match[2]] = float(match[3])
    return found


def metrics(url: str) -> dict[str, float]:
    reply = call(url, "/metrics")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return read(reply.body.decode("utf-8"))


def test_models_are_listed_by_tenths_and_others_exist(url: str) -> None:
    document = call(url, "/v1/models").json
    ModelList.model_validate(document)
    names = [model["id"] for model in document["data"]]
    assert names == ["demo", *(f"demo@{tenth / 10:g}" for tenth in range(11))]
    assert [model["lam"] for model in document["data"]] == [0.6, *(tenth / 10 for tenth in range(11))]
    for name, lam in (("demo", 0.6), ("demo@0.35", 0.35), ("demo@0.350", 0.35), ("demo@1", 1.0), ("demo@0.333", 0.33)):
        card = call(url, f"/v1/models/{name}").json
        ModelCard.model_validate(card)
        assert (card["lam"], card["id"]) == (lam, "demo" if name == "demo" else f"demo@{lam:g}")
    assert call(url, "/v1/models/other").error["code"] == "model_not_found"


def test_while_the_model_is_being_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url, looked = f"http://127.0.0.1:{port}", []

    @contextlib.contextmanager
    def opened(*args: Any) -> Iterator[Host]:
        health = call(url, "/health")
        assert (health.status, health.json, health.headers["retry-after"]) == (503, {"status": "loading"}, "2")
        bodies: dict[str, Any] = {
            "/v1/models": None, "/pa-lite/state": None, "/v1/chat/completions": {"messages": user("x")},
            "/v1/completions": {"prompt": "x"}, "/tokenize": {"prompt": "x"},
        }  # fmt: skip
        for path, body in bodies.items():
            reply = call(url, path, body)
            assert (reply.status, reply.error["code"]) == (503, "model_loading"), path
            assert (reply.error["type"], reply.headers["retry-after"]) == ("server_error", "2")
        assert call(url, "/").status == 200
        assert not any(name.startswith("pa_lite_models_limit") for name in metrics(url))
        looked.append(True)
        with open_host(*args) as host:
            yield host

    monkeypatch.setattr(run, "open_host", opened)
    with running_server("demo", ServeOptions(port=port), ONE) as served:
        assert looked
        assert served.url == url
        health = call(url, "/health")
        Health.model_validate(health.json)
        assert (health.status, health.json["status"], health.json["lams"]) == (200, "ok", [0.6])
        assert call(url, "/v1/completions", {"prompt": "x", "max_tokens": 1}).status == 200


def test_metrics_count_requests_and_tokens(url: str) -> None:
    def grown(before: dict[str, float], name: str) -> float:
        return metrics(url).get(name, 0) - before.get(name, 0)

    ok = 'pa_lite_requests_total{endpoint="/v1/completions",status="200"}'
    bad = 'pa_lite_requests_total{endpoint="/v1/completions",status="400"}'
    other = 'pa_lite_requests_total{endpoint="other",status="404"}'
    before = metrics(url)
    asked: list[dict[str, Any]] = [
        {"prompt": [[5, 6, 7], [8]], "max_tokens": 4, "n": 2, "lam": 0.6},
        {"prompt": [5, 6, 7, 9], "max_tokens": 0, "echo": True, "logprobs": 1},
    ]
    usage = [call(url, "/v1/completions", body).json["usage"] for body in asked]
    prompt = [11, 12]
    events = call(url, "/v1/completions", {"prompt": prompt, "max_tokens": 9, "stream": True, **SAMPLED}).events
    assert any(c["text"] for e in events for c in e["choices"])
    assert call(url, "/v1/completions", {"prompt": 1}).status == 400
    assert call(url, '/un"known\\{x="y"}').status == 404
    generated = sum(u["completion_tokens"] for u in usage)
    assert eventually(lambda: grown(before, ok) == 3)
    assert (grown(before, bad), grown(before, other)) == (1, 1)
    streamed = grown(before, "pa_lite_generated_tokens_total") - generated
    assert 1 <= streamed <= 9
    assert grown(before, "pa_lite_prompt_tokens_total") == 2 * 4 + 4 + 2  # a prompt with n 2 is read twice
    assert grown(before, "pa_lite_time_to_first_token_seconds_count") == 1
    assert grown(before, 'pa_lite_request_duration_seconds_count{endpoint="/v1/completions"}') == 4


def test_metrics_are_consistent(url: str, server: RunningServer) -> None:
    call(url, "/v1/completions", {"prompt": "x", "max_tokens": 1, "lam": 0.6})
    found = metrics(url)
    buckets = [(k, v) for k, v in found.items() if k.startswith("pa_lite_time_to_first_token_seconds_bucket")]
    bounds = [float(str(k).split('le="')[1].rstrip('"}').replace("+Inf", "inf")) for k, _ in buckets]
    assert bounds == sorted(bounds)
    assert bounds[-1] == math.inf
    assert [v for _, v in buckets] == sorted(v for _, v in buckets)
    assert buckets[-1][1] == found["pa_lite_time_to_first_token_seconds_count"]
    assert {k for k in found if k.startswith("pa_lite_resident_lam")} == {
        f'pa_lite_resident_lam{{lam="{lam:g}"}}' for lam in server.host.models.lams
    }
    assert found["pa_lite_models_limit"] == 3
    assert found["pa_lite_planned_memory_bytes"] == pytest.approx(server.host.models.memory.total, rel=1e-4)
    assert found["process_resident_memory_bytes"] > 10 << 20
    endpoints = {m[1] for k in found if (m := re.search('endpoint="([^"]*)"', k))}
    assert endpoints <= {
        "/", "/health", "/metrics", "/tokenize", "/detokenize", "/tokenizer_info", "/pa-lite/state", "/pa-lite/page",
        "/v1/models", "/v1/models/{name:path}", "/v1/completions", "/v1/chat/completions", "/openapi.json", "other",
    }  # fmt: skip


def test_moves_are_counted(url: str) -> None:
    before = metrics(url)["pa_lite_moves_total"]
    for lam in (0.11, 0.12, 0.13, 0.14):
        assert call(url, "/v1/completions", {"prompt": "x", "max_tokens": 1, "lam": lam}).status == 200
    after = metrics(url)
    assert after["pa_lite_moves_total"] - before >= 1
    assert 'pa_lite_resident_lam{lam="0.14"}' in after
    assert 0.14 in call(url, "/health").json["lams"]


def test_texts_are_tokenized_and_back(url: str, lams: Lams) -> None:
    model = lams.model(0.6)
    text = "The robin is a bird. Näh 漢字 🐈"
    found = call(url, "/tokenize", {"prompt": text}).json
    Tokens.model_validate(found)
    assert found["tokens"] == model.tokenize(text, True)
    assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), 512)
    plain = call(url, "/tokenize", {"content": text}).json["tokens"]
    assert plain == model.tokenize(text, False)
    assert call(url, "/tokenize", {"content": text, "add_special": True}).json["tokens"] == found["tokens"]
    assert call(url, "/tokenize", {"prompt": text, "add_special_tokens": False}).json["tokens"] == plain
    for tokens in (plain, found["tokens"]):  # control tokens have no text
        back = call(url, "/detokenize", {"tokens": tokens}).json
        Text.model_validate(back)
        assert back == {"prompt": text, "content": text}
    pieces = call(url, "/tokenize", {"content": "Rome is", "with_pieces": True}).json
    Tokens.model_validate(pieces)
    assert "".join(each["piece"] for each in pieces["tokens"]) == "Rome is"
    named = call(url, "/tokenize", {"model": "demo@0.9", "prompt": "Rome is", "return_token_strs": True}).json
    assert "".join(named["token_strs"]).endswith("Rome is")
    assert call(url, "/tokenize", {"messages": user("Who is Tobi?")}).json["tokens"] == lams.prompt("Who is Tobi?")
    assert call(url, "/detokenize", {"tokens": []}).json["prompt"] == ""


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/tokenize", {}, "give one of prompt, content and messages"),
        ("/tokenize", {"prompt": "x", "content": "x"}, "give one of prompt, content and messages"),
        ("/tokenize", {"prompt": 1}, "must be a string"),
        ("/tokenize", {"promt": "x"}, "Did you mean prompt?"),
        ("/detokenize", {}, "tokens: it is required"),
        ("/detokenize", {"tokens": "x"}, "must be a list"),
        ("/detokenize", {"tokens": [-1]}, "greater than or equal to 0"),
        ("/detokenize", {"tokens": [10**9]}, "is not a token id"),
        ("/detokenize", {"tokens": [10**300]}, "is not a token id"),
    ],
)
def test_bad_requests_are_one_plain_line(url: str, path: str, body: dict[str, Any], words: str) -> None:
    reply = call(url, path, body)
    assert reply.status == 400, reply.body
    assert words in reply.error["message"]


def test_the_state_tells_a_page_what_it_needs(url: str, server: RunningServer) -> None:
    state = call(url, "/pa-lite/state").json
    State.model_validate(state)
    assert (state["name"], state["is_pair"], state["lam"], state["models"]) == ("demo", True, 0.6, 3)
    assert (state["context_length"], state["has_template"], state["moves_reload"]) == (512, True, False)
    assert state["lams"] == server.host.models.lams
    memory = state["memory"]
    assert memory["total"] == memory["n_models"] * (memory["weights"] + memory["context"]) + memory["moving"]
    assert memory["description"] == server.host.models.memory.description


@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_remote_tokenizer_of_lm_eval_is_offered_only_where_it_is_right(
    tiny_ggufs: dict[str, Path], tmp_path: Path, adds_bos: bool
) -> None:
    fields = {"tokenizer.ggml.add_bos_token": boolean(adds_bos)}
    path = changed(tiny_ggufs["F32"], tmp_path / "x.gguf", fields, {})
    with running_server(str(path), ServeOptions(port=0), ONE) as served:
        assert bool(call(served.url, "/tokenize", {"prompt": ""}).json["tokens"]) == adds_bos
        reply = call(served.url, "/tokenizer_info")
        if adds_bos:
            assert (reply.status, "tokenizer_backend=huggingface" in reply.error["message"]) == (404, True)
        else:
            TokenizerInfo.model_validate(reply.json)
            assert reply.json["eos_token"]


def test_the_description_names_all_routes(url: str) -> None:
    document = call(url, "/openapi.json").json
    assert set(document["paths"]) == {
        "/v1/models", "/v1/models/{name}", "/v1/completions", "/v1/chat/completions", "/health", "/metrics",
        "/tokenize", "/detokenize", "/tokenizer_info", "/pa-lite/state",
    }  # fmt: skip
    for routes in document["paths"].values():
        for route in routes.values():
            assert "200" in route["responses"]
            assert "422" not in route["responses"]  # errors of bodies are 400, in OpenAI's form
