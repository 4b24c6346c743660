from __future__ import annotations

import ntpath
import posixpath
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pa_lite.untrusted.safe_names import escapes, file_name, leads_out, name_fault, path_fault, same_file

PLAIN = [
    "model.safetensors", "data/train-00000-of-00001.jsonl", "größe/名.json", "a b.txt", "com.txt", "console", "..a",
    "a..b", ".gitattributes", "x" * 255, "nul-1.txt",
]  # fmt: skip
FAULTY = {
    "leads out": ["", ".", "..", "../x", "a/../../x", "/etc/passwd", "a//b", "a/", "a\\b", "..\\x", "C:/x", "c:x",
                  "a/./b", "\\\\server\\x", "a\0b", "a\nb"],
    "characters": ["ab:c", "a?", "a*", "a|b", 'a"b', "<a", "a\x7fb", "a\u202eb", "a\u200bb", "a\ud800b", "\ufeffa"],
    "device": ["CON", "nul", "NUL.safetensors", "aux.tar.gz", "com1.json", "LPT9", "com¹", "Prn .txt", "x/con.json",
               "CONOUT$"],
    "dot or space": ["a.", "a ", "a. .", "a /b", "model.safetensors."],
    "longer than 255": ["x" * 256, "é" * 128],
}  # fmt: skip


def test_untrusted_names_are_checked() -> None:
    for name in PLAIN:
        assert path_fault(name) is None, name
    for message, names in FAULTY.items():
        for name in names:
            assert message in (path_fault(name) or ""), name
    assert name_fault("a/b") == "is not a plain file name"


@given(
    st.lists(st.sampled_from(["..", ".", "a", "con", "/", "\\", ":", "C", "\0", " ", "é", "//"]), max_size=8).map(
        "".join
    )
)
def test_accepted_paths_stay_within_their_folder_on_every_system(path: str) -> None:
    """Compared with how the path modules of both systems resolve a path."""
    if path_fault(path) is None:
        assert posixpath.normpath(posixpath.join("/f", path)) == posixpath.join("/f", path)
        assert ntpath.normpath(ntpath.join("d:\\f", path)) == "d:\\f\\" + path.replace("/", "\\")
        assert not escapes(path)
        assert not getattr(ntpath, "isreserved", lambda _: False)(path)


@given(st.text())
def test_any_text_becomes_a_valid_file_name(text: str) -> None:
    name = file_name(text)
    assert path_fault(name) is None
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert file_name(name) == name


def test_file_names_made_from_text() -> None:
    assert file_name("../../etc/passwd") == "etc-passwd".replace("etc", "..-etc").lstrip(".-")
    assert file_name("Llama-3.2 1B") == "Llama-3.2 1B"
    assert file_name("nul.gguf") == "_nul.gguf"
    assert file_name("\x1b[2J\u202e") == "[2J"
    assert file_name("///") == file_name("") == "unnamed"


def test_names_that_are_the_same_file_on_other_systems_are_found() -> None:
    assert same_file(["a.json", "b.json", "A.json"]) == ("a.json", "A.json")
    assert same_file(["e\u0301", "\u00e9"]) == ("e\u0301", "\u00e9")  # one accent in two encodings
    assert same_file(["a", "b", "a"]) is None


@pytest.mark.skipif(sys.platform == "win32", reason="links are for developers there")
def test_links_that_leave_their_folder_are_found(tmp_path: Path) -> None:
    folder, outside = tmp_path / "f", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("secret", "utf-8")
    (folder / "inner").write_text("x", "utf-8")
    (folder / "in").symlink_to("inner")
    (folder / "out").symlink_to("../outside")
    (folder / "far").symlink_to(outside)
    (folder / "twice").symlink_to("out")
    (folder / "circle").symlink_to("circle")
    (folder / "up").symlink_to("..")
    found = {name: leads_out(folder / name, folder) for name in ("inner", "in", "out", "far", "twice", "circle")}
    assert found == {"inner": False, "in": False, "out": True, "far": True, "twice": True, "circle": True}
    assert leads_out(folder / "circle" / "x", folder)
    assert not leads_out(folder / "not there", folder)
    assert leads_out(folder / "up" / "outside", folder)
    (tmp_path / "named").symlink_to(folder)  # a link that the user names stands for its target
    assert not leads_out(tmp_path / "named" / "in", tmp_path / "named")
    snapshot, blobs = tmp_path / "models--o--n" / "snapshots" / "abc", tmp_path / "models--o--n" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("x", "utf-8")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "evil.json").symlink_to("../../../outside")
    assert not leads_out(snapshot / "config.json", snapshot)
    assert leads_out(snapshot / "evil.json", snapshot)
    (blobs / "1").unlink()
    blobs.rmdir()
    blobs.symlink_to(tmp_path)  # an untrusted cache
    (tmp_path / "1").write_text("secret", "utf-8")
    assert leads_out(snapshot / "config.json", snapshot)
