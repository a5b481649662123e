"""One verdict per claim: the largest p of its comparisons, Holm over the card, and a line of words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pandas import DataFrame

from lossatlas.claims.card import Card, Claim, Part
from lossatlas.claims.checks import run_check
from lossatlas.claims.grid import NotRunError, UnfitError
from lossatlas.claims.spec import Order
from lossatlas.claims.statistics import compute, select
from lossatlas.claims.tests import ALPHA, Result
from lossatlas.errors import UserError

LEVEL = 1 - 2 * ALPHA  # of the intervals
Compare = Callable[[Claim, Part, DataFrame], list[Result]]
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_RUN = "reproduced", "not reproduced", "inconclusive", "not run"


@dataclass(frozen=True)
class Verdict:
    """What the records say about one claim.

    Args:
        verdict: reproduced | not reproduced | inconclusive | not run.
        effect, low, high: estimate and 90 % interval of the comparison with the largest p.
        limit: what the claim asks of that effect.
        p: largest p of the claim's comparisons (intersection-union: all must hold).
        p_opposite: smallest opposite p times their number (one decisive failure refutes a claim about all of
            them).
        p_holm, p_opposite_holm: both after Holm over the claims of the card that were tested.
        n: units of that comparison; failed: runs counted as worst; missing: units left out.
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
    p: float | None = None
    p_opposite: float | None = None
    p_holm: float | None = None
    p_opposite_holm: float | None = None
    n: int = 0
    failed: int = 0
    missing: int = 0
    remark: str = ""
    note: str = ""

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

    A claim is reproduced if its Holm-corrected p is below .05, not reproduced if that of the opposite
    one-sided test is, inconclusive otherwise or with fewer than two units, not run where records are missing.
    """
    outcomes = [_outcome(claim, records, compare or comparisons) for claim in card.claims]
    tested = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, _Tested)]
    pairs = [(o.p, o.p_opposite) for o in outcomes if isinstance(o, _Tested)]
    corrected = dict(
        zip(tested, zip(holm(p for p, _ in pairs), holm(q for _, q in pairs), strict=True), strict=True)
    )
    verdicts = []
    for i, (claim, outcome) in enumerate(zip(card.claims, outcomes, strict=True)):
        head = {"id": claim.id, "says": claim.says, "source": claim.source, "note": claim.note}
        head["kind"] = " + ".join(dict.fromkeys(part.check.kind for part in claim.parts))
        if isinstance(outcome, _Tested):
            verdicts.append(_judged(head, outcome, *corrected[i]))
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
    rows = select(records, part.experiment, claim.seeds, claim.scale)
    statistic = compute(part.statistic, rows, part.check.better_side, isinstance(part.check, Order))
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
    shown: Result
    results: Sequence[Result]


def _outcome(claim: Claim, records: DataFrame, compare: Compare) -> _Tested | dict[str, Any]:
    """The claim's test, or the fields of a verdict that needs none."""
    results: list[Result] = []
    try:
        for i, part in enumerate(claim.parts):
            results += [_placed(i, result) for result in compare(claim, part, records)]
    except (NotRunError, UserError) as error:
        return {"verdict": NOT_RUN, "remark": str(error)}
    except UnfitError as error:
        return {"verdict": INCONCLUSIVE, "remark": str(error)}
    tested = [r for r in results if r.p is not None and r.p_opposite is not None]
    if len(tested) < len(results):
        few = next(r for r in results if r.p is None)
        counts = {
            "n": few.n,
            "failed": _count(results, "failed"),
            "missing": _count(results, "missing"),
        }
        return {
            "verdict": INCONCLUSIVE,
            "effect": few.effect,
            "limit": few.limit,
            **counts,
            "remark": _remark(few, results),
        }
    shown = max(tested, key=lambda r: (r.p or 0.0, -(r.p_opposite or 0.0)))
    opposite = min(1.0, len(tested) * min(r.p_opposite for r in tested if r.p_opposite is not None))
    return _Tested(shown.p or 0.0, opposite, shown, results)


def _judged(head: dict[str, Any], outcome: _Tested, p_holm: float, opposite_holm: float) -> Verdict:
    shown, alone = outcome.shown, _word(outcome.p, outcome.p_opposite)
    verdict = _word(p_holm, opposite_holm)
    remark = _remark(shown, outcome.results)
    if verdict == NOT_REPRODUCED:
        remark += f"; opposite p {opposite_holm:.2g}"
    if verdict != alone:
        remark = "; ".join(part for part in (remark, f"{alone} before Holm's correction") if part)
    return Verdict(
        **head,
        verdict=verdict,
        effect=shown.effect,
        low=shown.low,
        high=shown.high,
        limit=shown.limit,
        p=outcome.p,
        p_opposite=outcome.p_opposite,
        p_holm=p_holm,
        p_opposite_holm=opposite_holm,
        n=shown.n,
        failed=_count(outcome.results, "failed"),
        missing=_count(outcome.results, "missing"),
        remark=remark,
    )


def _word(p: float, opposite: float) -> str:
    return REPRODUCED if p < ALPHA else NOT_REPRODUCED if opposite < ALPHA else INCONCLUSIVE


def _placed(part: int, result: Result) -> Result:
    """Failed runs and missing units told apart by the part of the claim they belong to."""
    failed, missing = (frozenset((part, item) for item in s) for s in (result.failed, result.missing))
    return replace(result, failed=failed, missing=missing)


def _count(results: Sequence[Result], key: str) -> int:
    return len({item for result in results for item in getattr(result, key)})


def _remark(shown: Result, results: Sequence[Result]) -> str:
    parts = [shown.label]
    if len(results) > 1:
        parts[0] = f"{shown.label} (largest p of {len(results)})".strip()
    failed, missing = _count(results, "failed"), _count(results, "missing")
    parts += [shown.note, f"{failed} failed or diverged counted as worst" if failed else ""]
    parts.append(f"{missing} units incomplete, left out" if missing else "")
    return "; ".join(part for part in parts if part)
