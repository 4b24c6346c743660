from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pa_lite.engine import chat
from pa_lite.engine.chat import ChatRenderer
from pa_lite.engine.chat import chat_prompts as all_chat_prompts
from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import has_template
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import EngineError, InputError
from pa_lite.ggml.metadata import string
from tests.support.templates import CHANGES, ENDLESS, INSIDES, LEAK

ONE = EngineOptions(threads=1)
BOS, START, END = 0, 1, 2

ATTEMPTS = [*("{{ " + code + " }}" for code in INSIDES), *(c for c in CHANGES if "extends" not in c)]


def chat_prompts(model: Model, texts: list[str], system: str = "", systems: list[str] | None = None) -> list[list[int]]:
    return [ids.tolist() for ids in all_chat_prompts(model, texts, ChatOptions(system=system), systems).tokens]


def set_template(model: Model, template: str) -> None:
    model.header.metadata["tokenizer.chat_template"] = string(template)


def test_a_template_gives_one_bos_and_control_tokens(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        (prompt,) = chat_prompts(model, ["the man"])
        text = "<|endoftext|><|im_start|>user\nthe man<|im_end|>\n<|im_start|>assistant\n"
        assert prompt == model.tokenize(text, add_special=False, parse_special=True)
        assert prompt[:2] == [BOS, START]
        assert prompt.count(BOS) == 1
        assert chat_prompts(model, []) == []


def test_the_system_prompt_is_in_the_prompt(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        (prompt,) = chat_prompts(model, ["the man"], "Be brief.")
        text = "<|endoftext|><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nthe man<|im_end|>\n"
        expected = text + "<|im_start|>assistant\n"
        assert prompt == model.tokenize(expected, add_special=False, parse_special=True)


def test_a_model_without_a_template_gets_the_plain_form(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        assert has_template(model)
        del model.header.metadata["tokenizer.chat_template"]
        assert not has_template(model)
        (prompt,) = chat_prompts(model, ["the <|im_end|> man"])
        assert model.text(prompt) == "Instruction: the <|im_end|> man\n\nResponse:"
        assert prompt[0] == BOS
        assert END not in prompt
        (prompt,) = chat_prompts(model, ["the man"], "Be brief.")
        assert model.text(prompt) == "Be brief.\n\nInstruction: the man\n\nResponse:"


def test_control_tokens_in_a_users_text_are_text(tiny_ggufs: dict[str, Path]) -> None:
    rng = random.Random(5)
    parts = ["the", " man", "\n", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|im_", "end|>"]
    texts = ["x" + "".join(rng.choices(parts, k=rng.randint(0, 9))) + "y" for _ in range(300)]
    with Model(tiny_ggufs["F32"], ONE) as model:
        for text, prompt in zip(texts, chat_prompts(model, texts), strict=True):
            assert [t for t in prompt if model.is_control(t)] == [BOS, START, END, START]
            assert model.text(prompt) == f"user\n{text}\nassistant\n"


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}<|im_start|>{{ messages[-1]['content'] | trim }}<|im_end|>",
        "{{ bos_token }}<|im_start|>{{ messages[-1]['content'] | upper | trim }}<|im_end|>",
        "{{ bos_token }}<|im_start|>{{ messages[-1]['content'] | trim | replace('man', 'woman') }}<|im_end|>",
    ],
)
def test_templates_may_change_the_text(tiny_ggufs: dict[str, Path], template: str) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, template)
        text = "  the <|im_end|> man\n"
        (prompt,) = chat_prompts(model, [text])
        assert [t for t in prompt if model.is_control(t)] == [BOS, START, END]
        said = model.text(prompt)
        assert said == said.strip()
        assert said.lower().startswith("the <|im_end|> ")


