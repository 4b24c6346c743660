"""Requests to the Hub: one session, patience with transient failures, and errors that say what to do.

Everything goes through huggingface_hub's session and headers; the environment is read at each call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from pa_lite.errors import HubError, InputError

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_ASKED = 0.4, 30.0, 300.0  # seconds
_TIMEOUT = 30.0  # seconds for a connection, and between two pieces of an answer
_COMMIT = re.compile(r"[0-9a-f]{40}")
QUICK, PATIENT = 4, 8  # tries: for the first word with the Hub, and in the middle of gigabytes


@dataclass(frozen=True)
class Subject:
    """What a request is about, for its error: repository, its kind (`model` or `dataset`), revision, and file."""

    repo: str
    kind: str = "model"
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        prefix = "hub:" if self.kind == "model" else "dataset "
        revision = self.revision[:8] if self.revision and _COMMIT.fullmatch(self.revision) else self.revision
        return prefix + self.repo + (f"@{revision}" if revision else "")

    @property
    def page(self) -> str:
        """Where people read about it."""
        return f"{endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"


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


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, else the public one. Raises InputError for what is no address."""
    text = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise InputError(f"HF_ENDPOINT is {text!r}, which is no address such as https://huggingface.co.")
    return text


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids any request."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def api() -> Any:
    """huggingface_hub's HfApi for the endpoint; its token comes the usual way (HF_TOKEN, hf auth login)."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="pa-lite")


def headers() -> dict[str, str]:
    """What every request carries: who asks, and the token if there is one. No compression: bytes are counted."""
    from huggingface_hub.utils import build_hf_headers

    found: dict[str, str] = build_hf_headers(library_name="pa-lite")
    return {**found, "Accept-Encoding": "identity"}


class Patience:
    """Judges failures of one undertaking: waits after those that pass, raises the explained error for all others.

    Waits double from 0.4 s to 30 s, with jitter; a Retry-After is obeyed up to five minutes.
    """

    def __init__(self, subject: Subject, tries: int = QUICK, stop: threading.Event | None = None) -> None:
        self.subject, self.tries, self._stop = subject, tries, stop or threading.Event()
        self._failures = 0

    def check(self) -> None:
        """Raise HubError when nobody wants the result any more."""
        if self._stop.is_set():
            raise HubError(f"{self.subject}: the transfer was stopped.")

    def renew(self) -> None:
        """Something arrived: count failures from none again."""
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Wait until it makes sense to try again. Raises HubError if it does not, or the tries are used up."""
        from huggingface_hub.errors import HfHubHTTPError

        asked: float | None = None
        self._failures += 1
        if isinstance(error, HfHubHTTPError):
            asked = _retry_after(error.response.headers)
            if error.response.status_code not in _RETRIED or (asked or 0) > _LONGEST_ASKED:
                raise explain(error, self.subject) from error
        if self._failures >= self.tries:
            raise explain(error, self.subject) from error
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (self._failures - 1)) * random.uniform(0.5, 1.0)
        wait = max(wait, asked or 0.0)
        _log.info("%s: %s; trying again in %.1f s", self.subject, _one_line(error), wait)
        self._stop.wait(wait)
        self.check()


def attempt(call: Callable[[], _Result], subject: Subject, tries: int = QUICK) -> _Result:
    """The call's result, tried again with growing waits while the Hub or the network fails in passing.

    Raises HubError, in one line that says what to do, for anything lasting and when all tries failed.
    """
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    patience = Patience(subject, tries)
    while True:
        try:
            return call()
        except OfflineModeIsEnabled as e:
            raise HubError(f"{subject}: cannot be asked for while offline (HF_HUB_OFFLINE).") from e
        except HTTPError as e:
            patience.failed(e)


