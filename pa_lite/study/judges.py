"""The judge of a study: its model, its chat options, and everything that determines its verdicts."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.chat_template import chat_facts, measured_options, template_of
from pa_lite.engine.model import Model
from pa_lite.engine.options import METHOD
from pa_lite.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge as a plan sends it to workers: `inputs` is everything that determines a verdict, except pair and prompt.

    `n_values` is its number of parameters, `n_bytes` the size of its weights.
    """

    reference: str
    chat: ChatOptions
    inputs: Mapping[str, Any]
    n_values: int
    n_bytes: int

    def check(self, model: Model) -> None:
        """Raise EngineError unless this is the judge that the study was planned with; a node may have another file."""
        if describe_judge(model, self.reference, self.chat).inputs != self.inputs:
            raise EngineError(
                f"{self.reference}: the judge on this machine differs from the one that the study was planned with. "
                "Use the same file, settings and versions on every machine."
            )


def describe_judge(model: Model, reference: str, chat: ChatOptions) -> Judge:
    """Return an open model as a judge; `chat` applies to the judge's prompts, and is resolved for its template."""
    template = template_of(model)
    chat = measured_options(template, chat, model.name)
    inputs = {
        "judge": model.fingerprint(), "judge_identity": model.identity(), "judge_header": model.header_inputs(),
        "context": model.max_length, "engine": model.options.inputs, "method": METHOD,
        "llama_cpp_python": importlib.metadata.version("llama-cpp-python"), **chat_facts(template, chat, model.name),
    }  # fmt: skip
    n_values = sum(math.prod(t.shape) for t in model.header.tensors.values())
    return Judge(reference=reference, chat=chat, inputs=inputs, n_values=n_values, n_bytes=model.weight_bytes)
