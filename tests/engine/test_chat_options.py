"""Settings of chat prompts: template arguments, date, and how templates use them."""

from __future__ import annotations

import logging
from datetime import date
from pathlib import Path

import pytest

from pa_lite.engine.chat import ChatRenderer, Message, chat_prompts
from pa_lite.engine.chat_options import RESERVED, ChatOptions, parse_date, parse_template_args
from pa_lite.engine.chat_template import chat_facts, describe_template, measured_options
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.reasoning import DEFAULT
from pa_lite.errors import EngineError, InputError
from tests.engine.test_chat import set_template

ONE = EngineOptions(threads=1)
DAY = date(2026, 2, 3)
TURN = "<|im_start|>{{ messages[-1]['role'] }}\n{{ messages[-1]['content'] }}<|im_end|>\n"
CLOCK = "{{ strftime_now('%d %b %Y %H:%M') }}" + TURN
# like templates of models that reason by default
THINKING = TURN + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)


def render(model: Model, template: str, options: ChatOptions | None = None) -> str:
    set_template(model, template)
    renderer = ChatRenderer(model, options=options)
    try:
        return renderer.render([("user", "x")])
    finally:
        renderer.close()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a=false", False), ("a=3", 3), ('a="x"', "x"), ("a=[1, 2]", [1, 2]), ("a=null", None), ("a={}", {}),
        ("a=high", "high"), ("a=26 Jul 2024", "26 Jul 2024"), ("a=b=c", "b=c"), ('a="False"', "False"),
    ],
)  # fmt: skip
def test_template_argument_values_are_json_or_strings(word: str, value: object) -> None:
    assert parse_template_args([word]) == {"a": value}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("a", "is not NAME=VALUE"),
        ("=3", "is not NAME=VALUE"),
        ("a=False", "write a=false for the JSON value"),
        ("a=yes", "write a=true for the JSON value"),
        ("a=None", "write a=null for the JSON value"),
        ("a=", "is not JSON"),
        ("a=[1", "is not JSON"),
        ('a={"b": 1, "b": 2}', "is not JSON"),
    ],
)
def test_ambiguous_template_argument_values_are_refused(word: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        parse_template_args([word])


def test_the_last_value_of_a_template_argument_wins() -> None:
    assert parse_template_args(["a=1", "b=2", "a=3"]) == {"a": 3, "b": 2}


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_variable_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}' is set by pa-lite and"):
        ChatOptions(template_args={name: 1})


@pytest.mark.parametrize("name", ["", "a-b", "1a", "a b", "é"])
def test_invalid_variable_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a valid template variable"):
        ChatOptions(template_args={name: 1})


def test_dates_are_parsed() -> None:
    assert parse_date("2026-02-03") == DAY
    for text in ("2026-2-3", "20260203", "2026-02-30", "2026-W06-2", "today", ""):
        with pytest.raises(InputError, match="write it as YYYY-MM-DD"):
            parse_date(text)


