"""The model card of a file that pa-lite made: origin, licence and lam from the file itself, and a study's curves."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.inspect import MergeFacts, licence_in, merge_facts
from pa_lite.errors import InputError
from pa_lite.ggml.container import read_gguf_header
from pa_lite.ggml.gguf_tables import Keys
from pa_lite.ggml.metadata import Metadata
from pa_lite.ggml.quant_types import FILE_TYPES
from pa_lite.sanitize import one_line
from pa_lite.sharing.modelfile import use_commands
from pa_lite.study.curves import averages
from pa_lite.study.report.matplotlib_charts import write_figure
from pa_lite.study.summary import StudySummary, conclusion
from pa_lite.system.atomic import check_target, write_text

CARD, PICTURE = "README.md", "curves.png"
_TAGS = ("gguf", "merge", "pa-lite", "partial-adaptation")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|])")
_HUB = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)", re.A)
_NAMED = re.compile(r"[a-z0-9][a-z0-9.-]*")  # a licence that the Hub knows by this name
_LINK = re.compile(r"https?://[^\s\"'<>]+|LICEN[CS]E(\.md|\.txt)?")
_PAPER = "*Improving Instruct Models for Free: A Study on Partial Adaptation* ([arXiv 2504.11626]" \
         "(https://arxiv.org/abs/2504.11626))"  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says of a file: the merge, name, weight type, licence, and both sides (name, id on the Hub or "")."""

    made: MergeFacts
    name: str
    type: str
    licence: str
    licence_link: str
    base: tuple[str, str]
    instruct: tuple[str, str]


def card_facts(gguf: Path) -> CardFacts:
    """Return the facts of a GGUF file. Raises InputError if pa-lite did not make it."""
    metadata = read_gguf_header(gguf).metadata
    made = merge_facts(metadata)
    if made is None:
        raise InputError(f"{gguf}: was not made by pa-lite, so nothing is known for its model card. Write it yourself.")
    number: Any = metadata.get("general.file_type")
    types = {at: name for name, at in FILE_TYPES.items()}
    sides = [(_text(metadata, Keys.General.BASE_MODEL_NAME.format(id=i)), _repository(metadata, i)) for i in (0, 1)]
    return CardFacts(
        made=made, name=_text(metadata, Keys.General.NAME) or gguf.stem,
        type=types.get(number.value, "") if number is not None else "", licence=licence_in(metadata),
        licence_link=_text(metadata, Keys.General.LICENSE_LINK), base=sides[0], instruct=sides[1],
    )  # fmt: skip


def write_card(
    gguf: Path, folder: Path | None, study: StudySummary | None = None, commands: str = "", force: bool = False,
    more: str = "",
) -> Path:  # fmt: skip
    """Write the card of a GGUF file as README.md in a folder, by default the file's own, and with a study its curves.

    `more` is a section of Markdown that comes before these. Returns the card's path. Raises PaLiteError.
    """
    target = (gguf.parent if folder is None else folder) / CARD
    facts = card_facts(gguf)
    check_target(target, force)
    if study is not None:
        check_target(target.with_name(PICTURE), force)
        write_figure(study, target.with_name(PICTURE))
    write_text(target, card_text(gguf, facts, study, commands, more))
    return target


def card_text(
    gguf: Path, facts: CardFacts, study: StudySummary | None = None, commands: str = "", more: str = ""
) -> str:
    """Return the text of a card; `commands` are those that made the file, by default the merge."""
    from huggingface_hub import ModelCard, ModelCardData

    ids = [identifier for _, identifier in (facts.base, facts.instruct) if identifier]
    data = ModelCardData(
        base_model=ids or None, base_model_relation="merge" if ids else None, tags=list(_TAGS),
        pipeline_tag="text-generation", **_licence(facts),
    )  # fmt: skip
    parts = [
        _about(gguf, facts),
        *([more] if more else []),
        *([_found(study)] if study is not None else []),
        _use(gguf, facts, commands),
    ]
    template = "---\n{{ card_data }}\n---\n\n{{ body }}\n"
    return str(ModelCard.from_template(data, template_str=template, body="\n\n".join(parts)))


