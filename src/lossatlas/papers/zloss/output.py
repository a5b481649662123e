"""The output layer of the spherical family with its exact O(d^2) gradient step (Vincent et al., NIPS 2015)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossatlas.losses import in_float32
from lossatlas.papers.zloss.losses import Spherical

ROWS = 8192  # of V at a time where all D are passed through in float64: small enough for a cache


class SphericalOutput(nn.Module):
    """A D x d output layer that is never formed: W = V U + 1 w^T, with Q = W^T W and wbar = W^T 1 kept up to date.

    `update` does one plain SGD step on W for the batch mean of the loss and returns the loss and the exact gradient
    for h, in O(m d^2 + m^2 d) for a batch of m, whatever D is. W has no momentum, no decay and no clipping,
    and it is no Parameter: an optimiser trains the rest of the net with the gradient for h.

    Args:
        d: width of the input h, >= 1.
        D: classes.
        loss: of the spherical family, such as ZLoss.
        dtype: of V, the only large array (D d numbers): float32 or float64, a step in half precision would
            mostly round to nothing. Everything else is float64 and stays so: `.float()` and `.half()` are refused.
        recompute_every: steps after which V U is multiplied out and Q, wbar are summed anew, >= 1; O(D d^2) once.
        spread: U is folded into V when its singular values leave [1/spread, spread], > 1.

    Shapes:
        forward: h (n, d) -> (n, D) all outputs, O(n D d), for evaluation.

    Attributes:
        skipped: buffer, int64, steps left out because a loss or its gradient was not finite.

    Raises:
        ValueError: sizes or dtype out of range, too few classes for the loss; a label out of range or a rate that is
            negative or not finite, before anything moves (this layer reads numbers at every step anyway).

    Example:
        >>> from lossatlas.papers.zloss import ZLoss
        >>> output = SphericalOutput(d=16, D=100_000, loss=ZLoss(a=1.0, b=10.0))
        >>> h = torch.randn(8, 16, requires_grad=True)  # from any net
        >>> values = output.loss(h, torch.arange(8), lr=1.0)  # W has moved
        >>> values.mean().backward()  # h.grad is the exact gradient, from before the step
    """

    def __init__(
        self,
        d: int,
        D: int,
        loss: Spherical,
        dtype: torch.dtype = torch.float32,
        recompute_every: int = 5000,
        spread: float = 1e2,
    ) -> None:
        super().__init__()
        if d < 1 or recompute_every < 1 or not 1 < spread < math.inf:
            raise ValueError(
                "SphericalOutput needs d >= 1, recompute_every >= 1 and a finite spread > 1,"
                f" got {d=}, {recompute_every=}, {spread=}"
            )
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"SphericalOutput needs dtype float32 or float64 of V, got {dtype}")
        loss.check(D)
        self.of_loss, self.d, self.D = loss, d, D
        self.recompute_every, self.spread = recompute_every, spread
        self.V: Tensor
        self.U: Tensor
        self.U_inv: Tensor
        self.w: Tensor
        self.Q: Tensor
        self.wbar: Tensor
        self.steps: Tensor
        self.skipped: Tensor
        self.register_buffer(
            "V", torch.empty(D, d, dtype=dtype).uniform_(-(d**-0.5), d**-0.5)
        )  # as nn.Linear
        for name, shape in (("U", (d, d)), ("U_inv", (d, d)), ("w", (d,)), ("Q", (d, d)), ("wbar", (d,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64), persistent=False)
        self._identity()
        self._sum()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SphericalOutput":
        """Moves to a device, or to float64; torch's `.half()`, `.float()` and `.to(dtype)` pass through here."""
        if (dtype := fn(self.Q[:0]).dtype) != torch.float64:
            raise ValueError(
                f"SphericalOutput keeps Q, U and w in float64, got {dtype}: cast the net below it alone"
            )
        return super()._apply(fn, recurse)

    # ---------------------------------------------------------------- what a user calls
    def loss(self, h: Float[Tensor, "m d"], y: Int[Tensor, " m"], lr: float) -> Float[Tensor, " m"]:
        """`update`, with values whose mean has the exact gradient for h: backward through any net below.

        The step on W is taken at once, for the unscaled mean of the values; scaling the mean afterwards scales the
        gradient of h alone.
        """
        values, gradient = self.update(h.detach(), y, lr)
        h = in_float32(h)
        return values.detach() + (h - h.detach()).mul(gradient * len(h)).sum(1)

    @torch.no_grad()
    def update(
        self, h: Float[Tensor, "m d"], y: Int[Tensor, " m"], lr: float
    ) -> tuple[Float[Tensor, " m"], Float[Tensor, "m d"]]:
        """One exact SGD step on W; the losses before it and the gradient of their mean for h, in float32 at least.

        Where one of them is not finite W stays as it is, and `skipped` counts the step.

        Args:
            h: inputs.
            y: targets in [0, D); a class may occur several times.
            lr: eta >= 0 of this step, finite.
        """
        right = h.ndim == 2 and h.shape[1] == self.d and h.is_floating_point() and y.dtype == torch.int64
        if not right or y.shape != h.shape[:1] or not 0 <= lr < math.inf:
            came = f"{tuple(h.shape)} {h.dtype}, {tuple(y.shape)} {y.dtype}, {lr=}"
            needs = f"floating h (m, {self.d}), int64 y (m,) and a finite lr >= 0"
            raise ValueError(f"SphericalOutput needs {needs}, got {came}")
        if len(y) and bool((y < 0).any() | (y >= self.D).any()):
            raise ValueError(f"labels y must lie in 0..{self.D - 1}, got {int(y.min())}..{int(y.max())}")
        H = h.to(torch.float64)
        HQ, W_y = H @ self.Q, self.rows(y)
        o_c, s, q = (W_y * H).sum(1), H @ self.wbar, (HQ * H).sum(1)
        values, A, B, G = self.coefficients(o_c, s, q)
        A, B, G = A / len(H), B / len(H), G / len(H)
        gradient = A[:, None] * self.wbar + B[:, None] * HQ + G[:, None] * W_y
        if bool(torch.isfinite(values.sum() + gradient.sum())):
            self._step(H, HQ, W_y, y, (A, B, G), lr)
        else:  # one NaN in Q, U or w would stay for good
            self.skipped += 1
        self.steps += 1
        if int(self.steps) % self.recompute_every == 0:
            self.refresh()
        wide = in_float32(h).dtype
        return values.to(wide), gradient.to(wide)

    def coefficients(
        self, o_c: Float[Tensor, " m"], s: Float[Tensor, " m"], q: Float[Tensor, " m"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(losses, A, B, G), each (m,): dL/do = A 1 + B o + G e_c, eq. 2, so A = dL/ds, B = 2 dL/dq, G = dL/do_c."""
        with torch.enable_grad():
            o_c, s, q = (v.detach().requires_grad_() for v in (o_c, s, q))
            values = self.of_loss.value(o_c, s, q, self.D)
            found = torch.autograd.grad(values.sum(), (o_c, s, q), allow_unused=True, materialize_grads=True)
        G, A, half_B = found
        return values.detach(), A, 2 * half_B, G

    @torch.no_grad()
    def refresh(self) -> None:
        """Folds U and w into V, then sums Q and wbar anew: O(D d^2)."""
        self._fold()
        self._sum()

    def rows(self, y: Int[Tensor, " m"]) -> Float[Tensor, "m d"]:
        """(m, d) float64 rows W_y."""
        return self.V[y].to(torch.float64) @ self.U + self.w

    @property
    def weight(self) -> Float[Tensor, "D d"]:
        """W itself, multiplied out, in V's type."""
        return torch.cat([(r.to(torch.float64) @ self.U + self.w).to(r.dtype) for r in self.V.split(ROWS)])

    @torch.no_grad()
    def set_weight(self, W: Float[Tensor, "D d"]) -> None:
        """Starts from a given W."""
        self.V.copy_(W)
        self._identity()
        self._sum()

    def forward(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "n D"]:
        inner = (h.to(torch.float64) @ self.U.T).to(self.V.dtype)
        return (inner @ self.V.T + (h.to(torch.float64) @ self.w).to(self.V.dtype)[:, None]).to(h.dtype)

    # ---------------------------------------------------------------- eq. 3
    def _step(
        self,
        H: Tensor,
        HQ: Tensor,
        W_y: Tensor,
        y: Tensor,
        scalars: tuple[Tensor, Tensor, Tensor],
        eta: float,
    ) -> None:
        """W <- W M - eta (1 av^T + sum_c e_c g_c^T) with M = I - H^T C H, C = eta diag(B), at low rank."""
        A, B, G = scalars
        CH = eta * B[:, None] * H
        GH = G[:, None] * H
        classes, place = y.unique(return_inverse=True)
        # a class may be the target of several samples: its rows add up
        g = torch.zeros(len(classes), self.d, dtype=H.dtype, device=H.device).index_add_(0, place, GH)
        av, gs = A @ H, GH.sum(0)
        X = torch.outer(self.wbar, av) + W_y.T @ GH  # W^T (1 av^T + sum_c e_c g_c^T)
        MX = X - CH.T @ (H @ X)
        low = CH.T @ HQ
        self.Q -= low + low.T - CH.T @ ((HQ @ H.T) @ CH) + eta * (MX + MX.T)
        ones = self.D * torch.outer(av, av) + torch.outer(av, gs) + torch.outer(gs, av)
        self.Q += eta**2 * (ones + g.T @ g)
        self.wbar -= CH.T @ (H @ self.wbar) + eta * (self.D * av + gs)
        self.w -= CH.T @ (H @ self.w) + eta * av
        self.U -= (self.U @ H.T) @ CH
        # Woodbury: M^-1 = I + H^T (I - C H H^T)^-1 C H, an m x m system
        small = torch.eye(len(H), dtype=H.dtype, device=H.device) - CH @ H.T
        self.U_inv += H.T @ torch.linalg.solve_ex(small, CH @ self.U_inv).result
        spread_out = self._spread_out()
        if spread_out:  # before its inverse is used
            self._fold()
        self.V.index_add_(0, classes, (g @ self.U_inv).to(self.V.dtype), alpha=-eta)
        if spread_out:
            self._sum()

    def _spread_out(self) -> bool:
        """Whether a singular value of U lies outside [1/spread, spread].

        The Frobenius norms bound them at O(d^2); only where those are too large are the spectral norms computed. An
        M that is singular (eta B |h|^2 = 1) leaves an inverse that is not finite.
        """
        if bool((self.U.norm() <= self.spread) & (self.U_inv.norm() <= self.spread)):
            return False
        if not bool(self.U_inv.isfinite().all()):
            return True
        return not all(float(torch.linalg.matrix_norm(x, 2)) <= self.spread for x in (self.U, self.U_inv))

    def _fold(self) -> None:
        for rows in self.V.split(ROWS):
            rows.copy_((rows.to(torch.float64) @ self.U + self.w).to(rows.dtype))
        self._identity()

    def _identity(self) -> None:
        self.U.copy_(torch.eye(self.d, dtype=torch.float64))
        self.U_inv.copy_(self.U)
        self.w.zero_()

    def _sum(self) -> None:
        self.Q.zero_()
        self.wbar.zero_()
        for rows in self.V.split(ROWS):
            R = rows.to(torch.float64)
            self.Q.addmm_(R.T, R)
            self.wbar += R.sum(0)
