"""Claims of a paper, checked on records: a card names statistics and checks, `judge` gives the verdicts.

spec.py, card.py, names.py   what may be written in a card.yaml, and what its names must be names of
grid.py, statistics.py   one number per unit, arm and condition, from tidy records
curves.py     first passage of a curve, order of censored values, slopes and rank agreement per unit
tests.py, checks.py, power.py   the statistical tests, which comparisons a check asks of them, units needed
verdicts.py   the largest p of a claim, Holm over the card, contrast and sensitivity, words

A name is imported when it is first used: a card is checked before a study starts, without pandas and scipy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossatlas.claims.card import (
        Card,
        Claim,
        Contrast,
        Equation,
        Part,
        load_card,
        load_function,
        parse_card,
    )
    from lossatlas.claims.curves import censored_last, first_passage, kendall, log_steps, slopes
    from lossatlas.claims.grid import NotRunError, UnfitError
    from lossatlas.claims.spec import number_in
    from lossatlas.claims.statistics import Statistic, compute, unit_ids, verdict_seeds
    from lossatlas.claims.tests import Result, page_test, ratio_test, sign_test, t_test, tost
    from lossatlas.claims.verdicts import LEVEL, Verdict, comparisons, holm, judge

__all__ = [
    "LEVEL",
    "Card",
    "Claim",
    "Contrast",
    "Equation",
    "NotRunError",
    "Part",
    "Result",
    "Statistic",
    "UnfitError",
    "Verdict",
    "censored_last",
    "comparisons",
    "compute",
    "first_passage",
    "holm",
    "judge",
    "kendall",
    "load_card",
    "load_function",
    "log_steps",
    "number_in",
    "page_test",
    "parse_card",
    "ratio_test",
    "sign_test",
    "slopes",
    "t_test",
    "tost",
    "unit_ids",
    "verdict_seeds",
]

HOMES = {
    "card": "Card Claim Contrast Equation Part load_card load_function parse_card",
    "curves": "censored_last first_passage kendall log_steps slopes",
    "grid": "NotRunError UnfitError",
    "spec": "number_in",
    "statistics": "Statistic compute unit_ids verdict_seeds",
    "tests": "Result page_test ratio_test sign_test t_test tost",
    "verdicts": "LEVEL Verdict comparisons holm judge",
}
HOME = {name: module for module, names in HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{HOME[name]}"), name)
    globals()[name] = found
    return found
