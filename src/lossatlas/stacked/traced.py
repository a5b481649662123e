"""A function of tensors as the flat list of operations it came down to: most of a small net's step is overhead.

One vectorised step of a small net is some hundred calls of a few microseconds each, and vmap, functional_call and
autograd spend more on finding out what to call than the calls take. They find the same every time, so they are asked
once: `make_fx` writes the calls down, and later steps replay them.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

Function = Callable[..., list[Tensor | None]]
PLAIN = (bool, int, float, str, type(None))
MOST = 16  # records: where the key never comes back, writing them down costs more than it saves


class Traced:
    """Replays `function`, which is written down once for every key and every shape of its arguments.

    What the function does must follow from its arguments and the key alone: numbers and branches in Python are
    frozen into the record. Changes it makes to its arguments in place are replayed; random numbers are drawn anew.

    Args:
        function: of tensors, returns a list of tensors or None.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        self._records: dict[Hashable, Function] = {}

    def __call__(self, key: Hashable, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        full = (key, tuple((t.shape, t.dtype, t.device) for t in tensors))
        if full not in self._records:
            if len(self._records) >= MOST:
                return self.function(*tensors)
            self._records[full] = _written_down(self.function, tensors)
        return self._records[full](*tensors)


def _written_down(function: Function, tensors: Sequence[Tensor]) -> Function:
    """The record made on copies, and from a copy of the random state: being written down changes nothing."""
    copies = [t.detach().clone() for t in tensors]
    gpus = range(torch.cuda.device_count()) if any(t.is_cuda for t in copies) else []
    with torch.random.fork_rng(devices=gpus):
        record = make_fx(lambda *given: function(*given))(*copies)  # a bound method has one argument too many
    record.graph.eliminate_dead_code()
    record.recompile()
    return torch.no_grad()(record.forward)


def settings_of(module: nn.Module) -> tuple[tuple[str, str, Any], ...]:
    """The numbers, flags and names that a module and its parts hold as plain attributes: what a record froze."""
    return tuple(
        (name, key, value)
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, PLAIN)
    )
