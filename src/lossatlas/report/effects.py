"""The effect plot of a claim: every comparison it needs as an interval against the bar that it must clear.

Positions are percent of the plot's width, so that a browser stretches lines and leaves letters their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lossatlas.claims import Claim, NotRunError, Part, Result, UnfitError, comparisons
from lossatlas.claims.spec import (
    Better,
    Bound,
    Check,
    Close,
    MetricStatistic,
    Never,
    Order,
    Ratio,
    Slope,
    Trend,
)
from lossatlas.errors import UserError
from lossatlas.report.gather import Paper
from lossatlas.report.text import number

SHOWN = 24  # comparisons drawn; all of them stand in the table below
ROW, TOP, FOOT = 38, 6, 26  # pixels


@dataclass(frozen=True)
class Line:
    """One comparison: texts, and where its interval lies in percent."""

    label: str
    note: str
    effect: str
    interval: str
    p: str
    n: int
    at: float | None
    low: float | None
    high: float | None
    y: int
    inside: bool


@dataclass(frozen=True)
class Effects:
    """The plot of one part of a claim.

    Args:
        what: the quantity on the axis.
        limit: what the claim asks of it, in words.
        lines: the comparisons, in the card's order.
        region: left and right end of what the claim asks, in percent.
        bars: the bar or bars, in percent.
        ticks: (percent, text) of the axis.
        trouble: why there is nothing to draw.
    """

    what: str
    limit: str = ""
    lines: list[Line] = field(default_factory=list)
    region: tuple[float, float] = (0.0, 0.0)
    bars: list[float] = field(default_factory=list)
    ticks: list[tuple[float, str]] = field(default_factory=list)
    trouble: str = ""

    @property
    def drawn(self) -> list[Line]:
        return [line for line in self.lines[:SHOWN] if line.at is not None]

    @property
    def height(self) -> int:
        return TOP + ROW * len(self.lines[:SHOWN]) + FOOT

    @property
    def base(self) -> int:
        """Height of the axis."""
        return self.height - FOOT

    @property
    def alt(self) -> str:
        """The plot in words."""
        told = "; ".join(
            f"{line.label or 'effect'} {line.effect} {line.interval}" for line in self.lines[:SHOWN]
        )
        return f"{self.what}, claimed {self.limit}: {told}"


def effects(claim: Claim, paper: Paper) -> list[Effects]:
    """One plot per part of a claim."""
    return [_part(claim, part, paper) for part in claim.parts]


def accepted(check: Check) -> tuple[float, float]:
    """The open range of effects that the claim states, infinite at a side that does not matter."""
    if isinstance(check, Better):
        return (-math.inf, -check.margin) if check.lower else (check.margin, math.inf)
    if isinstance(check, Bound | Ratio):
        return (check.limit, math.inf) if check.direction > 0 else (-math.inf, check.limit)
    if isinstance(check, Close):
        middle = check.value or 0.0
        return middle - check.within, middle + check.within
    if isinstance(check, Slope):
        return check.between
    if isinstance(check, Never):
        return -math.inf, check.rate
    assert isinstance(check, Order | Trend)
    return (0.0, math.inf) if check.increasing else (-math.inf, 0.0)


def quantity(part: Part) -> str:
    """The quantity of a part's axis in words."""
    statistic, check = part.statistic, part.check
    if not isinstance(statistic, MetricStatistic):
        name = statistic.function.rpartition(".")[2].replace("_", " ")
    else:
        name = f"log {statistic.metric}" if statistic.log else statistic.metric
        name = (
            f"{statistic.reduce} of {name} over {', '.join(statistic.over or [])}"
            if statistic.reduce
            else name
        )
    if isinstance(check, Slope):
        over = f" over {', '.join(statistic.over or [])}" if isinstance(statistic, MetricStatistic) else ""
        return f"log-log slope of {name}{over}"
    if isinstance(check, Never):
        return f"rate of violations, {name}"
    if isinstance(check, Order):
        return f"step of {name} along the axis"
    if isinstance(check, Trend):
        return f"rank correlation of {name} with the axis"
    if isinstance(check, Ratio):
        return f"ratio of {name}" if check.than else name
    difference = isinstance(check, Better) or (isinstance(check, Close) and check.than)
    return f"difference of {name}" if difference else name


def _part(claim: Claim, part: Part, paper: Paper) -> Effects:
    what = quantity(part)
    try:
        results = paper.results.get(id(part)) or comparisons(claim, part, paper.table)
    except (NotRunError, UnfitError, UserError) as error:
        return Effects(what, trouble=str(error))
    if not results:
        return Effects(what, trouble="no comparison")
    low, high = accepted(part.check)
    scale = _Scale.of(results, (low, high), isinstance(part.check, Ratio))
    lines = [_line(result, scale, k, (low, high)) for k, result in enumerate(results)]
    bars = [scale.at(value) for value in (low, high) if math.isfinite(value)]
    region = (scale.at(low) if math.isfinite(low) else 0.0, scale.at(high) if math.isfinite(high) else 100.0)
    return Effects(
        what, results[0].limit, lines, region, bars, [(scale.at(v), number(v)) for v in scale.ticks()]
    )


def _line(result: Result, scale: _Scale, k: int, accepted: tuple[float, float]) -> Line:
    at, low, high = (
        scale.at(v) if math.isfinite(v) else None for v in (result.effect, result.low, result.high)
    )
    real = math.isfinite(result.low) and math.isfinite(result.high) and result.low < result.high
    return Line(
        result.label, result.note, number(result.effect),
        f"[{number(result.low)}, {number(result.high)}]" if real else "",
        "–" if result.p is None else f"{result.p:.2g}", result.n, at, low, high, TOP + ROW * k,
        accepted[0] < result.effect < accepted[1],
    )  # fmt: skip


@dataclass(frozen=True)
class _Scale:
    """An axis, linear or logarithmic."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, results: Sequence[Result], bars: tuple[float, float], ratio: bool) -> _Scale:
        """Room for all intervals, the bar, and what stands for "no difference"."""
        found = [v for r in results[:SHOWN] for v in (r.effect, r.low, r.high)]
        found = [v for v in (*found, *bars) if math.isfinite(v) and abs(v) < 1e300]
        log = ratio and all(v > 0 for v in found)
        values = [math.log(v) for v in (*found, 1.0)] if log else found or [0.0]
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
        return cls(low - room, high + room, log)

    def at(self, value: float) -> float:
        """Percent of the width, held inside the plot."""
        if self.log:
            value = math.log(value) if value > 0 else self.low
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)

    def named_ticks(self) -> list[tuple[float, str]]:
        """Percent and text, with as many digits as tell neighbours apart."""
        ticks = self.ticks()
        digits = 3
        while digits < 12 and len({f"{v:.{digits}g}" for v in ticks}) < len(ticks):
            digits += 1
        return [(self.at(v), f"{v:.{digits}g}") for v in ticks]

    def ticks(self) -> list[float]:
        """About four round numbers."""
        if self.log:
            decades = range(math.floor(self.low / math.log(10)), math.ceil(self.high / math.log(10)) + 1)
            every = [m * 10.0**k for k in decades for m in (1, 2, 5)]
            inside = [v for v in every if self.low <= math.log(v) <= self.high]
            return inside[:: max(1, -(-len(inside) // 5))]
        from matplotlib.ticker import MaxNLocator

        found = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [float(v) + 0.0 for v in found if self.low <= v <= self.high]
