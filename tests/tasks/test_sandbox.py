"""Hostile task files: whatever their templates and patterns do, it is one error, soon, and in any thread."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest

from pa_lite.errors import EngineError, InputError
from pa_lite.tasks import sandbox
from pa_lite.tasks.answers import Extract
from pa_lite.tasks.prompts import build_items
from pa_lite.tasks.sandbox import LimitedTemplates, Missing, Templates, find_answers
from pa_lite.tasks.spec import TaskSpec, find_tasks, load_suite_file
from tests.support.templates import CHANGES, ENDLESS, GREEDY, INSIDES, LEAK, OTHERS, OUT_OF_MEMORY, OUT_OF_TIME

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bounds of memory are Linux's")


def task(folder: Path, **fields: Any) -> TaskSpec:
    row = {"split": "test", "query": "q", "choices": ["yes", "no"], "answer": 0}
    (folder / "rows.jsonl").write_text(json.dumps(row), "utf-8")
    return TaskSpec(name="t", data="rows.jsonl", folder=folder, **{"template": "{{ query }}?", **fields})


def refused(folder: Path, told: str, **fields: Any) -> None:
    with pytest.raises(InputError, match=r"task t: its \w+ is broken|of task t fails on this row") as caught:
        build_items(task(folder, **fields))
    assert re.search(told, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("make", [Templates, LimitedTemplates])
def test_templates_reach_nothing_of_python(make: type[Templates] | type[LimitedTemplates]) -> None:
    """In the limited process and out of it: the limits are no part of the sandbox."""
    named = dict(zip(map(str, range(99)), INSIDES, strict=False))
    scope = {"messages": [{"role": "user"}], "row": {"a": 1}, "loop": 1}
    templates = make({n: "{{ " + code + " }}" for n, code in named.items()}, named)
    for name, code in named.items():
        for do in (templates.render, templates.evaluate):
            try:
                found = do(name, scope)
            except (jinja2.TemplateError, TypeError, AttributeError, ValueError, LookupError):
                continue
            assert isinstance(found, (str, Missing, type(None))), code
            assert not re.search(LEAK, str(found)), code
    templates.close()


@pytest.mark.parametrize("make", [Templates, LimitedTemplates])
def test_templates_change_and_read_nothing(make: type[Templates] | type[LimitedTemplates]) -> None:
    templates = make(dict(zip(map(str, range(99)), CHANGES, strict=False)), {})
    scope: dict[str, Any] = {"row": {}, "messages": []}
    for i in range(len(CHANGES)):
        with pytest.raises((jinja2.TemplateError, TypeError)):
            templates.render(str(i), scope)
    assert scope == {"row": {}, "messages": []}
    templates.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limits of a fraction of a second: what ends at all must end soon."""
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 15


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("template", ENDLESS)
def test_templates_without_end(tmp_path: Path, template: str) -> None:
    refused(tmp_path, f"{OUT_OF_TIME}|{OUT_OF_MEMORY}", template=template)


@LINUX
@pytest.mark.parametrize("template", GREEDY)
def test_templates_that_fill_the_memory(tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    refused(tmp_path, f"{OUT_OF_MEMORY}|too large|too big|characters", template=template)


@pytest.mark.parametrize(("template", "told"), OTHERS)
def test_templates_beyond_bounds(tmp_path: Path, template: str, told: str) -> None:
    refused(tmp_path, told, template=template)


@pytest.mark.parametrize("fields", [
    {"template": "{{ 'a' * 9000000 }}"},
    {"choices": "['a' * 9000000, 'b']"},
    {"prefix": "{{ 'a' * 9000000 }}"},
    {"template": "x", "partial": True, "target": "y", "choices": "['a', 'b']", "prefix": "{{ query * 4000000 }}"},
])  # fmt: skip
def test_texts_of_all_rows_are_bounded_together(tmp_path: Path, fields: dict[str, Any]) -> None:
    spec = task(tmp_path, **fields)
    row = (tmp_path / "rows.jsonl").read_text("utf-8")
    assert len(build_items(spec)) == 1
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 40, "utf-8")
    with pytest.raises(
        InputError, match=r"rows.jsonl:\d+: .* task t fails .* limit for all together is 6\d MB.*--limit"
    ):
        build_items(spec)


def test_time_of_all_rows_is_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = task(tmp_path, template="{% for i in range(99999) %}{% for j in range(4) %}{% endfor %}{% endfor %}")
    row = (tmp_path / "rows.jsonl").read_text("utf-8")
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 400, "utf-8")
    monkeypatch.setattr(sandbox, "_SUM_SECONDS", 0)
    monkeypatch.setattr(sandbox, "_ASKS_A_SECOND", 1000)
    with pytest.raises(InputError, match=r"rows.jsonl:\d+: .* all rows so far took .* limit for all together"):
        build_items(spec)


@LINUX
def test_expressions_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path, OUT_OF_MEMORY, choices="['a' * 10 ** 10, 'b']")
    refused(tmp_path, "longer than 50000000 characters", choices="['a' * 50000001, 'b']")
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    refused(tmp_path, OUT_OF_TIME, answer="9 ** (9 ** 9)")


