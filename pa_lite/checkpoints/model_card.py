"""What a checkpoint says about its origin and licence: from its model card and its folder in the Hub's cache."""

from __future__ import annotations

import re
from pathlib import Path

from pa_lite.checkpoints.hub.cache import is_hub_blob, repository_of
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Metadata, string
from pa_lite.system.opening import open_regular, read_at_most
from pa_lite.untrusted.safe_names import leads_out

CARD = "README.md"
_LONGEST_CARD = 1 << 20  # bytes that are read
_FRONT = re.compile(r"\A---[ \t]*\n(?P<yaml>.*?)\n---[ \t]*$", re.S | re.M)
_KEYS = {"license": Keys.General.LICENSE, "license_name": Keys.General.LICENSE_NAME,
         "license_link": Keys.General.LICENSE_LINK}  # fmt: skip
# a top-level key with a plain or quoted value on one line; other forms of YAML do not occur for these keys
_LINE = re.compile(
    r"""^(?P<key>license|license_name|license_link):[ \t]*["']?(?P<value>[^"'#\n]{1,300})""", re.MULTILINE
)


def describe_origin(folder: Path) -> Metadata:
    """Return GGUF's `general.*` keys for a folder's licence, organization and repository, as far as known."""
    found: Metadata = {}
    if folder.parent.name == "snapshots" and (repo := repository_of(folder.parent.parent)):
        owner, slash, _ = repo.rpartition("/")
        if slash:
            found[Keys.General.ORGANIZATION] = string(owner)
        found[Keys.General.REPO_URL] = string(f"https://huggingface.co/{repo}")
    front = _FRONT.match(_card(folder))
    for line in _LINE.finditer(front["yaml"]) if front else ():
        if value := line["value"].strip():
            found.setdefault(_KEYS[line["key"]], string(value))
    return found


def _card(folder: Path) -> str:
    """Return the start of a folder's model card; "" without one, and for a link that leads out of the folder."""
    path = folder / CARD
    if not path.is_file() or (leads_out(path, folder) and not is_hub_blob(path)):
        return ""
    try:
        with open_regular(path) as file:
            return read_at_most(file, _LONGEST_CARD).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
