"""One verdict per claim: the largest p of its comparisons, Holm over the card, and a line of words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pandas import DataFrame

from lossatlas.claims.card import Card, Claim, Contrast, Part
from lossatlas.claims.checks import run_check
from lossatlas.claims.grid import NotRunError, UnfitError
from lossatlas.claims.power import units_needed
from lossatlas.claims.spec import Better, Never, Order, Ratio, Trend
from lossatlas.claims.statistics import compute, needed, select
from lossatlas.claims.tests import ALPHA, Result
from lossatlas.errors import UserError

LEVEL = 1 - 2 * ALPHA  # of the intervals
Compare = Callable[[Claim, Part, DataFrame], list[Result]]
REPRODUCED, NOT_REPRODUCED, NO_DIFFERENCE = "reproduced", "not reproduced", "no difference"
INCONCLUSIVE, NOT_RUN = "inconclusive", "not run"
LEAST = 5  # units: five equal signs have p .03


@dataclass(frozen=True)
class Verdict:
    """What the records say about one claim.

    Args:
        verdict: reproduced | not reproduced | no difference | inconclusive | not run.
        effect, low, high: estimate and 90 % interval of the comparison with the largest p.
        limit: what the claim asks of that effect.
        by: smallest effect of interest in the statistic's unit (relative for a ratio), None where the kind has none.
        p: largest p of the claim's comparisons (intersection-union: all must hold).
        p_opposite: smallest opposite p times their number (one decisive failure refutes a claim about all of
            them).
        p_alike: largest p of the comparisons' tests for no difference.
        p_holm, p_opposite_holm, p_alike_holm: after Holm over the claims of the card that were tested.
        n: units of that comparison; planned: the card's; failed: diverged runs counted as worst; missing: units
            left out.
        needed: units for 80 % power at the effect seen and the level the claim meets; None where it points away.
        carried: single units without which the verdict would be another.
        contrast: for what the same statement must not hold, with its effect and p.
        remark: one line a reader needs, may be empty.
    """

    id: str
    says: str
    source: str
    kind: str
    verdict: str
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    limit: str = ""
    by: float | None = None
    p: float | None = None
    p_opposite: float | None = None
    p_alike: float | None = None
    p_holm: float | None = None
    p_opposite_holm: float | None = None
    p_alike_holm: float | None = None
    n: int = 0
    planned: int = 0
    failed: int = 0
    missing: int = 0
    needed: int | None = None
    carried: int | None = None
    contrast: str = ""
    remark: str = ""
    note: str = ""

    @property
    def sensitivity(self) -> str:
        """How much of the verdict hangs on single units, and how many would do; empty where nothing was tested."""
        if self.p is None:
            return ""
        parts = []
        if self.carried is not None:
            parts.append(
                f"{self.carried or 'no'} single unit{'' if self.carried == 1 else 's'} of {self.n} carr"
            )
            parts[0] += "ies it" if self.carried == 1 else "y it"
        if self.needed is not None:
            parts.append(f"80 % power at this effect needs n = {self.needed}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """A dict that JSON can hold: NaN becomes None."""
        plain = asdict(self)
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in plain.items()}


def judge(card: Card, records: DataFrame, compare: Compare | None = None) -> list[Verdict]:
    """One verdict per claim of the card, in its order; never raises for what records lack or contain.

    Args:
        card: from `load_card`.
        records: tidy table (`records.tidy` or `records.from_csv`), any experiments, arms and seeds.
        compare: called instead of `comparisons`, by who wants to keep what it returns.

    A claim is reproduced if its Holm-corrected p is below .05, shows no difference if that of the test for it is, is
    not reproduced if that of the opposite one-sided test is, and else inconclusive; so it is at another number of
    units than planned, and where its statement holds for its contrast as well. Not run: records are missing.
    """
    compare = compare or comparisons
    outcomes = [_outcome(claim, records, compare) for claim in card.claims]
    tested = [outcome for outcome in outcomes if isinstance(outcome, _Tested)]
    verdicts = []
    for claim, outcome in zip(card.claims, outcomes, strict=True):
        head = {"id": claim.id, "says": claim.says, "source": claim.source, "note": claim.note}
        head["kind"] = " + ".join(dict.fromkeys(part.check.kind for part in claim.parts))
        head |= {"by": _by(claim), "planned": claim.n}
        if isinstance(outcome, _Tested):
            others = [other for other in tested if other is not outcome]
            verdict = _judged(head, outcome, others)
            verdicts.append(_contrasted(claim, verdict, records) if claim.contrast else verdict)
        else:
            verdicts.append(Verdict(**head, **outcome))
    return verdicts


def comparisons(claim: Claim, part: Part, records: DataFrame) -> list[Result]:
    """Every comparison that a part of a claim needs, on the records that count for the claim.

    Raises:
        NotRunError: records are missing.
        UnfitError: the test does not apply to their values.
        UserError: the card's function cannot be imported.
    """
    rows = select(needed(part.statistic, records), part.experiment, claim.seeds, claim.scale)
    ordered = isinstance(part.check, Order | Trend)
    statistic = compute(part.statistic, rows, ordered, claim.units is not None)
    return run_check(part.check, statistic)


def holm(p: Iterable[float]) -> list[float]:
    """Holm's step-down correction, in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    p = list(p)
    order = sorted(range(len(p)), key=p.__getitem__)
    corrected, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = highest
    return corrected


