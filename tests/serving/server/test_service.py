"""The state of a server: while its model is loaded, when it fails, and when it stops."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pa_lite.engine.in_memory import InMemoryModel
from pa_lite.engine.resident_models import ResidentModels
from pa_lite.engine.scheduler import Scheduler
from pa_lite.errors import CheckpointError
from pa_lite.serving.host import Host
from pa_lite.serving.server import descriptions, run, streaming, work
from pa_lite.serving.server.options import ServeOptions
from pa_lite.serving.server.run import RunningServer
from pa_lite.serving.server.service import Service
from tests.support.http_requests import call, eventually
from tests.support.served import user


@pytest.fixture
def empty() -> Iterator[str]:
    """A server whose model is still being loaded."""
    with contextlib.closing(run._listener("127.0.0.1", 0)) as listener:
        thread = run._ServerThread(Service(ServeOptions()), listener)
        thread.start()
        thread.wait_until_started()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.stop()
        thread.join()


def test_while_the_model_is_loaded_requests_are_503(empty: str) -> None:
    health = call(empty, "/health")
    assert (health.status, health.json) == (503, {"status": "loading"})
    descriptions.Loading.model_validate(health.json)
    for path, body in (
        ("/v1/models", None),
        ("/pa-lite/state", None),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": user("a")}),
        ("/tokenize", {"prompt": "a"}),
    ):
        reply = call(empty, path, body)
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "model_loading", "2")
    metrics = call(empty, "/metrics").body.decode()
    assert "pa_lite_requests_running 0" in metrics
    assert "pa_lite_models_limit" not in metrics


def completion(url: str, **more: Any) -> Any:
    return call(url, "/v1/completions", {"prompt": "Anna", "max_tokens": 20, "temperature": 100, "seed": 1, **more})


def test_errors_of_the_engine_are_500_without_internals(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    take, n = Scheduler._take, 0

    def failing(self: Scheduler, *args: Any) -> Any:
        nonlocal n
        n += 1
        if n == 4:
            raise IndexError("a secret path")
        return take(self, *args)

    monkeypatch.setattr(Scheduler, "_take", failing)
    reply = completion(url)
    assert (reply.status, reply.error["type"]) == (500, "server_error")
    assert "secret" not in reply.error["message"]
    assert "a secret path" in caplog.text
    n = 0
    events = completion(url, stream=True).events
    assert events[0]["choices"][0]["text"]  # what came before
    assert events[-1] == {"error": reply.error}
    monkeypatch.undo()
    assert completion(url).status == 200


def test_a_bug_in_a_route_is_500_without_internals(
    url: str, server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(*_args: Any, **_named: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(Host, "start", wrong)
    for streams in (False, True):
        reply = completion(url, stream=streams)
        assert reply.status == 500
        assert "secret" not in reply.error["message"]
    assert eventually(lambda: caplog.text.count("internal error (a bug in pa-lite)") == 2)
    monkeypatch.undo()
    assert completion(url).status == 200
    assert call(url, "/health").json["running"] == 0


def test_a_move_that_fails_is_500_and_other_lams_are_answered(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    move, make = InMemoryModel.move, InMemoryModel.__init__

    def refusing(self: InMemoryModel, lam: float, *rest: Any) -> None:
        if lam == 0.77:
            raise CheckpointError("/a/secret/path: is gone.")
        move(self, lam, *rest)

    def not_made(self: InMemoryModel, plan: Any, lam: float, *rest: Any) -> None:
        if lam == 0.77:
            raise CheckpointError("/a/secret/path: is gone.")
        make(self, plan, lam, *rest)

    for lam in (0.6, 0.71, 0.72):  # all places are taken, so that one must move
        assert completion(url, lam=lam, max_tokens=1).status == 200
    monkeypatch.setattr(InMemoryModel, "move", refusing)
    monkeypatch.setattr(InMemoryModel, "__init__", not_made)
    reply = completion(url, lam=0.77)
    assert reply.status == 500
    assert "secret" not in reply.error["message"]
    assert "/a/secret/path" in caplog.text
    assert completion(url, lam=0.71).status == 200
    monkeypatch.undo()
    assert completion(url, lam=0.77).json["model"] == "demo@0.77"


def test_a_stream_without_tokens_shows_that_it_lives(
    url: str, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PING_SECONDS", 0.05)
    models = server.host.models
    assert isinstance(models, ResidentModels)
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(completion(url, stream=True).body))
    with models._stepping:  # no model works
        thread.start()
        assert eventually(lambda: call(url, "/health").json["waiting"] == 1)
        time.sleep(0.2)
    thread.join()
    assert found[0].startswith(streaming._PING)
    assert found[0].endswith(b"data: [DONE]\n\n")


def test_debug_logging_names_routes_not_contents(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "pa_lite.serving.server"):
        call(url, "/v1/models/private-name")
        completion(url, prompt="a private text")
    assert "GET /v1/models/{name:path}: 404" in caplog.text
    assert "private" not in caplog.text
