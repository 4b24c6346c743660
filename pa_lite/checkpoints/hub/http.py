"""Send requests to the Hub with retries, and explain errors.

Uses huggingface_hub's session and headers; the environment is read at each call.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from pa_lite.checkpoints.hub.references import COMMIT, HubReference, endpoint
from pa_lite.errors import HubError

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_ASKED = 0.4, 30.0, 300.0  # seconds
_LONG_WAIT = 8.0  # seconds; longer waits are logged as warnings
TIMEOUT = 30.0  # seconds for a connection, and between two pieces of a response
_TAG = re.compile(r"[\w.-]{8,128}")  # of a content; used as a file name in the cache
QUICK, PATIENT = 4, 8  # tries: for the first request, and during downloads


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """The Hub's description of a file: commit, ETag, size in bytes, and the location of the content.

    `etag` is the SHA-256 of a large (LFS) file, and git's blob id of any other. `location` may expire.
    """

    commit: str
    etag: str
    size: int
    location: str
    is_elsewhere: bool


def headers(token: bool) -> dict[str, str]:
    """Return request headers: user agent, token (if there is one), and no compression, as bytes are counted."""
    from huggingface_hub.utils import build_hf_headers

    found: dict[str, str] = build_hf_headers(token=None if token else False, library_name="pa-lite")
    return {**found, "Accept-Encoding": "identity"}


class Patience:
    """Handles failures of one operation: waits after transient ones, raises an explained error for all others.

    Waits double from 0.4 s to 30 s, with jitter; Retry-After is respected up to five minutes.
    """

    def __init__(self, reference: HubReference, tries: int = QUICK, stop: threading.Event | None = None) -> None:
        self.reference, self.tries, self._stop = reference, tries, stop or threading.Event()
        self._failures = 0

    def check(self) -> None:
        """Raise HubError if the operation was stopped."""
        if self._stop.is_set():
            raise self.reference.error("the transfer was stopped.")

    def renew(self) -> None:
        """Reset the count of failures, as data has arrived."""
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Wait before the next try. Raises HubError if retrying is useless or there are no tries left."""
        from huggingface_hub.errors import HfHubHTTPError

        if isinstance(error.__context__, _client().InvalidURL):  # how some versions report a bad redirect
            raise explain_no_hub(error.__context__, self.reference) from error
        asked: float | None = None
        self._failures += 1
        if isinstance(error, HfHubHTTPError):
            asked = _retry_after(error.response.headers)
            if error.response.status_code not in _RETRIED or (asked or 0) > _LONGEST_ASKED:
                raise explain(error, self.reference) from error
        if self._failures >= self.tries:
            raise explain(error, self.reference) from error
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (self._failures - 1)) * random.uniform(0.5, 1.0)
        wait = max(wait, asked or 0.0)
        level = logging.WARNING if wait >= _LONG_WAIT else logging.INFO
        _log.log(level, "%s: %s; retrying in %.1f s", self.reference.label, _one_line(error), wait)
        self._stop.wait(wait)
        self.check()


def attempt(call: Callable[[], _Result], reference: HubReference, tries: int = QUICK) -> _Result:
    """Call a function, retrying with growing waits while the Hub or the network fails temporarily.

    Raises HubError, in one line that says what to do, for permanent errors and after the last try.
    """
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    patience = Patience(reference, tries)
    while True:
        try:
            return call()
        except OfflineModeIsEnabled as e:
            raise reference.error("is not available offline (HF_HUB_OFFLINE).") from e
        except HTTPError as e:
            patience.failed(e)
        except no_hub_errors() as e:
            raise explain_no_hub(e, reference) from e


def _client() -> Any:
    """Return the module of huggingface_hub's HTTP client: httpx, or its successor."""
    from huggingface_hub.errors import HTTPError

    return sys.modules[HTTPError.__module__.partition(".")[0]]


