"""Checks before work starts, and descriptions of operating system errors, for the commands."""

from __future__ import annotations

from pa_lite.system.atomic import check_target, system_words
from pa_lite.system.machine import little_memory

__all__ = ["check_target", "little_memory", "system_words"]
