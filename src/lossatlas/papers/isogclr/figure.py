"""The figure: learned temperatures by class size, on the sphere and on images; accuracy by class and over the grid."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from scipy.stats import t

from lossatlas.paths import conf_dir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas has no stubs here

IMAGES, SPHERE = "isogclr_longtail", "isogclr_sphere"
SETTINGS = ("low", "middle", "high")
SIZE = 10  # points, everywhere


def figure(records: "DataFrame") -> "Figure":
    """Box plots of tau by class size, accuracy by class, top-1 over the grids of tau and rho."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from lossatlas.study import arm_styles

    every = arm_styles(records)
    records = records[records["status"] == "done"]
    styles = {arm: every[arm] for arm in ("isogclr", "simclr") if arm in every}
    keys = (
        "font.size",
        "axes.titlesize",
        "axes.labelsize",
        "xtick.labelsize",
        "ytick.labelsize",
        "legend.fontsize",
    )
    with rc_context(dict.fromkeys(keys, SIZE)):
        fig = Figure(figsize=(11, 7.6), layout="constrained")
        axes = fig.subplots(2, 2)
        images = records[records["experiment"] == IMAGES]
        _temperatures(
            axes[0, 0], _at(records[records["experiment"] == SPHERE], "rho", "0.4"), "sphere, rho .4"
        )
        tuned = _tuned()
        own = images[images["arm"] == "isogclr"]
        _temperatures(axes[0, 1], _at(own, "setting", tuned["isogclr"]), "images, rho tuned")
        _accuracy(axes[1, 0], images, tuned, styles)
        _grid(axes[1, 1], images, styles)
        for ax in axes.flat:
            ax.grid(axis="y", alpha=0.3)
    return fig


def _tuned() -> dict[str, str]:
    found = yaml.safe_load((conf_dir() / "experiment" / f"{IMAGES}.yaml").read_text())["tuned"]
    return {arm: values["all"]["setting"] for arm, values in found.items()}


def _at(rows: "DataFrame", key: str, value: str) -> "DataFrame":
    return rows[rows[key].astype(str) == value] if key in rows else rows.iloc[:0]


def _extras(rows: "DataFrame", name: str) -> list[Any]:
    return [extra[name] for extra in map(json.loads, rows["extras"][rows["extras"] != ""]) if name in extra]


def _temperatures(ax: Any, rows: "DataFrame", title: str) -> None:
    """Boxes from head to tail: each of their five numbers is its mean over seeds."""
    ax.set(title=title, xlabel="class size (samples)", ylabel=r"learned temperature $\tau_i$")
    found = _extras(rows, "tau")
    if not found:
        return
    cuts, sizes = np.mean(found, axis=0), _extras(rows, "sizes")[0]
    names = ("whislo", "q1", "med", "q3", "whishi")
    stats = [{**dict(zip(names, row, strict=True)), "fliers": []} for row in cuts]
    ax.bxp(stats, positions=range(len(stats)), widths=0.6, showfliers=False, patch_artist=True,
           boxprops={"facecolor": "#0072B2", "alpha": 0.5}, medianprops={"color": "black"})  # fmt: skip
    ax.set_xticks(range(len(sizes)), sizes)
    ax.set_title(f"{title}: quartiles, 5 and 95 %, mean of {len(found)} seeds")


def _accuracy(ax: Any, images: "DataFrame", tuned: dict[str, str], styles: dict[str, dict[str, str]]) -> None:
    """Mean over seeds with 95 % t intervals, each arm at its tuned value."""
    ax.set(
        title="long-tailed Fashion-MNIST, each arm tuned",
        xlabel="class size (images)",
        ylabel="probe accuracy",
    )
    for i, (arm, style) in enumerate(styles.items()):
        rows = _at(images[images["arm"] == arm], "setting", tuned[arm])
        found = np.array(_extras(rows, "accuracy"), dtype=float)
        if len(found):
            place = np.arange(found.shape[1]) + 0.16 * (i - 0.5)
            ax.errorbar(place, found.mean(0), _half(found), label=arm, capsize=2, ls="", **style)
            ax.set_xticks(range(found.shape[1]), _extras(rows, "sizes")[0])
            ax.set_ylim(top=1.02)  # an interval over seeds, whose rare classes differ, may pass 1
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False)


def _grid(ax: Any, images: "DataFrame", styles: dict[str, dict[str, str]]) -> None:
    """Top-1 at the three values of each arm."""
    labels = ["tau .1 / rho .1", "tau .3 / rho .4", "tau .5 / rho .8"]
    ax.set(title="long-tailed Fashion-MNIST", xlabel="tau of simclr / rho of isogclr", ylabel="probe top-1")
    for i, (arm, style) in enumerate(styles.items()):
        rows = images[images["arm"] == arm]
        groups = [_at(rows, "setting", at).get("linear/top1", np.array([])) for at in SETTINGS]
        means = [np.mean(g) if len(g) else np.nan for g in groups]
        half = [float(_half(np.array(g)[:, None])[0]) if len(g) else np.nan for g in groups]
        ax.errorbar(np.arange(3) + 0.1 * (i - 0.5), means, half, label=arm, capsize=2, **style)
    ax.set_xticks(range(3), labels)
    ax.margins(x=0.15)
    if styles:
        ax.legend(frameon=False)


def _half(values: np.ndarray) -> np.ndarray:
    """Half-widths of 95 % t intervals over the first axis, 0 for a single value."""
    n = len(values)
    return t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(values.shape[1:])
