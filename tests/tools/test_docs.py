"""The generated references in the package are up to date."""

from __future__ import annotations

import pa_lite
from pa_lite.cli import cli
from tools.docs.reference import api_reference, command_reference, stale


def test_references_are_up_to_date() -> None:
    assert [path.name for path in stale()] == [], "run python -m tools.docs"


def test_every_name_and_command_is_in_them() -> None:
    api, commands = api_reference(), command_reference()
    for name in pa_lite.__all__:
        assert name == "__version__" or f"\n### {name}\n" in api
    for name, command in cli.commands.items():
        assert f"\n## pa-lite {name}\n" in commands
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                assert parameter.opts[0] == "--engine"
            elif parameter.param_type_name == "option":
                assert f"`{parameter.opts[0]}`" in commands
