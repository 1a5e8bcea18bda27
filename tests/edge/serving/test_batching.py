"""Requests are put together only where that makes a row cheaper, and a device that changed is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hybridge_edge.serving.batching import SETTLED, TRY_AGAIN, Batching

RUNS = 40 * SETTLED


def crowd(batching: Batching, waiting: int, cost_us: Callable[[int], float], runs: int = RUNS) -> list[int]:
    """Runs while so many always wait; how many rows each took."""
    taken = []
    for _ in range(runs):
        rows = min(batching.most, waiting)
        batching.learn(rows, int(cost_us(rows)))
        taken.append(rows)
    return taken


def test_where_a_run_costs_the_same_for_many_it_takes_all_that_the_manifest_allows() -> None:
    assert crowd(Batching(32), 64, lambda rows: 500)[-1] == 32
    assert crowd(Batching(12), 64, lambda rows: 500)[-1] == 12
    assert crowd(Batching(32), 5, lambda rows: 500)[-1] == 5


def test_where_a_row_gets_no_cheaper_requests_run_one_by_one() -> None:
    taken = crowd(Batching(32), 64, lambda rows: 10_000 * rows)
    assert taken[-1] == 1
    assert max(taken) == 2  # no larger one was tried: nobody waits for sixteen rows to learn that it does not pay
    assert sum(rows > 1 for rows in taken) == SETTLED


def test_it_stops_at_the_size_from_which_rows_are_dearer() -> None:
    taken = crowd(Batching(32), 64, lambda rows: 400 + 100 * rows if rows <= 4 else 1_000 * rows)
    assert taken[-1] == 4
    assert max(taken) == 8


def test_what_did_not_pay_is_tried_again() -> None:
    batching = Batching(32)
    assert crowd(batching, 64, lambda rows: 10_000 * rows)[-1] == 1
    assert crowd(batching, 64, lambda rows: 10_000, TRY_AGAIN + RUNS)[-1] == 32


@pytest.mark.parametrize("limit", [0, 1])
def test_a_model_of_one_row_learns_nothing(limit: int) -> None:
    assert crowd(Batching(limit), 64, lambda rows: 500) == [1] * RUNS
