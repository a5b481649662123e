"""The figure: Hellinger distance and expert error against the sample size, a column for each study."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas has no stubs here

NAMES = {
    "exact": "as many experts",
    "start": "start of EM",
    "over": "one too many",
    "too_few": "one of two kept",
}
PANELS = (
    ("topk_moe_rates", "test/hellinger", "three experts, two kept", "Hellinger distance"),
    ("topk_moe_dense", "test/hellinger", "two experts, both kept", "Hellinger distance"),
    ("topk_moe_rates", "test/experts", "all experts", "error of a, c, s"),
    ("topk_moe_dense", "test/last", "the expert with the copy", "error of a, c, s"),
)


def figure(records: "DataFrame") -> "Figure":
    """Hellinger distance and error of the experts against the sample size with fitted slopes; -1/2 is the theory's."""
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles
    from lossatlas.study.panels import rates

    styles = arm_styles(records)
    done = records[records["status"] == "done"]
    with plt.rc_context({"font.size": 11}):
        fig, axes = plt.subplots(2, 2, figsize=(13, 9.4), layout="constrained")
        for ax, letter, (experiment, metric, title, label) in zip(axes.flat, "abcd", PANELS, strict=True):
            rows = done[done["experiment"] == experiment]
            if len(rows):
                shown = {arm: styles[arm] for arm in NAMES if arm in styles}
                rates(ax, rows, metric, "n", shown, slope=-0.5, names=NAMES)
            ax.set(title=title, xlabel="sample size n", ylabel=label)
            ax.set_title(letter, loc="left", fontweight="bold")
    return fig
