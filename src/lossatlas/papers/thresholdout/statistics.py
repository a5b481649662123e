"""The statistic of the claim that the reused holdout finds signal, from tidy records."""

from typing import Any

DataFrame = Any  # pandas has no stubs here


def fresh_at_best(
    records: DataFrame, reported: str = "test/reported", fresh: str = "test/fresh"
) -> DataFrame:
    """Fresh accuracy at the number of features k whose reported accuracy is largest, the smallest such k.

    Args:
        records: tidy rows of thresholdout_select at one `signal`.

    Returns:
        unit, arm, value.
    """
    rows = records[records[reported].notna()]
    rows = rows.assign(k=rows["k"].astype(int)).sort_values("k", kind="stable")
    best = rows.loc[rows.groupby(["unit_id", "arm"])[reported].idxmax()]
    return best[["unit_id", "arm"]].assign(value=best[fresh]).rename(columns={"unit_id": "unit"})
