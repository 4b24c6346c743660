from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import pa_lite
from pa_lite.errors import InputError, OutputError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.kernels import tensor_type
from pa_lite.ggml.metadata import array, string, uint32
from pa_lite.merging.write import MergeOptions
from tests.support import tiny
from tests.support.ggufs import write_gguf_header


def test_default_output_names(tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stem = f"{tiny_pair[1].parent.name}-instruct"
    assert pa_lite.merge(*tiny_pair, (0.5, 0.125)) == [
        Path(f"{stem}-pa0.50-Q8_0.gguf"),
        Path(f"{stem}-pa0.125-Q8_0.gguf"),
    ]
    assert sorted(os.listdir(tmp_path)) == [f"{stem}-pa0.125-Q8_0.gguf", f"{stem}-pa0.50-Q8_0.gguf"]


def test_a_name_in_a_checkpoint_cannot_choose_where_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    stems = {
        "../../up/..\\x": "up-..-x", "a\0b\x1b[2J\n:c": "ab[2J-c", "\u540d" * 300: "\u540d" * 50, ".--": "merged",
        "": "file", "A Model 1B  Instruct": "A-Model-1B-Instruct",
    }  # fmt: skip
    for name in stems:
        file = tmp_path / "in" / "file.gguf"
        keys = {
            "other.block_count": uint32(1),
            "tokenizer.ggml.model": string("gpt2"),
            "tokenizer.ggml.tokens": array("STRING", ["a", "b"]),
        }
        tensors = {"token_embd.weight": (tensor_type("F32"), (2, 32))}
        write_gguf_header(file, "other", {"general.name": string(name), **keys}, tensors)
        pa_lite.merge(file, file, (0.5,))
    assert {p.name for p in tmp_path.iterdir()} == {f"{stem}-pa0.50-Q8_0.gguf" for stem in stems.values()} | {"in"}


def test_an_existing_output_is_kept(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.write_text("mine", "utf-8")
    with pytest.raises(OutputError, match="exists already"):
        pa_lite.merge(*tiny_pair, output=target)
    assert target.read_text("utf-8") == "mine"
    pa_lite.merge(*tiny_pair, output=target, options=MergeOptions(force=True))
    assert read_gguf_header(target).metadata["general.architecture"].value == "llama"


@pytest.mark.skipif(sys.platform == "win32", reason="links need developer mode on Windows")
def test_an_output_that_is_a_circular_link_is_replaced_with_force(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.symlink_to("x.gguf")
    with pytest.raises(OutputError, match="exists already"):
        pa_lite.merge(*tiny_pair, output=target)
    assert target.is_symlink()
    assert pa_lite.merge(*tiny_pair, output=target, options=MergeOptions(force=True)) == target
    assert not target.is_symlink()
    assert read_gguf_header(target).metadata["general.architecture"].value == "llama"


def test_wrong_inputs_and_outputs_are_rejected(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both BASE and INSTRUCT"):
        pa_lite.merge(tiny_pair[0])
    with pytest.raises(InputError, match="'' does not name a checkpoint"):
        pa_lite.merge("", tiny_pair[1])
    with pytest.raises(InputError, match="unknown pair ''"):
        pa_lite.merge(pair="")
    with pytest.raises(InputError, match="not both"):
        pa_lite.merge(*tiny_pair, pair="demo")
    with pytest.raises(InputError, match="cannot be written to one file"):
        pa_lite.merge(*tiny_pair, (0.1, 0.2), output=tmp_path / "x.gguf")
    with pytest.raises(InputError, match="no lam"):
        pa_lite.merge(*tiny_pair, ())
    with pytest.raises(OutputError, match=r"folder to write .* does not exist"):
        pa_lite.merge(*tiny_pair, output=tmp_path / "no" / "x.gguf")
    weights = tiny_pair[1] / "model.safetensors"
    with pytest.raises(OutputError, match="is an input"):
        pa_lite.merge(*tiny_pair, output=weights, options=MergeOptions(force=True))


def test_an_output_too_large_for_the_disk_is_rejected(
    tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OutputError, match=r"MB of disk space, 0 MB are free"):
        pa_lite.merge(*tiny_pair, output=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_of_file_sizes_leaves_nothing_behind(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Run in a child process, because the limit applies to the process."""
    code = (
        "import resource, sys, pa_lite.cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "pa_lite.cli.main(['merge', sys.argv[1], sys.argv[2], '--lam', '0.5', '-o', sys.argv[3]])\n"
    )
    target = tmp_path / "x.gguf"
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, tiny_pair), str(target)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: {tmp_path}: cannot be written: File too large: files may not exceed 0.05 MB")
    assert run.stderr.endswith("(ulimit -f unlimited); nothing was left behind.\n")
    assert len(run.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50_000


def test_the_number_of_threads_does_not_change_the_bytes(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    one = pa_lite.merge(*tiny_pair, (0.7,), output=tmp_path / "a.gguf", options=MergeOptions(threads=1))
    two = pa_lite.merge(*tiny_pair, (0.7,), output=tmp_path / "b.gguf", options=MergeOptions(threads=4))
    assert one[0].read_bytes() == two[0].read_bytes()


def test_llama3_divisors_are_written(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }  # fmt: skip
    config = {**tiny.CONFIG, "rope_scaling": scaling}
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1), config=config)
    (file,) = pa_lite.merge(folder, folder, (0.5,), output=tmp_path)
    tensor = read_gguf_header(file).tensors["rope_freqs.weight"]
    assert (tensor.type.name, tensor.shape) == ("F32", (8,))
