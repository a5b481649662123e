"""The study: repetitions of a simulation, or splits of a table, as rounds; one claim's statistic; the figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, clone
from torch import Tensor

from lossatlas.lit import LitModule
from lossatlas.papers.presto.estimator import Presto, fit_batch
from lossatlas.papers.presto.metrics import calibration_error, keep_largest, n_moves, rare_mse, support_f1
from lossatlas.papers.presto.path import clip_probabilities
from lossatlas.papers.presto.simulate import PROBLEMS, TABLES, Table, load_table, simulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas has no stubs here

METRICS = ("mse", "f1", "calibration", "brier", "rare", "lambda", "at_end", "moves", "clipped", "edge", "kkt")
PANELS = (
    ("simulation A, s = 1/2", ("A1", "A2", "A3"), "test/mse"),
    ("simulation B", ("B1", "B2", "B3"), "test/mse"),
    ("simulation A, s = 1/3", ("A1_third", "A2_third", "A3_third"), "test/mse"),
    ("soup", ("soup",), "test/calibration"),
    ("wine", ("wine",), "test/calibration"),
)
PER_SEED = 1000  # repetition r of seed s is draw number 1000 s + r


class LitPresto(LitModule):
    """One method on the repetitions of one problem: a round is a repetition, a chunk of them one batched solve.

    Metrics of a repetition, under test/: mse (of the rare class's probability on the training rows) and f1 (of
    {psi_kj != 0, k >= 2}; for penalty l2 of its largest |psi_kj|, as many as l1 keeps in the same draw) in simulations;
    calibration and brier of the rare class on the test rows of a table; rare (its rows), lambda, at_end (lambda is the
    path's last), moves (psi_kj != 0, k >= 2), clipped (rows with a negative probability), edge (optimum on the edge of
    the domain), kkt (violation).

    Args:
        method: a `Presto` or `RareLogistic`.
        problem: A1 .. B3, A1_third .. (see `simulate`), soup or wine.
        repetitions, splits: rounds of a simulation, of a table; 1..1000.
        n, p: rows and features of a simulation.

    Raises:
        ValueError: another problem, or rounds out of range.
        UserError: a table whose package is not installed.
    """

    def __init__(
        self,
        data: None,
        *,
        method: BaseEstimator,
        problem: str,
        repetitions: int = 60,
        splits: int = 40,
        n: int = 2500,
        p: int = 10,
        **settings: Any,
    ) -> None:
        if problem not in (*PROBLEMS, *TABLES):
            raise ValueError(f"problem must be one of {', '.join((*PROBLEMS, *TABLES))}, got {problem!r}")
        table = load_table(problem) if problem in TABLES else None
        rounds = repetitions if table is None else splits
        if not 1 <= rounds <= PER_SEED:
            raise ValueError(f"repetitions and splits must lie in 1..{PER_SEED}, got {rounds}")
        super().__init__(data, rounds=rounds, **settings)
        self.method, self.problem, self.size, self.table = method, problem, (n, p), table
        self.register_buffer("found", torch.full((rounds, len(METRICS)), torch.nan, dtype=torch.float64))
        self.found: Tensor

    def play(self, rounds: Tensor) -> Tensor:
        """Fits and measures a chunk of repetitions; their error is the loss that is logged."""
        numbers = [PER_SEED * self.seed + r for r in rounds.tolist()]
        if self.table is None:
            found = repetitions(self.method, self.problem, numbers, *self.size)
        else:
            found = splits(self.method, self.table, numbers)
        for name, values in found.items():
            self.found[rounds, METRICS.index(name)] = values.to(self.found)
        return found["mse" if self.table is None else "calibration"]

    def unit_metrics(self) -> list[dict[str, Any]]:
        """One entry per repetition; what a method or problem does not have (NaN, inf) is left out."""
        rows = self.found.tolist()
        return [{"unit": r, "metrics": _named(row)} for r, row in enumerate(rows)]

    def results(self) -> dict[str, float]:
        """Means over the repetitions."""
        return _named(self.found.mean(0).tolist())


def _named(row: Sequence[float]) -> dict[str, float]:
    return {f"test/{name}": v for name, v in zip(METRICS, row, strict=True) if abs(v) < float("inf")}


def repetitions(
    method: BaseEstimator, problem: str, numbers: Sequence[int], n: int = 2500, p: int = 10
) -> dict[str, Float[Tensor, " R"]]:
    """Metrics (see `LitPresto`) of a method on the draws of these numbers, all in a few batched solves."""
    draws = [simulate(problem, number, n, p) for number in numbers]
    X, y, prob, truth = (torch.stack([getattr(d, a) for d in draws]) for a in ("X", "y", "prob", "psi"))
    seeds = torch.tensor(numbers)
    P, found, psi = rare_probability(method, X, y, X, seeds)
    found |= {"mse": rare_mse(P, prob[..., -1]), "rare": (y == y.max()).sum(1)}
    if psi is not None:
        found["moves"] = n_moves(psi)
        if isinstance(method, Presto) and method.penalty == "l2":
            l1 = Presto(**{**method.get_params(), "penalty": "l1", "lambda_min_ratio": None})
            psi = keep_largest(psi, n_moves(fit_batch(l1, X, y, seeds)[0].psi[:, 0]))
        found["f1"] = support_f1(psi, truth)
    return found


def splits(
    method: BaseEstimator, table: Table, numbers: Sequence[int], test: float = 0.1
) -> dict[str, Float[Tensor, " R"]]:
    """Metrics (see `LitPresto`) of a method on random splits of a table, a share `test` of the rows held out."""
    gens = [torch.Generator().manual_seed(number) for number in numbers]
    order = torch.stack([torch.randperm(len(table.y), generator=g) for g in gens])
    cut = round(test * len(table.y))
    out, into = order[:, :cut], order[:, cut:]
    P, found, psi = rare_probability(
        method, table.X[into], table.y[into], table.X[out], torch.tensor(numbers)
    )
    rare = table.y[out] == table.y.max()
    found |= {"calibration": calibration_error(P, rare), "brier": (P - rare.double()).square().mean(1)}
    return found | {"rare": rare.sum(1)} | ({} if psi is None else {"moves": n_moves(psi)})


def rare_probability(
    method: BaseEstimator,
    X: Float[Tensor, "R n p"],
    y: Int[Tensor, "R n"],
    at: Float[Tensor, "R m p"],
    seeds: Int[Tensor, " R"],
) -> tuple[Float[Tensor, "R m"], dict[str, Tensor], Tensor | None]:
    """Fit on R data sets and give the last class's probability at other rows, with what the batched solver reports.

    Returns:
        Probabilities; lambda, at_end, clipped, edge, kkt (R,) each; psi (R, K-1, p) of a model with several boundaries.
    """
    whole = isinstance(method, Presto)
    model = method if whole else getattr(method, "model", None)
    if not isinstance(model, Presto):
        fits = zip(X.numpy(), y.numpy(), at.numpy(), strict=True)
        P = [clone(method).fit(a, b).predict_proba(c)[:, -1] for a, b, c in fits]  # type: ignore[attr-defined]
        return torch.stack([torch.from_numpy(v) for v in P]), {}, None
    path, choice = fit_batch(model, X, y if whole else (y == y.max()).long(), seeds)
    P, clipped = clip_probabilities(path.predict(at)[:, 0])
    found = {
        "lambda": path.lambdas[:, 0],
        "clipped": clipped.sum(-1),
        "edge": path.edge[:, 0],
        "kkt": path.kkt[:, 0],
    }
    if choice is not None:
        found["at_end"] = choice.best == choice.lambdas.shape[1] - 1
    return P[..., -1], found, path.psi[:, 0] if whole else None


def log_ratio(records: "DataFrame", arm: str, other: str, problems: list[str]) -> "DataFrame":
    """log(test/mse of arm / that of other) per repetition; the problems, in their order, are the axis 1, 2, ...

    Args:
        records: tidy rows; a repetition that lacks one of the two arms at a problem is left out there.

    Returns:
        unit, x, value, as claims want them.
    """
    import numpy as np

    rows = records[records["problem"].isin(problems) & records["unit"].notna()]
    wide = rows.pivot(index=["unit_id", "problem"], columns="arm", values="test/mse").dropna(
        subset=[arm, other]
    )
    found = np.log(wide[arm] / wide[other]).rename("value").reset_index()
    return found.assign(
        unit=found["unit_id"], x=found["problem"].map(lambda name: problems.index(name) + 1.0)
    )


def figure(records: "DataFrame") -> "Figure":
    """Box plots over repetitions: squared error by arm and intercept setting, calibration error on soup."""
    from matplotlib.figure import Figure

    from lossatlas.study import arm_styles

    rows = records[records["unit"].notna() & (records["status"] == "done")]
    styles, found = arm_styles(records), set(rows["problem"])
    panels = [(title, [p for p in problems if p in found], metric) for title, problems, metric in PANELS]
    panels = [panel for panel in panels if panel[1]]
    widths = [len(problems) + 0.5 for _, problems, _ in panels]
    fig = Figure(figsize=(1.6 + 1.7 * sum(widths), 4.6), layout="constrained")
    for ax, (title, problems, metric) in zip(
        fig.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0], panels, strict=True
    ):
        handles = [
            _boxes(ax, rows, problems, metric, arm, i, len(styles), s)
            for i, (arm, s) in enumerate(styles.items())
        ]
        what = (
            "squared error of P(rare), mean over rows"
            if metric == "test/mse"
            else "calibration error of P(rare)"
        )
        labels = ["test rows" if p in TABLES else f"setting {p[1]}" for p in problems]
        ax.set(title=title, yscale="log", ylabel=what, xticks=range(len(problems)), xticklabels=labels)
        ax.grid(axis="y", alpha=0.3)
    fig.legend(handles, styles, loc="outside lower center", ncols=len(styles), frameon=False)
    return fig


def _boxes(
    ax: Any, rows: "DataFrame", problems: list[str], metric: str, arm: str, i: int, arms: int, style: dict
) -> Any:
    """The boxes of one arm, beside those of the others."""
    values = [rows.loc[(rows["arm"] == arm) & (rows["problem"] == p), metric].dropna() for p in problems]
    width = 0.8 / arms
    drawn = ax.boxplot(
        values, positions=[k + width * (i - (arms - 1) / 2) for k in range(len(problems))], widths=0.85 * width,
        patch_artist=True, manage_ticks=False, flierprops={"ms": 2.5, "mec": style["color"]},
        medianprops={"color": "black"}, boxprops={"facecolor": style["color"], "alpha": 0.7},
    )  # fmt: skip
    return drawn["boxes"][0]
