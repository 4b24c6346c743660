"""A program of its own that renders a chat template, a stranger's code: limited in time, memory and output.

llama-cpp-python's sandbox keeps templates from Python's insides, but not from endless loops or 'a' * 10 ** 10: the
limits of `pa_lite.limited_worker` do.
"""

from __future__ import annotations

import functools
from typing import Any

from pa_lite.limited_worker import serve


@functools.lru_cache(maxsize=2)
def formatter(template: str, bos: str, eos: str, add_generation_prompt: bool) -> Any:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    return Jinja2ChatFormatter(
        template=template, bos_token=bos, eos_token=eos, add_generation_prompt=add_generation_prompt
    )


def render(request: dict[str, Any]) -> dict[str, Any]:
    """The text of every conversation. Raises whatever the template raises, ValueError for one that is too long."""
    fill = formatter(request["template"], request["bos"], request["eos"], request["add_generation_prompt"])
    texts = []
    for messages in request["conversations"]:
        text = fill(messages=messages).prompt
        most = request["characters"] + 4 * sum(len(m["content"]) for m in messages)
        if len(text) > most:
            raise ValueError(f"it makes a text of {len(text)} characters, more than {most}")
        texts.append(text)
    return {"texts": texts}


def main() -> None:
    """Render until there are no more requests."""
    import llama_cpp.llama_chat_format  # noqa: F401 - its own memory is not the template's

    serve(render)
