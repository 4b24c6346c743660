"""Progress of parts of larger work, and sums over threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pa_lite.progress import Counter, part_of
from tests.support.reports import Reports


def test_a_part_adds_what_was_done_before_it() -> None:
    seen = Reports()
    part = part_of(seen, "score demo", 10, 30, "requests")
    part("score", 5, 20, "windows")
    assert seen == [("score demo", 15, 30, "requests")]


def test_a_part_keeps_what_has_no_total() -> None:
    seen = Reports()
    part_of(seen, "follow", 10, 30, "answers")("generate", 7, 0, "tokens")
    assert seen == [("follow", 7, 0, "tokens")]


def test_a_counter_reports_each_sum_once_from_many_threads() -> None:
    seen = Reports()
    counter = Counter(seen, "download", 400, "B")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(counter.add, [2] * 200))
    assert seen == [("download", 2 * n, 400, "B") for n in range(1, 201)]