def no_hub_errors() -> tuple[type[Exception], ...]:
    """Return the errors, other than HTTPError, that responses raise that do not come from a Hub."""
    return ValueError, LookupError, TypeError, AttributeError, RecursionError, _client().InvalidURL


def explain_no_hub(error: Exception, reference: HubReference) -> HubError:
    """Return the error for a response that huggingface_hub cannot read."""
    told = _one_line(error)[:100]
    return reference.error(f"{endpoint()} does not answer like a Hub ({told}). Check HF_ENDPOINT and proxies.")


def _retry_after(fields: Mapping[str, str]) -> float | None:
    """Return the seconds to wait: Retry-After in seconds or as a date, or the Hub's rate limit; else None."""
    import email.utils

    value = fields.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        until = email.utils.parsedate_to_datetime(value).timestamp()
        now = time.time()
        with contextlib.suppress(ValueError, TypeError):  # by the Hub's clock, as ours may be wrong
            now = email.utils.parsedate_to_datetime(fields.get("Date", "")).timestamp()
        return max(0.0, until - now)
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", fields.get("RateLimit", ""))
    return float(limit[1]) if limit else None


def _one_line(error: Exception) -> str:
    """Return an error as one line, without the addresses in HTTP errors, which may be signed."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.headers.get('X-Error-Message', '')[:200]}".strip()
    return " ".join(str(error).split()) or type(error).__name__


def explain(error: Exception, reference: HubReference) -> HubError:
    """Return the error of a request in one line: what happened, to what, and what to do."""
    from huggingface_hub import errors

    if not isinstance(error, errors.HfHubHTTPError):
        return reference.error(
            f"{endpoint()} cannot be reached ({_one_line(error)}). Check the network, or set HF_HUB_OFFLINE=1 to use "
            "what is in the cache.",
            is_passing=True,
        )
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        told = (
            f"is gated. Accept its licence at {reference.page}, then log in with 'hf auth login', or set HF_TOKEN to "
            "a token with access"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        told = f"this revision does not exist. See {reference.page}/tree/main"
    elif isinstance(error, errors.EntryNotFoundError) or (
        status == 404 and reference.file and not isinstance(error, errors.RepositoryNotFoundError)
    ):
        told = f"has no file {reference.file or ''}".rstrip() + f". See {reference.page}/tree/main"
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        told = (
            f"this {reference.repo_type} does not exist or is private. Check the name; log in ('hf auth login') if you "
            "have access"
        )
    elif status == 403:
        told = f"access is forbidden. See {reference.page}, and set HF_TOKEN to a token with access"
    elif status == 429:
        told = "there were too many requests. Wait some minutes, or log in ('hf auth login'), and retry"
    elif status >= 500:
        told = f"the Hub is not working at the moment (HTTP {status}). Retry later"
    else:
        told = f"the Hub refused the request ({_one_line(error)})"
    return reference.error(f"{told}.", is_passing=status in _RETRIED)


def file_facts(reference: HubReference, tries: int = QUICK) -> FileFacts:
    """Request the description of a file. Raises HubError."""
    return attempt(lambda: _head(reference), reference, tries)


def _head(reference: HubReference) -> FileFacts:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    where = {"repo_type": reference.repo_type, "revision": reference.revision, "endpoint": endpoint()}
    url = hf_hub_url(reference.repo, reference.file or "", **where)
    found = get_hf_file_metadata(url, timeout=TIMEOUT, library_name="pa-lite")
    commit, etag, size = found.commit_hash or "", found.etag or "", found.size
    if not COMMIT.fullmatch(commit) or not _TAG.fullmatch(etag) or size is None or not 0 <= size < 10**15:
        raise reference.error(
            f"the answer for {reference.file} has no commit, ETag or size: {endpoint()} is not a Hub. "
            "Check HF_ENDPOINT and the proxy."
        )
    location = urljoin(url, found.location)
    _client().URL(location)  # raises InvalidURL now, not at the first download
    return FileFacts(
        commit=commit, etag=etag, size=size, location=location, is_elsewhere=origin(location) != origin(endpoint())
    )


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