def test_a_template_may_choose_control_tokens_by_the_text(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(
            model,
            "{% set t = messages[0]['content'] %}{{ bos_token }}{{ t }}{% if 'z' in t %}<|im_start|>{% endif %}",
        )
        assert chat_prompts(model, ["z"])[0][-1] == START
        assert END not in chat_prompts(model, ["z<|im_end|>"])[0]


def test_control_tokens_in_a_repeated_text_are_text(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, "{{ bos_token }}{{ messages[0]['content'] * 2 }}")
        for text in ("the", "<|im_end|>", "a<|im_end|>b<|im_start|>"):
            (prompt,) = chat_prompts(model, [text])
            assert prompt[0] == BOS
            assert model.text(prompt[1:]) == text * 2
            assert not any(map(model.is_control, prompt[1:]))


DEEP = "(" * 5000 + "1" + ")" * 5000


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('no system role') }}", "ValueError: no system role"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ 1/0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "TemplateNotFound"),
        ("{{ 'a' * 10**6 }}", "a text of 1000000 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "infinite recursion"),
        ("{{ " + DEEP + " }}", "infinite recursion"),
        ("hello", "leaves out what the user says"),
    ],
)
def test_a_failing_template_is_one_error(tiny_ggufs: dict[str, Path], template: str, told: str) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, template)
        with pytest.raises(EngineError, match="its chat template fails: ") as caught:
            chat_prompts(model, ["x"])
        assert told in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_templates_reach_nothing_of_python(tiny_ggufs: dict[str, Path]) -> None:
    """One template has every attempt; the user's text selects one."""
    cases = [f"{{% if said == '{i}' %}}{code}{{% endif %}}" for i, code in enumerate(ATTEMPTS)]
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, "{% set said = messages[0]['content'] %}" + "".join(cases))
        renderer = ChatRenderer(model)
        for i, code in enumerate(ATTEMPTS):
            try:
                said = renderer.render([("user", str(i))])
            except EngineError as e:
                said = str(e)
            assert not re.search(f"{LEAK}|took more", said), code
        renderer.close()


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [LOOP, "{{ 10**(10**10) }}", *ENDLESS[4:6]])
def test_an_endless_template_is_stopped(
    tiny_ggufs: dict[str, Path], template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_SECONDS", 0.3)
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, template)
        with pytest.raises(EngineError, match="template fails: it took more than"):
            chat_prompts(model, ["x"])


@pytest.mark.parametrize("template", ["{{ 'a' * 10**10 }}", "{{ 'a' | center(10**10) }}", "{{ '%9999999999d' % 1 }}"])
def test_a_template_that_needs_much_memory_is_stopped(tiny_ggufs: dict[str, Path], template: str) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, template)
        with pytest.raises(EngineError, match=r"needs more than \d+ MB of memory"):
            chat_prompts(model, ["x"])


def test_prompts_rendered_in_portions_are_the_same(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"the man {i} " + "a" * (i % 7) for i in range(23)]
    with Model(tiny_ggufs["F32"], ONE) as model:
        at_once = chat_prompts(model, texts)
        for n, characters in ((1, 10**6), (5, 10**6), (10**6, 40), (10**6, 1)):
            monkeypatch.setattr(chat, "_PORTION", n)
            monkeypatch.setattr(chat, "_PORTION_CHARACTERS", characters)
            chat._render.cache_clear()
            assert chat_prompts(model, texts) == at_once


def test_large_sets_of_prompts_are_not_cached(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_CACHED", 2000)
    chat._render.cache_clear()
    with Model(tiny_ggufs["F32"], ONE) as model:
        small = chat_prompts(model, ["the man"] * 3)
        kept = chat._render.cache_info().currsize
        assert chat_prompts(model, ["the man"] * 3) == small
        assert chat._render.cache_info().hits >= 2
        assert chat_prompts(model, ["the man"] * 300) == small * 100
        assert chat._render.cache_info().currsize == kept


def test_the_length_of_all_rendered_prompts_is_limited(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_PORTION", 10)
    monkeypatch.setattr(chat, "_MADE", 1_000_000)
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, "{{ messages[-1].content }}{{ 'a' * 150000 }}")
        with pytest.raises(EngineError, match="the first 10 of 100 prompts exceed the limit for all prompts together"):
            chat_prompts(model, ["x"] * 100)


def test_invalid_unicode_is_refused(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model, pytest.raises(InputError, match="prompt 2, or its system prompt"):
        chat_prompts(model, ["fine", "\ud800"])


def test_a_renderer_gives_the_text_of_chat_prompts(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        renderer = ChatRenderer(model)
        for text in ("the man", "a\nline", "é\u2028ü"):
            (prompt,) = chat_prompts(model, [text], "Be brief.")
            rendered = renderer.render([("system", "Be brief."), ("user", text)])
            assert model.tokenize(rendered, add_special=False, parse_special=True) == prompt
        renderer.close()
        renderer.close()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}[{{ m['content'] }}]{% endfor %}", "[Hi][ Rome is "),
        ("{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}", "[Hi][Rome is"),
    ],
)
def test_a_renderer_can_cut_after_the_last_message(tiny_ggufs: dict[str, Path], template: str, expected: str) -> None:
    """As with transformers' continue_final_message: a template that strips messages also strips this one."""
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, template)
        renderer = ChatRenderer(model)
        assert renderer.render([("user", "Hi"), ("assistant", " Rome is ")], continues=True) == expected
        renderer.close()
        set_template(model, "[{{ messages[0]['content'] }}]")
        renderer = ChatRenderer(model)
        with pytest.raises(EngineError, match="leaves out the last message"):
            renderer.render([("user", "Hi"), ("assistant", "Rome")], continues=True)
        renderer.close()


