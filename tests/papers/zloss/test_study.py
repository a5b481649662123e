"""The word model, its heads and metrics; the speed study; the card."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lossatlas.claims import load_card
from lossatlas.data import Data, Split
from lossatlas.papers.zloss import SphericalSoftmax, TaylorSoftmax, ZLoss
from lossatlas.papers.zloss.figure import figure
from lossatlas.papers.zloss.heads import AdaptiveHead, DenseHead, FactoredHead, SampledHead
from lossatlas.papers.zloss.speed import LitSpeed, exactness, resident_mb, zipf
from lossatlas.papers.zloss.words import LitPlain, LitWords, WordContext, rank
from lossatlas.paths import experiments_dir
from lossatlas.records import Record, tidy

D, d, N = 60, 8, 32
h = torch.randn(N, d, generator=torch.Generator().manual_seed(0))
y = torch.arange(N) % D
HEADS = {
    "ce": lambda: DenseHead(d, D, nn.CrossEntropyLoss(reduction="none")),
    "taylor": lambda: DenseHead(d, D, TaylorSoftmax()),
    "spherical": lambda: DenseHead(d, D, SphericalSoftmax()),
    "spherical_fast": lambda: FactoredHead(d, D, SphericalSoftmax()),
    "adaptive": lambda: AdaptiveHead(d, D),
    "sampled": lambda: SampledHead(d, D),
}


def word_data(classes: int = D) -> Data:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(classes + 2, (200, 5), generator=g)
    part = Split(x, x[:, -1] % classes, x[:, -1] % classes)
    return Data("words", classes, part, part, part)


def test_rank_counts_ties_against_the_target() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [1.0, 1.0, 0.0], [2.0, 2.0, 2.0]])
    assert rank(scores, torch.tensor([2, 0, 1])).tolist() == [2, 2, 3]


@pytest.mark.parametrize("name", HEADS)
def test_log_probs_are_normalised_and_rank_as_the_scores(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS[name]()
    log_probs = head.log_probs(h)
    assert_close(log_probs.exp().sum(1), torch.ones(N), atol=1e-4, rtol=0)
    assert torch.equal(rank(log_probs, y), rank(head.scores(h), y))


@pytest.mark.parametrize("name", ["ce", "taylor", "spherical", "adaptive"])
def test_losses_are_the_negative_log_probs(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS[name]()
    wanted = -head.log_probs(h).gather(1, y[:, None])[:, 0]
    assert_close(head.losses(h, y, 0.0), wanted, atol=1e-4, rtol=1e-4)


def test_the_z_loss_has_no_probabilities() -> None:
    assert DenseHead(d, D, ZLoss()).log_probs(h) is None
    assert FactoredHead(d, D, ZLoss()).log_probs(h) is None


def test_a_tail_word_of_the_adaptive_softmax_counts() -> None:
    head = AdaptiveHead(d, D)
    assert head.softmax.cutoffs == [1, 6, 30, 60]


def test_sampled_softmax_estimates_the_full_sum() -> None:
    """exp of the corrected logits, summed over the draws, is an unbiased sum over all words."""
    torch.manual_seed(0)
    head = SampledHead(d, D, samples=400_000)
    drawn = head.draw(h.device)
    full = head.scores(h[:1]).exp().sum()
    sampled = (head.scores(h[:1])[0, drawn] - head.log_count(drawn)).exp().sum()
    assert_close(sampled, full, rtol=0.02, atol=0)
    counts = torch.bincount(drawn, minlength=D) / 400_000
    assert_close(counts.sum(), torch.tensor(1.0))
    assert_close(head.log_count(torch.arange(D)).exp() / 400_000, counts, atol=5e-3, rtol=0)


def test_sampled_softmax_by_hand_and_its_sparse_gradient(monkeypatch) -> None:
    torch.manual_seed(0)
    head = SampledHead(d, D, samples=3)
    drawn = torch.tensor([4, 0, 9])  # class 0 is the target of sample 0: an accidental hit
    monkeypatch.setattr(head, "draw", lambda device: drawn)
    found = head.losses(h[:2], y[:2], 0.0)
    o, count = head.scores(h[:2]), head.log_count(torch.arange(D))
    first = o[0, [0, 4, 9]] - count[[0, 4, 9]]
    second = o[1, [1, 4, 0, 9]] - count[[1, 4, 0, 9]]
    wanted = [cross_entropy(row[None], torch.tensor([0])) for row in (first, second)]
    assert_close(found, torch.stack(wanted))
    found.sum().backward()
    gradient = head.table.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert set(gradient.coalesce().indices()[0].tolist()) == {0, 1, 4, 9}
    with pytest.raises(ValueError, match="samples >= 1"):
        SampledHead(d, D, samples=0)


def fit(head, steps: int = 20, lr: float = 2.0, seed: int = 0) -> Any:
    """Some SGD steps as the trainer would take them."""
    torch.manual_seed(seed)
    module: Any = LitWords(word_data(), head=head, lr=lr, width=4, hidden=[d], seed=0, batch_size=20)
    module._trainer = SimpleNamespace(max_epochs=2, world_size=1)  # type: ignore[assignment]
    module._plain = True
    module._optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=lr)
    for k in range(steps):
        index = torch.arange(20) + 20 * (k % 10)
        module.step(module.data.batch("train", index, train=True))
    return module


def test_the_factored_arm_trains_as_the_dense_one() -> None:
    loss = ZLoss(0.5, 4.0)
    dense = fit(lambda **k: DenseHead(**k, loss=loss))
    fast = fit(lambda **k: FactoredHead(**k, loss=loss))
    assert_close(fast.net.embedding.weight, dense.net.embedding.weight, atol=1e-4, rtol=0)
    assert_close(fast.head.output.weight, dense.head.linear.weight, atol=1e-4, rtol=0)


def test_the_rate_falls_linearly_to_zero_and_the_step_count_is_state() -> None:
    module = fit(lambda **k: DenseHead(**k, loss=ZLoss()), steps=15)
    assert module.total_steps == 20
    assert module._optimizer.param_groups[0]["lr"] == pytest.approx(2.0 * (1 - 14 / 20))
    assert int(module.state_dict()["taken"]) == 15


def test_word_metrics_by_hand() -> None:
    module = LitWords(word_data(), head=lambda **k: DenseHead(**k, loss=nn.CrossEntropyLoss(reduction="none")), lr=1.0,
                      width=4, hidden=[d], seed=0)  # fmt: skip
    logged = {}
    module.log_dict = logged.update  # type: ignore[method-assign]
    index = torch.arange(200)
    module.test_step(index[:150], 0)
    module.test_step(index[150:], 1)
    module.on_test_epoch_end()
    assert module.data is not None
    x, target = module.data.test.x, module.data.test.y
    ranks = (module(x).argsort(1, descending=True) == target[:, None]).int().argmax(1) + 1
    assert_close(logged["test/top10_error"], (ranks > 10).float().mean())
    assert_close(logged["test/mrr"], (1 / ranks).mean())
    assert_close(logged["test/perplexity"].float(), cross_entropy(module(x), target).exp(), rtol=1e-4, atol=0)
    assert module.extras()["error_curve"][9] == pytest.approx(float(logged["test/top10_error"]), abs=1e-5)
    assert len(module.extras()["error_curve"]) == D


def test_the_context_net_sees_the_order_of_words() -> None:
    net = WordContext(10, 3, 4, [6, 5])
    assert net(torch.tensor([[1, 2, 3], [3, 2, 1]])).shape == (2, 5)
    assert not torch.equal(*net(torch.tensor([[1, 2, 3], [3, 2, 1]])))


def test_two_classes_are_refused_when_the_module_is_built() -> None:
    for head in (DenseHead, FactoredHead):
        with pytest.raises(ValueError, match="at least 3 classes, got 2"):
            LitWords(
                word_data(2), head=lambda head=head, **k: head(**k, loss=ZLoss()), lr=1.0, hidden=[d], seed=0
            )
    with pytest.raises(ValueError, match="at least 3 classes, got 2"):
        LitPlain(word_data(2), nn.Linear(5, 2), ZLoss(), seed=0)


def test_plain_classifier_ranks_by_the_losses_scores() -> None:
    data = word_data()
    data.train.x = data.test.x = data.train.x.float()
    net = nn.Linear(5, D)
    module = LitPlain(data, net, TaylorSoftmax(), seed=0)
    o = net(data.test.x)
    assert_close(module(data.test.x), 1 + o + o**2 / 2)
    batch = data.batch("train", torch.arange(10), train=True)
    assert_close(module.losses(batch), TaylorSoftmax()(net(batch.x), batch.y))


# --- speed


def test_zipf_draws_word_k_with_mass_1_over_k() -> None:
    u = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(zipf(u, 5), minlength=5) / len(u)
    mass = 1 / torch.arange(1, 6, dtype=torch.float64)
    assert_close(counts.double(), mass / mass.sum(), atol=5e-3, rtol=0)
    assert zipf(torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64), 5).tolist() == [0, 4]


def test_each_repetition_is_a_unit_and_the_refresh_is_reported() -> None:
    module = LitSpeed(
        layer=lambda **k: FactoredHead(**k, loss=ZLoss()), D=500, d=16, batch=10, steps=3, rounds=4
    )
    assert module.play(torch.arange(2)).shape == (2,)
    assert module.times[2:].isnan().all()  # the rest is still to come: a resumed run goes on there
    module.play(torch.arange(2, 4))
    units = module.unit_metrics()
    assert [u["unit"] for u in units] == [0, 1, 2, 3]
    assert all(0 < u["metrics"]["time/step_ms"] < 1e4 for u in units)
    found = module.results()
    assert found["time/amortised_ms"] == pytest.approx(found["time/refresh_ms"] / 5000)
    assert 0 < found["exact/weight_error"] < 1e-8
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    assert set(checkpoint["state_dict"]) == {"times", "loss_sum"}


def test_a_repetition_ends_with_its_budget_but_not_before_three_steps(monkeypatch) -> None:
    module = LitSpeed(
        layer=lambda **k: FactoredHead(**k, loss=ZLoss()), D=50, d=4, batch=5, steps=8, rounds=3, budget=1.0
    )
    taken = []
    monkeypatch.setattr(module, "timed", lambda r, position, optimizer: (taken.append(position), 0.9)[1])
    module.play(torch.arange(1))
    assert taken == [8, 0, 1, 2]  # a warm-up step, then three
    assert module.times[0] == 900


def test_a_timed_step_really_trains() -> None:
    for head in (
        lambda: DenseHead(16, 50, ZLoss()),
        lambda: AdaptiveHead(16, 50),
        lambda: SampledHead(16, 50),
    ):
        torch.manual_seed(0)
        module = LitSpeed(layer=lambda head=head, **k: head(), D=50, d=16, batch=10, steps=1, rounds=1)
        before = [p.clone() for p in module.head.parameters()]
        module.play(torch.arange(1))
        assert not torch.equal(
            torch.cat([p.flatten() for p in before]), nn.utils.parameters_to_vector(module.head.parameters())
        )


def test_memory_is_that_of_the_layer() -> None:
    before = resident_mb("VmRSS")
    held = torch.ones(50 * 2**20 // 4)  # 50 MB
    assert 45 < resident_mb("VmRSS") - before < 60
    assert held.sum() > 0
    assert exactness(ZLoss(0.3, 10.0), steps=5) < 1e-12


def test_the_card_loads_and_has_the_sheets_six_claims() -> None:
    card = load_card(experiments_dir() / "zloss" / "card.yaml")
    assert [c.id for c in card.claims] == [
        "topk-better", "best-spherical", "independent-of-D", "softmax-linear", "faster-40", "faster-hierarchical",
    ]  # fmt: skip
    check: Any = card.claims[4].parts[0].check
    assert math.isclose(check.limit, 40)


def test_the_figure_has_a_panel_per_vocabulary_and_one_of_times() -> None:
    curve = {"error_curve": [0.9, 0.6, 0.5], "words": 480}
    made = [
        Record("zloss_words", "zloss", arm, seed, condition={"size": size}, metrics={"test/top1": 0.1}, extras=curve)
        for arm in ("zloss", "log_softmax") for seed in (0, 1) for size in ("small", "large")
    ]  # fmt: skip
    made += [
        Record("zloss_speed", "zloss", "zloss_fast", 0, condition={"D": D}, metrics={"memory/layer_mb": 1.0},
               units=[{"unit": r, "metrics": {"time/step_ms": 5.0 + r}} for r in range(3)])
        for D in ("1000", "1000000")
    ]  # fmt: skip
    fig = figure(tidy(made))
    left, middle, right = fig.axes
    assert (left.get_title(), middle.get_title()) == ("next word, D = 480 words",) * 2
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["zloss (n = 2)", "log_softmax (n = 2)"]
    assert left.lines[0].get_ydata().tolist() == [0.9, 0.6, 0.5]
    assert right.get_xscale() == right.get_yscale() == "log"
    assert len(figure(tidy(made[:4])).axes) == 3
