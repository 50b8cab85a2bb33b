"""ASHA, the asynchronous successive halving of Li et al. 2020 (arXiv:1810.05934), in its stopping variant.

Plain data and arithmetic: what arrives decides, nothing else, so a replay of the same reports takes the same
decisions. Ray's own scheduler cannot be fed again after a restart (ray-project/ray#30838) and lets NaN pass.
"""

import bisect
import math
from dataclasses import dataclass, field

from trainables.errors import UserError


def rung_epochs(max_epochs: int, grace_epochs: int, reduction_factor: int) -> tuple[int, ...]:
    """The epochs at which trials are compared, the last being full length; raises UserError."""
    if grace_epochs < 1 or max_epochs < 1:
        raise UserError(
            f"--grace-epochs and --max-epochs must be at least 1, but are {grace_epochs} and {max_epochs}. Raise them."
        )
    if grace_epochs > max_epochs:
        raise UserError(
            f"--grace-epochs must not exceed --max-epochs, but {grace_epochs} > {max_epochs}. "
            f"Lower the one or raise the other."
        )
    if reduction_factor < 2:
        raise UserError(f"--reduction-factor must be at least 2, but is {reduction_factor}. Leave it out for 3.")
    rungs = []
    epoch = grace_epochs
    while epoch < max_epochs:
        rungs.append(epoch)
        epoch *= reduction_factor
    return (*rungs, max_epochs)


@dataclass
class Asha:
    """The rungs and the scores, in ascending order, that trials had when they reached them."""

    rungs: tuple[int, ...]
    reduction_factor: int
    scores: dict[int, list[float]] = field(default_factory=dict)

    def passes(self, epoch: int, score: float) -> bool:
        """Records a score (higher is better) at `epoch`; whether its trial may go on.

        Between rungs it may. At a rung it may if its score is among the best 1/reduction_factor (rounded up) of
        those that arrived there so far, itself included. Of equals the earlier ranks higher, or all the trials that
        name one class for everything, and so score exactly at chance, would carry each other to full length. The
        last rung stops nobody: it is the end.
        """
        assert math.isfinite(score), "a non-finite objective never counts in a rung"
        if epoch not in self.rungs:
            return True
        seen = self.scores.setdefault(epoch, [])
        ahead = len(seen) - bisect.bisect_left(seen, score)
        bisect.insort(seen, score)
        return epoch == self.rungs[-1] or ahead == 0 or ahead * self.reduction_factor < len(seen)

    def ends(self, epoch: int, score: float) -> None:
        """Records the score of a trial that ended by itself at `epoch` in all rungs that it will not see.

        Scores are the best so far, so this is what it would have brought there.
        """
        for rung in self.rungs:
            if rung > epoch:
                bisect.insort(self.scores.setdefault(rung, []), score)
