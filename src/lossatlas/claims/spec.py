"""How a claim is written: the statistic (one number per unit and arm) and the check on those numbers."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lossatlas import records

LOG = re.compile(r"\s*([+-]?)\s*log\s*\(?\s*([\d.]+)\s*\)?\s*")
NUMBER = re.compile(r"(?:(?<![\w.])[-+])?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")  # the number a name ends in


def canonical(text: object) -> str:
    """One text for 0.5, "0.5" and ".50": conditions come from YAML, a command line or a CSV file."""
    try:
        return repr(float(str(text)))
    except ValueError:
        return str(text)


def number_in(text: str) -> float:
    """The number a condition's name stands for ("1e-2", "n64", "u30"), NaN if there is none."""
    found = NUMBER.search(text)
    return float(found[0]) if found else float("nan")


def _number(value: Any) -> Any:
    """A number, also written as `log 1.2` or `-log 2` (margins on a logarithm read better so)."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, or `log 1.2`")
    if isinstance(value, str) and (found := LOG.fullmatch(value)):
        size = math.log(float(found[2]))
        return -size if found[1] == "-" else size
    return value


def as_list(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


def _name(value: Any) -> Any:
    return records.name(value) if isinstance(value, str | int | float | bool) else value


Number = Annotated[float, BeforeValidator(_number)]
Name = Annotated[str, BeforeValidator(_name)]
Names = Annotated[list[Name], BeforeValidator(as_list)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)


class MetricStatistic(Strict):
    """A metric of the records, one number per unit and arm.

    Args:
        metric: a metric's column, or `seconds` or `peak_mb`.
        where: condition key (or `arm`) to value; a list of values asks for the check at each of them.
        worst: a constant: the value that a diverged run counts with where that speaks against the claim, in
            the metric's units, before `log`. Without it a diverged run is a missing one; a failed run always is.
        log: natural logarithm of the metric.
        over: condition key (or `arm`) whose values are the axis of slope, order and trend; with `reduce`, what is
            collapsed.
        values: the axis' values in order; a mapping gives each its number for slope. Without it every value
            found, in the order of the numbers in their names.
        reduce: collapse `over` to one number: its mean, min, max, range (max - min) or log-log slope.
        minus: condition values whose number is subtracted, the rest of `where` unchanged.
        arms: condition key whose values play the arms (then `where` may fix `arm`).
        trials: for `never`, the metric that counts the cases of a row, or their number; `metric` counts violations.
        ties: for an order, the metric by which censored values (those that are never reached) rank among themselves.
    """

    metric: str
    where: dict[str, Names] = {}
    worst: Number | None = None
    log: bool = False
    over: Names | None = None
    values: list[Name] | dict[Name, Number] | None = None
    reduce: Literal["mean", "min", "max", "range", "slope"] | None = None
    minus: dict[str, Name] | None = None
    arms: str = "arm"
    trials: int | str | None = None
    ties: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> MetricStatistic:
        if self.over is None and (self.reduce or self.values):
            raise ValueError("`reduce` and `values` need `over`, the key whose values they treat")
        if self.over is not None and len(self.over) > 1 and self.reduce in (None, "slope"):
            raise ValueError("several keys in `over` need `reduce: mean`, min, max or range")
        return self


class FunctionStatistic(Strict):
    """A named function `(records, **args) -> DataFrame`: unit, value and, at need, arm, condition, x, trials.

    It gets the tidy rows of the experiment (verdict seeds) with one more column: `unit_id` (`s3`, or `s3u7` where a
    run carries units). A seed with a run that failed or diverged is left out, so it is missing.
    """

    function: str
    args: dict[str, Any] = {}
    where: dict[str, Name] = {}
    metric: str | None = None


class _Check(Strict):
    arm: Names | None = None
    correction: Literal["nadeau_bengio"] | None = None
    test_fraction: Fraction | None = None
    train_fraction: Fraction | None = None

    @model_validator(mode="after")
    def _overlap(self) -> _Check:
        if bool(self.correction) != bool(self.test_fraction):
            raise ValueError("`correction: nadeau_bengio` and `test_fraction` come together")
        if self.train_fraction and not self.correction:
            raise ValueError("`train_fraction` needs `correction: nadeau_bengio`")
        return self

    @property
    def overlap(self) -> float:
        """Nadeau and Bengio's n_test / n_train, 0 for independent units."""
        if self.test_fraction is None:
            return 0.0
        return self.test_fraction / (self.train_fraction or 1 - self.test_fraction)

    @property
    def direction(self) -> int:
        """1 where more is better for the claim, -1 where less is, 0 where neither."""
        return 0


class _OneSided(_Check):
    above: Number | None = None
    below: Number | None = None

    @model_validator(mode="after")
    def _one_side(self) -> _OneSided:
        if (self.above is None) == (self.below is None):
            raise ValueError("exactly one of `above` and `below` is needed (for both: kind close)")
        return self

    @property
    def direction(self) -> int:
        return 1 if self.above is not None else -1

    @property
    def limit(self) -> float:
        limit = self.above if self.above is not None else self.below
        assert limit is not None
        return limit


