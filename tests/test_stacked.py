"""A stack of replicas against the same replicas trained one by one: parameters, curves, metrics, faults."""

import signal

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.testing import assert_close

from lossatlas.callbacks import Checkpoints, History, Interrupted
from lossatlas.data import Data, Split
from lossatlas.data.augment import make_augment
from lossatlas.lit import LitModule
from lossatlas.nets import SmallConv
from lossatlas.papers.ldr import ALDRKL, CS, GCE, LDRKL, RCE, RLL, SCE, TGCE, WW, NCEPlus
from lossatlas.papers.ldr.study import LitLDR
from lossatlas.schedules import step_decay
from lossatlas.stacked.stack import Stack, faster_together

SEEDS = (0, 1, 2)


def rows(seed: int, dtype: torch.dtype, n: int = 90) -> Data:
    """Replicas see one x and their own noisy labels."""
    g = torch.Generator().manual_seed(7)
    y = torch.randint(3, (n,), generator=g)
    x = (torch.randn(n, 5, generator=g) + 2 * nn.functional.one_hot(y, 5)).to(dtype)
    flip = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.3
    train = Split(x, torch.where(flip, (y + 1) % 3, y), y)
    return Data("rows", 3, train, Split(x, y, y), val=Split(x[:20], y[:20], y[:20]))


def images(seed: int, dtype: torch.dtype, n: int = 48) -> Data:
    """uint8 images with augmentation."""
    g = torch.Generator().manual_seed(7)
    y = torch.randint(3, (n,), generator=g)
    split = Split(torch.randint(256, (n, 1, 12, 12), generator=g, dtype=torch.uint8), y, y)
    return Data("images", 3, split, split, augment=make_augment("flip_crop", (1, 12, 12)))


def cross_entropy() -> nn.Module:
    return nn.CrossEntropyLoss(reduction="none")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def conv() -> nn.Module:
    return SmallConv(1, 3, (4, 6))


SGD = {"make": torch.optim.SGD, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-3}
ADAM = {"make": torch.optim.Adam, "lr": 0.01}
CASES = {
    "sgd": (rows, mlp, cross_entropy, SGD, {}),
    "adam": (rows, mlp, cross_entropy, ADAM, {}),
    "adamw clipped": (
        rows,
        mlp,
        cross_entropy,
        {"make": torch.optim.AdamW, "lr": 0.01},
        {"gradient_clip": 0.05},
    ),
    "lambda_i": (rows, mlp, ALDRKL, SGD, {}),
    "pruned": (rows, mlp, lambda: TGCE(warm_up=0.3), SGD, {}),
    "batch norm, augmented": (images, conv, cross_entropy, SGD, {}),
}


def replica(
    case: str, seed: int, dtype: torch.dtype = torch.float64, **more
) -> tuple[LitModule, torch.Tensor]:
    """A module and the random state in which its training begins, as the runner makes them."""
    make_data, make_net, make_loss, optimizer, settings = CASES[case]
    options = {**optimizer, **more}
    make = options.pop("make")
    torch.manual_seed(seed)
    module = LitLDR(
        make_data(seed, dtype), make_net().to(dtype), make_loss(), lambda p: make(p, **options),
        lambda o: step_decay(o, 3, [0.5]), seed=seed, batch_size=16, chunk=2, eval_every=2, **settings,
    )  # fmt: skip
    return module.to(dtype)


def trained(module: pl.LightningModule, epochs: int = 3, callbacks: tuple = (), ckpt=None) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[History(), *callbacks], num_sanity_val_steps=0,
        check_val_every_n_epoch=2,
    )  # fmt: skip
    trainer.fit(module, ckpt_path=ckpt, weights_only=True)
    return trainer


def alone(case: str, seed: int, epochs: int, **more) -> tuple[LitModule, list[dict], dict]:
    """Module, curves and metrics of a run of its own."""
    module = replica(case, seed, **more)
    trainer = trained(module, epochs)
    (history,) = [c for c in trainer.callbacks if isinstance(c, History)]
    metrics = {k: v for k, v in history.rows[-1].items() if k != "epoch"}
    metrics |= trainer.validate(module, verbose=False)[0] if module.data.val else {}
    return module, history.rows, metrics | trainer.test(module, verbose=False)[0]


def together(case: str, epochs: int, **more) -> Stack:
    stack = Stack([replica(case, seed, **more) for seed in SEEDS])
    trainer = trained(stack, epochs)
    if stack.data is not None and stack.data.val is not None:
        trainer.validate(stack, verbose=False)
    trainer.test(stack, verbose=False)
    return stack


PAIRS = [(case, dtype) for case in CASES for dtype in (torch.float64, torch.float32)]


@pytest.mark.parametrize(
    ("case", "dtype"), [(c, d) for c, d in PAIRS if d == torch.float32 or CASES[c][0] is rows]
)
def test_a_replica_ends_as_its_run_alone(case, dtype):
    """Pixels are float32 after normalisation, so images are compared in float32 only."""
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    stack = together(case, 3, dtype=dtype)
    for r, seed in enumerate(SEEDS):
        module, curves, metrics = alone(case, seed, 3, dtype=dtype)
        theirs = stack.replicas[r].state_dict()
        for name, value in module.state_dict().items():
            assert_close(theirs[name], value, atol=tolerance, rtol=0, msg=lambda m, name=name: f"{name}: {m}")
        found = stack.replica(r)
        assert found["error"] is None
        assert [row.keys() for row in found["rows"]] == [row.keys() for row in curves]
        for mine, row in zip(found["rows"], curves, strict=True):
            assert mine == pytest.approx(row, abs=1e-5)
        assert found["metrics"] == pytest.approx(metrics, abs=1e-6)
    first, second = (dict(stack.replicas[r].net.named_parameters()) for r in (0, 1))
    assert any((first[name] - second[name]).abs().max() > 1e-3 for name in first)


