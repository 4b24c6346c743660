"""Files as commands need them: targets checked before work starts, and the system's own words for what went wrong."""

from __future__ import annotations

from pa_lite.system.atomic import check_target, system_words
from pa_lite.system.machine import little_memory

__all__ = ["check_target", "little_memory", "system_words"]
