from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pa_lite.alpaca.alpaca_eval import load_alpaca_eval, load_length_data
from pa_lite.alpaca.outputs import load_prompts
from pa_lite.alpaca.prompts import Prompt
from pa_lite.errors import HubError, InputError
from tests.support.alpaca_files import SHARED, data_set, instruction, write_data_set
from tests.support.hub_server import running_hub


def test_instructions_from_a_file_and_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [Prompt(instruction(i), "koala") for i in range(6)]
    folder = write_data_set(tmp_path / "data", 6)
    assert load_alpaca_eval(folder / "alpaca_eval.json") == expected
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("tatsu-lab/alpaca_eval", data_set(6), kind="dataset")
        assert load_prompts("alpaca-eval") == expected
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_prompts("alpaca-eval") == expected
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(HubError):
        load_prompts("alpaca-eval")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} does not exist")
def test_real_instructions_are_read() -> None:
    prompts = load_alpaca_eval(SHARED / "model_outputs_gpt4_1106_preview.json")
    assert len(prompts) == 805
    assert {p.dataset for p in prompts} == {"helpful_base", "koala", "oasst", "selfinstruct", "vicuna"}


def test_difficulty_belongs_to_the_index(tmp_path: Path) -> None:
    data = load_length_data(write_data_set(tmp_path / "data", 6, seed=5))
    rows = [line.split(",") for line in (tmp_path / "data" / "df_gamed.csv").read_text("utf-8").splitlines()[1:]]
    assert list(data.difficulty) == [instruction(i) for i in range(6)]
    assert list(data.difficulty.values()) == [float(row[4]) for row in rows[:6]]
    assert data.gamed.preference.tolist() == [float(row[1]) for row in rows]
    assert data.gamed.delta.tolist() == [float(row[3]) for row in rows]
    assert data.gamed.difficulty.tolist() == [float(row[4]) for row in rows]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("instruction_difficulty", "hardness", "no column 'instruction_difficulty'"),
        ("concise,0", "concise,zero0", "not a table with numbers under index, preference"),
        (",0,", ",inf,", "not a table with numbers under index, preference"),
        ("concise,0.", "concise,7.", r"has no preferences, preferences outside \[0, 1\]"),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_data_set(tmp_path / "data", 6) / "df_gamed.csv"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(InputError, match=message):
        load_length_data(path.parent)


def test_missing_difficulties_and_files_are_refused(tmp_path: Path) -> None:
    folder = write_data_set(tmp_path / "data", 6)
    (folder / "alpaca_eval.json").write_bytes(data_set(9)["alpaca_eval.json"])
    with pytest.raises(InputError, match="no difficulty for 3 of 9 instructions"):
        load_length_data(folder)
    (folder / "df_gamed.csv").unlink()
    with pytest.raises(InputError, match=r"df_gamed.csv: cannot be read"):
        load_length_data(folder)
    (folder / "alpaca_eval.json").write_text(json.dumps([{"text": 1}]), "utf-8")
    with pytest.raises(InputError, match="entry 1 has no string under 'instruction'"):
        load_length_data(folder)


@pytest.mark.filterwarnings("error")
def test_table_without_preferences_is_refused(tmp_path: Path) -> None:
    path = write_data_set(tmp_path / "data", 6) / "df_gamed.csv"
    text = re.sub(r"^(concise|verbose),[^,]*", r"\1,", path.read_text("utf-8"), flags=re.MULTILINE)
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match="no preferences"):
        load_length_data(tmp_path / "data")
