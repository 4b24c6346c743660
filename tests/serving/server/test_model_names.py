"""Names of models: the served one at any lam with two decimals, and nothing else, least of all a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.http_requests import Reply, call
from tests.support.served import user


def ask(url: str, **named: Any) -> Reply:
    return call(url, "/v1/chat/completions", {"messages": user("Hello"), "max_tokens": 1, **named})


@pytest.mark.parametrize(
    ("named", "model"),
    [
        ({}, "demo@0.6"),
        ({"model": "demo"}, "demo@0.6"),
        ({"model": "demo@0.35"}, "demo@0.35"),
        ({"model": "demo@0.350"}, "demo@0.35"),
        ({"model": "demo@0.354"}, "demo@0.35"),
        ({"model": "demo@0"}, "demo@0"),
        ({"model": "demo@1.0"}, "demo@1"),
        ({"model": "demo", "lam": 0.35}, "demo@0.35"),
        ({"lam": 0.354}, "demo@0.35"),
        ({"lam": 1}, "demo@1"),
        ({"model": "demo@0.35", "lam": 0.35}, "demo@0.35"),
        ({"model": "demo@0.35", "lam": 0.352}, "demo@0.35"),
    ],
)
def test_answers_name_the_model_that_was_asked_for(url: str, named: dict[str, Any], model: str) -> None:
    reply = ask(url, **named)
    assert reply.status == 200
    assert reply.json["model"] == model
    assert f"demo@{reply.json['lam']:g}" == model


@pytest.mark.parametrize(
    "name",
    [
        "", "gpt-4o", "Demo", "demo@", "demo@1.5", "demo@-0.001", "demo@abc", "demo@0.3@0.4", "demo@0,3", "demo@1e-1",
        "demo@٠.5", "demo@0.5 ", "demo@nan", "demo@0:1:0.1", "demo/", "./demo", "../demo@0.5", "/etc/passwd",
        "demo\x00", "@0.5", "file:///etc/passwd", "smollm2-360m", "smollm2-360m@0.5", "x" * 512, "\x1b[31mdemo",
        "demo@0." + "3" * 30,
    ],
)  # fmt: skip
def test_other_names_are_404(url: str, name: str) -> None:
    reply = ask(url, model=name)
    assert reply.status == 404
    assert (reply.error["code"], reply.error["param"]) == ("model_not_found", "model")
    assert "use demo or demo@LAM" in reply.error["message"]
    assert "\x1b" not in reply.error["message"]
    assert call(url, "/tokenize", {"model": name, "prompt": ""}).status == 404
    assert call(url, "/detokenize", {"model": name, "tokens": []}).status == 404


def test_files_that_exist_are_not_models(url: str, tmp_path: Path) -> None:
    for name in (str(Path(__file__)), str(tmp_path), f"{tmp_path}@0.5", "pyproject.toml"):
        assert ask(url, model=name).status == 404


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"model": "demo@0.3", "lam": 0.4}, "model demo@0.3 and lam 0.4 differ"),
        ({"lam": 1.5}, "is outside [0, 1]"),
        ({"lam": -0.5}, "is outside [0, 1]"),
        ({"lam": 11}, "less than or equal to 10"),
        ({"model": 5}, "must be a string"),
        ({"model": "x" * 513}, "at most 512"),
    ],
)
def test_bad_lams_are_400(url: str, named: dict[str, Any], words: str) -> None:
    reply = ask(url, **named)
    assert reply.status == 400
    assert words in reply.error["message"]


def test_the_list_has_every_tenth_and_each_can_be_looked_up(url: str) -> None:
    listed = call(url, "/v1/models").json
    assert listed["object"] == "list"
    names = [m["id"] for m in listed["data"]]
    assert names == ["demo", "demo@0", *(f"demo@0.{i}" for i in range(1, 10)), "demo@1"]
    assert [m["lam"] for m in listed["data"]] == pytest.approx([0.6, *(i / 10 for i in range(11))])
    for entry in listed["data"]:
        assert call(url, f"/v1/models/{entry['id']}").json == entry
    assert call(url, "/v1/models/demo@0.354").json["id"] == "demo@0.35"
    for name in ("x", "demo@2", "..%2f..%2fetc%2fpasswd", "/etc/passwd", "demo@0.5/x"):
        assert call(url, f"/v1/models/{name}").error["code"] == "model_not_found"
