"""Read byte ranges of files on the Hub, all of the same content, however often connections break."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from pa_lite.checkpoints.hub.http import (
    PATIENT,
    TIMEOUT,
    FileFacts,
    Patience,
    explain_no_hub,
    file_facts,
    headers,
    no_hub_errors,
    origin,
)
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.errors import HubError

_OF_THE_WHOLE = ("content-length", "content-encoding", "transfer-encoding")
_SLOW_SECONDS, _LEAST_SPEED = 60.0, 1000  # period for measuring speed, and lowest accepted bytes per second
_BUFFER = 1 << 18  # bytes per request when reading a header
_LONGEST_REFUSAL = 1 << 16  # most bytes to read of an error response, which may be endless


def _in_short(response: Any) -> Any:
    """Return an open response with its first bytes as content, without waiting for the rest."""
    held, end = b"", time.monotonic() + TIMEOUT
    for piece in response.iter_raw():
        held = (held + piece)[:_LONGEST_REFUSAL]
        if len(held) == _LONGEST_REFUSAL or time.monotonic() > end:
            break
    kept = {name: value for name, value in response.headers.items() if name.lower() not in _OF_THE_WHOLE}
    return type(response)(response.status_code, headers=kept, content=held, request=response.request)


class _Speed:
    """Measures the speed of a transfer; a server may send single bytes forever."""

    def __init__(self) -> None:
        self._seconds, self._bytes = 0.0, 0

    def watch(self, pieces: Iterator[bytes], reference: HubReference) -> Iterator[bytes]:
        """Yield the pieces. Raises HubError after a minute of waiting at less than 1 kB per second."""
        start = time.monotonic()
        for piece in pieces:
            self._seconds += time.monotonic() - start
            self._bytes += len(piece)
            if self._seconds > _SLOW_SECONDS:
                if self._bytes < _LEAST_SPEED * self._seconds:
                    raise reference.error(
                        f"{reference.file} is too slow: {self._bytes} bytes in {self._seconds:.0f} s. Check the "
                        "network, and run the same command again.",
                        is_passing=True,
                    )
                self._seconds, self._bytes = 0.0, 0
            yield piece
            start = time.monotonic()


class RemoteFile:
    """A file on the Hub, read in ranges by any number of threads. Has the `name` and `open` of a path.

    All bytes belong to the commit, ETag and size of `facts`; a response with others raises HubError. After a broken
    connection, reading continues where it ended. The token is only sent to the Hub. Objects are compared by identity.
    """

    def __init__(self, reference: HubReference, facts: FileFacts) -> None:
        assert reference.file is not None
        self.reference, self.facts = reference, facts
        self.name, self.size, self.etag = reference.file.rpartition("/")[2], facts.size, facts.etag
        self._lock = threading.Lock()
        # the storage uses other ETags than the Hub; the first one counts
        self._body_tag = None if facts.is_elsewhere else facts.etag

    def __str__(self) -> str:
        return f"{self.reference.label}/{self.reference.file}"

    def read_into(self, buffer: memoryview, offset: int, stop: threading.Event | None = None) -> None:
        """Fill the buffer from byte `offset` on. Raises HubError, also soon after `stop` is set."""
        for piece in self.pieces(offset, offset + len(buffer), stop):
            buffer[: len(piece)] = piece
            buffer = buffer[len(piece) :]

    def open(self, mode: str = "rb") -> BinaryIO:
        """Return a buffered reader at the start of the file."""
        assert mode == "rb"
        return io.BufferedReader(_Raw(self), _BUFFER)

    def pieces(self, start: int, stop: int, stopped: threading.Event | None = None) -> Iterator[bytes]:
        """Yield the bytes [start, stop) in pieces, each once, however often the connection breaks.

        Raises HubError if the file has changed, the Hub or the network fails for long, or `stopped` is set.
        """
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

        patience, is_renewed, speed = Patience(self.reference, PATIENT, stopped), False, _Speed()
        while start < stop:
            facts = self.facts
            try:
                with self._open(facts, start, stop) as response:
                    for piece in speed.watch(response.iter_raw(), self.reference):
                        patience.check()
                        piece = piece[: stop - start]
                        start += len(piece)
                        if piece:
                            patience.renew()
                            is_renewed = False
                            yield piece
                        if start == stop:
                            break  # a server may send more than requested
                if start < stop:
                    patience.failed(HTTPError("the answer ended early"))
            except OfflineModeIsEnabled as e:
                raise self.reference.error("cannot be read offline (HF_HUB_OFFLINE).") from e
            except HTTPError as e:
                if is_renewed or not self._renew(facts, e):
                    patience.failed(e)
                else:
                    is_renewed = True

    @contextlib.contextmanager
    def _open(self, facts: FileFacts, start: int, stop: int) -> Iterator[Any]:
        from huggingface_hub.utils import get_session, hf_raise_for_status

        fields = headers(token=not facts.is_elsewhere)
        fields["Range"] = f"bytes={start}-{stop - 1}"
        session = get_session()
        with session.stream("GET", facts.location, headers=fields, follow_redirects=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:
                raise self._changed("it is shorter now")
            if response.status_code >= 400:
                try:
                    hf_raise_for_status(_in_short(response))
                except no_hub_errors() as e:
                    raise explain_no_hub(e, self.reference) from e
            self._check(response, start)
            yield response

    def _check(self, response: Any, start: int) -> None:
        """Raise HubError unless the response is the requested part of the file."""
        fields, size = response.headers, self.facts.size
        if fields.get("Content-Encoding", "identity") != "identity":
            raise self.reference.error(
                f"{self.reference.file} was sent compressed, which was not requested. Check proxies."
            )
        if response.status_code == 206:
            found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", fields.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise self.reference.error(f"the answer is not the requested part of {self.reference.file}.")
            total = found[2]
        else:
            if start:
                raise self.reference.error(
                    f"{urlsplit(str(response.url)).hostname} does not support range requests. "
                    "Check HF_ENDPOINT and the proxy; download the whole files (without --stream)."
                )
            total = fields.get("Content-Length", "*")
        if total not in ("*", str(size)):
            raise self._changed(f"it has {total} bytes instead of {size}")
        tag = fields.get("ETag", "").removeprefix("W/").strip('"')
        with self._lock:
            if self._body_tag is None:
                self._body_tag = tag
        if tag != self._body_tag:
            raise self._changed(f"its ETag is {tag}, not {self._body_tag}")

    def _changed(self, fault: str) -> HubError:
        return self.reference.error(
            f"{self.reference.file} changed while being read: {fault}. No output was written; start again."
        )

    def _renew(self, used: FileFacts, error: Exception) -> bool:
        """Request the location again if the error may mean that it has expired; return whether it did."""
        from huggingface_hub.errors import HfHubHTTPError

        if not (isinstance(error, HfHubHTTPError) and used.is_elsewhere and error.response.status_code in (401, 403)):
            return False
        with self._lock:
            if self.facts is used:
                now = file_facts(self.reference, PATIENT)
                if (now.commit, now.etag, now.size) != (used.commit, used.etag, used.size):
                    raise self._changed("the Hub describes another content")
                if now.location == used.location:
                    return False
                if origin(now.location) != origin(used.location):
                    self._body_tag = None
                self.facts = now
        return True


class _Raw(io.RawIOBase):
    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n = max(0, min(len(buffer), self._file.size - self._position))
        self._file.read_into(memoryview(buffer)[:n].cast("B"), self._position)
        self._position += n
        return n
