"""How lm-eval's words are read; needs no lm-eval."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pa_lite.errors import InputError
from pa_lite.tasks.lm_eval.options import HarnessOptions, generation_options, parse_pairs, parse_seeds


def test_pairs() -> None:
    words = ["temperature=0.8,until=['a,b', \"c\"],do_sample=true", "top_k=5", "name=x y", "temperature=1e-3,n=None"]
    assert parse_pairs(words) == {
        "temperature": 0.001, "until": ["a,b", "c"], "do_sample": True, "top_k": 5, "name": "x y", "n": None,
    }  # fmt: skip
    assert parse_pairs(['{"a": [1, {"b": 2}]}', "a.b=(1, 2)"]) == {"a": [1, {"b": 2}], "a.b": (1, 2)}
    assert parse_pairs([]) == {}
    with pytest.raises(InputError, match=r"'temperature' is not KEY=VALUE"):
        parse_pairs(["temperature"])
    with pytest.raises(InputError, match=r"is no JSON object"):
        parse_pairs(['{"a": '])
    with pytest.raises(InputError, match="nested more than 64 deep"):
        parse_pairs(['{"a": ' + "[" * 5000])


@pytest.mark.parametrize("text", ["-" * 100_000 + "1", "[" * 5000, "(" * 90, "{[1]: 2}", '"\\d"x', "0_x", "9" * 5000])
def test_values_that_python_cannot_read_are_text(text: str, recwarn: pytest.WarningsRecorder) -> None:
    assert parse_pairs([f"a={text}"]) == {"a": text}
    assert not recwarn.list


def test_seeds() -> None:
    assert parse_seeds("42") == (42, 42, 42, 42)
    assert parse_seeds("0,None,8,52") == (0, None, 8, 52)
    assert parse_seeds("1,2,3") == (1, 2, 3, 1234)
    for text in ("x", "1,2", "1,2,3,4,5", "-1", ""):
        with pytest.raises(InputError, match="seed is"):
            parse_seeds(text)


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
        ({"temprature": 1}, "temprature is not known here. Did you mean temperature?"),
        ({"max_gen_toks": "many"}, "max_gen_toks is 'many', but must be a number."),
        ({"max_gen_toks": 1.5}, "max_gen_toks is 1.5, but must be a whole number."),
        ({"max_gen_toks": 0}, "max_tokens is 0; it must be at least 1."),
        ({"temperature": float("nan")}, "temperature is nan, but must be a number."),
        ({"top_p": 0}, "top_p is 0.0; it must be above 0, up to 1."),
        ({"do_sample": "yes"}, "do_sample is 'yes', but must be true or false."),
        ({"until": 3}, "until is 3, but must be a text or a list of texts."),
        ({"num_beams": 4}, "num_beams is 4; there is no beam search here: leave it at 1."),
    ],
)
def test_nonsense(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        generation_options(kwargs)
    assert str(caught.value) == f"gen_kwargs: {message}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"limit": 1.5}, "limit is 1.5"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": 2, "samples": {"a": [1]}}, "limit and samples"),
        ({"log_samples": True}, "--output_path"),
        ({"fewshot_as_multiturn": True}, "--apply_chat_template"),
        ({"cache_requests": "yes"}, "cache_requests is 'yes'"),
        ({"gen_kwargs": {"a": 1}}, "a is not known"),
    ],
)
def test_options_that_cannot_be(words: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HarnessOptions(tasks=("a",), **words)


def test_without_lm_eval_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['lm_eval'] = None; from pa_lite.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, "harness", "demo@0.7", "--tasks", "arc_easy", "-o", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: lm-eval is not installed. Install it with: pip install 'pa-lite[harness]'.\n"
    assert not (tmp_path / "out").exists()
