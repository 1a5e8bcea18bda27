"""Durations as a bounded, mergeable sketch, and the telemetry message that carries it."""

from dataclasses import replace

import numpy
import pytest

from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.sketch import BUCKETS, LONGEST_US, RELATIVE_ERROR, Sketch
from hybridge_edge.contract.telemetry import MAX_TELEMETRY_BYTES, Telemetry

DIGEST = "sha256:" + "a" * 64


def sketch_of(values: numpy.ndarray) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(int(value))
    return sketch


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_a_quantile_is_within_the_stated_error(share: float) -> None:
    values = numpy.random.default_rng(1).lognormal(7.0, 1.5, 5000).astype(int) + 1
    exact = numpy.quantile(values, share, method="inverted_cdf")
    # Half a microsecond of rounding on top.
    assert sketch_of(values).quantile(share) == pytest.approx(exact, rel=RELATIVE_ERROR, abs=0.5)


def test_the_sum_of_two_is_the_sketch_of_both() -> None:
    one, other = numpy.arange(1, 400, 3), numpy.arange(50, 90_000, 777)
    both = sketch_of(numpy.concatenate([one, other]))
    assert sketch_of(one).merged(sketch_of(other)).counts == both.counts
    assert both.count == len(one) + len(other)


def test_strange_durations_are_counted_at_the_ends() -> None:
    sketch = sketch_of(numpy.array([-5, 0, 1, LONGEST_US * 10]))
    assert sketch.counts[0] == (0, 3)
    assert sketch.quantile(1.0) == pytest.approx(LONGEST_US, rel=RELATIVE_ERROR)
    assert Sketch().quantile(0.5) == 0


def test_a_message_stays_small_whatever_was_measured_and_is_read_again() -> None:
    full = Sketch((bucket, 1_000_000) for bucket in range(BUCKETS))
    everything = Telemetry("device-1", 7, "watch", "1.0.0", DIGEST, "fleet-3", 3, 60, full)
    data = everything.to_bytes()
    assert len(data) <= MAX_TELEMETRY_BYTES
    again = Telemetry.from_bytes(data)
    assert (again.latency.counts, again.sequence) == (full.counts, 7)
    with pytest.raises(InvalidDocument, match="5120 are allowed"):
        replace(everything, latency=Sketch((bucket, 10**15) for bucket in range(BUCKETS))).to_bytes()


@pytest.mark.parametrize(
    "fields",
    [{"buckets": [1], "counts": []}, {"buckets": [BUCKETS], "counts": [1]}, {"buckets": [1], "counts": [0]}],
)
def test_a_sketch_that_is_none_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidDocument):
        Sketch.read(parse(canonical(fields), "sketch"))
