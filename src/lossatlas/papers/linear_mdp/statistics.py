"""A statistic of the linear MDP card, from tidy records."""

from typing import Any

DataFrame = Any  # pandas has no stubs here


def mean_log_error(records: DataFrame) -> DataFrame:
    """The mean over all (gamma, M) of log |Sinv (Sigma + gamma I) - I|, a number per seed and arm.

    Args:
        records: tidy rows of linear_mdp_covariance.
    """
    rows = records[records["arm"].isin(["direct", "resampling"])]
    mean = rows.groupby(["unit_id", "arm"])["test/log_error"].mean()
    return mean.rename("value").reset_index().rename(columns={"unit_id": "unit"})
