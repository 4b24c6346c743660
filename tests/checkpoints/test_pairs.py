from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from pa_lite.checkpoints import pairs
from pa_lite.checkpoints.hub.references import HubReference
from pa_lite.checkpoints.hub.repositories import fetch_file
from pa_lite.checkpoints.pairs import Pair, add_pair, all_pairs, fetch_pair, find_pair, own_pairs_path, pair_fit
from pa_lite.errors import CheckpointError, InputError
from pa_lite.ggml.kernels import tensor_type
from pa_lite.system import machine
from tests.support.ggufs import write_gguf_header
from tests.support.hub_server import HubServer


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration folder of a user without pairs."""
    monkeypatch.setattr(pairs, "config_folder", lambda: tmp_path / "config" / "pa-lite")
    return tmp_path / "config" / "pa-lite"


def test_the_embedded_pair_is_complete() -> None:
    pair = find_pair("demo")
    base, instruct = pair.folders
    assert (base / "config.json").is_file()
    assert (instruct / "model.safetensors").is_file()
    assert pair in all_pairs().values()
    assert pair_fit(pair).is_here


def test_an_unknown_pair_gives_suggestions() -> None:
    with pytest.raises(InputError, match="Did you mean demo"):
        find_pair("dmeo")
    with pytest.raises(InputError, match=r"Did you mean llama-3.1-8b"):
        find_pair("llama3.1-8b")


def test_every_built_in_pair_is_consistent() -> None:
    """The size in a name must match the number of parameters, and the two sides must differ."""
    for pair in all_pairs().values():
        if pair.name == "demo":
            continue
        assert isinstance(pair.base, HubReference)
        assert isinstance(pair.instruct, HubReference)
        assert pair.base != pair.instruct
        assert pair.licence
        size = re.search(r"(?:(\d+)x)?(\d+(?:\.\d+)?)(b|m)\b", pair.name)
        assert size is not None, pair.name
        billions = float(size[1] or 1) * float(size[2]) / (1 if size[3] == "b" else 1000)
        assert 0.7 * billions < pair.parameters / 1e9 < 1.5 * billions, pair.name
        assert pair.download_bytes == 4 * pair.parameters
        assert not pair_fit(pair).is_here
        with pytest.raises(InputError, match="is on the Hub"):
            _ = pair.folders


def test_what_fits_depends_on_disk_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """8.03 billion parameters: 32.1 GB to download; 8.5 GB of Q8_0 or 4.9 GB of Q4_K_M to run, plus overhead."""
    usage = shutil.disk_usage(Path())
    pair = find_pair("llama-3-8b")
    for free, memory, disk, runs in (
        (33_000_000_000, 16_000_000_000, True, ("Q8_0", "Q4_K_M")),
        (32_000_000_000, 8_000_000_000, False, ("Q4_K_M",)),
        (32_000_000_000, 5_000_000_000, False, ()),
        (32_000_000_000, 0, False, None),
    ):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=free))
        monkeypatch.setattr(pairs, "available_memory", lambda memory=memory: memory)
        assert (pair_fit(pair).fits_disk, pair_fit(pair).runs) == (disk, runs)


def test_added_pairs_are_stored(tiny_pair: tuple[Path, Path], own_folder: Path) -> None:
    strange = 'says "hi" \\ ünïcode\n\x7f'
    added = add_pair("mine", str(tiny_pair[0]), str(tiny_pair[1]), strange)
    other = add_pair("half.hub", str(tiny_pair[0]), "hub:org/name@v1")
    assert own_pairs_path() == own_folder / "pairs.toml"
    assert (
        find_pair("mine")
        == added
        == Pair(name="mine", base=tiny_pair[0], instruct=tiny_pair[1], description=strange, is_own=True)
    )
    assert find_pair("half.hub") == other
    assert other.instruct == HubReference(repo="org/name", revision="v1")
    with pytest.raises(InputError, match=r"pair mine is in .*pairs.toml already. Choose another name, or use --force"):
        add_pair("mine", "hub:org/a", "hub:org/b")
    add_pair("mine", "hub:org/a", "hub:org/b", force=True)
    assert find_pair("mine").base == HubReference(repo="org/a")
    assert find_pair("half.hub") == other


def test_paths_become_absolute(tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_pair[0].parent)
    assert add_pair("mine", "base", "./instruct").folders == (tiny_pair[0], tiny_pair[1])


@pytest.mark.parametrize(
    ("name", "base", "instruct", "message"),
    [
        ("demo", "hub:o/a", "hub:o/b", "pair demo comes with pa-lite. Choose another name"),
        ("a@b", "hub:o/a", "hub:o/b", "'a@b' is not a valid pair name"),
        ("", "hub:o/a", "hub:o/b", "is not a valid pair name"),
        ("mine", "hub:o/a", "hub:o/a", "base and instruct are both hub:o/a"),
        ("mine", "hub:o", "hub:o/a", "write hub:org/name"),
        ("mine", "/nowhere", "hub:o/a", "/nowhere: no such file or folder"),
    ],
)
def test_invalid_pairs_are_rejected(name: str, base: str, instruct: str, message: str, own_folder: Path) -> None:
    with pytest.raises((InputError, CheckpointError), match=message):
        add_pair(name, base, instruct, force=True)
    assert not own_folder.exists()


def test_a_pair_of_two_architectures_is_rejected(
    tiny_pair: tuple[Path, Path], tmp_path: Path, own_folder: Path
) -> None:
    other = tmp_path / "other.gguf"
    write_gguf_header(other, "other", {}, {"x.weight": (tensor_type("F32"), (4, 4))})
    with pytest.raises(CheckpointError, match="architectures differ: llama and other"):
        add_pair("mine", str(tiny_pair[0]), str(other))
    assert not own_folder.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x\n", "is not a registry of pairs"),
        ("x = " + "[" * 5000, "is not a registry of pairs: is not TOML: it is nested more than 64 deep"),
        ("x = " + "9" * 5000, "is not a registry of pairs: is not TOML: it has a number of more than"),
        ("a." * 100_000 + "b = 1", "is not a registry of pairs: is not TOML: line 1 has a key of 100001 parts"),
        ("x = 1\n", "x: is not a table"),
        ('[x]\nbase = "hub:o/a"\n', "x: has no 'instruct'"),
        ('[x]\nbase = "hub:o"\ninstruct = "b"\n', "write hub:org/name"),
        ('[x]\nbase = "a"\ninstruct = "b"\ngated = "yes"\n', "x: 'gated' must be true or false, not 'yes'"),
        ('[x]\nbase = "a"\ninstruct = "b"\nlicense = "mit"\n', "x: unknown key 'license'. Did you mean licence"),
    ],
)
def test_a_broken_registry_affects_only_the_users_pairs(
    text: str, message: str, own_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_folder.mkdir(parents=True)
    (own_folder / "pairs.toml").write_text(text, "utf-8")
    pattern = re.escape(str(own_folder / "pairs.toml")) + ".*" + message
    with pytest.raises(CheckpointError, match=pattern):
        find_pair("mine")
    with pytest.raises(CheckpointError, match=pattern):
        add_pair("mine", "a", "b")
    assert not caplog.records
    assert (own_folder / "pairs.toml").read_text("utf-8") == text
    assert {pair.is_own for pair in all_pairs().values()} == {False}
    assert re.search(pattern + ".*Until then only the pairs that come with pa-lite are known", caplog.text)
    assert find_pair("demo").folders


def test_a_users_pair_hides_a_built_in_one_with_a_warning(own_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pairs that pa-lite adds later must not break those of the user."""
    own_folder.mkdir(parents=True)
    (own_folder / "pairs.toml").write_text('[demo]\nbase = "a"\ninstruct = "hub:o/b"\n', "utf-8")
    assert find_pair("demo").base == own_folder / "a"
    assert "hides the one that comes with pa-lite" in caplog.text


