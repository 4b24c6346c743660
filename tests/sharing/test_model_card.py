"""Model cards of files that pa-lite made."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import pa_lite
from pa_lite.checkpoints.inspect import MergeFacts
from pa_lite.errors import InputError, OutputError
from pa_lite.sharing.model_card import CardFacts, card_facts, card_text

MADE = MergeFacts(lam=0.65, base="Base", instruct="Chat", schedule="", version="1.2.3")
FACTS = CardFacts(
    made=MADE, name="Chat pa 0.65", type="Q4_K_M", licence="apache-2.0", licence_link="",
    base=("Base", "org/Base"), instruct=("Chat", "org/Chat"),
)  # fmt: skip


def card(merged: Path, **changes: object) -> ModelCard:
    return ModelCard(card_text(merged, replace(FACTS, **changes)))  # type: ignore[arg-type]


def test_a_card_names_origin_licence_lam_and_how_to_make_the_file_again(merged: Path) -> None:
    found = card(merged)
    assert found.data.to_dict() == {
        "base_model": ["org/Base", "org/Chat"], "base_model_relation": "merge", "license": "apache-2.0",
        "pipeline_tag": "text-generation", "tags": ["gguf", "merge", "pa-lite", "partial-adaptation"],
    }  # fmt: skip
    assert "| lam | 0.65 |" in found.text
    assert "[org/Chat](https://huggingface.co/org/Chat)" in found.text
    assert "pa-lite merge org/Base org/Chat --lam 0.65 --type Q4_K_M" in found.text
    assert f"llama-server -m {merged.name}" in found.text


@pytest.mark.parametrize(
    ("licence", "link", "expected"),
    [
        ("", "", {}),
        ("llama3.2", "", {"license": "llama3.2"}),
        ("other, qwen-research", "https://x.org/LICENSE",
         {"license": "other", "license_name": "qwen-research", "license_link": "https://x.org/LICENSE"}),
        ("other, base: MIT; instruct: My \"own\"", "javascript:alert(1)",
         {"license": "other", "license_name": "base-mit-instruct-my-own"}),
    ],
)  # fmt: skip
def test_licences_are_named_as_the_hub_knows_them(
    merged: Path, licence: str, link: str, expected: dict[str, str]
) -> None:
    found = card(merged, licence=licence, licence_link=link).data.to_dict()
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected


def test_names_of_others_stay_text(merged: Path) -> None:
    evil = "a](http://x)<script>|\n---\nlicense: mit"
    found = card(merged, name=evil, base=(evil, ""), licence=evil, made=replace(MADE, schedule=evil, version=evil))
    prose = re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", found.text, flags=re.S))
    assert "<script>" not in prose
    assert "](http://x)" not in prose.replace("\\](http://x)", "")
    assert found.data.to_dict().get("license") == "other"
    assert found.text.count("\n---\n") == 0
    assert "| schedule | `''x/y` |" in card(merged, made=replace(MADE, schedule="``x|y")).text


def test_a_study_gives_the_curves_as_table_and_picture(merged: Path, tmp_path: Path) -> None:
    study = pa_lite.sweep("demo", tasks="demo_town,demo_job", limit=20, lams=(0, 0.5, 1), run=tmp_path / "run")
    written = pa_lite.model_card(merged, tmp_path, study=study, commands="pa-lite tune demo --examples my.csv")
    assert written == tmp_path / "README.md"
    text = written.read_text("utf-8")
    assert "![curves along lam](curves.png)" in text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    values = [e["value"] for e in study.document()["averages"] if e["group"] == "few-shot"]
    assert all(f"| {lam:g} | {100 * value:.1f} |" in text for lam, value in zip((0, 0.5, 1), values, strict=True))
    assert "```sh\npa-lite tune demo --examples my.csv\n```" in text
    assert ModelCard(text).data.to_dict()["tags"]
    with pytest.raises(OutputError, match=r"README\.md: exists already"):
        pa_lite.model_card(merged, tmp_path)
    again = pa_lite.model_card(merged, tmp_path, study=tmp_path / "run", force=True)
    assert "curves.png" in again.read_text("utf-8")


def test_the_embedded_pairs_card_and_a_file_of_another_program(
    merged: Path, tiny_ggufs: dict[str, Path], tmp_path: Path
) -> None:
    facts = card_facts(merged)
    assert (facts.made.lam, facts.type, facts.base, facts.instruct) == (
        0.6, "Q4_0", ("demo-base", ""), ("demo-instruct", ""),
    )  # fmt: skip
    other = tmp_path / "other.gguf"
    other.write_bytes(merged.read_bytes().replace(b"pa_lite.lam", b"pa_lite.xyz"))
    with pytest.raises(InputError, match=r"other\.gguf: was not made by pa-lite"):
        pa_lite.model_card(other)