@dataclass(frozen=True)
class _Tested:
    p: float
    p_opposite: float
    p_alike: float | None
    shown: Result
    results: Sequence[Result]

    @classmethod
    def of(cls, results: Sequence[Result]) -> _Tested:
        shown = max(results, key=lambda r: (r.refuted, r.p or 0.0, -(r.p_opposite or 0.0)))
        opposite = min(1.0, len(results) * min(r.p_opposite for r in results if r.p_opposite is not None))
        alike = [r.alike for r in results]
        largest = None if None in alike else max(p for p in alike if p is not None)
        return cls(max(r.p or 0.0 for r in results), opposite, largest, shown, results)


def _outcome(claim: Claim, records: DataFrame, compare: Compare) -> _Tested | dict[str, Any]:
    """The claim's test, or the fields of a verdict that needs none."""
    results: list[Result] = []
    try:
        for i, part in enumerate(claim.parts):
            results += [_placed(i, result) for result in compare(claim, part, records)]
    except (NotRunError, UserError) as error:
        return {"verdict": NOT_RUN, "remark": f"extended: {claim.extended}" if claim.extended else str(error)}
    except UnfitError as error:
        return {"verdict": INCONCLUSIVE, "remark": str(error)}
    refuted = any(r.refuted for r in results)
    if (reason := _unplanned(claim, results)) and not refuted:
        odd = next((r for r in results if r.n != claim.n or r.p is None), results[0])
        fields = {key: getattr(odd, key) for key in ("effect", "low", "high", "limit", "n")}
        counts = {key: _count(results, key) for key in ("failed", "missing")}
        return {"verdict": INCONCLUSIVE, **fields, **counts, "remark": _joined(reason, _remark(odd, results))}
    return _Tested.of([r for r in results if r.p is not None])


def _unplanned(claim: Claim, results: Sequence[Result]) -> str:
    """Why the units do not suffice, or empty."""
    never = all(isinstance(part.check, Never) for part in claim.parts)
    for n in [r.n for r in results]:
        if n != claim.n:
            return f"n = {n}, planned {claim.n}"
        if n < LEAST and not never:
            return f"n = {n}: at least {LEAST} units are needed"
    return "" if all(r.p is not None for r in results) else "cannot be tested"


def _corrected(outcome: _Tested, others: Sequence[_Tested]) -> tuple[float, float, float | None]:
    """p, opposite p and p of no difference after Holm over the tested claims."""
    p = holm([outcome.p, *(other.p for other in others)])[0]
    opposite = holm([outcome.p_opposite, *(other.p_opposite for other in others)])[0]
    if outcome.p_alike is None:
        return p, opposite, None
    alike = holm([outcome.p_alike, *(1.0 if o.p_alike is None else o.p_alike for o in others)])[0]
    return p, opposite, alike


def _judged(head: dict[str, Any], outcome: _Tested, others: Sequence[_Tested]) -> Verdict:
    shown = outcome.shown
    corrected = _corrected(outcome, others)
    verdict = _word(outcome, *corrected)
    alone = _word(outcome, outcome.p, outcome.p_opposite, outcome.p_alike)
    remark = _remark(shown, outcome.results)
    if verdict == NOT_REPRODUCED and not any(r.refuted for r in outcome.results):
        remark = _joined(remark, f"opposite p {corrected[1]:.2g}")
    if verdict != alone:
        remark = _joined(remark, f"{alone} before Holm's correction")
    return Verdict(
        **head,
        verdict=verdict,
        effect=shown.effect,
        low=shown.low,
        high=shown.high,
        limit=shown.limit,
        p=outcome.p,
        p_opposite=outcome.p_opposite,
        p_alike=outcome.p_alike,
        p_holm=corrected[0],
        p_opposite_holm=corrected[1],
        p_alike_holm=corrected[2],
        n=shown.n,
        failed=_count(outcome.results, "failed"),
        missing=_count(outcome.results, "missing"),
        needed=units_needed(shown, ALPHA / (1 + len(others))),
        carried=_carried(outcome, verdict, others),
        remark=remark,
    )


