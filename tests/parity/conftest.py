"""Fixtures for the peers: llama.cpp's converter from llama-cpp-python's source package, and transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Job = tuple[Path, str] | tuple[Path, str, str]
ConvertAll = Callable[[Sequence[Job]], list[Path]]
Convert = Callable[[Path, str], Path]

_PROGRAM = Path(__file__).with_name("run_converter.py")


@pytest.fixture(scope="session")
def convert_all(tmp_path_factory: pytest.TempPathFactory) -> ConvertAll:
    """Runs convert_hf_to_gguf.py on checkpoint folders: (folder, type[, pre-tokenizer]) of each -> its GGUF file.

    The type `vocabulary` writes a file without tensors; the folder needs no weights.
    """
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    source = os.environ.get("PA_LITE_LLAMA_CPP")
    if not source:
        pytest.skip("set PA_LITE_LLAMA_CPP to llama.cpp's source folder")
    folder = tmp_path_factory.mktemp("converted")

    def run(jobs: Sequence[Job]) -> list[Path]:
        targets = [folder / f"{path.parent.name}-{path.name}-{kind}.gguf" for path, kind, *_ in jobs]
        work = [
            (str(path), kind, str(target), pre[0] if pre else None)
            for (path, kind, *pre), target in zip(jobs, targets, strict=True)
            if not target.exists()
        ]
        if work:
            words = [sys.executable, str(_PROGRAM), source]
            done = subprocess.run(words, input=json.dumps(work), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        return targets

    return run


@pytest.fixture(scope="session")
def convert(convert_all: ConvertAll) -> Convert:
    """The same for one folder: (folder, type) -> GGUF file."""
    return lambda path, kind: convert_all([(path, kind)])[0]
