"""The fuzzer of llama.cpp judges files correctly: what runs, who refuses it, why it crashes; and is reproducible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.test_probe import endless
from tests.engine.test_refusals import changed, float32
from tools import ROOT

_JUDGE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tools.fuzz import engine
campaign = engine.Campaign(Path(sys.argv[2]), False)
found = {}
for file in sys.argv[3:]:
    data = Path(file).read_bytes()
    found[Path(file).stem] = [campaign.judge(data), campaign.run()]
print(json.dumps(found))
"""
_TWICE = """
import hashlib, sys
from pathlib import Path
from random import Random
sys.path.insert(0, sys.argv[1])
from tools.fuzz import engine
data = Path(sys.argv[2]).read_bytes()
made = [engine.gentle(data, Random(i)) for i in range(40)]
print(len(set(made)), hashlib.sha256(b"".join(made)).hexdigest())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_files_are_judged(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    """Runs in a separate process, which loads only llama.cpp's bindings, and forks."""
    sound = tiny_ggufs["F32"]
    epsilon = changed(sound, tmp_path / "epsilon.gguf", {"llama.attention.layer_norm_rms_epsilon": float32(-1)}, {})
    without_end = endless(sound, tmp_path / "endless.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(sound.read_bytes()[:5000])
    (tmp_path / "folder").mkdir()
    whole = tmp_path / "sound.gguf"
    whole.write_bytes(sound.read_bytes())
    files = [str(f) for f in (whole, epsilon, without_end, cut)]
    words = [sys.executable, "-c", _JUDGE, str(ROOT), str(tmp_path / "folder"), *files]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["sound"] == [["ran", ""]] * 2
    assert [outcome for outcome, _ in told["epsilon"]] == ["refused by check_loadable", "killed"]
    assert "SIGABRT ops.cpp" in told["epsilon"][1][1]
    assert "GGML_ASSERT(eps >= 0.0f) failed" in told["epsilon"][1][1]
    assert [outcome for outcome, _ in told["endless"]] == ["refused by check_loadable", "memory"]
    assert told["cut"][0][0] == "refused by the reader"
    assert told["cut"][1][0] == "refused by llama.cpp"


def test_campaign_files_are_reproducible(tiny_ggufs: dict[str, Path]) -> None:
    words = [sys.executable, "-c", _TWICE, str(ROOT), str(tiny_ggufs["F32"])]
    once, again = (subprocess.run(words, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert once == again
    assert int(once.split()[0]) > 30
