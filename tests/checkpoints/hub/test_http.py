"""Patience with the Hub: how long it waits, after what, and what it says when it gives up."""

from __future__ import annotations

import email.utils
import threading
import time

import pytest
from huggingface_hub.errors import HTTPError

from pa_lite.checkpoints.hub import http
from pa_lite.checkpoints.hub.http import Patience, attempt
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.errors import HubError


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": " 0 "}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "9" * 30}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=10;t=55'}, None),
    ],
)
def test_retry_after_is_read(fields: dict[str, str], seconds: float | None) -> None:
    assert http._retry_after(fields) == seconds


def test_retry_after_can_be_a_date() -> None:
    told = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert http._retry_after({"Retry-After": told}) == pytest.approx(100, abs=2)
    assert http._retry_after({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


def test_waits_double_with_jitter_and_restart_after_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", waits.append)
    patience = Patience(HubReference(repo="org/m"), 20, stop)
    for _ in range(12):
        patience.failed(HTTPError("broken"))
    for i, wait in enumerate(waits):
        longest = min(30.0, 0.4 * 2**i)
        assert longest / 2 <= wait <= longest
    assert len(set(waits[8:])) > 1  # jitter, at the bound too
    patience.renew()
    patience.failed(HTTPError("broken"))
    assert waits[-1] <= 0.4


def test_giving_up_says_what_to_do(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    tries = []

    def call() -> None:
        tries.append(1)
        raise HTTPError("name or\nservice not known")

    with pytest.raises(HubError) as caught:
        attempt(call, HubReference(repo="org/m", revision="a" * 40), 3)
    assert len(tries) == 3
    assert caught.value.is_passing
    assert str(caught.value) == (
        "hub:org/m@aaaaaaaa: https://hub.example cannot be reached (name or service not known). Check the network, or "
        "set HF_HUB_OFFLINE=1 to use what is in the cache."
    )


def test_waiting_ends_when_stopped() -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    start = time.monotonic()
    patience = Patience(HubReference(repo="org/m"), 50, stop)

    def fail_for_ever() -> None:
        while True:
            patience.failed(HTTPError("broken"))

    with pytest.raises(HubError, match="stopped"):
        fail_for_ever()
    assert time.monotonic() - start < 5


def test_a_date_to_retry_after_is_read_by_the_hubs_own_clock() -> None:
    hours_off = time.time() + 5 * 3600  # ours, or the Hub's, is wrong
    fields = {
        "Retry-After": email.utils.formatdate(hours_off + 100, usegmt=True),
        "Date": email.utils.formatdate(hours_off, usegmt=True),
    }
    assert http._retry_after(fields) == pytest.approx(100, abs=2)
    assert http._retry_after({**fields, "Date": "never"}) == pytest.approx(5 * 3600 + 100, abs=2)
