"""LitModule against a hand-written loop, its checkpoints for every kind of method, top-k."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lossatlas.callbacks import Checkpoints, random_state, set_random_state
from lossatlas.data import Data, Split
from lossatlas.lit import Diverged, LitModule
from lossatlas.loader import ChunkLoader
from lossatlas.papers.ldr import ALDRKL


def make_data(n: int = 100, d: int = 5, classes: int = 3) -> Data:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (n,), generator=g)
    x = torch.randn(n, d, generator=g) + 2 * nn.functional.one_hot(y, d)
    split = Split(x, y, y)
    return Data("made", classes, split, split)


def make_module(loss: nn.Module, chunk: int = 3, **more) -> LitModule:
    torch.manual_seed(0)
    net = nn.Linear(5, 3)
    return LitModule(
        make_data(),
        net,
        loss,
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        batch_size=8,
        chunk=chunk,
        **more,
    )


def fit(module: LitModule, epochs: int = 3, callbacks: tuple = ()) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module)
    return trainer


@pytest.mark.parametrize("chunk", [1, 4, 50])
@pytest.mark.parametrize(
    "make_loss", [lambda: nn.CrossEntropyLoss(reduction="none"), ALDRKL], ids=["ce", "aldr_kl"]
)
def test_training_equals_the_hand_loop_bitwise(chunk, make_loss):
    module = make_module(make_loss(), chunk)
    fit(module)
    torch.manual_seed(0)
    net, loss, data = nn.Linear(5, 3), make_loss(), make_data()
    if isinstance(loss, ALDRKL):
        loss.allocate(100)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    order = ChunkLoader(100, 8, 1, seed=0)
    for epoch in range(3):
        order.set_epoch(epoch)
        for index in order.order().split(8):
            f = net(data.train.x[index])
            y = data.train.y[index]
            value = loss(f, y, index) if isinstance(loss, ALDRKL) else cross_entropy(f, y, reduction="none")
            optimizer.zero_grad()
            value.mean().backward()
            optimizer.step()
    assert module.net is not None
    for name, value in net.state_dict().items():
        assert torch.equal(value, module.net.state_dict()[name])
    if isinstance(loss, ALDRKL) and isinstance(module.loss, ALDRKL):
        assert torch.equal(loss.lambda_i, module.loss.lambda_i)


class Rounds(LitModule):
    """A method without gradients: rounds as the batches."""

    def __init__(self) -> None:
        super().__init__(None)
        self.register_buffer("count", torch.zeros(()))

    def train_dataloader(self) -> ChunkLoader:
        return ChunkLoader(20, 1, 5, seed=0, shuffle=False)

    def training_step(self, index: torch.Tensor, _: int) -> None:
        self.count += len(index)


@pytest.mark.parametrize("make", [Rounds, lambda: make_module(nn.CrossEntropyLoss(reduction="none"))])
def test_every_kind_of_method_leaves_a_checkpoint_that_loads_with_weights_only(make, tmp_path):
    fit(make(), epochs=2, callbacks=(Checkpoints(tmp_path, every_chunks=1),))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["state_dict"]
    assert saved["random_state"]
    assert not list(tmp_path.glob("*.part"))


def test_random_states_come_back():
    import random

    import numpy as np

    state = random_state()

    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    first = draw()
    set_random_state(state)
    assert draw() == first


def test_a_loss_that_is_not_finite_stops_with_the_mini_batches_named():
    class Bad(nn.Module):
        def forward(self, f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return f[:, 0] * float("nan")

    with pytest.raises(Diverged, match="epoch 0, mini-batches 0 to 2"):
        fit(make_module(Bad()))


def test_top_k_and_clipping():
    module = make_module(nn.CrossEntropyLoss(reduction="none"), gradient_clip=1e-12)
    assert module.net is not None
    before = {k: v.clone() for k, v in module.net.state_dict().items()}
    trainer = fit(module, epochs=1)
    assert all(torch.allclose(v, before[k], atol=1e-9) for k, v in module.net.state_dict().items())
    (found,) = trainer.test(module, verbose=False)
    scores = module.scores(make_data().test)
    hits = (scores.topk(2).indices == make_data().test.y[:, None]).any(1).float().mean()
    assert found["test/top2"] == pytest.approx(float(hits))
    assert found["test/top3"] == 1.0


class Halved(nn.Module):
    """A loss of numbers that reads its prediction from two outputs."""

    def predict(self, f: torch.Tensor) -> torch.Tensor:
        return f.sum(1) / 2

    def forward(self, f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (self.predict(f) - y) ** 2


def test_numbers_are_scored_by_the_squared_error_of_what_the_loss_predicts():
    made = make_data().train
    y = made.x @ torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]) + 1
    noisy = Split(made.x, y + 0.5 * torch.randn(100, generator=torch.Generator().manual_seed(1)), y)
    torch.manual_seed(0)
    net, adam = nn.Linear(5, 2), lambda p: torch.optim.Adam(p, lr=0.1)
    data = Data("numbers", 0, noisy, Split(made.x, y, y), val=noisy)
    module = LitModule(data, net, Halved(), adam, batch_size=20)
    assert module.can_stack
    trainer = fit(module, epochs=20)
    found = trainer.validate(module, verbose=False)[0] | trainer.test(module, verbose=False)[0]
    with torch.no_grad():
        off = net(made.x).mean(1)
    assert found == {
        "val/mse": pytest.approx(float(((off - noisy.y) ** 2).mean()), rel=1e-5),
        "test/mse": pytest.approx(float(((off - y) ** 2).mean()), rel=1e-5),
    }
    assert found["test/mse"] < 0.1 < found["val/mse"]


class Sum(LitModule):
    """Rounds in their order, a result at the end."""

    def __init__(self) -> None:
        super().__init__(None, rounds=20, chunk=8)
        self.seen: list[int] = []

    def play(self, rounds: torch.Tensor) -> torch.Tensor:
        self.seen += rounds.tolist()
        return rounds.float()

    def results(self) -> dict[str, float]:
        return {"test/sum": float(sum(self.seen))}


def test_a_method_without_data_plays_its_rounds_in_order():
    module = Sum()
    trainer = fit(module, epochs=1)
    assert module.seen == list(range(20))
    assert trainer.test(module, verbose=False) == [{"test/sum": 190.0}]


def test_rounds_that_are_not_finite_stop_with_the_rounds_named():
    class Bad(Sum):
        def play(self, rounds: torch.Tensor) -> torch.Tensor:
            return rounds.float() / (rounds < 8)

    with pytest.raises(Diverged, match="epoch 0, rounds 8 to 15"):
        fit(Bad(), epochs=1)


class Spoiled(nn.Module):
    """Scores of a net with NaN for some samples."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.net, self.share = nn.Linear(5, 3), share

    def forward(self, x):
        f, keep = self.net(x), torch.arange(len(x)) >= self.share * len(x)
        return torch.where(keep[:, None], f, torch.nan)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_scores_that_are_not_finite_count_as_wrong_and_are_counted(share):
    """before: top-1 of all-NaN scores was the share of class 0, .34 here."""
    module = make_module(nn.CrossEntropyLoss(reduction="none"))
    module.net = Spoiled(share)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    with pytest.warns(UserWarning, match=f"{int(100 * share)} test samples have scores that are not finite"):
        trainer.test(module, verbose=False)
    found = trainer.callback_metrics
    test = make_data().test
    right = module.net(test.x).nan_to_num(-1).argmax(1) == test.y
    right[: int(100 * share)] = False
    assert float(found["test/top1"]) == pytest.approx(float(right.float().mean()))
    assert float(found["test/nonfinite"]) == 100 * share
    assert float(found["test/top2"]) <= 1 - share
