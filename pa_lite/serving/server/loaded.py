"""What the server has of a model once it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from pa_lite.engine.chat_template import template_of, template_use
from pa_lite.errors import EngineError
from pa_lite.serving.host import Host
from pa_lite.serving.server.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A host, its vocabulary, its chat template, and whether that reads `tools`. `label` names its model in errors."""

    host: Host
    vocabulary: Vocabulary
    template: str | None
    takes_tools: bool
    label: str

    @staticmethod
    def of(host: Host) -> Loaded:
        """Read what a host's model has. Takes a moment: a template is parsed in a limited process."""
        with host.models.vocabulary() as model:
            template, label = template_of(model), model.label
        try:
            variables = template_use(template, host.name).variables
        except EngineError:  # each chat request says what is wrong
            variables = frozenset()
        takes_tools = "tools" in variables
        return Loaded(host=host, vocabulary=Vocabulary(host), template=template, takes_tools=takes_tools, label=label)
