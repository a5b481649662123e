"""The LDR study: the rank statistic by hand, pruning after the warm-up, lambda's metrics."""

import pandas as pd
import pytest

from lossatlas.papers.ldr.study import mean_rank


def rows(values: dict[tuple[str, str, int], float]) -> pd.DataFrame:
    flat = [{"arm": a, "noise": n, "seed": s, "test/top1": v} for (a, n, s), v in values.items()]
    return pd.DataFrame(flat)


def test_mean_rank_by_hand():
    values = {("a", "u00", 0): 0.9, ("b", "u00", 0): 0.8, ("c", "u00", 0): 0.7}  # a ranks 1
    values |= {("a", "u60", 0): 0.5, ("b", "u60", 0): 0.6, ("c", "u60", 0): 0.5}  # a ranks 2.5
    values |= {("x", "u60", 0): 0.99, ("x", "u00", 0): 0.99}  # not in the comparison
    found = mean_rank(rows(values), "a", ["a", "b", "c"], ["u00", "u60"])
    assert found.to_dict("records") == [{"unit": "s0", "arm": "a", "value": pytest.approx(1.75)}]


def test_a_run_without_a_metric_ranks_last_and_an_incomplete_seed_does_not_count():
    values = {("a", "u00", 0): float("nan"), ("b", "u00", 0): 0.1, ("a", "u00", 1): 0.5}
    found = mean_rank(rows(values), "a", ["a", "b"], ["u00"])
    assert found.to_dict("records") == [{"unit": "s0", "arm": "a", "value": 2.0}]
