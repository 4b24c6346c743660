from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from pa_lite.errors import InputError
from pa_lite.tasks import limits
from pa_lite.tasks.prompts import build_items
from pa_lite.tasks.spec import TaskSpec

_NESTED = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="bounds of memory are Linux's")
@pytest.mark.parametrize(
    ("field", "code", "told"),
    [
        ("template", _NESTED.replace("BODY", ""), "not done after"),
        ("template", _NESTED.replace("BODY", "{{ query * 1000000 }}"), "takes more memory"),
        ("template", "{{ 'a' * 10 ** 10 }}", "takes more memory"),
        ("template", "{{ '%0999999999999d' % 1 }}", "takes more memory|too large|too big"),
        ("template", "{{ 'a' * 20000000 }}", "20000000 characters"),
        ("template", "{{ 'a' | center(9999999999) }}", "takes more memory"),
        ("template", "{{ 9 ** (9 ** 9) }}", "too large"),
        ("choices", "['a' * 10 ** 10, 'b']", "takes more memory"),
        ("answer", "9 ** (9 ** 9)", "too large"),
    ],
)
def test_runaway_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, code: str, told: str) -> None:
    import resource

    monkeypatch.setattr(limits, "SECONDS", 0.3 if "not done" in told else 20)
    row = {"split": "test", "query": "q", "choices": ["yes", "no"], "answer": 0}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), "utf-8")
    fields = {"template": "{{ query }}?", field: code}
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(InputError, match=rf"rows\.jsonl:1: {field} of task t fails on this row: .*({told})"):
        build_items(TaskSpec(name="t", data="rows.jsonl", folder=tmp_path, **fields))  # type: ignore[arg-type]
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_small_powers_and_products_are_allowed(tmp_path: Path) -> None:
    row = {"split": "test", "query": "q", "choices": ["yes", "no"], "answer": 0}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), "utf-8")
    template = "{{ 2 ** 10 }} {{ query * 3 }} {{ '%02d' % 7 }} {{ 2 ** -1 }}"
    items = build_items(TaskSpec(name="t", template=template, data="rows.jsonl", folder=tmp_path))
    assert items[0].prompt == "1024 qqq 07 0.5"
