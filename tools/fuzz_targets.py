"""Every fuzzing target by name. Importing this imports the readers, which is when coverage is put into them."""

from __future__ import annotations

import fuzz_checkpoints
import fuzz_ggufs
import fuzz_remote
import fuzz_runs
import fuzz_texts
import fuzz_tokenizers
import fuzz_words
from fuzz_oracle import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (fuzz_checkpoints, fuzz_ggufs, fuzz_tokenizers, fuzz_texts, fuzz_remote, fuzz_runs, fuzz_words)
    for target in module.TARGETS
}