@pytest.mark.usefixtures("impatient")
def test_bounds_hold_in_every_thread(tmp_path: Path) -> None:
    told: list[str] = []

    def work(folder: Path) -> None:
        folder.mkdir()
        try:
            build_items(task(folder, template=ENDLESS[0]))
        except InputError as e:
            told.append(str(e))

    threads = [threading.Thread(target=work, args=(tmp_path / str(i),)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 2
    assert all("took more than 0.3 seconds" in t for t in told)


def test_own_tasks_and_strangers_render_alike(tmp_path: Path) -> None:
    fields = {
        "template": "{{ 2 ** 10 }} {{ query * 3 }} {{ '%02d' % 7 }} {{ column([{'t': 'é\u2028'}], 't')[0] }}\n",
        "choices": "choices + [row['query']]",
        "prefix": "<b>{{ texts.a }}</b>",
        "texts": {"a": "&"},
    }
    (own,) = build_items(task(tmp_path, **fields, is_own=True))
    (strange,) = build_items(task(tmp_path, **fields))
    assert own == strange
    assert own.prompt == "<b>&</b>1024 qqq 07 é\u2028\n"
    for is_own in (True, False):
        with pytest.raises(InputError, match=r"rows\.jsonl:1: has no column 'x'"):
            build_items(task(tmp_path, answer="x", is_own=is_own))
        with pytest.raises(InputError, match=r"template of task t fails on this row: .*a value that it prints is null"):
            build_items(task(tmp_path, template="{{ none }}", is_own=is_own))
        with pytest.raises(InputError, match=r"template of task t fails on this row: .*'x' is undefined"):
            build_items(task(tmp_path, template="{{ x }}", is_own=is_own))
        with pytest.raises(InputError, match=r"task t: its target is broken: "):
            build_items(task(tmp_path, target="{% if %}", is_own=is_own))


def test_only_suites_that_came_with_pa_lite_are_our_own(tmp_path: Path) -> None:
    assert all(spec.is_own for spec in find_tasks(["quick", "demo"]))
    file = tmp_path / "mine.toml"
    file.write_text('include = ["demo"]\n[override]\ntemplate = "{{ 1 }}"\n', "utf-8")
    assert not any(spec.is_own for spec in load_suite_file(file))
    file.write_text('[tasks.t]\ndata = "a.csv"\ntemplate = "x"\nis_own = true\n', "utf-8")
    with pytest.raises(InputError, match="unknown key 'is_own'"):
        load_suite_file(file)
    (tmp_path / "other.toml").write_text('[tasks.t]\ndata = "a.csv"\ntemplate = "x"\n', "utf-8")
    file.write_text(f"include = ['{tmp_path / 'other'}']\n", "utf-8")
    with pytest.raises(InputError, match="includes the unknown suite"):
        load_suite_file(file)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(?:a?){40}a{40}$"])
def test_patterns_without_end(pattern: str) -> None:
    with pytest.raises(EngineError, match=OUT_OF_TIME):
        find_answers([Extract("e", pattern)], ["a" * 40 + "b"], is_own=False)


def test_what_patterns_find_in_all_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is small, and what is found in it too; the answers go to the process a few at a time."""
    monkeypatch.setattr(sandbox, "_SUM", 100_000)
    monkeypatch.setattr(sandbox, "_PORTION", 10)
    texts, all_of_it = ["a" * 1000] * 200, [Extract(f"e{i}", "(?s).*") for i in range(40)]
    assert len(find_answers(all_of_it[:5], texts, is_own=False)) == 200
    with pytest.raises(EngineError, match=r"find takes more than 3 MB, the limit for all answers: .* 16 times"):
        find_answers(all_of_it, texts, is_own=False)


def test_time_of_patterns_is_bounded_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each portion is within its own limit."""
    monkeypatch.setattr(sandbox, "_PORTION", 1)
    monkeypatch.setattr(sandbox, "_PATIENCE", 0.1)
    slow, texts = Extract("e", "(a+)+$"), ["a" * 19 + "b"] * 1000
    start = time.monotonic()
    with pytest.raises(EngineError, match=r"the first \d+ answers took \d+ seconds; the limit for all 1000 is 1: "):
        find_answers([slow], texts, is_own=False)
    assert time.monotonic() - start < 15


def test_patterns_find_the_same_in_the_limited_process() -> None:
    extracts = [Extract("number", "{number}", "last"), Extract("word", r"is (\w+)"), Extract("none", "[0-9]{9}")]
    texts = ["it is red, 1,234 or -5", "", "é\ud800 is ünique", "is " * 999]
    assert find_answers(extracts, texts, is_own=False) == find_answers(extracts, texts, is_own=True)


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "(?P<n>a)(?P<n>b)", "(?<=a+)b", "(" * 5000])
def test_broken_patterns_are_refused_with_their_task(tmp_path: Path, pattern: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        f'[tasks.t]\ndata = "a.csv"\nkind = "G"\ntemplate = "x"\n'
        f'extract = [{{ name = "e", pattern = {json.dumps(pattern)} }}]\n',
        "utf-8",
    )
    with pytest.raises(InputError, match=r"extract 'e': .* is no regular expression"):
        load_suite_file(file)
