"""Run llama.cpp's converter on many folders; a fixture starts it.

Argument: its source folder. On stdin: a JSON list of [folder, type, output, pre-tokenizer or null]; the type
`vocabulary` writes only metadata.

The converter recognises a pre-tokenizer by the hash of a vocabulary. It cannot recognise our small ones, so it gets
the name, or uses GPT-2's, which is also OLMo's; with `own` it looks the hash up. Families whose models have only
SentencePiece get the vocabulary of the others. The rest of the converter is unchanged.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any


def prepare(source: str) -> Any:
    """Import the converter, which is slow, and replace what it cannot recognise; return its program."""
    sys.path.insert(0, source)
    import conversion.gemma
    import conversion.phi
    import convert_hf_to_gguf

    for family in (conversion.gemma.Gemma2Model, conversion.phi.Phi3MiniModel):

        def set_vocab(self: Any, own: Any = family.set_vocab) -> None:
            if (self.dir_model / "tokenizer.model").is_file():
                own(self)
            else:
                self._set_vocab_gpt2()

        family.set_vocab = set_vocab
    return convert_hf_to_gguf


def replace_look_up(pre: str | None) -> None:
    import conversion.base

    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: (
        pre or ("olmo" if self.hf_arch in ("OlmoForCausalLM", "OlmoeForCausalLM") else "gpt-2")
    )


def main() -> None:
    program = prepare(sys.argv[1])
    for folder, kind, output, pre in json.load(sys.stdin):
        child = os.fork()  # its map of names keeps state of earlier architectures
        if child == 0:
            what = ["--vocab-only"] if kind == "vocabulary" else ["--outtype", kind.lower()]
            sys.argv = ["convert", folder, *what, "--outfile", output]
            if pre != "own":
                replace_look_up(pre)
            try:
                program.main()
            except BaseException:  # noqa: BLE001 - this process must not continue as a copy of its parent
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{folder} was not converted")


if __name__ == "__main__":
    main()