def test_one_replica_that_diverges_does_not_touch_the_others():
    modules = [replica("sgd", seed) for seed in SEEDS]
    modules[1].data.train.x = torch.full_like(modules[1].data.train.x, torch.nan)
    stack = Stack(modules)
    trainer = trained(stack, 2)
    trainer.test(stack, verbose=False)
    assert "epoch 0, mini-batches 0 to 1" in stack.replica(1)["error"]
    assert stack.replica(1)["metrics"] == {}
    for r in (0, 2):
        module, _, metrics = alone("sgd", SEEDS[r], 2)
        assert stack.replica(r)["metrics"]["test/top1"] == pytest.approx(metrics["test/top1"])
        assert_close(stack.replicas[r].net[0].weight, module.net[0].weight, atol=1e-10, rtol=0)


def test_a_stack_of_diverged_replicas_stops_early():
    modules = [replica("sgd", seed) for seed in SEEDS]
    for module in modules:
        module.data.train.x = torch.full_like(module.data.train.x, torch.nan)
    stack = Stack(modules)
    assert trained(stack, 3).current_epoch < 3
    assert all(stack.errors)


@pytest.mark.parametrize("case", ["lambda_i", "batch norm, augmented"])
@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_a_stack_cut_by_a_signal_goes_on_bitwise(case, cut, tmp_path):
    def begin():
        return Stack([replica(case, seed, dtype=torch.float32) for seed in SEEDS])

    whole = begin()
    trained(whole)
    broken, seen = begin(), []

    class Cut(Checkpoints):
        def _maybe(self, trainer):
            seen.append(1)
            self.stop_signal = signal.SIGINT if len(seen) == cut else None
            super()._maybe(trainer)

    with pytest.raises(Interrupted):
        trained(broken, callbacks=(Cut(tmp_path, every_chunks=1),))
    torch.rand(5)
    resumed = begin()
    trained(resumed, callbacks=(Checkpoints(tmp_path, every_chunks=1),), ckpt=tmp_path / "last.ckpt")
    assert resumed.rows == whole.rows
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("case", ["sgd", "adam"])
def test_learning_rates_may_differ(case):
    rates = (0.02, 0.1, 0.05)
    modules = [replica(case, 0, lr=lr) for lr in rates]
    stack = Stack(modules)
    trained(stack, 2)
    for r, lr in enumerate(rates):
        module, _, _ = alone(case, 0, 2, lr=lr)
        assert_close(stack.replicas[r].net[0].weight, module.net[0].weight, atol=1e-10, rtol=0)


SCALARS = {
    "c": (CS, WW, RLL), "q": (GCE, TGCE), "b": (SCE,), "lambda_": (LDRKL,), "lambda0": (ALDRKL,),
    "w": (lambda w: NCEPlus(RCE(), w),),
}  # fmt: skip


@pytest.mark.parametrize(("name", "make"), [(n, m) for n, makers in SCALARS.items() for m in makers])
def test_scalars_of_the_loss_may_differ(name, make):
    values = (0.2, 0.5, 0.9)

    def begin(value):
        module = replica("sgd", 0)
        loss = make(**{name: value})
        assert name in loss.stacked_scalars
        if getattr(loss, "indexed", False):
            loss.allocate(len(module.data.train))
        module.loss = loss.double()
        return module

    modules = [begin(value) for value in values]
    trained(Stack(modules, {name: torch.tensor(values, dtype=torch.float64)}), 1)
    assert [getattr(module.loss, name) for module in modules] == list(values)
    for module, value in zip(modules, values, strict=True):
        single = begin(value)
        trained(single, 1)
        assert_close(module.net[0].weight, single.net[0].weight, atol=1e-10, rtol=0)


def test_dropout_masks_are_each_replicas_own():
    class Keep(nn.Module):
        def forward(self, f, y):
            return f[:, 0]

    net = nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    modules = [LitModule(rows(0, torch.float32), net, Keep(), SGD["make"]) for _ in range(2)]
    stack = Stack(modules)
    stack.stack()
    x, y = torch.ones(2, 16, 5), torch.zeros(2, 16, dtype=torch.int64)
    one, two = stack.differentiate(x, y, y)[0].tolist()
    assert one != two
    stack.eval()
    one, two = stack.differentiate(x, y, y)[0].tolist()
    assert one == two


def test_a_method_with_a_step_of_its_own_cannot_be_stacked():
    class Own(LitModule):
        def step(self, batch):
            return super().step(batch)

    module = Own(rows(0, torch.float32), mlp(), cross_entropy(), SGD["make"])
    assert not module.can_stack
    assert replica("sgd", 0).can_stack
    assert not LitModule(None).can_stack
    with pytest.raises(ValueError, match="can_stack"):
        Stack([module])


def test_measuring_leaves_the_stack_as_it_was():
    stack = Stack([replica("lambda_i", seed) for seed in SEEDS])
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    _, line = faster_together(stack)
    assert line.startswith("3 replicas: ")
    for name, value in stack.state_dict().items():
        assert torch.equal(value, before[name]), name
