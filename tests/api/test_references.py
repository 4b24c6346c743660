"""References to pairs, models and locations: one resolver for the API and every command."""

from __future__ import annotations

from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.checkpoints.locations import resolve_location
from pa_lite.checkpoints.pairs import resolve_pair
from pa_lite.engine.model_reference import resolve_model
from pa_lite.errors import CheckpointError, InputError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("org/name", HubReference(repo="org/name")),
        ("org/name@v1.0", HubReference(repo="org/name", revision="v1.0")),
        ("hub:org/name@v1.0", HubReference(repo="org/name", revision="v1.0")),
        ("hub:org/name/model.gguf", HubReference(repo="org/name", file="model.gguf")),
        ("./org/name", Path("org/name")),
        ("name", Path("name")),
        ("org/model.gguf", Path("org/model.gguf")),
        ("org/sub/name", Path("org/sub/name")),
        ("here/name", Path("here/name")),  # the folder `here` exists: a misspelled path is not a Hub repository
        ("here/model", Path("here/model")),
        ("/org/name", Path("/org/name")),
        ("~org/name", Path("~org/name")),
    ],
)  # fmt: skip
def test_locations(text: str, found: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_location(text) == found


def test_a_repository_name_is_looked_up_on_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        pa_lite.inspect("org/name")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        pa_lite.merge("org/base", "org/instruct")


def test_pairs(tmp_path: Path) -> None:
    demo = pa_lite.pairs()["demo"]
    assert resolve_pair("demo") == resolve_pair(demo) == demo
    two = resolve_pair((demo.base, str(demo.instruct)))
    assert (two.name, two.base, two.instruct) == ("instruct", demo.base, demo.instruct)
    assert resolve_pair(("org/Base", "org/Instruct@v1")).name == "Instruct"
    assert resolve_pair((Path("a.gguf"), Path("b/Chat.GGUF"))).name == "Chat"


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ("dem", "unknown pair 'dem'. Did you mean demo?"),
        ("./Base", "give both BASE and INSTRUCT"),
        (Path("Base"), "give both BASE and INSTRUCT"),
        ("hub:org/name", "give both BASE and INSTRUCT"),
        (("a", "b", "c"), "is not a pair"),
        (3, "is not a pair"),
    ],
)  # fmt: skip
def test_invalid_pairs(pair: object, told: str) -> None:
    with pytest.raises(InputError, match=told.replace("?", r"\?").replace(".", r"\.")):
        resolve_pair(pair)  # type: ignore[arg-type]


def test_models(tiny_ggufs: dict[str, Path]) -> None:
    demo = pa_lite.pairs()["demo"]
    for given in (("demo@0.7",), ("demo", 0.7), ("demo", "0.7"), (demo, 0.7)):
        found = resolve_model(*given)
        assert (found.pair, found.lam, str(found)) == (demo, 0.7, "demo@0.7")
    sides = resolve_model((demo.base, demo.instruct), 0.5)
    assert (str(sides), sides.lam) == ("instruct@0.5", 0.5)
    file = tiny_ggufs["F16"]
    for text in (str(file), file):
        found = resolve_model(text)
        assert (found.file, found.pair, str(found)) == (file, None, str(file))
    assert resolve_model(found) is found
    assert resolve_model(resolve_model("demo@0.7"), 0.2).lam == 0.2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("demo",), "write demo@0.6, or add --lam"),
        ((("a", "b"),), "two checkpoints are a pair, and a model needs a lam"),
        (("demo@0.7", 0.5), "already has a lam"),
        (("demo", "0,1"), "has 2 lams, but one is expected"),
        (("demo", "x"), "lam 'x'"),
        (("dem@0.7",), "unknown pair 'dem'"),
        (("dem", 0.7), "unknown pair 'dem'"),
        (("none.gguf",), "is not a model"),
    ],
)  # fmt: skip
def test_invalid_models(given: tuple[object, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_model(*given)  # type: ignore[arg-type]


def test_a_file_has_no_lam(tiny_ggufs: dict[str, Path]) -> None:
    for file in (tiny_ggufs["F16"], str(tiny_ggufs["F16"])):
        with pytest.raises(InputError, match="only pairs have a lam"):
            resolve_model(file, 0.5)
