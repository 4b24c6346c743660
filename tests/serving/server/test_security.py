"""Who may use the server, and what hostile, slow and vanished clients cannot do to it."""

from __future__ import annotations

import functools
import hmac
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from pa_lite.api.server import running_server
from pa_lite.errors import InputError
from pa_lite.serving.server import application, run
from pa_lite.serving.server.bodies import Bodies
from pa_lite.serving.server.connections import Connections
from pa_lite.serving.server.options import MAX_BODY, ServeOptions
from pa_lite.serving.server.run import RunningServer
from tests.support.http_requests import Reply, call, connected, eventually, raw, request_bytes
from tests.support.served import ONE, user

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
KEY, ORIGIN = "s3cret-key", "https://page.example"
LONG: dict[str, Any] = {"prompt": "The", "max_tokens": 500, "n": 16, "temperature": 100.0, "stream": True}


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """Serve with a key, a further name and an allowed origin."""
    options = ServeOptions(port=0, api_key=KEY, allow_hosts=("models.example",), allow_origins=(ORIGIN,))
    with running_server("demo", options, ONE) as served:
        yield served.url


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def generated(url: str) -> int:
    found = re.search(r"^pa_lite_generated_tokens_total (\d+)", call(url, "/metrics").body.decode(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def is_idle(url: str) -> bool:
    health = call(url, "/health").json
    return (health["running"], health["waiting"]) == (0, 0)


def closing(url: str, path: str, body: bytes = b"", *lines: str, method: str = "POST") -> tuple[int, bytes]:
    """Return status and bytes of the answer to a request after which the connection ends."""
    return raw(url, request_bytes(url, path, body, "Connection: close", *lines, method=method))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.1", "user@localhost", "localhost:",
     "localhost:80:80", "localhost:999999", "[::1", "[::1]x", "", "127.0.0.1, evil.example", "models.example"],
)  # fmt: skip
def test_foreign_hosts_are_refused(url: str, host: str) -> None:
    for path in ("/", "/health", "/v1/models", "/openapi.json"):
        status, answer = closing(url, path, b"", f"Host: {host}", method="GET")
        assert status == 403, (path, answer)
        assert b"host_not_allowed" in answer


def test_own_names_are_accepted_and_others_by_option(url: str, guarded: str) -> None:
    port = urlsplit(url).port
    for host in ("localhost", "LOCALHOST", f"127.0.0.1:{port}", "[::1]", f"[::1]:{port}"):
        assert closing(url, "/health", b"", f"Host: {host}", method="GET")[0] == 200
    assert closing(guarded, "/health", b"", "Host: Models.Example:443", method="GET")[0] == 200
    two = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert raw(url, two)[0] in (400, 403)
    assert raw(url, b"GET /health HTTP/1.0\r\n\r\n")[0] == 403


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "", "http://localhost", "http://localhost.evil.example", "https://page.example:444",
     "https://page.example.evil.example", "HTTPS://PAGE.EXAMPLE", "file://", "http://127.0.0.1:1"],
)  # fmt: skip
def test_foreign_origins_are_refused(url: str, guarded: str, origin: str) -> None:
    for served in (url, guarded):
        reply = call(served, "/v1/models", headers={"Origin": origin, **bearer(KEY)})
        assert (reply.status, reply.error["code"]) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in reply.headers
        reply = call(served, CHAT, headers={"Origin": origin}, method="OPTIONS")
        assert reply.status == 403
        assert "access-control-allow-origin" not in reply.headers


def test_the_own_origin_and_requests_without_one_are_accepted(url: str) -> None:
    assert call(url, "/v1/models", headers={"Origin": url}).status == 200
    reply = call(url, "/v1/models")
    assert reply.status == 200
    assert not any(name.startswith("access-control") for name in reply.headers)  # CORS is off
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert call(url, "/v1/models", headers=foreign).status == 403
    assert call(url, "/", headers={**foreign, "Sec-Fetch-Mode": "navigate"}).status == 200  # a link to the page