def _licence(facts: CardFacts) -> dict[str, str]:
    """Return the card's keys for the licence: its name if the Hub may know it, else `other`."""
    text = facts.licence.removeprefix("other, ")
    if not text:
        return {}
    link = {"license_link": facts.licence_link} if _LINK.fullmatch(facts.licence_link) else {}
    if _NAMED.fullmatch(text):
        return {"license": text} if text == facts.licence else {"license": "other", "license_name": text, **link}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:90], **link}


def _about(gguf: Path, facts: CardFacts) -> str:
    made, base, instruct = facts.made, _linked(*facts.base), _linked(*facts.instruct)
    rows = [
        ("base", base), ("instruct", instruct), ("lam", f"{made.lam:g}"), ("schedule", f"`{_code(made.schedule)}`"),
        ("file", f"`{_code(gguf.name)}`, {gguf.stat().st_size / 1e6:.1f} MB{f', {facts.type}' if facts.type else ''}"),
        ("licence", _plain(facts.licence) or "not named by the checkpoints: see theirs"),
        ("made with", f"pa-lite {_plain(made.version)}"),
    ]  # fmt: skip
    shown = [(key, value) for key, value in rows if key != "schedule" or made.schedule]
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown)])
    return (
        f"# {_plain(facts.name)}\n\n{instruct}, moved part of the way back to its base model {base}: "
        f"`M(lam) = base + lam * (instruct - base)` at lam {made.lam:g}. Lam 0 is the base model, lam 1 the instruct "
        f"model; in between, some instruction following is given up for few-shot skill. Method: {_PAPER}.\n\n{table}"
    )


def _found(study: StudySummary) -> str:
    """Return the section about what a study found: its conclusion, the curves and their values."""
    shown = averages(study.curves)
    columns = ["lam", *(text for each in shown for text in (each.measure.column, "s.e."))]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for i, lam in enumerate(study.curves.lams):
        values = [100 * x for a in shown for x in (a.estimates[i].value, a.estimates[i].stderr)]
        lines.append(f"| {' | '.join([f'{lam:g}', *(f'{value:.1f}' for value in values)])} |")
    remarks = [f"Note: {_plain(remark)}" for remark in study.remarks]
    return "\n\n".join([
        "## Along lam", _plain(conclusion(study.curves)), f"![curves along lam]({PICTURE})", "\n".join(lines),
        f"Measured with weights as {_plain(study.type)}.", *remarks,
    ])  # fmt: skip


def _use(gguf: Path, facts: CardFacts, commands: str) -> str:
    programs = "\n".join(use_commands(Path(gguf.name)).values())
    sides = " ".join(
        identifier or shlex.quote(one_line(f"./{name}")) for name, identifier in (facts.base, facts.instruct)
    )
    schedule = f" --schedule {shlex.quote(one_line(facts.made.schedule))}" if facts.made.schedule else ""
    made = commands or (
        f"pa-lite merge {sides} --lam {facts.made.lam:g}{schedule}{f' --type {facts.type}' if facts.type else ''}"
    )
    return f"## Use it\n\n```sh\n{programs}\n```\n\n## Make it again\n\n```sh\n{made}\n```"


def _repository(metadata: Metadata, side: int) -> str:
    found = _HUB.fullmatch(_text(metadata, Keys.General.BASE_MODEL_REPO_URL.format(id=side)))
    return found[1] if found else ""


def _text(metadata: Metadata, key: str) -> str:
    entry = metadata.get(key)
    return one_line(str(entry.value)) if entry is not None and entry.type == "STRING" else ""


def _linked(name: str, identifier: str) -> str:
    return f"[{_plain(identifier)}](https://huggingface.co/{identifier})" if identifier else _plain(name) or "unnamed"


def _plain(text: str) -> str:
    """Return untrusted text on one line, without the meaning that its characters have in Markdown and HTML."""
    return _MARKUP.sub(r"\\\1", one_line(text))


def _code(text: str) -> str:
    """Return untrusted text for a code span in a table."""
    return one_line(text).replace("`", "'").replace("|", "/")
