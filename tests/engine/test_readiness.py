"""What `doctor` says of compiler, processor, memory, the Hub and optional packages, and its verdict."""

from __future__ import annotations

import importlib.util
import platform
import socket
from pathlib import Path

import pytest

from pa_lite.checkpoints.hub.status import HubStatus, hub_status
from pa_lite.checkpoints.pairs import all_pairs
from pa_lite.engine.doctor import diagnose
from pa_lite.engine.readiness import (
    NOTE,
    OK,
    PROBLEM,
    Check,
    check_compiler,
    check_extras,
    check_hub,
    check_pairs,
    check_processor,
    processor_flags,
    verdict,
)  # fmt: skip
from tests.support.hub_server import HubServer


def test_a_missing_compiler_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    found = check_compiler()
    assert (found.status, found.found) == (NOTE, "none")
    assert "build-essential" in found.advice
    (tmp_path / "g++").write_text("#!/bin/sh\n", "utf-8")
    (tmp_path / "g++").chmod(0o755)
    assert check_compiler() == Check(name="compiler", status=OK, found="g++")


@pytest.mark.parametrize(
    ("build", "flags", "status"),
    [
        ("AVX = 1 | AVX2 = 1 |", frozenset({"avx", "avx2"}), OK),
        ("AVX = 1 | AVX2 = 1 |", None, OK),
        ("AVX = 1 |", frozenset({"avx", "avx2"}), NOTE),
        ("AVX2 = 1 |", frozenset({"avx"}), NOTE),
    ],
)
def test_processor_and_build_are_compared(
    monkeypatch: pytest.MonkeyPatch, build: str, flags: frozenset[str] | None, status: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    found = check_processor(build, flags)
    assert found is not None
    assert found.status == status
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert check_processor(build, flags) is None


def test_flags_are_those_of_this_processor() -> None:
    flags = processor_flags()
    assert flags is None or "fpu" in flags or "fp" in flags or not flags


def test_pairs_are_counted_by_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    known = all_pairs()
    monkeypatch.setattr("pa_lite.checkpoints.pairs.available_memory", lambda: 4 << 30)
    small = check_pairs(known)
    monkeypatch.setattr("pa_lite.checkpoints.pairs.available_memory", lambda: 1 << 20)
    assert small.status == OK
    assert "registered pairs fit; the largest is" in small.found
    assert check_pairs(known).status == NOTE


def test_the_hub_is_asked_and_its_token_is_not_sent(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = hub_status()
    assert (found.endpoint, found.answers, found.has_token) == (hub.endpoint, True, True)
    assert all("Authorization" not in request.headers for request in hub.requests)
    assert check_hub(found).status == OK
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_status().answers is None
    assert "offline" in check_hub(hub_status()).found


def test_a_hub_that_does_not_answer_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # bound but not listening
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        found = check_hub(hub_status(timeout=0.5))
    assert found.status == NOTE
    assert "cannot be reached" in found.found


def test_gated_models_require_a_login() -> None:
    status = HubStatus(endpoint="https://huggingface.co", answers=True, reason="", has_token=False)
    assert "hf auth login" in check_hub(status).advice


def test_missing_extras_name_their_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert [c.found for c in check_extras() if "pip install 'pa-lite[" not in c.found] == []


def test_the_verdict_is_one_sentence() -> None:
    ok, note, problem = (Check(name=s, status=s, found="x") for s in (OK, NOTE, PROBLEM))
    assert verdict([ok], "8B as Q8_0") == "Ready: pa-lite works on this machine and models up to 8B as Q8_0 fit."
    assert verdict([ok, note], "").endswith("only small models fit, with 1 remark (note).")
    assert verdict([note, problem], "").startswith("Not ready: problem")
    assert diagnose().verdict.startswith("Ready: ")
