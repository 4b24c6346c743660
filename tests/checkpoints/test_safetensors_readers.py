"""Compare our reader of safetensors headers with the package safetensors: ours must be at least as strict."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pa_lite.checkpoints import safetensors_file
from pa_lite.checkpoints.safetensors_file import StoredTensor, read_header, read_strictly
from pa_lite.errors import CheckpointError
from tools.fuzz.binary import mutate_safetensors, pack_safetensors

resource = pytest.importorskip("resource", reason="POSIX limits")

BITS = safetensors_file._BITS


def known_dtypes() -> set[str]:
    """Return the dtypes of the installed safetensors, from its error for an unknown dtype."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(pack_safetensors(json.dumps({"a": entry([1], 0, 1, "Q8")}).encode(), bytes(1)))
        with pytest.raises(SafetensorError) as caught, safe_open(path, framework="numpy"):
            pass
    listed = str(caught.value).partition("expected one of ")[2].partition(" at line")[0]
    return {name.strip("` ") for name in listed.split(",")}


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


def both(path: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Return what each reader finds: name -> (dtype, shape), or None where it rejects the file."""
    try:
        ours: dict[str, Any] | None = {n: (t.dtype, t.shape) for n, t in read_strictly(path).items()}
    except CheckpointError:
        ours = None
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            parts = {name: file.get_slice(name) for name in names}
            theirs = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except SafetensorError:
        return ours, None
    return ours, theirs


def check(path: Path) -> bool:
    """Compare the two verdicts. Return whether both accept."""
    ours, theirs = both(path)
    assert ours is None or ours == theirs, path.read_bytes()[:2000]
    if ours is None:
        with pytest.raises(CheckpointError):
            read_header(path)
    else:
        assert read_header(path) == read_strictly(path)
    return ours is not None


DTYPES = sorted(known_dtypes())
WORDS = st.sampled_from(
    ["dtype", "shape", "data_offsets", "__metadata__", "a", "b", "", "é", *DTYPES, "Q8", -1, 0, 1, 2, 4, 2**31, 2**47,
     2**48, 2**63, 2**64, 1.0, True, None]
)  # fmt: skip
ANY = st.recursive(
    WORDS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(WORDS.filter(lambda w: isinstance(w, str)), inner, max_size=4)
    ),
    max_leaves=8,
)
SIZES = st.integers(0, 5) | st.sampled_from([2**31, 2**47, 2**48 - 1, 2**48])


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Return a header that is nearly right, and the number of bytes of its data."""
    out: dict[str, Any] = {}
    position = 0
    for name in draw(st.lists(st.text(max_size=4), max_size=4, unique=True)):
        dtype = draw(st.sampled_from(DTYPES))
        shape = draw(st.lists(SIZES if draw(st.integers(0, 5)) == 0 else st.integers(0, 8), max_size=4))
        n_bits = BITS[dtype]
        for n in shape:
            n_bits *= n
        size = -(-n_bits // 8)
        out[name] = entry(shape, position, position + size, dtype)
        position += size
    if draw(st.booleans()):
        out["__metadata__"] = draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2) | ANY)
    if out and draw(st.integers(0, 2)) == 0:
        key = draw(st.sampled_from(list(out)))
        where = out[key]
        if isinstance(where, dict) and where and draw(st.booleans()):
            where[draw(st.sampled_from(list(where)))] = draw(ANY)
        else:
            out[key] = draw(ANY)
    return out, min(position + draw(st.sampled_from([0, 0, 0, 1, -1])), 1 << 16)


@given(headers(), st.sampled_from(["", " ", "\n"]))
@example(({"a": entry([], 0, 4)}, 4), "")
@example(({"a": entry({}, 0, 4)}, 4), "")
@example(({"a": entry("", 0, 4)}, 4), "")
@example(({"a": entry([2**47, 2**47, 0], 0, 0)}, 0), "")
@example(({"__metadata__": {"a": 1}}, 0), "")
@example(({"__metadata__": []}, 0), "")
@example(({"__metadata__": None}, 0), "")
@settings(max_examples=600, deadline=None)
def test_both_readers_agree_or_ours_is_stricter(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[dict[str, Any], int], space: str
) -> None:
    header, size = made
    path = tmp_path_factory.mktemp("readers") / "x.safetensors"
    text = (space + json.dumps(header) + space).encode()
    path.write_bytes(pack_safetensors(text, bytes(max(0, size))))
    check(path)


