"""The perturbed network as an online regression oracle on block contexts, R replicas at once, and its confidence.

The context of arm a is x placed in block a of a vector of K d numbers, so W1 of the network consists of K
blocks (m, d) and the prediction for arm a needs block a alone. The perturbation's gradient moves every
block, always along the S draws: W1 = V + sum_s b_s E_s, where a round changes one block of V and S numbers b_s.
So neither prediction nor step makes a pass over E; the products E x are made for a chunk of rounds at once.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossatlas.papers.neucb.ridge import check_losses, check_sizes, check_width
from lossatlas.seeding import stream

Prepared = tuple[Tensor, Tensor]  # f_0 (.., K) and E x (.., S, K m): what contexts need once, not every round


class NeuralLearner(nn.Module):
    """Eq. 1 to 3 of the room's head: f = w2 . relu(W1 x) / sqrt(m) - f_0, perturbed, one gradient step a round.

    Args:
        K: arms, >= 2.
        d: numbers of a context, >= 1.
        seed: of initialisation and perturbation, >= 0.
        loss: squared (predicts 1/2 + f~) or kl (predicts sigmoid(f~)).
        eta: step size, > 0; with `decay` the step of round t = 0, 1, ... is eta / (1 + decay t).
        m: width, >= 1.
        S: perturbation draws; 0 leaves the predictions as they are.
        c_p: size of the perturbation, >= 0.
        rho: radius of the ball around theta_0, > 0; infinity never projects.
        decay: >= 0; 0 keeps the step constant.
        dtype: float64 or float32.

    Shapes:
        contexts (R, d), predictions (R, K), arms (R,), losses (R,); R = 1 here, more after stacking buffers.

    Raises:
        ValueError: an argument out of range, contexts of another width, losses outside [0, 1].

    Example:
        >>> learner = NeuralLearner(K=2, d=3, seed=0, loss="kl", eta=1.0)
        >>> x = torch.ones(1, 3, dtype=torch.float64)
        >>> learner.predict(x)  # the network minus itself at initialisation
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
        >>> _ = learner.update(torch.tensor([1]), torch.tensor([0.0], dtype=torch.float64))
        >>> bool(learner.predict(x)[0, 1] < 0.5)
        True
    """

    V: Tensor
    b: Tensor
    w2: Tensor
    W1_0: Tensor
    w2_0: Tensor
    e: Tensor
    gram: Tensor
    z: Tensor
    t: Tensor
    eta: Tensor
    c_p: Tensor
    rho: Tensor
    decay: Tensor

    def __init__(
        self,
        K: int,
        d: int,
        seed: int,
        *,
        loss: str,
        eta: float,
        m: int = 100,
        S: int = 5,
        c_p: float = 0.1,
        rho: float = math.inf,
        decay: float = 0.0,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        check_sizes(K, d)
        if loss not in ("squared", "kl"):
            raise ValueError(f"loss must be squared or kl, got {loss!r}")
        if not (0 < eta < math.inf and rho > 0 and 0 <= c_p < math.inf and 0 <= decay < math.inf):
            raise ValueError(
                f"needs eta > 0, rho > 0, c_p >= 0, decay >= 0, got {eta=}, {rho=}, {c_p=}, {decay=}"
            )
        if m < 1 or S < 0:
            raise ValueError(f"needs width m >= 1 and S >= 0 draws, got {m=}, {S=}")
        self.K, self.d, self.m, self.S, self.loss = K, d, m, S, loss
        kind = getattr(torch, dtype)
        for name, value in {"eta": eta, "c_p": c_p, "rho": rho, "decay": decay}.items():
            self.register_buffer(name, torch.tensor([value], dtype=kind))
        for name, value in self._state(seed, kind).items():
            # drawn from the seed, so that a checkpoint need not hold what never changes
            self.register_buffer(name, value, persistent=name not in ("W1_0", "w2_0", "e", "gram"))

    def _state(self, seed: int, kind: torch.dtype) -> dict[str, Tensor]:
        """Weights, signs and sums of one replica."""
        K, d, m, S = self.K, self.d, self.m, self.S
        init, signs = stream(seed, "neucb/init"), stream(seed, "neucb/perturbation")
        # drawn in float64 whatever the dtype, so that float32 starts at the rounded float64 network
        W1 = torch.randn(1, K, m, d, generator=init, dtype=torch.float64) * math.sqrt(2)
        w2 = torch.randn(1, m, generator=init, dtype=torch.float64)
        e = (torch.randint(2, (1, S, K * m * d + m), generator=signs, dtype=torch.int8) * 2 - 1).to(kind)
        return {
            "V": W1.to(kind),
            "b": torch.zeros(1, S, dtype=kind),
            "w2": w2.to(kind),
            "W1_0": W1.to(kind, copy=True),
            "w2_0": w2.to(kind, copy=True),
            "e": e,
            "gram": e @ e.mT,
            "z": torch.zeros(1, S, dtype=kind),  # sum_j (theta_j - theta_0j) e_j, S numbers
            "t": torch.zeros(1, dtype=torch.int64),
        }

    def prepare(self, x: Float[Tensor, "R n d"]) -> Prepared:
        """What n contexts of every replica need once: the network at initialisation and the products E x.

        Shapes:
            (R, n, d) -> f_0 (R, n, K), E x (R, n, S, K m).
        """
        check_width(x, self.d)
        R, n, _ = x.shape
        a = torch.relu(x @ self.W1_0.view(R, self.K * self.m, self.d).mT).view(R, n * self.K, self.m)
        f_0 = (a @ self.w2_0[:, :, None]).view(R, n, self.K) / math.sqrt(self.m)
        e1 = self.e[:, :, : -self.m].reshape(R, self.S * self.K * self.m, self.d)
        return f_0, (x @ e1.mT).view(R, n, self.S, self.K * self.m)

    def predict(self, x: Float[Tensor, "R d"], prepared: Prepared | None = None) -> Float[Tensor, "R K"]:
        """Predicted losses of all arms, the mean over the draws.

        Args:
            x: one context per replica.
            prepared: this round's part of `prepare`; computed where left out.
        """
        check_width(x, self.d)
        R = x.shape[0]
        if prepared is None:
            f_0, ex = self.prepare(x[:, None])
            prepared = f_0[:, 0], ex[:, 0]
        start, self._ex = prepared
        self._x = x
        h = self.V.view(R, self.K * self.m, self.d) @ x[:, :, None]
        if self.S:
            h = torch.baddbmm(h, self._ex.mT, self.b[:, :, None])
        self._h = h.view(R, self.K, self.m)
        self._a = torch.relu(self._h)
        self._f = (self._a @ self.w2[:, :, None])[:, :, 0] / math.sqrt(self.m) - start
        if int(self.t[0]) == 0:  # the difference is 0: its rounding error must not choose the first arm
            self._f.zero_()
        if self.loss == "squared":
            return 0.5 + self._f + (self.shift.mean(dim=1, keepdim=True) if self.S else 0.0)
        if self.S:
            return torch.sigmoid(self._f[:, :, None] + self.shift[:, None]).mean(dim=2)
        return torch.sigmoid(self._f)

    @property
    def shift(self) -> Float[Tensor, "R S"]:
        """c_p z_s / m^(1/4): what each draw adds to f; the same for every context and arm."""
        return self.c_p[:, None] * self.z / self.m**0.25

    def tangent(self) -> tuple[Float[Tensor, "R K m"], Float[Tensor, "R K m"]]:
        """Gradient of f at the predicted contexts: with respect to w2, and to h = W1 x (times x: to W1)."""
        scale = math.sqrt(self.m)
        return self._a / scale, (self._h > 0) * self.w2[:, None] / scale

    def update(self, arm: Int[Tensor, " R"], y: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
        """One projected gradient step on the ensemble loss of the chosen arms; returns that loss before the step."""
        check_losses(y)
        rows = torch.arange(len(arm), device=arm.device)
        f = self._f[rows, arm][:, None] + self.shift if self.S else self._f[rows, arm][:, None]
        if self.loss == "squared":
            r = 0.5 + f - y[:, None]
            value = r.square().mean(dim=1) / 2
        else:
            r = torch.sigmoid(f) - y[:, None]
            value = (nn.functional.softplus(f) - y[:, None] * f).mean(dim=1)
        eta = self.eta / (1 + self.decay * self.t)
        g2, gh = (part[rows, arm] for part in self.tangent())
        step = (eta * r.mean(dim=1))[:, None]
        if self.S:
            self._perturb(rows, arm, eta[:, None] * r, step, g2, gh)
        self.V[rows, arm] -= (step * gh)[:, :, None] * self._x[:, None, :]
        self.w2 -= step * g2
        self.t += 1
        self._project()
        return value

    def _perturb(
        self, rows: Tensor, arm: Tensor, eta_r: Tensor, step: Tensor, g2: Tensor, gh: Tensor
    ) -> None:
        """The perturbation's part of the gradient; z follows from E x and E E' alone."""
        along = -eta_r * self.c_p[:, None] / (self.S * self.m**0.25)
        ex = self._ex.view(len(rows), self.S, self.K, self.m)[rows, :, arm]
        e2 = self.e[:, :, -self.m :]
        dot = (ex @ gh[:, :, None] + e2 @ g2[:, :, None])[:, :, 0]
        self.z += (self.gram @ along[:, :, None])[:, :, 0] - step * dot
        self.b += along
        self.w2 += (along[:, None] @ e2)[:, 0]

    def _project(self) -> None:
        """theta back onto the ball |theta - theta_0| <= rho where it left it."""
        if bool(self.rho.isinf().all()):
            return
        norm = self.moved().norm(dim=1)
        shrink = (self.rho / norm).clamp(max=1.0)  # norm 0 gives infinity, hence 1
        self.V.sub_(self.W1_0).mul_(shrink[:, None, None, None]).add_(self.W1_0)
        self.w2.sub_(self.w2_0).mul_(shrink[:, None]).add_(self.w2_0)
        self.b.mul_(shrink[:, None])
        self.z.mul_(shrink[:, None])

    @property
    def weights(self) -> Float[Tensor, "R K m d"]:
        """W1 = V + sum_s b_s E_s, the first layer."""
        along = self.b[:, None] @ self.e[:, :, : -self.m]
        return self.V + along.view_as(self.V)

    def moved(self) -> Float[Tensor, "R p"]:
        """theta - theta_0, first the blocks of W1, then w2: what z and the projection speak of."""
        return torch.cat([(self.weights - self.W1_0).flatten(1), self.w2 - self.w2_0], dim=1)


class Confidence(nn.Module):
    """Width of a prediction's interval, sqrt(g' Z^-1 g), with the diagonal of Z = 1 + sum g g'.

    g is the gradient of f at the context. Zhou et al. and Zhang et al. write f with a factor sqrt(m) more and
    divide g g' by m, which is the same Z. Only the diagonal is kept, as both papers do in their experiments.

    Args:
        learner: whose gradients are measured; `widths` and `observe` follow its `predict`, before its `update`.

    Shapes:
        widths (R, K).
    """

    def __init__(self, learner: NeuralLearner) -> None:
        super().__init__()
        # 1 / Z, kept inverted: it is read every round
        self.register_buffer("inv1", torch.ones_like(learner.V))
        self.register_buffer("inv2", torch.ones_like(learner.w2))
        self.inv1: Tensor
        self.inv2: Tensor

    def widths(self, learner: NeuralLearner) -> Float[Tensor, "R K"]:
        """Widths of all arms at the contexts of the last `predict`."""
        g2, gh = learner.tangent()
        R, K, m = g2.shape
        inner = (self.inv1.view(R, K * m, learner.d) @ learner._x.square()[:, :, None]).view(R, K, m)
        square = (gh.square() * inner).sum(dim=2) + (g2.square() @ self.inv2[:, :, None])[:, :, 0]
        return square.sqrt()

    def observe(self, learner: NeuralLearner, arm: Int[Tensor, " R"]) -> None:
        """Z grows by the squared gradient of the chosen arm."""
        rows = torch.arange(len(arm), device=arm.device)
        g2, gh = (part[rows, arm] for part in learner.tangent())
        grown = gh.square()[:, :, None] * learner._x.square()[:, None, :]
        self.inv1[rows, arm] = 1 / (1 / self.inv1[rows, arm] + grown)
        self.inv2.copy_(1 / (1 / self.inv2 + g2.square()))
