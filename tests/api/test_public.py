"""The public API: names, types, keywords, forms of arguments, old paths, and the installed package."""

from __future__ import annotations

import ast
import collections.abc
import importlib
import subprocess
import sys
import types
import typing
import venv
import warnings
import zipfile
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite import _old_paths
from pa_lite.api.options import fill
from pa_lite.errors import InputError, PaLiteError

ROOT = Path(pa_lite.__file__).parents[1]
ENGINE, CHAT = pa_lite.EngineOptions, pa_lite.ChatOptions
# function -> option classes whose fields are its keywords, and fields that it deliberately lacks
KEYWORDS: list[tuple[Any, type, set[str]]] = [
    (pa_lite.merge, pa_lite.PlanOptions, set()),
    (pa_lite.merge, pa_lite.MergeOptions, set()),
    (pa_lite.preview, pa_lite.PlanOptions, set()),
    (pa_lite.preview, pa_lite.MergeOptions, set()),
    (pa_lite.load, ENGINE, set()),
    (pa_lite.serve, pa_lite.ServeOptions, set()),
    (pa_lite.serve, ENGINE, set()),
    (pa_lite.LoadedModel.score, pa_lite.ScoreOptions, set()),
    (pa_lite.LoadedModel.generate, pa_lite.GenerationOptions, set()),
    (pa_lite.LoadedModel.generate, CHAT, set()),
    (pa_lite.LoadedModel.chat, pa_lite.GenerationOptions, {"parallel"}),  # only one conversation
    (pa_lite.LoadedModel.chat, CHAT, set()),
    (pa_lite.LoadedModel.follow, CHAT, set()),
    *((f, pa_lite.StudyOptions, set()) for f in (pa_lite.sweep, pa_lite.plan_sweep)),
    # one model at a time, and no judge
    (pa_lite.search, pa_lite.StudyOptions, {"workers", "alpaca", "alpaca_limit", "judge", "reference", "calibration"}),
    (pa_lite.search, pa_lite.SearchOptions, set()),
    (pa_lite.tune, pa_lite.StudyOptions, {"alpaca", "alpaca_limit", "judge", "reference", "calibration"}),
    (pa_lite.tune, pa_lite.Goal, set()),
    (pa_lite.search, pa_lite.Goal, set()),
    *(
        # noise_sample is for commands that score once; a search draws exemplars once
        (f, c, {"noise_sample", "seeds"} if f is pa_lite.search else {"noise_sample"})
        for f in (pa_lite.sweep, pa_lite.plan_sweep, pa_lite.search)
        for c in (pa_lite.ScoreOptions, CHAT, ENGINE)
    ),
    (pa_lite.compare, pa_lite.GenerationOptions, {"parallel"}),  # each lam takes a few questions at a time
    (pa_lite.compare, CHAT, set()),
    (pa_lite.compare, ENGINE, set()),
    (pa_lite.judge, pa_lite.JudgeOptions, set()),
    (pa_lite.judge, ENGINE, set()),
    (pa_lite.judge, CHAT, set()),
]


