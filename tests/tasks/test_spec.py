from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pa_lite.errors import InputError
from pa_lite.tasks.data import data_path
from pa_lite.tasks.spec import find_tasks, load_suite_file, suite_descriptions, suites

GOOD = '[tasks.mine]\ndata = "rows.jsonl"\ntemplate = "{{ query }}"\n'


def test_every_suite_loads_and_has_a_source_of_rows() -> None:
    assert all(suite_descriptions().values())
    for specs in suites().values():
        for spec in specs:
            assert spec.description
            assert spec.hub or data_path(spec, str(spec.data)).is_file()
            assert bool(spec.hub) == bool(spec.licence and spec.rows)


def test_the_21_tasks() -> None:
    specs = {s.name: s for s in suites()["icl21"]}
    kinds = [s.kind for s in specs.values()]
    assert (len(specs), kinds.count("MC"), kinds.count("FMC"), kinds.count("G")) == (21, 12, 3, 6)
    assert {s.area for s in specs.values()} == {"GK", "CS", "LU", "SY", "RC", "FI"}
    assert specs["bbh"].configs == tuple(specs["bbh"].texts)
    quick = suites()["quick"]
    assert [(s.name, s.sample) for s in quick] == [(name, 40) for name in specs]
    assert [replace(s, sample=0) for s in quick] == list(specs.values())


def test_the_extraction_suite_is_not_part_of_the_21() -> None:
    specs = suites()["extraction"]
    assert {(s.area, s.kind, s.sample, s.metrics) for s in specs} == {
        ("EX", "G", 1000, ("set_f1", "set_em", "set_partial_f1"))
    }
    assert not {s.name for s in specs} & {s.name for s in suites()["icl21"]}


def test_names_of_groups_and_of_a_task_in_two_suites() -> None:
    (snarks,) = find_tasks(["bbh/snarks"])
    assert (snarks.name, snarks.configs, snarks.only) == ("bbh/snarks", ("snarks",), "snarks")
    assert find_tasks(["mmlu/anatomy"])[0].only == "anatomy"
    assert [s.sample for s in find_tasks(["piqa", "commonsense"])] == [0] * 7
    assert find_tasks(["quick"])[0].sample == 40
    with pytest.raises(InputError, match=r"task bbh has no group 'snark'\. Did you mean snarks"):
        find_tasks(["bbh/snark"])
    with pytest.raises(InputError, match="unknown task or suite 'piqa/x'"):
        find_tasks(["piqa/x"])
    with pytest.raises(InputError, match="quick: task piqa is requested twice with different settings"):
        find_tasks(["piqa", "quick"])


def test_names_of_suites_tasks_and_files(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(GOOD, "utf-8")
    found = [s.name for s in find_tasks(["demo_job", str(path), "demo"])]
    assert found[:2] == ["demo_job", "mine"]
    assert sorted([*found[2:], "demo_job"]) == sorted(s.name for s in suites()["demo"])


def test_a_tasks_keys_override_defaults(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[defaults]\nshots = 3\narea = "x"\n' + GOOD + "shots = 5\n", "utf-8")
    (spec,) = load_suite_file(path)
    assert (spec.shots, spec.area, spec.separator, spec.folder) == (5, "x", "\n\n", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "is not TOML"),
        ("x = 1", "unknown key 'x'"),
        ("[defaults]\nshots = 1", "has no [tasks.NAME]"),
        ("[tasks]\nmine = 1", "task mine: is not a table"),
        ('include = ["knowlege"]', "unknown suite 'knowlege'. Did you mean knowledge"),
        ('include = ["' + "x" * 3000 + '"]', "unknown suite"),
        ("include = 3", "'include' must be a list of strings, not 3"),
        ('include = ["demo"]\n[override]\nshots = "1"', "[override]: 'shots' must be an integer"),
        (
            'include = ["demo"]\n[defaults]\nshots = 1',
            "with include may have [override], but not [tasks] or [defaults]",
        ),
        (GOOD + "[override]\nshots = 1", "[override] needs include"),
        ("tasks = 1", "'tasks' must be a table, not 1"),
        (GOOD + "shot = 3", "unknown key 'shot'. Did you mean shots"),
        (GOOD + 'shots = "3"', "task mine: 'shots' must be an integer, not '3'"),
        (GOOD + "split = 3", "'split' must be a string"),
        (GOOD + "shots = -1", "shots is -1"),
        (GOOD + 'kind = "XX"', "unknown kind 'XX'"),
        ('[tasks.mine]\ndata = "x"', "has no 'template'"),
        ('[tasks.mine]\ntemplate = "x"', "has neither 'data' nor 'hub'"),
        (GOOD + 'hub = "a/b"', "has both 'data' and 'hub'"),
        (GOOD + 'transforms = ["drp"]', "unknown transform 'drp'. Did you mean drop"),
        (GOOD + 'metrics = ["f1"]', "unknown metric of kind MC 'f1'"),
        (GOOD + 'metrics = ["f1_weighted"]', "f1_weighted is not a mean over items"),
        (
            GOOD + 'kind = "G"\nmetrics = ["exact_mach"]',
            "unknown metric of kind G 'exact_mach'. Did you mean exact_match",
        ),
        (GOOD + 'normalise = ["lowr"]', "unknown normalise step 'lowr'. Did you mean lower"),
        (GOOD + 'sampler = "last"', "unknown sampler 'last'"),
        (GOOD + 'sampler = "balance"', "unknown sampler 'balance'. Did you mean balanced"),
        (GOOD + "max_tokens = 0", "max_tokens is 0, but must be 1 or more"),
        (GOOD + "partial = true", "partial requires kind MC and a target"),
        (GOOD + "partial = 1", "'partial' must be true or false"),
        (GOOD + "stop = [1]", "'stop' must be a list of strings"),
        (GOOD + 'extract = [{ name = "a" }]', "task mine: extract 1: has no 'pattern'"),
        (GOOD + 'extract = [{ name = "a", pattern = "(" }]', "'(' is not a valid regular expression"),
        (GOOD + 'extract = [{ name = "a", pattern = "b", pick = "any" }]', "unknown pick 'any'"),
        (GOOD + 'only = "x"', "unknown key 'only'"),
    ],
)
def test_bad_task_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=re.escape(message)):
        load_suite_file(path)


def test_unknown_names_get_suggestions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown task or suite 'demo_jop'\. Did you mean demo_job"):
        find_tasks(["demo_jop"])
    with pytest.raises(InputError, match="cannot be read"):
        find_tasks([str(tmp_path / "no.toml")])
