"""The figure: regret over its totals against the block length, growth by curvature, moving comparator, real rows."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas has no stubs here

NAMES = {
    "oomd": "optimistic OMD",
    "oftrl": "optimistic FTRL",
    "ogd": "gradient descent",
    "oomd_nohint": "OMD without hint",
    "adagrad": "AdaGrad (scalar)",
    "oomd_strong": "optimistic OMD, 2/(λt)",
    "ogd_strong": "gradient descent, 1/(λt)",
    "oomd_newton": "optimistic Newton, β = 1",
    "ons": "online Newton, β = 1",
    "oomd_ensemble": "ensemble",
    "ensemble_nohint": "ensemble without hint",
    "fixed_steps": "best fixed step in hindsight",
}


def figure(records: "DataFrame") -> "Figure":
    """Regret over its totals by block length, regret by rounds for each curvature, three orders of real rows."""
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles
    from lossatlas.study.panels import rates

    styles = arm_styles(records)
    with plt.rc_context({"font.size": 11}):
        fig, axes = plt.subplots(2, 3, figsize=(15, 8.4), layout="constrained")
        _bridge(axes[0, 0], records, styles)
        for ax, setting in ((axes[0, 1], "quadratic"), (axes[0, 2], "nonconvex")):
            _growth(
                ax,
                records,
                "sea_strongly_convex",
                ("oomd", "oomd_strong", "ogd_strong"),
                styles,
                {"setting": setting},
            )
        axes[0, 1].set_title("strongly convex losses")
        axes[0, 2].set_title("single losses not convex, their mean is")
        _growth(axes[1, 0], records, "sea_exp_concave", ("oomd", "oomd_newton", "ons", "ogd"), styles, {})
        axes[1, 0].set_title("exp-concave losses")
        rows = _of(records, "sea_dynamic")
        if len(rows):
            arms = ("oomd", "ogd", "oomd_ensemble", "ensemble_nohint", "fixed_steps")
            rates(
                axes[1, 1],
                rows,
                "test/regret",
                "T",
                {a: styles[a] for a in arms if a in styles},
                {"drift": "blocks"},
                names=NAMES,
            )
        axes[1, 1].set(title="moving comparator", xlabel="rounds T", ylabel="dynamic regret")
        _real(axes[1, 2], records, styles)
        for ax, letter in zip(axes.flat, "abcdef", strict=True):
            ax.set_title(letter, loc="left", fontweight="bold")
    return fig


def _of(records: "DataFrame", experiment: str) -> "DataFrame":
    return records[(records["experiment"] == experiment) & (records["status"] == "done")]


def _mean(rows: "DataFrame", arm: str, key: str, metric: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Values of a condition in their order, means and 95 % half-widths over seeds."""
    from scipy import stats

    wide = rows[rows["arm"] == arm].pivot_table(index="seed", columns=key, values=metric, sort=False)
    n = max(len(wide), 2)
    half = stats.t.ppf(0.975, n - 1) * wide.std(ddof=1) / np.sqrt(n)
    return list(wide.columns), wide.mean().to_numpy(), half.to_numpy()


def _bridge(ax: Any, records: "DataFrame", styles: dict[str, dict[str, Any]]) -> None:
    rows = _of(records, "sea_bridge")
    rows = rows[(rows["sigma"] == "0.0") & (rows["T"] == "8192")] if len(rows) else rows
    for arm in ("oomd", "oftrl", "ogd"):
        if arm in set(rows["arm"]):
            B, mean, half = _mean(
                rows.assign(B=rows["B"].astype(float)).sort_values("B"), arm, "B", "test/ratio"
            )
            ax.errorbar(B, mean, half, label=NAMES[arm], capsize=3, **styles[arm])
    ax.axhline(0, color="#767676", lw=0.8)
    ax.axhline(2, color="#767676", lw=0.8, ls=":")
    ax.set_xscale("log", base=2)
    ax.set_yscale("symlog", linthresh=2)
    ax.set(xlabel="rounds before the slope changes its sign, B", title="no noise, T = 8192",
           ylabel=r"regret / ($\sqrt{\sigma^2_{1:T}} + \sqrt{\Sigma^2_{1:T}}$)")  # fmt: skip
    ax.legend(frameon=False)


def _growth(
    ax: Any, records: "DataFrame", experiment: str, arms: tuple[str, ...], styles: dict[str, dict[str, Any]],
    where: dict[str, str],
) -> None:  # fmt: skip
    from lossatlas.study.panels import rates

    rows = _of(records, experiment)
    if len(rows):
        rates(
            ax,
            rows,
            "test/regret",
            "T",
            {a: styles[a] for a in arms if a in styles},
            where,
            slope=0.5,
            names=NAMES,
        )
    ax.set(xlabel="rounds T", ylabel="regret")


def _real(ax: Any, records: "DataFrame", styles: dict[str, dict[str, Any]]) -> None:
    rows = _of(records, "sea_real")
    rows = rows[rows["T"] != ""]  # a run's own row has no T
    rows = rows[rows["T"] == max(rows["T"], key=int)] if len(rows) else rows
    arms = [arm for arm in ("oomd", "oftrl", "ogd", "oomd_nohint", "adagrad") if arm in set(rows["arm"])]
    orders = ("iid", "permuted", "sorted")
    for k, arm in enumerate(arms):
        held, mean, half = _mean(rows, arm, "order", "test/regret")
        at = [orders.index(order) + 0.15 * (k - len(arms) / 2) for order in held]
        ax.errorbar(at, mean, half, capsize=3, label=NAMES[arm], **{**styles[arm], "ls": "none"})
    ax.set_xticks(range(3), ["with replacement", "permuted", "sorted"])
    ax.set(title="logistic regression on Spambase", ylabel="regret of the drawn losses")
    ax.legend(frameon=False)