def test_every_public_name_is_listed_imported_and_typed() -> None:
    tree = ast.parse(Path(pa_lite.__file__).read_text("utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        str(alias.asname): f"{node.module}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == pa_lite._MODULES
    assert sorted(pa_lite.__all__) == sorted({*typed, "__version__"})
    for name in pa_lite.__all__:
        assert getattr(pa_lite, name) is not None
        assert name in dir(pa_lite)
    with pytest.raises(AttributeError, match="no attribute 'nowhere'"):
        pa_lite.nowhere  # type: ignore[attr-defined]  # noqa: B018


def test_the_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, pa_lite; loaded = set(sys.modules); pa_lite.PaLiteError\n"
        "print([m for m in ('numpy', 'llama_cpp', 'click', 'typing', 'dataclasses', 'pa_lite.api') if m in loaded])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def parts(hint: Any) -> set[Any]:
    """Return the members of a union; containers are compared by their element types, and tuples are sequences."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return {part for member in typing.get_args(hint) for part in parts(member)}
    if typing.get_origin(hint) in (tuple, collections.abc.Sequence):
        inner = [a for a in typing.get_args(hint) if a is not Ellipsis]
        if typing.get_origin(hint) is tuple and len(inner) > 1 and Ellipsis not in typing.get_args(hint):
            return {hint}
        return {("sequence", part) for member in inner for part in parts(member)}
    return {hint}


@pytest.mark.parametrize(
    ("function", "options", "left"), KEYWORDS, ids=lambda v: getattr(v, "__name__", "" if isinstance(v, set) else None)
)
def test_keywords_have_names_and_types_of_option_fields(function: Any, options: type, left: set[str]) -> None:
    keywords, wanted = typing.get_type_hints(function), typing.get_type_hints(options)
    defaults = function.__kwdefaults__ or {}
    for field in fields(options):
        if field.name in left:
            assert field.name not in keywords
            continue
        assert field.name in keywords, f"{function.__name__} lacks {field.name} of {options.__name__}"
        missing = parts(wanted[field.name]) - parts(keywords[field.name])
        assert not missing, f"{function.__name__}: {field.name} does not take {missing}"
        # None keeps the default, unless it is another value of the field
        is_value = type(None) in parts(wanted[field.name]) and field.default not in (None, MISSING)
        assert defaults.get(field.name, None) == (field.default if is_value else None)


def test_none_stands_for_the_default_and_keywords_change_given_options() -> None:
    plan = pa_lite.PlanOptions(type="F16", vocab="base")
    assert fill(pa_lite.PlanOptions, {"type": None, "vocab": None}) == pa_lite.PlanOptions()
    assert fill(pa_lite.PlanOptions, {"type": "q4_0", "vocab": None}, plan) == pa_lite.PlanOptions(
        type="Q4_0", vocab="base"
    )
    with pytest.raises(InputError, match="is not PlanOptions"):
        fill(pa_lite.PlanOptions, {}, pa_lite.MergeOptions())


def test_options_are_frozen_and_take_keywords_only() -> None:
    for name in pa_lite.__all__:
        options = getattr(pa_lite, name)
        if name.endswith("Options"):
            assert options.__dataclass_params__.frozen
            assert all(field.kw_only for field in fields(options)), name


def test_strings_are_accepted_for_lists(tmp_path: Path) -> None:
    study = pa_lite.StudyOptions(
        lams="0:1:0.5", tasks="a, b", types="f16,q8_0", schedule="ffn: 0.2", reference="x.json"  # type: ignore[arg-type]
    )  # fmt: skip
    assert (study.lams, study.tasks, study.types) == ((0.0, 0.5, 1.0), ("a", "b"), ("F16", "Q8_0"))
    assert (study.schedule.text, study.reference) == ("ffn: 0.2", Path("x.json"))
    assert pa_lite.GenerationOptions(stop="\n").stop == ("\n",)  # type: ignore[arg-type]
    plan = pa_lite.PlanOptions(type="q4_k_m", tensor_types="attn_v=q8_0", imatrix="i.gguf")  # type: ignore[arg-type]
    assert (plan.type, plan.tensor_types, plan.imatrix) == ("Q4_K_M", (("attn_v", "q8_0"),), Path("i.gguf"))
    assert pa_lite.MergeOptions(max_memory="256M").max_memory == 256_000_000  # type: ignore[arg-type]
    run = pa_lite.HarnessOptions(tasks="a,b", include_path="tasks", seeds=7)  # type: ignore[arg-type]
    assert (run.tasks, run.include_path, run.seeds) == (("a", "b"), (Path("tasks"),), (7, 7, 7, 7))
    assert str(pa_lite.ChatOptions(date="2026-02-28").date) == "2026-02-28"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: pa_lite.StudyOptions(lams="much"),  # type: ignore[arg-type]
        lambda: pa_lite.StudyOptions(lams=[0.1, None]),  # type: ignore[arg-type]
        lambda: pa_lite.StudyOptions(lams=True),  # type: ignore[arg-type]
        lambda: pa_lite.StudyOptions(tasks=[1]),  # type: ignore[arg-type]
        lambda: pa_lite.PlanOptions(type=4),  # type: ignore[arg-type]
        lambda: pa_lite.PlanOptions(tensor_types="attn_v"),  # type: ignore[arg-type]
        lambda: pa_lite.PlanOptions(schedule="nothing"),  # type: ignore[arg-type]
        lambda: pa_lite.MergeOptions(max_memory="much"),  # type: ignore[arg-type]
        lambda: pa_lite.MergeOptions(max_memory=-1),
        lambda: pa_lite.GenerationOptions(stop=[1]),  # type: ignore[arg-type]
        lambda: pa_lite.ChatOptions(date="tomorrow"),  # type: ignore[arg-type]
        lambda: pa_lite.merge(lam=float("nan")),
        lambda: pa_lite.merge(lam="0.5,0.5"),
        lambda: pa_lite.merge("demo", type="q9"),
    ],
)
def test_invalid_values_are_one_error(make: Any) -> None:
    with pytest.raises(PaLiteError):
        make()


def test_merge_gives_a_path_for_one_lam_and_a_list_for_several(tmp_path: Path) -> None:
    one = pa_lite.merge(lam=0.25, type="q8_0", output=tmp_path / "one.gguf")
    assert one == tmp_path / "one.gguf"
    assert pa_lite.merge("demo", lam="0.25", output=one, type="Q8_0", resume=True) == one
    named = [tmp_path / f"demo-instruct-pa{lam}-Q8_0.gguf" for lam in ("0.00", "0.50")]
    assert pa_lite.merge(pair="demo", lam="0:0.5:0.5", output=tmp_path) == named
    assert pa_lite.merge(pair="demo", lam=[0.0, 0.5], output=tmp_path, resume=True) == named
    demo = pa_lite.pairs()["demo"]
    for pair in (demo, (demo.base, demo.instruct)):
        again = pa_lite.merge(pair=pair, lam=0.25, output=tmp_path / "again.gguf", force=True)
        assert again.read_bytes() == one.read_bytes()
    with pytest.deprecated_call(match=r"merge\(lams=...\) is now lam="):
        assert pa_lite.merge(lams=(0.0,), output=tmp_path, options=pa_lite.MergeOptions(resume=True)) == named[:1]


def test_inspect_diff_and_preview_take_what_merge_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    demo = pa_lite.pairs()["demo"]
    assert pa_lite.inspect(demo.base).architecture == "llama"
    by_name, by_sides = pa_lite.diff("demo"), pa_lite.diff(demo.base, demo.instruct)
    assert by_name.total == by_sides.total
    assert by_name.total.relative_norm > 0
    seen = pa_lite.preview("demo", lam=[0.2, 0.4], type="q4_0")
    assert [o.lam for o in seen.outputs] == [0.2, 0.4]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "name", "today"),
    [
        ("pa_lite.merge.plan", "PlanOptions", "pa_lite.merging.plan"),
        ("pa_lite.merge.lams", "parse_lams", "pa_lite.merging.lams"),
        ("pa_lite.merge.write", "MergeOptions", "pa_lite.merging.write"),
        ("pa_lite.follow.sets", "find_set", "pa_lite.instructions.sets"),
        ("pa_lite.follow.outputs", "load_prompts", "pa_lite.alpaca.outputs"),
        ("pa_lite.engine.reference", "open_model", "pa_lite.engine.model_reference"),
        ("pa_lite.study.study", "Reading", "pa_lite.study.summary"),
        ("pa_lite.tasks.harness_options", "HarnessOptions", "pa_lite.tasks.lm_eval.options"),
    ],
)
def test_old_paths_give_the_moved_modules_and_warn(old: str, name: str, today: str) -> None:
    for module in [m for m in sys.modules if m == old or m in ("pa_lite.merge", "pa_lite.follow")]:
        del sys.modules[module]
    with pytest.deprecated_call(match=f"{old} is now {today}"):
        found = getattr(importlib.import_module(old), name)
    assert found is getattr(importlib.import_module(today), name)
    assert isinstance(pa_lite.merge, types.FunctionType)


def test_every_old_path_leads_to_a_module() -> None:
    for old in _old_paths.MOVED:
        if not old.startswith("tasks.harness") or old.endswith("options"):  # the others require lm-eval
            today = _old_paths.new_path(f"pa_lite.{old}")
            assert today is not None
            importlib.import_module(today)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.import_module("pa_lite.merging.plan")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("pa_lite.nowhere")
    with pytest.deprecated_call(match="nowhere"), pytest.raises(ModuleNotFoundError):
        importlib.import_module("pa_lite.merge.nowhere")


SCRIPT = """\
import pa_lite
path = pa_lite.merge("demo", lam=0.7, type="q8_0", output="m.gguf")
model = pa_lite.load("demo", lam=0.7)
study = pa_lite.sweep("demo", tasks="demo", follow="demo", lams="0:1:0.5", run="run")
print(path, model.chat("Hello").text, model.score("demo").accuracy.value, study.best(keep_follow=0.95).lam)
reveal_type(path)
reveal_type(pa_lite.merge("demo", lam=[0.1, 0.2]))
reveal_type(model)
reveal_type(model.chat("Hello", stream=True))
reveal_type(study.best(keep_follow=0.95).lam)
reveal_type(pa_lite.__version__)
"""
TYPES = ["pathlib.Path", "list[pathlib.Path]", "LoadedModel", "ChatStream", "float", "str"]


def test_mypy_sees_the_types_of_the_installed_package(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("pa_lite-*.whl")
    venv.create(tmp_path / "env")
    python = next(
        p for p in (tmp_path / "env").rglob("python*") if p.stem == "python" and p.parent.name in ("bin", "Scripts")
    )
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with zipfile.ZipFile(wheel) as archive:
        assert "pa_lite/py.typed" in archive.namelist()
        assert "pa_lite/models/pairs.toml" in archive.namelist()
        archive.extractall(where)
    (tmp_path / "script.py").write_text(SCRIPT)
    words = ["--strict", "--python-executable", str(python), "--cache-dir", str(tmp_path / "cache"), "script.py"]
    run = subprocess.run([sys.executable, "-m", "mypy", *words], cwd=tmp_path, capture_output=True, text=True)
    revealed = [
        line.rpartition('Revealed type is "')[2].rstrip('"') for line in run.stdout.splitlines() if "Revealed" in line
    ]
    assert [
        r.replace("builtins.", "").rpartition(".")[2] if "api" in r else r.replace("builtins.", "") for r in revealed
    ] == TYPES, run.stdout
    assert run.returncode == 0, run.stdout
