"""When to train again, by table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridge_cloud.retrain.decision import Counts, Policy, decide, device_limit

POLICY = Policy(
    minimum_samples=100,
    minimum_labelled_share=0.5,
    minimum_devices=2,
    minimum_interval_seconds=3600,
    device_share=0.5,
)
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("samples", "labelled", "last", "train", "said"),
    [
        ({"a": 50, "b": 50}, 50, None, True, "100 new samples of 2 devices"),
        ({}, 0, None, False, "No new samples"),
        ({"a": 500}, 500, None, False, "1 devices; 2 are wanted"),
        ({"a": 50, "b": 49}, 99, None, False, "98 new samples"),
        ({"a": 50, "b": 50}, 49, None, False, "49.0% of the new samples are labelled"),
        ({"a": 1_000_000, "b": 49}, 1_000_049, None, False, "98 new samples (1000049 before each device was capped)"),
        ({"a": 50, "b": 50}, 100, 0, True, "100 new samples"),
        ({"a": 50, "b": 50}, 100, 1, False, "too young"),
        ({"a": 50, "b": 50}, 100, 10 * HOUR_MS, False, "3600 s to wait"),
    ],
    ids=["enough", "none", "devices", "samples", "labels", "flood", "waited", "young", "clock set back"],
)
def test_training_is_decided_by_counts(
    samples: dict[str, int], labelled: int, last: int | None, train: bool, said: str
) -> None:
    decision = decide(Counts(samples, labelled, last), POLICY, HOUR_MS)
    assert decision.train is train
    assert said in decision.reason


def test_twenty_equal_devices_fit_a_share_of_five_percent_and_nineteen_do_not() -> None:
    assert device_limit({str(n): 30 for n in range(20)}, 0.05) == 30
    assert device_limit({str(n): 30 for n in range(19)}, 0.05) == 0


@given(
    st.dictionaries(st.text(max_size=3), st.integers(0, 10_000), max_size=40),
    st.floats(0.01, 1.0, allow_nan=False),
)
def test_no_device_holds_more_than_its_share_and_one_sample_more_would_be_too_much(
    samples: dict[str, int], share: float
) -> None:
    limit = device_limit(samples, share)

    def fits(cap: int) -> bool:
        kept = [min(count, cap) for count in samples.values()]
        return max(kept, default=0) <= share * sum(kept) + 1e-9

    assert fits(limit)
    assert limit == max(samples.values(), default=0) or not fits(limit + 1)
