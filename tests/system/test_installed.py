"""Versions of installed packages are those of importlib.metadata."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from pa_lite.system.installed import installed_version


@pytest.mark.parametrize("name", ["pa-lite", "llama-cpp-python", "numpy", "gguf", "safetensors"])
def test_versions_are_those_of_importlib_metadata(name: str) -> None:
    assert installed_version(name) == importlib.metadata.version(name)


def test_other_layouts_and_missing_packages_are_left_to_importlib_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old_thing.egg-info").write_text("Metadata-Version: 2.1\nName: old-thing\nVersion: 1.5\n", "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "nowhere"), *sys.path])
    assert installed_version("old-thing") == "1.5"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        installed_version("no-such-thing")


def test_the_first_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, version in (("a", "2.0"), ("b", "3.0")):
        info = tmp_path / folder / f"made_up-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: made-up\nVersion: {version}\n", "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "a"), str(tmp_path / "b"), *sys.path])
    assert installed_version("made-up") == "2.0" == importlib.metadata.version("made-up")
