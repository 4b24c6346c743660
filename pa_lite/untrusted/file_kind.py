"""Identify a file by its first bytes: GGUF, safetensors, or something else that is often mistaken for a model."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from pa_lite.errors import CheckpointError
from pa_lite.sanitize import one_line
from pa_lite.system.byte_source import ByteSource, open_file, size_of

START = 512  # bytes: enough for every signature below, including tar's at byte 257
_GGUF = b"GGUF"
_LARGEST_HEADER = 100_000_000  # bytes: safetensors' own limit
# lines of a git-lfs pointer; each line is matched separately, so the work is linear in the length
_LFS_VERSION = re.compile(rb"version https?://[\w.-]+/spec/v?\d+")
_LFS_OID, _LFS_SIZE = re.compile(rb"oid \w+:\w+"), re.compile(rb"size (\d{1,20})(?!\d)")
_AGAIN = "Fetch it again"
_PICKLE = (
    "a PyTorch checkpoint (a pickle, which can run code, so it is not opened). Use safetensors files instead, or "
    "convert it with transformers' save_pretrained"
)
_OLD = (
    "a model in llama.cpp's old {} format, which GGUF replaced in August 2023. Fetch the model as GGUF, or convert the "
    "original checkpoint again"
)
# first bytes -> what the file is, and what to do
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"lmgg", _OLD.format("GGML")), (b"fmgg", _OLD.format("GGMF")), (b"tjgg", _OLD.format("GGJT")),
    (b"algg", _OLD.format("GGLA (LoRA adapter)")),
    (b"\x1f\x8b", "a gzip archive. Unpack it first (gunzip, or tar -xzf)"),
    (b"BZh", "a bzip2 archive. Unpack it first (bunzip2, or tar -xjf)"),
    (b"\xfd7zXZ\x00", "an xz archive. Unpack it first (unxz, or tar -xJf)"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive. Unpack it first (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive. Unpack it first"),
    (b"Rar!", "a RAR archive. Unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as TensorFlow and Keras write it. Use safetensors files instead"),
    (b"\x93NUMPY", "a NumPy array. Take safetensors files instead"),
    (b"PAR1", "a Parquet file, which holds rows of data and not a model. Name the model's file"),
    (b"\x7fELF", "a program. Name the model's file"),
    *((b"\x80" + bytes([protocol]), _PICKLE) for protocol in (2, 3, 4, 5)),
)  # fmt: skip


@dataclass(frozen=True)
class FileStart:
    """A file's first bytes (at most 512) and its size in bytes."""

    start: bytes
    size: int

    @property
    def is_gguf(self) -> bool:
        """Whether the file starts like any version of GGUF, in either byte order."""
        return self.start.startswith(_GGUF)

    @property
    def is_safetensors(self) -> bool:
        """Whether the file starts like safetensors, with the length of a JSON header. It may be truncated."""
        length = int.from_bytes(self.start[:8], "little")
        return self.start[8:9] == b"{" and 2 <= length <= _LARGEST_HEADER

    @property
    def explanation(self) -> str | None:
        """What the file is and what to do ("a gzip archive. Unpack it first"); None for a model or unknown content."""
        if self.size == 0:
            return f"an empty file (0 bytes). {_AGAIN}"
        if (stands_for := _lfs_size(self.start)) is not None:
            return (
                f"a git-lfs pointer of {self.size} bytes that stands for a file of {stands_for} bytes. Run "
                "'git lfs pull' in its folder, or fetch the file itself"
            )
        for signature, explanation in _SIGNATURES:
            if self.start.startswith(signature):
                return explanation
        if self.start.startswith(b"PK\x03\x04"):
            return _PICKLE if b"data.pkl" in self.start else "a zip archive or a PyTorch checkpoint. Unpack it first"
        if self.start[257:262] == b"ustar":
            return "a tar archive. Unpack it first (tar -xf)"
        return None if self.is_gguf or self.is_safetensors else _text(self.start, self.size)


def _lfs_size(start: bytes) -> int | None:
    """Return the size in bytes of the file that a git-lfs pointer stands for; None for what is not a pointer."""
    version, *lines = [line.strip() for line in start.split(b"\n") if line.strip()] or [b""]
    if not _LFS_VERSION.fullmatch(version):
        return None
    for oid, size in itertools.pairwise(lines):
        if _LFS_OID.fullmatch(oid) and (found := _LFS_SIZE.match(size)):
            return int(found[1])
    return None


def _text(start: bytes, size: int) -> str | None:
    """Return what a text file is that was saved as a model; None for what is not text."""
    begin = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begin.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return f"an HTML page of {size} bytes: the download got an error or sign-in page. {_AGAIN}"
    if begin.startswith(b"<?xml"):
        return f"an XML text of {size} bytes: the download got a server's error message. {_AGAIN}"
    try:
        # the last character may be incomplete
        text = (start[:-4] if size > len(start) else start).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if "\0" in text or not text.strip():
        return None
    return f"a text that begins with {one_line(text.strip()[:60])!r}. {_AGAIN}"


def content_of(path: ByteSource) -> FileStart:
    """Return the first bytes and the size of a file. Raises OSError, also for what is not a regular file."""
    size = size_of(path)
    with open_file(path) as f:
        return FileStart(f.read(min(START, size)), size)


def is_gguf(path: ByteSource) -> bool:
    """Return whether a file starts like GGUF; False for what cannot be read or is not a regular file."""
    try:
        return content_of(path).is_gguf
    except OSError:
        return False


def unexpected(path: ByteSource, expected: str, start: bytes, size: int) -> CheckpointError:
    """Return the error for a file that is not `expected` ("a GGUF file"): what it is instead, and what to do.

    `start` has its first bytes, 512 if the file is that long.
    """
    content = FileStart(start[:START], size)
    if explanation := content.explanation:
        return CheckpointError(f"{path}: is not {expected} but {explanation}.")
    for name, is_it in (("a GGUF file", content.is_gguf), ("a safetensors file", content.is_safetensors)):
        if is_it and name != expected:
            return CheckpointError(f"{path}: is not {expected} but {name}.")
    return CheckpointError(f"{path}: is not {expected}, or is cut off ({size} bytes). {_AGAIN}.")


def check_text(path: ByteSource, start: bytes, size: int) -> None:
    """Raise CheckpointError for a file that should be text and is a git-lfs pointer, a web page or an archive."""
    explanation = FileStart(start[:START], size).explanation
    if explanation is not None and not explanation.startswith("a text"):
        raise CheckpointError(f"{path}: is {explanation}.")
