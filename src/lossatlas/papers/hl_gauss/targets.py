"""Numbers to be learnt from images: values of a fixed random network, noisy or hashed.

The network is computed in float64: sin(1e5 f) of a float32 f would differ between machines.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from scipy.stats import t as student
from torch import Tensor

from lossatlas.data import Data, Split
from lossatlas.seeding import stream

NOISES = ("uniform", "student")
FREEDOM = 1.5  # degrees of Student's t: a mean, no variance


def random_values(x: Float[Tensor, "n d"], hidden: int = 64) -> Float[Tensor, " n"]:
    """f(x), float64, of the random ReLU network d - hidden - 1 that every run and seed shares.

    Args:
        x: inputs, float64.
        hidden: width, >= 1.
    """
    g, d = stream(0, "hl_gauss/f"), x.shape[1]

    def uniform(fan_in: int, *shape: int) -> Tensor:  # torch's default of a linear layer
        return (2 * torch.rand(*shape, generator=g, dtype=torch.float64) - 1) / math.sqrt(fan_in)

    W, b, v, c = uniform(d, d, hidden), uniform(d, hidden), uniform(hidden, hidden), uniform(hidden, 1)
    return torch.relu(x @ W + b) @ v + c


def noisy_values(data: Data, noise: str, L: float, seed: int) -> Data:
    """Targets tanh((f - mean) / std) with noise on those of training and validation; the test ones stay clean.

    Args:
        data: images or rows; its labels are not used.
        noise: uniform (on [-L, L]) or student (L times Student's t with 1.5 degrees of freedom).
        L: size of the noise, >= 0; 0 is none.
        seed: of the noise, >= 0.

    Returns:
        The same inputs with float32 targets, classes = 0.

    Raises:
        ValueError: unknown noise, or L.
    """
    if noise not in NOISES or not 0 <= L < math.inf:
        raise ValueError(f"noise is one of {', '.join(NOISES)} with a finite L >= 0, got {noise=}, {L=}")
    f = {name: random_values(_inputs(data, rows)) for name, rows in _splits(data).items()}
    mean, std = f["train"].mean(), f["train"].std()
    made = {}
    for name, rows in _splits(data).items():
        y = torch.tanh((f[name] - mean) / std)
        clean = given = y.float()
        if L > 0 and name != "test":
            u = torch.rand(len(y), generator=stream(seed, f"hl_gauss/noise/{name}"), dtype=torch.float64)
            drawn = 2 * u - 1 if noise == "uniform" else torch.from_numpy(student.ppf(u, FREEDOM))
            given = (y + L * drawn).float()
        made[name] = Split(rows.x, given, clean)
    return replace(data, classes=0, **made)


def hashed_values(data: Data, M: float) -> Data:
    """Targets sin(M f): for large M a number per image that its neighbours tell nothing about.

    Args:
        data: images or rows; its labels are not used.
        M: > 0.

    Returns:
        The same inputs with float32 targets, classes = 0.

    Raises:
        ValueError: M.
    """
    if not 0 < M < math.inf:
        raise ValueError(f"the targets sin(M f) need a finite M > 0, got {M=}")
    made = {}
    for name, rows in _splits(data).items():
        y = torch.sin(M * random_values(_inputs(data, rows))).float()
        made[name] = Split(rows.x, y, y)
    return replace(data, classes=0, **made)


def _splits(data: Data) -> dict[str, Split]:
    named = {"train": data.train, "test": data.test, "val": data.val}
    return {name: split for name, split in named.items() if split is not None}


def _inputs(data: Data, split: Split) -> Tensor:
    """Rows as the net sees them, flat, float64."""
    return data.batch(split, torch.arange(len(split)), train=False).x.flatten(1).double()