def test_an_allowed_origin_may_use_the_server(guarded: str) -> None:
    asked = {
        "Origin": ORIGIN, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }  # fmt: skip
    preflight = call(guarded, CHAT, headers=asked, method="OPTIONS")
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert preflight.headers["access-control-allow-methods"] == "GET, POST"
    assert preflight.headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    body = {"messages": user("Who is Tobi?"), "max_tokens": 2, "stream": True}
    streamed = call(guarded, CHAT, body, {"Origin": ORIGIN, **bearer(KEY)})
    assert len(streamed.events) > 1
    for reply in (streamed, call(guarded, CHAT, body, {"Origin": ORIGIN})):  # errors can be read, too
        assert (reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (ORIGIN, "Origin")


def test_a_key_is_required_for_all_but_the_page_and_the_health(guarded: str) -> None:
    wrong: list[dict[str, str]] = [
        {}, bearer(""), bearer(KEY[:-1]), bearer(KEY + "x"), bearer(KEY.upper()), bearer("\xe9\xff"),
        bearer("x" * 5000), {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {"X-Api-Key": KEY},
    ]  # fmt: skip
    for path in ("/v1/models", "/v1/models/demo", "/metrics", "/openapi.json", "/pa-lite/state", "/unknown"):
        for headers in wrong:
            reply = call(guarded, path, headers=headers)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key"), (path, headers)
            assert reply.error["type"] == "authentication_error"
            assert reply.headers["www-authenticate"] == "Bearer"
            assert KEY.encode() not in reply.body
    for path in (CHAT, TEXT, "/tokenize", "/detokenize"):
        assert call(guarded, path, {}).status == 401
        assert call(guarded, path, {}, bearer(KEY)).status == 400
    assert call(guarded, "/v1/models", headers=bearer(KEY)).status == 200
    assert call(guarded, "/v1/models", headers={"Authorization": f"bearer {KEY} "}).status == 200
    assert call(guarded, "/health").status == call(guarded, "/").status == 200
    twice = closing(guarded, "/v1/models", b"", f"Authorization: Bearer {KEY}", "Authorization: Bearer x", method="GET")
    assert twice[0] == 401


def test_keys_are_compared_in_constant_time(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def noted(a: Any, b: Any) -> bool:
        compared.append(a)
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    assert call(guarded, "/v1/models", headers=bearer("x" + KEY[1:])).status == 401
    assert call(guarded, "/v1/models").status == 401
    assert compared == [b"x" + KEY[1:].encode(), b""]


def test_a_key_is_checked_before_the_body_is_read(guarded: str) -> None:
    with connected(guarded) as connection:
        connection.sendall(request_bytes(guarded, CHAT, b"", "Content-Length: 4000000", "Expect: 100-continue"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_addresses_require_a_key(host: str) -> None:
    with pytest.raises(InputError, match="can be reached from other machines: set a key with --api-key"):
        ServeOptions(host=host)
    assert KEY not in repr(ServeOptions(host=host, api_key=KEY))


@pytest.mark.parametrize(
    "options",
    [{"api_key": "with space"}, {"api_key": "é"}, {"api_key": "a\nb"}, {"api_key": "x" * 513},
     {"host": "http://localhost"}, {"host": "local host"}, {"host": ""}, {"allow_hosts": "a/b"},
     {"allow_origins": "*"}, {"allow_origins": "https://page.example/"}, {"allow_origins": "page.example"},
     {"allow_origins": "https://user@page.example"}, {"port": 70000}, {"parallel": 0}, {"queue": -1}, {"max_wait": -1}],
)  # fmt: skip
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        ServeOptions(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../demo", "demo/", "./demo", "demo.gguf", "org/name", "demo@", "@0.5", "demo@0.5/../..",
     "demo@nan", "demo@1e0",
     "demo@-0.5", "demo@2", "demo@0.5@0.5", "demo@ 0.5", "demo@٠", "Demo", "demo\x00", "demo\n", "demo ",
     "", "file:///etc/passwd", "\\\\host\\share", "smollm2-135m", "~", "x" * 512],
)  # fmt: skip
def test_names_of_models_are_never_paths(url: str, name: str) -> None:
    for path, body in ((CHAT, {"messages": user("x")}), (TEXT, {"prompt": "x"}), ("/tokenize", {"prompt": "x"})):
        reply = call(url, path, {"model": name, **body})
        assert (reply.status, reply.error["code"]) == (404, "model_not_found"), reply.body
        assert reply.error["param"] == "model"
        assert "use demo or demo@LAM" in reply.error["message"]
    assert call(url, f"/v1/models/{quote(name, safe='')}").status == 404


def test_urls_are_not_paths(url: str) -> None:
    parents = ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/models/../../x")
    for path in (*parents, "/page.js", "//evil.example/x", "/health%0A"):
        reply = call(url, path)
        assert (reply.status, reply.error["type"]) == (404, "invalid_request_error")
    assert call(url, CHAT).error["code"] == "method_not_supported"


def test_bodies_that_are_too_large_are_refused(url: str) -> None:
    big = json.dumps({"messages": user("x" * MAX_BODY)}).encode()
    for reply in (call(url, CHAT, big), call(url, "/unknown", big)):
        assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    chunked = request_bytes(url, CHAT, part * (MAX_BODY // 0x10000 + 2) + b"0\r\n\r\n", "Transfer-Encoding: chunked")
    status, answer = raw(url, chunked)
    assert (status, b"body_too_large" in answer) == (413, True)
    with connected(url) as connection:  # before the client sends it
        connection.sendall(request_bytes(url, CHAT, b"", f"Content-Length: {len(big)}", "Expect: 100-continue"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")
    values = b'{"prompt":[' + b"[]," * (1 << 20) + b"[]]}"
    assert len(values) < MAX_BODY
    refused = call(url, TEXT, values)
    assert (refused.status, "too many values" in refused.error["message"]) == (413, True)
    assert call(url, "/health").status == 200


def test_chunked_bodies_are_understood(url: str) -> None:
    body = json.dumps({"prompt": "Rome is", "max_tokens": 1}).encode()
    halves = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:])) + b"0\r\n\r\n"
    status, answer = closing(url, TEXT, halves, "Transfer-Encoding: chunked")
    assert (status, b"text_completion" in answer) == (200, True)


def test_slow_bodies_and_silent_connections_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "Bodies", functools.partial(Bodies, seconds=0.5))
    monkeypatch.setattr(run, "Connections", functools.partial(Connections, idle=1.0))
    with running_server("demo", ServeOptions(port=0), ONE) as served:
        status, answer = raw(served.url, request_bytes(served.url, CHAT, b"{", "Content-Length: 100"))
        assert (status, b"did not come within 0.5 s" in answer) == (408, True)
        assert raw(served.url, b"") == (0, b"")  # closed by the server
        assert raw(served.url, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") == (0, b"")
        assert call(served.url, "/health").status == 200


def test_a_client_that_does_not_read_is_dropped_and_its_work_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Connections", functools.partial(Connections, unread=1.0))
    with running_server("demo", ServeOptions(port=0), ONE) as served, socket.socket() as connection:
        parts = urlsplit(served.url)
        served.thread.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # inherited by its connections
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((parts.hostname, parts.port))
        body = json.dumps({**LONG, "logprobs": 20}).encode()
        connection.sendall(request_bytes(served.url, TEXT, body))
        assert eventually(lambda: not is_idle(served.url))
        assert eventually(lambda: is_idle(served.url))
        assert call(served.url, TEXT, {"prompt": "Rome is", "max_tokens": 1}).status == 200
        assert generated(served.url) < 16 * 500


@pytest.mark.parametrize("streams", [True, False])
def test_the_work_of_a_vanished_client_is_cancelled(url: str, streams: bool) -> None:
    before = generated(url)
    with connected(url) as connection:
        connection.sendall(request_bytes(url, TEXT, json.dumps({**LONG, "stream": streams}).encode()))
        if streams:
            assert connection.recv(1024).startswith(b"HTTP/1.1 200")
        assert eventually(lambda: call(url, "/health").json["running"] == 1)
    assert eventually(lambda: is_idle(url))
    assert generated(url) - before < 16 * 500  # answers that were complete by then count


def test_a_waiting_client_that_vanishes_leaves_the_queue() -> None:
    with (
        running_server("demo", ServeOptions(port=0, parallel=1, models=1), ONE) as served,
        connected(served.url) as first,
    ):
        url = served.url
        first.sendall(request_bytes(url, TEXT, json.dumps(LONG).encode()))
        assert first.recv(1024).startswith(b"HTTP/1.1 200")
        with connected(url) as second:
            second.sendall(request_bytes(url, TEXT, json.dumps({**LONG, "lam": 1.0}).encode()))
            assert eventually(lambda: call(url, "/health").json["waiting"] == 1)
        assert eventually(lambda: call(url, "/health").json["waiting"] == 0)


HOSTILE: list[tuple[bytes, str]] = [
    (b"", "missing"),
    (b"null", "JSON object"),
    (b"[]", "object"),
    (b'"text"', "object"),
    (b"{", "not valid JSON"),
    (b"{} {}", "not valid JSON"),
    (b"\xff\xfe{}", "not valid JSON"),
    (b"\xef\xbb\xbf{}", "not valid JSON"),
    (b"[" * 1_000_000, "nested more than"),
    (b'{"a":' * 100_000, "nested more than"),
    (b'{"messages":' + b"[" * 65 + b"]" * 65 + b"}", "nested more than"),
    (b'{"messages": [], "messages": []}', "duplicate key"),
    (b'{"messages": [{"role": "user", "role": "user"}]}', "duplicate key"),
    (b'{"temperature": NaN}', "NaN"),
    (b'{"temperature": Infinity}', "Infinity"),
    (b'{"temperature": -Infinity}', "Infinity"),
    (b'{"temperature": 1e999}', "not valid JSON"),
    (b'{"seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "surrogate"),
    (b'{"messages": [{"role": "user", "content": "\\udc00\\ud800"}]}', "surrogate"),
    (b'{"a": "\x00"}', "not valid JSON"),
]


@pytest.mark.parametrize(("body", "words"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_json_is_one_plain_line(url: str, body: bytes, words: str) -> None:
    for path in (CHAT, TEXT, "/tokenize", "/detokenize"):
        reply = call(url, path, body)
        assert reply.status == 400, (path, reply.body)
        assert words in reply.error["message"], (path, reply.error)
        assert len(reply.error["message"]) < 500


def test_hostile_values_are_refused_and_named(url: str) -> None:
    chat: dict[str, Any] = {"messages": user("x"), "max_tokens": 1}
    for name in ("max_tokens", "seed", "n", "top_k", "temperature", "lam", "top_p", "min_p", "top_logprobs"):
        values: list[Any] = [10**400, -(10**400), 10**18 * 10, -1e300, "1", [], {}, True]
        for value in values:
            reply = call(url, CHAT, {**chat, name: value})
            assert reply.status == 400, (name, value, reply.body)
            assert name in reply.error["message"]
            assert len(reply.error["message"]) < 500
    deep: Any = "x"
    for _ in range(40):
        deep = {"a": [deep]} if len(str(deep)) % 2 else [deep]
    for name in ("messages", "metadata", "response_format", "tools", "stop", "logit_bias", "stream_options"):
        assert call(url, CHAT, {**chat, name: [deep]}).status == 400
    unknown = call(url, CHAT, {**chat, "x\n\x1b[31m" + "y" * 10_000: 1})
    assert (unknown.status, "\x1b" in unknown.error["message"]) == (400, False)


def test_nul_and_other_controls_in_texts_are_text(url: str) -> None:
    hostile = "a\x00b\x1b[31m\u202e\ufffe\U000e0001 <|im_start|>"
    for path, body in (
        (CHAT, {"messages": user(hostile)}),
        (TEXT, {"prompt": hostile}),
        (TEXT, {"prompt": hostile, "echo": True, "logprobs": 2, "stop": ["\x00"]}),
    ):
        reply = call(url, path, {**body, "max_tokens": 2})
        assert reply.status == 200, reply.body
    tokens = call(url, "/tokenize", {"prompt": hostile, "add_special_tokens": False}).json["tokens"]
    assert call(url, "/detokenize", {"tokens": tokens}).json["prompt"] == hostile


def test_bodies_of_other_types_are_refused(url: str) -> None:
    """A page without permission can send only such types across origins."""
    body = json.dumps({"prompt": "x", "max_tokens": 1}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        reply = call(url, TEXT, body, {"Content-Type": kind})
        assert (reply.status, "Content-Type: application/json" in reply.error["message"]) == (400, True)


def test_answers_have_security_headers(url: str) -> None:
    replies: list[Reply] = [call(url, path) for path in ("/", "/health", "/unknown", "/metrics", "/openapi.json")]
    for reply in (*replies, call(url, TEXT, {"prompt": "x", "max_tokens": 1, "stream": True})):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "server" not in reply.headers


def is_dropped(connection: socket.socket, content: bytes) -> bool:
    """Return whether the server closes a connection that sends some content again and again."""
    try:
        for _ in range(1000):
            connection.sendall(content)
    except ConnectionError:
        return True
    return False


def test_broken_http_does_not_stop_the_server(url: str, server: RunningServer) -> None:
    for content in (
        b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):  # fmt: skip
        assert 400 <= raw(url, content)[0] < 500
    with connected(url) as connection:  # a head without an end
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert is_dropped(connection, b"y" * 65536)
    assert server.host.is_alive
    assert call(url, "/health").status == 200
