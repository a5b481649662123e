"""The figure of the hl_gauss study: error by noise, last and best epoch; fit by phase; returns by frames."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

ARMS = ("mse", "huber", "mse_categorical", "two_hot", "hl_gauss", "c51")
NOISES = {
    "u000": "none", "u050": "uniform\n.5", "u100": "uniform\n1", "u200": "uniform\n2", "t025": "Student\n.25",
    "t050": "Student\n.5",
}  # fmt: skip


def figure(records: "DataFrame") -> "Figure":
    """Two panels of the noisy targets, one of the moving ones, learning curves of games, as far as they have been run.

    Args:
        records: tidy rows of the experiments.
    """
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles

    styles = arm_styles(records)
    done = records[records["status"] == "done"]
    noisy, moving, played = (
        done[done["experiment"] == f"hl_gauss_{name}"] for name in ("noise", "plasticity", "minatar")
    )
    games = [] if played.empty else list(played.groupby(["game", "frames"], sort=False))
    panels = max(2 * (not noisy.empty) + (not moving.empty) + len(games), 1)
    rows = 1 if panels <= 3 else -(-panels // 2)
    columns = -(-panels // rows)
    with plt.rc_context({"font.size": 10, "legend.fontsize": 10, "axes.grid": True, "grid.alpha": 0.3}):
        size = (4.8 * columns, 4.6 if rows == 1 else 3.9 * rows + 0.4)
        fig, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        axes = list(grid.flat)
        for ax in axes[panels:]:
            ax.remove()
        if not noisy.empty:
            _by_noise(axes[0], noisy, styles, "test/mse", "noisy targets: last epoch")
            _by_noise(axes[1], noisy, styles, "test/mse_best", "noisy targets: best validation epoch")
            axes[1].sharey(axes[0])
        if not moving.empty:
            _by_phase(axes[2 * (not noisy.empty)], moving, styles)
        for ax, ((game, frames), rows_of) in zip(axes[panels - len(games) :], games, strict=False):
            _by_frames(ax, rows_of, styles, f"DQN on {game}, {int(frames):_} frames".replace("_", " "))
        drawn: dict[str, Any] = {}
        for ax in axes:
            for line, label in zip(*ax.get_legend_handles_labels(), strict=True):
                drawn.setdefault(label, line)
        if drawn:
            names = [arm for arm in ARMS if arm in drawn]
            fig.legend(
                [drawn[arm] for arm in names],
                names,
                loc="outside lower center",
                ncols=len(names),
                frameon=False,
            )
    return fig


def _by_noise(ax: Any, rows: "DataFrame", styles: Any, metric: str, title: str) -> None:
    """Geometric mean and 95 % interval of the clean test error, arms side by side within a noise."""
    ax.set(yscale="log", ylabel="clean test MSE", title=title, xlabel="noise, size L")
    _plain(ax)
    rows = rows[rows[metric].notna()] if metric in rows else rows.iloc[:0]
    names = [name for name in NOISES if name in set(rows.get("target_noise", []))]
    arms = [arm for arm in ARMS if arm in set(rows["arm"])]
    for k, arm in enumerate(arms):
        mine = rows[rows["arm"] == arm]
        groups = [np.log(mine.loc[mine["target_noise"] == name, metric].to_numpy(float)) for name in names]
        x = np.arange(len(names)) + 0.7 * ((k + 0.5) / len(arms) - 0.5)
        _points(ax, x, groups, styles[arm], label=arm, ls="")
    ax.set_xticks(range(len(names)), [NOISES[name] for name in names])


def _by_phase(ax: Any, rows: "DataFrame", styles: Any) -> None:
    """Geometric mean and 95 % interval of the error of the fit at the end of each phase."""
    ax.set(
        yscale="log",
        ylabel="MSE of the fit at the phase's end",
        title="moving targets",
        xlabel="phase: offset b",
    )
    _plain(ax)
    told: list[float] = []
    for arm in ARMS:
        runs = [
            json.loads(text) for text in rows.loc[(rows["arm"] == arm) & (rows["extras"] != ""), "extras"]
        ]
        if runs:
            told = runs[0]["offsets"]
            _points(
                ax,
                np.arange(len(told)),
                list(np.log([run["fit"] for run in runs]).T),
                styles[arm],
                label=arm,
                lw=1.2,
            )
    ax.set_xticks(range(len(told)), [f"{b:g}" for b in told])


def _by_frames(ax: Any, rows: "DataFrame", styles: Any, title: str) -> None:
    """Interquartile mean over runs of the training return, and its 95 % bootstrap interval.

    A panel is one game, so the strata of a stratified bootstrap, the games, are resampled each on its own.
    """
    from scipy.stats import bootstrap, trim_mean

    def iqm(x: Any, axis: int) -> Any:
        return trim_mean(x, 0.25, axis=axis)

    ax.set(xlabel="frames", ylabel="return (interquartile mean)", title=title)
    for arm in ARMS:
        told = rows.loc[(rows["arm"] == arm) & (rows["extras"] != ""), "extras"]
        runs = [
            dict(zip(curve["frames"], curve["return"], strict=True))
            for curve in (json.loads(text)["curve"] for text in told)
        ]
        if not runs:
            continue
        frames = sorted(set(runs[0]).intersection(*runs))  # a point may lack an episode that ended
        x = np.array([[run[f] for f in frames] for run in runs])
        colour = styles[arm]["color"]
        ax.plot(frames, iqm(x, 0), color=colour, label=arm, lw=1.5)
        if len(runs) > 1:
            low, high = bootstrap(
                (x,), iqm, axis=0, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
            ).confidence_interval
            ax.fill_between(frames, low, high, color=colour, alpha=0.2, lw=0)


def _plain(ax: Any) -> None:
    """Decimals at 1, 2 and 5 of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _points(ax: Any, x: Any, groups: "list[Any]", drawn: dict[str, str], **style: Any) -> None:
    """exp of the mean of logarithms, with the interval of that mean."""
    from scipy.stats import sem, t

    mean = np.array([g.mean() for g in groups])
    half = np.array([t.ppf(0.975, len(g) - 1) * sem(g) if len(g) > 1 else 0.0 for g in groups])
    bars = [np.exp(mean) - np.exp(mean - half), np.exp(mean + half) - np.exp(mean)]
    ax.errorbar(x, np.exp(mean), bars, ms=5, capsize=3, **drawn, **style)
