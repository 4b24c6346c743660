"""Chat templates render as in transformers: arguments, the date, reasoning of earlier turns."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from pa_lite.engine.chat_template import MEMORY, SECONDS, WORKER
from pa_lite.engine.conversation import Message, as_dict
from pa_lite.untrusted.sandbox import LimitedProcess

TEMPLATES = [
    "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\n[{{ m.content | trim }}]\n  {% endif %}\n"
    "{% endfor %}",
    "{{ strftime_now('%d %B %Y, %A %H:%M:%S %y') }}{{ date_string if date_string is defined else 'none' }}",
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{% generation %}{{ m.content }}\n"
    "{% endgeneration %}{% endfor %}{{ eos_token }}",
    "{{ messages[0] | tojson }}{{ messages[0] | tojson(indent=2) }}{{ tools }}{{ documents }}",
    "{% for m in messages if m.role == 'assistant' %}<think>{{ m.reasoning_content }}</think>{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}off{% endif %}"
    "{% if add_generation_prompt %}A:{% endif %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + m.content | length %}{% endfor %}"
    "{{ ns.n }}",
]
CONVERSATIONS = [
    [Message("user", " Hé <x> ")],
    [Message("system", "Be brief."), Message("user", "a\n"), Message("assistant", "b", "why"), Message("user", "c")],
]
ARGUMENTS: list[dict[str, Any]] = [{}, {"enable_thinking": False, "date_string": "26 Jul 2024"}]


class Noon(datetime):
    """The clock of a run on that day."""

    @classmethod
    def now(cls, tz: Any = None) -> Noon:
        return cls(2026, 2, 3, 12, tzinfo=tz)


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_render_as_in_transformers(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    monkeypatch.setattr(utils, "datetime", Noon)
    with LimitedProcess(WORKER, MEMORY) as process:
        for messages in CONVERSATIONS:
            for arguments in ARGUMENTS:
                rows = [as_dict(m) for m in messages]
                expected = utils.render_jinja_template(
                    [[dict(row) for row in rows]], chat_template=template, add_generation_prompt=True,
                    bos_token="<b>", eos_token="<e>", **arguments,
                )[0]  # fmt: skip
                request = {
                    "template": template, "bos": "<b>", "eos": "<e>", "arguments": arguments, "date": "2026-02-03",
                    "conversations": [rows], "add_generation_prompt": True, "characters": 10_000,
                }  # fmt: skip
                assert process.ask(request, SECONDS)["texts"] == expected
