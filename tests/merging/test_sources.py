"""Compare sources of every kind: GGUF files of any type, split files, mixtures with safetensors."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.fingerprint import fingerprint
from pa_lite.errors import CheckpointError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import tensor_type
from pa_lite.ggml.metadata import Field, Metadata, string
from pa_lite.merging.plan import PlanOptions
from tests.support import tiny
from tests.support.ggufs import split_gguf, write_gguf_header

Tensors = dict[str, np.ndarray]


def read(path: Path) -> Tensors:
    """Return every tensor, dequantised by the gguf package."""
    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def ends(pair: tuple[Path, Path], folder: Path, kind: str) -> tuple[Path, Path]:
    """Write base and instruct as GGUF files of a type."""
    folder.mkdir(exist_ok=True)
    base, instruct = pa_lite.merge(*pair, (0.0, 1.0), plan=PlanOptions(type=kind), output=folder)
    return base, instruct


def test_gguf_inputs_equal_safetensors(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    files = ends(tiny_pair, tmp_path / "ends", "BF16")
    for pair in (files, (files[0], tiny_pair[1]), (tiny_pair[0], files[1])):
        out = tmp_path / "out.gguf"
        (expected,) = pa_lite.merge(*tiny_pair, (0.3,), plan=PlanOptions(type="F32"), output=tmp_path / "e.gguf")
        (got,) = pa_lite.merge(*pair, (0.3,), plan=PlanOptions(type="F32"), output=out)
        assert read(got).keys() == read(expected).keys()
        for name, values in read(expected).items():
            np.testing.assert_array_equal(read(got)[name], values)
        drop = ("general.", "pa_lite.")
        one, two = (
            {k: v for k, v in read_gguf_header(p).metadata.items() if not k.startswith(drop)} for p in (got, expected)
        )
        assert one == two
        got.unlink()
        expected.unlink()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "F16"])
def test_a_gguf_base_merges_with_a_safetensors_instruct(
    tiny_pair: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    base, _ = ends(tiny_pair, tmp_path / "ends", kind)
    (whole,) = pa_lite.merge(*tiny_pair, (1.0,), plan=PlanOptions(type="F32"), output=tmp_path / "i.gguf")
    (got,) = pa_lite.merge(base, tiny_pair[1], (0.25,), plan=PlanOptions(type="F32"), output=tmp_path / "o.gguf")
    left, right = read(base), read(whole)
    for name, values in read(got).items():
        expected = np.float32(0.75) * left[name] + np.float32(0.25) * right[name]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_split_gguf_files(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, instruct = ends(tiny_pair, tmp_path / "ends", "F16")
    parts = split_gguf(base, tmp_path, 3)
    expected = pa_lite.merge(base, instruct, (0.5,), output=tmp_path / "a.gguf")[0]
    for part in (parts[0], parts[2]):
        got = pa_lite.merge(part, instruct, (0.5,), output=tmp_path / f"{part.stem}.out.gguf")[0]
        for name, values in read(expected).items():
            np.testing.assert_array_equal(read(got)[name], values)
    (tmp_path / "swapped").mkdir()
    swapped = split_gguf(base, tmp_path / "swapped", 2)
    swapped[0].rename(tmp_path / "first")
    swapped[1].rename(swapped[0])
    (tmp_path / "first").rename(swapped[1])
    with pytest.raises(CheckpointError, match=r"00001-of-00002.gguf: split.no is 1, not the 0 of its name"):
        open_checkpoint(swapped[0])
    for number, count in ((1, 0), (0, 2), (3, 2)):
        odd = base.rename(base.with_name(f"model-{number:05d}-of-{count:05d}.gguf"))
        with pytest.raises(CheckpointError, match=f"the file name says part {number} of {count}. Rename the file"):
            open_checkpoint(odd)
        base = odd
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=r"part model-00002-of-00003.gguf of a split model is missing"):
        open_checkpoint(parts[0])


def test_any_architecture_merges_from_gguf(tmp_path: Path) -> None:
    """Names and metadata of GGUF files need no conversion: merge an unknown architecture, with experts."""
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (40, 64), "blk.0.odd_thing.weight": (8, 64), "blk.0.ffn_up_exps.weight": (3, 5, 64)}
    sides = []
    for side in ("base", "instruct"):
        path = tmp_path / f"{side}.gguf"
        metadata: Metadata = {
            "general.name": string(side), "marvin.block_count": Field("UINT32", 1), "marvin.mood": string("low"),
            "tokenizer.ggml.model": string("gpt2"),
            "tokenizer.ggml.tokens": Field("ARRAY", [f"t{i}" for i in range(40)], "STRING"),
        }  # fmt: skip
        places = write_gguf_header(path, "marvin", metadata, {n: (tensor_type("F32"), s) for n, s in shapes.items()})
        values = {n: rng.standard_normal(s, np.float32) for n, s in shapes.items()}
        with path.open("r+b") as f:
            for name in shapes:
                f.seek(places[name].offset)
                f.write(values[name].tobytes())
        sides.append((path, values))
    (base, left), (instruct, right) = sides
    (out,) = pa_lite.merge(base, instruct, (0.5,), plan=PlanOptions(type="F32"), output=tmp_path)
    assert out.name == "instruct-pa0.50-F32.gguf"
    for name, found in read(out).items():
        np.testing.assert_allclose(found, 0.5 * left[name] + 0.5 * right[name], atol=1e-6)
    assert read_gguf_header(out).metadata["marvin.mood"].value == "low"


def test_files_without_a_model_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf_header(path, "llama", {"general.type": string("adapter")}, {})
    with pytest.raises(CheckpointError, match=r"contains a LoRA adapter \(which .*: BASE ADAPTER\), not a language"):
        open_checkpoint(path)
    write_gguf_header(path, "llama", {}, {})
    with pytest.raises(CheckpointError, match="has no tensors"):
        open_checkpoint(path)
    write_gguf_header(path, "llama", {}, {"token_embd.weight": (tensor_type("F32"), (4, 4))})
    with pytest.raises(CheckpointError, match="has no vocabulary"):
        open_checkpoint(path).load_vocabulary()


def test_fingerprints_change_with_weights_and_not_with_folders(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    one = fingerprint(open_checkpoint(tiny_pair[0]))
    assert one != fingerprint(open_checkpoint(tiny_pair[1]))
    copy = tiny.write_checkpoint(tmp_path / "copy", tiny.weights(1), "BF16", 2)
    assert fingerprint(open_checkpoint(copy)) == one
    with (copy / "model-00001-of-00002.safetensors").open("r+b") as f:
        f.seek(-2, 2)
        f.write(b"\x11\x22")
    assert fingerprint(open_checkpoint(copy)) != one
