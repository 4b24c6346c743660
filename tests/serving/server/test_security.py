"""Who may use the server: Host, Origin and key, with raw requests, and options that are refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pa_lite
from pa_lite.api.server import running_server
from pa_lite.errors import InputError
from pa_lite.serving.server.options import allowed_names, url_of
from tests.support.http_requests import Reply, call, raw, request_bytes
from tests.support.served import ONE, user

KEY = "sk-a+very/long_key=="
ORIGIN = "https://chat.example.org"
CHAT = {"messages": user("Hello"), "max_tokens": 1}


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """A server on all addresses, with a key, a further name, and an allowed origin."""
    options = pa_lite.ServeOptions(
        host="0.0.0.0", port=0, api_key=KEY, allow_hosts=("My-Box.local",), allow_origins=(ORIGIN,), models=1
    )
    with running_server("demo", options, ONE) as running:
        yield running.url.replace("localhost", "127.0.0.1")


def with_host(url: str, host: str) -> Reply:
    return call(url, "/v1/models", headers={"Host": host})


def port(url: str) -> str:
    return url.rpartition(":")[2]


def test_only_names_of_this_machine_are_answered(url: str) -> None:
    for name in ("localhost", "127.0.0.1", "[::1]", "LOCALHOST"):
        assert with_host(url, f"{name}:{port(url)}").status == 200
        assert with_host(url, name).status == 200
    for host in (
        "evil.example", f"evil.example:{port(url)}", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.5",
        "0.0.0.0", "localhost:", "localhost:80:80", "localhost:abc", "[::1", "[::1]x", "user@localhost", "localhost/",
        "localhost.", "127.1", "a, localhost", "[localhost]:x",
    ):  # fmt: skip
        reply = with_host(url, host)
        assert (reply.status, reply.error["code"]) == (403, "host_not_allowed"), host
    assert call(url, "/health", headers={"Host": "evil.example"}).status == 403


def test_requests_without_one_host_are_refused(url: str) -> None:
    head = b"GET /v1/models HTTP/1.0\r\n\r\n"
    assert raw(url, head)[0] == 403
    assert raw(url, b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n")[0] == 400
    two = request_bytes(url, "/v1/models", b"", "Host: localhost", "Host: evil.example", method="GET")
    assert raw(url, two)[0] in (400, 403)
    absolute = request_bytes(url, "http://evil.example/v1/models", b"", "Connection: close", method="GET")
    assert raw(url, absolute)[0] in (400, 404)


def test_pages_of_other_sites_are_refused(url: str) -> None:
    own = f"http://127.0.0.1:{port(url)}"
    for origin in (own, own.replace("http", "https")):
        reply = call(url, "/v1/chat/completions", CHAT, {"Origin": origin})
        assert reply.status == 200
        assert "access-control-allow-origin" not in reply.headers
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        f"http://localhost:{port(url)}",
        "",
        own + "/",
    ):
        reply = call(url, "/v1/chat/completions", CHAT, {"Origin": origin})
        assert (reply.status, reply.error["code"]) == (403, "origin_not_allowed"), origin
        assert "access-control-allow-origin" not in reply.headers
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert call(url, "/v1/chat/completions", headers=preflight, method="OPTIONS").status == 403
    image = call(url, "/v1/models", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})
    assert image.status == 403
    link = call(url, "/v1/models", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert link.status == 200


def test_a_simple_request_of_a_form_is_not_json(url: str) -> None:
    """A form can send text/plain to any site without asking first."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        reply = call(url, "/v1/completions", b'{"prompt": "a"}', {"Content-Type": kind})
        assert reply.status == 400
        assert "Content-Type: application/json" in reply.error["message"]


def test_an_allowed_origin_may_ask_and_read(guarded: str) -> None:
    asked = {
        "Origin": ORIGIN, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
    }  # fmt: skip
    preflight = call(guarded, "/v1/chat/completions", headers=asked, method="OPTIONS")  # without the key
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert preflight.headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    odd = call(guarded, "/", headers={**asked, "Access-Control-Request-Headers": "a\tb;"}, method="OPTIONS")
    assert odd.headers["access-control-allow-headers"] == "authorization, content-type"
    sent = {"Origin": ORIGIN, "Authorization": f"Bearer {KEY}"}
    reply = call(guarded, "/v1/chat/completions", CHAT, sent)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert reply.headers["vary"] == "Origin"
    wrong = call(guarded, "/v1/chat/completions", CHAT, {"Origin": ORIGIN})
    assert (wrong.status, wrong.headers["access-control-allow-origin"]) == (401, ORIGIN)
    for origin in ("http://chat.example.org", ORIGIN + ".evil.example", ORIGIN.upper()):
        assert call(guarded, "/v1/models", headers={**sent, "Origin": origin}).status == 403


