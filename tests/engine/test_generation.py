"""Batched generation against its slow twin: each prompt alone, decoded from the start for every token."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.engine import context_memory, scheduler
from pa_lite.engine.answer_text import Generation, StopText
from pa_lite.engine.context import Context
from pa_lite.engine.context_memory import ContextSize, needs
from pa_lite.engine.generation import GenerationOptions, generate
from pa_lite.engine.model import EngineOptions, Model
from pa_lite.engine.sampling import draw
from pa_lite.errors import EngineError, InputError
from tests.engine.test_sliding_window import gemma  # noqa: F401 - a fixture
from tests.support.reports import Reports

EXACT = EngineOptions(threads=1, flash_attention=False, cache_type="F32")
TEXTS = (
    "a",
    "the man in the hat and another",
    "x" * 40,
    "on",
    "一二三",
    "the",
    "the man in the hat and another one",
    "on",
)


def options_of(n_batch: int) -> EngineOptions:
    return EngineOptions(threads=1, flash_attention=False, cache_type="F32", n_batch=n_batch)


def alone(model: Model, prompt: Sequence[int], options: GenerationOptions, index: int = 0) -> Generation:
    """Generate from one prompt on a separate context, decoding everything again for each token."""
    out: list[int] = []
    rng = np.random.default_rng((options.seed, index))
    while True:
        tokens = [*prompt, *out]
        with model.context(512) as context:
            for begin in range(0, len(tokens), context.n_batch):
                part = tokens[begin : begin + context.n_batch]
                positions = range(begin, begin + len(part))
                context.decode(part, positions, [0] * len(part), [0] * len(part), [True] * len(part))
            logits = context.logits(len(part) - 1)
            if options.temperature == 0:
                token = int(logits.argmax())
            else:
                token = draw(logits, options.temperature, options.top_k, options.top_p, options.min_p, rng.random())
        raw = b"".join(map(model.piece, out))
        if model.is_end(token):
            return Generation(
                text=raw.decode("utf-8", "replace").rstrip("�"), n_tokens=len(out), ended=True, reason="end"
            )
        out.append(token)
        raw += model.piece(token)
        ends = [at for s in options.stop if (at := raw.find(s.encode())) >= 0]
        if ends or len(out) == options.max_tokens:
            text = raw[: min(ends, default=len(raw))].decode("utf-8", "replace")
            return Generation(
                text=text.rstrip("�"), n_tokens=len(out), ended=False, reason="stop" if ends else "length"
            )


def trimmed(result: Generation) -> Generation:
    """Return a result without U+FFFD at the end: the twin writes it for an incomplete last character, too."""
    return Generation(text=result.text.rstrip("�"), n_tokens=result.n_tokens, ended=result.ended, reason=result.reason)


SAMPLED = GenerationOptions(max_tokens=12, temperature=0.9, top_p=0.95, min_p=0.01, top_k=50, seed=3)


@pytest.mark.parametrize("parallel", [1, 3, 16])
@pytest.mark.parametrize("n_batch", [8, 512])
@pytest.mark.parametrize("base", [GenerationOptions(max_tokens=12), SAMPLED], ids=["greedy", "sampled"])
def test_generation_agrees_with_the_slow_twin(
    tiny_ggufs: dict[str, Path], parallel: int, n_batch: int, base: GenerationOptions
) -> None:
    options = GenerationOptions(**{**vars(base), "parallel": parallel})
    seen = Reports()
    done: dict[int, Generation] = {}
    with Model(tiny_ggufs["F32"], options_of(n_batch)) as model:
        prompts = [model.tokenize(t) for t in TEXTS]
        got = generate(model, prompts, options, seen, done.__setitem__)
    with Model(tiny_ggufs["F32"], EXACT) as model:
        assert list(map(trimmed, got)) == [alone(model, p, options, i) for i, p in enumerate(prompts)]
    counts = {unit: [done for _, done, _, own in seen if own == unit] for unit in ("answers", "tokens")}
    assert counts["answers"] == sorted(set(counts["answers"]))
    assert counts["tokens"] == sorted(counts["tokens"])
    assert seen[-1] == ("generate", 8, 8, "answers")
    assert [done[i] for i in range(8)] == got
    assert seen[-2] == ("generate", sum(g.n_tokens + g.ended for g in got), 0, "tokens")


@given(
    st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=40), min_size=1, max_size=12),
    st.integers(1, 5),
    st.sampled_from([5, 16, 512]),
    st.data(),
)
@settings(max_examples=12, deadline=None)
def test_random_prompts_with_shared_prefixes_agree_with_the_twin(
    tiny_ggufs: dict[str, Path], prompts: list[list[int]], parallel: int, n_batch: int, data: Any
) -> None:
    """Prompts from few tokens share prefixes in all ways, including equal prompts; each has its limit."""
    limits = data.draw(st.lists(st.integers(1, 9), min_size=len(prompts), max_size=len(prompts)))
    with Model(tiny_ggufs["F32"], options_of(n_batch)) as model:
        got = generate(model, prompts, GenerationOptions(parallel=parallel), limits=limits)
        twins = [alone(model, p, GenerationOptions(max_tokens=n)) for p, n in zip(prompts, limits, strict=True)]
    assert list(map(trimmed, got)) == twins


@pytest.mark.parametrize("n_batch", [6, 512])
def test_shared_prefixes_are_right_with_a_sliding_window(
    gemma: Path,  # noqa: F811
    n_batch: int,
) -> None:
    """Sequences grow far beyond a window of eight tokens, and are then cut to the prefix of the next prompt."""
    head = [5 + i % 40 for i in range(30)]
    prompts = [[*head[: 30 - 2 * i], 60 + i, 61, *head[:i]] for i in range(6)]
    with Model(gemma, options_of(n_batch)) as model:
        assert model.n_swa == 8
        got = generate(model, prompts, GenerationOptions(max_tokens=20, parallel=2))
        twins = [alone(model, p, GenerationOptions(max_tokens=20)) for p in prompts]
    assert list(map(trimmed, got)) == twins


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the sizes of all further batches."""
    sizes: list[int] = []
    original = Context.decode

    def decode(self: Context, tokens: Sequence[int], *rest: Any) -> None:
        sizes.append(len(tokens))
        original(self, tokens, *rest)

    monkeypatch.setattr(Context, "decode", decode)
    return sizes


