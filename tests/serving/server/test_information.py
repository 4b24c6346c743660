"""Routes about the server: health, state, tokens, metrics, and errors for everything else."""

from __future__ import annotations

import re

import pytest

import pa_lite
from pa_lite.serving.server import descriptions
from pa_lite.serving.server.run import RunningServer
from tests.support.http_requests import call
from tests.support.served import Lams, user


def metrics(url: str) -> dict[str, float]:
    """Return the samples by name with labels, after a check of the text format."""
    reply = call(url, "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples: dict[str, float] = {}
    typed: set[str] = set()
    for line in reply.body.decode().splitlines():
        if line.startswith("# TYPE "):
            typed.add(line.split()[2])
        elif not line.startswith("# HELP "):
            name, value = re.fullmatch(r'([a-z_]+(?:\{(?:\w+="[^"]*",?)*\})?) (\S+)', line).groups()  # type: ignore[union-attr]
            assert (
                re.sub(r"_(bucket|sum|count)$", "", name.partition("{")[0]) in typed or name.partition("{")[0] in typed
            )
            assert name not in samples
            samples[name] = float(value)
    return samples


def test_health_and_state_describe_the_server(url: str, server: RunningServer) -> None:
    health = call(url, "/health").json
    descriptions.Health.model_validate(health)
    assert health["status"] == "ok"
    state = call(url, "/pa-lite/state").json
    descriptions.State.model_validate(state)
    assert (state["name"], state["version"], state["is_pair"]) == ("demo", pa_lite.__version__, True)
    assert (state["lam"], state["models"], state["context_length"]) == (0.6, 3, 512)
    assert (state["has_template"], state["moves_reload"]) == (True, False)
    assert state["memory"]["description"] == server.host.models.memory.description
    assert state["memory"]["n_models"] == 3
    call(url, "/v1/completions", {"prompt": "a", "max_tokens": 1, "lam": 0.45})
    assert 0.45 in call(url, "/pa-lite/state").json["lams"]


def test_metrics_count_requests_tokens_and_moves(url: str) -> None:
    before = metrics(url)
    ok = '{endpoint="/v1/completions",status="200"}'
    usage = call(url, "/v1/completions", {"prompt": "Anna", "max_tokens": 3, "temperature": 100, "seed": 1}).json[
        "usage"
    ]
    call(url, "/v1/completions", {"prompt": 1})
    call(url, "/nowhere")
    call(url, "/v1/completions", {"prompt": "Anna", "max_tokens": 3, "stream": True})
    for lam in (0.11, 0.12, 0.13, 0.14):
        call(url, "/v1/completions", {"prompt": "Anna", "max_tokens": 1, "lam": lam})
    after = metrics(url)
    change = {name: after[name] - before.get(name, 0) for name in after}
    assert change[f"pa_lite_requests_total{ok}"] == 6
    assert change['pa_lite_requests_total{endpoint="/v1/completions",status="400"}'] == 1
    assert change['pa_lite_requests_total{endpoint="other",status="404"}'] == 1
    assert change["pa_lite_generated_tokens_total"] >= 3 + usage["completion_tokens"]
    assert change["pa_lite_prompt_tokens_total"] == 6 * usage["prompt_tokens"]
    assert change["pa_lite_time_to_first_token_seconds_count"] == 1
    assert change['pa_lite_request_duration_seconds_count{endpoint="/v1/completions"}'] == 7
    assert change["pa_lite_moves_total"] >= 1
    assert after["pa_lite_requests_running"] == after["pa_lite_requests_waiting"] == 0
    assert after["pa_lite_models_limit"] == 3
    assert after['pa_lite_resident_lam{lam="0.14"}'] == 1
    assert after["process_resident_memory_bytes"] > 1e7
    buckets = [v for name, v in after.items() if name.startswith("pa_lite_time_to_first_token_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == after["pa_lite_time_to_first_token_seconds_count"]


def test_tokenize_takes_the_forms_of_vllm_and_llama_cpp(url: str, lams: Lams) -> None:
    model = lams.model(0.6)
    text = "Tobi is€ here"
    full = call(url, "/tokenize", {"prompt": text})
    descriptions.Tokens.model_validate(full.json)
    assert full.json == {"tokens": model.tokenize(text), "count": len(model.tokenize(text)), "max_model_len": 512}
    bare = model.tokenize(text, add_special=False)
    for body in ({"prompt": text, "add_special_tokens": False}, {"content": text}):
        assert call(url, "/tokenize", body).json["tokens"] == bare
    assert call(url, "/tokenize", {"content": text, "add_special": True}).json["tokens"] == full.json["tokens"]
    end = model.special_token("eos")
    spelled = {"prompt": model.special_text("eos"), "add_special_tokens": False}
    assert call(url, "/tokenize", spelled).json["tokens"] == [end]
    assert len(call(url, "/tokenize", {**spelled, "parse_special": False}).json["tokens"]) > 1
    pieces = call(url, "/tokenize", {"content": text, "with_pieces": True}).json
    descriptions.Tokens.model_validate(pieces)
    assert [p["id"] for p in pieces["tokens"]] == bare
    chat = call(url, "/tokenize", {"messages": user("Who is Tobi?")}).json["tokens"]
    assert chat == lams.prompt("Who is Tobi?")
    back = call(url, "/detokenize", {"tokens": full.json["tokens"]}).json
    descriptions.Text.model_validate(back)
    assert back == {"prompt": text, "content": text}
    info = call(url, "/tokenizer_info").json
    descriptions.TokenizerInfo.model_validate(info)
    assert (info["bos_token"], info["eos_token"]) == (model.special_text("bos"), model.special_text("eos"))
    for body in ({}, {"prompt": "a", "content": "b"}):
        assert "give one of prompt, content and messages" in call(url, "/tokenize", body).error["message"]
    assert "5000 is not a token id" in call(url, "/detokenize", {"tokens": [1, 5000]}).error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("POST", "/v1/models", 405, "method_not_supported"),
        ("DELETE", "/v1/models/demo", 405, "method_not_supported"),
        ("PUT", "/health", 405, "method_not_supported"),
        ("GET", "/docs", 404, "unknown_url"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "unknown_url"),
        ("GET", "/%80%00", 404, "unknown_url"),
    ],
)
def test_other_urls_and_methods_are_errors_in_openais_form(
    url: str, method: str, path: str, status: int, code: str
) -> None:
    reply = call(url, path, method=method)
    assert (reply.status, reply.error["code"]) == (status, code)


def test_the_description_has_every_route(url: str) -> None:
    assert call(url, "/").headers["content-type"].startswith("text/html")  # the page
    paths = call(url, "/openapi.json").json["paths"]
    assert {"/v1/models", "/v1/models/{name}", "/v1/chat/completions", "/v1/completions", "/health", "/metrics",
            "/tokenize", "/detokenize", "/tokenizer_info", "/pa-lite/state"} <= set(paths)  # fmt: skip
    for path, operations in paths.items():
        for operation in operations.values():
            assert "200" in operation["responses"], path
            assert operation["description"], path
