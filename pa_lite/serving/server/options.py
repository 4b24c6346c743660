"""Options and limits of the server. Imports no web framework."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pa_lite.engine.generation_options import MAX_PARALLEL
from pa_lite.errors import InputError
from pa_lite.merging.memory import parse_bytes

# limits of one request
MAX_BODY = 4 << 20  # bytes
MAX_VALUES = 128 << 20  # bytes that the values of its JSON take in memory, estimated
MAX_N = 16
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 256
MAX_LOGPROBS = 20
MAX_PROMPTS = 256
MAX_ANSWERS = 256  # prompts times n
MAX_MESSAGES = 2048
# limits of all requests together
MAX_ALL_VALUES = 512 << 20  # as MAX_VALUES
MAX_CONNECTIONS = 800
# seconds
BODY_SECONDS = 60.0  # to receive a body
IDLE_SECONDS = 40.0  # for a connection without a complete request line and headers
KEEP_ALIVE_SECONDS = 30  # for the next request on a connection
UNREAD_SECONDS = 60.0  # for a client to read what was sent
PING_SECONDS = 15.0  # between signs of life in a stream without tokens
GRACE_SECONDS = 3.0  # for running answers when the server stops

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,252})")
_KEY = re.compile(r"[!-~]{1,512}")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How a model is served. Raises InputError for values out of range.

    `host` and `port` (0: any free one) are where the server listens; a host that is not loopback requires `api_key`,
    which clients send as `Authorization: Bearer KEY`. `allow_hosts` are further names by which clients reach the
    server, `allow_origins` the web pages (`https://example.org`) whose scripts may use it.

    Up to `parallel` answers of each model run at a time, and up to `queue` further requests wait. Of a pair, as many
    models are in memory as `max_memory` allows (bytes, or "8G"; 0: half of the free memory), at most `models` (0: no
    limit). Requests for the lam of a model that is about to move may join it for `max_wait` seconds.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str = field(default="", repr=False)
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    parallel: int = 4
    queue: int = 64
    max_memory: int = 0
    models: int = 0
    max_wait: float = 2.0

    def __post_init__(self) -> None:
        for name in ("allow_hosts", "allow_origins"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if isinstance(self.max_memory, str):
            object.__setattr__(self, "max_memory", parse_bytes(self.max_memory))
        for name, holds, allowed in (
            ("port", 0 <= self.port <= 65535, "from 0 to 65535"),
            ("parallel", 1 <= self.parallel <= MAX_PARALLEL, f"from 1 to {MAX_PARALLEL}"),
            ("queue", 0 <= self.queue <= 10_000, "from 0 to 10000"),
            ("max_memory", self.max_memory >= 0, "at least 0"),
            ("models", self.models >= 0, "at least 0"),
            ("max_wait", 0 <= self.max_wait <= 3600, "from 0 to 3600"),
        ):
            if not holds:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {allowed}.")
        if self.api_key and _KEY.fullmatch(self.api_key) is None:
            raise InputError("the API key must have 1 to 512 printable ASCII characters, without spaces.")
        for host in (self.host, *self.allow_hosts):
            check_host(host)
        for origin in self.allow_origins:
            _check_origin(origin)
        if not self.api_key and not is_loopback(self.host):
            raise InputError(
                f"{self.host} can be reached from other machines: set a key with --api-key (or PA_LITE_API_KEY), or "
                "leave --host out to serve only this machine."
            )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host, an address or a name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_host(host: str) -> None:
    """Raise InputError for what is neither an IP address nor a host name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if _HOST.fullmatch(host) is None:
            raise InputError(
                f"{host!r:.80} is not a host: write a name or an address, without http:// and port."
            ) from None


def _check_origin(origin: str) -> None:
    """Raise InputError for what is not exactly an origin, as browsers send it."""
    try:
        parts = urlsplit(origin)
        exact = f"{parts.scheme}://{parts.netloc}" == origin and bool(parts.hostname) and parts.username is None
        _ = parts.port
    except ValueError:
        exact = False
    if not exact or origin != origin.lower() or not origin.isascii() or any(c.isspace() for c in origin):
        raise InputError(f"{origin!r:.80} is not an origin: write it as browsers do, such as https://example.org.")


def url_of(host: str, port: int) -> str:
    """Return the address of a server for clients on this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        return f"http://localhost:{port}" if address.version == 4 else f"http://[::1]:{port}"
    return f"http://[{host}]:{port}" if address.version == 6 else f"http://{host}:{port}"


def allowed_names(options: ServeOptions) -> Sequence[str]:
    """Return the names and addresses in lower case that are allowed in a request's Host header."""
    loopback = ("localhost", "127.0.0.1", "::1")
    return [name.lower() for name in (*loopback, options.host, *options.allow_hosts)]
