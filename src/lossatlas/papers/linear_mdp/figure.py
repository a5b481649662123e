"""The figure: regret against episodes and actions, size of the estimates, two inverses of a covariance."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas has no stubs here

NAMES = {
    "log_barrier": "log-barrier",
    "magnitude_reduced": "reduced estimates",
    "dilated_hedge": "safe hedge (before)",
    "hedge_unsafe": "plain estimates",
    "reduced_safe": "reduced, safe rates",
    "uniform": "equal chances",
    "direct": "direct inverse",
    "resampling": "geometric resampling",
}


def figure(records: "DataFrame") -> "Figure":
    """Regret against episodes, the most negative estimate, regret against actions, errors of two inverses."""
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles
    from lossatlas.study.panels import rates

    styles = arm_styles(records)
    done = records[records["status"] == "done"]
    with plt.rc_context({"font.size": 11}):
        fig, axes = plt.subplots(2, 2, figsize=(13, 9.4), layout="constrained")
        regret, actions = (done[done["experiment"] == f"linear_mdp_{name}"] for name in ("regret", "actions"))
        if len(regret):
            arms = ("log_barrier", "magnitude_reduced", "hedge_unsafe", "dilated_hedge", "reduced_safe")
            shown = {arm: styles[arm] for arm in arms if arm in styles}
            rates(axes[0, 0], regret, "test/regret", "K", shown, slope=0.5, names=NAMES)
            both = {
                arm: style for arm, style in shown.items() if arm in ("magnitude_reduced", "hedge_unsafe")
            }
            rates(axes[0, 1], regret, "test/most_negative", "K", both, slope=0.5, names=NAMES)
        axes[0, 0].set(title="regret", xlabel="episodes K", ylabel="regret")
        axes[0, 1].set(title="most negative estimate of a run", xlabel="episodes K", ylabel="its size")
        if len(actions):
            arms = ("log_barrier", "magnitude_reduced")
            rates(
                axes[1, 0],
                actions,
                "test/regret",
                "A",
                {a: styles[a] for a in arms if a in styles},
                names=NAMES,
            )
        axes[1, 0].set(title="regret after 2000 episodes", xlabel="actions A", ylabel="regret")
        _inverses(axes[1, 1], done[done["experiment"] == "linear_mdp_covariance"], styles)
        for ax, letter in zip(axes.flat, "abcd", strict=True):
            ax.set_title(letter, loc="left", fontweight="bold")
    return fig


def _inverses(ax: Any, rows: "DataFrame", styles: dict[str, dict[str, Any]]) -> None:
    """Median errors and quartiles over seeds against the runs M, a line for each gamma, light to dark."""
    ax.set(xscale="log", yscale="log", title="inverse of a covariance, equal samples",
           xlabel="runs of resampling M", ylabel="error (median, quartiles)")  # fmt: skip
    rows = rows[rows["arm"].isin(["direct", "resampling"])]
    if rows.empty:
        return
    for arm in ("direct", "resampling"):
        for alpha, (_, part) in zip(
            (1.0, 0.65, 0.4), rows[rows["arm"] == arm].groupby("gamma", sort=True), strict=False
        ):
            wide = part.assign(runs=part["M"].astype(float)).pivot_table(
                index="seed", columns="runs", values="test/error"
            )
            low, middle, high = np.quantile(wide.to_numpy(), [0.25, 0.5, 0.75], axis=0)
            name = f"{NAMES[arm]}, γ = {part['gamma'].iloc[0]}"
            ax.errorbar(
                wide.columns,
                middle,
                [middle - low, high - middle],
                label=name,
                capsize=3,
                alpha=alpha,
                **styles[arm],
            )
    ax.set_xticks([4, 16, 64], ["4", "16", "64"])
    ax.set_xticks([], minor=True)
    ax.legend(frameon=False, fontsize="small")
