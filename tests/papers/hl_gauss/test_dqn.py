"""DQN with the room's losses: its targets, its target network, its chances, runs that are cut, what it refuses."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.testing import assert_close

from lossatlas.papers.hl_gauss import C51Loss, CategoricalMSE, HLGauss, Huber, SquaredError, TwoHot
from lossatlas.papers.hl_gauss.dqn import LitDQN
from lossatlas.paths import CHECKOUT, conf_dir
from lossatlas.rl import QNet, Transitions, gym_game, minatar_game

LOSSES: dict[str, tuple[int, Any]] = {
    "mse": (1, SquaredError),
    "huber": (1, Huber),
    "mse_categorical": (11, CategoricalMSE),
    "two_hot": (11, TwoHot),
    "hl_gauss": (11, HLGauss),
    "c51": (11, C51Loss),
}
SMOKE = ("experiment=hl_gauss_minatar", "scale=smoke", "callbacks.progress=false")


def make(arm: str = "hl_gauss", seed: int = 0, **settings: Any) -> LitDQN:
    m, kind = LOSSES[arm]
    torch.manual_seed(seed)
    loss = kind(-1.0, 10.0) if m == 1 else kind(-1.0, 10.0, m)
    adam = partial(torch.optim.Adam, lr=1e-2)
    usual = {
        "frames": 240,
        "envs": 4,
        "warm": 40,
        "sync": 10,
        "explore": 100,
        "eval_games": 2,
        "eval_each": 1,
    }
    usual |= {"game": partial(gym_game, "CartPole-v1"), "batch_size": 8, "chunk": 6}
    return LitDQN(None, QNet((4,), 2, m, hidden=16), loss, adam, seed=seed, **usual | settings)


def ready(module: LitDQN) -> LitDQN:
    """As training finds it."""
    module._optimizer, module._plain = module.configure_optimizers()["optimizer"], True  # type: ignore[index]
    return module


def transitions(n: int = 6) -> Transitions:
    g = torch.Generator().manual_seed(1)
    obs, last = torch.randn(2, n, 4, generator=g, dtype=torch.float64)
    action, reward = torch.randint(2, (n,), generator=g), torch.randn(n, generator=g)
    return Transitions(obs, action, reward, last, torch.arange(n) % 2 == 0)


@pytest.mark.parametrize("arm", ["mse", "huber", "mse_categorical", "two_hot", "hl_gauss"])
def test_targets_bootstrap_from_the_target_net_unless_terminated(arm):
    """A transition at a time limit comes with terminated = False (tests/rl), and so it bootstraps."""
    module, b = make(arm, gamma=0.5).double(), transitions()
    nn.init.normal_(module.target[0].weight)  # another function than the net's
    found = module.td_losses(b)
    z = torch.linspace(-0.5, 9.5, 11, dtype=torch.float64)
    for i in range(6):
        outputs = module.target(b.last[i : i + 1])[0]
        q = outputs[:, 0] if outputs.shape[1] == 1 else outputs.softmax(1) @ z
        y = b.reward[i].double() + (0.5 * q.max() if not b.terminated[i] else 0.0)
        l = module.net(b.obs[i : i + 1])[0, b.action[i]]  # noqa: E741
        assert_close(found[i], module.loss(l[None], y[None])[0])
    assert not b.terminated.all()


def test_c51_moves_the_whole_distribution_of_the_best_action():
    """By hand: three atoms -1, 0, 1; target masses (.2, .3, .5) of the better action; r = .5, gamma = .5."""
    module = make("c51", gamma=0.5).double()
    module.loss = C51Loss(-1.5, 1.5, 3)
    worse, better = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=torch.float64).log()
    l = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)  # noqa: E741

    class Fixed(nn.Module):
        def __init__(self, rows: torch.Tensor) -> None:
            super().__init__()
            self.rows = nn.Parameter(rows)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rows.expand(len(x), 2, 3)

    module.net, module.target = Fixed(torch.stack([l, worse])), Fixed(torch.stack([worse, better]))
    x, half = torch.zeros(2, 4, dtype=torch.float64), torch.full((2,), 0.5)
    b = Transitions(x, torch.tensor([0, 0]), half, x, torch.tensor([False, True]))
    # moved atoms 0, .5, 1 -> 0: .2 + .15, 1: .15 + .5; at an end all mass is at .5
    goes_on = -(torch.tensor([0.0, 0.35, 0.65], dtype=torch.float64) * l.log_softmax(0)).sum()
    ends = -(torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64) * l.log_softmax(0)).sum()
    found = module.td_losses(b)
    assert_close(found, torch.stack([goes_on, ends]))
    found.sum().backward()
    assert module.target.rows.grad is None


@pytest.mark.parametrize("arm", LOSSES)
def test_no_gradient_reaches_the_target_and_it_stands_still_between_two_copies(arm):
    module = ready(make(arm))
    assert module.net is not None
    before = {k: v.clone() for k, v in module.target.state_dict().items()}
    module.play(torch.arange(18))  # updates 1 to 9
    assert int(module.updates) == 9
    for name, value in module.target.state_dict().items():
        assert torch.equal(value, before[name])
        assert not torch.equal(module.net.state_dict()[name], value)
    assert all(p.grad is None and not p.requires_grad for p in module.target.parameters())
    module.play(torch.arange(18, 19))  # the tenth
    for name, value in module.target.state_dict().items():
        assert torch.equal(value, module.net.state_dict()[name])
    assert {id(p) for p in module.target.parameters()}.isdisjoint(id(p) for p in module.net.parameters())


def test_chances_of_random_actions():
    module = make(epsilon=0.1, explore=100)
    assert [module.chance(f) for f in (0, 50, 100, 10**6)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def trainer(*callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip


class Cut(pl.Callback):
    """Saves behind the sixth chunk and stops."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen += 1
        if self.seen == 6:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def test_a_run_cut_in_the_middle_ends_bitwise_as_an_uncut_one(tmp_path):
    whole = make()
    trainer().fit(whole)
    with pytest.raises(SystemExit):
        trainer(Cut(tmp_path / "cut.ckpt")).fit(make())
    resumed = make()
    resumed.target[0].weight.data.zero_()
    trainer().fit(resumed, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert resumed.log_.ended == whole.log_.ended
    for one, other in zip(whole.replay.held, resumed.replay.held, strict=True):
        assert torch.equal(one[:240], other[:240])
    assert resumed.results() == whole.results()
    assert int(whole.updates) == 51  # one a round from frame 40 on


def test_seeds_lead_to_runs_and_are_recorded():
    one, same, other = make(seed=1), make(seed=1), make(seed=2)
    for module in (one, same, other):
        trainer().fit(module)
    assert torch.equal(one.taken, same.taken)
    assert one.results() == same.results()
    assert not torch.equal(one.taken, other.taken)
    told = one.extras()["seeds"]
    assert told == same.extras()["seeds"] != other.extras()["seeds"]
    assert set(told) == {"games", "eval_games", "policy", "replay", "eval_policy"}
    assert set(told["games"]).isdisjoint(told["eval_games"])
    assert json.dumps(one.extras())


def test_return_is_that_of_the_last_fifth():
    module = make()
    module.log_.frame = 240
    module.log_.ended = [(100, 7.0), (192, 3.0), (196, 5.0), (240, 8.0)]
    assert module.results()["test/return"] == 6.5
    assert module.curve_rows()[-1] == {"frames": 240.0, "return": 8.0}
    module.log_.ended = [(100, 7.0)]
    module.log_.running = [1.0, 2.0, 3.0, 4.0]
    assert module.results()["test/return"] == 2.5


def test_it_learns_to_balance_the_pole():
    module = make(frames=6000, warm=200, sync=25, explore=1500, epsilon=0.02, batch_size=32, chunk=100)
    trainer().fit(module)
    assert module.log_.mean(after=0, upto=600) < 40
    assert module.results()["test/eval_return"] > 80


@pytest.mark.parametrize("arm", ["mse", "hl_gauss"])
def test_breakout_bitwise_as_the_hand_written_loop(arm, monkeypatch):
    """The benchmark's loop, on the package's own objects, against the class with the experiment's numbers."""
    monkeypatch.syspath_prepend(CHECKOUT / "scripts")
    spec = importlib.util.spec_from_file_location("bench_dqn", CHECKOUT / "scripts" / "bench_dqn.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_dqn", bench)
    spec.loader.exec_module(bench)
    _, expected = bench.hand_loop(arm, 1200, seed=3, warm=800, sync=30)
    m, loss = bench.ARMS[arm]
    torch.manual_seed(3)
    net = QNet((4, 10, 10), 3, m)
    adam = partial(torch.optim.Adam, lr=3e-4, fused=True)
    settings = {"frames": 1200, "warm": 800, "sync": 30, "seed": 3, "batch_size": 32}
    module = ready(LitDQN(None, net, loss(), adam, game=partial(minatar_game, "breakout"), **settings))
    module.play(torch.arange(300))
    for wanted, found in zip(expected, net.parameters(), strict=True):
        assert torch.equal(wanted, found)


def config(*words: str) -> Any:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=["experiment=hl_gauss_minatar", *words])


