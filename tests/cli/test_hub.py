"""Commands on the Hub and on pairs, as users run them: output, files, and one error line for each bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pa_lite.ggml.container import read_gguf_header
from tests.cli.test_cli import run
from tests.support.hub_server import HubServer

PAIR = ("hub:org/Tiny", "hub:org/Tiny-Instruct")


@pytest.fixture
def published(
    hub: HubServer, tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> HubServer:
    for reference, folder in zip(PAIR, tiny_pair, strict=True):
        hub.add(reference.removeprefix("hub:"), folder)
    monkeypatch.chdir(tmp_path)
    return hub


def test_merge_from_the_hub(capsys: pytest.CaptureFixture[str], published: HubServer, tmp_path: Path) -> None:
    status, out, err = run(capsys, "merge", *PAIR, "--lam", "0.7", "--stream")
    assert (status, out) == (0, "Tiny-Instruct-pa0.70-Q8_0.gguf\n"), err
    streamed = (tmp_path / out.strip()).read_bytes()
    assert run(capsys, "pairs", "add", "mine", *PAIR)[0] == 0
    status, out, err = run(capsys, "merge", "--pair", "mine", "--lam", "0.7", "--force")
    assert (status, out) == (0, "Tiny-Instruct-pa0.70-Q8_0.gguf\n"), err
    assert (tmp_path / out.strip()).read_bytes() == streamed


def test_a_dry_run_fetches_no_weights(capsys: pytest.CaptureFixture[str], published: HubServer) -> None:
    status, out, _ = run(capsys, "merge", *PAIR, "--lam", "0.7", "--dry-run", "--json")
    assert status == 0
    assert json.loads(out)["problems"] == []
    assert "MB of weights are downloaded first from the Hub" in json.loads(out)["remarks"][-1]
    assert all(r.headers["Range"].startswith("bytes=0-") for r in published.asked("GET storage"))


def test_refusals_come_before_the_download(
    capsys: pytest.CaptureFixture[str], published: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "there.gguf").touch()
    status, _, err = run(capsys, "merge", *PAIR, "--lam", "0.7", "-o", "there.gguf")
    assert status == 1
    assert "there.gguf: exists already" in err
    status, _, err = run(capsys, "merge", *PAIR, "--lam", "0.7", "--type", "Q9_0")
    assert status == 1
    assert "unknown output type" in err
    assert all(r.headers["Range"].startswith("bytes=0-") for r in published.asked("GET storage"))


def test_inspect_and_diff_of_checkpoints_on_the_hub(
    capsys: pytest.CaptureFixture[str], published: HubServer, tiny_pair: tuple[Path, Path]
) -> None:
    status, out, _ = run(capsys, "inspect", PAIR[0], "--json")
    assert status == 0
    assert json.loads(out)["name"] == "Tiny"
    assert json.loads(out)["parameters"] == json.loads(run(capsys, "inspect", tiny_pair[0], "--json")[1])["parameters"]
    local = run(capsys, "diff", *tiny_pair, "--json", "--threads", "1")[1]
    assert run(capsys, "diff", *PAIR, "--json", "--threads", "1", "--stream")[1] == local
    assert run(capsys, "diff", *PAIR, "--json", "--threads", "1")[1] == local


def test_a_pair_at_a_lam_is_scored(capsys: pytest.CaptureFixture[str], published: HubServer, tmp_path: Path) -> None:
    assert run(capsys, "pairs", "add", "mine", *PAIR)[0] == 0
    (tmp_path / "prompts.json").write_text(json.dumps([{"instruction": "Hello"}]), "utf-8")
    status, out, err = run(capsys, "generate", "mine@0.5", "--prompts", "prompts.json", "--max-tokens", "2")
    assert status == 0, err
    assert json.loads(out)[0]["generator"] == "mine@0.5"


def test_pairs(capsys: pytest.CaptureFixture[str], published: HubServer) -> None:
    status, out, _ = run(capsys, "pairs")
    assert status == 0
    assert "llama-3.1-8b" in out
    assert "32.1 GB" in out
    status, out, _ = run(capsys, "pairs", "add", "mine", *PAIR, "--description", "my own")
    assert (status, out.split()[0]) == (0, "mine")
    document = {d["name"]: d for d in json.loads(run(capsys, "pairs", "--json")[1])}
    assert document["mine"]["base"] == PAIR[0]
    assert document["mine"]["here"] is False
    assert document["qwen2.5-7b"]["gated"] is False
    status, out, err = run(capsys, "pairs", "fetch", "mine")
    assert (status, err) == (0, "")
    assert [(Path(line) / "config.json").is_file() for line in out.split()] == [True, True]
    assert json.loads(run(capsys, "pairs", "show", "mine", "--json")[1])["here"] is True
    status, out, _ = run(capsys, "pairs", "show", "gemma-2-2b")
    assert status == 0
    assert "hub:google/gemma-2-2b-it" in out
    assert "2,614,341,888" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("merge", "hub:org/none", PAIR[1], "--lam", "0.7"), "hub:org/none: this model does not exist or is private."),
        (("merge", PAIR[0], PAIR[1] + "@v3", "--lam", "0.7"), "org/Tiny-Instruct@v3: this revision does not exist."),
        (("merge", "hub:org/gated", PAIR[1], "--lam", "0.7", "--stream"), "is gated. Accept its licence at http"),
        (("merge", "hub:org/empty", PAIR[1], "--lam", "0.7"), "hub:org/empty: has neither"),
        (("merge", "hub:org/pickle", PAIR[1], "--lam", "0.7", "--stream"), "its weights are pickles"),
        (("merge", "hub:org", PAIR[1], "--lam", "0.7"), "'hub:org' is not a Hub reference; write hub:org/name"),
        (("merge", PAIR[0], "--lam", "0.7"), "give both BASE and INSTRUCT"),
        (("inspect", "hub:org/empty"), "has neither model*.safetensors nor .gguf files"),
        (("diff", PAIR[0], "hub:org/none"), "this model does not exist or is private"),
        (("pairs", "show", "llama-3.1-8"), "unknown pair 'llama-3.1-8'. Did you mean llama-3.1-8b"),
        (("pairs", "fetch", "nothing"), "unknown pair 'nothing'"),
        (("pairs", "add", "demo", *PAIR), "pair demo comes with pa-lite. Choose another name."),
        (("score", "hub:org/Tiny@0.5", "--tasks", "demo"), "unknown pair 'hub:org/Tiny'"),
    ],
)
def test_bad_input_is_one_error_line(
    capsys: pytest.CaptureFixture[str], published: HubServer, words: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    published.add("org/empty", {"config.json": b"{}"})
    published.add("org/pickle", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    published.add("org/gated", {"config.json": b"{}", "model.safetensors": b"x"}, gated=True)
    status, out, err = run(capsys, *words)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_offline_and_out_of_reach(
    capsys: pytest.CaptureFixture[str], published: HubServer, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, _, err = run(capsys, "merge", *PAIR, "--lam", "0.7")
    assert status == 1
    assert "hub:org/Tiny: is not in the cache" in err
    assert err.count("\n") == 1
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    status, _, err = run(capsys, "merge", *PAIR, "--lam", "0.7", "--stream")
    assert status == 1
    assert err.startswith("error: hub:org/Tiny: http://127.0.0.1:9 cannot be reached")
    assert err.count("\n") == 1


def test_downloaded_pairs_work_offline(
    capsys: pytest.CaptureFixture[str], published: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, "merge", *PAIR, "--lam", "0.7")[0] == 0
    published.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run(capsys, "merge", *PAIR, "--lam", "0.7", "--force", "--stream")[0] == 0
    assert run(capsys, "merge", *PAIR, "--lam", "0.7", "--force")[0] == 0
    assert published.requests == []


def test_commands_ask_the_hub_for_what_they_need_and_tell_it_nothing_else(published: HubServer, tmp_path: Path) -> None:
    """Run in a separate process: huggingface_hub reads its environment once. Telemetry would request other paths."""
    told = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    command = [sys.executable, "-m", "pa_lite", "merge", *PAIR, "--lam", "0.5", "-o", "x.gguf"]
    subprocess.run(command, env=told, check=True, capture_output=True, cwd=tmp_path)
    assert len(published.asked("hub /.*org/Tiny")) > 4
    assert [r.path for r in published.asked("hub /") if "/org/Tiny" not in r.path] == []


def test_a_name_that_is_nowhere_is_said_to_be_nowhere(
    capsys: pytest.CaptureFixture[str], published: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, err = run(capsys, "inspect", "org/Nothing")
    assert status == 1
    assert err.startswith("error: org/Nothing: is not a folder here, and this model does not exist or is private.")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, _, err = run(capsys, "inspect", "org/Nothing")
    assert (status, "org/Nothing: is not a folder here, and is not in the cache" in err) == (1, True)
    assert "hub:org/Nothing: is not in the cache" in run(capsys, "inspect", "hub:org/Nothing")[2]


def test_a_merged_file_names_its_sources_and_licence(
    capsys: pytest.CaptureFixture[str], published: HubServer, tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    cards = ("license: apache-2.0", 'license: other\nlicense_name: "tiny-licence"\nlicense_link: https://example.org/l')
    for folder, card in zip(tiny_pair, cards, strict=True):
        (folder / "README.md").write_text(f"---\n{card}\ntags: [x]\n---\n# Model\nlicense: no\n", "utf-8")
    try:
        for reference, folder in zip(PAIR, tiny_pair, strict=True):
            published.add(reference.removeprefix("hub:"), folder)
        assert run(capsys, "merge", *PAIR, "--lam", "0.5", "-o", "m.gguf")[0] == 0
    finally:
        for folder in tiny_pair:
            (folder / "README.md").unlink()
    values = {k: e.value for k, e in read_gguf_header(tmp_path / "m.gguf").metadata.items()}
    assert values["general.license"] == "other"
    assert values["general.license.name"] == "base: apache-2.0; instruct: tiny-licence"
    assert values["general.base_model.1.repo_url"] == "https://huggingface.co/org/Tiny-Instruct"
    assert values["general.base_model.0.organization"] == "org"
    assert values["general.tags"] == ["merge", "pa-lite", "partial-adaptation"]
    shown = json.loads(run(capsys, "inspect", "m.gguf", "--json")[1])
    assert shown["licence"] == "other, base: apache-2.0; instruct: tiny-licence"
    again = json.loads(run(capsys, "merge", "m.gguf", "m.gguf", "--lam", "0.5", "-o", "n.gguf", "--json")[1])
    values = {k: e.value for k, e in read_gguf_header(Path(again[0]["path"])).metadata.items()}
    assert values["general.license.name"] == "base: apache-2.0; instruct: tiny-licence"
