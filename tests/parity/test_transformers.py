"""llama.cpp on the merged GGUF computes the same as transformers on the interpolated state dict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.model_reference import open_model
from pa_lite.engine.scoring import make_requests, score_requests
from pa_lite.tasks.prompts import build_items
from pa_lite.tasks.spec import find_tasks
from tests.engine.test_model import NASTY

pytestmark = pytest.mark.parity
EXACT = EngineOptions(threads=1, flash_attention=False, cache_type="F32")
TEXT = "- Kani -> Rome\n- Goro -> Oslo\nWhat is the job of Kani? A robin is a bird, and so on: 12."


def reference(pair: Pair, lam: float) -> tuple[Any, Any]:
    """Return transformers' float32 model with the interpolated state dict, and its tokenizer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    load = transformers.AutoModelForCausalLM.from_pretrained
    base, instruct = (load(path, dtype=torch.float32) for path in (pair.base, pair.instruct))
    other = base.state_dict()
    mixed = {name: (1 - lam) * other[name] + lam * value for name, value in instruct.state_dict().items()}
    instruct.load_state_dict(mixed)
    return instruct.eval(), transformers.AutoTokenizer.from_pretrained(pair.instruct)


def logits(model: Model, tokens: list[int]) -> Any:
    with model.context(len(tokens)) as context:
        context.decode(tokens, range(len(tokens)), [0] * len(tokens), [0] * len(tokens), [True] * len(tokens))
        return np.stack([context.logits(i).copy() for i in range(len(tokens))]).astype(np.float64)


def test_logits_and_tokens(demo_pair: Pair) -> None:
    torch = pytest.importorskip("torch")
    net, tokenizer = reference(demo_pair, 0.7)
    with open_model("demo@0.7", EXACT, "F32") as model:
        for text in (TEXT, NASTY):
            assert model.tokenize(text, parse_special=True) == tokenizer(text)["input_ids"]
        tokens = model.tokenize(TEXT)
        ours = logits(model, tokens)
    with torch.no_grad():
        theirs = net(torch.tensor([tokens])).logits[0].double().numpy()
    cosine = (ours * theirs).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(theirs, axis=-1)
    assert cosine.min() > 0.9999
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()
    assert np.abs(ours - theirs).max() < 1e-3


def test_few_shot_scores(demo_pair: Pair) -> None:
    """Loglikelihoods of the demo's choices from shared prefixes equal those of the whole prompts in transformers."""
    torch = pytest.importorskip("torch")
    net, _ = reference(demo_pair, 0.4)
    items = [i for name in ("demo_kind", "demo_labels") for i in build_items(find_tasks([name])[0], limit=5)]
    with open_model("demo@0.4", EXACT, "F32") as model:
        requests = [r for i in items for r in make_requests(model, i.prompt, i.continuations)]
        ours = [s.logprob for s in score_requests(model, requests)]
    theirs = []
    with torch.no_grad():
        for r in requests:
            rows = torch.log_softmax(net(torch.tensor([r.tokens])).logits[0].double(), -1)
            theirs.append(sum(float(rows[j - 1, r.tokens[j]]) for j in range(r.n_context, len(r.tokens))))
    assert ours == pytest.approx(theirs, abs=1e-3)


TURNS = [
    "What is the job of Kani?",
    "  two\n\nlines \t",
    "\n",
    "größe 日本語 🚀",
    "a <|im_en",
    "{{ bos_token }}",
    "'ll do\r\n",
]


@pytest.mark.parametrize("system", ["", "Be brief.\n"])
def test_chat_prompts(demo_pair: Pair, system: str) -> None:
    """Our chat prompts equal apply_chat_template's, token for token: one BOS, where the template has it."""
    from pa_lite.engine.chat import chat_prompts
    from pa_lite.engine.chat_options import ChatOptions

    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_pair.instruct)
    with open_model("demo@1", EXACT) as model:
        assert_chat_prompts(tokenizer, TURNS, system, chat_prompts(model, TURNS, ChatOptions(system=system)).tokens)


def assert_chat_prompts(tokenizer: Any, turns: list[str], system: str, got: Sequence[Sequence[int]]) -> None:
    first = [{"role": "system", "content": system}] if system else []
    for turn, tokens in zip(turns, got, strict=True):
        messages = [*first, {"role": "user", "content": turn}]
        assert (
            list(tokens)
            == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        )


def test_config_of_the_embedded_pair_says_llama(demo_pair: Pair) -> None:
    for folder in demo_pair.folders:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        assert config["architectures"] == ["LlamaForCausalLM"]
