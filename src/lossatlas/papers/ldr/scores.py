"""What the arms of the LDR comparison do to scores before their own formula."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax, softplus

from lossatlas.losses import checked

NORMALISATIONS = ("none", "l1", "softplus_l1")
L1_FLOOR = 1e-12  # the smallest ||f||_1 that is divided by: scores of less count as zero
L1_CEILING = 1e30  # larger scores count as so large: a -inf becomes the limit of scores towards it


def log_p_label(f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log p_y of p = softmax(f); finite where p_y itself rounds to 0.

    Example:
        >>> log_p_label(torch.tensor([[0.0, 1000.0]]), torch.tensor([0]))
        tensor([-1000.])
    """
    # not torch's cross_entropy: it answers a label of -100 with a silent 0, gather refuses it
    return log_softmax(checked(f, y), dim=1).gather(1, y[:, None]).squeeze(1)


def differences(f: Float[Tensor, "n K"], y: Int[Tensor, " n"], c: float | Tensor) -> Float[Tensor, "n K"]:
    """Margin-augmented score differences d_k = f_k - f_y + c 1[k != y]; d_y is exactly 0.

    Example:
        >>> differences(torch.tensor([[2.0, 5.0, 1.0]]), torch.tensor([0]), c=0.5)
        tensor([[ 0.0000,  3.5000, -0.5000]])
    """
    d = f - (f.gather(1, y[:, None]) - c)  # one pass over (n, K), the rest happens in place
    return d.scatter_(1, y[:, None], 0.0)  # the true class asks no margin of itself


def magnitude(f: Float[Tensor, "n K"], how: str) -> tuple[Float[Tensor, "n K"], Float[Tensor, "n 1"] | float]:
    """(g, r): the normalised scores of eq. 3 are g r, each sample of mean magnitude 1 over the classes.

    That gives lambda and c a unit. The gradient flows through r, so under "l1" it is orthogonal to f: no step
    just inflates scores. It grows as 1 / ||f||_1; all-zero scores have no direction, so there r = 1 and the
    gradient is the plain one. A score of -inf takes the whole norm: the limit, g r = -K there and 0 elsewhere.
    The product is left to the caller, who divides by lambda in the same pass.

    Args:
        f: scores.
        how: "none", r = 1; "l1", r = K / ||f||_1; "softplus_l1", the same of g = softplus(f).

    Example:
        >>> magnitude(torch.tensor([[3.0, -1.0]]), "l1")
        (tensor([[ 3., -1.]]), tensor([[0.5000]]))
    """
    K = f.shape[1]
    if how == "none":
        return f, 1.0
    if how == "softplus_l1":
        f = softplus(f)  # not negative: the plain sum, with the cheaper gradient
        return f, K / f.sum(dim=1, keepdim=True).clamp_min(L1_FLOOR)
    f = f.clamp(-L1_CEILING, L1_CEILING)
    norm = f.abs().sum(dim=1, keepdim=True)
    return f, K / torch.where(norm > L1_FLOOR, norm, K)
