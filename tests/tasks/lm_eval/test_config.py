"""Options are read by lm-eval's own parser and configuration, and unsupported ones are refused."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path
from typing import Any

import click
import pytest

pytest.importorskip("lm_eval")

from lm_eval._cli.run import Run
from lm_eval.config.evaluate_config import EvaluatorConfig

import pa_lite
from pa_lite.cli import cli, main
from pa_lite.cli.harness import LmEvalCommand
from pa_lite.errors import InputError
from pa_lite.tasks.lm_eval.config import evaluator_config, lm_eval_parser, parse_words, read_config
from pa_lite.tasks.lm_eval.options import SEEDS, HarnessOptions

COMMAND = cli.commands["harness"]


def parsed(*words: str) -> dict[str, Any]:
    """Return the parsed options of a command line."""
    assert isinstance(COMMAND, LmEvalCommand)
    context = click.Context(COMMAND, info_name="harness", help_option_names=["-h", "--help"])
    COMMAND.parse_args(context, list(words))
    return context.params


def test_every_option_of_lm_evals_command_is_accepted() -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    Run.create(commands)
    theirs, ours = (set(re.findall(r"--\w+", p.format_help())) for p in (commands.choices["run"], lm_eval_parser()))
    assert len(theirs) > 30
    refused = {"--wandb_args", "--wandb_config_args", "--trackio_args", "--hf_hub_log_args", "--trust_remote_code"}
    assert theirs - ours == {"--help", *refused}
    assert ours - theirs == {"--shots", "--system", "--parallel"}


def test_options_of_pa_lite_and_lm_eval_in_any_order() -> None:
    for words in (
        ["demo@0.7", "--threads", "2", "-t", "a,b", "c", "--no-probe", "--gen_kwargs", "top_k=3", "until=['x,y']"],
        ["--no-probe", "-t", "a,b,c", "--gen_kwargs", "top_k=3,until=['x,y']", "--threads", "2", "demo@0.7"],
        ["--tasks", "a,b,c", "demo@0.7", "--gen_kwargs=top_k=3,until=['x,y']", "--threads=2", "--no-probe"],
    ):
        params = parsed(*words)
        config = params["config"]
        assert isinstance(config, EvaluatorConfig)
        assert (config.tasks, config.gen_kwargs) == (["a", "b", "c"], {"top_k": 3, "until": ["x,y"]})
        assert (params["words"], params["threads"], params["probe"]) == (("demo@0.7",), 2, False)
        assert (config.batch_size, config.device, config.model) == ("auto", None, "pa-lite")
        assert config.seed == list(SEEDS)
    assert parsed("base", "instruct", "--lam", "0.5", "-t", "a")["words"] == ("base", "instruct")


def test_additional_spellings() -> None:
    words = ["--shots", "3", "--system", "Be brief.", "--parallel", "4", "--include_path", "x", "--include_path", "y"]
    config = parsed("demo@0.7", "--tasks", "a", *words)["config"]
    assert (config.num_fewshot, config.system_instruction, config.batch_size) == (3, "Be brief.", "4")
    assert config.include_path == ["x", "y"]


def test_a_yaml_file_sets_options_that_the_command_line_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "tasks: [a, b]\nlimit: 5\nseed: 3\nbatch_size: 2\nmodel_args: {model: demo@0.7, n_ctx: 64}\n", "utf-8"
    )
    params = parsed("--config", str(path), "--limit", "7")
    config = params["config"]
    assert (config.tasks, config.limit, config.seed, config.batch_size) == (["a", "b"], 7.0, [3] * 4, 2)
    assert (params["words"], config.model_args["n_ctx"]) == (("demo@0.7",), 64)
    assert capsys.readouterr().out == ""
    path.write_text("tasks: a\nlimits: 5\n", "utf-8")
    with pytest.raises(InputError, match=r"run.yaml: has the unknown key 'limits'. Did you mean limit"):
        parsed("demo@0.7", "--config", str(path))
    for text, message in (
        ("[1]", "YAML root must be a mapping"),
        ("a: [", "Invalid YAML"),
        ("model: hf\ntasks: a", "'hf'"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(InputError, match=message):
            parsed("demo@0.7", "--config", str(path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--wandb_args", "project=x"], "--wandb_args is not supported: pa-lite only writes result files"),
        (["--hf_hub_log_args", "hub_results_org=x"], "--hf_hub_log_args is not supported"),
        (["--trust_remote_code"], "--trust_remote_code is not supported: pa-lite does not run code"),
        (["--samples", "[1]"], "--samples must be JSON like"),
        (["--samples", '{"a": [-1]}'], "--samples must be JSON like"),
        (["--num_fewshot", "-1"], "--num_fewshot is -1, but must be 0 or more"),
        (["--seed", "x"], "--seed: invalid value: 'x'"),
        (["--limit", "x"], "--limit/-L: invalid float value: 'x'"),
        (["--cache_requests", "yes"], "invalid value 'yes' (choose from true, refresh, delete)"),
        (["--gen_kwargs", "temperature"], "expected `key=value`, got 'temperature'"),
        (["--threads", "many"], "'many' is not a valid integer"),
        (["--no-such"], "unrecognized arguments: --no-such"),
    ],
)
def test_bad_options_are_refused_by_name(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["harness", "demo@0.7", "--tasks", "a", *words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said.replace("\n", " ")
    assert "functools" not in said


def test_tasks_and_a_model_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in ((["demo@0.7"], "no tasks are given"), (["--tasks", "a"], "missing argument 'MODEL'")):
        with pytest.raises(SystemExit) as ended:
            main(["harness", *words])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"limit": 1.5}, "limit is 1.5"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": 2, "samples": {"a": [1]}}, "samples"),
        ({"log_samples": True}, "--output_path"),
        ({"fewshot_as_multiturn": True}, "apply_chat_template"),
        ({"cache_requests": "yes"}, "invalid value 'yes'"),
        ({"gen_kwargs": {"a": 1}}, "unknown key 'a'"),
        ({"gen_kwargs": "a"}, "expected `key=value`"),
        ({"samples": {"a": ["x"]}}, "--samples must be JSON like"),
        ({"samples": "nothing"}, "'nothing' is neither a JSON object nor a file that contains one"),
        ({"seeds": (0, 1)}, "seed expects"),
        ({"seeds": (0, -1, 0, 0)}, "must be integers from 0 to"),
        ({"num_fewshot": -1}, "--num_fewshot is -1"),
    ],
)
def test_invalid_values_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluator_config(HarnessOptions(tasks=("a",), **words))


def test_options_become_lm_evals_configuration(tmp_path: Path) -> None:
    options = HarnessOptions(
        tasks="a,b", gen_kwargs="top_k=3,until=['x,y']", seeds=7, cache_requests="refresh", include_path=tmp_path,  # type: ignore[arg-type]
        metadata={"k": 1}, bootstrap_iters=5, predict_only=True, output_path=tmp_path, apply_chat_template=True,
    )  # fmt: skip
    config = evaluator_config(options)
    assert (config.tasks, config.gen_kwargs) == (["a", "b"], {"top_k": 3, "until": ["x,y"]})
    assert (config.seed, config.include_path) == ([7] * 4, [str(tmp_path)])
    assert config.cache_requests == {
        "cache_requests": True,
        "rewrite_requests_cache": True,
        "delete_requests_cache": False,
    }
    assert (config.log_samples, config.fewshot_as_multiturn, config.bootstrap_iters) == (True, True, 5)
    assert evaluator_config(config) is config


def test_lm_evals_own_configuration_is_accepted(tmp_path: Path) -> None:
    config = evaluator_config(EvaluatorConfig(tasks=["a,b"], limit=3, samples=None, batch_size=4))
    assert (config.tasks, config.limit, config.batch_size, config.model) == (["a", "b"], 3, 4, "pa-lite")
    with pytest.raises(InputError, match="is not HarnessOptions"):
        evaluator_config(pa_lite.ScoreOptions())
    with pytest.raises(InputError, match="is not HarnessOptions"):
        evaluator_config({"tasks": "a"})


@pytest.mark.parametrize("text", ["-" * 100_000 + "1", "[" * 5000, "(" * 90, "{[1]: 2}", "9" * 5000])
def test_unparsable_values_are_strings_or_one_error(text: str) -> None:
    parser = lm_eval_parser()
    with contextlib.suppress(argparse.ArgumentError):
        assert read_config(parse_words(parser, ["--tasks", "a", f"--metadata=a={text}"])).metadata["a"] == text


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["harness", "--help"])
    said = capsys.readouterr().out
    for word in ("MODEL", "--config", "--num_fewshot", "--gpu-layers", "--no-probe", "--template-arg", "examples:"):
        assert word in said
    assert "lm-eval run --model" not in said
