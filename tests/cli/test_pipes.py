"""Named pipes, devices and folders instead of input files: one error at once, wherever a file is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pa_lite.alpaca.alpaca_eval import load_alpaca_eval, load_length_data
from pa_lite.alpaca.annotations import read_annotations
from pa_lite.alpaca.outputs import load_prompts
from pa_lite.alpaca.pairing import read_outputs
from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.pairs import read_pairs
from pa_lite.engine.model import Model
from pa_lite.engine.model_reference import parse_reference
from pa_lite.engine.probe import probe_file
from pa_lite.errors import PaLiteError
from pa_lite.ggml.imatrix import read_imatrix
from pa_lite.instructions.following import load_instructions
from pa_lite.instructions.ifeval import load_ifeval
from pa_lite.merging.schedule import parse_schedule
from pa_lite.tasks.data import read_rows
from pa_lite.tasks.spec import load_suite_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="named pipes of POSIX")

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "rows: JSONL": ("rows.jsonl", read_rows),
    "rows: JSON": ("rows.json", read_rows),
    "rows: CSV": ("rows.csv", read_rows),
    "rows: parquet": ("rows.parquet", read_rows),
    "tasks": ("suite.toml", load_suite_file),
    "prompts": ("prompts.jsonl", lambda path: load_prompts(str(path))),
    "outputs": ("outputs.json", read_outputs),
    "annotations": ("annotations.json", read_annotations),
    "instructions": ("set.jsonl", load_instructions),
    "IFEval": ("ifeval.jsonl", load_ifeval),
    "AlpacaEval": ("alpaca_eval.json", load_alpaca_eval),
    "AlpacaEval's folder": ("alpaca_eval.json", lambda path: load_length_data(path.parent)),
    "schedule": ("schedule.toml", lambda path: parse_schedule(str(path))),
    "imatrix": ("x.imatrix", read_imatrix),
    "pairs": ("pairs.toml", lambda path: read_pairs(path, is_own=True)),
    "GGUF": ("m.gguf", open_checkpoint),
    "safetensors": ("model.safetensors", open_checkpoint),
    "model": ("m.gguf", probe_file),
}


def make(path: Path, kind: str) -> None:
    """Create something at a path that is not a regular file."""
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["named pipe", "link to a pipe", "device", "folder"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_a_regular_file_is_one_error(tmp_path: Path, reader: str, kind: str) -> None:
    name, read = READERS[reader]
    make(tmp_path / name, kind)
    with pytest.raises(PaLiteError) as error:
        read(tmp_path / name)
    assert str(tmp_path) in str(error.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
             "model-00001-of-00002.safetensors", "model.safetensors.index.json"],
)  # fmt: skip
def test_special_files_of_a_checkpoint_do_not_block(tiny_pair: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_pair[0], folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    told = ""
    try:
        open_checkpoint(folder).load_vocabulary()
    except PaLiteError as e:
        told = str(e)
    # the others are treated as absent if they are not regular files
    assert name in told or name in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def test_errors_name_the_type_of_a_file_that_is_not_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        for read in (open_checkpoint, lambda each: parse_reference(str(each))):
            with pytest.raises(PaLiteError, match="is a device, socket or pipe"):
                read(path)


def test_a_later_part_of_a_split_model_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "m-00002-of-00003.gguf"
    for read in (probe_file, Model):
        with pytest.raises(PaLiteError, match=r"is not the first part .* Name the first: .*m-00001-of-00003\.gguf"):
            read(path)
