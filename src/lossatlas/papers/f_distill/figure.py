"""The figure of the f-distill study: width of the Gaussian student, modes over steps, samples, digits."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.study.panels import band, contours, sample_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

ORDER = ("srkl", "rkl", "jeffreys", "hellinger", "js", "fkl")
SHOWN = ("rkl", "js", "fkl")
SEEDS = 3  # whose samples are drawn over each other: the first ones
# conditions of the study itself; what the extended grid varies has no place in the figure
CORE = {"normalise": "mean", "clip": "6.0", "target": "ring8", "ratio": "learned", "weighting": "sigma2"}


def figure(records: "DataFrame") -> "Figure":
    """Width of the Gaussian student by arm, modes covered over steps; below, samples in the plane and digits."""
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles

    styles = arm_styles(records)
    done = core(records[records["status"] == "done"])
    gauss, modes, digits = (
        done[done["experiment"] == f"f_distill_{n}"] for n in ("gauss", "modes", "digits")
    )
    with plt.rc_context({"font.size": 11}):
        fig: Any = plt.figure(figsize=(13, 11.5 if len(digits) else 8), layout="constrained")
        heights = [1, 1.05, 0.95] if len(digits) else [1, 1.05]
        rows = fig.subfigures(len(heights), 1, height_ratios=heights)
        left, middle, right = rows[0].subplots(1, 3)
        _widths(left, gauss, styles)
        _modes(middle, modes, styles)
        _variance(right, modes, styles)
        for ax, arm in zip(rows[1].subplots(1, 3), SHOWN, strict=True):
            _samples(ax, modes[modes["arm"] == arm], arm, styles)
        if len(digits):
            _digits(rows[2], digits, styles)
    return fig


def core(rows: "DataFrame") -> "DataFrame":
    """The rows of the study's own conditions."""
    for key, value in CORE.items():
        if key in rows:
            rows = rows[rows[key].isin([value, ""]) | rows[key].isna()]
    return rows


def _widths(ax: Any, rows: "DataFrame", styles: dict[str, dict[str, str]]) -> None:
    """A dot is a seed."""
    arms = [arm for arm in ORDER if arm in set(rows["arm"])]
    for k, arm in enumerate(arms):
        s = rows.loc[rows["arm"] == arm, "test/s"].to_numpy(float)
        shift = np.linspace(-0.25, 0.25, len(s)) if len(s) > 1 else np.zeros(1)
        ax.plot(k + shift, s, ls="", ms=5, alpha=0.7, **styles[arm])
    ax.axhline(1.55, color="#767676", ls=":")
    ax.text(-0.4, 1.56, "teacher's", color="#555555", va="bottom")
    ax.set_xticks(range(len(arms)), arms)
    ax.set(title="Gaussian student, all exact", ylabel="final width s")


def _modes(ax: Any, rows: "DataFrame", styles: dict[str, dict[str, str]]) -> None:
    for arm in SHOWN:
        runs = _extras(rows[rows["arm"] == arm])
        if runs:
            curves = [run["curve"]["modes"] for run in runs]
            x = np.arange(len(curves[0])) * runs[0]["steps"]
            band(ax, x, curves, label=arm, ms=4, **styles[arm])
    ax.set(title="ring, all learned", xlabel="generator step", ylabel="modes covered of 8")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, loc="lower right")


def _variance(ax: Any, rows: "DataFrame", styles: dict[str, dict[str, str]]) -> None:
    """Quality against the second moment; a dot is a seed."""
    for arm in SHOWN:
        mine = rows[rows["arm"] == arm]
        if len(mine):
            x = np.exp(mine["test/second_moment"].to_numpy(float))
            ax.plot(x, mine["test/high_quality"], ls="", ms=5, alpha=0.7, label=arm, **styles[arm])
    ax.set(title="ring, all learned", xscale="log", xlabel="second moment of the update, over rkl's",
           ylabel="samples within 3 sd of a mode")  # fmt: skip


def _samples(ax: Any, rows: "DataFrame", arm: str, styles: dict[str, dict[str, str]]) -> None:
    import torch

    from lossatlas.diffusion import ring

    mixture = ring().double()
    contours(ax, lambda x: mixture.log_density(torch.from_numpy(x), torch.zeros(len(x), 1)).numpy(), 5.5)
    for run in _extras(rows.sort_values("seed").head(SEEDS)):
        x = np.array(run["samples"]).reshape(-1, 2) / 100
        ax.plot(*x.T, ls="", marker=".", ms=4, alpha=0.5, color=styles[arm]["color"])
    ax.set_title(f"{arm}: samples of the first {SEEDS} seeds")


def _digits(part: Any, rows: "DataFrame", styles: dict[str, dict[str, str]]) -> None:
    """Samples of the first seed of each arm, and precision against recall of all; the low noise is hollow."""
    arms = [arm for arm in SHOWN if arm in set(rows["arm"])]
    axes = part.subplots(1, len(arms) + 1, squeeze=False)[0]
    for ax, arm in zip(axes, arms, strict=False):
        mine = rows[(rows["arm"] == arm) & (rows["setting"] == "usual")]
        runs = _extras(mine.sort_values("seed").head(1))
        if runs:
            values = np.array([int(v, 16) for v in runs[0]["samples"]]).reshape(-1, 8, 8) / 15
            sample_grid(ax, values, 6)
        ax.set_title(f"{arm}: digits of the first seed")
    for (arm, setting), mine in rows.groupby(["arm", "setting"]):
        look = {
            **styles[arm],
            "ls": "",
            "alpha": 0.8,
            "mfc": styles[arm]["color"] if setting == "usual" else "none",
        }
        axes[-1].plot(mine["test/recall"], mine["test/precision"], label=f"{arm}, {setting} noise", **look)
    axes[-1].set(title="digits, classifier features", xlabel="recall", ylabel="precision")
    axes[-1].legend(frameon=False)


def _extras(rows: "DataFrame") -> list[dict[str, Any]]:
    return [json.loads(text) for text in rows["extras"] if isinstance(text, str) and text]
