"""Exact Gaussian processes, 100 at once: lossatlas.gp against gpytorch where it is installed (it is no dependency).

A step of the fit is the marginal likelihood and its gradient; the posterior is mean and variance at 100 points. Both
sides have Matern 5/2 with a length scale a coordinate, 16 coordinates, float64; their values must agree.

Usage: python scripts/bench_gp.py [--rounds 5] [--points 30 60] [--json FILE]
"""

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import benching
import torch
from torch import Tensor

from lossatlas import gp

B, D, AT = 100, 16, 100


def theirs(
    x: Tensor, y: Tensor, at: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], tuple[Tensor, Tensor]]]:
    """gpytorch's fit step and posterior at length scale .5, variance 1, noise .01."""
    gpytorch: Any = import_module("gpytorch")
    batch = torch.Size([B])

    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood: Any) -> None:
            super().__init__(x, y, likelihood)
            self.mean = gpytorch.means.ZeroMean(batch_shape=batch)
            base = gpytorch.kernels.MaternKernel(2.5, ard_num_dims=D, batch_shape=batch)
            self.kernel = gpytorch.kernels.ScaleKernel(base, batch_shape=batch)
            base.lengthscale, self.kernel.outputscale = 0.5, 1.0

        def forward(self, points: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean(points), self.kernel(points))

    likelihood = gpytorch.likelihoods.GaussianLikelihood(batch_shape=batch)
    model = Model(likelihood).double()
    likelihood.noise = 0.01
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)

    def step() -> Tensor:
        model.train()
        model.zero_grad()
        value = marginal(model(x), y) * y.shape[1]
        value.sum().backward()
        return value.detach()

    def predict() -> tuple[Tensor, Tensor]:
        model.train()  # forgets the caches, as after a new point
        model.eval()
        with torch.no_grad():
            found = model(at)
            return found.mean, found.variance

    return step, predict


def ours(
    x: Tensor, y: Tensor, at: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], tuple[Tensor, Tensor]]]:
    """The same by lossatlas.gp."""
    made = (x.new_full((B, D), 0.5), x.new_ones(B), x.new_full((B,), 0.01))
    logs = [t.log().requires_grad_() for t in made]

    def step() -> Tensor:
        value = gp.log_marginal(gp.Scales(logs[0].exp(), logs[1].exp(), logs[2].exp()), x, y, jitter=0.0)
        torch.autograd.grad(value.sum(), logs)
        return value.detach()

    def predict() -> tuple[Tensor, Tensor]:
        return gp.posterior(gp.Scales(*made), x, y, at, jitter=0.0)

    return step, predict


def main() -> None:
    """Both sizes, both calls."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", type=int, nargs="+", default=[30, 60])
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "gp.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    summary, results = [], []
    for n in options.points:
        x, at = torch.rand(B, n, D, dtype=torch.float64), torch.rand(B, AT, D, dtype=torch.float64)
        y = torch.sin(5 * x[..., 0])
        for what, mine, other in zip(
            ("fit step", "posterior"), ours(x, y, at), theirs(x, y, at), strict=True
        ):
            torch.testing.assert_close(mine(), other(), atol=1e-5, rtol=1e-5)
            slow, fast, ratio = benching.alternate(other, mine, options.rounds, 0.5)
            results.append({"n": n, "what": what, "gpytorch": slow, "own": fast, "ratio": 1 / ratio})
            text = f"{1000 * slow:.1f} / {1000 * fast:.1f} ms = {1 / ratio:.2f}"
            summary.append([f"{what} of {B} Gaussian processes, n = {n}, gpytorch / own", text])
    benching.write(options.json, summary, results)


if __name__ == "__main__":
    main()
