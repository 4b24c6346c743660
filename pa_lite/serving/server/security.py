"""Who may use the server: checks of Host, Origin and key before anything else of a request is read. Pure ASGI.

A page on the web can make a browser send requests to this machine. It cannot choose the Host header: names that are
not the server's are refused, against DNS rebinding. Its requests carry its Origin, which must be the server's or one
that was allowed.
"""

from __future__ import annotations

import hmac
import ipaddress
import re

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pa_lite.sanitize import one_line
from pa_lite.serving.server.errors import ApiError
from pa_lite.serving.server.options import ServeOptions, allowed_names

OPEN = ("/", "/health")  # paths that require no key: the page asks for it
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
_HEADER_NAMES = re.compile(r"[A-Za-z0-9-]+(?:\s*,\s*[A-Za-z0-9-]+){0,63}")
_PORT = re.compile(r":\d{1,5}")


class Guard:
    """Middleware that refuses requests of others, answers browsers' preflights, and adds security headers."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        """Allow what the options allow."""
        self._app = app
        self._names = frozenset(allowed_names(options))
        self._takes_addresses = _is_wildcard(options.host)
        self._origins, self._key = frozenset(options.allow_origins), options.api_key.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send 403 for a foreign Host or Origin, 401 without the key, 404 for a bad path, or call the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        origin = ""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS.items() if name not in sent]
                message = {**message, "headers": [*message["headers"], *added, *_cors(origin)]}
            await send(message)

        try:
            if not scope["path"].isprintable():  # a route would match a path with a line break at its end
                raise ApiError(404, "unknown URL: it has control characters.", code="unknown_url")
            host = self._checked_host(headers)
            origin = self._allowed_origin(headers, host)
            if origin and scope["method"] == "OPTIONS":
                await _preflight(headers)(scope, receive, send_safely)
                return
            if self._key and scope["path"] not in OPEN:
                self._check_key(headers)
        except ApiError as e:
            await e.response(scope, receive, send_safely)
            return
        await self._app(scope, receive, send_safely)

    def _checked_host(self, headers: list[tuple[bytes, bytes]]) -> str:
        """Return the Host header. Raises the HTTP error 403 unless it names the server."""
        found = [value for name, value in headers if name == b"host"]
        host = found[0].decode("latin-1") if len(found) == 1 else ""
        name = _without_port(host)
        if name is None or not (name in self._names or (self._takes_addresses and _is_address(name))):
            raise ApiError(
                403, f"the host {one_line(host[:100])!r} is not a name of this server. Start it with --allow-host NAME "
                "to allow another name.",
                code="host_not_allowed",
            )  # fmt: skip
        return host

    def _allowed_origin(self, headers: list[tuple[bytes, bytes]], host: str) -> str:
        """Return the origin if it was allowed, "" for none and the server's own. Raises the HTTP error 403 for others.

        Also for requests that a browser says come from another site, such as images, which send no Origin.
        """
        found = [value.decode("latin-1") for name, value in headers if name == b"origin"]
        sites = [value for name, value in headers if name == b"sec-fetch-site"]
        if not found:
            if b"cross-site" in sites and (b"sec-fetch-mode", b"navigate") not in headers:
                raise _foreign("of this page")
            return ""
        if len(found) == 1 and found[0] in (f"http://{host}", f"https://{host}"):
            return ""
        if len(found) == 1 and found[0] in self._origins:
            return found[0]
        raise _foreign(repr(one_line(found[0][:100])))

    def _check_key(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Raise the HTTP error 401 unless there is one Authorization header with the key."""
        found = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = found[0].partition(b" ") if len(found) == 1 else (b"", b"", b"")
        if not hmac.compare_digest(key.strip(), self._key) or scheme.lower() != b"bearer":
            raise ApiError(
                401, "the API key is missing or wrong: send it as Authorization: Bearer KEY.", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def _foreign(origin: str) -> ApiError:
    return ApiError(
        403, f"the origin {origin} is not allowed. Start the server with --allow-origin ORIGIN to allow it.",
        code="origin_not_allowed",
    )  # fmt: skip


def _cors(origin: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that let the scripts of an origin read a response."""
    if not origin:
        return []
    return [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]


def _preflight(headers: list[tuple[bytes, bytes]]) -> Response:
    """Return the answer to a browser that asks what an allowed origin may send."""
    asked = next((value.decode("latin-1") for name, value in headers if name == b"access-control-request-headers"), "")
    allowed = asked if _HEADER_NAMES.fullmatch(asked) else "authorization, content-type"
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": allowed,
            "Access-Control-Max-Age": "600",
        },
    )


def _without_port(host: str) -> str | None:
    """Return the name or address of a Host header in lower case; None for an invalid one."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        is_valid = bool(bracket)
    else:
        name, colon, port = host.partition(":")
        port, is_valid = colon + port, True
    if not is_valid or not name or (port and _PORT.fullmatch(port) is None):
        return None
    return name.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_wildcard(host: str) -> bool:
    """Return whether a host stands for all addresses of the machine; then clients may use any of them."""
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified
