"""Learning-rate schedules by share of the run, so that a shorter run keeps its shape."""

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR


def step_decay(optimizer: Optimizer, epochs: int, at: Sequence[float], gamma: float = 0.1) -> MultiStepLR:
    """The rate times `gamma` at these shares of the epochs.

    Args:
        optimizer: whose rate is scheduled.
        epochs: of the whole run, >= 1.
        at: shares in (0, 1), such as [0.5, 0.75].
        gamma: factor, > 0.

    Raises:
        ValueError: a share outside (0, 1).
    """
    if not all(0 < share < 1 for share in at):
        raise ValueError(f"step_decay takes shares of the run in (0, 1), got {list(at)}")
    return MultiStepLR(optimizer, milestones=[round(share * epochs) for share in at], gamma=gamma)
