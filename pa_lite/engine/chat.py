"""Chat prompts: the model's own template in llama-cpp-python's sandbox, or a plain form for models without one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from pa_lite.engine.model import Model
from pa_lite.errors import EngineError


@functools.lru_cache(maxsize=8)
def _formatter(template: str, bos: str, eos: str) -> Any:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    return Jinja2ChatFormatter(template=template, bos_token=bos, eos_token=eos, add_generation_prompt=True)


def chat_prompts(model: Model, instructions: Sequence[str]) -> list[list[int]]:
    """Token ids of each instruction as the user's only turn, ready for the assistant's answer.

    The rendered text brings its own BOS. A model without a template gets `Instruction: ...\\n\\nResponse:` with the BOS
    that its vocabulary asks for. Raises EngineError when the template fails.
    """
    entry = model.header.metadata.get("tokenizer.chat_template")
    if entry is None:
        return [model.tokenize(f"Instruction: {text}\n\nResponse:") for text in instructions]
    try:
        formatter = _formatter(str(entry.value), model.special_text("bos"), model.special_text("eos"))
        rendered = [formatter(messages=[{"role": "user", "content": text}]).prompt for text in instructions]
    except Exception as e:  # whatever a stranger's template raises is its own fault
        raise EngineError(f"{model.path}: its chat template fails: {type(e).__name__}: {e}") from e
    return [model.tokenize(text, add_special=False, parse_special=True) for text in rendered]
