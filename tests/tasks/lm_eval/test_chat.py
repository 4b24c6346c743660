"""lm-eval with a chat template: it gets arguments and date, and reasoning is removed from answers."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from pa_lite.engine.chat_options import ChatOptions
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import InputError
from pa_lite.tasks.lm_eval.model import PaLiteLM
from pa_lite.tasks.lm_eval.options import HarnessOptions
from pa_lite.tasks.lm_eval.run import run_harness
from tests.engine.test_chat import set_template
from tests.engine.test_chat_options import CLOCK, DAY, THINKING
from tests.tasks.lm_eval.test_model import Asked

USER = [{"role": "user", "content": "the man"}]


def test_the_template_gets_the_runs_date(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        set_template(model, CLOCK)
        with PaLiteLM(model, chat=ChatOptions(date=DAY)) as lm, PaLiteLM(model) as today:
            lm.chat_template(True)
            assert lm.apply_chat_template(USER).startswith("03 Feb 2026 12:00<|im_start|>user")
            assert lm.chat_facts == {"date": "2026-02-03"}
            assert lm.tokenizer_name != today.tokenizer_name
            assert today.chat_facts == {}  # no template is applied
            today.chat_template(True)
            assert today.chat_facts == {"date": date.today().isoformat()}


def test_reasoning_is_switched_off_or_removed(tiny_ggufs: dict[str, Path]) -> None:
    on = ChatOptions(template_args={"enable_thinking": True})
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        set_template(model, THINKING)
        with PaLiteLM(model) as off, PaLiteLM(model, chat=on) as thinking:
            said = []
            for lm in (off, thinking):
                lm.chat_template(True)
                context = lm.apply_chat_template(USER)
                said.append((context, *lm.generate_until([Asked((context, {"max_gen_toks": 6}))])))
            assert said[0][0].endswith("<think>\n\n</think>\n\n")
            assert said[0][1]
            assert said[1][0].endswith("<think>\n")
            assert said[1][1] == ""  # the whole output is unfinished reasoning
            assert thinking.chat_facts == {"template_args": {"enable_thinking": True}}
        with PaLiteLM(model) as plain:  # without the template nothing is removed
            assert plain.generate_until([Asked((said[1][0], {"max_gen_toks": 6}))]) != [""]


def test_template_arguments_require_the_template(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--template-arg requires --apply_chat_template"):
        run_harness("demo@1", HarnessOptions(tasks=("arc_easy",)), chat=ChatOptions(template_args={"a": 1}))
