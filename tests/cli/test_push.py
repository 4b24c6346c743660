"""The command `push`: what it shows, asks and prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.sharing.conftest import folder, merged, writer  # noqa: F401 - fixtures
from tests.support.hub_server import WRITER, HubServer


def test_push_lists_and_publishes_with_consent(
    capsys: pytest.CaptureFixture[str], writer: HubServer, folder: Path  # noqa: F811
) -> None:  # fmt: skip
    status, out, err = run(capsys, "push", folder, "org/tuned", "--dry-run")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "org/tuned: public (new), licence not known"
    assert lines[1].startswith("  README.md  0.0 MB")
    assert lines[-1].startswith("not published: .secret, answers.json, ")
    assert ("model", "org/tuned") not in writer.repos
    status, out, err = run(capsys, "push", folder, "org/tuned")
    assert status == 2
    assert "error: publishing needs your consent: add --yes." in err
    assert ("model", "org/tuned") not in writer.repos
    status, out, err = run(capsys, "push", folder, "org/tuned", "--private", "--yes")
    assert status == 0
    assert out.splitlines()[0] == "org/tuned: private (new), licence not known"
    assert out.splitlines()[-1] == f"{writer.endpoint}/org/tuned"
    assert err.splitlines()[-1] == "use it: llama-server -hf org/tuned"
    assert WRITER not in out + err
    status, out, err = run(capsys, "push", folder, "org/tuned")  # nothing left to publish, so nothing to ask
    assert status == 0
    assert "README.md  0.0 MB  (there already)" in out
    assert "note: everything was there already." in err


def test_push_as_json(capsys: pytest.CaptureFixture[str], writer: HubServer, merged: Path) -> None:  # noqa: F811
    status, out, _ = run(capsys, "push", merged, "org/one", "--yes", "--json")
    found = json.loads(out)
    assert (status, found["repo"], found["private"]) == (0, "org/one", False)
    assert [file["name"] for file in found["files"]] == [merged.name, "README.md"]
    assert found["commit"] == writer.repos["model", "org/one"].refs["main"]


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_push_asks_on_a_terminal(
    capsys: pytest.CaptureFixture[str], writer: HubServer, merged: Path, monkeypatch: pytest.MonkeyPatch, answer: str  # noqa: F811
) -> None:  # fmt: skip
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(answer))
    status, _, err = run(capsys, "push", merged, "org/one")
    assert status == 130
    assert f"Publish this as {writer.endpoint}/org/one?" in err
    assert ("model", "org/one") not in writer.repos
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert run(capsys, "push", merged, "org/one")[0] == 0
    assert ("model", "org/one") in writer.repos


def test_errors_are_one_line_and_never_show_the_token(
    capsys: pytest.CaptureFixture[str], writer: HubServer, merged: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "hf_limited")
    for words in (["push", merged, "org/one", "--yes"], ["--debug", "push", merged, "org/one", "--yes"]):
        status, out, err = run(capsys, *words)
        assert status == 1
        assert "error: hub:org/one: the token may not write to org: check the name, or log in" in err
        assert "hf_limited" not in out + err
