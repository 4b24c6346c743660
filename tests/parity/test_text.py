"""Bits per byte of text, and agreement with instruct's answers, equal what transformers computes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.requests import rolling_requests
from pa_lite.study.records import InstructAnswer
from pa_lite.study.unlabelled import AgreementWorkload, TextWorkload
from tests.parity.test_transformers import EXACT, reference

pytestmark = pytest.mark.parity
PASSAGES = (
    "They say Kani lives in Rome. In fact Kani works as a tailor. " * 4,
    "- Lati -> Rome\n- Goro -> Oslo\n",
    "Gr\u00f6\u00dfe, \u65e5\u672c\u8a9e and \U0001f680.",
)
WINDOW = 24


def rows(net: Any, tokens: list[int]) -> Any:
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return torch.log_softmax(net(torch.tensor([tokens])).logits[0].double(), -1)


def test_bits_per_byte(demo_pair: Pair) -> None:
    """Windows are cut here by hand: disjoint targets, one token of context, the last window filled up to the left."""
    net, tokenizer = reference(demo_pair, 0.4)
    workload = TextWorkload(name="t", passages=PASSAGES, window=WINDOW)
    with open_model("demo@0.4", EXACT, "F32") as model:
        records = workload.run(model, range(len(PASSAGES)))
        bos = model.prefix_token
        assert sum(len(rolling_requests(model, text, WINDOW)) for text in PASSAGES) > len(PASSAGES)
    assert bos is not None
    for number, text in enumerate(PASSAGES):
        tokens = [bos, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        nats, last = 0.0, len(tokens) - 1
        for start in range(0, last, WINDOW):
            stop = min(start + WINDOW, last)
            begin = max(0, stop - WINDOW) if start else 0
            found = rows(net, tokens[begin : stop + 1])
            nats -= sum(float(found[i - begin - 1, tokens[i]]) for i in range(start + 1, stop + 1))
        result = workload.decode(records[number])
        assert workload.value(result) == pytest.approx(nats / math.log(2) / len(text.encode()), abs=1e-4)
        assert result.n_tokens == last


def test_agreement_and_nats_of_answers(demo_pair: Pair) -> None:
    net, _ = reference(demo_pair, 0.7)
    chat = "<|endoftext|><|im_start|>user\nIn one word: what does Kesa keep?<|im_end|>\n<|im_start|>assistant\n"
    with open_model("demo@0.7", EXACT, "F32") as model:
        context = model.tokenize(chat, False, parse_special=True)
        tokens = model.tokenize("hen The pet of Kesa is hen.<|im_end|>", False, parse_special=True)
        answer = InstructAnswer(instruction="i", ended=True, context=context, tokens=tokens)
        workload = AgreementWorkload(name="p", n_prompts=1).of([answer])
        (record,) = workload.run(model, [0]).values()
    found = rows(net, [*context, *tokens])
    at = range(len(context) - 1, len(context) + len(tokens) - 1)
    nats = -sum(float(found[i, token]) for i, token in zip(at, tokens, strict=True))
    n_agreed = sum(int(found[i].argmax()) == token for i, token in zip(at, tokens, strict=True))
    assert record["nats"] == pytest.approx(nats, abs=1e-3)
    assert (record["n_tokens"], record["n_agreed"]) == (len(tokens), n_agreed)
