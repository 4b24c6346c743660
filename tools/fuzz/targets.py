"""Every fuzzing target by name. Importing this imports the readers, which is when coverage is put into them."""

from __future__ import annotations

from tools.fuzz import checkpoints, ggufs, remote, runs, texts, tokenizers, words
from tools.fuzz.oracle import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (checkpoints, ggufs, tokenizers, texts, remote, runs, words)
    for target in module.TARGETS
}