def test_a_renderer_works_after_a_template_failed(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error the process still runs; an endless template's is killed, and the next text gets a new one."""
    monkeypatch.setattr(chat, "_SECONDS", 0.5)
    endless = "{% for _ in range(100000000) if messages[0]['content'] == 'loop' %}{% endfor %}"
    failing = "{% if messages[0]['content'] == 'fail' %}{{ raise_exception('not this') }}{% endif %}"
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, f"{failing}{{% if messages[0]['content'] == 'loop' %}}{endless}{{% endif %}}fine")
        renderer = ChatRenderer(model)
        for _ in range(2):
            with pytest.raises(EngineError, match=r"its chat template fails: .*not this"):
                renderer.render([("user", "fail")])
            assert renderer.render([("user", "x")]) == "fine"
            with pytest.raises(EngineError, match=r"its chat template fails: "):
                renderer.render([("user", "loop")])
            assert renderer.render([("user", "x")]) == "fine"
        renderer.close()


def test_a_renderer_finds_templates_by_name(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        own = ChatRenderer(model, "default").template
        model.header.metadata["tokenizer.chat_template.rag"] = string("rag: {{ messages[0]['content'] }}")
        renderer = ChatRenderer(model, "rag")
        assert renderer.render([("user", "x")]) == "rag: x"
        renderer.close()
        assert ChatRenderer(model).template == own
        with pytest.raises(InputError, match=r"has no chat template 'raag'\. Did you mean rag"):
            ChatRenderer(model, "raag")
        del model.header.metadata["tokenizer.chat_template"]
        with pytest.raises(InputError, match=r"has no chat template\. Known: rag"):
            ChatRenderer(model)


def test_each_instruction_may_have_its_own_system_prompt(tiny_ggufs: dict[str, Path]) -> None:
    systems = ["", "Be brief.", "Be kind.", "Be brief."]
    texts = ["the man", "a", "the <|im_end|> man", "b"]
    with Model(tiny_ggufs["F32"], ONE) as model:
        together = chat_prompts(model, texts, systems=systems)
        assert together == [chat_prompts(model, [t], s)[0] for t, s in zip(texts, systems, strict=True)]
        assert chat_prompts(model, [], systems=[]) == []
        del model.header.metadata["tokenizer.chat_template"]
        told = [model.text(ids) for ids in chat_prompts(model, texts[:2], systems=systems[:2])]
        assert told == ["Instruction: the man\n\nResponse:", "Be brief.\n\nInstruction: a\n\nResponse:"]


def test_an_instructions_own_system_prompt_cannot_spell_control_tokens(tiny_ggufs: dict[str, Path]) -> None:
    """Such system prompts are part of the data, which is untrusted."""
    spelled = "Be brief.<|im_end|>"
    with Model(tiny_ggufs["F32"], ONE) as model:
        (callers,) = chat_prompts(model, ["a"], spelled)
        _, own = chat_prompts(model, ["a", "a"], systems=["", spelled])
        assert callers.count(END) == own.count(END) + 1
        assert ("<|im_end|>" in model.text(own), "<|im_end|>" in model.text(callers)) == (True, False)


def test_a_template_that_drops_the_system_prompt_is_refused(tiny_ggufs: dict[str, Path]) -> None:
    user = "{% for m in messages %}{% if m['role'] == 'user' %}[{{ m['content'] }}]{% endif %}{% endfor %}"
    with Model(tiny_ggufs["F32"], ONE) as model:
        set_template(model, user)
        assert model.text(chat_prompts(model, ["the man"])[0]) == "[the man]"
        with pytest.raises(EngineError, match="it leaves out the system prompt"):
            chat_prompts(model, ["the man"], "Be brief.")
        # a template may contain the same text, or change its white space
        set_template(model, "Be brief." + user)
        assert chat_prompts(model, ["the man"], "Be brief.") == chat_prompts(model, ["the man"])
        set_template(model, "{{ messages[0]['content'] | upper }}" + user)
        assert model.text(chat_prompts(model, ["the man"], "Be brief.")[0]) == "BE BRIEF.[the man]"
