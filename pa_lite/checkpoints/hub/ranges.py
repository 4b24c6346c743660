"""The bytes of files on the Hub, read in ranges: all of one content, however often connections break."""

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
_SLOW_SECONDS, _LEAST_SPEED = 60.0, 1000  # over how long a file's speed is taken, and bytes a second at least
_BUFFER = 1 << 18  # bytes asked for at once where a header is read piece by piece
_LONGEST_REFUSAL = 1 << 16  # bytes of an answer with an error: what says why is shorter, and some end never


def _in_short(response: Any) -> Any:
    """Return a response that is open with its first bytes as content, without waiting for the rest."""
    held, end = b"", time.monotonic() + TIMEOUT
    for piece in response.iter_raw():
        held = (held + piece)[:_LONGEST_REFUSAL]
        if len(held) == _LONGEST_REFUSAL or time.monotonic() > end:
            break
    kept = {name: value for name, value in response.headers.items() if name.lower() not in _OF_THE_WHOLE}
    return type(response)(response.status_code, headers=kept, content=held, request=response.request)


class _Speed:
    """How fast a file comes, while it is waited for: a server may send a byte now and then, and never end."""

    def __init__(self) -> None:
        self._seconds, self._bytes = 0.0, 0

    def watch(self, pieces: Iterator[bytes], reference: HubReference) -> Iterator[bytes]:
        """Yield the pieces. Raises HubError after a minute's wait in which less than 1 kB a second came."""
        start = time.monotonic()
        for piece in pieces:
            self._seconds += time.monotonic() - start
            self._bytes += len(piece)
            if self._seconds > _SLOW_SECONDS:
                if self._bytes < _LEAST_SPEED * self._seconds:
                    raise reference.error(
                        f"{reference.file} comes too slowly: {self._bytes} bytes in {self._seconds:.0f} s. Check the "
                        "network, and run the same command again.",
                        is_passing=True,
                    )
                self._seconds, self._bytes = 0.0, 0
            yield piece
            start = time.monotonic()


class RemoteFile:
    """A file on the Hub, read in ranges by any number of threads. It has a path's `name` and `open`, and is equal to
    itself alone.

    What is read belongs to the commit, tag and size of `facts`; an answer that tells otherwise ends in a HubError. A
    connection that breaks off is taken up again where it ended. The token is sent to the Hub alone.
    """

    def __init__(self, reference: HubReference, facts: FileFacts) -> None:
        assert reference.file is not None
        self.reference, self.facts = reference, facts
        self.name, self.size, self.etag = reference.file.rpartition("/")[2], facts.size, facts.etag
        self._lock = threading.Lock()
        # storage behind the Hub has tags of its own: the first that it gives counts
        self._body_tag = None if facts.is_elsewhere else facts.etag

    def __str__(self) -> str:
        return f"{self.reference.label}/{self.reference.file}"

    def read_into(self, buffer: memoryview, offset: int, stop: threading.Event | None = None) -> None:
        """Fill the buffer, bytes, from byte `offset` on. Raises HubError; when `stop` is set, ends with one soon."""
        for piece in self.pieces(offset, offset + len(buffer), stop):
            buffer[: len(piece)] = piece
            buffer = buffer[len(piece) :]

    def open(self, mode: str = "rb") -> BinaryIO:
        """The file for reading from its start on, buffered."""
        assert mode == "rb"
        return io.BufferedReader(_Raw(self), _BUFFER)

    def pieces(self, start: int, stop: int, stopped: threading.Event | None = None) -> Iterator[bytes]:
        """The bytes [start, stop) in pieces, none twice and none left out, however often the connection breaks.

        Raises HubError when the file has changed, the Hub or the network fails for long, or `stopped` is set.
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
                            break  # a server may send more than it was asked for
                if start < stop:
                    patience.failed(HTTPError("the answer ended early"))
            except OfflineModeIsEnabled as e:
                raise self.reference.error("cannot be read while offline (HF_HUB_OFFLINE).") from e
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
        """Raise HubError unless the answer is the part of the file that was asked for."""
        fields, size = response.headers, self.facts.size
        if fields.get("Content-Encoding", "identity") != "identity":
            raise self.reference.error(
                f"{self.reference.file} comes compressed, which was not asked for. Check proxies."
            )
        if response.status_code == 206:
            found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", fields.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise self.reference.error(f"the answer is another part of {self.reference.file} than asked for.")
            total = found[2]
        else:
            if start:
                raise self.reference.error(
                    f"{urlsplit(str(response.url)).hostname} gives no parts of files (no range "
                    "requests). Check HF_ENDPOINT and the proxy; fetch the files whole (without --stream)."
                )
            total = fields.get("Content-Length", "*")
        if total not in ("*", str(size)):
            raise self._changed(f"it has {total} bytes instead of {size}")
        tag = fields.get("ETag", "").removeprefix("W/").strip('"')
        with self._lock:
            if self._body_tag is None:
                self._body_tag = tag
        if tag != self._body_tag:
            raise self._changed(f"its ETag is {tag} and no longer {self._body_tag}")

    def _changed(self, told: str) -> HubError:
        return self.reference.error(
            f"{self.reference.file} changed while it was read: {told}. Nothing came of it; start again."
        )

    def _renew(self, used: FileFacts, error: Exception) -> bool:
        """Ask for the file's place again where an answer may mean that the old one has expired; whether that was so."""
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
