"""All fuzzing targets by name. Importing this module imports the readers, and atheris instruments them then."""

from __future__ import annotations

from tools.fuzz import checkpoints, ggufs, remote, runs, texts, tokenizers, words
from tools.fuzz.oracle import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (checkpoints, ggufs, tokenizers, texts, remote, runs, words)
    for target in module.TARGETS
}
