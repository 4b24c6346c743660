"""The meaning of generation settings, and the options class. Does not need lm-eval."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pa_lite.errors import InputError
from pa_lite.tasks.lm_eval.options import HarnessOptions, generation_options


@pytest.mark.parametrize(
    ("kwargs", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 0.7}, 0.7),
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0}, 0.0),
    ],
)
def test_when_a_text_is_sampled(kwargs: dict[str, Any], temperature: float) -> None:
    assert generation_options(kwargs).temperature == temperature


def test_stops_and_lengths() -> None:
    kwargs = {"until": "\n", "stop": ["Q:", "\n"], "max_tokens": 7, "max_new_tokens": 5.0, "num_beams": 1}
    options = generation_options(kwargs, "</s>", seed=3, parallel=4)
    assert (options.stop, options.max_tokens) == (("\n", "Q:", "</s>"), 5)
    assert (options.seed, options.parallel) == (3, 4)
    assert generation_options({"until": [""], "max_gen_toks": None}).stop == ()
    assert generation_options({}).max_tokens == 256


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temprature": 1}, "unknown key 'temprature'. Did you mean temperature?"),
        ({"max_gen_toks": "many"}, "'max_gen_toks' must be an integer, not 'many'."),
        ({"max_gen_toks": 1.5}, "'max_gen_toks' must be an integer, not 1.5."),
        ({"max_gen_toks": 0}, "max_tokens is 0; it must be at least 1."),
        ({"temperature": float("nan")}, "'temperature' must be a number, not nan."),
        ({"top_p": 0}, "top_p is 0.0; it must be above 0, up to 1."),
        ({"do_sample": "yes"}, "'do_sample' must be true or false, not 'yes'."),
        ({"until": 3}, "'until' must be a string or a list of strings, not 3."),
        ({"num_beams": 4}, "'num_beams' must be 1, as beam search is not supported, not 4."),
    ],
)
def test_invalid_settings_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        generation_options(kwargs)
    assert str(caught.value) == f"gen_kwargs: {message}"


def test_single_values_are_accepted() -> None:
    options = HarnessOptions(tasks="a, b", include_path="tasks", seeds=7, output_path="out")  # type: ignore[arg-type]
    assert (options.tasks, options.include_path) == (("a", "b"), (Path("tasks"),))
    assert (options.seeds, options.output_path) == ((7, 7, 7, 7), Path("out"))


def test_a_missing_lm_eval_names_the_extra(tmp_path: Path) -> None:
    code = "import sys; sys.modules['lm_eval'] = None; from pa_lite.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, "harness", "demo@0.7", "--tasks", "arc_easy", "-o", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: lm-eval is not installed. Install it with: pip install 'pa-lite[harness]'.\n"
    assert not (tmp_path / "out").exists()


def test_help_without_lm_eval_shows_the_engines_options() -> None:
    code = "import sys; sys.modules['lm_eval'] = None; from pa_lite.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "harness", "--help"], capture_output=True, text=True, check=True)
    assert "--gpu-layers" in done.stdout
    assert done.stdout.endswith("lm-eval is not installed. Install it with: pip install 'pa-lite[harness]'.\n")
