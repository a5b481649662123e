"""Rounds of replicas: together as alone, points of a curve, divergence, what must be given."""

import math

import pytest
import torch
from torch import nn

from lossatlas.stacked.rounds import Rounds

f64 = torch.float64


class Online(Rounds):
    """Least squares by one step a round on a fresh sample per replica."""

    every = 4

    def __init__(self, seed, rate=0.1):
        super().__init__(None, seed=seed, rounds=10)
        self.w = nn.Parameter(torch.full((1, 3), float(seed), dtype=f64), requires_grad=False)
        self.hold(rate=torch.tensor([rate], dtype=f64), points=torch.full((1, 3), math.nan, dtype=f64))

    def one_step(self, t):
        x = self.drawn(f"x/{t}", lambda g: torch.randn(3, generator=g, dtype=f64))
        error = (self.w * x).sum(1) - x.sum(1)
        self.w -= self.rate[:, None] * error[:, None] * x
        return error.square()

    def note(self, point):
        self.points[:, point] = self.w.sum(1)

    def replica(self, i):
        rows = [{"round": 4.0 * k, "sum": v} for k, v in enumerate(self.points[i].tolist())]
        return {"error": None, "metrics": {"test/sum": self.w[i].sum().item(), "train/loss": 0.0}, "rows": rows,
                "units": [], "extras": {"seed": int(self.replica_seed[i])}}  # fmt: skip


def played(module):
    losses = torch.cat([module.play(part) for part in torch.arange(10).split(4)])
    return module, losses


def test_replicas_together_are_those_alone_bitwise():
    made = [Online(seed, rate) for seed, rate in ((0, 0.1), (5, 0.01), (9, 0.2))]
    both, mean = played(Online.stack(made))
    alone = [played(Online(seed, rate)) for seed, rate in ((0, 0.1), (5, 0.01), (9, 0.2))]
    assert torch.equal(both.w, torch.cat([a.w for a, _ in alone]))
    assert torch.equal(both.points, torch.cat([a.points for a, _ in alone]))
    assert torch.allclose(mean, torch.stack([loss for _, loss in alone]).mean(0), rtol=1e-14)
    for i, (single, _) in enumerate(alone):
        assert both.replica(i) == single.replica(0)
    assert made[0].w.sum() == 0  # what is stacked stays as it was
    assert alone[1][0].results() == {"test/sum": both.w[1].sum().item()}
    assert alone[1][0].extras() == {"seed": 5}


def test_points_are_noted_before_their_round_and_after_the_last():
    module, start = Online(2), 6.0
    module.play(torch.arange(4))
    assert module.points[0, 0] == start
    assert module.points[0, 1] == module.w.sum()
    module.play(torch.arange(4, 6))
    assert math.isnan(module.points[0, 2])
    assert module.curve_rows()[1] == {"round": 4.0, "sum": module.points[0, 1].item()}


def test_a_diverged_replica_leaves_the_others_alone():
    both = Online.stack([Online(0), Online(2, rate=1e200)])
    _, losses = played(both)
    assert both.diverged.tolist() == [False, True]
    single, own = played(Online(0))
    assert torch.equal(both.w[:1], single.w)
    assert losses.isfinite().all()
    assert torch.equal(losses, own)  # from the chunk of the divergence on, the mean is over the rest
    _, losses = played(Online(2, rate=1e200))
    assert not losses[-1].isfinite()  # alone it ends the run


def test_what_must_be_given():
    with pytest.raises(NotImplementedError, match="override one_step"):
        Rounds(None).play(torch.arange(1))
    with pytest.raises(ValueError, match=r"x has \(2, 3\)"):
        Rounds(None).hold(x=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="x has"):
        Rounds(None).hold(x=torch.zeros(()))
