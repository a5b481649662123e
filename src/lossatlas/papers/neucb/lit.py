"""The rounds of a contextual bandit as a LitModule; R replicas (seeds, settings) play side by side."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from lossatlas.data import Data
from lossatlas.papers.neucb.bandit import Bandit, from_classes, visiting_order
from lossatlas.papers.neucb.learners import Confidence, NeuralLearner
from lossatlas.papers.neucb.rules import check_knob, choose
from lossatlas.seeding import stream
from lossatlas.stacked.rounds import Rounds

POINTS = 40  # of the regret curve in the record


class LitNeuCB(Rounds):
    """Plays `rounds` rounds: predict all arms, choose one, learn from its loss.

    Every draw (order of the rows, uniform and normal numbers of the choices, initialisation, signs) comes from
    the replica's own seed, so replicas do not depend on their neighbours and arms are paired by seed.

    Args:
        data: a classified set, or a Bandit.
        learner: partial, called with (K, d, seed); None predicts 1/2 throughout.
        rule: square, fast, epsilon, uniform, ucb or ts.
        knob: gamma (square, fast) >= 0, eps (epsilon) in [0, 1] or nu (ucb, ts) >= 0.
        rounds: T, >= 2.
        pool: side of the squares that images are averaged over.

    Shapes:
        state is (R, ...) in buffers, R = 1 as built; `stack` concatenates.

    Metrics (one set per replica): test/regret, test/relative_regret (divided by the expected regret of uniform
    choices), test/slope (log regret on log t, second half), test/regression (sum of (yhat - y)^2 / 2 of the
    chosen arms).

    Raises:
        ValueError: an argument out of range, losses outside [0, 1], fewer than 2 arms.
    """

    contexts: Tensor
    table: Tensor
    knob: Tensor
    order: Tensor
    uniform: Tensor
    normal: Tensor
    regrets: Tensor
    uniform_regret: Tensor
    regression: Tensor

    shared = ("contexts", "table", "loss_sum")
    # numbers of a replica's own, all in buffers: runs that differ in them are stacked as well
    stacked_scalars = ("knob", "learner.eta", "learner.c_p", "learner.rho", "learner.decay", "learner.ridge")

    def __init__(
        self,
        data: Data | Bandit | None,
        learner: Callable[..., nn.Module] | None = None,
        rule: str = "fast",
        knob: float = 1000.0,
        *,
        rounds: int = 2000,
        pool: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(None, rounds=rounds, **kwargs)
        if data is None:
            raise ValueError("LitNeuCB needs a classified data set: choose one with data=mushroom")
        if rounds < 2:
            raise ValueError(f"LitNeuCB needs rounds >= 2, got {rounds}")
        check_knob(rule, knob)
        bandit = data if isinstance(data, Bandit) else from_classes(data, pool)
        (n, d), K = bandit.x.shape, bandit.losses.shape[1]
        self.rule = rule
        self.learner: Any = None if learner is None else learner(K=K, d=d, seed=self.seed)
        if rule == "fast" and getattr(self.learner, "loss", "kl") != "kl":
            raise ValueError("rule=fast needs predicted losses >= 0: give its learner loss=kl")
        if rule in ("ucb", "ts") and not isinstance(self.learner, NeuralLearner):
            raise ValueError(f"rule={rule} measures a network's gradients: give it a NeuralLearner")
        self.confidence = Confidence(self.learner) if rule in ("ucb", "ts") else None
        for name, value in self._state(n, K, knob).items():
            self.register_buffer(name, value)
        self.register_buffer("contexts", bandit.x, persistent=False)
        self.register_buffer("table", bandit.losses, persistent=False)

    def _state(self, n: int, K: int, knob: float) -> dict[str, Tensor]:
        """Everything a replica has of its own besides its learner, its draws for all rounds included."""
        T, double = self.rounds, torch.float64
        kind = double if self.learner is None else self.learner.w2.dtype
        choices, posterior = stream(self.seed, "neucb/choices"), stream(self.seed, "neucb/posterior")
        sizes = (1, T if self.rule == "ts" else 0, K)
        return {
            "replica_seed": torch.tensor([self.seed]),
            "knob": torch.tensor([knob], dtype=kind),
            "order": visiting_order(n, T, self.seed)[None],
            "uniform": torch.rand(1, T, generator=choices, dtype=double).to(kind),
            "normal": torch.randn(sizes, generator=posterior, dtype=double).to(kind),
            "regrets": torch.zeros(1, T, dtype=double),  # of each round
            "uniform_regret": torch.zeros(1, dtype=double),
            "regression": torch.zeros(1, dtype=double),
            "learners_loss": torch.zeros(1, dtype=double),  # summed over the rounds
            "diverged": torch.zeros(1, dtype=torch.bool),
        }

    # ---------------------------------------------------------------- rounds
    @torch.no_grad()
    def play(self, rounds: Tensor) -> Tensor:
        """A chunk of rounds; returns the learner's losses, the mean over replicas that have not diverged."""
        index = self.order[:, rounds]
        x, table = self.contexts[index].to(self.knob.dtype), self.table[index].to(self.knob.dtype)
        prepared = self.learner.prepare(x) if isinstance(self.learner, NeuralLearner) else None
        rows, values, chosen, arms = torch.arange(len(index), device=index.device), [], [], []
        for i, t in enumerate(rounds.tolist()):
            now = None if prepared is None else (prepared[0][:, i], prepared[1][:, i])
            yhat = self._predict(x[:, i], now, table.shape[2])
            learner: Any = self.learner
            width = self.confidence.widths(learner) if self.confidence is not None else None
            normal = self.normal[:, t] if self.rule == "ts" else None
            arm = choose(self.rule, yhat, self.knob, self.uniform[:, t], width, normal)
            if self.confidence is not None:
                self.confidence.observe(learner, arm)
            y = table[:, i][rows, arm]  # all that the learner gets to see
            chosen.append(yhat[rows, arm])
            arms.append(arm)
            values.append(
                (yhat[rows, arm] - y).square() / 2 if self.learner is None else self.learner.update(arm, y)
            )
        paid = table.gather(2, torch.stack(arms, dim=1)[:, :, None])[:, :, 0].double()
        best = table.amin(dim=2).double()
        self.regrets[:, rounds] = paid - best
        self.uniform_regret += (table.double().mean(dim=2) - best).sum(dim=1)
        self.regression += (torch.stack(chosen, dim=1).double() - paid).square().sum(dim=1) / 2
        value = torch.stack(values)
        self.learners_loss += value.sum(dim=0, dtype=torch.float64)
        self.diverged |= ~value.isfinite().all(dim=0)
        if len(self.knob) == 1 or bool(self.diverged.all()):
            return value[:, 0]
        return value[:, ~self.diverged].mean(dim=1)

    def _predict(self, x: Tensor, prepared: Any, K: int) -> Tensor:
        return x.new_full((len(x), K), 0.5) if self.learner is None else self.learner.predict(x, prepared)

    # ---------------------------------------------------------------- replicas
    @classmethod
    def stack(cls, replicas: Sequence[Self], scalars: Any = None) -> Self:
        """One module whose replicas are the single ones, in order; they share data, arm and T.

        Step size, knob and the learner's other numbers stand in buffers, so they may differ.

        Raises:
            ValueError: modules of different data, rule, learner or number of rounds.
        """
        first = replicas[0]
        for other in replicas[1:]:
            same = other.rule == first.rule
            same = same and getattr(other.learner, "loss", "") == getattr(first.learner, "loss", "")
            same = same and [name for name, _ in other.named_buffers()] == [
                name for name, _ in first.named_buffers()
            ]
            if not same or not all(
                torch.equal(getattr(other, k), getattr(first, k)) for k in ("contexts", "table")
            ):
                raise ValueError(
                    "stacked runs need the same data, rule, learner and rounds: stack them apart"
                )
        return super().stack(replicas)

    def replica(self, i: int) -> dict[str, Any]:
        """What a run of replica i alone would leave: error, metrics, rows of its curves, units, extras."""
        regrets = self.regrets[i].cpu().numpy()
        regret, T = regrets.cumsum(), self.rounds
        metrics = {
            "test/regret": float(regret[-1]),
            "test/relative_regret": float(regret[-1] / max(float(self.uniform_regret[i]), 1e-12)),
            "test/slope": second_half_slope(regret),
            "test/regression": float(self.regression[i]),
            "train/loss": float(self.learners_loss[i]) / T,
        }
        t = np.unique(np.geomspace(1, T, POINTS).round().astype(int))
        curve = {"t": t.tolist(), "regret": [round(float(r), 4) for r in regret[t - 1]]}
        rows = [{"round": float(k), "regret": float(r)} for k, r in enumerate(regret, start=1)]
        left = {"error": None, "metrics": metrics, "rows": rows, "units": [], "extras": {"curve": curve}}
        if bool(self.diverged[i]):
            left |= {"error": "Diverged: the loss became NaN or infinite", "metrics": {}, "extras": {}}
        return left


def second_half_slope(regret: np.ndarray) -> float:
    """Slope of log cumulative regret on log t over rounds T/2 to T; 0 where nothing was lost in that half.

    Args:
        regret: (T,) cumulative, T >= 2; rounds before the first loss have no logarithm and are left out.

    Example:
        >>> round(second_half_slope(np.sqrt(np.arange(1, 101))), 6)
        0.5
    """
    T = len(regret)
    t, half = np.arange(T // 2, T + 1), regret[T // 2 - 1 :]
    if half[-1] == half[0]:
        return 0.0
    kept = half > 0
    if kept.sum() < 2:
        return 0.0
    return float(np.polyfit(np.log(t[kept]), np.log(half[kept]), 1)[0])