def _carried(outcome: _Tested, verdict: str, others: Sequence[_Tested]) -> int | None:
    """How many single units, left out of every comparison that has them, leave another verdict."""
    results = outcome.results
    if all(r.alone is None for r in results):
        return None
    if any(r.refuted for r in results):
        return 0  # one case is enough, whatever the others say
    alone = [r.alone() if r.alone else None for r in results]
    place = {unit: i for i, unit in enumerate(dict.fromkeys(u for a in alone if a for u in a.units))}
    p, opposite, alike = np.empty((3, len(results), len(place)))
    for i, (result, each) in enumerate(zip(results, alone, strict=True)):
        p[i], opposite[i], alike[i] = result.p or 0.0, result.p_opposite or 0.0, result.alike or 0.0
        if each is not None:
            at = [place[unit] for unit in each.units]
            p[i, at], opposite[i, at] = each.p, each.opposite
            alike[i, at] = 0.0 if each.alike is None else each.alike
    told = outcome.p_alike is not None
    count = 0
    for one in zip(
        p.max(axis=0), np.minimum(1.0, len(results) * opposite.min(axis=0)), alike.max(axis=0), strict=True
    ):
        without = replace(
            outcome, p=float(one[0]), p_opposite=float(one[1]), p_alike=float(one[2]) if told else None
        )
        count += _word(without, *_corrected(without, others)) != verdict
    return count


def _contrasted(claim: Claim, verdict: Verdict, records: DataFrame) -> Verdict:
    """The verdict beside that of the contrast: what holds there as well is no evidence for the claim."""
    contrast = claim.contrast
    assert contrast is not None
    try:
        parts = [(claim, contrast.part(part)) for part in claim.parts]
        results = [result for one, part in parts for result in comparisons(one, part, records)]
    except (NotRunError, UnfitError, UserError) as error:
        told, holds = f"{contrast.label}: not run ({error})", True
    else:
        told, holds = _contrast_told(contrast, results)
    if verdict.verdict != REPRODUCED or not holds:
        return replace(verdict, contrast=told)
    return replace(
        verdict, verdict=INCONCLUSIVE, contrast=told, remark=_joined(verdict.remark, f"contrast {told}")
    )


def _contrast_told(contrast: Contrast, results: Sequence[Result]) -> tuple[str, bool]:
    known = [r for r in results if r.p is not None]
    if len(known) < len(results) or not known:
        return f"{contrast.label}: too few units", True
    weakest = max(known, key=lambda r: r.p or 0.0)
    p = weakest.p or 0.0
    word = "holds as well" if p < ALPHA else "does not hold"
    interval = f" [{weakest.low:.3g}, {weakest.high:.3g}]" if weakest.low < weakest.high else ""
    return f"{contrast.label}: {word}, {weakest.effect:.3g}{interval}, p {p:.2g}", p < ALPHA


def _by(claim: Claim) -> float | None:
    found = [part.check.alike for part in claim.parts if isinstance(part.check, Better | Ratio)]
    margins = [part.check.by for part in claim.parts if isinstance(part.check, Better)]
    return next((by for by in (*found, *(m for m in margins if m)) if by), None)


def _word(outcome: _Tested, p: float, opposite: float, alike: float | None) -> str:
    if any(r.refuted for r in outcome.results):
        return NOT_REPRODUCED
    if p < ALPHA:
        return REPRODUCED
    if alike is not None and alike < ALPHA:
        return NO_DIFFERENCE
    return NOT_REPRODUCED if opposite < ALPHA else INCONCLUSIVE


def _placed(part: int, result: Result) -> Result:
    """Diverged runs and missing units told apart by the part of the claim they belong to."""
    failed, missing = (frozenset((part, item) for item in s) for s in (result.failed, result.missing))
    return replace(result, failed=failed, missing=missing)


def _count(results: Sequence[Result], key: str) -> int:
    return len({item for result in results for item in getattr(result, key)})


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _remark(shown: Result, results: Sequence[Result]) -> str:
    label = f"{shown.label} (largest p of {len(results)})".strip() if len(results) > 1 else shown.label
    failed, missing = _count(results, "failed"), _count(results, "missing")
    return _joined(
        label,
        shown.note,
        f"{failed} diverged counted as worst" if failed else "",
        f"{missing} units incomplete, left out" if missing else "",
    )