def _retry_after(fields: Mapping[str, str]) -> float | None:
    """The seconds that an answer asks us to wait: Retry-After in seconds or as a date, or the Hub's own rate limit."""
    import email.utils

    value = fields.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", fields.get("RateLimit", ""))
    return float(limit[1]) if limit else None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def explain(error: Exception, subject: Subject) -> HubError:
    """The error of a request as one line that says what happened to what, and what to do."""
    from huggingface_hub import errors

    if not isinstance(error, errors.HfHubHTTPError):
        return HubError(
            f"{subject}: {endpoint()} cannot be reached ({_one_line(error)}). Check the network, or set "
            "HF_HUB_OFFLINE=1 to use what was fetched before.",
            is_passing=True,
        )
    status = error.response.status_code
    noun = subject.kind
    if isinstance(error, errors.GatedRepoError):
        told = (
            f"is gated. Accept its licence at {subject.page}, then log in with 'hf auth login', or set HF_TOKEN to "
            "a token that may read it"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        told = f"there is no such revision. {subject.page}/tree/main shows what there is"
    elif isinstance(error, errors.EntryNotFoundError):
        told = f"has no file {subject.file or ''}".rstrip() + f". {subject.page}/tree/main shows what there is"
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        told = f"there is no such {noun}, or it is private. Check the name; log in ('hf auth login') if it is yours"
    elif status == 403:
        told = f"access is forbidden. See {subject.page}, and give HF_TOKEN a token that may read it"
    elif status == 429:
        told = "the Hub has had too many requests from here. Wait some minutes, or log in ('hf auth login'), and go on"
    elif status >= 500:
        told = f"the Hub does not work at the moment (HTTP {status}). Try again later; what was fetched is kept"
    else:
        told = f"the Hub refused the request (HTTP {status}: {_one_line(error)[:200]})"
    return HubError(f"{subject}: {told}.", is_passing=status in _RETRIED)


def resolve_url(subject: Subject) -> str:
    """The address of a file's content."""
    prefix = "datasets/" if subject.kind == "dataset" else ""
    revision = quote(subject.revision or "main", safe="")
    return f"{endpoint()}/{prefix}{subject.repo}/resolve/{revision}/{quote(subject.file or '')}"


def _tag(value: str | None) -> str:
    return (value or "").removeprefix("W/").strip('"')


def file_facts(subject: Subject, tries: int = QUICK) -> FileFacts:
    """Ask the Hub about one file. Raises HubError."""
    return attempt(lambda: _head(subject), subject, tries)


def _head(subject: Subject) -> FileFacts:
    from huggingface_hub.utils import get_session, hf_raise_for_status

    url, ours = resolve_url(subject), headers()
    for _ in range(5):
        response = get_session().request("HEAD", url, headers=ours, follow_redirects=False, timeout=_TIMEOUT)
        hf_raise_for_status(response)
        fields, target = response.headers, response.headers.get("Location")
        # renamed repositories redirect within the Hub, large files to where they are stored
        if target is None or "X-Linked-Size" in fields or _origin(urljoin(url, target)) != _origin(url):
            break
        url = urljoin(url, target)
    commit, etag = fields.get("X-Repo-Commit", ""), _tag(fields.get("X-Linked-Etag") or fields.get("ETag"))
    size = fields.get("X-Linked-Size") or (None if target else fields.get("Content-Length")) or ""
    if not _COMMIT.fullmatch(commit) or not re.fullmatch(r"[\w.-]{8,128}", etag) or not re.fullmatch(r"\d{1,15}", size):
        raise HubError(
            f"{subject}: the answer for {subject.file} lacks a commit, a tag or a size: {endpoint()} is no Hub. "
            "Check HF_ENDPOINT and the proxy."
        )
    location = urljoin(url, target) if target else url
    return FileFacts(commit, etag, int(size), location, _origin(location) != _origin(endpoint()))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


class RemoteContent:
    """A file's bytes on the Hub, read in ranges by any number of threads, all of one content or not at all.

    What is read belongs to the commit, tag and size of `facts`; an answer that tells otherwise ends in a HubError. A
    connection that breaks off is taken up again where it ended. The token is sent to the Hub alone.
    """

    def __init__(self, subject: Subject, facts: FileFacts) -> None:
        self.subject, self.facts = subject, facts
        self._lock = threading.Lock()
        # storage behind the Hub has tags of its own: the first that it gives counts
        self._body_tag = None if facts.is_elsewhere else facts.etag

    def pieces(self, start: int, stop: int, stopped: threading.Event | None = None) -> Iterator[bytes]:
        """The bytes [start, stop) in pieces, none twice and none left out, however often the connection breaks.

        Raises HubError when the file has changed, the Hub or the network fails for long, or `stopped` is set.
        """
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

        patience = Patience(self.subject, PATIENT, stopped)
        while start < stop:
            facts = self.facts
            try:
                with self._open(facts, start, stop) as response:
                    for piece in response.iter_raw():
                        patience.check()
                        piece = piece[: stop - start]
                        start += len(piece)
                        if piece:
                            patience.renew()
                            yield piece
                if start < stop:
                    patience.failed(HTTPError("the answer ended early"))
            except OfflineModeIsEnabled as e:
                raise HubError(f"{self.subject}: cannot be read while offline (HF_HUB_OFFLINE).") from e
            except HTTPError as e:
                if not self._renew(facts, e):
                    patience.failed(e)

    @contextlib.contextmanager
    def _open(self, facts: FileFacts, start: int, stop: int) -> Iterator[Any]:
        from huggingface_hub.utils import get_session, hf_raise_for_status

        fields = headers()
        if facts.is_elsewhere:
            fields = {k: v for k, v in fields.items() if k.lower() != "authorization"}
        fields["Range"] = f"bytes={start}-{stop - 1}"
        session = get_session()
        with session.stream("GET", facts.location, headers=fields, follow_redirects=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416:
                raise self._changed("it is shorter now")
            if response.status_code >= 400:
                response.read()
                hf_raise_for_status(response)
            self._check(response, start)
            yield response

    def _check(self, response: Any, start: int) -> None:
        """Raise HubError unless the answer is the part of the file that was asked for."""
        fields, size = response.headers, self.facts.size
        if response.status_code == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", fields.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise HubError(f"{self.subject}: the answer is another part of {self.subject.file} than asked for.")
            total = found[2]
        else:
            if start:
                raise HubError(
                    f"{self.subject}: {urlsplit(str(response.url)).hostname} gives no parts of files (no range "
                    "requests). Check HF_ENDPOINT and the proxy; fetch the files whole (without --stream)."
                )
            total = fields.get("Content-Length", "*")
        if total not in ("*", str(size)):
            raise self._changed(f"it has {total} bytes instead of {size}")
        tag = _tag(fields.get("ETag"))
        with self._lock:
            if self._body_tag is None:
                self._body_tag = tag
        if tag != self._body_tag:
            raise self._changed(f"its ETag is {tag} and no longer {self._body_tag}")

    def _changed(self, told: str) -> HubError:
        return HubError(
            f"{self.subject}: {self.subject.file} changed while it was read: {told}. Nothing came of it; start again."
        )

    def _renew(self, used: FileFacts, error: Exception) -> bool:
        """Ask for the file's place again where an answer may mean that the old one has expired; whether that was so."""
        from huggingface_hub.errors import HfHubHTTPError

        if not (isinstance(error, HfHubHTTPError) and used.is_elsewhere and error.response.status_code in (401, 403)):
            return False
        with self._lock:
            if self.facts is used:
                now = file_facts(self.subject, PATIENT)
                if (now.commit, now.etag, now.size) != (used.commit, used.etag, used.size):
                    raise self._changed("the Hub describes another content")
                if now.location == used.location:
                    return False
                self.facts = now
        return True