def test_the_key_is_required_except_for_health_and_the_page(guarded: str) -> None:
    assert call(guarded, "/health").status == call(guarded, "/").status == 200
    for path in ("/v1/models", "/metrics", "/pa-lite/state", "/openapi.json", "/nowhere", "/health/"):
        reply = call(guarded, path)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key"), path
        assert reply.headers["www-authenticate"] == "Bearer"
    for value in (
        KEY, "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Bearer {KEY.upper()}",
        f"Bearer x {KEY}", "Bearer \xff\xfe",
    ):  # fmt: skip
        assert call(guarded, "/v1/models", headers={"Authorization": value}).status == 401, value
    for value in (f"Bearer {KEY}", f"bearer {KEY}", f"Bearer  {KEY}"):
        assert call(guarded, "/v1/models", headers={"Authorization": value}).status == 200, value
    twice = request_bytes(
        guarded, "/v1/models", b"", f"Authorization: Bearer {KEY}", "Authorization: Bearer x", "Connection: close",
        method="GET",
    )  # fmt: skip
    assert raw(guarded, twice)[0] == 401


def test_a_body_is_not_read_without_the_key(guarded: str) -> None:
    head = request_bytes(guarded, "/v1/completions", b"", "Content-Length: 1000000", "Connection: close")
    assert raw(guarded, head)[0] == 401


def test_on_all_addresses_any_address_of_the_machine_may_be_the_host(guarded: str) -> None:
    sent = {"Authorization": f"Bearer {KEY}"}
    for host in ("192.168.0.5", "10.0.0.1:8080", "[fe80::1]", "my-box.local", "MY-BOX.LOCAL:99", "localhost"):
        assert call(guarded, "/v1/models", headers={**sent, "Host": host}).status == 200, host
    for host in ("evil.example", "box.local", "3232235521"):
        assert call(guarded, "/v1/models", headers={**sent, "Host": host}).status == 403, host


def test_every_answer_has_security_headers(url: str) -> None:
    stream = call(url, "/v1/completions", {"prompt": "a", "max_tokens": 1, "stream": True})
    for reply in (call(url, "/v1/models"), call(url, "/nowhere"), stream, with_host(url, "evil.example")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert reply.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "server" not in reply.headers


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"host": "0.0.0.0"}, "set a key with --api-key"),
        ({"host": "::"}, "set a key with --api-key"),
        ({"host": "192.168.1.2"}, "set a key with --api-key"),
        ({"host": "example.org"}, "set a key with --api-key"),
        ({"host": ""}, "is not a host"),
        ({"host": "http://x", "api_key": "k"}, "is not a host"),
        ({"allow_hosts": ("a:80",)}, "is not a host"),
        ({"api_key": "two words"}, "without spaces"),
        ({"api_key": "ä"}, "ASCII"),
        ({"allow_origins": ("*",)}, "is not an origin"),
        ({"allow_origins": ("https://example.org/",)}, "is not an origin"),
        ({"allow_origins": ("example.org",)}, "is not an origin"),
        ({"allow_origins": ("https://a:b@example.org",)}, "is not an origin"),
        ({"allow_origins": ("https://example.org:99999",)}, "is not an origin"),
        ({"port": 70000}, "port is 70000; it must be from 0 to 65535"),
        ({"parallel": 0}, "parallel is 0"),
        ({"queue": -1}, "queue is -1"),
        ({"models": -1}, "models is -1"),
        ({"max_wait": float("nan")}, "max_wait is nan"),
        ({"max_memory": "much"}, "much"),
    ],
)
def test_bad_options_are_one_line(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        pa_lite.ServeOptions(**words)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_options_take_strings_and_hide_the_key() -> None:
    options = pa_lite.ServeOptions(
        allow_hosts="Box", allow_origins="https://example.org:8443", max_memory="8G", api_key=KEY  # type: ignore[arg-type]
    )  # fmt: skip
    assert (options.allow_hosts, options.allow_origins) == (("Box",), ("https://example.org:8443",))
    assert options.max_memory == 8_000_000_000
    assert "box" in allowed_names(options)
    assert KEY not in repr(options)
    assert url_of("::1", 80) == "http://[::1]:80"
    assert url_of("0.0.0.0", 80) == "http://localhost:80"
    assert url_of("box", 80) == "http://box:80"


@pytest.mark.parametrize("path", ["/health%0a", "/v1/models%0d%0ax", "/%00"])
def test_paths_with_control_characters_are_unknown(url: str, path: str) -> None:
    status, _ = raw(url, request_bytes(url, path, b"", "Connection: close", method="GET"))
    assert status == 404
