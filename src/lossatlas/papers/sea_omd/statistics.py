"""The statistic of the claim that optimistic mirror descent has optimistic FTRL's bound, from tidy records."""

from typing import Any

DataFrame = Any  # pandas has no stubs here


def beyond_oftrl(
    records: DataFrame, blocks: list[int], factor: float = 1.5, against: str = "oftrl"
) -> DataFrame:
    """Regret beyond `factor` times OFTRL's (0 where that is negative) and D G, the worst of the given B.

    A number per seed and arm: max over B of the mean over sigma of regret - factor max(regret of OFTRL, 0) - D G, with
    D = 2 and G = 1 + sigma.

    Args:
        records: tidy rows of sea_bridge at one T.
        blocks: values of B.
    """
    rows = records[records["B"].isin([str(B) for B in blocks])]
    keys = ["unit_id", "B", "sigma"]
    other = rows[rows["arm"] == against].set_index(keys)["test/regret"].clip(lower=0)
    rows = rows[rows["arm"] != against].join(other.rename("other"), on=keys)
    G = 1 + rows["sigma"].astype(float)
    rows = rows.assign(value=rows["test/regret"] - factor * rows["other"] - 2 * G)
    mean = rows.groupby(["unit_id", "arm", "B"])["value"].mean()
    return mean.groupby(["unit_id", "arm"]).max().reset_index().rename(columns={"unit_id": "unit"})
