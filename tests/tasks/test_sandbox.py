"""Hostile task files: anything harmful in their templates and patterns is one error, in bounded time, in any thread."""

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

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory limits work on Linux only")


def task(folder: Path, **fields: Any) -> TaskSpec:
    row = {"split": "test", "query": "q", "choices": ["yes", "no"], "answer": 0}
    (folder / "rows.jsonl").write_text(json.dumps(row), "utf-8")
    return TaskSpec(name="t", data="rows.jsonl", folder=folder, **{"template": "{{ query }}?", **fields})


def refused(folder: Path, message: str, **fields: Any) -> None:
    with pytest.raises(InputError, match=r"task t: its \w+ is not valid|of task t fails on this row") as caught:
        build_items(task(folder, **fields))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("make", [Templates, LimitedTemplates])
def test_templates_cannot_access_python_internals(make: type[Templates] | type[LimitedTemplates]) -> None:
    """The sandbox works with and without the limited process."""
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
def test_templates_change_no_data_and_read_no_files(make: type[Templates] | type[LimitedTemplates]) -> None:
    templates = make(dict(zip(map(str, range(99)), CHANGES, strict=False)), {})
    scope: dict[str, Any] = {"row": {}, "messages": []}
    for i in range(len(CHANGES)):
        with pytest.raises((jinja2.TemplateError, TypeError)):
            templates.render(str(i), scope)
    assert scope == {"row": {}, "messages": []}
    templates.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reduce the time limits to a fraction of a second."""
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 15


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("template", ENDLESS)
def test_endless_templates_are_stopped(tmp_path: Path, template: str) -> None:
    refused(tmp_path, f"{OUT_OF_TIME}|{OUT_OF_MEMORY}", template=template)


@LINUX
@pytest.mark.parametrize("template", GREEDY)
def test_templates_that_exhaust_memory_are_stopped(
    tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    refused(tmp_path, f"{OUT_OF_MEMORY}|too large|too big|characters", template=template)


@pytest.mark.parametrize(("template", "message"), OTHERS)
def test_templates_beyond_limits_are_refused(tmp_path: Path, template: str, message: str) -> None:
    refused(tmp_path, message, template=template)


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
    with pytest.raises(InputError, match=r"rows.jsonl:\d+: .* task t fails .* limit for all rows is 6\d MB.*--limit"):
        build_items(spec)


def test_time_of_all_rows_is_bounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = task(tmp_path, template="{% for i in range(99999) %}{% for j in range(4) %}{% endfor %}{% endfor %}")
    row = (tmp_path / "rows.jsonl").read_text("utf-8")
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 400, "utf-8")
    monkeypatch.setattr(sandbox, "_SUM_SECONDS", 0)
    monkeypatch.setattr(sandbox, "_ASKS_A_SECOND", 1000)
    with pytest.raises(InputError, match=r"rows.jsonl:\d+: .* the rows so far took .* limit for all rows"):
        build_items(spec)


@LINUX
def test_expressions_are_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path, OUT_OF_MEMORY, choices="['a' * 10 ** 10, 'b']")
    refused(tmp_path, "longer than 50000000 characters", choices="['a' * 50000001, 'b']")
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    refused(tmp_path, OUT_OF_TIME, answer="9 ** (9 ** 9)")


@pytest.mark.usefixtures("impatient")
def test_limits_work_in_every_thread(tmp_path: Path) -> None:
    messages: list[str] = []

    def work(folder: Path) -> None:
        folder.mkdir()
        try:
            build_items(task(folder, template=ENDLESS[0]))
        except InputError as e:
            messages.append(str(e))

    threads = [threading.Thread(target=work, args=(tmp_path / str(i),)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(messages) == 2
    assert all("took more than 0.3 seconds" in t for t in messages)


def test_trusted_and_untrusted_tasks_render_the_same(tmp_path: Path) -> None:
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
        with pytest.raises(InputError, match=r"task t: its target is not valid: "):
            build_items(task(tmp_path, target="{% if %}", is_own=is_own))


def test_only_suites_of_pa_lite_are_trusted(tmp_path: Path) -> None:
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
def test_endless_patterns_are_stopped(pattern: str) -> None:
    with pytest.raises(EngineError, match=OUT_OF_TIME):
        find_answers([Extract("e", pattern)], ["a" * 40 + "b"], is_own=False)


def test_matches_of_all_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer and its matches are small; the answers are sent to the process a few at a time."""
    monkeypatch.setattr(sandbox, "_SUM", 100_000)
    monkeypatch.setattr(sandbox, "_PORTION", 10)
    texts, all_of_it = ["a" * 1000] * 200, [Extract(f"e{i}", "(?s).*") for i in range(40)]
    assert len(find_answers(all_of_it[:5], texts, is_own=False)) == 200
    with pytest.raises(EngineError, match=r"the matches take more than 3 MB, the limit for all answers: .* 16 times"):
        find_answers(all_of_it, texts, is_own=False)


def test_time_of_patterns_is_bounded_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each portion is within its limit."""
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
def test_invalid_patterns_are_refused_by_task(tmp_path: Path, pattern: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        f'[tasks.t]\ndata = "a.csv"\nkind = "G"\ntemplate = "x"\n'
        f'extract = [{{ name = "e", pattern = {json.dumps(pattern)} }}]\n',
        "utf-8",
    )
    with pytest.raises(InputError, match=r"extract 'e': .* is not a valid regular expression"):
        load_suite_file(file)
