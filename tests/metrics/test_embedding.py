"""Retrieval and probes: torchmetrics, hand-made numbers, limits."""

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from torch.testing import assert_close
from torchmetrics.retrieval import RetrievalHitRate

from lossatlas.metrics import embedding, linear_probe, map_at_r, recall_at_k, squared_distances


def rows(n=60, classes=5, noise=1.0):
    g = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (n,), generator=g)
    return torch.randn(classes, 4, generator=g)[y] + noise * torch.randn(n, 4, generator=g), y


def test_distances_are_scikit_learns_and_differentiable():
    a, b = (torch.randn(n, 3, dtype=torch.float64) for n in (4, 6))
    assert_close(squared_distances(a, b), torch.as_tensor(pairwise_distances(a, b, metric="sqeuclidean")))
    assert torch.autograd.gradcheck(squared_distances, (a.requires_grad_(), b))
    far = torch.randn(5, 3) + 1e4  # not what |a|^2 + |b|^2 - 2ab gives
    assert_close(
        squared_distances(far, far),
        torch.cdist(far.double(), far.double()).square().float(),
        atol=1e-4,
        rtol=1e-3,
    )
    assert squared_distances(far, far).min() >= 0


def test_recall_is_torchmetrics_hit_rate(monkeypatch):
    z, y = rows()
    found = recall_at_k(z, y, ks=(1, 3, 10))
    away = -torch.cdist(z, z)
    queries = torch.arange(60)[:, None].expand(60, 60)
    off = queries != queries.T
    for k, value in found.items():
        hit = RetrievalHitRate(top_k=k)(away[off], (y[:, None] == y)[off], indexes=queries[off])
        assert value == pytest.approx(hit.item())
    assert found[1] < found[3] < found[10]
    monkeypatch.setattr(embedding, "ROWS", 7)  # blocks change nothing
    assert recall_at_k(z, y, ks=(1, 3, 10)) == found


def test_map_at_r_by_the_definition(monkeypatch):
    z, y = rows(classes=6)
    y[0] = 99  # alone: no R
    precision = []
    for i in range(1, 60):
        order = [j for j in torch.cdist(z[i : i + 1], z)[0].argsort().tolist() if j != i]
        R = int((y == y[i]).sum()) - 1
        right = [bool(y[j] == y[i]) for j in order[:R]]
        precision.append(sum(np.mean(right[: k + 1]) for k in range(R) if right[k]) / R)
    assert map_at_r(z, y) == pytest.approx(np.mean(precision))
    monkeypatch.setattr(embedding, "ROWS", 7)
    assert map_at_r(z, y) == pytest.approx(np.mean(precision))


def test_separate_classes_are_found_and_shuffled_ones_are_not():
    z, y = rows(noise=1e-3)
    assert recall_at_k(z, y, ks=(1,)) == {1: 1.0}
    assert map_at_r(z, y) == 1.0
    assert map_at_r(z, y[torch.randperm(60, generator=torch.Generator().manual_seed(1))]) < 0.5


def test_a_probe_is_the_minimum_of_mean_loss_and_penalty():
    z, y = rows(200, classes=3)
    z = z.double()
    W, b = (
        torch.zeros(4, 3, dtype=torch.float64, requires_grad=True),
        torch.zeros(3, dtype=torch.float64, requires_grad=True),
    )
    optimizer = torch.optim.LBFGS([W, b], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def objective():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(z @ W + b, y) + 0.05 / 2 * W.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    expected = ((z @ W + b).argmax(1) == y).double().mean().item()
    assert linear_probe(z, y, z, y, l2=0.05) == pytest.approx(expected, abs=0.006)  # a row on the border
    scaled = linear_probe(
        z * torch.tensor([1e-4, 1, 1e3, 1]), y, z * torch.tensor([1e-4, 1, 1e3, 1]), y, standardise=True
    )
    assert scaled == pytest.approx(linear_probe(z, y, z, y, standardise=True), abs=0.006)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda z, y: recall_at_k(z, y, ks=(60,)), "k in 1..59"),
        (lambda z, y: recall_at_k(z / 0, y), "not finite"),
        (lambda z, y: map_at_r(z, torch.arange(60)), "two rows share"),
        (lambda z, y: linear_probe(z, y, z, y, l2=0.0), "l2 > 0"),
    ],
)
def test_bad_arguments_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call(*rows())
