"""Records of a step: they replay what the function does, whatever state it touches."""

import torch
from torch import nn
from torch.testing import assert_close

from lossatlas.stacked.traced import MOST, Traced, settings_of


def test_a_record_replays_values_gradients_and_changes_in_place():
    calls = []

    def function(w, seen, x):
        calls.append(1)
        w = w.detach().requires_grad_(True)
        with torch.enable_grad():
            value = torch.vmap(lambda w, x: (w * x).tanh().sum())(w, x)
        seen.add_(1)
        return [value.detach(), *torch.autograd.grad(value.sum(), [w])]

    traced, w, seen = Traced(function), torch.randn(3, 4, dtype=torch.float64), torch.zeros(3)
    for _ in range(3):
        x = torch.randn(3, 4, dtype=torch.float64)
        value, slope = traced("", [w, seen, x])
        assert_close(value, (w * x).tanh().sum(1), atol=1e-12, rtol=0)
        assert_close(slope, x * (1 - (w * x).tanh() ** 2), atol=1e-12, rtol=0)
    assert seen.tolist() == [3, 3, 3]  # writing it down touched copies only
    assert len(calls) == 1
    traced("", [w[:2], seen[:2], x[:2]])  # another shape
    assert len(calls) == 2


def test_random_numbers_are_drawn_anew_and_writing_down_draws_none():
    traced, x = Traced(lambda x: [torch.rand_like(x)]), torch.zeros(5)
    torch.manual_seed(0)
    expected = [torch.rand_like(x) for _ in range(2)]
    torch.manual_seed(0)
    assert_close([traced("", [x])[0] for _ in range(2)], expected, atol=0, rtol=0)


def test_a_changed_setting_is_written_down_again_until_there_are_too_many():
    class Scaled(nn.Module):
        factor = 0.0

        def forward(self, x):
            return [x * self.factor]

    module, x = Scaled(), torch.ones(2)
    traced = Traced(module.forward)
    for k in range(MOST + 5):
        module.factor = float(k)
        assert traced(settings_of(module), [x])[0].tolist() == [k, k]
    assert len(traced._records) == MOST
