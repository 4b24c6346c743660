from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.errors import InputError
from pa_lite.merging.memory import check_memory, planned_bytes, thread_bytes
from pa_lite.merging.plan import MergePlan, plan_merge
from tests.support import tiny


@pytest.fixture(scope="module")
def plan(tiny_pair: tuple[Path, Path]) -> MergePlan:
    return plan_merge(open_checkpoint(tiny_pair[0]), open_checkpoint(tiny_pair[1]))


def test_threads_are_reduced_to_fit_the_bound(plan: MergePlan) -> None:
    assert check_memory(plan, 4, 0).threads == 4
    assert check_memory(plan, 4, 1 << 40).threads == 4
    assert check_memory(plan, 4, planned_bytes(plan, 2) + thread_bytes(plan) // 2).threads == 2
    with pytest.raises(InputError, match=r"--max-memory 1M is not enough: this merge needs \d+M"):
        check_memory(plan, 4, 1_000_000)


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage does not give the peak of only this process")
def test_the_peak_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Eight times the layers take some megabytes more, and no more memory than that."""
    code = (
        "import sys, pa_lite, re\n"
        "from pa_lite.merging.write import MergeOptions\n"
        "pa_lite.merge(sys.argv[1], sys.argv[1], (0.5,), output=sys.argv[2], options=MergeOptions(threads=2))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    peaks = []
    for layers in (2, 16):
        config = {**tiny.CONFIG, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": layers}
        folder = tiny.write_checkpoint(tmp_path / str(layers), tiny.weights(1, config), config=config)
        words = [sys.executable, "-c", code, str(folder), str(tmp_path / f"{layers}.gguf")]
        peaks.append(int(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < 1.1 * peaks[0]
