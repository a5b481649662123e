"""Small parts of figures on generative models: sample grids, bands of curves, densities under points."""

from __future__ import annotations

from typing import Any

import numpy as np


def sample_grid(ax: Any, images: np.ndarray, columns: int, gap: int = 1) -> None:
    """Grey images side by side, row by row, on axes without ticks.

    Args:
        images: (n, h, w) in [0, 1], 1 is black. columns: >= 1. gap: white pixels between images.
    """
    n, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap))
    for k, image in enumerate(images):
        top, left = (k // columns) * (h + gap), (k % columns) * (w + gap)
        sheet[top : top + h, left : left + w] = image
    ax.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])


def band(ax: Any, x: Any, curves: Any, **style: Any) -> None:
    """Mean of curves (runs, points) with its 95 % interval over runs; points that a run lacks (NaN) are left out.

    Args:
        style: of the line, such as an entry of `arm_styles` and a label.
    """
    from scipy import stats

    values = np.asarray(curves, float)
    n = np.isfinite(values).sum(axis=0)
    mean = np.nanmean(values, axis=0)
    (line,) = ax.plot(x, mean, **style)
    if values.shape[0] > 1:
        spread = np.nanstd(values, axis=0, ddof=1) / np.sqrt(n)
        half = stats.t.ppf(0.975, np.maximum(n - 1, 1)) * spread
        ax.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.2, lw=0)


def contours(ax: Any, log_density: Any, reach: float, points: int = 120) -> None:
    """Grey contours of a density on the square [-reach, reach]^2.

    Args:
        log_density: (n, 2) array -> (n,).
    """
    side = np.linspace(-reach, reach, points)
    X, Y = np.meshgrid(side, side)
    log_p = np.asarray(log_density(np.stack([X.ravel(), Y.ravel()], axis=1))).reshape(X.shape)
    top = log_p.max()
    ax.contour(X, Y, log_p, levels=[top - 6.8, top - 4.5, top - 0.5], colors="#767676", linewidths=0.8)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
