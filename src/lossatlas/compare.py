"""`python -m lossatlas.compare A B`: two arms, or two experiments arm by arm, metric by metric with intervals.

A and B are `experiment:arm`, an arm's name where one experiment has it, or an experiment (all its arms). `@key=value`
behind either fixes a condition of that side only: `ldr_noisy:ce@noise=u60`. Runs that have the unit (seed or
repetition) in common are compared in pairs, others by Welch's t. Records are those of the evidence, or of `--records`.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from lossatlas import records as rec
from lossatlas.claims import NotRunError, UnfitError, compute, load_card, t_test
from lossatlas.claims.spec import MetricStatistic
from lossatlas.claims.statistics import select
from lossatlas.errors import UserError
from lossatlas.keys import nearest
from lossatlas.paths import experiments_dir
from lossatlas.study import cell, metrics_of
from lossatlas.study.table import aligned

if TYPE_CHECKING:
    DataFrame = Any  # see study/__init__.py
else:
    from pandas import DataFrame


@dataclass(frozen=True)
class Side:
    """One of the two: rows of one arm, and the conditions fixed for it."""

    experiment: str
    arm: str
    table: DataFrame
    fixed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mean:
    """Mean, half of its 95 % t interval (NaN for one unit), units; left out: failed runs, and times never reached."""

    mean: float
    half: float
    n: int
    failed: int
    never: int


@dataclass(frozen=True)
class Comparison:
    """One line of the answer.

    Args:
        metric, condition: which numbers.
        first, second: names of the two sides.
        a, b: their means.
        effect, low, high: A - B with its 90 % interval.
        p: two-sided.
        size: effect over the pooled standard deviation (Cohen's d).
        n: pairs, or the smaller number of units.
        test: paired t, or Welch's t.
    """

    metric: str
    condition: str
    first: str
    second: str
    a: Mean
    b: Mean
    effect: float
    low: float
    high: float
    p: float
    size: float
    n: int
    test: str


def load(paths: Sequence[Path] = ()) -> list[DataFrame]:
    """Tidy tables: of the evidence, or of records.csv files and folders of runs.

    Raises:
        UserError: a path holds no records.
    """
    if not paths:
        return [rec.from_csv(path) for path in sorted(experiments_dir().glob("*/records.csv"))]
    tables = []
    for path in paths:
        if path.is_file():
            tables.append(rec.one_row_a_run(rec.from_csv(path)))
        elif (path / "records.csv").is_file():
            tables.append(rec.one_row_a_run(rec.from_csv(path / "records.csv")))
        elif found := rec.read_all(path):
            tables += [
                rec.tidy(r for r in found if r.experiment == e) for e in {r.experiment: 0 for r in found}
            ]
        else:
            raise UserError(f"{path} has no records: name a records.csv or a folder of runs")
    return tables


def sides(tables: Sequence[DataFrame], a: str, b: str) -> list[tuple[Side, Side]]:
    """The pairs that two names stand for.

    Raises:
        UserError: a name that no record has, or that several experiments have.
    """
    first, second = _named(tables, a, b), _named(tables, b, a)
    if len(first) > 1 and len(second) > 1:
        pairs = [(x, y) for x in first for y in second if x.arm == y.arm]
        if not pairs:
            arms = ", ".join(side.arm for side in (*first, *second))
            raise UserError(
                f"{a} and {b} have no arm in common (arms: {arms}): name arms, as in {a}:{first[0].arm}"
            )
        return pairs
    return [
        (x, y)
        for x in first
        for y in second
        if (x.experiment, x.arm, x.fixed) != (y.experiment, y.arm, y.fixed)
    ]


def compare(
    pairs: Sequence[tuple[Side, Side]], metrics: Sequence[str] = (), where: dict[str, list[str]] | None = None
) -> list[Comparison]:
    """Every metric at every condition that both sides have.

    Args:
        pairs: from `sides`.
        metrics: without any, those that the paper's card shows and both sides have.
        where: condition key to the values that are kept.

    Raises:
        UserError: nothing to compare, or a condition that only one side has must be fixed.
    """
    rows, why = [], "no metric in common"
    for x, y in pairs:
        for metric in metrics or _metrics(x, y):
            for condition in _conditions(x, y, where or {}):
                try:
                    rows.append(_compared(x, y, metric, condition))
                except (NotRunError, UnfitError) as error:
                    why = str(error)
    if not rows:
        raise UserError(
            f"nothing to compare: {why}; --metric and --where narrow it, NAME@key=value fixes one side"
        )
    return rows


def text(rows: Sequence[Comparison]) -> str:
    """An aligned table."""
    head = ["metric", "condition", "A", "B", "mean A", "mean B", "A - B [90 %]", "d", "p", "n", "test"]
    body = [
        [*_names(r), _cell(r.a), _cell(r.b), _effect(r), f"{r.size:.2f}", f"{r.p:.2g}", str(r.n), r.test]
        for r in rows
    ]
    return (
        "\n".join(aligned([head, *body]))
        + "\nmeans ± half of the 95 % t interval; p two-sided, not corrected"
    )


def as_csv(rows: Sequence[Comparison]) -> str:
    """Every number with all its digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    means = [f"{key}_{side}" for side in "ab" for key in ("mean", "half95", "n", "failed", "never")]
    writer.writerow(
        ["metric", "condition", "a", "b", *means, "difference", "low90", "high90", "d", "p", "n", "test"]
    )
    for r in rows:
        numbers = [v for m in (r.a, r.b) for v in (m.mean, m.half, m.n, m.failed, m.never)]
        writer.writerow([*_names(r), *numbers, r.effect, r.low, r.high, r.size, r.p, r.n, r.test])
    return out.getvalue().rstrip("\n")


def latex(rows: Sequence[Comparison]) -> str:
    """A table for a paper, in the style of booktabs."""
    same = len({(r.first, r.second) for r in rows}) == 1
    names = (rows[0].first, rows[0].second) if same else ("A", "B")
    head = [
        "metric",
        "condition",
        *([] if same else ["arms"]),
        *names,
        "difference [90\\,\\% CI]",
        "$p$",
        "$n$",
    ]
    head = [_tex(word) if k < 2 or word in names else word for k, word in enumerate(head)]
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{'l' * (2 if same else 3)}rrrrr}}",
        "\\toprule",
    ]
    lines += [" & ".join(head) + r" \\", "\\midrule"]
    for r in rows:
        start = [_tex(r.metric), _tex(r.condition), *([] if same else [f"{_tex(r.first)}, {_tex(r.second)}"])]
        cells = [f"${_cell(m).replace('±', chr(92) + 'pm')}$" for m in (r.a, r.b)]
        effect = f"${r.effect:.3g}$ $[{r.low:.3g}, {r.high:.3g}]$"
        lines.append(" & ".join([*start, *cells, effect, f"${_power(r.p)}$", str(r.n)]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lossatlas.compare", description=__doc__)
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--metric", action="append", default=[], help="may be given several times")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE[,VALUE]")
    parser.add_argument("--records", action="append", default=[], type=Path, metavar="PATH")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--csv", action="store_true")
    kind.add_argument("--latex", action="store_true")
    args = parser.parse_args(argv)
    try:
        where = {key: value.split(",") for key, value in map(_pair, args.where)}
        rows = compare(sides(load(args.records), args.a, args.b), args.metric, where)
    except UserError as error:
        print(f"lossatlas: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(as_csv(rows) if args.csv else latex(rows) if args.latex else text(rows))
    return 0


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not (key and equals and value):
        raise UserError(f"{word!r}: write key=value")
    return key, value


def _named(tables: Sequence[DataFrame], name: str, other: str) -> list[Side]:
    """The arms a name stands for; of a bare arm in several experiments, the one that has the other name, too."""
    plain, _, tail = name.partition("@")
    fixed = dict(_pair(word) for word in tail.split(",")) if tail else {}
    parts = [(str(e), rows) for table in tables for e, rows in table.groupby("experiment", sort=False)]
    experiment, colon, arm = plain.partition(":")
    named = [(e, rows) for e, rows in parts if e == experiment]
    if named and not colon:
        return [Side(e, str(a), rows, fixed) for e, rows in named for a in dict.fromkeys(rows["arm"])]
    if not colon:
        arm, named = plain, [(e, rows) for e, rows in parts if (rows["arm"] == plain).any()]
        if len(named) > 1:
            mate = other.partition("@")[0].rpartition(":")[2]
            named = [(e, rows) for e, rows in named if (rows["arm"] == mate).any() or e == mate] or named
    found = [(e, rows) for e, rows in named if (rows["arm"] == arm).any()]
    if len(found) > 1:
        raise UserError(
            f"{name}: several experiments have that arm: {', '.join(f'{e}:{arm}' for e, _ in found)}"
        )
    if not found:
        arms = {f"{e}:{a}": str(a) for e, rows in parts for a in rows["arm"].unique()}
        known = {*(e for e, _ in parts), *arms, *arms.values()}
        raise UserError(f"{name}: no record has that experiment or arm; {nearest(plain, known)}")
    return [Side(found[0][0], arm, found[0][1], fixed)]


def _metrics(x: Side, y: Side) -> list[str]:
    cards = {}
    for path in experiments_dir().glob("*/card.yaml"):
        card = load_card(path)
        cards |= dict.fromkeys(card.experiments, card)
    shown = metrics_of(x.table, cards.get(x.experiment), x.experiment)
    also = set(rec.metric_columns(y.table))
    return [metric for metric in shown if metric in also and y.table[metric].notna().any()]


def _conditions(x: Side, y: Side, where: dict[str, list[str]]) -> list[dict[str, str]]:
    """The points of the grid that both sides have, without the keys that a side fixes for itself."""
    points = []
    for side in (x, y):
        rows = side.table[side.table["arm"] == side.arm]
        keys = [k for k in rec.condition_columns(rows) if k not in x.fixed and k not in y.fixed]
        keys = [k for k in keys if rows[k].nunique() > 1 or (rows[k] != "").any()]
        for key, values in where.items():
            rows = rows[rows[key].isin(values)] if key in rows else rows.iloc[:0]
        points.append(
            [
                {k: v for k, v in zip(keys, p, strict=True) if v != ""}
                for p in rows[keys].drop_duplicates().itertuples(index=False)
            ]
        )
    common = set().union(*points[0]) & set().union(*points[1]) if all(points) else set()
    cut = [list({tuple((k, v) for k, v in p.items() if k in common): 0 for p in side}) for side in points]
    return [dict(point) for point in cut[0] if point in cut[1]]


def _values(side: Side, metric: str, condition: dict[str, str]) -> tuple[Any, int, int]:
    """Value per unit, how many runs failed, and how many are done with an infinite value."""
    rows = select(side.table, side.experiment)
    rows = rows[(rows["arm"] == side.arm) & (rows["status"] != "interrupted")]
    own = {**condition, **side.fixed}
    if metric in rows.columns and not own:
        rows = rows[rows[metric].notna() | rows["status"].isin(["failed", "diverged"])]
    found = compute(
        MetricStatistic(metric=metric, where={key: [value] for key, value in own.items()}), rows
    ).table
    values = found.set_index("unit")["value"]
    good = values[np.isfinite(values)]
    if good.empty:
        raise NotRunError(f"{side.experiment}:{side.arm} has no finite {metric}")
    here = np.logical_and.reduce(
        [rows[key] == value for key, value in own.items()] or [rows["arm"] == side.arm]
    )
    done = rows["status"] == "done"
    never = int(((rows[metric] == np.inf) & done & here).sum())
    dead = rows["status"].isin(["failed", "diverged"])  # whatever the claims make of them
    return good, int((dead & here).sum()), never


def _compared(x: Side, y: Side, metric: str, condition: dict[str, str]) -> Comparison:
    (a, *lost_a), (b, *lost_b) = _values(x, metric, condition), _values(y, metric, condition)
    units = a.index.intersection(b.index)
    pooled = math.sqrt((a.var() + b.var()) / 2) if min(len(a), len(b)) > 1 else math.nan
    if len(units) > 1 and x.experiment == y.experiment:
        result = t_test((a[units] - b[units]).to_numpy(), 0.0, 1)
        effect, low, high, n, test = result.effect, result.low, result.high, result.n, "paired t"
        p = _two_sided((a[units] - b[units]).to_numpy(), result)
    else:
        effect, n, test = float(a.mean() - b.mean()), min(len(a), len(b)), "Welch's t"
        low = high = p = math.nan
        if n > 1 and pooled > 0:
            welch: Any = stats.ttest_ind(a.to_numpy(), b.to_numpy(), equal_var=False)
            ends = welch.confidence_interval(0.90)
            low, high, p = float(ends.low), float(ends.high), float(welch.pvalue)
        elif n > 1:  # no spread on either side: the exact probability of such a split of the units
            low = high = effect
            p = 1.0 if effect == 0 else min(1.0, 2 / math.comb(len(a) + len(b), len(a)))
    first, second = (f"{s.arm}{''.join(f'@{k}={v}' for k, v in s.fixed.items())}" for s in (x, y))
    if x.experiment != y.experiment:
        first, second = f"{x.experiment}:{first}", f"{y.experiment}:{second}"
    label = " ".join(f"{k}={v}" for k, v in condition.items()) or "all"
    size = effect / pooled if pooled > 0 else math.nan
    means = _mean(a, *lost_a), _mean(b, *lost_b)
    return Comparison(metric, label, first, second, *means, effect, low, high, p, size, n, test)


def _two_sided(d: np.ndarray, result: Any) -> float:
    """Two-sided p of paired differences; where all are equal, 1 if they are 0, else that of n equal signs, 2^(1-n)."""
    if result.p is None:
        return math.nan
    size = float(np.abs(d).max())
    if float(d.std()) <= 1e-12 * size:
        return 1.0 if size == 0 else 2.0 ** (1 - d.size)
    return min(1.0, 2 * min(result.p, result.p_opposite))


def _mean(values: Any, failed: int, never: int) -> Mean:
    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1) * values.std() / math.sqrt(n)) if n > 1 else math.nan
    return Mean(float(values.mean()), half, n, failed, never)


def _names(r: Comparison) -> list[str]:
    return [r.metric, r.condition, r.first, r.second]


def _cell(mean: Mean) -> str:
    return cell(mean)


def _effect(r: Comparison) -> str:
    return f"{r.effect:.3g} [{r.low:.3g}, {r.high:.3g}]"


def _power(p: float) -> str:
    """A p-value in TeX: 1.2e-13 as a power of ten."""
    shown = f"{p:.2g}"
    head, e, tail = shown.partition("e")
    return rf"{head} \times 10^{{{int(tail)}}}" if e else shown


TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def _tex(text: str) -> str:
    return "".join(TEX.get(c, c) for c in text)


if __name__ == "__main__":
    sys.exit(main())
