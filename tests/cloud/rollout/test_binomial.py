"""Exact tails against fractions and published values, and a p-value that stays right however often one looks."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridge_cloud.rollout.binomial import always_valid, at_least, at_most, upper_bound


def _exactly(low: int, high: int, trials: int, share: float) -> float:
    p = Fraction(share)
    terms = (math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(low, high + 1))
    return float(sum(terms, Fraction(0)))


@given(st.integers(0, 40), st.data(), st.floats(0.001, 0.999))
def test_tails_are_those_of_the_definition(trials: int, data: st.DataObject, share: float) -> None:
    count = data.draw(st.integers(0, trials))
    assert at_least(count, trials, share) == pytest.approx(_exactly(count, trials, trials, share), rel=1e-9, abs=1e-14)
    assert at_most(count, trials, share) == pytest.approx(_exactly(0, count, trials, share), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(
    ("count", "trials", "share", "tail"),
    [
        (10, 10, 0.5, 1 / 1024),
        (0, 10, 0.5, 1.0),
        (1, 10, 0.0, 0.0),
        (10, 10, 1.0, 1.0),
        (8, 10, 0.5, 0.0546875),  # the sign test's table: 7 / 128
        (187, 256, 0.11, 6.48718e-120),  # by fractions
    ],
)
def test_known_tails(count: int, trials: int, share: float, tail: float) -> None:
    assert at_least(count, trials, share) == pytest.approx(tail, rel=1e-5, abs=0.0)


def test_ten_million_trials_take_few_terms_and_stay_between_zero_and_one() -> None:
    assert at_least(100_500, 10_000_000, 0.01) == pytest.approx(0.0562, abs=0.001)  # 1.59 standard deviations
    assert at_least(200_000, 10_000_000, 0.01) == 0.0
    assert at_least(50_000, 10_000_000, 0.01) == 1.0


@pytest.mark.parametrize(
    ("count", "trials", "confidence", "bound"),
    [
        (0, 100, 0.95, 1 - 0.05 ** (1 / 100)),  # the closed form
        (10, 100, 0.975, 0.17622),  # Clopper and Pearson's two-sided 95 % interval of 10 in 100: 4.900 % to 17.622 %
        (100, 100, 0.95, 1.0),
        (5, 10, 0.975, 0.81291),
    ],
)
def test_upper_bounds_are_those_of_clopper_and_pearson(
    count: int, trials: int, confidence: float, bound: float
) -> None:
    assert upper_bound(count, trials, confidence) == pytest.approx(bound, abs=1e-5)


def _chance_to_ever_reject(share: float, alpha: float, looks: int, test: object) -> float:
    """The exact chance that a test, made after each of ``looks`` trials, ever falls below alpha, over all paths."""
    assert callable(test)
    alive, rejected = {0: 1.0}, 0.0
    for trials in range(1, looks + 1):
        following: dict[int, float] = {}
        for count, chance in alive.items():
            for more, weight in ((0, 1 - share), (1, share)):
                following[count + more] = following.get(count + more, 0.0) + chance * weight
        alive = {}
        for count, chance in following.items():
            if test(count, trials, share) < alpha:
                rejected += chance
            else:
                alive[count] = chance
    return rejected


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_looking_after_every_request_rejects_a_model_at_its_limit_at_most_with_alpha(share: float) -> None:
    assert _chance_to_ever_reject(share, 0.05, 300, always_valid) <= 0.05


def test_a_fixed_test_looked_at_again_and_again_would_not_keep_alpha() -> None:
    assert _chance_to_ever_reject(0.1, 0.05, 300, at_least) > 0.10  # the control: the check above can fail


def test_a_share_far_above_the_limit_is_found_soon_and_one_below_never() -> None:
    assert always_valid(5, 20, 0.01) < 0.001
    assert always_valid(20, 20, 0.001) < 1e-9
    assert always_valid(5, 1000, 0.01) == 1.0
    assert always_valid(0, 0, 0.01) == 1.0


def test_what_is_no_binomial_is_an_error() -> None:
    with pytest.raises(ValueError, match="no binomial"):
        at_least(3, 2, 0.5)
