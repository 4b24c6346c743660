"""Fixtures of uploads: a token that writes, LFS instead of Xet, and no waits between huggingface_hub's tries."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import pa_lite
from tests.support.hub_server import WRITER, HubServer


@pytest.fixture
def writer(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A Hub whose token in the environment may write to `org`."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the loopback Hub has only LFS
    quick = SimpleNamespace(**{**vars(time), "sleep": lambda _seconds: None})
    monkeypatch.setattr(_http, "time", quick)
    return hub


@pytest.fixture(scope="session")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pair at lam 0.6, as a file that no test changes."""
    return pa_lite.merge("demo", lam=0.6, type="Q4_0", output=tmp_path_factory.mktemp("merged") / "demo-0.6.gguf")


@pytest.fixture
def folder(tmp_path: Path, merged: Path) -> Path:
    """A folder as `tune` writes it, with files that must stay here."""
    here = tmp_path / "tuned"
    here.mkdir()
    (here / "model.gguf").write_bytes(merged.read_bytes())
    (here / "model.Modelfile").write_text("FROM ./model.gguf\n", "utf-8")
    (here / "README.md").write_text("---\nlicense: mit\n---\n# mine\n", "utf-8")
    for name in ("report.html", "curves.png", "chart.svg"):
        (here / name).write_bytes(f"content of {name}".encode())
    for name in ("results.sqlite", "answers.json", "outputs.jsonl.journal", ".secret", "my.csv", "notes.html"):
        (here / name).write_text("private", "utf-8")
    (here / "run").mkdir()
    (here / "run/chart.svg").write_text("private", "utf-8")
    (tmp_path / "outside.png").write_text("private", "utf-8")
    (here / "link.png").symlink_to(tmp_path / "outside.png")
    return here
