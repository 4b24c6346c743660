"""Fuzzing target for run folders: a study's rows as JSON, turned into a results file, with damage and companions."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from pa_lite.study.export import item_rows, lm_eval_document, to_csv, to_document
from pa_lite.study.results import load_study
from pa_lite.study.results_file import FILE, fill
from pa_lite.study.store import Cell, read_store
from tools.fuzz.binary import BundleMutator, json_bytes, pack, unpack
from tools.fuzz.gguf import damage
from tools.fuzz.json import JsonMutator, Words
from tools.fuzz.oracle import Files, Target, memory_folder

_ROWS, _PATCH = "rows.json", "patch"  # a patch: an offset (4 bytes), and the bytes to write there
_COMPANIONS = tuple(f"{FILE}{ending}" for ending in ("-journal", "-wal", "-shm"))
_NAMES = (_ROWS, _PATCH, *_COMPANIONS)
_COLUMNS = ("lam", "type", "kind", "name", "n_items", "inputs", "environment", "started", "seconds", "summary")
_JSON_COLUMNS = ("inputs", "environment", "summary")
_LOG = b"\x37\x7f\x06\x82" + (3007000).to_bytes(4, "big") + (4096).to_bytes(4, "big")
_WORDS = Words(
    (*_COLUMNS, "facts", "cells", "items", "key", "raw", "pair", "cells", "kept", "schedule", "seed", "limit", "lams",
     "types", "tasks", "parameters", "date", "system", "template_args", "base", "instruct", "identity", "work", "spec",
     "shots", "header", "area", "majority", "chance", "value", "stderr", "n", "metric", "metrics", "acc", "instruction",
     "output", "ended", "followed", "preference", "remarks", "truncated", "followed"),
    ("#0", "#1", "#2", ["#0"], {"#0": ["another date"]}, "task", "follow", "answers", "wins", 0, 1, 0.5, 1.5, 2, -1,
     1e6, 1e308, "F16", True, None, "2026-02-28", {"raw": "NaN"}, {"raw": "[1"}, {"metric": "acc", "metrics": {}},
     {"metric": "acc", "metrics": {"acc": 1}}, ["#1", 0, {"preference": 1.5}]),
)  # fmt: skip


def _cell(lam: float, kind: str, name: str, n: int, value: float) -> dict[str, Any]:
    inputs = {"base": "a1", "instruct": "b2", "identity": "c3", "header": {"general.name": "uint32 3"},
              "work": {"spec": "d4", "shots": 2, "date": "2026-01-01"}}  # fmt: skip
    summary = {"n": n, "value": value, "stderr": 0.1, "area": "facts", "majority": 0.4, "chance": 0.25,
               "clusters": [0] * n, "metrics": {"acc_norm": {"value": 0.0, "stderr": 0.1}}}  # fmt: skip
    return dict(zip(_COLUMNS, (lam, "F16", kind, name, n, inputs, {"numpy": "2"}, 1e9, 2.5, summary), strict=True))


def _records(kind: str) -> list[dict[str, Any]]:
    answer = {"instruction": "Say yes.", "output": "yes", "ended": True}
    records: dict[str, list[dict[str, Any]]] = {
        "task": [{"metric": "acc", "metrics": {"acc": 1.0, "acc_norm": 0.0}, "output": "x"},
                 {"metric": "acc", "metrics": {"acc": 0.0, "acc_norm": 0.0}, "remarks": ["a smaller batch"]}],
        "follow": [{**answer, "followed": True}, {**answer, "followed": None}],
        "answers": [answer, {**answer, "output": ""}],
        "wins": [{"preference": 1.5}, {"preference": None}],
    }  # fmt: skip
    return records[kind]


def _rows(kinds: Sequence[str], lams: Sequence[float] = (0.0, 1.0)) -> dict[str, Any]:
    """Return the tables of a study; `#0` stands for the key of the first cell."""
    which = [(lam, kind) for lam in lams for kind in kinds]
    cells = [_cell(lam, kind, f"{kind}s", 2, 0.5) for lam, kind in which]
    facts = {"pair": "demo", "cells": [f"#{i}" for i in range(len(cells))], "kept": {"#0": ["another date"]},
             "schedule": "", "seed": 0, "limit": None, "parameters": 5, "lams": list(lams), "types": ["F16"],
             "tasks": ["tasks"], "date": "2026-01-01", "system": "Be brief.",
             "template_args": {"think": False}}  # fmt: skip
    items = [[f"#{i}", k, r] for i, (_, kind) in enumerate(which) for k, r in enumerate(_records(kind))]
    return {"facts": facts, "cells": cells, "items": items}


def _seeds() -> list[bytes]:
    whole = json_bytes(_rows(("task", "follow")))
    return [
        pack({_ROWS: whole}, _NAMES),
        pack({_ROWS: json_bytes(_rows(("task", "follow", "answers", "wins"), (0.0, 0.5, 1.0)))}, _NAMES),
        pack({_ROWS: json_bytes({"facts": {}, "cells": [], "items": []})}, _NAMES),
        pack({_ROWS: whole, _PATCH: (5000).to_bytes(4, "big") + b"\xff\xff"}, _NAMES),
        pack({_ROWS: whole, **{name: _LOG + bytes(60) for name in _COMPANIONS[1:2]}}, _NAMES),
        pack({_ROWS: whole, _COMPANIONS[0]: b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(60)}, _NAMES),
    ]


def _files(data: bytes) -> Files:
    """Return the files of a run folder; rows that are not a table of tables are used as the results file itself."""
    parts = unpack(data, _NAMES)
    found = {name: content for name, content in parts.items() if name in _COMPANIONS}
    if _ROWS in parts:
        try:
            content = _database(json.loads(parts[_ROWS]))
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError, sqlite3.Error):
            content = parts[_ROWS]
        patch = parts.get(_PATCH, b"")
        at = int.from_bytes(patch[:4], "big") % (len(content) + 1)
        found[FILE] = content[:at] + patch[4:] + content[at + len(patch[4:]) :]
    return found


def _database(tables: Any) -> bytes:
    """Return a results file with these rows, valid or not."""
    cells = [{**cell} for cell in tables["cells"]]
    keys = [cell.get("key", _key(cell)) for cell in cells]

    def text(value: Any) -> Any:
        """Return what is stored for a value: JSON unless it is a number, with keys replaced."""
        raw = value["raw"] if isinstance(value, dict) and list(value) == ["raw"] else json.dumps(value)
        for i in reversed(range(len(keys))):
            raw = str(raw).replace(f"#{i}", str(keys[i]))
        return str(raw).encode("utf-8", "surrogatepass")

    def scalar(value: Any) -> Any:
        if isinstance(value, (int, float)) and (isinstance(value, float) or -(2**63) <= value < 2**63):
            return value
        return None if value is None else text({"raw": value} if isinstance(value, str) else value)

    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        path = Path(folder, FILE)
        with path.open("wb") as file:
            fill(file)
        with closing(sqlite3.connect(path)) as c, c:
            c.execute("PRAGMA synchronous = OFF")
            as_text = "CASE typeof(?{0}) WHEN 'blob' THEN CAST(?{0} AS TEXT) ELSE ?{0} END"

            def insert(table: str, values: Sequence[Any]) -> None:
                marks = ", ".join(as_text.format(i + 1) for i in range(len(values)))
                c.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)

            for name, value in tables["facts"].items():
                insert("facts", (scalar(name), text(value)))
            for cell, key in zip(cells, keys, strict=True):
                json_columns = {name: text(cell[name]) for name in _JSON_COLUMNS if cell.get(name) is not None}
                insert("cells", (scalar(key), *(json_columns.get(n, scalar(cell.get(n))) for n in _COLUMNS)))
            for cell, number, record in tables["items"]:
                insert("items", (scalar(cell), scalar(number), text(record)))
        with closing(sqlite3.connect(path)) as c:
            c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


def _key(cell: dict[str, Any]) -> str:
    return Cell(**{name: cell.get(name) for name in _COLUMNS[:6]}).key  # type: ignore[arg-type]


def _read(folder: Path) -> None:
    with read_store(folder) as store:
        study = load_study(store)
        json.dumps(to_document(study), allow_nan=False)
        to_csv(item_rows(store))
        for lam in study.curves.lams:
            json.dumps(lm_eval_document(store, study.type, lam))


def _mutate_patch(data: bytes, random: Random) -> bytes:
    """Return a patch at another offset, mostly in the first pages, or with other bytes."""
    if random.random() < 0.5:
        at = random.choice((random.randrange(100), random.randrange(4096), random.randrange(1 << 16)))
        return at.to_bytes(4, "big") + (data[4:] or b"\xff")
    return damage(data, random)


TARGETS = (
    Target("runs", "run folders", _files, _read,
           BundleMutator({_ROWS: JsonMutator(_WORDS), _PATCH: _mutate_patch, **dict.fromkeys(_COMPANIONS, damage)}),
           _seeds, longest=1 << 13, private=True),
)  # fmt: skip
