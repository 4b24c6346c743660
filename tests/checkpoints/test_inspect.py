from __future__ import annotations

from pathlib import Path

from pa_lite.checkpoints.inspect import inspect_checkpoint
from tests.support import tiny
from tests.support.families import write_checkpoint


def test_a_folder_and_its_gguf_file_have_the_same_facts(
    tiny_pair: tuple[Path, Path], tiny_ggufs: dict[str, Path]
) -> None:
    folder, file = inspect_checkpoint(tiny_pair[1]), inspect_checkpoint(tiny_ggufs["Q8_0"])
    assert folder.architecture == file.architecture == "llama"
    assert folder.parameters == file.parameters == sum(a.size for a in tiny.weights(1).values())
    assert folder.types == {"BF16": 2 * folder.parameters}
    assert set(file.types) == {"Q8_0", "F32"}
    assert folder.vocabulary == file.vocabulary
    assert folder.vocabulary is not None
    assert (folder.vocabulary.tokens, folder.vocabulary.used) == (320, 267)
    assert folder.vocabulary.special == {"bos": "<|endoftext|>", "eos": "<|im_end|>"}
    assert folder.vocabulary.chat_template == tiny.CHAT_TEMPLATE
    assert folder.settings["llama.block_count"] == 2
    assert [t.name for t in folder.tensors] == [t.name for t in file.tensors]


def test_shards_are_listed_and_a_missing_vocabulary_reported(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert len(inspect_checkpoint(tiny_pair[0]).files) == 2
    folder = tiny.write_checkpoint(tmp_path / "m", tiny.weights(1))
    (folder / "tokenizer.json").unlink()
    found = inspect_checkpoint(folder)
    assert found.vocabulary is None
    assert "has neither tokenizer.json nor tokenizer.model" in str(found.problem)


def test_supported_families_and_warnings_are_reported(
    tiny_pair: tuple[Path, Path], tiny_ggufs: dict[str, Path], tmp_path: Path
) -> None:
    assert inspect_checkpoint(tiny_pair[0]).families == ("Llama 2, 3, 3.1, 3.2, SmolLM2",)
    assert "Mixtral" in inspect_checkpoint(tiny_ggufs["F16"]).families
    raw = tiny_ggufs["F16"].read_bytes().replace(b"llama", b"lhama")
    (tmp_path / "x.gguf").write_bytes(raw)
    assert inspect_checkpoint(tmp_path / "x.gguf").families == ()
    folder, _ = write_checkpoint(tmp_path / "m", "MistralForCausalLM", sliding_window=16)
    found = inspect_checkpoint(folder)
    assert found.families == ("Mistral",)
    assert "sliding_window 16 cannot be stored in GGUF" in found.warnings[0]
