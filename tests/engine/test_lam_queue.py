"""Which request joins which model, and which model moves: examples, and fairness under random loads."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pa_lite.engine.lam_queue import LamQueue, ModelState


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def state(lam: float | None, is_idle: bool = True, used: float = 0.0, moving_to: float | None = None) -> ModelState:
    return ModelState(lam=lam, is_idle=is_idle, used=used, moving_to=moving_to)


def test_a_request_joins_the_model_at_its_lam() -> None:
    queue = LamQueue[str](1, Clock())
    queue.add("a", 0.3)
    queue.add("b", 0.5)
    decided = queue.decide([state(0.5, is_idle=False), state(0.3)])
    assert (list(decided.joins), list(decided.moves), len(queue)) == ([("a", 1), ("b", 0)], [], 0)


def test_the_model_idle_longest_moves() -> None:
    queue = LamQueue[str](1, Clock())
    queue.add("a", 0.3)
    models = [state(0.1, used=5), state(0.2, is_idle=False, used=1), state(0.4, used=3), state(0.6, used=4)]
    assert list(queue.decide(models).moves) == [(2, 0.3)]
    models[2] = replace(models[2], moving_to=0.3)
    assert list(queue.decide(models).moves) == []
    assert list(queue.decide([*models[:2], state(0.3), models[3]]).joins) == [("a", 2)]


def test_an_empty_place_is_filled_before_a_model_moves() -> None:
    queue = LamQueue[str](1, Clock())
    queue.add("a", 0.3)
    assert list(queue.decide([state(0.1, used=5), state(None)]).moves) == [(1, 0.3)]


def test_busy_models_are_waited_for_and_joined_only_for_a_while() -> None:
    clock = Clock()
    queue = LamQueue[str](2, clock)
    busy = [state(0.1, is_idle=False)]
    queue.add("other", 0.9)
    assert queue.decide(busy).moves == []
    clock.now = 2.0
    queue.add("soon", 0.1)
    assert list(queue.decide(busy).joins) == [("soon", 0)]
    clock.now = 2.1
    queue.add("late", 0.1)
    assert list(queue.decide(busy).joins) == []
    assert queue.items == ["other", "late"]
    assert list(queue.decide([state(0.1)]).moves) == [(0, 0.9)]
    assert list(queue.decide([state(0.9)]).joins) == [("other", 0)]


def test_nothing_joins_an_idle_model_that_another_request_claimed_first() -> None:
    queue = LamQueue[str](2, Clock())
    queue.add("other", 0.9)
    queue.add("old", 0.1)
    decided = queue.decide([state(0.1)])
    assert (list(decided.joins), list(decided.moves)) == ([], [(0, 0.9)])


def test_a_claim_goes_to_a_model_that_becomes_idle_first() -> None:
    queue = LamQueue[str](2, Clock())
    queue.add("a", 0.9)
    assert queue.decide([state(0.1, False, 1), state(0.2, False, 2)]).moves == []
    assert list(queue.decide([state(0.1, False, 1), state(0.2, True, 2)]).moves) == [(1, 0.9)]


def test_requests_can_be_removed() -> None:
    queue = LamQueue[str](2, Clock())
    for item, lam in (("a", 0.9), ("b", 0.5), ("c", 0.9)):
        queue.add(item, lam)
    assert queue.remove(lambda item: item == "a") == ["a"]
    assert queue.remove_lam(0.9) == ["c"]
    assert queue.items == ["b"]


@dataclass
class FakeModel:
    """Runs any number of answers at a time, each for its length; a move takes a while."""

    lam: float | None
    used: float = 0.0
    moving_to: float | None = None
    ready_at: float = 0.0
    since: float = 0.0
    running: list[tuple[float, int]] = field(default_factory=list)  # end, number of the request

    @property
    def state(self) -> ModelState:
        return replace(state(self.lam, not self.running, self.used, self.moving_to), since=self.since)


LONGEST, MOVE, WAIT = 6.0, 3.0, 4.0


@given(st.integers(1, 4), st.integers(1, 7), st.floats(0.2, 4), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_no_request_starves_and_few_overtake(n_models: int, n_lams: int, rate: float, seed: int) -> None:
    """Under any load, a request starts within the time that all other lams need one after another.

    Each lam before it takes its joins (WAIT), its longest answer and a move. And a request that waits for the only
    model is not overtaken by one that arrived more than WAIT later, and after the model came to its lam.
    """
    rng, clock = random.Random(seed), Clock()
    queue = LamQueue[int](WAIT, clock)
    models = [FakeModel(None) for _ in range(n_models)]
    arrivals: list[float] = []
    lams: list[float] = []
    started: dict[int, float] = {}
    while clock.now < 120:
        clock.now += 0.25
        if clock.now < 100:
            for _ in range(rng.choice([0, 0, 1, 1, 2]) if rng.random() < rate else 0):
                lam = rng.choice([0.0] * 3 + [i / 10 for i in range(n_lams)])
                queue.add(len(arrivals), lam)
                arrivals.append(clock.now)
                lams.append(lam)
        for model in models:
            before = len(model.running)
            model.running = [r for r in model.running if r[0] > clock.now]
            if len(model.running) < before:
                model.used = clock.now
            if model.moving_to is not None and clock.now >= model.ready_at:
                model.lam, model.moving_to, model.used, model.since = model.moving_to, None, clock.now, clock.now
        waited = set(queue.items)
        decided = queue.decide([m.state for m in models])
        for number, i in decided.joins:
            assert models[i].lam == lams[number]
            assert models[i].moving_to is None
            models[i].running.append((clock.now + rng.uniform(0.1, LONGEST), number))
            models[i].used = started[number] = clock.now
        for i, lam in decided.moves:
            assert not models[i].running
            assert all(m.moving_to != lam and (m.lam != lam or m.moving_to is not None) for m in models)
            models[i].moving_to, models[i].ready_at = lam, clock.now + MOVE
        left = waited - started.keys()
        for number, i in decided.joins:
            if n_models == 1 and arrivals[number] > models[i].since:
                assert not any(arrivals[other] + WAIT < arrivals[number] for other in left)
    bound = (n_lams + 1) * (WAIT + LONGEST + MOVE + 1)
    for number, arrival in enumerate(arrivals):
        if arrival + bound < 120:
            assert started[number] - arrival <= bound


def test_two_lams_that_alternate_on_one_model_share_it() -> None:
    """Requests of both lams arrive all the time; neither waits longer than one turn of the other."""
    clock = Clock()
    queue = LamQueue[int](WAIT, clock)
    model = FakeModel(0.0)
    arrivals: list[tuple[float, float]] = []
    waits: dict[float, list[float]] = {0.0: [], 1.0: []}
    for tick in range(4000):
        clock.now = tick / 10
        queue.add(tick, float(tick % 2))
        arrivals.append((clock.now, float(tick % 2)))
        model.running = [r for r in model.running if r[0] > clock.now]
        if model.moving_to is not None and clock.now >= model.ready_at:
            model.lam, model.moving_to, model.since = model.moving_to, None, clock.now
        decided = queue.decide([model.state])
        for number, _ in decided.joins:
            arrival, lam = arrivals[number]
            waits[lam].append(clock.now - arrival)
            model.running.append((clock.now + LONGEST, number))
        for _, lam in decided.moves:
            model.moving_to, model.ready_at = lam, clock.now + MOVE
    assert max(waits[0.0] + waits[1.0]) <= 2 * (WAIT + LONGEST + MOVE) + 1
    assert min(map(len, waits.values())) == pytest.approx(max(map(len, waits.values())), rel=0.1)
