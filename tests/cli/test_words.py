"""Words that people try: `help`, `version`, one dash, other spellings, names as commands, options before commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pa_lite
from pa_lite.errors import InputError
from pa_lite.tasks.spec import split_names
from tests.cli.test_cli import run


@pytest.mark.parametrize(
    ("words", "same"),
    [
        (["help"], ["--help"]),
        (["help", "merge"], ["merge", "--help"]),
        (["--debug", "help", "merge"], ["merge", "--help"]),
        (["help", "pairs", "show"], ["pairs", "show", "--help"]),
        (["pairs", "help"], ["pairs", "--help"]),
        (["version"], ["--version"]),
        (["-V"], ["--version"]),
        (["pairs", "demo"], ["pairs", "show", "demo"]),
        (["pairs", "demo", "--json"], ["pairs", "show", "demo", "--json"]),
        (["pairs", "--json", "show", "demo"], ["pairs", "show", "demo", "--json"]),
        (["tasks", "demo_town"], ["tasks", "show", "demo_town"]),
        (["tasks", "--json", "show", "demo_town"], ["tasks", "show", "demo_town", "--json"]),
        (["tasks", "--json", "demo_town", "--item", "2"], ["tasks", "show", "demo_town", "--item", "2", "--json"]),
        (["diff", "--pair", "demo", "--json"], ["diff", "demo", "--json"]),
        (["diff", "--pair=demo", "--json"], ["diff", "demo", "--json"]),
    ],
)  # fmt: skip
def test_words_with_the_same_output(capsys: pytest.CaptureFixture[str], words: list[str], same: list[str]) -> None:
    status, out, err = run(capsys, *words)
    assert (status, err) == (0, "")
    assert out == run(capsys, *same)[1]


def test_json_before_list_is_passed_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    names = [entry["name"] for words in (["pairs", "--json", "list"], ["pairs", "--json", "ls"])
             for entry in json.loads(run(capsys, *words)[1])]  # fmt: skip
    assert names == [*pa_lite.pairs()] * 2


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["-help"], "unknown option -help. Did you mean --help?\nSee: pa-lite --help"),
        (["merge", "-lam", "0.7"], "unknown option -lam. Did you mean --lam?\nSee: pa-lite merge --help"),
        (["merge", "-lam=0.7"], "unknown option -lam. Did you mean --lam?\nSee: pa-lite merge --help"),
        (["merge", "-lamm", "0.7"], "unknown option -lamm. Did you mean --lam?\nSee: pa-lite merge --help"),
        (["sweep", "demo", "--follow", "-lam"], "unknown option -lam. Did you mean --lam?\nSee: pa-lite sweep --help"),
        (["pairs", "show", "-json"], "unknown option -json. Did you mean --json?\nSee: pa-lite pairs show --help"),
        (["merge", "-qq"], "unknown option -qq.\nSee: pa-lite merge --help"),
        (["merge"], "missing --lam, for example --lam 0.7. `pa-lite sweep` finds a good one.\n"
                    "See: pa-lite merge --help"),
        (["marge"], "unknown command 'marge'. Did you mean merge?\nSee: pa-lite --help"),
        (["quux"], "unknown command 'quux'.\nSee: pa-lite --help"),
        (["pairs", "demos"], "unknown command 'demos'. Did you mean demo?\nSee: pa-lite pairs --help"),
        (["pairs", "memory"], "unknown command 'memory'.\nSee: pa-lite pairs --help"),
        (["score", "m.gguf", "--tasks", "demo", "--seeds", "1.5"],
         "invalid value for '--seeds': '1.5' is not a valid integer.\nSee: pa-lite score --help"),
        (["tasks", "ls"], "unknown command 'ls'.\nSee: pa-lite tasks --help"),
        (["tasks", "demo_twon"], "unknown command 'demo_twon'. Did you mean demo_town?\nSee: pa-lite tasks --help"),
    ],
)  # fmt: skip
def test_wrong_words_are_errors_of_usage(capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    first, *rest = f"error: {error}".splitlines()
    got, *more = err.splitlines()
    assert got == first or got.startswith(f"{first[:-1]} or ")
    assert more == rest


def test_a_value_with_one_dash_is_not_an_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text('[{"instruction": "Where does Ann live?"}]')
    words = ["generate", "demo@0.7", "--prompts", tmp_path / "prompts.json", "--max-tokens", "4", "--stop", "-resume"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert len(json.loads(out)) == 1


def test_debug_is_taken_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["merge", "--lam", "x", "--debug"], ["merge", "--debug", "--lam", "x"]):
        status, _, err = run(capsys, *words)
        assert status == 1
        assert "Traceback" in err
        assert "error: " in err.splitlines()[-1]
    assert run(capsys, "inspect", "--", "--debug")[0] == 1


def test_rm_removes_a_pair(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pa_lite.checkpoints.pairs.config_folder", lambda: tmp_path)
    pa_lite.add_pair("mine", "org/Base", "org/Instruct")
    status, out, _ = run(capsys, "pairs", "rm", "mine")
    assert status == 0
    assert out.startswith("mine was removed")
    assert "mine" not in pa_lite.pairs()


def test_a_pair_may_have_the_name_of_an_alias(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pa_lite.checkpoints.pairs.config_folder", lambda: tmp_path)
    pa_lite.add_pair("rm", "org/Base", "org/Instruct")
    assert run(capsys, "pairs", "rm", "rm")[0] == 0
    assert "rm" not in pa_lite.pairs()


@pytest.mark.parametrize("command", ["sweep", "search"])
def test_lams_and_pair_are_taken_by_studies(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--tasks", "demo_town,,demo_kind,", "--limit", "4", "--dry-run", "--json"]
    status, out, _ = run(capsys, command, "--pair", "demo", "--lams", "0:1:0.5", *options)
    assert status == 0
    plan = json.loads(out)
    usual = ["demo", "--lam", "0,0.5,1", "--tasks", "demo_town,demo_kind", *options[2:]]
    other = json.loads(run(capsys, command, *usual)[1])
    assert (plan["cells"], plan["items"]) == (other["cells"], other["items"])


def test_empty_entries_of_a_list_are_skipped() -> None:
    assert split_names("a,,b, ,") == ("a", "b")
    assert split_names(["a", "b"]) == ("a", "b")
    for empty in ("", ",", " , "):
        with pytest.raises(InputError, match=r"^tasks: the list '[, ]*' has no names"):
            split_names(empty)


def test_an_empty_list_of_tasks_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["score", "demo@0.5"], ["sweep", "demo"]):
        status, _, err = run(capsys, *words, "--tasks", ",")
        assert (status, err) == (1, "error: tasks: the list ',' has no names.\n")
