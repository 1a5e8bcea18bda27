"""Sketches of scores: bounded, exact at their edges, and the same whether devices are summed before or after."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.scores import LARGEST, OUTERMOST, STEPS, ScoreSketch, edge
from hybridge_edge.contract.sketch import BUCKETS, Sketch
from hybridge_edge.contract.telemetry import MAX_TELEMETRY_BYTES, Beside, Telemetry

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
NUMBERS = st.floats(allow_nan=False, allow_infinity=True)


def sketch_of(values: list[float]) -> ScoreSketch:
    sketch = ScoreSketch()
    for value in values:
        sketch.add(value)
    return sketch


def read(sketch: ScoreSketch) -> ScoreSketch:
    return ScoreSketch.read(parse(canonical(sketch.to_json()), "sketch"))


@given(st.lists(NUMBERS, max_size=60), st.lists(NUMBERS, max_size=60))
def test_the_sum_of_two_sketches_is_the_sketch_of_both(one: list[float], other: list[float]) -> None:
    merged = read(sketch_of(one)).merged(read(sketch_of(other)))
    assert merged.counts == sketch_of(one + other).counts


@given(st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=60), st.integers(0, STEPS))
def test_a_score_is_counted_on_the_right_side_of_every_edge(values: list[float], bucket: int) -> None:
    away = [value for value in values if all(abs(abs(value) - edge(one)) > 1e-9 for one in range(STEPS + 5))]
    assert sketch_of(away).at_most(bucket) == sum(value <= edge(bucket) for value in away)


def test_the_edges_themselves_belong_to_the_bucket_below() -> None:
    for bucket in range(STEPS + 1):
        assert sketch_of([edge(bucket)]).counts == ((bucket, 1),)
        assert sketch_of([edge(bucket)]).at_most(bucket) == 1


def test_it_is_bounded_whatever_is_added() -> None:
    values = [sign * 10.0**power for sign in (-1, 1) for power in range(-320, 308)] + [math.inf, -math.inf]
    sketch = sketch_of(values + [step / 1000 for step in range(-1000, 1001)])
    assert len(sketch.counts) <= 2 * OUTERMOST + 1
    assert sketch.count == len(values) + 2001
    assert sketch.quantile(1.0) == pytest.approx(LARGEST, rel=0.25)


def test_what_is_no_number_is_counted_apart_and_stays_so_over_the_wire() -> None:
    sketch = read(sketch_of([0.5, math.nan, math.nan]))
    assert (sketch.count, sketch.strange) == (1, 2)


def test_quantiles_are_within_half_a_bucket() -> None:
    sketch = sketch_of([step / 1000 for step in range(1, 1001)])
    for share in (0.01, 0.25, 0.5, 0.9, 1.0):
        assert sketch.quantile(share) == pytest.approx(share, abs=0.011)
    assert sketch.total == pytest.approx(500.5, rel=0.01)


@pytest.mark.parametrize("text", ['{"buckets":[1],"counts":[]}', '{"buckets":[999],"counts":[1]}',
                                  '{"buckets":[1],"counts":[0]}', '{"buckets":[true],"counts":[1]}'])  # fmt: skip
def test_a_sketch_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidDocument):
        ScoreSketch.read(parse(text, "sketch"))


def telemetry(latency: Sketch, scores: ScoreSketch | None) -> Telemetry:
    return Telemetry("watch-1", 7, "watch", "1.0.0", "sha256:" + "0" * 64, "r", 1, 60, latency, scores)


def test_telemetry_carries_scores_and_without_them_has_the_bytes_it_always_had() -> None:
    latency, scores = Sketch([(100, 5)]), sketch_of([0.2, 0.9])
    assert b"scores" not in telemetry(latency, None).to_bytes()
    found = Telemetry.from_bytes(telemetry(latency, scores).to_bytes())
    assert found.scores is not None
    assert found.scores.counts == scores.counts
    assert Telemetry.from_bytes(telemetry(latency, None).to_bytes()).scores is None


@pytest.mark.parametrize(("name", "scores"), [("telemetry-plain.json", None), ("telemetry.json", ((10, 2), (48, 4)))])
def test_released_telemetry_reads_as_it_was_written(name: str, scores: tuple[tuple[int, int], ...] | None) -> None:
    data = (GOLDEN / name).read_bytes()
    found = Telemetry.from_bytes(data)
    assert found.to_bytes() == data
    assert (found.scores.counts if found.scores is not None else None) == scores


def test_a_busy_month_fits_into_the_message_and_more_is_refused() -> None:
    month = Sketch([(bucket, 1_000_000) for bucket in range(100, 250)])
    probabilities = ScoreSketch([(bucket, 1_000_000) for bucket in range(STEPS + 1)])
    assert len(telemetry(month, probabilities).to_bytes()) <= MAX_TELEMETRY_BYTES
    everything = Sketch([(bucket, 10**9) for bucket in range(BUCKETS)])
    with pytest.raises(InvalidDocument, match="5120"):
        telemetry(everything, ScoreSketch([(bucket, 10**9) for bucket in range(OUTERMOST)])).to_bytes()
    assert json.loads(telemetry(month, None).to_bytes())["model"] == "watch"


def test_two_distributions_lie_as_far_apart_as_their_shares_below_an_edge_differ() -> None:
    low, high = sketch_of([0.1, 0.2, 0.3, 0.4]), sketch_of([0.3, 0.4, 0.5, 0.6])
    assert low.apart(high) == high.apart(low) == 0.5
    assert low.apart(low.merged(low)) == 0.0
    assert sketch_of([-5.0] * 3).apart(sketch_of([7.0])) == 1.0
    assert ScoreSketch().apart(low) == low.apart(ScoreSketch()) == 0.0
    nothing = sketch_of([math.nan] * 4)
    assert nothing.apart(low) == low.apart(nothing) == 1.0  # the control: what is no number is nowhere below an edge
    assert sketch_of([0.1, math.nan]).apart(sketch_of([0.1, 0.1])) == 0.5


@given(st.lists(st.integers(0, STEPS - 1), min_size=1), st.lists(st.integers(0, STEPS - 1), min_size=1))
def test_the_distance_is_that_of_the_sorted_scores(one: list[int], other: list[int]) -> None:
    middles = [[(bucket + 0.5) / STEPS for bucket in values] for values in (one, other)]
    expected = max(
        abs(sum(value <= at for value in one) / len(one) - sum(value <= at for value in other) / len(other))
        for at in range(STEPS)
    )
    assert sketch_of(middles[0]).apart(sketch_of(middles[1])) == pytest.approx(expected)


def test_a_shadow_s_telemetry_is_read_as_it_was_written() -> None:
    beside = Beside("sha256:" + "1" * 64, 40, 3, sketch_of([0.2, 0.9]))
    said = replace(telemetry(Sketch([(100, 5)]), sketch_of([0.3])), beside=beside)
    read_again = Telemetry.from_bytes(said.to_bytes())
    assert read_again.to_bytes() == said.to_bytes()
    assert read_again.beside is not None
    assert read_again.beside.scores is not None
    assert (read_again.beside.rows, read_again.beside.scores.counts) == (40, beside.scores.counts)
    assert b"shadow" not in replace(said, beside=None).to_bytes()
