"""Long words with pre-tokenizers whose patterns go one call deeper for each character."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pa_lite.checkpoints.source import array, string
from pa_lite.engine.deep_stack import MOST, longest_stretch, with_deep_stack
from pa_lite.errors import InputError
from tests.ggufs import write_gguf_header
from tests.tiny import byte_letters

_TOKENIZE = """
import os, sys, threading
import llama_cpp.llama_cpp as lib
from pa_lite.checkpoints.gguf_model import read_model_header
from pa_lite.engine.model_vocabulary import ModelVocabulary
from pathlib import Path
params = lib.llama_model_default_params()
params.vocab_only = True
model = ModelVocabulary()
loaded = lib.llama_model_load_from_file(os.fsencode(sys.argv[1]), params)
model.lib, model.vocab, model.header = lib, lib.llama_model_get_vocab(loaded), read_model_header(Path(sys.argv[1]))
def check():
    for unit in ("a", "A", "\\u4e16", "7", "!", "\\n", "a1", "\\u0301"):
        text = unit * (40_000 // len(unit))
        assert b"".join(map(model.piece, model.tokenize(text, add_special=False))).decode() == text, unit
    print("whole", flush=True)
check()
threading.stack_size(256 * 1024)
thread = threading.Thread(target=check)
thread.start()
thread.join()
"""


def _write(path: Path, pre: str) -> None:
    letters = [*byte_letters()]
    metadata = {
        "general.name": string("test"), "tokenizer.ggml.model": string("gpt2"), "tokenizer.ggml.pre": string(pre),
        "tokenizer.ggml.tokens": array("STRING", [*letters, "aa"]),
        "tokenizer.ggml.token_type": array("INT32", [1] * (len(letters) + 1)),
        "tokenizer.ggml.merges": array("STRING", ["a a"]),
    }  # fmt: skip
    write_gguf_header(path, "llama", metadata, {})


@pytest.mark.parametrize("pre", ["gpt-4o", "tekken", "deepseek-llm", "deepseek-v3", "bloom", "exaone-moe", "gpt-2"])
def test_long_words_are_tokenised_in_any_thread(tmp_path: Path, pre: str) -> None:
    _write(tmp_path / "m.gguf", pre)
    command = [sys.executable, "-c", _TOKENIZE, str(tmp_path / "m.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "whole\nwhole\n"), done.stderr[-2000:]


def test_a_word_beyond_the_limit_is_refused() -> None:
    with pytest.raises(InputError, match=f"a stretch of {MOST + 1} characters"):
        with_deep_stack("ab " + "a" * (MOST + 1), lambda: pytest.fail("it must not be asked"), False)
    assert with_deep_stack("a" * MOST, lambda: 7, False) == 7


def test_white_space_belongs_to_the_word_before_it() -> None:
    assert longest_stretch("ab  cde\n\n\u00a0 f") == (4, 7)
    assert longest_stretch("ab cd\nefg hij kl, m", joins_words=True) == (6, 10)