def test_a_shared_prefix_is_decoded_once(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    head = [5 + i % 200 for i in range(100)]
    prompts = [[*head, 10 + i, 20] for i in range(9)]
    with Model(tiny_ggufs["F32"], EXACT) as model:
        sizes = decoded(monkeypatch)
        generate(model, prompts, GenerationOptions(max_tokens=1, parallel=3))
    assert sizes == [102, 3 * 2, 3 * 2, 2 * 2]


def test_a_long_prompt_does_not_delay_the_others(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """400 tokens in batches of 32: the short prompt gets a token from each batch and finishes first."""
    with Model(tiny_ggufs["F32"], options_of(32)) as model:
        sizes = decoded(monkeypatch)
        order: list[int] = []
        generate(model, [[9] * 400, [7, 8]], GenerationOptions(max_tokens=5), on_done=lambda i, _: order.append(i))
    assert order == [1, 0]
    assert max(sizes) == 32


def test_running_sequences_have_consecutive_ids(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp splits a batch at a gap."""
    rows: list[list[int]] = []
    original = Context.decode

    def decode(self: Context, tokens: Any, positions: Any, sequences: Any, *rest: Any) -> None:
        rows.append(list(sequences))
        original(self, tokens, positions, sequences, *rest)

    monkeypatch.setattr(Context, "decode", decode)
    prompts = [[10 + i] for i in range(6)]
    limits = [2, 30, 4, 30, 6, 30]
    with Model(tiny_ggufs["F32"], EXACT) as model:
        got = generate(model, prompts, limits=limits)
        monkeypatch.undo()
        twins = [alone(model, p, GenerationOptions(max_tokens=n)) for p, n in zip(prompts, limits, strict=True)]
    assert list(map(trimmed, got)) == twins
    assert all(r == list(range(len(r))) for r in rows)


def test_random_streams_do_not_depend_on_other_prompts(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        prompts = [model.tokenize(t) for t in TEXTS]
        whole = generate(model, prompts, SAMPLED)
        assert generate(model, prompts[5:2:-1], SAMPLED, streams=[5, 4, 3]) == whole[5:2:-1]
        assert generate(model, prompts, SAMPLED) == whole
        other = generate(model, prompts, GenerationOptions(**{**vars(SAMPLED), "seed": 4}))
        assert sum(a != b for a, b in zip(whole, other, strict=True)) >= 6
        assert whole[3] != whole[7]  # equal prompts at different indices


@pytest.mark.parametrize(("kind", "options", "bound"), [("F32", EXACT, 1e-4), ("F16", EngineOptions(threads=1), 0.03)])
def test_the_shape_of_a_batch_changes_logits_as_documented(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, options: EngineOptions, bound: float
) -> None:
    """Compare the logits of every step, with 1 and 16 prompts at a time, with generate's docstring."""
    rows: list[list[Any]] = []
    original = Context.logits

    def logits(self: Context, i: int) -> Any:
        view = original(self, i)
        rows[-1].append(view.copy())
        return view

    monkeypatch.setattr(Context, "logits", logits)
    with Model(tiny_ggufs[kind], options) as model:
        prompts = [model.tokenize(f"{t} {u}") for t in TEXTS for u in TEXTS[:2]]
        texts = []
        for parallel in (1, 16):
            rows.append([])
            texts.append(generate(model, prompts, GenerationOptions(max_tokens=1, parallel=parallel)))
    one, many = (sorted(map(tuple, r)) for r in rows)
    assert np.abs(np.array(one) - np.array(many)).max() < bound
    assert sum(a == b for a, b in zip(*texts, strict=True)) >= 15


def test_generation_ends_at_the_end_token(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The third token is declared an end token, so two tokens are left."""
    with Model(tiny_ggufs["F32"], EXACT) as model:
        prompt = model.tokenize("the man")
        made: list[int] = []
        piece = model.piece

        def watched(token: int) -> bytes:
            made.append(token)
            return piece(token)

        monkeypatch.setattr(model, "piece", watched)
        generate(model, [prompt], GenerationOptions(max_tokens=3))
        third = made[2]
        assert third not in made[:2]
        monkeypatch.setattr(model, "is_end", lambda token: token == third)
        (got,) = generate(model, [prompt], GenerationOptions(max_tokens=10))
        assert (got.n_tokens, got.ended, got.reason) == (2, True, "end")
        assert got.text == model.text(made[:2])


@given(
    st.text(st.sampled_from("ab|é🚀"), max_size=30),
    st.lists(st.text(st.sampled_from("ab|é🚀"), min_size=1, max_size=4), max_size=3),
    st.integers(0, 2**32),
)
def test_stop_strings_are_found_across_pieces(text: str, stops: list[str], seed: int) -> None:
    """The bytes arrive in random pieces that split characters; the twin searches the whole text."""
    raw, rng = text.encode(), random.Random(seed)
    grown, at, stopped = StopText(stops), 0, False
    while at < len(raw) and not stopped:
        n = rng.randint(1, 5)
        stopped = grown.add(raw[at : at + n])
        at += n
    # one piece may complete several stop strings; the earliest one counts
    ends = [found for s in stops if (found := text.encode()[:at].find(s.encode())) >= 0]
    assert stopped == bool(ends)
    assert grown.text() == raw[: min(ends, default=len(raw))].decode()


def test_incomplete_and_invalid_characters_are_handled() -> None:
    text = StopText(())
    for piece in (b"a\xff", "é".encode()[:1], "é".encode()[1:], "🚀".encode()[:3]):
        assert not text.add(piece)
    assert text.text() == "a�é"


def test_stop_strings_end_a_generation(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        prompts = [model.tokenize(t) for t in TEXTS]
        free = generate(model, prompts, GenerationOptions(max_tokens=20))
        stop = next(g.text[i : i + 2] for g in free for i in (3,) if "�" not in g.text[i : i + 2])
        options = GenerationOptions(max_tokens=20, stop=(stop, "never to come"))
        got = generate(model, prompts, options)
        assert {g.reason for g in got} >= {"stop"}
        for before, after in zip(free, got, strict=True):
            if stop in before.text:
                assert (after.text, after.reason, after.ended) == (before.text.split(stop)[0], "stop", False)
            else:
                assert after == before


def test_fewer_sequences_run_where_memory_is_short(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        prompts = [model.tokenize(t) for t in TEXTS]
        expected = generate(model, prompts, GenerationOptions(max_tokens=8))
        assert model.exact_cell_bytes == 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, their width, float32
        enough = (
            needs(
                model, ContextSize(n_ctx=3 * 256, n_seq_max=3, unified=False, n_batch=64, n_outputs=3, cache_type="F32")
            ).new
            / 0.9
            + 1
        )
        monkeypatch.setattr(context_memory, "available_memory", lambda: int(enough))
        assert generate(model, prompts, GenerationOptions(max_tokens=8)) == expected
        told = (
            "memory is enough for 3 sequences of 256 tokens (cache F32, batches of 64), "
            "not 8 sequences of 256 tokens (cache F32, batches of 512)"
        )
        assert told in caplog.text
        assert model.remarks == [told]
        monkeypatch.setattr(context_memory, "available_memory", lambda: 100_000)
        with pytest.raises(
            EngineError, match=r"no room for 1 sequence of 256 tokens .* needs 0\.1 MB of cache and 0\."
        ):
            generate(model, prompts, GenerationOptions(max_tokens=8))


def test_cache_and_batch_shrink_before_sequences_become_fewer(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(tiny_ggufs["F32"], EngineOptions(threads=1)) as model:
        prompts = [model.tokenize(t) for t in TEXTS]
        generate(model, prompts, GenerationOptions(max_tokens=8))
        for kind, n_batch in (("F16", 512), ("F16", 128)):
            enough = (
                needs(
                    model,
                    ContextSize(
                        n_ctx=8 * 256, n_seq_max=8, unified=False, n_batch=n_batch, n_outputs=8, cache_type=kind
                    ),
                ).new
                / 0.9
                + 1
            )
            monkeypatch.setattr(context_memory, "available_memory", lambda n=int(enough): n)
            generate(model, prompts, GenerationOptions(max_tokens=8))
            assert f"8 sequences of 256 tokens (cache {kind}, batches of {n_batch}), not" in model.remarks[-1]


def test_fewer_sequences_run_where_llama_cpp_refuses(
    tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU, whose free memory is not checked: llama.cpp refuses contexts with too many sequences."""
    original, asked, most = Model.context, list[int](), 2

    def context(self: Model, n_ctx: int, n_seq_max: int = 1, *more: Any, **named: Any) -> Any:
        asked.append(n_seq_max)
        if n_seq_max > most:
            raise EngineError("no room")
        return original(self, n_ctx, n_seq_max, *more, **named)

    with Model(tiny_ggufs["F32"], EXACT) as model:
        prompts = [model.tokenize(t) for t in TEXTS]
        expected = generate(model, prompts, GenerationOptions(max_tokens=8))
        monkeypatch.setattr(Model, "context", context)
        assert generate(model, prompts, GenerationOptions(max_tokens=8)) == expected
        assert asked == [8, 8, 8, 8, 4, 2]  # batches of 512, 256, 128, 64
        assert "memory is enough for 2 sequences of 256 tokens" in caplog.text
        most = 0
        with pytest.raises(EngineError, match="no room for 1 sequence of 256 tokens"):
            generate(model, prompts, GenerationOptions(max_tokens=8))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_stops_a_running_decode(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            begin = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                generate(model, [[5 + i % 200] * 60 for i in range(3000)], GenerationOptions(max_tokens=400))
            assert time.monotonic() - begin < 10  # the whole decode takes minutes
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, previous)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be a number from 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0, up to 1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"parallel": 257}, "parallel is 257; it must be from 1 to 256"),
        ({"stop": ("",)}, "stop string '' is empty"),
        ({"stop": ("\udcff",)}, "not valid Unicode"),
        ({"stop": (3,)}, "not valid Unicode"),
    ],
)
def test_options_out_of_range_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        GenerationOptions(**values)


