"""Ollama's prompt template for a model, where a known format gives exactly the prompts of the chat template.

Ollama does not run the chat template in a GGUF file. It recognises some by their text, and otherwise needs a TEMPLATE
in Go's language. `find_format` tries a table of them: one is used only if it renders some conversations as the model's
own template does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pa_lite.engine.chat_template import KEY, describe_template
from pa_lite.engine.conversation import PLAIN_ROLES, Message
from pa_lite.engine.template_text import TemplateText
from pa_lite.errors import EngineError
from pa_lite.ggml.metadata import Metadata
from pa_lite.sharing.go_templates import GoMessage, render_go

_USER = '{{ if eq .Role "user" }}'
_ANSWER = '{{ else if eq .Role "assistant" }}'
_ALL, _END = "{{ range .Messages }}", "{{ end }}"
_NUMBERED = "{{ range $i, $m := .Messages }}"
_FIRST = "{{ if and $.System (le $i 1) }}"  # before the first user's text, if there is a system prompt
_LAST = "{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}"  # before the last


@dataclass(frozen=True, kw_only=True)
class Format:
    """A prompt format: its TEMPLATE in Ollama's language, and texts that end an answer; BOS and EOS stand for tokens.

    `system` is the system prompt that the model's template adds where a conversation has none.
    """

    name: str
    template: str
    stop: tuple[str, ...] = ()
    system: str = ""


FORMATS = (
    Format(
        name="ChatML", stop=("<|im_start|>", "<|im_end|>"),
        template=f"{_ALL}<|im_start|>{{{{ .Role }}}}\n{{{{ .Content }}}}<|im_end|>\n{_END}<|im_start|>assistant\n",
    ),
    Format(
        name="Llama 3", stop=("<|start_header_id|>", "<|eot_id|>"),
        template=f"{_ALL}<|start_header_id|>{{{{ .Role }}}}<|end_header_id|>\n\n{{{{ .Content }}}}<|eot_id|>{_END}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    Format(
        name="Gemma", stop=("<start_of_turn>", "<end_of_turn>"),
        template=f"{_NUMBERED}{_USER}<start_of_turn>user\n{_FIRST}{{{{ $.System }}}}\n\n{_END}{{{{ .Content }}}}"
        f"<end_of_turn>\n{_ANSWER}<start_of_turn>model\n{{{{ .Content }}}}<end_of_turn>\n{_END}{_END}"
        "<start_of_turn>model\n",
    ),
    Format(
        name="Phi-3", stop=("<|user|>", "<|end|>"),
        template=f"{_ALL}<|{{{{ .Role }}}}|>\n{{{{ .Content }}}}<|end|>\n{_END}<|assistant|>\n",
    ),
    Format(
        name="Phi-4-mini", stop=("<|user|>", "<|end|>"),
        template=f"{_ALL}<|{{{{ .Role }}}}|>{{{{ .Content }}}}<|end|>{_END}<|assistant|>",
    ),
    *(
        Format(
            name=f"Mistral instruct{more}", stop=("[INST]",),
            template=f"{_NUMBERED}{_USER}[INST] {at}{{{{ $.System }}}}\n\n{_END}{{{{ .Content }}}}{close}"
            f"{_ANSWER}{before}{{{{ .Content }}}}EOS{after}{_END}{_END}",
        )
        for more, at, close, before, after in (
            (" v0.1", _FIRST, " [/INST]", "", ""),
            (" v0.1, with spaces", _FIRST, " [/INST]", "", " "),
            (" v0.2", _FIRST, " [/INST]", " ", ""),
            (" v0.3", _LAST, "[/INST]", " ", ""),
        )
    ),
    Format(
        name="Llama 2 chat", stop=("[INST]",),
        template=f"{_NUMBERED}{_USER}{{{{ if gt $i 1 }}}}BOS{_END}[INST] {_FIRST}<<SYS>>\n{{{{ $.System }}}}\n<</SYS>>"
        f"\n\n{_END}{{{{ .Content }}}} [/INST]{_ANSWER} {{{{ .Content }}}} EOS{_END}{_END}",
    ),
    Format(
        name="Tulu", stop=("<|user|>",),
        template=f'{_ALL}<|{{{{ .Role }}}}|>\n{{{{ .Content }}}}{{{{ if eq .Role "assistant" }}}}EOS{_END}\n{_END}'
        "<|assistant|>\n",
    ),
    Format(
        name="Zephyr", stop=("<|user|>",),
        template=f"{_ALL}<|{{{{ .Role }}}}|>\n{{{{ .Content }}}}EOS\n{_END}<|assistant|>\n",
    ),
    Format(
        name="Granite 3", stop=("<|start_of_role|>", "<|end_of_text|>"),
        template=f"{_ALL}<|start_of_role|>{{{{ .Role }}}}<|end_of_role|>{{{{ .Content }}}}<|end_of_text|>\n{_END}"
        "<|start_of_role|>assistant<|end_of_role|>",
    ),
    Format(
        name="plain", stop=("\n\nInstruction:",),
        template=f"{_ALL}{_USER}{PLAIN_ROLES['user']}{_ANSWER}{PLAIN_ROLES['assistant']}{_END}{{{{ .Content }}}}\n\n"
        f"{_END}Response:",
    ),
)  # fmt: skip

_SYSTEM = "You speak like a sailor.\nYou never lie: {{ .Role }} & <b>\u00e9\u00df</b>."
_TURNS = (
    "What is 2 + 2?\n\nAnswer in one word, \"please\".", "Four.\n- or 4", "Why? \u4e3a\u4ec0\u4e48",
    "Because {% it %} is.", "Thanks",
)  # fmt: skip


def _conversation(n: int, system: str = "") -> list[Message]:
    roles = ("user", "assistant")
    turns = [Message(roles[i % 2], text) for i, text in enumerate(_TURNS[:n])]
    return [Message("system", system), *turns] if system else turns


# the first of them is what a format without a system prompt must render too
PROBES = (_conversation(1), _conversation(3), _conversation(5))
SYSTEM_PROBES = (_conversation(1, _SYSTEM), _conversation(3, _SYSTEM), _conversation(5, _SYSTEM))


def find_format(metadata: Metadata) -> tuple[Format | None, str]:
    """Return the format for a GGUF file with this metadata, and "" or the reason why none is known."""
    source, adds_bos = _template_of(metadata), _adds_bos(metadata)
    if source is None:
        expected: list[str | None] = [_plain(c) for c in (*PROBES, *SYSTEM_PROBES)]
        source = TemplateText("", *_tokens(metadata))
    else:
        try:
            if describe_template(source.text).uses_clock:
                return None, "its chat template prints the date"
        except EngineError as e:
            return None, f"its chat template fails ({e})"
        expected = source.render_each((*PROBES, *SYSTEM_PROBES), required=len(PROBES))
        if None in expected[: len(PROBES)]:
            return None, "its chat template refuses plain conversations"
        prefix = source.bos if source.bos and all(t is None or t.startswith(source.bos) for t in expected) else ""
        if adds_bos is None:
            return None, "the file does not say whether BOS comes before prompts"
        if adds_bos and not prefix:
            return None, f"its vocabulary adds {source.bos or 'a token'} before prompts, and its chat template does not"
        expected = [text if text is None else text.removeprefix(prefix) for text in expected]
        if not adds_bos and prefix:
            found, why = _matching(expected, source)
            return (None if found is None else replace(found, template=prefix + found.template)), why
    return _matching(expected, source)


def _matching(expected: Sequence[str | None], source: TemplateText) -> tuple[Format | None, str]:
    """Return the first format that renders the probes as expected; where None is expected, anything will do."""
    for each in FORMATS:
        filled = replace(each, template=each.template.replace("BOS", source.bos).replace("EOS", source.eos))
        for system in ("", _default_system(expected)):
            if _renders(replace(filled, system=system), expected):
                return replace(filled, system=system), ""
    return None, "no format in pa-lite's table gives the prompts of its chat template"


def _renders(chosen: Format, expected: Sequence[str | None]) -> bool:
    for probe, text in zip((*PROBES, *SYSTEM_PROBES), expected, strict=True):
        messages = [GoMessage(message.role, message.content) for message in probe]
        if chosen.system and messages[0].Role != "system":
            messages.insert(0, GoMessage("system", chosen.system))
        if text is not None and render_go(chosen.template, messages) != text:
            return False
    return True


def _default_system(expected: Sequence[str | None]) -> str:
    """Return the system prompt that the template adds by itself, found where it puts a given one."""
    bare, given = expected[0], expected[len(PROBES)]
    if bare is None or given is None or _SYSTEM not in given:
        return ""
    before, _, after = given.partition(_SYSTEM)
    own = bare.removeprefix(before).removesuffix(after)
    return own if '"""' not in own and bare == before + own + after else ""


