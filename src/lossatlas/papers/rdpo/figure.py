"""The figure of the rdpo card and the paragraphs of its README: slopes per flip rate, reward by epoch, samples."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

Styles = dict[str, dict[str, str]]


def figure(records: "DataFrame") -> "Figure":
    """Sub-optimality against n with fitted slopes; its ratio to DPO's; reward by epoch; reward against KL."""
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles

    styles = arm_styles(records)
    done = records[records["status"] == "done"]
    linear, text = (done[done["experiment"] == name] for name in ("rdpo_loglinear", "rdpo_text"))
    with plt.rc_context({"font.size": 10, "legend.fontsize": 9, "axes.grid": True, "grid.alpha": 0.3}):
        rows = 1 if text.empty else 2
        fig, axes = plt.subplots(rows, 2, figsize=(11, 4.2 * rows), layout="constrained", squeeze=False)
        _slopes(axes[0, 0], linear)
        _crossing(axes[0, 1], linear, styles)
        if not text.empty:
            _paths(axes[1, 0], text, styles, against="epoch")
            _paths(axes[1, 1], text, styles, against="kl")
    return fig


def _cells(linear: "DataFrame", d: int, arm: str, eps: float) -> "DataFrame":
    """n by seed: log gap."""
    rows = linear[(linear["arm"] == arm) & (linear["assumed"] == "right") & linear["gap"].notna()]
    rows = rows[(rows["d"].astype(float) == d) & (rows["eps"].astype(float) == eps)]
    rows = rows.assign(n=rows["n"].astype(float), log_gap=np.log(rows["gap"]))
    return rows.pivot_table(index="n", columns="seed", values="log_gap")


def _band(ax: Any, x: Any, rows: Any, **style: Any) -> None:
    """Mean over columns with its 95 % t interval, both taken on the logarithm."""
    from scipy.stats import t

    mean = rows.mean(axis=1)
    half = t.ppf(0.975, rows.shape[1] - 1) * rows.sem(axis=1) if rows.shape[1] > 1 else 0 * mean
    ax.errorbar(
        x, np.exp(mean), [np.exp(mean) - np.exp(mean - half), np.exp(mean + half) - np.exp(mean)], **style
    )


def _slopes(ax: Any, linear: "DataFrame") -> None:
    rates = sorted({float(e) for e in linear["eps"] if e != ""})
    for k, eps in enumerate(rates):
        found = _cells(linear, 20, "rdpo", eps)
        if found.empty:
            continue
        slope = np.polyfit(np.log(found.index), found.to_numpy().mean(axis=1), 1)[0]
        label = rf"$\epsilon$ = {eps:g}: slope {slope:.2f}"
        _band(ax, found.index, found, marker="o", ms=4, color=f"C{k}", capsize=2, label=label)
    ax.set(xscale="log", yscale="log", xlabel="preference pairs n", ylabel="regularised gap, nats")
    ax.set_xscale("log", base=2)
    ax.set_title("rdpo, d = 20: gap by flip rate, fitted slopes")
    _legend(ax)


def _crossing(ax: Any, linear: "DataFrame", styles: Styles) -> None:
    for arm in ("dpo", "cdpo", "rdpo"):
        for d, line in ((5, "-"), (20, "--")):
            found = _cells(linear, d, arm, 0.4)
            if not found.empty:
                label = f"{arm}, d = {d}"
                _band(ax, found.index, found, ls=line, ms=4, capsize=2, label=label, **styles[arm])
    ax.set(yscale="log", xlabel="preference pairs n", ylabel="regularised gap, nats")
    ax.set_xscale("log", base=2)
    ax.set_title(r"$\epsilon$ = .4: rdpo is worst with few pairs, best with many")
    _legend(ax)


def _paths(ax: Any, text: "DataFrame", styles: Styles, against: str) -> None:
    """Mean path over seeds: reward on validation prompts against epochs or against KL."""
    for arm, style in styles.items():
        rows = text[(text["arm"] == arm) & (text["extras"] != "")]
        paths = [np.array(json.loads(extras)["path"], float) for extras in rows["extras"]]
        if not paths:
            continue
        step, reward, kl = np.mean(paths, axis=0).T
        x = step / step[-1] * 2 if against == "epoch" else kl
        spread = np.std([p[:, 1] for p in paths], axis=0, ddof=1) if len(paths) > 1 else 0 * reward
        half = spread * _quantile(len(paths)) / np.sqrt(len(paths))
        ax.plot(x, reward, ms=4, label=arm, **style)
        ax.fill_between(x, reward - half, reward + half, color=style["color"], alpha=0.15, lw=0)
    ax.set_ylabel("mean reward, validation prompts")
    ax.set_xlabel("epoch" if against == "epoch" else "KL to the SFT model, nats a response")
    ax.set_title("text: reward by epoch" if against == "epoch" else "text: reward against KL")
    _legend(ax)


def _quantile(n: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1)) if n > 1 else 0.0


def _legend(ax: Any) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", framealpha=0.9)


def details(records: "DataFrame") -> list[str]:
    """What the README says of the text model: its loss, the reward's accuracy, samples before and after."""
    text = records[(records["experiment"] == "rdpo_text") & (records["status"] == "done")]
    rows = text[(text["extras"] != "") & text["arm"].isin(["dpo", "rdpo"])].sort_values(["seed", "arm"])
    if rows.empty:
        return []
    first = rows.iloc[0]
    parts = [
        "**The text model.** "
        f"Held-out loss {first['sft/loss']:.3f} nats a token; the reward tells held-out verses of the two testaments "
        f"apart with accuracy {first['reward_model/accuracy']:.3f}; mean reward of the SFT model's samples on the test "
        f"prompts {text['sft/reward'].mean():.3f} (log-odds of the New Testament)."
    ]
    seed = rows["seed"].iloc[0]
    lines = [f"Samples for the first test prompts, seed {seed}:", "", "| model | text |", "| --- | --- |"]
    shown = rows[rows["seed"] == seed]
    for i in range(len(json.loads(shown["extras"].iloc[0])["samples"])):
        for k, (_, row) in enumerate(shown.iterrows()):
            before, after = json.loads(row["extras"])["samples"][i]
            lines += [f"| SFT | {_cell(before)} |"] if k == 0 else []
            lines.append(f"| {row['arm']} | {_cell(after)} |")
    return [*parts, "\n".join(lines)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
