"""Classification as a bandit: rows, the table of losses, and K-block contexts."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, one_hot

from lossatlas.data import Data
from lossatlas.papers.neucb.ridge import check_losses, check_sizes
from lossatlas.seeding import stream


@dataclass(frozen=True)
class Bandit:
    """Contexts and what every arm would have cost; the player sees the chosen arm's loss alone.

    Args:
        x: (n, d) contexts before they are placed in a block.
        losses: (n, K) in [0, 1], K >= 2.

    Raises:
        ValueError: sizes that do not fit, fewer than 2 arms, a loss outside [0, 1].

    Example:
        >>> Bandit(torch.eye(2), 1 - torch.eye(2)).losses[0]
        tensor([0., 1.])
    """

    x: Tensor
    losses: Tensor

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.losses.ndim != 2 or len(self.x) != len(self.losses):
            raise ValueError(
                f"contexts (n, d) and losses (n, K) of the same n expected, got {tuple(self.x.shape)} and"
                f" {tuple(self.losses.shape)}: one row a sample"
            )
        check_sizes(self.losses.shape[1], self.x.shape[1])
        check_losses(self.losses)


def from_classes(data: Data, pool: int = 1) -> Bandit:
    """All rows of a classified set: columns standardised, rows scaled to length 1, loss 0 for the class and 1 else.

    Args:
        data: training and test rows are used alike.
        pool: images are averaged over squares of this side first, >= 1.

    Raises:
        ValueError: pool < 1.
    """
    if pool < 1:
        raise ValueError(f"pool must be >= 1, got {pool}: 1 keeps the images as they are")
    parts = []
    for split in (data.train, data.test):
        x = data.batch(split, torch.arange(len(split)), train=False).x
        parts.append((avg_pool2d(x, pool) if x.ndim == 4 and pool > 1 else x).flatten(1))
    x = torch.cat(parts)
    std, mean = torch.std_mean(x.double(), dim=0, correction=0)
    x = (x - mean.float()) / torch.where(std > 0, std, 1.0).float()
    x = x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    y = torch.cat([data.train.y_clean, data.test.y_clean])
    return Bandit(x, 1.0 - one_hot(y, data.classes).float())


def block_contexts(x: Float[Tensor, "n d"], K: int) -> Float[Tensor, "n K Kd"]:
    """The contexts as the paper writes them: for arm a, x in block a of a vector of zeros.

    The learners never build these; the tests check their block products against them.

    Example:
        >>> block_contexts(torch.tensor([[7.0]]), 2)
        tensor([[[7., 0.],
                 [0., 7.]]])
    """
    n, d = x.shape
    out = x.new_zeros(n, K, K, d)
    out[:, torch.arange(K), torch.arange(K)] = x[:, None]
    return out.view(n, K, K * d)


def visiting_order(n: int, rounds: int, seed: int) -> Tensor:
    """(rounds,) int64: rows in a random order without repetition; more rounds than rows start another one."""
    order = stream(seed, "neucb/order")
    passes = -(-rounds // n)
    return torch.cat([torch.randperm(n, generator=order) for _ in range(passes)])[:rounds]
