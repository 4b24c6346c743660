"""Run by a test: llama.cpp's converter on several folders in one process, its look-up of pre-tokenizers replaced.

The converter knows a pre-tokenizer by the hash of a vocabulary and cannot know small ones of our own; all else is its
own. Arguments: llama.cpp's source folder, a JSON file with a list of [folder, pre-tokenizer, output].
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path


def main() -> None:
    source, jobs = sys.argv[1:]
    sys.path.insert(0, source)
    sys.path.insert(0, str(Path(source) / "gguf-py"))
    import conversion.base
    import convert_hf_to_gguf

    for folder, pre, output in json.loads(Path(jobs).read_text("utf-8")):
        conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer, pre=pre: pre
        sys.argv = ["convert", folder, "--vocab-only", "--outfile", output]
        try:
            convert_hf_to_gguf.main()
        except Exception:  # noqa: BLE001 - told beside the missing output; the other folders go on
            Path(output).with_suffix(".error").write_text(traceback.format_exc(), "utf-8")


if __name__ == "__main__":
    main()
