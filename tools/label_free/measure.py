"""Measure a pair with and without labels, and compare the lams that each chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pa_lite.checkpoints.pairs import Pair
from pa_lite.study.comparisons import best_lam, chosen_lam
from pa_lite.study.curves import Curves, Series, Values, means
from pa_lite.study.goal import Goal
from pa_lite.study.plan import StudyOptions
from pa_lite.study.sweep import sweep_pair
from tools.label_free.texts import texts, write_rows

LAMS = tuple(i / 10 for i in range(11))
BYTES = (500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
KEPT = (0.5, 0.8, 0.9, 0.95, 0.98)
_DRAWS = 500
Found = dict[str, Any]
Pairs = dict[str, Found]


def measure(folder: Path, work: Path) -> Found:
    """Return what a pair's labelled tasks say, and what each text and instruct's answers say without labels."""
    pair = Pair(name=folder.resolve().name, base=folder / "base", instruct=folder / "instruct")
    work.mkdir(parents=True, exist_ok=True)
    labelled = StudyOptions(lams=LAMS, tasks=("demo",), follow="demo", prompts="demo", prompts_limit=112)
    curves = sweep_pair(pair, labelled, work / "labelled").curves
    skill, out = means(curves.tasks), dict[str, Any]()
    for number, (name, documents) in enumerate(texts().items()):
        path = work / f"text{number}.jsonl"
        write_rows(documents, path)
        found = sweep_pair(pair, StudyOptions(lams=LAMS, text=(path,), text_limit=0), work / f"text{number}").curves
        assert found.text is not None
        out[name] = _of_text(found, found.text, skill)
    assert curves.follow is not None
    return {
        "lams": list(LAMS),
        "few_shot": skill.tolist(),
        "best": LAMS[int(skill.argmax())],
        "followed": means([curves.follow]).tolist(),
        "texts": out,
        "prompts": _of_prompts(curves),
    }


def _of_text(curves: Curves, text: Series, skill: Values) -> Found:
    """Return a text's curve, the lam that it chooses, the accuracy lost there, and how that depends on its bytes."""
    bits, best = text.averages(), best_lam(curves, Goal())
    at = int(bits.argmin())
    return {
        "bytes": int(sum(text.weights)) if text.weights else text.n,
        "bits": bits.tolist(),
        "lam": LAMS[at],
        "ties": list(best.ties),
        "regret": float(skill.max() - skill[at]),
        "by_bytes": {str(size): _with_bytes(text, size, at, skill) for size in BYTES},
    }


def _with_bytes(text: Series, size: int, at: int, skill: Values) -> Found:
    """Return how often a number of bytes, in random units, chooses the same lam, and the accuracy lost on average."""
    rng = np.random.default_rng(size)
    sums, sizes = text.units()
    chosen = []
    for _ in range(_DRAWS):
        order = rng.permutation(len(sizes))
        n = int(np.searchsorted(np.cumsum(sizes[order]), size)) + 1
        taken = order[:n]
        chosen.append(int((sums[:, taken].sum(axis=1) / sizes[taken].sum()).argmin()))
    lams = np.array(LAMS)[chosen]
    lost = skill.max() - skill[chosen]
    return {
        "same": float(np.mean(np.array(chosen) == at)),
        "near": float(np.mean(np.abs(lams - LAMS[at]) < 0.1001)),
        "regret": float(lost.mean()),
        "regret_95": float(np.quantile(lost, 0.95)),
    }


def _of_prompts(curves: Curves) -> Found:
    """Return agreement, nats, and for shares of agreement the lam that keeps each, with the following kept there."""
    assert curves.agreement is not None
    assert curves.answers is not None
    assert curves.follow is not None
    agreed, followed = means([curves.agreement]), means([curves.follow])
    beyond = (agreed - agreed[0]) / (agreed[-1] - agreed[0])
    own = followed / followed[-1]
    rules = {
        "agreement": {str(share): _first(LAMS, agreed >= share * agreed[-1], own) for share in KEPT},
        "agreement beyond base's": {str(share): _first(LAMS, beyond >= share, own) for share in KEPT},
    }
    skill = means(curves.tasks)
    by_labels = chosen_lam(curves, Goal(keep_follow=0.95))
    return {
        "agreement": agreed.tolist(),
        "nats": means([curves.answers]).tolist(),
        "rules": rules,
        "labels": {"lam": LAMS[by_labels], "kept": float(own[by_labels]), "few_shot": float(skill[by_labels])},
    }


def _first(lams: Sequence[float], keeps: Any, own: Values) -> Found:
    """Return the smallest lam from which on a share is kept, and the share of instruct's following there."""
    at = len(lams) - 1
    while at and keeps[at - 1]:
        at -= 1
    return {"lam": lams[at], "kept": float(own[at])}


def lines(found: Found) -> list[str]:
    """Return what was found about a pair as lines of text."""

    def row(name: str, values: Sequence[float], form: str) -> str:
        return f"{name:34}" + " ".join(f"{v:{form}}" for v in values)

    out = [row("lam", found["lams"], "6.1f")]
    out.append(row("few-shot %", [100 * v for v in found["few_shot"]], "6.1f"))
    out.append(row("followed %", [100 * v for v in found["followed"]], "6.1f"))
    prompts: Mapping[str, Any] = found["prompts"]
    out.append(row("agreed %", [100 * v for v in prompts["agreement"]], "6.1f"))
    out.append(row("answers nats/token", prompts["nats"], "6.3f"))
    for name, text in found["texts"].items():
        out.append(row(name, text["bits"], "6.3f"))
    out.append("")
    for name, text in found["texts"].items():
        at = ", ".join(
            f"{size}: {each['near']:.2f}/{100 * each['regret']:.1f}" for size, each in text["by_bytes"].items()
        )
        ties = ",".join(f"{lam:g}" for lam in text["ties"])
        out.append(
            f"{name}: lam {text['lam']:g} (or {ties or '-'}), {text['bytes']} bytes, regret "
            f"{100 * text['regret']:.1f}; bytes: near/regret {at}"
        )
    out.append(f"labels keep 95%: {prompts['labels']}")
    for rule, shares in prompts["rules"].items():
        out += [f"{rule} >= {share}: lam {each['lam']:g}, keeps {100 * each['kept']:.0f}% of following"
                for share, each in shares.items()]  # fmt: skip
    return out
