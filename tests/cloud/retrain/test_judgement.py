"""S14b: a challenger that is not shown to be better is refused, and contradicting labels are seen before training."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hybridge_cloud.retrain.audit import Audit, audit
from hybridge_cloud.retrain.compare import Comparison, compare, mcnemar
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import Refused

ROWS, GROUPS = 800, 80


def answers(seed: int, right: float) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(ROWS) < right


def judged(champion: NDArray[np.bool_], challenger: NDArray[np.bool_], minimum_gain: float = 0.0) -> Comparison:
    groups = np.array([f"recording-{row // 10}" for row in range(ROWS)])
    return compare(champion, challenger, groups, minimum_gain=minimum_gain)


def test_a_better_challenger_is_promoted_and_a_worse_or_equal_one_is_not() -> None:
    better = judged(answers(1, 0.80), answers(2, 0.92))
    assert better.promote
    assert better.low > 0
    assert "is better" in better.reason
    worse = judged(answers(1, 0.92), answers(2, 0.80))
    assert not worse.promote
    assert worse.high < 0
    same = answers(1, 0.8)
    equal = judged(same, same)
    assert (equal.promote, equal.difference, equal.mcnemar_p) == (False, 0.0, 1.0)
    assert not judged(answers(1, 0.80), answers(2, 0.81)).promote
    assert not judged(answers(1, 0.80), answers(2, 0.92), minimum_gain=0.15).promote


def test_equal_models_are_promoted_no_more_often_than_the_interval_says() -> None:
    promoted = sum(judged(answers(2 * seed, 0.8), answers(2 * seed + 1, 0.8)).promote for seed in range(30))
    assert promoted <= 4, "2.5 % are expected; more than 4 of 30 has a chance of 1 in 1,000"


def test_a_gain_in_two_recordings_of_many_is_not_enough_though_rows_alone_would_say_so() -> None:
    champion, challenger = np.ones(ROWS, np.bool_), np.ones(ROWS, np.bool_)
    champion[:20] = False
    found = judged(champion, challenger)
    assert found.mcnemar_p < 0.001
    assert not found.promote


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(Refused, match="groups"):
        compare(answers(1, 0.8), answers(2, 0.9), np.array(["one", "two"] * (ROWS // 2)))
    with pytest.raises(Refused, match="same rows"):
        compare(answers(1, 0.8), answers(2, 0.9)[1:], np.arange(ROWS).astype(str))


def test_a_comparison_reads_back_as_it_was_written() -> None:
    found = judged(answers(1, 0.80), answers(2, 0.92))
    assert Comparison.read(Reader(found.to_json(), "comparison")) == found


def test_mcnemar_is_the_exact_binomial() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 2**10)


def points(rows: int, classes: int = 4) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    generator = np.random.default_rng(7)
    truth = generator.integers(0, classes, rows)
    centres = generator.normal(0, 6, (classes, 8))
    return {"features": (centres[truth] + generator.normal(0, 1, (rows, 8))).astype(np.float32)}, truth


@pytest.mark.parametrize("rows", [600, 3000], ids=["all", "drawn"])
def test_flipped_labels_stand_out_and_clean_ones_do_not(rows: int) -> None:
    features, truth = points(rows)
    assert audit(features, truth).share < 0.01
    flipped = truth.copy()
    chosen = np.random.default_rng(8).random(rows) < 0.10
    flipped[chosen] = (flipped[chosen] + 1) % 4
    assert 0.06 < audit(features, flipped).share < 0.12


@pytest.mark.parametrize(
    ("suspects", "audited", "share", "shown"),
    [
        (11, 215, 0.05, False),
        (14, 215, 0.05, False),
        (18, 215, 0.05, True),
        (110, 1302, 0.05, True),
        (0, 215, 0.05, False),
        (1, 215, 0.0, True),
        (0, 215, 0.0, False),
        (215, 215, 1.0, False),
    ],
)
def test_a_count_just_above_the_limit_is_no_evidence(suspects: int, audited: int, share: float, shown: bool) -> None:
    assert Audit(audited, suspects).shows_more_than(share) is shown


def test_a_handful_of_samples_is_not_audited() -> None:
    features, truth = points(20)
    assert audit(features, truth).audited == 0


def test_training_on_flipped_labels_is_not_shown_to_be_better() -> None:
    """A champion that is as good as the data allows, and a challenger fitted to a tenth of wrong labels beside it."""
    features, truth = points(ROWS * 2)
    train, frozen = slice(0, ROWS), slice(ROWS, None)
    poisoned = truth[train].copy()
    chosen = np.random.default_rng(9).random(ROWS) < 0.10
    poisoned[chosen] = (poisoned[chosen] + 1) % 4
    flat = features["features"]

    def centroids(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        means = np.stack([flat[train][labels == label].mean(axis=0) for label in range(4)])
        nearest = ((flat[frozen][:, None, :] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
        return np.asarray(nearest == truth[frozen])

    assert not judged(centroids(truth[train]), centroids(poisoned)).promote
