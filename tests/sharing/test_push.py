"""Publishing on the Hub, with the real huggingface_hub client and a Hub on loopback."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

import pa_lite
from pa_lite.errors import CheckpointError, HubError, InputError, PaLiteError
from tests.support.hub_server import LIMITED, TOKEN, WRITER, HubServer

PUBLIC = ["README.md", "chart.svg", "curves.png", "model.Modelfile", "model.gguf", "report.html"]


def held(hub: HubServer, name: str = "org/tuned") -> dict[str, bytes]:
    """Return the files of a repository, without the Hub's own."""
    repo = hub.repos["model", name]
    return {name: content for name, content in repo.commits[repo.refs["main"]].items() if name != ".gitattributes"}


def test_a_folders_model_is_published_and_nothing_else(writer: HubServer, folder: Path) -> None:
    plan = pa_lite.plan_push(folder, "org/tuned")
    assert [file.name for file in plan.files] == PUBLIC
    assert (plan.repo, plan.exists, plan.private) == ("org/tuned", False, False)
    assert plan.url == f"{writer.endpoint}/org/tuned"
    assert set(plan.left_out) == {
        "results.sqlite", "answers.json", "outputs.jsonl.journal", ".secret", "my.csv", "notes.html", "run/",
        "link.png",
    }  # fmt: skip
    assert ("model", "org/tuned") not in writer.repos  # a plan sends nothing
    progress: list[tuple[str, int, int]] = []
    done = pa_lite.push(
        folder, "org/tuned", progress=lambda phase, at, total, _unit: progress.append((phase, at, total))
    )
    repo = writer.repos["model", "org/tuned"]
    assert (done.url, done.commit, repo.is_private) == (plan.url, repo.refs["main"], False)
    assert held(writer) == {name: (folder / name).read_bytes() for name in PUBLIC}
    assert len(repo.commits) == 2  # the Hub's own, and one of ours
    assert progress[-1] == ("commit", plan.size, plan.size)
    assert [at for _, at, _ in progress] == sorted(at for _, at, _ in progress)


def test_what_is_there_already_is_not_sent_again(writer: HubServer, folder: Path) -> None:
    pa_lite.push(folder, "org/tuned", private=True)
    assert writer.repos["model", "org/tuned"].is_private
    sent = len(writer.asked("PUT|commit"))
    plan = pa_lite.plan_push(folder, "org/tuned", private=True)
    assert all(file.is_there for file in plan.files)
    assert (plan.size, plan.exists, plan.private) == (0, True, True)
    assert pa_lite.push(folder, "org/tuned").commit == ""
    assert len(writer.asked("PUT|commit")) == sent


def test_a_single_file_gets_a_model_card_and_keeps_one_that_is_there(writer: HubServer, merged: Path) -> None:
    pa_lite.push(merged, "org/tuned")
    files = held(writer)
    assert sorted(files) == ["README.md", merged.name]
    assert files[merged.name] == merged.read_bytes()
    assert "at lam 0.6" in files["README.md"].decode()
    writer.add("org/own", {"README.md": b"# mine\n", merged.name: merged.read_bytes()})
    assert [file.name for file in pa_lite.plan_push(merged, "org/own", force=True).files] == [merged.name]


