"""The leading space of a text, with a SentencePiece vocabulary of bytes and a few words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pa_lite.checkpoints.checkpoint import Vocabulary
from pa_lite.checkpoints.vocabulary.space_prefix import SPACE_PREFIX_KEY
from pa_lite.checkpoints.vocabulary.tokens import CONTROL, USER_DEFINED
from pa_lite.engine.chat import chat_prompts
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.space_prefix import LongestTokens, SpacePrefix
from pa_lite.ggml.metadata import Field, array, boolean, string, uint32
from tests.support.folders import PIECES
from tests.support.vocabularies import write_tiny_model

BOS, SPACES, SPACE, T, THE, HE = 1, 262, 263, 264, 261, 260
INST, END, TAG = len(PIECES), len(PIECES) + 1, len(PIECES) + 2
TEMPLATE = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }}[/INST]{% endfor %}"


def open_model(
    folder: Path, scheme: str | None, inst: int = CONTROL, changes: Mapping[str, Field] | None = None
) -> Model:
    pieces = [*PIECES, ("[INST]", -1000.0, inst), ("[/INST]", -1000.0, CONTROL), ("<tag>", -1000.0, USER_DEFINED)]
    texts, scores, types = [t for t, *_ in pieces], [s for _, s, _ in pieces], [k for *_, k in pieces]
    metadata = {
        "tokenizer.ggml.model": string("llama"), "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": array("STRING", texts), "tokenizer.ggml.scores": array("FLOAT32", scores),
        "tokenizer.ggml.token_type": array("INT32", types), "tokenizer.ggml.bos_token_id": uint32(1),
        "tokenizer.ggml.eos_token_id": uint32(2), "tokenizer.chat_template": string(TEMPLATE),
        **({SPACE_PREFIX_KEY: string(scheme)} if scheme else {}), **(changes or {}),
    }  # fmt: skip
    write_tiny_model(
        folder / "m.gguf",
        Vocabulary(metadata=metadata, tokens=[str(t) for t in texts], token_types=[int(str(k)) for k in types]),
        "llama",
    )
    return Model(folder / "m.gguf", EngineOptions(threads=1))


@pytest.mark.parametrize(
    ("scheme", "text", "expected"),
    [
        ("first", "the", [THE]),
        ("first", " the", [THE]),
        ("first", "[INST]the", [INST, T, HE]),
        ("first", "[INST] the", [INST, THE]),
        ("first", "[INST]  the", [INST, SPACE, THE]),
        ("first", "<tag>the[/INST]", [TAG, T, HE, END]),
        ("first", "the[INST][/INST]the", [THE, INST, END, T, HE]),
        ("first", "<s>the", [BOS, T, HE]),
        ("first", "", []),
        ("always", "the", [THE]),
        ("always", " the", [THE]),
        ("always", "[INST]the", [INST, THE]),
        ("always", "[INST] the", [INST, THE]),
        ("always", "<tag>the", [TAG, THE]),
        (None, " the", [SPACE, THE]),
        (None, "<tag>the", [TAG, THE]),
    ],
)
def test_the_space_goes_where_the_scheme_puts_it(
    tmp_path: Path, scheme: str | None, text: str, expected: Sequence[int]
) -> None:
    with open_model(tmp_path, scheme, CONTROL if scheme else USER_DEFINED) as model:
        assert model.tokenize(text, add_special=False, parse_special=True) == expected
        assert model.tokenize(text, add_special=True, parse_special=True) == [BOS, *expected]


def test_bos_and_eos_are_added_around_the_text(tmp_path: Path) -> None:
    with open_model(tmp_path, "first", changes={"tokenizer.ggml.add_eos_token": boolean(True)}) as model:
        assert model.tokenize("the") == [BOS, THE, 2]
    both = {"tokenizer.ggml.add_eos_token": boolean(True), "tokenizer.ggml.add_bos_token": boolean(False)}
    with open_model(tmp_path, "first", changes=both) as model:
        assert model.tokenize("the") == [THE, 2]


def test_control_tokens_are_read_only_on_request(tmp_path: Path) -> None:
    with open_model(tmp_path, "first") as model:
        spelled = model.tokenize("[INST]the", add_special=False)
        assert INST not in spelled
        assert model.tokenize("the", add_special=False, is_start=False) == [T, HE]


def test_a_vocabulary_with_mistrals_control_token_has_scheme_first(tmp_path: Path) -> None:
    """A file of llama.cpp's converter does not have the scheme."""
    with open_model(tmp_path, None) as model:
        assert model.tokenize("[INST] the", add_special=False, parse_special=True) == [INST, THE]
    with open_model(tmp_path, None, USER_DEFINED) as model:  # as in Mistral v0.1
        assert model.tokenize("[INST] the", add_special=False, parse_special=True) == [INST, SPACE, THE]
    with open_model(tmp_path, None, changes={"tokenizer.ggml.add_space_prefix": boolean(False)}) as model:
        assert model.tokenize("the", add_special=False) == [T, HE]


