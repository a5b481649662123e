"""Groups of parameters by name, several optimisers in one module, alone and in stacks; gradients clipped unscaled."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lossatlas.callbacks import Checkpoints
from lossatlas.data import Data, Split
from lossatlas.lit import LitModule
from lossatlas.loader import ChunkLoader
from lossatlas.optimizers import Groups, Several
from lossatlas.papers.dcc import ConvNet, LitCondense, Matching
from lossatlas.stacked.stack import Stack

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
ADAM = partial(torch.optim.Adam, lr=0.02)
HALVE = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
RULES = [{"match": "*.bias", "weight_decay": 0.0}, {"match": ["net.2.*"], "rate": 5.0}]
GROUPS = Groups(SGD, RULES)
SEVERAL = Several(
    {"last": {"match": "net.2.*", "make": ADAM, "schedule": None}, "first": {"match": "*", "make": SGD}}
)


def rows(n: int = 60) -> Data:
    g = torch.Generator().manual_seed(3)
    y = torch.randint(3, (n,), generator=g)
    x = (torch.randn(n, 4, generator=g) + 2 * nn.functional.one_hot(y, 4)).double()
    return Data("rows", 3, Split(x, y, y), Split(x, y, y))


def module(optimizer, seed: int = 0, schedule=HALVE, **more) -> LitModule:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    loss = nn.CrossEntropyLoss(reduction="none")
    return LitModule(
        rows(), net, loss, optimizer, schedule, seed=seed, batch_size=8, chunk=2, **more
    ).double()


def fit(made: pl.LightningModule, epochs: int = 2, callbacks=(), ckpt=None, **more) -> pl.LightningModule:
    pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), num_sanity_val_steps=0, **more,
    ).fit(made, ckpt_path=ckpt, weights_only=True)  # fmt: skip
    return made


def by_hand(optimizers, net: nn.Sequential, epochs: int = 2) -> None:
    """The same training, with torch's own optimisers and (optimiser, schedule) pairs written down."""
    data, order = rows(), ChunkLoader(60, 8, 1, seed=0)
    for epoch in range(epochs):
        order.set_epoch(epoch)
        for index in order.order().split(8):
            for optimizer, _ in optimizers:
                optimizer.zero_grad()
            cross_entropy(net(data.train.x[index]), data.train.y[index]).backward()
            for optimizer, _ in optimizers:
                optimizer.step()
        for _, schedule in optimizers:
            if schedule is not None:
                schedule.step()


def test_rules_give_each_group_its_rate_and_decay_bitwise():
    made = fit(module(GROUPS))
    net = module(None).net
    a, b = net[0], net[2]
    optimizer = torch.optim.SGD(
        [
            {"params": [a.weight, ], "lr": 0.1, "weight_decay": 0.01},
            {"params": [a.bias, b.bias], "lr": 0.1, "weight_decay": 0.0},
            {"params": [b.weight], "lr": 0.5, "weight_decay": 0.01},
        ],
        lr=0.1, momentum=0.9,
    )  # fmt: skip
    by_hand([(optimizer, HALVE(optimizer))], net)
    assert all(torch.equal(p, q) for p, q in zip(made.net.parameters(), net.parameters(), strict=True))


def test_several_optimisers_follow_their_own_schedules_bitwise():
    made = fit(module(SEVERAL))
    net = module(None).net
    adam, sgd = ADAM(net[2].parameters()), SGD(net[0].parameters())
    by_hand([(adam, None), (sgd, HALVE(sgd))], net)
    assert all(torch.equal(p, q) for p, q in zip(made.net.parameters(), net.parameters(), strict=True))
    assert [o.param_groups[0]["lr"] for o in made._optimizers] == [0.02, 0.1 / 4]


def test_one_of_several_steps_alone_and_gives_the_others_no_gradient():
    class Turns(LitModule):
        def step(self, batch):
            loss = self.losses(batch).mean()
            self.descend(loss, of="last")
            return loss.detach()

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    made = Turns(rows(), net, nn.CrossEntropyLoss(reduction="none"), SEVERAL, batch_size=8).double()
    fit(made, 1)
    assert torch.equal(net[0].weight, before["0.weight"])
    assert net[0].weight.grad is None
    assert not torch.equal(net[2].weight, before["2.weight"])
    with pytest.raises(ValueError, match="no optimiser is called 'middle', there are last, first"):
        made.descend(torch.zeros((), requires_grad=True), of="middle")


@pytest.mark.parametrize("optimizer", [GROUPS, SEVERAL], ids=["groups", "several"])
def test_stacked_replicas_follow_the_rules_as_alone(optimizer):
    stack = fit(Stack([module(optimizer, seed, gradient_clip=0.5) for seed in (0, 1)]))
    for r, seed in enumerate((0, 1)):
        one = fit(module(optimizer, seed, gradient_clip=0.5))
        for mine, its in zip(stack.replicas[r].net.parameters(), one.net.parameters(), strict=True):
            assert_close(mine, its, atol=1e-10, rtol=0)


def test_stacked_replicas_may_differ_in_the_rate_of_groups():
    rates = (0.02, 0.1)
    makers = [Groups(partial(torch.optim.SGD, lr=lr, momentum=0.9), RULES) for lr in rates]
    stack = fit(Stack([module(make) for make in makers]))
    for r, make in enumerate(makers):
        assert_close(stack.replicas[r].net[2].weight, fit(module(make)).net[2].weight, atol=1e-10, rtol=0)


