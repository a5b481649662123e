"""Looking into a network: inputs, outputs and output gradients of named layers, and outputs replaced on the way.

Layers are named as in `net.named_modules()`. A layer that returns a tuple (a transformer's block) is seen and replaced
by its first entry, the residual stream.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from lossatlas.errors import UserError
from lossatlas.schema import nearest


@dataclass
class Tapped:
    """What went through the layers in the last forward and backward pass, by name.

    Args:
        inputs: the first positional argument of the layer, detached.
        outputs: its output, detached.
        gradients: the derivative of what `backward` was called on by the output; after the backward pass only.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


def layers(net: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules with these names.

    Raises:
        UserError: a name that the network has not, with the nearest ones.
    """
    known = dict(net.named_modules())
    for name in names:
        if name not in known or not name:
            raise UserError(f"no layer {name!r}; {nearest(name, filter(None, known))}")
    return {name: known[name] for name in names}


@contextmanager
def tap(net: nn.Module, names: Sequence[str]) -> Iterator[Tapped]:
    """Records named layers while the block runs.

    The gradient is that of the layer's output where the pass that made it recorded gradients.

    Args:
        net: any network.
        names: of its layers.

    Raises:
        UserError: a name that the network has not.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> with tap(net, ["0"]) as tapped:
        ...     net(torch.rand(5, 2)).sum().backward()
        >>> weight = tapped.gradients["0"].T @ tapped.inputs["0"]
        >>> torch.testing.assert_close(weight, net[0].weight.grad)
    """
    tapped = Tapped()

    def hook(name: str) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            out = _first(output)
            tapped.outputs[name] = out.detach()
            if args and isinstance(args[0], Tensor):
                tapped.inputs[name] = args[0].detach()
            if out.requires_grad:
                out.register_hook(lambda gradient: tapped.gradients.__setitem__(name, gradient.detach()))

        return see

    with ExitStack() as stack:
        for name, layer in layers(net, names).items():
            stack.callback(layer.register_forward_hook(hook(name)).remove)
        yield tapped


@contextmanager
def patched(net: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replaces a layer's output by `change(output)` while the block runs; the layers behind it see the change.

    Args:
        net: any network.
        name: of the layer.
        change: keeps the shape.

    Raises:
        UserError: a name that the network has not, or a change of shape.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> with patched(net, "0", torch.zeros_like):
        ...     float(net(torch.rand(1, 2)).sum())
        0.0
    """

    def replace(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        old = _first(output)
        new = change(old)
        if new.shape != old.shape:
            raise UserError(
                f"a patch keeps the shape {tuple(old.shape)} of layer {name!r}, got {tuple(new.shape)}"
            )
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = layers(net, [name])[name].register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
