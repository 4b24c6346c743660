"""Who may use the server, and what a request may cost it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import pa_lite
from pa_lite.api.server import running_server
from pa_lite.errors import InputError
from pa_lite.serving.server.options import MAX_BODY
from tests.support.http_requests import call, connected, eventually, raw, request_bytes
from tests.support.served import ONE, user

PATH = "/v1/chat/completions"
BODY = json.dumps({"messages": user("Who is Tobi?"), "max_tokens": 2}).encode()
ORIGIN = "https://allowed.example"


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    options = pa_lite.ServeOptions(
        port=0, models=1, parallel=1, queue=1, api_key="secret", allow_hosts=("box.example",), allow_origins=(ORIGIN,)
    )
    with running_server("demo", options, ONE) as server:
        yield server.url


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a b", "localhost:1:2"])
def test_foreign_hosts_are_refused(url: str, host: str) -> None:
    status, answer = raw(url, request_bytes(url, PATH, BODY, f"Host: {host}", "Connection: close"))
    assert status in (400, 403), answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "[::1]:8080", "127.0.0.1"])
def test_loopback_names_are_the_servers(url: str, host: str) -> None:
    status, _ = raw(url, request_bytes(url, "/health", b"", f"Host: {host}", "Connection: close", method="GET"))
    assert status == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_foreign_origins_are_refused(url: str, origin: str) -> None:
    assert call(url, PATH, BODY, {"Origin": origin}).status == 403
    assert "access-control-allow-origin" not in call(url, PATH, BODY, {"Origin": origin}).headers


def test_pages_of_other_sites_cannot_load_anything(url: str) -> None:
    assert call(url, "/v1/models", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}).status == 403
    assert call(url, PATH, BODY, {"Origin": url}).status == 200  # its own page


def test_the_key_is_required(guarded: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "secret"},
        {"Authorization": "Basic secret"},
    ):
        reply = call(guarded, PATH, BODY, headers)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
    assert call(guarded, PATH, BODY, {"Authorization": "Bearer secret"}).status == 200
    assert call(guarded, "/health").status == 200
    assert call(guarded, "/metrics").status == 401


def test_allowed_names_and_origins(guarded: str) -> None:
    key = {"Authorization": "Bearer secret"}
    reply = call(guarded, PATH, BODY, {**key, "Host": "box.example", "Origin": ORIGIN})
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, ORIGIN)
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = call(guarded, PATH, None, asked, method="OPTIONS")
    assert (preflight.status, preflight.headers["access-control-allow-headers"]) == (204, "authorization")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "box.example"])
def test_other_addresses_require_a_key(host: str) -> None:
    with pytest.raises(InputError, match="--api-key"):
        pa_lite.ServeOptions(host=host)
    assert pa_lite.ServeOptions(host=host, api_key="k").host == host


@pytest.mark.parametrize(
    "name",
    [
        "../demo",
        "/etc/passwd",
        "demo/../demo",
        "demo@",
        "demo@x",
        "demo@0.5@0.5",
        "demo@nan",
        "demo@2",
        "DEMO",
        "x" * 600,
    ],
)
def test_names_are_never_paths(url: str, name: str) -> None:
    reply = call(url, PATH, {"model": name, "messages": user("x")})
    assert reply.status in (400, 404)
    assert reply.error["message"]
    assert call(url, f"/v1/models/{name}").status in (400, 404)


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"null", b"\xff", b'{"messages": NaN}', b'{"max_tokens": ' + b"9" * 5000 + b"}", b"[" * 10_000,
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b'{"messages": [], "messages": []}',
        b'{"messages": "x\\u0000"}',
    ],
)  # fmt: skip
def test_hostile_json_is_one_plain_line(url: str, body: bytes) -> None:
    reply = call(url, PATH, body)
    assert reply.status == 400
    assert reply.error["message"]


def test_large_bodies_are_refused(url: str) -> None:
    assert call(url, PATH, b'{"messages": "' + b"x" * MAX_BODY + b'"}').status == 413
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = request_bytes(url, PATH, b"", "Transfer-Encoding: chunked", "Content-Type: application/json")
    with connected(url) as connection:
        answer = b""
        try:
            connection.sendall(head)
            for _ in range(MAX_BODY // 0x10000 + 64):
                connection.sendall(chunk)
            answer = connection.recv(200)
        except OSError:  # it was closed while we sent
            pass
        assert answer == b"" or b" 413 " in answer


def test_a_vanished_client_frees_its_place(guarded: str) -> None:
    """Of one place and one that may wait, both are taken by clients that vanish."""
    key = "Authorization: Bearer secret"
    body = json.dumps({"messages": user("Who is Tobi?"), "max_tokens": 400, "temperature": 5}).encode()
    held = [connected(guarded) for _ in range(2)]
    for connection in held:
        connection.sendall(request_bytes(guarded, PATH, body, key))
    headers = {"Authorization": "Bearer secret"}

    def busy() -> int:
        text = call(guarded, "/health").json
        return int(text["running"] + text["waiting"])

    assert eventually(lambda: busy() <= 2)
    for connection in held:
        connection.close()
    assert eventually(lambda: busy() == 0)
    assert call(guarded, PATH, BODY, headers).status == 200


def test_a_full_queue_answers_429(guarded: str) -> None:
    headers = {"Authorization": "Bearer secret"}
    body = json.dumps({"messages": user("Who is Tobi?"), "max_tokens": 400, "temperature": 5, "n": 16}).encode()
    held = [connected(guarded) for _ in range(2)]
    try:
        for connection in held:
            connection.sendall(request_bytes(guarded, PATH, body, "Authorization: Bearer secret"))

        def refused() -> bool:
            reply = call(guarded, PATH, BODY, headers)
            if reply.status == 429:
                assert int(reply.headers["retry-after"]) >= 1
                assert reply.error["code"] == "queue_full"
            return reply.status == 429

        assert eventually(refused, 20)
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize("path", ["/health%0a", "/v1/models%0d%0ax", "/%00"])
def test_paths_with_control_characters_are_unknown(url: str, path: str) -> None:
    status, _ = raw(url, request_bytes(url, path, b"", "Connection: close", method="GET"))
    assert status == 404
