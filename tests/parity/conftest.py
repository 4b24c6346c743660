"""The peers: llama.cpp's converter from llama-cpp-python's source package, and transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Convert = Callable[[Path, str], Path]

# the converter knows a pre-tokenizer by the hash of a vocabulary; it cannot know small ones of our own
_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
import convert_hf_to_gguf
sys.argv = ["convert", sys.argv[2], "--outtype", sys.argv[3], "--outfile", sys.argv[4]]
convert_hf_to_gguf.main()
"""


@pytest.fixture(scope="session")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Runs convert_hf_to_gguf.py on a checkpoint folder: (folder, type) -> GGUF file."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    source = os.environ.get("PA_LITE_LLAMA_CPP")
    if not source:
        pytest.skip("PA_LITE_LLAMA_CPP does not name llama.cpp's source folder")
    folder = tmp_path_factory.mktemp("converted")

    def run(checkpoint: Path, kind: str) -> Path:
        target = folder / f"{checkpoint.parent.name}-{checkpoint.name}-{kind}.gguf"
        if not target.exists():
            words = [sys.executable, "-c", _RUN, source, str(checkpoint), kind.lower(), str(target)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
        return target

    return run
