"""Small networks of R replicas at once: parameters carry a leading axis R, R = 1 as built."""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ReplicaMLP(nn.Module):
    """Linear layers with SiLU between them; replica r sees its own rows and its own weights.

    Args:
        widths: of input, hidden layers and output, two at least.
        rng: of the initial weights, uniform within 1 / sqrt(fan in) as torch's own linear layers.
        last: factor on the last layer's initial weights.

    Shapes:
        (R, b, widths[0]) -> (R, b, widths[-1]).

    Raises:
        ValueError: fewer than two widths, or one below 1.

    Example:
        >>> ReplicaMLP([2, 8, 1], torch.Generator())(torch.zeros(1, 5, 2)).shape
        torch.Size([1, 5, 1])
    """

    def __init__(self, widths: Sequence[int], rng: torch.Generator, last: float = 1.0) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(
                f"ReplicaMLP needs the widths of input and output at least, all >= 1, got {list(widths)}"
            )
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(widths):
            bound = before**-0.5
            self.weights.append((torch.rand(1, before, after, generator=rng) * 2 - 1) * bound)
            self.biases.append((torch.rand(1, 1, after, generator=rng) * 2 - 1) * bound)
        for part in (self.weights[-1], self.biases[-1]):
            part.data *= last

    def forward(self, x: Float[Tensor, "R b d"]) -> Float[Tensor, "R b K"]:
        """Outputs of every replica."""
        for k, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(b, nn.functional.silu(x) if k else x, W)
        return x


class NoiseNet(nn.Module):
    """A ReplicaMLP that is told the noise level: it reads c(sigma) x and `embed(sigma)`.

    Args:
        d, out: numbers of a point and of the output. hidden: widths between.
        scale: sigma (R, b, 1) -> c. embed: sigma (R, b, 1) -> (R, b, n).
        rng: of the weights.
    """

    def __init__(
        self,
        d: int,
        out: int,
        hidden: Sequence[int],
        rng: torch.Generator,
        scale: Callable[[Tensor], Tensor],
        embed: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.scale, self.embed = scale, embed
        width = embed(torch.ones(1, 1, 1)).shape[-1]
        self.body = ReplicaMLP([d + width, *hidden, out], rng)

    def forward(self, x: Float[Tensor, "R b d"], sigma: Float[Tensor, "R b 1"]) -> Float[Tensor, "R b K"]:
        """Output at noised points."""
        return self.body(torch.cat([self.scale(sigma) * x, self.embed(sigma)], dim=-1))


def merge_replicas(modules: Sequence[Any], shared: Sequence[str]) -> Any:
    """One module whose parameters and buffers are those of the modules, concatenated along the axis R.

    Args:
        modules: R = 1 each, alike in all but numbers; not changed.
        shared: first words of the names that have no axis R; the first module's are kept.

    Raises:
        ValueError: parts of different shapes.
    """
    whole = copy.deepcopy(modules[0])
    held = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
    for name, value in held[0].items():
        if name.split(".")[0] in shared:
            continue
        parts = [other.get(name) for other in held]
        if any(part is None or part.shape != value.shape for part in parts):
            raise ValueError(f"stacked runs need equal sizes, {name} differs: stack them apart")
        path, _, leaf = name.rpartition(".")
        joined = torch.cat([part.detach() for part in parts if part is not None])
        owner = whole.get_submodule(path)
        if isinstance(value, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(joined, requires_grad=value.requires_grad))
        else:
            owner._buffers[leaf] = joined
    return whole