def test_arms_with_a_softmax_share_the_network():
    shapes = {}
    for arm in LOSSES:
        net = instantiate(config(f"arm={arm}").net, _convert_="all")
        shapes[arm] = {name: value.shape for name, value in net.state_dict().items()}
    assert shapes["mse_categorical"] == shapes["hl_gauss"] == shapes["two_hot"] == shapes["c51"]
    assert shapes["mse"].keys() == shapes["hl_gauss"].keys()  # only its last layer is narrower


@pytest.mark.parametrize("game", ["breakout", "asterix", "freeway"])
def test_cli_plays_every_game(cli, outputs, game):
    words = ("frames=400", "module.warm=300", f"game={game}")
    if game == "freeway":  # 2500 frames an episode
        words = (*words, "module.eval_games=1")
    answer = cli(*SMOKE, *words)
    assert answer.code == 0, answer.err
    (path,) = outputs.glob("hl_gauss_minatar/smoke/*/record.json")
    record = json.loads(path.read_text())
    assert record["condition"] == {"game": game, "frames": 400}
    assert {"test/return", "test/eval_return", "train/clipped", "train/loss"} <= set(record["metrics"])
    assert set(record["extras"]) == {"seeds", "curve"}
    if game == "breakout":
        assert (path.parent / "curves.csv").read_text().startswith("frames,return")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["frames=601"], "frames in multiples of envs, got frames=601"),
        (["frames=0"], "frames=0: should lie in [1, inf) int"),
        (["epochs=2"], "epochs=2: should lie in [1, 1] int"),
        (["module.gamma=1.0"], "module.gamma=1.0: should lie in [0, 1)"),
        (["module.eval_each=0"], "counts from 1"),
        (["games.cartpole.actions=3"], "the game has 2 actions, the net gives values (3,)"),
        (["games.cartpole.shape=[5]"], "does not fit a game with observations (4,)"),
        (["games.cartpole.env.name=None-v0"], "gymnasium has no game None-v0"),
        (["game=pong"], "game=pong is not in this experiment"),
    ],
)
def test_cli_refuses_in_one_line(cli, words, told):
    answer = cli(*SMOKE, *words)
    assert answer.code == 2
    (line,) = answer.err.strip().splitlines()
    assert told in line


def test_the_core_grid_is_what_the_claims_ask_for():
    """A run of 1 M frames or of another game is none of theirs."""
    text = (conf_dir() / "experiment" / "hl_gauss_minatar.yaml").read_text()
    params = yaml.safe_load(text)["hydra"]["sweeper"]["params"]
    card = yaml.safe_load((CHECKOUT / "experiments" / "hl_gauss" / "card.yaml").read_text())
    asked = [c["statistic"]["where"] for c in card["claims"] if c["experiment"] == "hl_gauss_minatar"]
    assert asked == [{"game": params["game"], "frames": params["frames"]}] * 2
