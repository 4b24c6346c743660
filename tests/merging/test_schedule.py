from __future__ import annotations

from pathlib import Path

import pytest

from pa_lite.errors import InputError
from pa_lite.merging.groups import GROUPS, group_of, layer_of
from pa_lite.merging.schedule import parse_schedule


def lam(text: str, name: str, n_layers: int = 16) -> float:
    return parse_schedule(text).lam_of(name, 0.5, n_layers)


@pytest.mark.parametrize(
    ("name", "group", "layer"),
    [
        ("token_embd.weight", "embeddings", None),
        ("output.weight", "output", None),
        ("output_norm.weight", "norms", None),
        ("blk.3.attn_norm.weight", "norms", 3),
        ("blk.12.attn_q.weight", "attention", 12),
        ("blk.0.attn_q_norm.weight", "norms", 0),
        ("blk.0.ffn_down_exps.weight", "ffn", 0),
        ("rope_freqs.weight", "other", None),
    ],
)
def test_group_and_layer_of_a_name(name: str, group: str, layer: int | None) -> None:
    assert (group_of(name), layer_of(name)) == (group, layer)
    assert group in GROUPS


def test_the_last_rule_that_matches_decides() -> None:
    text = "attention: 0.4; layers 0-7: 0.2; ffn layers 8-15: 0.9; norms: 1"
    assert lam(text, "blk.9.attn_q.weight") == 0.4
    assert lam(text, "blk.3.attn_q.weight") == 0.2
    assert lam(text, "blk.9.ffn_up.weight") == 0.9
    assert lam(text, "blk.3.attn_norm.weight") == 1.0
    assert lam(text, "output_norm.weight") == 1.0
    assert lam(text, "token_embd.weight") == 0.5
    assert lam("layers 3: 0", "blk.3.ffn_up.weight") == 0.0
    assert lam("layers 3: 0", "blk.4.ffn_up.weight") == 0.5


def test_a_list_is_interpolated_over_depth() -> None:
    got = [lam("layers: [0, 1, 0.5]", f"blk.{i}.attn_q.weight", 5) for i in range(5)]
    assert got == pytest.approx([0, 0.5, 1, 0.75, 0.5])
    assert lam("layers: [0, 1]", "token_embd.weight") == 0.5
    got = [lam("ffn layers 4-6: [0.2, 0.4]", f"blk.{i}.ffn_up.weight") for i in range(3, 8)]
    assert got == pytest.approx([0.5, 0.2, 0.3, 0.4, 0.5])


def test_toml_gives_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        '[[rules]]\ngroup = "attention"\nlam = 0.4\n[[rules]]\nlayers = "0-7"\nlam = [0.2, 0.8]\n'
        '[[rules]]\ngroup = "norms"\nlayers = "3"\nlam = 1\n',
        "utf-8",
    )
    one, two = parse_schedule(str(path)), parse_schedule("attention: 0.4; layers 0-7: [0.2, 0.8]; norms layers 3: 1")
    assert one.rules == two.rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rules"),
        ("attention", "is not GROUP"),
        ("atention: 0.4", "unknown tensor group 'atention'. Did you mean attention"),
        ("attention 0-7: 0.4", "write 'layers'"),
        ("layers 7-3: 0.4", "end before they start"),
        ("layers 0-" + "9" * 5000 + ": 0.4", "is not GROUP"),
        ("layers: [0.1, 0.2", "bracket is missing"),
        ("layers: x", "'x' is not a number"),
        ("layers: 99", "outside"),
        ("no.toml", "cannot be read"),
    ],
)
def test_invalid_rules_are_rejected(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "is not TOML"),
        ("", r"there are no \[\[rules\]\]"),
        ("[[rules]]\nlam = 1\n[[rule]]\nlam = 0", "unknown key 'rule'. Did you mean rules"),
        ('[[rules]]\ngroup = "ffn"', "rule 1: has no 'lam'"),
        ('[[rules]]\nlam = "x"', "must be a number"),
        ("[[rules]]\nlam = 1\nlayer = 3", "unknown key 'layer'. Did you mean layers"),
        ('[[rules]]\nlam = 1\nlayers = "x"', "layers is 'x'"),
        ("[[rules]]\nlam = 30", "rule 1: lam 30 is outside"),
        ("[[rules]]\nlam = 0x" + "f" * 5000, "is not TOML: it has a number of 20000 bits"),
        ('[[rules]]\nlam = 1\nlayers = "' + "9" * 5000 + '"', "rule 1: layers is '9"),
    ],
)
def test_invalid_toml_is_rejected(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=message):
        parse_schedule(str(path))


def test_layers_that_the_model_lacks_are_rejected() -> None:
    parse_schedule("layers 0-15: 0.1").check(16)
    with pytest.raises(InputError, match="layers 0-16 do not exist: the model has layers 0-15"):
        parse_schedule("layers 0-16: 0.1").check(16)


def test_lams_of_the_first_and_last_layer_and_outside_the_layers() -> None:
    names = ["blk.1.attn_q.weight", "blk.0.attn_q.weight", "token_embd.weight"]
    schedule = parse_schedule("layers: [0, 1]")
    assert [schedule.lam_of(name, 0.7, 2) for name in names] == [1.0, 0.0, 0.7]