def test_fetch_pair_downloads_the_side_on_the_hub(hub: HubServer, tiny_pair: tuple[Path, Path]) -> None:
    hub.add("org/b", tiny_pair[1])
    pair = add_pair("mine", str(tiny_pair[0]), "hub:org/b")
    assert not pair_fit(pair).is_here
    base, instruct = fetch_pair(pair)
    assert base == tiny_pair[0]
    assert (instruct / "model.safetensors").read_bytes() == (tiny_pair[1] / "model.safetensors").read_bytes()
    assert pair_fit(pair).is_here


def test_a_partly_downloaded_side_is_not_here(hub: HubServer, tiny_pair: tuple[Path, Path]) -> None:
    hub.add("org/a", tiny_pair[0])
    pair = Pair(name="x", base=HubReference(repo="org/a"), instruct=tiny_pair[1])
    for name in ("model.safetensors.index.json", "model-00001-of-00002.safetensors"):
        fetch_file("org/a", name)
        assert not pair_fit(pair).is_here
    fetch_file("org/a", "model-00002-of-00002.safetensors")
    assert pair_fit(pair).is_here


def test_the_configuration_folder_of_each_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert machine.config_folder() == tmp_path / ".config" / "pa-lite"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    assert machine.config_folder() == tmp_path / "x" / "pa-lite"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # the specification says to ignore it
    assert machine.config_folder() == tmp_path / ".config" / "pa-lite"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.config_folder() == tmp_path / "Library" / "Application Support" / "pa-lite"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("APPDATA", str(tmp_path / "roaming"))
    assert machine.config_folder() == tmp_path / "roaming" / "pa-lite"
