from __future__ import annotations

from pathlib import Path

import pytest

from pa_lite.checkpoints.source import string
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import EngineError

ONE = EngineOptions(threads=1)


def test_template_with_one_bos_and_control_tokens(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        (prompt,) = chat_prompts(model, ["the man"])
        text = "<|endoftext|><|im_start|>user\nthe man<|im_end|>\n<|im_start|>assistant\n"
        assert prompt == model.tokenize(text, add_special=False, parse_special=True)
        assert prompt[:2] == [0, 1]
        assert prompt.count(0) == 1


def test_without_a_template_a_plain_form(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        del model.header.metadata["tokenizer.chat_template"]
        (prompt,) = chat_prompts(model, ["the man"])
        assert model.text(prompt) == "Instruction: the man\n\nResponse:"
        assert prompt[0] == 0


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{% if %}", "{{ ''.__class__.__mro__ }}", "{{ 1/0 }}"]
)
def test_a_failing_template_is_one_error(tiny_ggufs: dict[str, Path], template: str) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        model.header.metadata["tokenizer.chat_template"] = string(template)
        with pytest.raises(EngineError, match="chat template fails"):
            chat_prompts(model, ["x"])
