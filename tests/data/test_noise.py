"""Label noise does what its rate says, and nothing else."""

import pytest
import torch

from lossatlas.data import load, noisy_labels
from lossatlas.errors import UserError
from lossatlas.seeding import stream

N = 40_000


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.9])
def test_uniform_noise_changes_labels_at_rate_times_k_minus_1_over_k(rate: float) -> None:
    K = 5
    y = torch.arange(N) % K
    noisy = noisy_labels(y, "uniform", rate, K, [], stream(0, "noise"))
    expected = rate * (K - 1) / K
    assert (noisy != y).float().mean().item() == pytest.approx(
        expected, abs=3 * (expected * (1 - expected) / N) ** 0.5
    )
    wrong = torch.bincount((noisy - y)[noisy != y] % K, minlength=K)[1:].float()
    assert (wrong / wrong.sum() - 1 / (K - 1)).abs().max() < 0.02  # every wrong class alike


def test_class_noise_swaps_within_pairs_at_its_rate_and_leaves_the_rest() -> None:
    y = torch.arange(N) % 5
    noisy = noisy_labels(y, "class", 0.3, 5, [[0, 3], [4, 1]], stream(0, "noise"))
    assert torch.equal(noisy[y == 2], y[y == 2])
    for a, b in ((0, 3), (3, 0), (1, 4), (4, 1)):
        got = noisy[y == a]
        assert set(got.tolist()) == {a, b}
        assert (got == b).float().mean().item() == pytest.approx(0.3, abs=3 * (0.21 / (N / 5)) ** 0.5)


def test_rates_0_and_1_are_exact() -> None:
    y = torch.arange(12) % 3
    assert torch.equal(noisy_labels(y, "uniform", 0.0, 3, [], stream(0, "noise")), y)
    assert noisy_labels(y, "class", 1.0, 3, [[0, 2]], stream(0, "noise")).tolist() == [2, 1, 0] * 4


@pytest.mark.parametrize(
    ("kind", "rate", "pairs", "word"),
    [
        ("uniform", 1.5, [], r"\[0, 1\]"),
        ("uniform", -0.1, [], r"\[0, 1\]"),
        ("uniform", float("nan"), [], r"\[0, 1\]"),
        ("uniform", "0.3", [], r"\[0, 1\]"),
        ("symmetric", 0.3, [], "uniform, class"),
        ("class", 0.3, [], "confusable"),
        ("class", 0.3, [[0, 1], [1, 2]], "disjoint"),
        ("class", 0.3, [[0, 3]], "lie in"),
    ],
)
def test_wrong_noise_is_one_line(kind: str, rate: float, pairs: list, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        noisy_labels(torch.zeros(3, dtype=torch.int64), kind, rate, 3, pairs, stream(0, "noise"))
    assert "\n" not in str(caught.value)


def test_only_training_labels_are_noisy_and_the_seed_decides_which(toy: dict) -> None:
    noise = {"name": "u60", "kind": "uniform", "rate": 0.6}
    clean, first, again, other = (
        load(**toy), load(**toy, noise=noise), load(**toy, noise=noise), load(**toy, noise=noise, seed=1)
    )  # fmt: skip
    assert clean.train.y is clean.train.y_clean
    assert torch.equal(first.test.y, clean.test.y)
    assert first.test.y is first.test.y_clean
    assert torch.equal(first.train.y_clean, clean.train.y)
    assert torch.equal(first.train.x, clean.train.x)
    assert torch.equal(first.train.y, again.train.y)
    assert not torch.equal(first.train.y, other.train.y)
    assert (first.train.y != first.train.y_clean).any()


def test_zero_rate_means_no_second_tensor(toy: dict) -> None:
    data = load(**toy, noise={"name": "u00", "kind": "uniform", "rate": 0.0})
    assert data.train.y is data.train.y_clean


def test_a_limit_or_a_fold_changes_no_label_that_stays(toy: dict) -> None:
    noise = {"kind": "uniform", "rate": 0.6}
    whole = load(**toy, noise=noise)
    cut = load(**toy, noise=noise, limit={"train": 10, "test": 5})
    assert torch.equal(cut.train.y, whole.train.y[:10])
    assert torch.equal(cut.train.x, whole.train.x[:10])
    assert torch.equal(cut.test.y, whole.test.y[:5])
    folded = load(**toy, noise=noise, val_fold=2)
    assert folded.val is not None
    assert torch.equal(folded.val.y, whole.train.y[2::5])
    assert (folded.val.y != folded.val.y_clean).any()


def test_streams_of_one_seed_are_independent_and_repeatable() -> None:
    draws = {(s, p): torch.rand(4, generator=stream(s, p)) for s in (0, 1) for p in ("noise", "order")}
    assert torch.equal(draws[0, "noise"], torch.rand(4, generator=stream(0, "noise")))
    values = [tuple(d.tolist()) for d in draws.values()]
    assert len(set(values)) == 4
    # the numbers themselves: a changed derivation would change every committed record
    assert stream(0, "noise").initial_seed() == 8372154264372198063
    with pytest.raises(ValueError, match=">= 0"):
        stream(-1, "noise")
