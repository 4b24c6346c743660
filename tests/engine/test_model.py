from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from pa_lite.engine.model import EngineOptions, Model
from pa_lite.errors import CheckpointError, EngineError, InputError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.metadata import Field, Metadata, string
from tests.support.ggufs import write_gguf_header

ONE = EngineOptions(threads=1)
NASTY = "the\tman's\n\n  größe 日本語 🚀‍👩 \u200d 1234 <|im_end|> --->\r\n'll"


def test_tokens_are_those_of_the_hugging_face_tokenizer(
    tiny_ggufs: dict[str, Path], tiny_pair: tuple[Path, Path]
) -> None:
    reference = Tokenizer.from_file(str(tiny_pair[1] / "tokenizer.json"))
    with Model(tiny_ggufs["F32"], ONE) as model:
        assert model.tokenize(NASTY, parse_special=True) == reference.encode(NASTY).ids
        plain = model.tokenize(NASTY, add_special=False)
        assert 2 not in plain  # without parse_special a control token's text is text
        assert model.text(plain) == NASTY
        assert model.tokenize("") == [0]


def test_properties_of_a_model(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model:
        assert model.n_vocab == 320
        assert model.n_ctx_train == 512
        assert model.name.endswith("-instruct pa 0.7")
        assert model.prefix_token == 0
        assert model.special_text("eos") == "<|im_end|>"
        assert model.is_end(2)
        assert not model.is_end(5)


def test_the_log_normaliser_is_exact(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model, model.context(256) as context:
        logits = np.random.default_rng(0).normal(0, 20, 320).astype(np.float32)
        exact = np.logaddexp.reduce(logits.astype(np.float64))
        assert context.log_normaliser(logits) == pytest.approx(exact, abs=1e-6)


def test_a_full_context_is_an_error(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], ONE) as model, model.context(256) as context:
        context.decode([5] * 256, range(256), [0] * 256, [0] * 256, [False] * 256)
        with pytest.raises(EngineError, match="context of 256 tokens is full"):
            context.decode([5], [256], [0], [0], [True])
        context.clear()
        context.decode([5], [0], [0], [0], [True])
        assert np.isfinite(context.logits(0)).all()


def damaged(source: Path, target: Path, **changes: object) -> Path:
    """Write the source's header with other metadata, without tensors: loading must fail before them."""
    metadata: Metadata = dict(read_gguf_header(source).metadata)
    architecture = metadata.pop("general.architecture").value
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del metadata[name]
        else:
            metadata[name] = value  # type: ignore[assignment]
    write_gguf_header(target, architecture, metadata, {})
    return target


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"general__type": string("adapter")}, "not a language model"),
        ({"llama__block_count": None}, "block_count is missing or not from 1"),
        ({"tokenizer__ggml__tokens": None}, "has no vocabulary"),
    ],
)
def test_files_without_required_keys_are_refused(
    tiny_ggufs: dict[str, Path], tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        Model(damaged(tiny_ggufs["F32"], tmp_path / "x.gguf", **changes), ONE)


def test_llama_cpps_error_is_passed_on(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"llama.cpp cannot load it: .+"):
        Model(damaged(tiny_ggufs["F32"], tmp_path / "x.gguf"), ONE)


def test_an_invalid_cache_type_is_refused(tiny_ggufs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="is not auto, F16 or F32"):
        Model(tiny_ggufs["F32"], EngineOptions(cache_type="Q8_0"))


class Interrupts(logging.Handler):
    """Sends Ctrl-C once, from llama.cpp's log callback, where an exception would be lost."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger("pa_lite.engine.llama").removeHandler(self)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_stops_loading(tiny_ggufs: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pa_lite.engine.llama")
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with caplog.at_level(logging.DEBUG, logger.name):
            logger.addHandler(Interrupts())
            with pytest.raises(KeyboardInterrupt):
                Model(tiny_ggufs["F32"], ONE)
            with Model(tiny_ggufs["F32"], ONE) as model:
                logger.addHandler(Interrupts())
                with pytest.raises(KeyboardInterrupt), model.context(256):
                    pytest.fail("a context although it was interrupted")
                with model.context(256) as context:
                    context.decode([5], [0], [0], [0], [True])
    finally:
        signal.signal(signal.SIGINT, previous)


def split(source: Path, folder: Path) -> list[Path]:
    """Split a model into two parts, as llama.cpp's gguf-split does."""
    header, data = read_gguf_header(source), source.read_bytes()
    names = list(header.tensors)
    parts = []
    for i, own in enumerate((names[:5], names[5:])):
        told: Metadata = {"split.no": Field("UINT16", i), "split.count": Field("UINT16", 2),
                          "split.tensors.count": Field("INT32", len(names))}  # fmt: skip
        metadata = {k: v for k, v in header.metadata.items() if k != "general.architecture"} | told
        path = folder / f"m-{i + 1:05d}-of-00002.gguf"
        placed = write_gguf_header(
            path, "llama", metadata, {n: (header.tensors[n].type, header.tensors[n].shape) for n in own}
        )
        with path.open("r+b") as f:
            for name, target in placed.items():
                old = header.tensors[name]
                f.seek(target.offset)
                f.write(data[old.offset : old.offset + old.nbytes])
        parts.append(path)
    return parts


def test_all_parts_of_a_split_model_are_checked(tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    first, second = split(tiny_ggufs["F32"], tmp_path)
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as whole, Model(first, EngineOptions(threads=1)) as model:
        assert model.header.tensors.keys() == whole.header.tensors.keys()
        assert model.weight_bytes == whole.weight_bytes
        logits = []
        for each in (whole, model):
            with each.context(64) as context:
                context.decode([5, 6], [0, 1], [0, 0], [0, 0], [False, True])
                logits.append(context.logits(1).copy())
    assert (logits[0] == logits[1]).all()
    data = second.read_bytes()
    second.write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match=r"m-00002-of-00002\.gguf: broken GGUF file: .* ends after the end"):
        Model(first)  # llama.cpp would map the part and crash when it reads beyond its end
    second.unlink()
    with pytest.raises(CheckpointError, match=r"part m-00002-of-00002\.gguf of a split model is missing"):
        Model(first)
