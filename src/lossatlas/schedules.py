"""Learning-rate schedules by share of the run, so that a shorter run keeps its shape."""

import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR


def step_decay(optimizer: Optimizer, epochs: int, at: Sequence[float], gamma: float = 0.1) -> MultiStepLR:
    """The rate times `gamma` at these shares of the epochs, never before the first epoch has ended.

    Args:
        optimizer: whose rate is scheduled.
        epochs: of the whole run, >= 1.
        at: shares in (0, 1), such as [0.5, 0.75].
        gamma: factor, > 0.

    Raises:
        ValueError: a share outside (0, 1), or epochs below 1.
    """
    if epochs < 1:
        raise ValueError(f"step_decay takes epochs >= 1, got {epochs=}")
    if not all(0 < share < 1 for share in at):
        raise ValueError(f"step_decay takes shares of the run in (0, 1), got {list(at)}")
    # a milestone at 0 would divide the rate of a short run from its first step on
    return MultiStepLR(optimizer, milestones=[max(1, round(share * epochs)) for share in at], gamma=gamma)


def warmup_cosine(optimizer: Optimizer, epochs: int, warmup: float = 0.1) -> LambdaLR:
    """A linear rise to the optimiser's rate, then half a cosine down; the rate of an epoch is that of its middle.

    Args:
        optimizer: whose rate is scheduled.
        epochs: of the whole run, >= 1.
        warmup: share of the epochs with a rising rate, in [0, 1).

    Raises:
        ValueError: epochs or share out of range.
    """
    if epochs < 1 or not 0 <= warmup < 1:
        raise ValueError(f"warmup_cosine takes epochs >= 1 and a share in [0, 1), got {epochs=}, {warmup=}")

    def factor(epoch: int) -> float:
        done = min((epoch + 0.5) / epochs, 1.0)  # called once more behind the last epoch
        return (
            done / warmup if done < warmup else 0.5 + 0.5 * math.cos(math.pi * (done - warmup) / (1 - warmup))
        )

    return LambdaLR(optimizer, factor)
