"""Running log-mean-exp per sample: against the plain recursion, where exp overflows, and with bad values."""

import pytest
import torch
from torch.testing import assert_close

from lossatlas.ema import LogEMA, log_ema


def test_the_recursion_on_plain_numbers():
    g = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    average, u = LogEMA(0.3, n=5).double(), g[0]
    for k, new in enumerate(g):
        u = u if k == 0 else 0.7 * u + 0.3 * new
        assert_close(average(torch.arange(5), new.log()), u.log(), atol=1e-12, rtol=0)
    assert_close(average.log_u, u.log(), atol=1e-12, rtol=0)


def test_constant_values_stay_and_gamma_1_forgets():
    log = torch.full((3,), 1e4)
    assert_close(log_ema(log, log, 0.1, torch.zeros(3, dtype=torch.bool)), log)
    assert torch.equal(log_ema(torch.full((3,), 50.0), -log, 1.0, torch.zeros(3, dtype=torch.bool)), -log)


def test_in_evaluation_nothing_is_stored_and_bad_values_never():
    average = LogEMA(0.5, n=2)
    at = torch.tensor([0, 1])
    average(at, torch.tensor([1.0, 2.0]))
    average(at, torch.tensor([torch.nan, 2.0]))
    average.eval()(at, torch.tensor([5.0, 5.0]))
    assert_close(average.log_u, torch.tensor([1.0, 2.0]))
    assert average.visits.tolist() == [1, 2]


@pytest.mark.parametrize("gamma", [0.0, 1.5, float("nan")])
def test_gamma_out_of_range_is_refused(gamma):
    with pytest.raises(ValueError, match="needs gamma in"):
        LogEMA(gamma)
    with pytest.raises(ValueError, match="needs gamma in"):
        log_ema(torch.zeros(1), torch.zeros(1), gamma, torch.zeros(1, dtype=torch.bool))