@pytest.mark.parametrize("optimizer", [GROUPS, SEVERAL], ids=["groups", "several"])
@pytest.mark.parametrize("begin", [lambda o: module(o), lambda o: Stack([module(o, s) for s in (0, 1)])])
def test_a_run_cut_after_an_epoch_goes_on_bitwise(optimizer, begin, tmp_path):
    whole = fit(begin(optimizer), 3)
    fit(begin(optimizer), 1, callbacks=(Checkpoints(tmp_path),))
    resumed = fit(begin(optimizer), 3, callbacks=(Checkpoints(tmp_path),), ckpt=tmp_path / "last.ckpt")
    assert all(torch.equal(v, resumed.state_dict()[name]) for name, v in whole.state_dict().items())


BAD = [
    (lambda: Groups(SGD, [{"match": "*", "lr": 1}]), "a rule of Groups has match"),
    (lambda: Groups(SGD, [{"match": "*", "rate": float("nan")}]), "rate >= 0"),
    (lambda: module(Groups(SGD, [{"match": "*.alpha"}])).configure_optimizers(), "names no parameter"),
    (lambda: module(Groups(partial(torch.optim.Rprop), RULES)).configure_optimizers(), "Rprop has no weight_decay"),
    (lambda: Several({}), "at least one part"),
    (lambda: Several({"a": {"make": SGD}}), "part a of Several has match"),
    (lambda: module(Several({"a": {"match": "net.0.*", "make": SGD}})).configure_optimizers(), "net.2.weight belongs"),
    (
        lambda: module(Several({k: {"match": "*", "make": SGD} for k in "ab"})).configure_optimizers(),
        "optimiser b names no parameter",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "says"), BAD)
def test_what_would_train_something_else_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_rule_may_be_optional():
    made = module(Groups(SGD, [{"match": "*.alpha", "optional": True}])).configure_optimizers()
    assert len(made["optimizer"].param_groups) == 1


# ---------------------------------------------------------------- clipping under a scaler
def single(optimizer, clip: float | None, precision: str, epochs: int = 1) -> LitModule:
    """Eight samples whose loss is linear in the weight, so that float16 rounds nothing that counts."""
    x, y = torch.full((8, 4), 2.0), torch.zeros(8, dtype=torch.int64)
    data = Data("one", 3, Split(x, y, y), Split(x, y, y))
    torch.manual_seed(0)

    class Linear(nn.Module):
        def forward(self, f, y):
            return -f.float().sum(1)

    net = nn.Sequential(nn.Linear(4, 3), nn.Identity(), nn.Linear(3, 3))
    made = LitModule(data, net, Linear(), optimizer, batch_size=8, gradient_clip=clip)
    return fit(made, epochs, **how(precision))


def how(precision: str) -> dict:
    """Lightning takes bfloat16 without a scaler on a CPU: the GPU's parts, at a factor that float16 can hold."""
    if precision != "16-mixed":
        return {"precision": precision}
    return {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))]}


def moved(made: LitModule) -> float:
    """Length of the step from the start."""
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(4, 3), nn.Identity(), nn.Linear(3, 3))
    squares = [
        (p.detach() - q.detach()).square().sum()
        for p, q in zip(made.net.parameters(), start.parameters(), strict=True)
    ]
    return float(torch.stack(squares).sum().sqrt())


PAIR = Several({
    "last": {"match": "net.2.*", "make": partial(torch.optim.SGD, lr=0.1)},
    "first": {"match": "*", "make": partial(torch.optim.SGD, lr=0.1)},
})  # fmt: skip


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1), PAIR], ids=["one", "two"])
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
@pytest.mark.filterwarnings("ignore")
def test_the_clipped_step_has_the_clip_as_its_length(optimizer, precision):
    """With the scaler's 2^16 left in, the step was 1.5e-6 instead of .1."""
    assert moved(single(optimizer, 1.0, precision)) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1), PAIR], ids=["one", "two"])
@pytest.mark.filterwarnings("ignore")
def test_without_a_clip_the_scaler_leaves_the_step(optimizer):
    assert moved(single(optimizer, None, "16-mixed")) == pytest.approx(
        moved(single(optimizer, None, "32-true")), rel=2e-3
    )


@pytest.mark.filterwarnings("ignore")
def test_gradients_formed_by_a_method_are_scaled_and_unscaled_once():
    """As dcc does: what `torch.autograd.grad` gave was divided by 2^16 in the step, a move of nothing."""

    class Own(LitModule):
        def __init__(self):
            super().__init__(None, optimizer=partial(torch.optim.SGD, lr=0.1), gradient_clip=1.0)
            self.S = nn.Parameter(torch.zeros(4))

        def play(self, rounds):
            loss = (3 * self.S).sum()
            (self.S.grad,) = torch.autograd.grad(self.scaled(loss), self.S)
            self.update()
            return loss.detach()[None]

    made = Own()
    fit(made, 1, **how("16-mixed"))
    assert_close(made.S.detach(), torch.full((4,), -0.05), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_dcc_moves_its_images_as_far_in_half_precision():
    data = Data(
        "made",
        2,
        *[
            Split(
                torch.randint(
                    256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
                ),
                torch.arange(20) % 2,
                torch.arange(20) % 2,
            )
            for _ in range(2)
        ],
        mean=torch.tensor([0.5]),
        std=torch.tensor([0.25]),
    )
    lengths = []
    for precision in ("32-true", "16-mixed"):
        made = LitCondense(
            data,
            rule=Matching(contrast=False),
            make_net=partial(ConvNet, width=4, depth=1),
            side=6,
            rounds=1,
            inner=1,
            epochs_net=1,
            batch_real=5,
            eval_nets=1,
            eval_steps=1,
            whole_steps=1,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            gradient_clip=1e-3,
        )
        start = made.S.detach().clone()
        fit(made, 1, **how(precision))
        lengths.append(float((made.S.detach() - start).norm()))
    assert lengths == pytest.approx([1e-4, 1e-4], rel=1e-2)