def test_a_spelled_control_token_adds_no_space_to_a_prompt(tmp_path: Path) -> None:
    with open_model(tmp_path, "first") as model:
        plain, spelled = map(list, chat_prompts(model, ["the", "the[INST]"]).tokens)
    assert plain == [BOS, INST, THE, END]
    assert spelled[:3] == plain[:3]
    assert spelled.count(INST) == 1
    assert spelled[-1] == END


def test_a_vocabulary_without_bos_has_none(tmp_path: Path, tiny_ggufs: dict[str, Path]) -> None:
    """llama.cpp uses token 11 of a byte-level vocabulary as BOS and EOS if the file does not name them."""
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        header = model.header
        assert (model.special_text("bos"), model.prefix_token) == ("<|endoftext|>", 0)
        for bos, eos, expected in ((False, True, ("", "<|im_end|>", 2)), (False, False, ("", "", None))):
            absent = [f"tokenizer.ggml.{n}_token_id" for n, has in (("bos", bos), ("eos", eos)) if not has]
            kept = {k: e for k, e in header.metadata.items() if k not in absent}
            path = tmp_path / f"{bos}{eos}.gguf"
            tokens, types = (kept[f"tokenizer.ggml.{k}"].value for k in ("tokens", "token_type"))
            own = {k: e for k, e in kept.items() if k.startswith("tokenizer.")}
            own["tokenizer.ggml.add_bos_token"] = boolean(False)
            write_tiny_model(path, Vocabulary(metadata=own, tokens=tokens, token_types=types), "llama")
            with Model(path, EngineOptions(threads=1)) as other:
                assert (other.special_text("bos"), other.special_text("eos"), other.prefix_token) == expected


def test_the_template_can_have_another_bos_than_the_ids(tmp_path: Path) -> None:
    """config.json and the tokenizer have different BOS tokens; an empty context uses the tokenizer's, as in lm-eval."""
    with open_model(tmp_path, None, changes={"tokenizer.pa_lite.bos_token": string("")}) as model:
        assert (model.special_text("bos"), model.special_token("bos"), model.prefix_token) == ("", None, 2)
    with open_model(tmp_path, None, changes={"tokenizer.pa_lite.bos_token": string("[INST]")}) as model:
        assert (model.special_text("bos"), model.prefix_token) == ("[INST]", INST)


def test_end_tokens_in_pa_lites_key_end_a_generation(tmp_path: Path) -> None:
    with open_model(tmp_path, None, changes={"tokenizer.pa_lite.end_token_ids": array("UINT32", [END])}) as model:
        assert model.is_end(END)
        assert model.is_end(2)
        assert not model.is_end(INST)


def test_the_unknown_token_spelled_by_users_is_text(tmp_path: Path) -> None:
    with open_model(tmp_path, "first") as model:
        (tokens,) = chat_prompts(model, ["<unk>"]).tokens
        assert 0 not in tokens


def test_a_vocabulary_without_token_types_has_no_special_tokens(tmp_path: Path) -> None:
    model = open_model(tmp_path, "first")
    metadata = {k: v for k, v in model.header.metadata.items() if k != "tokenizer.ggml.token_type"}
    model.close()
    prefix = SpacePrefix("first", metadata, lambda text, *_: list(text.encode()))
    assert prefix.tokenize("[INST]", False, True, True) == list(b"[INST]")


def test_the_longest_special_token_at_a_position_is_found() -> None:
    special = LongestTokens({"<a>": 1, "<a><b>": 2, "]^-": 3, "-": 4, "<a": 5})
    assert list(special.find("x<a><b<a><b>]^-]--<a")) == [
        (1, 4, 1), (6, 12, 2), (12, 15, 3), (16, 17, 4), (17, 18, 4), (18, 20, 5)
    ]  # fmt: skip
    assert list(LongestTokens({}).find("abc")) == []


def test_many_special_tokens_take_no_more_time_than_few() -> None:
    special = LongestTokens({f"<{i}>": i for i in range(200_000)})
    started = time.process_time()
    assert [token for *_, token in special.find("<x" * 50_000 + "<123456>")] == [123456]
    assert time.process_time() - started < 5  # one pattern of all tokens would take hours