class _Margin(_Check):
    by: Number | None = None
    sign: str = ""

    def _reason(self, bare: bool, bar: str) -> None:
        if bare and not self.sign:
            raise ValueError(
                f"{bar} is no smallest effect of interest: name `by` in the metric's unit,"
                " or say in `sign` why the bare sign is the claim"
            )
        if self.sign and not bare:
            raise ValueError("`sign` says why there is no margin: leave it out beside `by`")


class Better(_Margin):
    """Paired t, one-sided: arm above every comparator by more than `by` (below it, with `lower`).

    Args:
        by: smallest effect of interest, in the statistic's unit; negative for non-inferiority.
        sign: where `by` is 0, why the bare sign is the claim.
    """

    kind: Literal["better"]
    than: Names
    lower: bool = False

    @model_validator(mode="after")
    def _others(self) -> Better:
        if not self.arm or not self.than or set(self.arm) & set(self.than):
            raise ValueError("`arm` and `than` name at least one arm each, none in common")
        self._reason(not self.by, "a margin of 0" if self.by == 0 else "no `by`")
        return self

    @property
    def direction(self) -> int:
        return -1 if self.lower else 1

    @property
    def margin(self) -> float:
        return self.by or 0.0

    @property
    def alike(self) -> float:
        """Half-width of "no difference", 0 where there is none."""
        return max(self.margin, 0.0)


class Bound(_OneSided):
    """One-sided test of the mean against a bound; of t, bootstrap-t and Hall's t the largest p (metrics are skewed)."""

    kind: Literal["bound"]


class Never(_OneSided):
    """No violation in N random cases: the upper 95 % limit of Clopper and Pearson on their rate is below `rate`.

    With `trials` the statistic's metric counts violations; otherwise each unit is one case, a violation if its
    value lies beyond `above` or `below` (on it is none).
    """

    kind: Literal["never"]
    rate: Fraction = 0.05

    @model_validator(mode="before")
    @classmethod
    def _counts(cls, raw: Any) -> Any:
        return {"below": 0, **raw} if isinstance(raw, dict) and not {"above", "below"} & set(raw) else raw

    @property
    def direction(self) -> int:
        return 0

    @property
    def side(self) -> int:
        return 1 if self.above is not None else -1


class Close(_Check):
    """Two one-sided tests: arm minus comparator, or minus `value`, inside (-within, within)."""

    kind: Literal["close"]
    than: Names | None = None
    value: Number | None = None
    within: Annotated[Number, Field(gt=0)]

    @model_validator(mode="after")
    def _target(self) -> Close:
        if (self.than is None) == (self.value is None) or (self.than and not self.arm):
            raise ValueError("either `value`, or `than` with `arm`, is needed")
        return self


class Slope(_Check):
    """Log-log (`semi`: value on log axis) slope of each unit; the mean inside (lo, hi) by two one-sided t tests."""

    kind: Literal["slope"]
    between: tuple[Number, Number]
    semi: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Slope:
        if not self.between[0] < self.between[1]:
            raise ValueError("`between` is [lo, hi] with lo < hi")
        return self


class Order(_Check):
    """Each adjacent step along the statistic's axis points the right way: sign test or t a step, all must hold."""

    kind: Literal["order"]
    increasing: bool = True


class Trend(_Check):
    """Page's trend test along the statistic's axis: the values rise on the whole, single steps may fall."""

    kind: Literal["trend"]
    increasing: bool = True


class Ratio(_OneSided, _Margin):
    """t on the log ratio of arm to comparator (without `than`: of the statistic) against the bar.

    Args:
        above, below: the bar. A bar of 1 is moved by `by`: to 1 + by, or 1 / (1 + by).
        by: smallest relative difference of interest; without it the bar's own distance from 1.
    """

    kind: Literal["ratio"]
    than: Names | None = None

    @model_validator(mode="after")
    def _positive(self) -> Ratio:
        bar = self.above if self.above is not None else self.below or 0.0
        if not 0 < bar < math.inf:
            raise ValueError("the bar of a ratio is > 0")
        if self.by is not None and self.by <= 0:
            raise ValueError("`by` of a ratio is a relative difference > 0, such as 0.05")
        if self.than and not self.arm:
            raise ValueError("`than` needs `arm`")
        self._reason(bar == 1 and not self.by, "a ratio of 1")
        return self

    @property
    def limit(self) -> float:
        bar = self.above if self.above is not None else self.below
        assert bar is not None
        return bar if bar != 1 or not self.by else (1 + self.by) ** self.direction

    @property
    def alike(self) -> float:
        """Relative half-width of "no difference", 0 where there is none."""
        if self.by:
            return self.by
        return max(self.limit**self.direction - 1, 0.0)


CHECKS = {
    "better": Better,
    "bound": Bound,
    "never": Never,
    "close": Close,
    "slope": Slope,
    "order": Order,
    "trend": Trend,
    "ratio": Ratio,
}
Check = Better | Bound | Never | Close | Slope | Order | Trend | Ratio
AnyStatistic = MetricStatistic | FunctionStatistic
