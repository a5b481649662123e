"""Multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
ORDERS = ("norm_act", "act_norm")
INITS = ("torch", "he")


class MLP(nn.Sequential):
    """Linear layers with one activation between them, on request with batch norm before or behind it.

    Many replicas with batch norm train faster as one `replicas.ReplicaMLP.of(nets)` than under vmap.

    Args:
        d: width of the input, >= 1.
        hidden: widths of the hidden layers; empty for a linear model.
        classes: number of outputs K, >= 1.
        activation: tanh, relu, gelu or silu.
        norm: None, or "batch" for nn.BatchNorm1d at every hidden layer (a mini-batch then has two rows at least).
        order: "norm_act" puts it between linear layer and activation, "act_norm" behind the activation.
        init: "torch", its default, or "he": weights N(0, 2 / fan in), biases 0 (He et al. 2015, eq. 10).

    Shapes:
        (b, d) float -> (b, K) float; `features` (b, last hidden width).

    Raises:
        ValueError: unknown activation, norm, order or init.

    Example:
        >>> import torch
        >>> net = MLP(16, [16, 8], 26, norm="batch", order="act_norm")
        >>> net(torch.zeros(2, 16)).shape, net.features(torch.zeros(2, 16)).shape
        (torch.Size([2, 26]), torch.Size([2, 8]))
    """

    def __init__(
        self,
        d: int,
        hidden: Sequence[int],
        classes: int,
        activation: str = "tanh",
        norm: str | None = None,
        order: str = "norm_act",
        init: str = "torch",
    ) -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP knows the activations {', '.join(ACTIVATIONS)}, got {activation!r}")
        if norm not in (None, "batch") or order not in ORDERS or init not in INITS:
            raise ValueError(
                f"MLP needs norm null or batch, order {' or '.join(ORDERS)} and init {' or '.join(INITS)}, got "
                f"{norm=}, {order=}, {init=}"
            )
        widths = [d, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            behind: list[nn.Module] = [ACTIVATIONS[activation]()]
            if norm:
                behind.insert(0 if order == "norm_act" else 1, nn.BatchNorm1d(after))
            layers += [nn.Linear(before, after), *behind]
        super().__init__(*layers, nn.Linear(widths[-1], classes))
        self.activation, self.norm, self.order = activation, norm, order
        for layer in self if init == "he" else ():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def features(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b F"]:
        """What the last linear layer reads."""
        for layer in list(self)[:-1]:
            x = layer(x)
        return x

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b K"]:
        """Scores of a batch."""
        return super().forward(x)
