"""Run the server: listen, load the model, answer until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from pa_lite.engine.model_reference import REFERENCE_TYPE, ModelRef
from pa_lite.engine.options import EngineOptions
from pa_lite.engine.resident_models import ResidentOptions
from pa_lite.engine.scheduler import SchedulerOptions
from pa_lite.errors import EngineError, InputError
from pa_lite.serving.host import LENGTH, Host, open_host
from pa_lite.serving.page.content import page_content
from pa_lite.serving.server.application import make_app
from pa_lite.serving.server.connections import Connections
from pa_lite.serving.server.options import (
    GRACE_SECONDS,
    KEEP_ALIVE_SECONDS,
    MAX_CONNECTIONS,
    ServeOptions,
    url_of,
)
from pa_lite.serving.server.service import Service

_log = logging.getLogger(__name__)
_LOOK = 0.2  # seconds between two looks of the main thread at signals
_LATER = 2  # seconds after the grace, until connections that still work are closed
_BACKLOG = 512


@dataclass(frozen=True)
class RunningServer:
    """A server that answers: its address, and the host of its model."""

    url: str
    host: Host
    thread: _ServerThread

    def wait(self) -> None:
        """Wait until Ctrl-C or SIGTERM has stopped the server, or until it fails. Raises EngineError if it does."""
        with _stopping_signals(self.thread):
            while self.thread.is_alive():
                time.sleep(_LOOK)
        if not self.thread.is_asked_to_stop:
            raise EngineError("the server has stopped by an internal error; the log says more.")


class _Server(uvicorn.Server):
    """uvicorn, with a short grace for running answers, and without slow connections."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service, self._slow = service, Connections()

    async def on_tick(self, counter: int) -> bool:
        """Drop slow connections each second."""
        if counter % 10 == 0:
            self._slow.drop_slow(self.server_state.connections)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is idle, and end running answers after the grace."""
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._service.stop)
        await super().shutdown(sockets)


class _ServerThread(threading.Thread):
    """The thread in which the event loop runs, so that the main thread can load the model and get signals."""

    def __init__(self, service: Service, listener: socket.socket) -> None:
        super().__init__(name="pa-lite server", daemon=True)
        config = uvicorn.Config(
            make_app(service), http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
            log_level="critical",  # it warns of each broken request
            server_header=False, proxy_headers=False, limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=int(GRACE_SECONDS) + _LATER,
        )  # fmt: skip
        self.server, self._listener = _Server(config, service), listener
        self.is_asked_to_stop = False

    def run(self) -> None:
        """Run the event loop until `stop`."""
        self.server.run(sockets=[self._listener])

    def stop(self) -> None:
        """Let the server end within the grace. Later calls do nothing."""
        self.is_asked_to_stop = self.server.should_exit = True

    def hurry(self) -> None:
        """Let a server that is ending close all connections at once."""
        self.server.force_exit = True

    def wait_until_started(self) -> None:
        """Wait until requests are answered. Raises EngineError if that fails."""
        while not self.server.started:
            if not self.is_alive():
                raise EngineError("the server cannot start; the log says why.")
            time.sleep(0.01)


@contextlib.contextmanager
def running_server(
    reference: ModelRef,
    options: ServeOptions | None = None,
    engine: EngineOptions | None = None,
    weight_type: str = REFERENCE_TYPE,
    extrapolate: bool = False,
    study: str | Path | None = None,
) -> Iterator[RunningServer]:
    """Serve a model until the end of the block. While it is being loaded, `/health` and others answer 503.

    The page shows the study in the run folder `study`, by default in the newest default one of a registered pair.
    Raises InputError if the address cannot be used, and what `open_host` and `page_content` raise.
    """
    options, engine = options or ServeOptions(), engine or EngineOptions()
    service = Service(options)
    residents = ResidentOptions(
        max_memory=options.max_memory, models=options.models, max_wait=options.max_wait, extrapolate=extrapolate,
        scheduler=SchedulerOptions(parallel=options.parallel, length=engine.n_ctx or LENGTH, exact=False),
    )  # fmt: skip
    with contextlib.closing(_listener(options.host, options.port)) as listener:
        thread = _ServerThread(service, listener)
        thread.start()
        try:
            thread.wait_until_started()
            url = url_of(options.host, listener.getsockname()[1])
            content = page_content(reference.pair, study)
            with open_host(reference, residents, engine, weight_type) as host:
                service.load(host, content)
                _log.info("%s is served at %s/v1", host.name, url)
                try:
                    yield RunningServer(url, host, thread)
                finally:
                    thread.stop()
                    thread.join()  # before the models are closed
        finally:
            thread.stop()
            thread.join()


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address. Raises InputError if it cannot be used."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as e:
        raise InputError(f"the host {host} cannot be resolved: {e.strerror or e}.") from e
    family, _, _, _, address = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where SO_REUSEADDR would share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as e:
        listener.close()
        raise _unusable(host, port, e) from e
    return listener


def _unusable(host: str, port: int, error: OSError) -> InputError:
    if error.errno == errno.EADDRINUSE:
        return InputError(f"port {port} of {host} is in use: choose another one with --port, or --port 0 for any.")
    if error.errno == errno.EACCES:
        return InputError(f"port {port} of {host} requires administrator rights: choose one above 1023 with --port.")
    if error.errno == errno.EADDRNOTAVAIL:
        return InputError(f"{host} is not an address of this machine: choose another --host.")
    return InputError(f"port {port} of {host} cannot be used: {error.strerror or error}.")


@contextlib.contextmanager
def _stopping_signals(thread: _ServerThread) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop the server, a second one at once. Only in the main thread; ignored ones stay so."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        if thread.is_asked_to_stop:
            thread.hurry()
        thread.stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before: dict[int, Any] = {n: found for n in numbers if (found := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
