"""Requests to the Hub: one session, patience with transient failures, and errors that say what to do.

Everything goes through huggingface_hub's session and headers; the environment is read at each call.
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
_LONG_WAIT = 8.0  # seconds; such a wait is told of
TIMEOUT = 30.0  # seconds for a connection, and between two pieces of an answer
_TAG = re.compile(r"[\w.-]{8,128}")  # of a content: it names a file of the cache
QUICK, PATIENT = 4, 8  # tries: for the first word with the Hub, and in the middle of gigabytes


@dataclass(frozen=True)
class FileFacts:
    """A file as the Hub describes it: its commit, its content's tag and size in bytes, and where the bytes lie.

    `etag` is the SHA-256 of a large (LFS) file's content, and git's blob id of any other. `location` may expire.
    """

    commit: str
    etag: str
    size: int
    location: str
    is_elsewhere: bool


def headers(token: bool) -> dict[str, str]:
    """What a request carries: who asks, and the token if there is one. No compression: bytes are counted."""
    from huggingface_hub.utils import build_hf_headers

    found: dict[str, str] = build_hf_headers(token=None if token else False, library_name="pa-lite")
    return {**found, "Accept-Encoding": "identity"}


class Patience:
    """Judges failures of one undertaking: waits after those that pass, raises the explained error for all others.

    Waits double from 0.4 s to 30 s, with jitter; a Retry-After is obeyed up to five minutes.
    """

    def __init__(self, reference: HubReference, tries: int = QUICK, stop: threading.Event | None = None) -> None:
        self.reference, self.tries, self._stop = reference, tries, stop or threading.Event()
        self._failures = 0

    def check(self) -> None:
        """Raise HubError when nobody wants the result any more."""
        if self._stop.is_set():
            raise self.reference.error("the transfer was stopped.")

    def renew(self) -> None:
        """Something arrived: count failures from none again."""
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Wait until it makes sense to try again. Raises HubError if it does not, or the tries are used up."""
        from huggingface_hub.errors import HfHubHTTPError

        if isinstance(error.__context__, _client().InvalidURL):  # how its versions report where a redirect leads
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
        _log.log(level, "%s: %s; trying again in %.1f s", self.reference.label, _one_line(error), wait)
        self._stop.wait(wait)
        self.check()


def attempt(call: Callable[[], _Result], reference: HubReference, tries: int = QUICK) -> _Result:
    """The call's result, tried again with growing waits while the Hub or the network fails in passing.

    Raises HubError, in one line that says what to do, for anything lasting and when all tries failed.
    """
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    patience = Patience(reference, tries)
    while True:
        try:
            return call()
        except OfflineModeIsEnabled as e:
            raise reference.error("cannot be asked for while offline (HF_HUB_OFFLINE).") from e
        except HTTPError as e:
            patience.failed(e)
        except no_hub_errors() as e:
            raise explain_no_hub(e, reference) from e


def _client() -> Any:
    """The HTTP client's module that huggingface_hub uses: httpx, or what follows it."""
    from huggingface_hub.errors import HTTPError

    return sys.modules[HTTPError.__module__.partition(".")[0]]


def no_hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub and its HTTP client raise of answers that are not those of a Hub, beside HTTPError."""
    return ValueError, LookupError, TypeError, AttributeError, RecursionError, _client().InvalidURL


def explain_no_hub(error: Exception, reference: HubReference) -> HubError:
    """The error for an answer that huggingface_hub cannot make sense of."""
    told = _one_line(error)[:100]
    return reference.error(f"{endpoint()} answers as no Hub does ({told}). Check HF_ENDPOINT and proxies.")


def _retry_after(fields: Mapping[str, str]) -> float | None:
    """The seconds that an answer asks us to wait: Retry-After in seconds or as a date, or the Hub's own rate limit."""
    import email.utils

    value = fields.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        until = email.utils.parsedate_to_datetime(value).timestamp()
        now = time.time()
        with contextlib.suppress(ValueError, TypeError):  # by the Hub's clock: ours may be wrong
            now = email.utils.parsedate_to_datetime(fields.get("Date", "")).timestamp()
        return max(0.0, until - now)
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", fields.get("RateLimit", ""))
    return float(limit[1]) if limit else None


def _one_line(error: Exception) -> str:
    """An error as a remark; without the addresses, which may be signed, that an HTTP status comes with."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.headers.get('X-Error-Message', '')[:200]}".strip()
    return " ".join(str(error).split()) or type(error).__name__


def explain(error: Exception, reference: HubReference) -> HubError:
    """The error of a request as one line that says what happened to what, and what to do."""
    from huggingface_hub import errors

    if not isinstance(error, errors.HfHubHTTPError):
        return reference.error(
            f"{endpoint()} cannot be reached ({_one_line(error)}). Check the network, or set HF_HUB_OFFLINE=1 to use "
            "what was fetched before.",
            is_passing=True,
        )
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        told = (
            f"is gated. Accept its licence at {reference.page}, then log in with 'hf auth login', or set HF_TOKEN to "
            "a token that may read it"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        told = f"there is no such revision. {reference.page}/tree/main shows what there is"
    elif isinstance(error, errors.EntryNotFoundError) or (
        status == 404 and reference.file and not isinstance(error, errors.RepositoryNotFoundError)
    ):
        told = f"has no file {reference.file or ''}".rstrip() + f". {reference.page}/tree/main shows what there is"
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        told = (
            f"this {reference.repo_type} does not exist or is private. Check the name; log in ('hf auth login') if you "
            "have access"
        )
    elif status == 403:
        told = f"access is forbidden. See {reference.page}, and give HF_TOKEN a token that may read it"
    elif status == 429:
        told = "the Hub has had too many requests from here. Wait some minutes, or log in ('hf auth login'), and go on"
    elif status >= 500:
        told = f"the Hub does not work at the moment (HTTP {status}). Try again later"
    else:
        told = f"the Hub refused the request ({_one_line(error)})"
    return reference.error(f"{told}.", is_passing=status in _RETRIED)


def file_facts(reference: HubReference, tries: int = QUICK) -> FileFacts:
    """Ask the Hub about one file. Raises HubError."""
    return attempt(lambda: _head(reference), reference, tries)


def _head(reference: HubReference) -> FileFacts:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    where = {"repo_type": reference.repo_type, "revision": reference.revision, "endpoint": endpoint()}
    url = hf_hub_url(reference.repo, reference.file or "", **where)
    found = get_hf_file_metadata(url, timeout=TIMEOUT, library_name="pa-lite")
    commit, etag, size = found.commit_hash or "", found.etag or "", found.size
    if not COMMIT.fullmatch(commit) or not _TAG.fullmatch(etag) or size is None or not 0 <= size < 10**15:
        raise reference.error(
            f"the answer for {reference.file} lacks a commit, a tag or a size: {endpoint()} is no Hub. Check "
            "HF_ENDPOINT and the proxy."
        )
    location = urljoin(url, found.location)
    _client().URL(location)  # raises InvalidURL now, and not when the content is asked for
    return FileFacts(commit, etag, size, location, origin(location) != origin(endpoint()))


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
