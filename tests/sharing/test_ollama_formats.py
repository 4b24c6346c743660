"""The table of Ollama's prompt formats: each is found for the chat templates that it fits, and for no others."""

from __future__ import annotations

from typing import Any

import pytest

import pa_lite
from pa_lite.engine import template_text
from pa_lite.engine.chat import conversation_prompt
from pa_lite.engine.chat_template import KEY
from pa_lite.engine.conversation import read_messages
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import Metadata, array, boolean, string, uint32
from pa_lite.sharing.go_templates import GoMessage, render_go
from pa_lite.sharing.ollama_formats import FORMATS, find_format

LOOP, END = "{% for m in messages %}", "{% endfor %}"
ASK = "{% if add_generation_prompt %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
CHATML = (
    LOOP + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}" + END
    + ASK + "{{ '<|im_start|>assistant\n' }}{% endif %}"
)  # fmt: skip
DEFAULT = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
LLAMA_3 = (
    LOOP + "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}" + END
    + ASK + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)  # fmt: skip
GEMMA = (
    "{% set role = {'assistant': 'model', 'user': 'user'} %}{% set ns = namespace(first='') %}" + LOOP
    + "{% if m.role == 'system' %}{% set ns.first = m.content + '\n\n' %}{% else %}{{ '<start_of_turn>' + role[m.role]"
    " + '\n' + ns.first + m.content | trim + '<end_of_turn>\n' }}{% set ns.first = '' %}{% endif %}" + END
    + ASK + "{{ '<start_of_turn>model\n' }}{% endif %}"
)  # fmt: skip
PHI_3 = (
    LOOP + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}" + END + ASK + "{{ '<|assistant|>\n' }}{% endif %}"
)
MISTRAL_1 = (
    REFUSES + LOOP + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + "
    "eos_token }}{% endif %}" + END
)  # fmt: skip
MISTRAL_3 = (
    "{% set ns = namespace(system='') %}" + LOOP + "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
    "{% elif m.role == 'user' %}{{ '[INST] ' }}{% if loop.last %}{{ ns.system }}{% endif %}{{ m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}" + END
)  # fmt: skip
LLAMA_2 = (
    "{% set ns = namespace(system='') %}" + LOOP + "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\n' + "
    "m.content + '\n<</SYS>>\n\n' %}{% elif m.role == 'user' %}{{ bos_token + '[INST] ' + ns.system + m.content + "
    "' [/INST]' }}"
    "{% set ns.system = '' %}{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}" + END
)  # fmt: skip
TULU = (
    LOOP + "{{ '<|' + m.role + '|>\n' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}"
    + END + ASK + "{{ '<|assistant|>\n' }}{% endif %}"
)  # fmt: skip
BOS = "{{ bos_token }}"


def metadata(template: str | None, adds_bos: bool | None = True, kind: str = "gpt2") -> Metadata:
    found: Metadata = {
        "tokenizer.ggml.model": string(kind), "tokenizer.ggml.tokens": array("STRING", ["<s>", "</s>", "a"]),
        "tokenizer.ggml.bos_token_id": uint32(0), "tokenizer.ggml.eos_token_id": uint32(1),
    }  # fmt: skip
    if template is not None:
        found[KEY] = string(template)
    if adds_bos is not None:
        found["tokenizer.ggml.add_bos_token"] = boolean(adds_bos)
    return found


