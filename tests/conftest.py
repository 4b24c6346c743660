"""Fixtures shared by all tests: tiny pairs written once, and the embedded pair."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pa_lite
from pa_lite.checkpoints.hub import http
from pa_lite.checkpoints.pairs import Pair, find_pair
from pa_lite.merging.plan import PlanOptions
from tests.support import tiny
from tests.support.hub_server import HubServer, running_hub

# tests that take most of the time and hardly depend on the version of Python: skipped on other Pythons
SLOW = (
    "engine/test_context_memory", "engine/test_in_memory", "engine/test_prefix_tree", "engine/test_probe",
    "engine/test_sampling", "engine/test_scoring", "engine/test_sliding_window", "engine/test_thread_count",
    "ggml/test_imatrix", "ggml/test_kernels", "ggml/test_quant_types", "merging/test_experts",
    "merging/test_hub_stream", "merging/test_memory", "merging/test_nonfinite", "merging/test_output_file",
    "merging/test_quantize", "merging/test_sources", "merging/test_stream", "study/", "tools/",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> None:
    """Undo what shells and nohup do to jobs in the background: these ignore signals that some tests send."""
    handlers: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    if sys.platform != "win32":
        handlers |= {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in handlers.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the user's cache into a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg-cache")))
        yield


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of base (two shards) and instruct, a tiny random Llama in bfloat16."""
    return tiny.write_pair(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_ggufs(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny pair merged at lam 0.7: type -> file."""
    folder = tmp_path_factory.mktemp("ggufs")
    return {
        kind: pa_lite.merge(*tiny_pair, (0.7,), plan=PlanOptions(type=kind), output=folder)[0]
        for kind in ("F32", "F16", "Q8_0")
    }


@pytest.fixture(scope="session")
def demo_pair() -> Pair:
    return find_pair("demo")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="extra `browser`")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=chromium, args=flags)
        yield started
        started.close()


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback that the environment points to, with an empty cache, no token, and no pairs of the user's."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make waits between tries a hundred times shorter, so that permanent failures end soon."""
    monkeypatch.setattr(http, "_FIRST_WAIT", http._FIRST_WAIT / 100)