def test_large_files_are_sent_in_parts(writer: HubServer, merged: Path) -> None:
    writer.part_size = 500_000
    pa_lite.push(merged, "org/tuned")
    assert held(writer)[merged.name] == merged.read_bytes()
    assert len(writer.asked("PUT storage /upload/.*/[0-9]+$")) == -(-merged.stat().st_size // 500_000)


def test_a_lost_connection_is_an_error_and_the_next_push_continues(writer: HubServer, folder: Path) -> None:
    second = folder / "second.gguf"
    second.write_bytes((folder / "model.gguf").read_bytes()[:-1] + b"x")
    lost = writer.fail("drop", "PUT storage", times=99, skip=1)
    with pytest.raises(
        HubError, match=r"org/tuned: the upload failed \(.*\)\. Run the same command again: what arrived"
    ):
        pa_lite.push(folder, "org/tuned")
    assert held(writer) == {}  # nothing half-published
    lost.times = 0
    before = len(writer.asked("PUT storage"))
    pa_lite.push(folder, "org/tuned")
    assert len(writer.asked("PUT storage")) - before == 1  # the first file had arrived
    assert held(writer)["second.gguf"] == second.read_bytes()


@pytest.mark.parametrize("what", ["POST hub /api/repos/create", "preupload", "objects/batch", "PUT storage", "verify"])
def test_passing_faults_are_retried(writer: HubServer, merged: Path, impatient: None, what: str) -> None:
    writer.fail("status", what, status=503)
    pa_lite.push(merged, "org/tuned")
    assert held(writer)[merged.name] == merged.read_bytes()


def test_a_failed_commit_publishes_nothing_and_says_how_to_go_on(writer: HubServer, merged: Path) -> None:
    writer.fail("status", "/commit/", status=500, times=9)
    with pytest.raises(HubError, match=r"the upload failed \(HTTP 500\)\. Run the same command again"):
        pa_lite.push(merged, "org/tuned")
    assert held(writer) == {}


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (
            "",
            r"org/tuned: uploading requires a token: log in with 'hf auth login', or set HF_TOKEN to a token",
        ),
        ("hf_wrong", r"org/tuned: the Hub does not know the token: log in"),
        (TOKEN, r"org/tuned: the token can only read: log in"),
        (LIMITED, r"org/tuned: the token may not write to org: check the name, or log in"),
    ],
)
def test_tokens_without_write_access_are_one_error(
    writer: HubServer, merged: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(HubError, match=message) as caught:
        pa_lite.push(merged, "org/tuned")
    assert not token or token not in str(caught.value)
    assert ("model", "org/tuned") not in writer.repos
    assert not writer.asked("PUT")


def test_another_owner_is_refused_before_anything_is_sent(writer: HubServer, merged: Path) -> None:
    with pytest.raises(HubError, match=r"else/tuned: the token may not write to else: check the name"):
        pa_lite.push(merged, "else/tuned")
    writer.add("else/theirs", {merged.name: merged.read_bytes()})
    with pytest.raises(HubError, match=r"else/theirs: the token may not write to else"):
        pa_lite.push(merged, "else/theirs")
    assert not writer.asked("PUT|POST.*/commit/")


def test_a_repository_with_other_content_is_refused_unless_forced(writer: HubServer, merged: Path) -> None:
    writer.add("org/theirs", {"model.safetensors": b"other", merged.name: b"other"})
    with pytest.raises(
        InputError, match=r"org/theirs exists with other content \(another demo-0.6.gguf, model.safetensors\)"
    ):
        pa_lite.push(merged, "org/theirs")
    assert held(writer, "org/theirs")[merged.name] == b"other"
    pa_lite.push(merged, "org/theirs", force=True)
    files = held(writer, "org/theirs")
    assert files[merged.name] == merged.read_bytes()
    assert files["model.safetensors"] == b"other"


def test_private_does_not_publish_to_a_public_repository(writer: HubServer, merged: Path) -> None:
    writer.add("org/open", {merged.name: merged.read_bytes()})
    with pytest.raises(InputError, match=r"org/open exists and is public: --private is for new repositories"):
        pa_lite.push(merged, "org/open", private=True)


@pytest.mark.parametrize(
    "name", ["name", "org/", "/name", "a/b/c", "org/na me", "org/name@main", "org/..", "org/a--b", "o\x1b/n"]
)
def test_names_that_are_not_repositories_are_refused(writer: HubServer, merged: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not a valid repository name; write org/name"):
        pa_lite.push(merged, name)
    assert not writer.requests


def test_paths_without_a_model_are_refused(writer: HubServer, tmp_path: Path, merged: Path) -> None:
    for path, error, message in (
        (tmp_path / "none", InputError, "none: does not exist. Name a GGUF file, or a folder with one"),
        (tmp_path, InputError, "has no GGUF file"),
    ):
        with pytest.raises(error, match=message):
            pa_lite.push(path, "org/tuned")
    (tmp_path / "cut.gguf").write_bytes(merged.read_bytes()[:-1000])
    for path in (tmp_path / "cut.gguf", tmp_path):
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            pa_lite.push(path, "org/tuned")
    assert not writer.requests


def test_a_readme_that_the_hub_refuses_is_named(writer: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: [mit\n---\n", "utf-8")
    with pytest.raises(PaLiteError, match=r"README\.md: the Hub refuses it: .*license must be a string"):
        pa_lite.push(folder, "org/tuned")


def test_offline_and_without_network_nothing_is_published(
    writer: HubServer, merged: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(HubError, match=r"cannot be uploaded to offline: HF_HUB_OFFLINE is set\. Unset it"):
            pa_lite.push(merged, "org/tuned")
    assert not writer.requests
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        pa_lite.push(merged, "org/tuned")


def test_the_token_goes_only_to_the_hub_and_into_no_log(
    writer: HubServer, merged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        pa_lite.push(merged, "org/tuned")
        writer.fail("status", "whoami", status=500, times=9, body=WRITER.encode())
    assert WRITER not in caplog.text
    assert all(re.search(WRITER, str(request.headers)) is None for request in writer.asked(" storage "))
    assert all(WRITER in str(request.headers) for request in writer.asked("POST hub"))