@pytest.mark.parametrize(
    ("template", "adds_bos", "name"),
    [
        (CHATML, False, "ChatML"), (BOS + CHATML, True, "ChatML"), (BOS + LLAMA_3, True, "Llama 3"),
        (BOS + GEMMA, True, "Gemma"), (BOS + REFUSES + GEMMA, True, "Gemma"), (PHI_3, False, "Phi-3"),
        (PHI_3.replace("|>\n'", "|>'"), False, "Phi-4-mini"), (BOS + MISTRAL_1, True, "Mistral instruct v0.1"),
        (BOS + MISTRAL_1.replace("+ eos_token", "+ eos_token + ' '"), True, "Mistral instruct v0.1, with spaces"),
        (BOS + MISTRAL_1.replace("{{ m.content", "{{ ' ' + m.content"), True, "Mistral instruct v0.2"),
        (BOS + MISTRAL_3, True, "Mistral instruct v0.3"), (LLAMA_2, True, "Llama 2 chat"), (BOS + TULU, True, "Tulu"),
        (TULU.replace("{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}", "{{ eos_token }}"), False, "Zephyr"),
        (LOOP + "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}" + END
         + "{{ '<|start_of_role|>assistant<|end_of_role|>' }}", False, "Granite 3"),
        (None, True, "plain"), (None, None, "plain"),
    ],
)  # fmt: skip
def test_the_format_of_a_chat_template_is_found(template: str | None, adds_bos: bool | None, name: str) -> None:
    found, why = find_format(metadata(template, adds_bos))
    assert why == ""
    assert found is not None
    assert (found.name, found.system) == (name, "")
    assert "BOS" not in found.template
    assert "EOS" not in found.template


def test_every_format_of_the_table_is_tested() -> None:
    (mark,) = test_the_format_of_a_chat_template_is_found.pytestmark  # type: ignore[attr-defined]
    assert {case[2] for case in mark.args[1]} == {each.name for each in FORMATS}


def test_a_system_prompt_that_the_template_adds_becomes_part_of_the_format() -> None:
    found, _ = find_format(metadata(DEFAULT + CHATML, adds_bos=False))
    assert found is not None
    assert (found.name, found.system) == ("ChatML", "Be kind.")


def test_bos_is_in_the_template_only_if_nothing_else_adds_it() -> None:
    found, _ = find_format(metadata(BOS + CHATML, adds_bos=False))
    assert found is not None
    assert found.template.startswith("<s>{{ range .Messages }}<|im_start|>")
    assert find_format(metadata(CHATML, adds_bos=True)) == (
        None, "its vocabulary adds <s> before prompts, and its chat template does not",
    )  # fmt: skip
    assert find_format(metadata(BOS + CHATML, adds_bos=None))[1].startswith("the file does not say whether BOS")
    by_kind, _ = find_format(metadata(BOS + CHATML, adds_bos=None, kind="llama"))
    assert by_kind is not None
    assert by_kind.template.startswith("{{ range")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ messages[-1].content }}", "no format in pa-lite's table"),
        (CHATML.replace("'<|im_end|>'", "'<|im_end|> '"), "no format in pa-lite's table"),
        (CHATML.replace("+ m.content +", "+ m.content | upper +"), "no format in pa-lite's table"),
        (CHATML.replace(LOOP, LOOP + "{% if loop.index > 4 %}{{ '!' }}{% endif %}"), "no format in pa-lite's table"),
        ("{{ strftime_now('%Y') }}" + CHATML, "its chat template prints the date"),
        ("{{ raise_exception('never') }}", "its chat template refuses plain conversations"),
        ("{% for %}", "its chat template fails"),
        # the template's own system prompt comes before a given one, which Ollama's SYSTEM would replace
        ("{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}" + CHATML, "no format in pa-lite's table"),
    ],
)
def test_other_templates_have_no_format_and_a_reason(template: str, why: str) -> None:
    found, said = find_format(metadata(template, adds_bos=False))
    assert found is None
    assert why in said


def test_an_endless_template_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_text, "SECONDS", 0.5)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert find_format(metadata(endless, adds_bos=False)) == (None, "its chat template refuses plain conversations")


def test_the_embedded_pair_has_a_format(tmp_path: Any) -> None:
    path = pa_lite.merge("demo", lam=0.6, output=tmp_path / "m.gguf")
    found, why = find_format(read_gguf_header(path).metadata)
    assert (found and found.name, why) == ("ChatML", "")
    assert found is not None
    with pa_lite.load(path) as model:
        told = [{"role": "system", "content": "One word."}, {"role": "user", "content": "Who is Tobi?"}]
        tokens, _ = conversation_prompt(model.model, read_messages(told))
        text = render_go(found.template, [GoMessage(m["role"], m["content"]) for m in told])
        assert model.model.tokenize(text, add_special=True, parse_special=True) == tokens