def test_a_template_gets_the_date_at_noon(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        assert render(model, CLOCK, ChatOptions(date=DAY)).startswith("03 Feb 2026 12:00<|im_start|>user\nx")
        assert render(model, "{{ strftime_now('%Y-%m-%d') }}" + TURN).startswith(date.today().isoformat())


@pytest.mark.parametrize("form", ["%9999999999d", "%0000000000999d", "%-100d", "%_123456789Y"])
def test_wide_date_fields_are_refused(tiny_ggufs: dict[str, Path], form: str) -> None:
    with (
        Model(tiny_ggufs["F32"], ONE) as model,
        pytest.raises(EngineError, match=r"its chat template fails: .*wider than 99 characters"),
    ):
        render(model, "{{ strftime_now('" + form + "') }}" + TURN, ChatOptions(date=DAY))


def test_a_template_gets_its_arguments(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        template = "{{ a | tojson }} {{ documents == none }} {{ tools == none }}" + TURN
        text = render(model, template, ChatOptions(template_args={"a": [1, "é<", None, True], "documents": ["d"]}))
        assert text.startswith('[1, "é<", null, true] False True')


def test_generation_blocks_render_their_content(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        assert render(model, "{% generation %}a{% endgeneration %}{% for i in [1] %}{% break %}{% endfor %}b") == "ab"


def test_earlier_reasoning_reaches_the_template_under_every_name(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, "{% for m in messages %}[{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }}]"
                     "{% endfor %}")  # fmt: skip
        renderer = ChatRenderer(model)
        assert renderer.render([("user", "x"), Message("assistant", "y", "why")]) == "[||][why|why|why]"
        renderer.close()


def test_described_variables_are_those_that_the_template_reads() -> None:
    """Names in comments and strings do not count, nor variables that the template sets."""
    use = describe_template("{# enable_thinking #}{{ 'strftime_now' }}{% set a = 1 %}{{ a }}{{ b }}[THINK]")
    assert use.variables == {"b"}
    assert not use.uses_clock
    assert use.words == {"[THINK]"}
    assert describe_template("{% if not enable_thinking is defined %}{% set enable_thinking = true %}{% endif %}"
                             "{{ enable_thinking }}{# <think> #}").variables == {"enable_thinking"}  # fmt: skip


def test_measured_options_switch_reasoning_off_and_log_it_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        options = measured_options(THINKING, None, "tiny")
        assert options.template_args == {"enable_thinking": False}
        assert options.date == date.today()
        assert measured_options(THINKING, options, "tiny") == options
    said = "tiny can reason before it answers: switched off for measurements."
    assert [r.message for r in caplog.records] == [f"{said} --template-arg enable_thinking=true turns it on."]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        on = ChatOptions(template_args={"enable_thinking": True}, date=DAY)
        assert measured_options(THINKING, on, "tiny") == on
        assert measured_options(TURN, None, "tiny").template_args == {}
    assert not caplog.records


def test_an_unread_template_argument_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    given = ChatOptions(template_args={"colour": "red"})
    with caplog.at_level(logging.WARNING):
        assert measured_options(TURN, given, "tiny").template_args == {}
        assert measured_options(None, given, "tiny").template_args == {}
    assert [r.message for r in caplog.records] == [
        "tiny has a chat template that does not read it: --template-arg colour=... has no effect.",
        "tiny has no chat template: --template-arg colour=... has no effect.",
    ]


def test_chat_facts_have_what_affects_the_prompts() -> None:
    options = ChatOptions(system="s", template_args={"enable_thinking": False, "other": 1}, date=DAY)
    assert chat_facts(None, options) == {"system": "s"}
    assert chat_facts(TURN, options) == {"system": "s"}
    assert chat_facts(CLOCK, options) == {"system": "s", "date": "2026-02-03"}
    assert chat_facts(THINKING, options) == {"system": "s", "template_args": {"enable_thinking": False}}


def test_prompts_say_whether_reasoning_is_open(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, THINKING)
        for text in ("x", "<think>", "</think>"):  # markers in the user's text do not count
            found = chat_prompts(model, [text])
            assert [r.opened for r in found.reasoning] == [DEFAULT]
            off = ChatOptions(template_args={"enable_thinking": False})
            assert [r.opened for r in chat_prompts(model, [text], off).reasoning] == [None]
        renderer = ChatRenderer(model)
        assert renderer.reasoning([("user", "</think>")]).opened is DEFAULT
        renderer.close()


def test_prompts_can_have_different_system_prompts(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        found = chat_prompts(model, ["a", "b"], ChatOptions(system="S"), ["<|im_end|>", ""]).tokens
        texts = [model.text(ids) for ids in found]
        assert texts == ["system\n<|im_end|>\nuser\na\nassistant\n", "system\nS\nuser\nb\nassistant\n"]
        assert (
            len({tuple(t for t in ids if model.is_control(t)) for ids in found}) == 1
        )  # spelled out, so not control tokens


def test_a_dropped_system_prompt_is_an_error(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, TURN)
        with pytest.raises(EngineError, match="leaves out the system prompt"):
            chat_prompts(model, ["x"], ChatOptions(system="S"))
