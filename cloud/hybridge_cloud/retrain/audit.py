"""Do the labels contradict each other? Samples whose nearest neighbours mostly carry one other label are suspect.

Returned windows of one exercise lie close together, so a label that was flipped stands alone among its neighbours. What
this cannot see is a label that is wrong for a whole neighbourhood; the frozen slice is what guards against that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 5
MAJORITY = 4
"""Neighbours that must carry the same other label. Measured on the watch data with true labels: 0 % suspect of all
windows, 1 to 4 % of what the default capture policy returns, up to 7 % of unsure windows alone; with a tenth of the
labels flipped 6 to 14 %."""
MAX_AUDITED = 2000
"""Samples that are compared with each other; of more, this many are drawn."""
MINIMUM_AUDITED = 50
"""Of fewer samples nothing can be said, and nothing is."""
SIGNIFICANCE = 0.05
_SEED = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """How many of the audited samples are suspect."""

    audited: int
    suspects: int

    @property
    def share(self) -> float:
        return self.suspects / self.audited if self.audited else 0.0

    def shows_more_than(self, share: float) -> bool:
        """Whether so many suspects would be rare (exact binomial, one-sided, SIGNIFICANCE) if ``share`` were the truth.

        A count just above the limit is no evidence: of 215 samples with true labels, 3 to 11 were suspect.
        """
        if not 0.0 < share < 1.0 or not self.suspects:
            return share <= 0.0 < self.suspects
        whole = math.lgamma(self.audited + 1)
        below = sum(
            math.exp(
                whole
                - math.lgamma(count + 1)
                - math.lgamma(self.audited - count + 1)
                + count * math.log(share)
                + (self.audited - count) * math.log1p(-share)
            )
            for count in range(self.suspects)
        )
        return 1.0 - below < SIGNIFICANCE


def audit(features: dict[str, NDArray[np.float32]], labels: NDArray[np.int64]) -> Audit:
    """Count suspects among samples: features by name, each (rows, ...), and (rows,) labels."""
    rows = len(labels)
    if rows < MINIMUM_AUDITED:
        return Audit(0, 0)
    if rows > MAX_AUDITED:
        chosen = np.sort(np.random.default_rng(_SEED).choice(rows, MAX_AUDITED, replace=False))
    else:
        chosen = np.arange(rows)
    flat = np.concatenate([features[name][chosen].reshape(len(chosen), -1) for name in sorted(features)], axis=1)
    flat = flat.astype(np.float64)
    spread = flat.std(axis=0)
    flat = (flat - flat.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    own = labels[chosen]
    squares = (flat**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * flat @ flat.T
    np.fill_diagonal(distances, np.inf)
    nearest = own[np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]]
    alike = (nearest[:, :, None] == nearest[:, None, :]).sum(axis=2)
    common = nearest[np.arange(len(own)), alike.argmax(axis=1)]
    suspect = (alike.max(axis=1) >= MAJORITY) & (common != own)
    return Audit(len(own), int(suspect.sum()))
