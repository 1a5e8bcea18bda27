"""Exact tests of a share: how many of n, where at most p of them are allowed. Standard library only.

Tails are summed outwards from the count, term by term, until a term adds nothing any more: some ten thousand terms for
ten million trials.
"""

from __future__ import annotations

import functools
import math

_NEGLIGIBLE = 1e-18
"""Of the sum so far: smaller terms are left out; they fall at least geometrically."""
_BISECTIONS = 60


def at_least(count: int, trials: int, share: float) -> float:
    """The chance of ``count`` or more successes in ``trials``, each with the chance ``share``: the exact upper tail."""
    _check(count, trials, share)
    if count <= 0:
        return 1.0
    if count > trials * share:
        return min(1.0, _tail(count, trials, share, 1))
    return max(0.0, 1.0 - _tail(count - 1, trials, share, -1))


def at_most(count: int, trials: int, share: float) -> float:
    """The chance of ``count`` or fewer successes: the exact lower tail."""
    _check(count, trials, share)
    if count >= trials:
        return 1.0
    if count < trials * share:
        return min(1.0, _tail(count, trials, share, -1))
    return max(0.0, 1.0 - _tail(count + 1, trials, share, 1))


@functools.lru_cache(maxsize=256)  # a rollout asks for the same one at every look
def upper_bound(count: int, trials: int, confidence: float) -> float:
    """The largest share that ``count`` of ``trials`` does not speak against: Clopper and Pearson's one-sided bound.

    Source: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934), 404-413.
    """
    if count >= trials:
        return 1.0
    low, high = count / trials, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if at_most(count, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def always_valid(count: int, trials: int, share: float) -> float:
    """A p-value for "at most ``share``" that stays right however often, and whenever, one looks at a growing count.

    Its inverse is the likelihood ratio against ``share``, averaged evenly over all larger shares: a martingale that
    begins at 1 where the share holds, so that it ever exceeds 1/alpha with a chance of at most alpha (J. Ville, 1939).
    The integral is a beta function times a binomial tail, which makes it exact.
    """
    _check(count, trials, share)
    if trials == 0:
        return 1.0
    tail = at_most(count, trials + 1, share)
    if tail <= 0.0:
        return 1.0
    log_ratio = (
        math.lgamma(count + 1)
        + math.lgamma(trials - count + 1)
        - math.lgamma(trials + 2)
        + math.log(tail)
        - math.log1p(-share)
        - count * math.log(share)
        - (trials - count) * math.log1p(-share)
    )
    return math.exp(-log_ratio) if log_ratio > 0 else 1.0


def _tail(count: int, trials: int, share: float, step: int) -> float:
    """Terms from ``count`` outwards: upwards for step 1, downwards for step -1."""
    if share in (0.0, 1.0):
        return float((count == 0 or step < 0) if share == 0.0 else (count == trials or step > 0))
    log_term = (
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(share)
        + (trials - count) * math.log1p(-share)
    )
    # Summed relative to the first term, which may itself be too small for a double.
    odds = share / (1 - share)
    term = total = 1.0
    at = count
    while term > total * _NEGLIGIBLE:
        if step > 0:
            if at == trials:
                break
            term *= (trials - at) / (at + 1) * odds
        else:
            if at == 0:
                break
            term *= at / (trials - at + 1) / odds
        at += step
        total += term
    return math.exp(log_term + math.log(total)) if log_term + math.log(total) > -745.0 else 0.0


def _check(count: int, trials: int, share: float) -> None:
    if not 0 <= share <= 1 or trials < 0 or count > trials:
        raise ValueError(f"{count} of {trials} with a chance of {share} is no binomial")