def _plain(conversation: Sequence[Message]) -> str:
    """Return the prompt of a model without a chat template, as `conversation_prompt` makes it."""
    return "\n\n".join([*(f"{PLAIN_ROLES.get(m.role, '')}{m.content}" for m in conversation), "Response:"])


def _template_of(metadata: Metadata) -> TemplateText | None:
    entry: Any = metadata.get(KEY)
    return None if entry is None or entry.type != "STRING" else TemplateText(str(entry.value), *_tokens(metadata))


def _tokens(metadata: Metadata) -> tuple[str, str]:
    return token_text(metadata, "bos"), token_text(metadata, "eos")


def token_text(metadata: Metadata, role: str) -> str:
    """Return the text of a special token of a GGUF file, such as `eos`; empty if it has none."""
    number: Any = metadata.get(f"tokenizer.ggml.{role}_token_id")
    tokens: Any = metadata.get("tokenizer.ggml.tokens")
    if number is None or tokens is None or tokens.type != "ARRAY" or not isinstance(number.value, int):
        return ""
    return str(tokens.value[number.value]) if 0 <= number.value < len(tokens.value) else ""


def _adds_bos(metadata: Metadata) -> bool | None:
    """Return whether BOS is added to prompts; None where programs differ because the file does not say it."""
    entry: Any = metadata.get("tokenizer.ggml.add_bos_token")
    kind: Any = metadata.get("tokenizer.ggml.model")
    if entry is not None and entry.type == "BOOL":
        return bool(entry.value)
    return True if kind is not None and kind.value == "llama" else None
