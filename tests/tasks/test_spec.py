from __future__ import annotations

import re
from pathlib import Path

import pytest

from pa_lite.errors import InputError
from pa_lite.tasks.prompts import data_path
from pa_lite.tasks.spec import find_tasks, load_suite_file, suites

GOOD = '[tasks.mine]\ndata = "rows.jsonl"\ntemplate = "{{ query }}"\n'


def test_every_suite_loads_and_has_its_data() -> None:
    for specs in suites().values():
        for spec in specs:
            assert data_path(spec).is_file()
            assert spec.description


def test_names_of_suites_tasks_and_files(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(GOOD, "utf-8")
    found = [s.name for s in find_tasks(["demo_job", str(path), "demo"])]
    assert found[:2] == ["demo_job", "mine"]
    assert sorted([*found[2:], "demo_job"]) == sorted(s.name for s in suites()["demo"])


def test_defaults_and_own_keys(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[defaults]\nshots = 3\narea = "x"\n' + GOOD + "shots = 5\n", "utf-8")
    (spec,) = load_suite_file(path)
    assert (spec.shots, spec.area, spec.separator, spec.folder) == (5, "x", "\n\n", tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = ", "is no TOML"),
        ("x = 1", "has no [tasks.NAME]"),
        ("tasks = 1", "has no [tasks.NAME]"),
        (GOOD + "shot = 3", "unknown key 'shot'. Did you mean shots"),
        (GOOD + 'shots = "3"', "shots must be a number"),
        (GOOD + "split = 3", "split must be a text"),
        (GOOD + "shots = -1", "shots is -1"),
        (GOOD + 'kind = "XX"', "unknown kind 'XX'"),
        ('[tasks.mine]\ndata = "x"', "has no 'template'"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=re.escape(told)):
        load_suite_file(path)


def test_unknown_names_suggest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown task or suite 'demo_jop'\. Did you mean demo_job"):
        find_tasks(["demo_jop"])
    with pytest.raises(InputError, match="cannot be read"):
        find_tasks([str(tmp_path / "no.toml")])
