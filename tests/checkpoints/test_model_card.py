"""The licence and origin that a checkpoint's folder names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.checkpoints.model_card import describe_origin


def values(folder: Path) -> dict[str, object]:
    return {key: entry.value for key, entry in describe_origin(folder).items()}


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: mit\n---\n", {"general.license": "mit"}),
        ("---\r\nlicense: 'mit'  # note\r\n---\r\ntext", {"general.license": "mit"}),
        (
            "---\nlibrary_name: x\nlicense: other\nlicense_name: qwen\nlicense_link: LICENSE\n---\n",
            {"general.license": "other", "general.license.name": "qwen", "general.license.link": "LICENSE"},
        ),
        ("# no front matter\nlicense: mit\n", {}),
        ("---\nmodel-index:\n  license: mit\n---\n", {}),
        ("---\nlicense:\n- mit\n---\n", {}),
        ("---\nlicense: mit\n", {}),
        ("", {}),
    ],
)
def test_the_front_matter_names_the_licence(tmp_path: Path, card: str, expected: dict[str, str]) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert values(tmp_path) == expected


def test_a_snapshot_names_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--Name" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    assert values(folder) == {
        "general.organization": "org", "general.repo_url": "https://huggingface.co/org/Name",
    }  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")
def test_cards_outside_the_folder_and_pipes_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("---\nlicense: mit\n---\n", "utf-8")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    assert values(folder) == {}
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    assert values(folder) == {}


@given(st.text(alphabet="-\nlicense: mit_name'\"#", max_size=200))
def test_any_text_gives_short_lines(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("card")
    (folder / "README.md").write_text(f"---\n{text}\n---\n", "utf-8")
    for value in values(folder).values():
        assert isinstance(value, str)
        assert value.strip() == value != ""
        assert "\n" not in value
