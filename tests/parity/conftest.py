"""The peers: llama.cpp's converter from llama-cpp-python's source package, and transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Job = tuple[Path, str]
ConvertAll = Callable[[Sequence[Job]], list[Path]]
Convert = Callable[[Path, str], Path]

# Reads jobs as JSON, does each in a process of its own (the name map keeps what one architecture taught it), and prints
# what failed. The converter knows a pre-tokenizer by the hash of a vocabulary; it cannot know small ones of our own.
# Families whose models come with SentencePiece alone get the vocabulary that the others have.
_RUN = """
import json, os, sys, traceback
sys.path.insert(0, sys.argv[1])
import torch, transformers, conversion.base, conversion.gemma, conversion.phi
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
for family in (conversion.gemma.Gemma2Model, conversion.phi.Phi3MiniModel):
    def set_vocab(self, own=family.set_vocab):
        has_model = (self.dir_model / "tokenizer.model").is_file()
        return own(self) if has_model else self._set_vocab_gpt2()
    family.set_vocab = set_vocab
import convert_hf_to_gguf
torch.set_num_threads(1)
for source, kind, target in json.load(sys.stdin):
    child = os.fork()
    if child == 0:
        sys.argv = ["convert", source, "--outtype", kind.lower(), "--outfile", target]
        try:
            convert_hf_to_gguf.main()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{source} was not converted")
"""


@pytest.fixture(scope="session")
def convert_all(tmp_path_factory: pytest.TempPathFactory) -> ConvertAll:
    """Runs convert_hf_to_gguf.py on checkpoint folders: (folder, type) of each -> its GGUF file."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    source = os.environ.get("PA_LITE_LLAMA_CPP")
    if not source:
        pytest.skip("PA_LITE_LLAMA_CPP does not name llama.cpp's source folder")
    folder = tmp_path_factory.mktemp("converted")

    def run(jobs: Sequence[Job]) -> list[Path]:
        targets = [folder / f"{path.parent.name}-{path.name}-{kind}.gguf" for path, kind in jobs]
        work = [
            (str(path), kind, str(target))
            for (path, kind), target in zip(jobs, targets, strict=True)
            if not target.exists()
        ]
        if work:
            words = [sys.executable, "-c", _RUN, source]
            done = subprocess.run(words, input=json.dumps(work), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        return targets

    return run


@pytest.fixture(scope="session")
def convert(convert_all: ConvertAll) -> Convert:
    """The same for one folder: (folder, type) -> GGUF file."""
    return lambda path, kind: convert_all([(path, kind)])[0]