def test_the_fuzzers_mutations_get_verdicts_that_agree(tmp_path: Path) -> None:
    path, chance, accepted = tmp_path / "x.safetensors", random.Random(7), 0
    seeds = [save({"model.norm.weight": np.ones(3, np.float32), "a": np.ones((2, 2), np.float16)}), save({})]
    for _ in range(2000):
        data = chance.choice(seeds)
        for _ in range(chance.randint(1, 3)):
            data = mutate_safetensors(data, chance)
        path.write_bytes(data)
        accepted += check(path)
    assert accepted > 100


@pytest.mark.parametrize(
    "number", ["-0", "-0.0", "1e400", "0e0", "1E2", "18446744073709551616", "9" * 400, "01", "+1", ".5"]
)
@pytest.mark.parametrize("place", ["shape", "other"])
def test_odd_numbers(tmp_path: Path, number: str, place: str) -> None:
    shape, more = ("1, " + number, "") if place == "shape" else ("0", f', "x": {number}')
    header = f'{{"a": {{"dtype": "F32", "shape": [{shape}], "data_offsets": [0, 0]{more}}}}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack_safetensors(header.encode(), b""))
    check(path)


def test_minus_zero_within_a_name_is_no_number(tmp_path: Path) -> None:
    header = json.dumps({'a": [-0, "': entry([1], 0, 4)}).encode()
    (tmp_path / "x.safetensors").write_bytes(pack_safetensors(header, bytes(4)))
    assert check(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", BITS)
def test_every_dtype_is_known_and_rejected_by_name_if_it_cannot_be_merged(tmp_path: Path, dtype: str) -> None:
    if dtype not in DTYPES:
        pytest.skip("the installed safetensors is older than this dtype")
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        pack_safetensors(json.dumps({"a.weight": entry([4, 2], 0, BITS[dtype], dtype)}).encode(), bytes(BITS[dtype]))
    )
    assert check(path)
    tensor = read_header(path)["a.weight"]
    if dtype in ("F64", "F32", "F16", "BF16"):
        tensor.require_float()
    else:
        with pytest.raises(
            CheckpointError, match=rf"x\.safetensors: a\.weight is stored as {dtype}; pa-lite reads F64"
        ):
            tensor.require_float()


def test_every_dtype_of_the_installed_safetensors_is_known() -> None:
    assert {"F8_E8M0", "F8_E4M3", "F4", "F6_E2M3", "BF16"} <= known_dtypes() <= BITS.keys()


def test_a_file_that_only_safetensors_rejects_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If our reader is wrong about a file, the second check stops the merge."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(pack_safetensors(json.dumps({"a": entry([2], 0, 4)}).encode(), bytes(4)))
    monkeypatch.setattr(safetensors_file, "read_strictly", lambda path, memory: {})
    with pytest.raises(CheckpointError, match=r"x\.safetensors: the package safetensors rejects it: .* Fetch the file"):
        read_header(path)
    path.write_bytes(save({"a": np.ones(2, np.float32)}))
    for wrong in (
        {},
        {"a": StoredTensor(name="a", path=path, offset=0, dtype="F32", shape=(1, 2))},
        {"a": StoredTensor(name="a", path=path, offset=0, dtype="I32", shape=(2,))},
    ):
        monkeypatch.setattr(safetensors_file, "read_strictly", lambda path, memory, wrong=wrong: wrong)
        with pytest.raises(CheckpointError, match="the package safetensors and pa-lite find different tensors"):
            read_header(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow only Unicode names, or lack the limit")
def test_file_names_that_are_not_unicode_and_limited_address_space(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff .safetensors")
    path.write_bytes(save({"a": np.ones(2, np.float32)}))
    assert read_header(path)["a"].shape == (2,)
    large = large_file(tmp_path / "large.safetensors", 1000, 100 << 20)
    code = "import resource, sys, pathlib; from pa_lite.checkpoints.safetensors_file import read_header; "
    code += "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)); "
    code += "print(len(read_header(pathlib.Path(sys.argv[1]))))"
    found = subprocess.run([sys.executable, "-c", code, str(large)], capture_output=True, text=True, check=True)
    assert found.stdout == "1000\n"


def large_file(path: Path, count: int, size: int) -> Path:
    """Write a sparse file of `count` tensors of `size` bytes."""
    header = {f"model.layers.{i}.x": entry([size // 2], i * size, (i + 1) * size, "BF16") for i in range(count)}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + count * size)
    return path


def test_a_huge_file_is_checked_at_once_and_without_memory(tmp_path: Path) -> None:
    path = large_file(tmp_path / "x.safetensors", 1000, 100 << 20)
    read_header(path)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert len(read_header(path)) == 1000
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB
