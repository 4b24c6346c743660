"""One server of the embedded pair for all tests, with room for three lams, and the same models without a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pa_lite
from pa_lite.api.server import running_server
from pa_lite.serving.server.run import RunningServer
from tests.support.served import ONE, Lams


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    options = pa_lite.ServeOptions(port=0, models=3, parallel=4, queue=200)
    with running_server("demo", options, ONE) as running:
        yield running


@pytest.fixture(scope="session")
def url(server: RunningServer) -> str:
    return server.url


@pytest.fixture(scope="session")
def lams() -> Iterator[Lams]:
    made = Lams()
    yield made
    made.close()
