"""Find out what a model's chat template reads, and fix its settings before a measurement. Renders nothing."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.model import Model
from pa_lite.engine.reasoning import MARKERS
from pa_lite.errors import EngineError
from pa_lite.untrusted.sandbox import LimitedProcess

_log = logging.getLogger(__name__)
WORKER = "pa_lite.engine.template_worker"
MEMORY = 512 << 20  # bytes beyond what the worker holds when it starts to render
SECONDS = 5  # of processor time
KEY = "tokenizer.chat_template"


@dataclass(frozen=True)
class TemplateUse:
    """The variables that a chat template reads and does not set, and the reasoning markers in its text."""

    variables: frozenset[str]
    words: frozenset[str]

    @property
    def uses_clock(self) -> bool:
        """Whether the template may print the date."""
        return "strftime_now" in self.variables


def has_template(model: Model) -> bool:
    """Return whether a model has a chat template; without one, prompts have the plain form."""
    return template_of(model) is not None


def template_of(model: Model) -> str | None:
    """Return the text of a model's chat template, None without one."""
    return template_in(model.header.metadata)


def template_in(metadata: Mapping[str, Any]) -> str | None:
    """Return the text of the chat template in a GGUF header's metadata, None without one."""
    return str(metadata[KEY].value) if KEY in metadata else None


@functools.lru_cache(maxsize=8)
def describe_template(template: str) -> TemplateUse:
    """Return what a template reads, by parsing it in the sandbox; comments do not count.

    Raises EngineError if it cannot be parsed within the limits; the message has no full stop.
    """
    words = [word for m in MARKERS for word in (m.start, m.end)]
    with LimitedProcess(WORKER, MEMORY) as process:
        found = process.ask({"template": template, "words": words}, SECONDS)
    return TemplateUse(frozenset(found["variables"]), frozenset(found["words"]))


def measured_options(template: str | None, options: ChatOptions | None, name: str) -> ChatOptions:
    """Return the options with everything fixed that a measurement depends on: the date, and reasoning off.

    Without a date, it is today. A template that reads `enable_thinking` gets false unless the options set it. Arguments
    that the template never reads are removed. Both are logged as warnings; `name` is the model's name there. Options
    that were fixed before are returned unchanged. Raises EngineError when the template cannot be parsed.
    """
    options = options or ChatOptions()
    use = template_use(template, name)
    given = options.template_args
    arguments = {key: value for key, value in given.items() if key in use.variables}
    if unused := ", ".join(f"{key}=..." for key in given.keys() - arguments.keys()):
        what = "has no chat template" if template is None else "has a chat template that does not read it"
        _log.warning("%s %s: --template-arg %s has no effect.", name, what, unused)
    if "enable_thinking" in use.variables and "enable_thinking" not in arguments:
        advice = "--template-arg enable_thinking=true turns it on"
        _log.warning("%s can reason before it answers: switched off for measurements. %s.", name, advice)
        arguments["enable_thinking"] = False
    return replace(options, template_args=arguments, date=options.date or date.today())


def chat_facts(template: str | None, options: ChatOptions, name: str = "the model") -> dict[str, Any]:
    """Return the options that affect a model's prompts, as JSON values.

    The date is included only if the template may print it: otherwise results of different days are the same.
    """
    facts: dict[str, Any] = {}
    if options.system:
        facts["system"] = options.system
    if template is None:
        return facts
    use = template_use(template, name)
    if used := {key: value for key, value in options.template_args.items() if key in use.variables}:
        facts["template_args"] = used
    if use.uses_clock and options.date is not None:
        facts["date"] = options.date.isoformat()
    return facts


def template_use(template: str | None, name: str) -> TemplateUse:
    if template is None:
        return TemplateUse(frozenset(), frozenset())
    try:
        return describe_template(template)
    except EngineError as e:
        raise EngineError(f"{name}: its chat template fails: {e}.") from e
