"""Small networks of R replicas at once: parameters carry a leading axis R; their derivatives in x by hand."""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lossatlas.nets.mlp import MLP


# ---------------------------------------------------------------- activations: value, first and second derivative
def _tanh(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = z.tanh()
    slope = 1 - t * t
    return t, slope, -2 * t * slope


def _silu(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = z.sigmoid()
    rest = s * (1 - s)
    return z * s, s + z * rest, rest * (2 + z * (1 - 2 * s))


def _gelu(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    below, density = torch.special.ndtr(z), torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return z * below, below + z * density, density * (2 - z * z)


def _relu(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return z.relu(), (z > 0).to(z.dtype), torch.zeros_like(z)


def _softplus(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = z.sigmoid()
    return functional.softplus(z), s, s * (1 - s)


def _sin(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = z.sin()
    return s, z.cos(), -s


ACTIVATIONS: dict[
    str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]
] = {
    "silu": (functional.silu, _silu),
    "tanh": (torch.tanh, _tanh),
    "relu": (functional.relu, _relu),
    "gelu": (functional.gelu, _gelu),
    "softplus": (functional.softplus, _softplus),
    "sin": (torch.sin, _sin),
}


class ReplicaBatchNorm(nn.Module):
    """nn.BatchNorm1d of R replicas, each over its own rows.

    Args:
        width: numbers of a row. eps, momentum: as in nn.BatchNorm1d.

    Shapes:
        (R, b, width) -> the same; b >= 2 in training.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(1, width)), nn.Parameter(torch.zeros(1, width))
        self.register_buffer("running_mean", torch.zeros(1, width))
        self.register_buffer("running_var", torch.ones(1, width))

    def forward(self, x: Float[Tensor, "R b w"]) -> Float[Tensor, "R b w"]:
        R, b, w = x.shape
        # channel r w + k of one batch norm is number k of replica r: torch's fused kernel does all of them
        rows = x.transpose(0, 1).reshape(b, R * w)
        out = functional.batch_norm(
            rows,
            self.running_mean.view(-1),  # views, so that training moves the buffers
            self.running_var.view(-1),
            self.weight.reshape(-1),
            self.bias.reshape(-1),
            self.training,
            self.momentum,
            self.eps,
        )
        return out.view(b, R, w).transpose(0, 1)


class ReplicaMLP(nn.Module):
    """Linear layers with an activation between them; replica r sees its own rows and its own weights. R = 1 as built.

    Args:
        widths: of input, hidden layers and output, two at least.
        rng: of the initial weights, uniform within gain / sqrt(fan in), biases within 1 / sqrt(fan in).
        last: factor on the last layer's initial weights and biases.
        activation: silu, tanh, relu, gelu, softplus or sin.
        gain: factor on all initial weights, > 0; sqrt(6) keeps the variance behind a ReLU (He).
        norm, order: batch norm as in `nets.MLP`.

    Shapes:
        (R, b, widths[0]) -> (R, b, widths[-1]).

    Raises:
        ValueError: fewer than two widths, one below 1, an unknown activation, norm or order, gain out of range.

    Example:
        >>> ReplicaMLP([2, 8, 1], torch.Generator())(torch.zeros(1, 5, 2)).shape
        torch.Size([1, 5, 1])
    """

    def __init__(
        self,
        widths: Sequence[int],
        rng: torch.Generator,
        last: float = 1.0,
        activation: str = "silu",
        gain: float = 1.0,
        norm: str | None = None,
        order: str = "norm_act",
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(
                f"ReplicaMLP needs the widths of input and output at least, all >= 1, got {list(widths)}"
            )
        if activation not in ACTIVATIONS or not 0 < gain < math.inf:
            raise ValueError(
                f"ReplicaMLP needs gain > 0 and one of {[*ACTIVATIONS]}, got {gain=}, {activation=}"
            )
        if norm not in (None, "batch") or order not in ("norm_act", "act_norm"):
            raise ValueError(
                f"ReplicaMLP needs norm null or batch, order norm_act or act_norm, got {norm=}, {order=}"
            )
        self.activation, self.order = activation, order
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in pairwise(widths):
            bound = before**-0.5
            self.weights.append((torch.rand(1, before, after, generator=rng) * 2 - 1) * (gain * bound))
            self.biases.append((torch.rand(1, 1, after, generator=rng) * 2 - 1) * bound)
        for part in (self.weights[-1], self.biases[-1]):
            part.data *= last
        self.norms = nn.ModuleList(ReplicaBatchNorm(width) for width in widths[1:-1] if norm)

    @classmethod
    def of(cls, nets: Sequence[MLP]) -> "ReplicaMLP":
        """The replicas of R MLPs of one shape: same parameters and statistics, copied; `read_back` returns them.

        Example:
            >>> nets = [MLP(3, [4], 2, norm="batch") for _ in range(5)]
            >>> whole = ReplicaMLP.of(nets)
            >>> whole(torch.randn(5, 6, 3)).shape, whole.weights[0].shape
            (torch.Size([5, 6, 2]), torch.Size([5, 3, 4]))
        """
        first = nets[0]
        if any(str(net) != str(first) or net.order != first.order for net in nets):
            raise ValueError("ReplicaMLP.of needs networks of equal layers")
        linear = [m for m in first if isinstance(m, nn.Linear)]
        widths = [linear[0].in_features, *(m.out_features for m in linear)]
        whole = cls(
            widths, torch.Generator(), activation=first.activation, norm=first.norm, order=first.order
        )
        for into, parts in whole._pairs(nets):
            joined = torch.stack([t.detach() for t in parts])
            if into.ndim == 3:  # linear layers: (out, in) turned, (out) as a row
                joined = joined.mT if joined.ndim == 3 else joined[:, None]
            into.data = joined.contiguous()
        return whole.train(first.training)

    @torch.no_grad()
    def read_back(self, nets: Sequence[MLP]) -> None:
        """Copies parameters and statistics of replica r into nets[r]."""
        for source, parts in self._pairs(nets):
            for r, part in enumerate(parts):
                value = source[r]
                if source.ndim == 3:
                    value = value.mT if part.ndim == 2 else value[0]
                part.copy_(value)

    def _pairs(self, nets: Sequence[MLP]) -> list[tuple[Tensor, list[Tensor]]]:
        """Each tensor here with those of the networks."""
        found = []
        for kind, own in (
            (nn.Linear, zip(self.weights, self.biases, strict=True)),
            (nn.BatchNorm1d, self.norms),
        ):
            theirs = [[m for m in net if isinstance(m, kind)] for net in nets]
            for here, parts in zip(own, zip(*theirs, strict=True), strict=True):
                if isinstance(here, tuple):
                    tensors = {"weight": here[0], "bias": here[1]}
                else:
                    tensors = {n: getattr(here, n) for n in ("weight", "bias", "running_mean", "running_var")}
                found += [(t, [getattr(m, name) for m in parts]) for name, t in tensors.items()]
        return found

    def forward(self, x: Float[Tensor, "R b d"]) -> Float[Tensor, "R b K"]:
        """Outputs of every replica."""
        act = ACTIVATIONS[self.activation][0]
        for k, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            if k and not self.norms:
                x = act(x)
            elif k:
                norm = self.norms[k - 1]
                x = act(norm(x)) if self.order == "norm_act" else norm(act(x))
            x = torch.baddbmm(b, x, W)
        return x


# ---------------------------------------------------------------- derivatives in x
class Derivatives(NamedTuple):
    """Value (..., b, K), Jacobian (..., b, K, d) and, at order 2, Laplacian (..., b, K), the trace of the Hessian."""

    value: Tensor
    jacobian: Tensor
    laplacian: Tensor | None


def forward_derivatives(net: ReplicaMLP | MLP, x: Float[Tensor, "*R b d"], order: int = 1) -> Derivatives:
    """Value, Jacobian and Laplacian of a network in x, carried through its layers side by side.

    With h = s(z): d_j h = s'(z) d_j z and lap h = s'(z) lap z + s''(z) sum_j (d_j z)^2; linear layers act on all of
    them in one product. Autograd through the results reaches parameters and x.

    Args:
        net: without batch norm (whose output is not a function of one row).
        x: (R, b, d) for replicas, (b, d) for an MLP.
        order: 1 or 2.

    Shapes:
        value (.., b, K), jacobian (.., b, K, d), laplacian (.., b, K) or None at order 1.

    Raises:
        ValueError: another order, a network with batch norm, or x of another shape.

    Example:
        >>> net = ReplicaMLP([2, 1], torch.Generator())  # linear
        >>> found = forward_derivatives(net, torch.randn(1, 4, 2), order=2)
        >>> bool((found.jacobian[0, 0, 0] == net.weights[0][0, :, 0]).all()), found.laplacian.abs().max().item()
        (True, 0.0)
    """
    plain = isinstance(net, MLP)
    if order not in (1, 2) or x.ndim != (2 if plain else 3):
        raise ValueError(
            f"forward_derivatives needs order 1 or 2 and x (b, d) or (R, b, d), got {order=}, {x.shape}"
        )
    if net.norm is not None if plain else len(net.norms) > 0:
        raise ValueError("forward_derivatives needs a network without batch norm, which mixes the rows")
    if plain:
        linear = [m for m in net if isinstance(m, nn.Linear)]
        layers = [(m.weight.mT[None], m.bias[None, None]) for m in linear]
        x = x[None]
    else:
        layers = list(zip(net.weights, net.biases, strict=True))
    value, jacobian, laplacian = _carried(layers, ACTIVATIONS[net.activation][1], x, order)
    if not plain:
        return Derivatives(value, jacobian, laplacian)
    return Derivatives(value[0], jacobian[0], None if laplacian is None else laplacian[0])


def _carried(
    layers: Sequence[tuple[Tensor, Tensor]],
    derivatives: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    x: Float[Tensor, "R b d"],
    order: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    (R, b, d), (W, bias) = x.shape, layers[0]
    value = torch.baddbmm(bias, x, W)
    slopes = W[:, :, None].expand(R, d, b, W.shape[2])  # the Jacobian's columns, the same at every row
    bends = torch.zeros_like(value)
    for W, bias in layers[1:]:
        h, first, second = derivatives(value)
        rows = [h[:, None], first[:, None] * slopes]
        if order == 2:
            rows.append((first * bends + second * slopes.square().sum(1))[:, None])
        stacked = torch.cat(rows, dim=1)  # (R, 1 + d + 1, b, width): one product a layer
        out = torch.bmm(stacked.flatten(1, 2), W).unflatten(1, (-1, b))
        value, slopes, bends = out[:, 0] + bias, out[:, 1 : d + 1], out[:, -1]
    return value, slopes.permute(0, 2, 3, 1), bends if order == 2 else None


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