def test_invalid_prompts_are_refused(tiny_ggufs: dict[str, Path]) -> None:
    with Model(tiny_ggufs["F32"], EXACT) as model:
        assert generate(model, []) == []
        with pytest.raises(InputError, match="prompt 2 has no tokens"):
            generate(model, [[5], []])
        with pytest.raises(InputError, match=r"prompt 1 has 500 tokens; with 20 new ones they exceed .*, 512 tokens"):
            generate(model, [[5] * 500], GenerationOptions(max_tokens=20))
        with pytest.raises(InputError, match="the token limit of prompt 1 is 0"):
            generate(model, [[5]], limits=[0])
        generate(model, [[5] * 500], limits=[12])


def test_a_small_cache_is_f32_and_a_large_one_f16(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    original, asked = Model.context, list[bool]()

    def context(self: Model, *args: Any, **named: Any) -> Any:
        asked.append(named["cache_type"] == "F32")
        return original(self, *args, **named)

    monkeypatch.setattr(Model, "context", context)
    with Model(tiny_ggufs["F16"], EngineOptions(threads=1)) as model:
        prompts = [model.tokenize(t) for t in TEXTS]
        generate(model, prompts, GenerationOptions(max_tokens=8))
        monkeypatch.setattr(scheduler, "EXACT_BYTES", len(prompts) * 256 * model.exact_cell_bytes - 1)
        generate(model, prompts, GenerationOptions(max_tokens=8))
    assert asked == [True, False]
