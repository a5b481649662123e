"""What every loss does before its own formula: refuse what is not its own, and leave half precision behind.

Dtypes and shapes are looked at everywhere, values of labels and positions on the CPU alone: to read a number from a GPU
is to wait for it, at every step. There torch's own kernels stop at a label out of range. State per sample takes finite
values only, so that one bad mini-batch does not spoil its samples for good; a buffer `skipped`, which no checkpoint
needs, counts what was left out.
"""

import warnings

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor  # type: ignore[import-not-found]

HALF = (torch.float16, torch.bfloat16)


def in_float32(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, all else as it is; the gradient comes back in x's own type.

    Example:
        >>> in_float32(torch.ones(1, dtype=torch.float16)).square().mul(1e5)
        tensor([100000.])
    """
    return x.float() if x.dtype in HALF else x


def checked(f: Tensor, y: Tensor, name: str = "a loss") -> Float[Tensor, "n K"]:
    """Scores in a precision to compute in, of a loss of classes.

    Args:
        f: scores (n, K), floating, K >= 2.
        y: labels (n,) in [0, K), int64.
        name: of the loss, for the message.

    Raises:
        ValueError: other dtypes or shapes; on the CPU also a label outside [0, K).

    Example:
        >>> checked(torch.zeros(2, 3), torch.tensor([0, 3]))
        Traceback (most recent call last):
        ValueError: a loss needs labels y in 0..2, got 0..3
    """
    if (
        f.ndim != 2
        or f.shape[1] < 2
        or not f.is_floating_point()
        or y.dtype != torch.int64
        or y.shape != f.shape[:1]
    ):
        came = f"f {tuple(f.shape)} {f.dtype}, y {tuple(y.shape)} {y.dtype}"
        raise ValueError(f"{name} needs floating scores f (n, K >= 2) and int64 labels y (n,), got {came}")
    check_range(y, f.shape[1], f"{name} needs labels y in")
    return in_float32(f)


def checked_targets(
    f: Tensor, y: Tensor, m: int, name: str = "a loss"
) -> tuple[Float[Tensor, "n m"], Float[Tensor, " n"]]:
    """Outputs and numbers to learn in a precision to compute in, of a loss of regression.

    Args:
        f: outputs (n, m), floating.
        y: targets (n,), floating; (n, 1) would be subtracted from (n,) as a table (n, n).

    Raises:
        ValueError: other dtypes or shapes.
    """
    right = f.ndim == 2 and f.shape[1] == m and f.is_floating_point() and y.is_floating_point()
    if not right or y.shape != f.shape[:1]:
        came = f"{tuple(f.shape)} {f.dtype} and y {tuple(y.shape)} {y.dtype}"
        raise ValueError(f"{name} needs floating outputs (n, {m}) and floating targets y (n,), got {came}")
    return in_float32(f), in_float32(y)


def check_index(index: Tensor, b: int, n: int, name: str, once: bool = False) -> None:
    """Positions of a mini-batch in the training set, for a loss with state per sample.

    Args:
        index: positions (b,) in [0, n), int64.
        b: samples of the mini-batch.
        n: samples allocated for.
        once: whether no position may come twice (copies of a sample are no negatives of each other).

    Raises:
        ValueError: nothing allocated, other dtype or shape; on the CPU also a position out of range, or twice.
    """
    if n == 0:
        raise ValueError(f"{name} keeps state per sample: call allocate(n) before use, or pass n")
    if index.dtype != torch.int64 or index.shape != (b,):
        came = f"{tuple(index.shape)} {index.dtype} for {b} samples"
        raise ValueError(f"{name} needs index (b,) int64, one per sample, got {came}")
    check_range(index, n, f"{name} has {n} samples, index must lie in")
    if once and readable(index) and (repeated := b - len(torch.unique(index))):
        raise ValueError(f"{name} needs every sample once in a batch, got {repeated} repeated")


def check_range(y: Int[Tensor, "..."], K: int, what: str) -> None:
    """Integers in [0, K), where they can be read without waiting: otherwise they pass.

    Raises:
        ValueError: not so.
    """
    if y.numel() and readable(y):
        low, high = y.aminmax()
        if low < 0 or high >= K:
            raise ValueError(f"{what} 0..{K - 1}, got {int(low)}..{int(high)}")


def readable(x: Tensor) -> bool:
    """Whether a number of x can be read here and now: on the CPU, and not while vmap or a compiler looks on."""
    return (
        x.device.type == "cpu"
        and type(x) is Tensor
        and not is_functorch_wrapped_tensor(x)
        and not torch.compiler.is_compiling()
    )


@torch.no_grad()
def put_finite(
    state: Float[Tensor, " N"], index: Int[Tensor, " n"], new: Float[Tensor, " n"]
) -> Bool[Tensor, " n"]:
    """state[index] = new, in place, where new is finite; elsewhere what was there stays. Returns where it was finite.

    Example:
        >>> state = torch.zeros(3)
        >>> put_finite(state, torch.tensor([2, 0]), torch.tensor([1.0, torch.nan])), state
        (tensor([ True, False]), tensor([0., 0., 1.]))
    """
    new = new.to(state.dtype)
    good = new.isfinite()
    state[index] = torch.where(good, new, state[index])
    return good


def tell_skipped(loss: nn.Module | None) -> int:
    """How many updates of a loss's state were left out as not finite, with a warning where there were any.

    The sum of the buffers called `skipped`; waits for a GPU, so it belongs at an epoch's or a run's end.
    """
    named = [] if loss is None else loss.named_buffers()
    count = sum(int(buffer) for name, buffer in named if name.rpartition(".")[2] == "skipped")
    if count:
        warnings.warn(
            f"{type(loss).__name__} left out {count} updates of its state that were not finite: those samples keep"
            " what they had",
            stacklevel=2,
        )
    return count
