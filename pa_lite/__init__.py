"""pa-lite: partial adaptation of language models, `M(lam) = B + lam * (I - B)`, on consumer hardware.

The public API: `merge` writes GGUF files, `load` gives a model that scores, generates, chats and follows instructions,
`serve` answers as OpenAI's API, `sweep` measures a pair along lam, `search` finds the best lam, `judge` and `win_rate`
compare answers. Every function raises `PaLiteError` for errors that the caller can fix. Names are imported when they
are first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from pa_lite.system.compiled import keep_compiled_files_whole

keep_compiled_files_whole()  # before anything larger is imported and compiled

from pa_lite import _old_paths  # noqa: E402

TYPE_CHECKING = False  # type checkers treat it as true; importing typing would take a third of the import time

if TYPE_CHECKING:
    from pa_lite.api.chat import ChatReply as ChatReply
    from pa_lite.api.chat import ChatStream as ChatStream
    from pa_lite.api.checkpoints import Inspection as Inspection
    from pa_lite.api.checkpoints import Pair as Pair
    from pa_lite.api.checkpoints import add_pair as add_pair
    from pa_lite.api.checkpoints import inspect as inspect
    from pa_lite.api.checkpoints import pairs as pairs
    from pa_lite.api.checkpoints import remove_pair as remove_pair
    from pa_lite.api.judging import JudgeOptions as JudgeOptions
    from pa_lite.api.judging import Judging as Judging
    from pa_lite.api.judging import WinRate as WinRate
    from pa_lite.api.judging import judge as judge
    from pa_lite.api.judging import win_rate as win_rate
    from pa_lite.api.merging import Diff as Diff
    from pa_lite.api.merging import MergeOptions as MergeOptions
    from pa_lite.api.merging import PlanOptions as PlanOptions
    from pa_lite.api.merging import Preview as Preview
    from pa_lite.api.merging import diff as diff
    from pa_lite.api.merging import merge as merge
    from pa_lite.api.merging import preview as preview
    from pa_lite.api.models import FollowResult as FollowResult
    from pa_lite.api.models import GenerationOptions as GenerationOptions
    from pa_lite.api.models import LoadedModel as LoadedModel
    from pa_lite.api.models import Output as Output
    from pa_lite.api.models import OutputPiece as OutputPiece
    from pa_lite.api.models import Prompt as Prompt
    from pa_lite.api.models import ScoreOptions as ScoreOptions
    from pa_lite.api.models import SuiteResult as SuiteResult
    from pa_lite.api.models import Written as Written
    from pa_lite.api.models import load as load
    from pa_lite.api.models import load_prompts as load_prompts
    from pa_lite.api.options import ChatOptions as ChatOptions
    from pa_lite.api.options import EngineOptions as EngineOptions
    from pa_lite.api.options import ModelRef as ModelRef
    from pa_lite.api.options import Schedule as Schedule
    from pa_lite.api.searching import SearchOptions as SearchOptions
    from pa_lite.api.searching import SearchResult as SearchResult
    from pa_lite.api.searching import search as search
    from pa_lite.api.server import ServeOptions as ServeOptions
    from pa_lite.api.server import running_server as running_server
    from pa_lite.api.server import serve as serve
    from pa_lite.api.serving import ChatAnswer as ChatAnswer
    from pa_lite.api.serving import Compared as Compared
    from pa_lite.api.serving import ComparedQuestion as ComparedQuestion
    from pa_lite.api.serving import compare as compare
    from pa_lite.api.sharing import Modelfile as Modelfile
    from pa_lite.api.sharing import Pushed as Pushed
    from pa_lite.api.sharing import PushPlan as PushPlan
    from pa_lite.api.sharing import model_card as model_card
    from pa_lite.api.sharing import modelfile as modelfile
    from pa_lite.api.sharing import plan_push as plan_push
    from pa_lite.api.sharing import push as push
    from pa_lite.api.studies import BestLam as BestLam
    from pa_lite.api.studies import DemoResult as DemoResult
    from pa_lite.api.studies import Estimate as Estimate
    from pa_lite.api.studies import Goal as Goal
    from pa_lite.api.studies import ReportOptions as ReportOptions
    from pa_lite.api.studies import Study as Study
    from pa_lite.api.studies import StudyOptions as StudyOptions
    from pa_lite.api.studies import demo as demo
    from pa_lite.api.studies import open_study as open_study
    from pa_lite.api.studies import plan_sweep as plan_sweep
    from pa_lite.api.studies import sweep as sweep
    from pa_lite.api.tasks import Examples as Examples
    from pa_lite.api.tasks import HarnessOptions as HarnessOptions
    from pa_lite.api.tasks import harness as harness
    from pa_lite.api.tasks import new_task as new_task
    from pa_lite.api.tuning import Tuned as Tuned
    from pa_lite.api.tuning import TunePlan as TunePlan
    from pa_lite.api.tuning import plan_tune as plan_tune
    from pa_lite.api.tuning import tune as tune
    from pa_lite.errors import PaLiteError as PaLiteError

    __version__: str

# the module of each public name; a test compares this table with the imports above
_NAMES = {
    "chat": ("ChatReply", "ChatStream"),
    "checkpoints": ("Inspection", "Pair", "add_pair", "inspect", "pairs", "remove_pair"),
    "judging": ("JudgeOptions", "Judging", "WinRate", "judge", "win_rate"),
    "merging": ("Diff", "MergeOptions", "PlanOptions", "Preview", "diff", "merge", "preview"),
    "models": (
        "FollowResult", "GenerationOptions", "LoadedModel", "Output", "OutputPiece", "Prompt", "ScoreOptions",
        "SuiteResult", "Written", "load", "load_prompts",
    ),
    "options": ("ChatOptions", "EngineOptions", "ModelRef", "Schedule"),
    "server": ("ServeOptions", "running_server", "serve"),
    "serving": ("ChatAnswer", "Compared", "ComparedQuestion", "compare"),
    "searching": ("SearchOptions", "SearchResult", "search"),
    "sharing": ("Modelfile", "PushPlan", "Pushed", "model_card", "modelfile", "plan_push", "push"),
    "studies": (
        "BestLam", "DemoResult", "Estimate", "Goal", "ReportOptions", "Study", "StudyOptions", "demo", "open_study",
        "plan_sweep", "sweep",
    ),
    "tasks": ("Examples", "HarnessOptions", "harness", "new_task"),
    "tuning": ("TunePlan", "Tuned", "plan_tune", "tune"),
}  # fmt: skip
_MODULES = {name: f"pa_lite.api.{module}" for module, names in _NAMES.items() for name in names}
_MODULES["PaLiteError"] = "pa_lite.errors"

__all__ = [
    "BestLam", "ChatAnswer", "ChatOptions", "ChatReply", "ChatStream", "Compared", "ComparedQuestion", "DemoResult",
    "Diff", "EngineOptions", "Estimate", "Examples", "FollowResult", "GenerationOptions", "Goal", "HarnessOptions",
    "Inspection", "JudgeOptions", "Judging", "LoadedModel", "MergeOptions", "ModelRef", "Modelfile", "Output",
    "OutputPiece", "PaLiteError", "Pair", "PlanOptions", "Preview", "Prompt", "PushPlan", "Pushed", "ReportOptions",
    "Schedule", "ScoreOptions", "SearchOptions", "SearchResult", "ServeOptions", "Study", "StudyOptions",
    "SuiteResult", "TunePlan", "Tuned", "WinRate", "Written", "__version__", "add_pair", "compare", "demo", "diff",
    "harness", "inspect", "judge", "load", "load_prompts", "merge", "model_card", "modelfile", "new_task",
    "open_study", "pairs", "plan_push", "plan_sweep", "plan_tune", "preview", "push", "remove_pair",
    "running_server", "search", "serve", "sweep", "tune", "win_rate",
]  # fmt: skip


if not TYPE_CHECKING:  # hidden from type checkers, so that they report misspelled names

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("pa-lite")
        if name not in _MODULES:
            raise AttributeError(f"module 'pa_lite' has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keep public names when a module is imported by its old path: `pa_lite.merge.plan` must not replace `merge`."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
_old_paths.install()
