"""Replicas trained together against one after another, and derivatives in x by hand against autograd's.

`replicas`: a training step of R networks - MLP with batch norm as one ReplicaMLP (by hand) and under vmap, ConvNet and
decoder under vmap as the stacks do - against R steps one after another. `derivatives`: value, Jacobian and Laplacian of
a 2-32-32-32-1 tanh network by forward_derivatives against torch.func, and a training step on the Laplacian.

Usage: python scripts/bench_nets.py [--rounds 5] [--replicas 10] [--json FILE]
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import benching
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from lossatlas.nets import MLP, ConvNet, Decoder
from lossatlas.replicas import ReplicaMLP, forward_derivatives

CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "MLP 192-128-128-128-2, batch norm, batch 128": (
        lambda: MLP(192, [128] * 3, 2, "relu", norm="batch"),
        lambda R: torch.randn(R, 128, 192),
    ),
    "MLP 16-64-64-26, batch norm, batch 64": (
        lambda: MLP(16, [64, 64], 26, "relu", norm="batch"),
        lambda R: torch.randn(R, 64, 16),
    ),
    "ConvNet 8-16 stride 2, 14 x 14, batch 64": (
        lambda: ConvNet(1, 10, 14, widths=[8, 16], strides=2, head="flatten", hidden=[32]),
        lambda R: torch.randn(R, 64, 1, 14, 14),
    ),
    "decoder 2 x 32, 16 tokens, batch 32": (
        lambda: Decoder(4, 16, width=32, depth=2, heads=2, d=8),
        lambda R: torch.randn(R, 32, 16, 8),
    ),
}


def one_after_another(nets: Sequence[nn.Module], x: Tensor, y: Tensor) -> Callable[[], None]:
    """SGD steps of every network, in turn."""
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.01) for net in nets]

    def step() -> None:
        for net, sgd, a, b in zip(nets, optimizers, x, y, strict=True):
            sgd.zero_grad()
            cross_entropy(net(a).flatten(0, -2), b).backward()
            sgd.step()

    return step


def vmapped(nets: Sequence[nn.Module], x: Tensor, y: Tensor) -> Callable[[], None]:
    """One vmap over the networks, attention by the plain kernel."""
    params, buffers = stack_module_state(list(nets))  # type: ignore[arg-type]

    def loss(p: Any, b: Any, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(nets[0], (p, b), (x,)).flatten(0, -2), y)

    every = vmap(grad(loss))

    def step() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            grads = every(params, buffers, x, y)
        with torch.no_grad():
            for name, p in params.items():
                p -= 0.01 * grads[name]

    return step


def by_hand(nets: Sequence[Any], x: Tensor, y: Tensor) -> Callable[[], None]:
    """One ReplicaMLP."""
    whole = ReplicaMLP.of(nets)
    sgd = torch.optim.SGD(whole.parameters(), lr=0.01)

    def step() -> None:
        sgd.zero_grad()
        (cross_entropy(whole(x).flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]).backward()
        sgd.step()

    return step


def replicas(R: int, rounds: int) -> list[dict[str, Any]]:
    """Ratios of every case; above 1 the replicas are faster together."""
    found = []
    for case, (make, draw) in CASES.items():
        ways = {"vmap": vmapped} | ({"hand": by_hand} if case.startswith("MLP") else {})
        for name, way in ways.items():
            nets, x = [make() for _ in range(R)], draw(R)
            rows = nets[0](x[0]).flatten(0, -2)
            y = torch.randint(rows.shape[1], (R, len(rows)))
            alone, together, _ = benching.alternate(
                one_after_another(nets, x, y), way([make() for _ in range(R)], x, y), rounds, 0.3
            )
            found.append({"case": case, "way": name, "R": R, "alone": alone, "together": together})
    return found


def derivatives(rounds: int) -> list[dict[str, Any]]:
    """Seconds of both ways, values and a training step."""
    net = ReplicaMLP([2, 32, 32, 32, 1], torch.Generator().manual_seed(0), activation="tanh")
    x, weights = torch.randn(1, 500, 2), [*net.parameters()][:-1]  # the Laplacian has no last bias

    def f(row: Tensor) -> Tensor:
        return net(row[None, None])[0, 0]

    def autograd() -> tuple[Tensor, Tensor]:
        H = vmap(hessian(f))(x[0])
        return vmap(jacrev(f))(x[0]), H.diagonal(dim1=-2, dim2=-1).sum(-1)

    def carried() -> tuple[Tensor, Tensor]:
        found = forward_derivatives(net, x, order=2)
        assert found.laplacian is not None
        return found.jacobian[0], found.laplacian[0]

    for a, b in zip(autograd(), carried(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    results = []
    for what, change in (
        ("values", lambda pair: pair),
        (
            "gradient of a squared Laplacian",
            lambda pair: torch.autograd.grad(pair[1].square().mean(), weights),
        ),
    ):
        slow, fast, ratio = benching.alternate(
            lambda change=change: change(autograd()), lambda change=change: change(carried()), rounds, 0.3
        )
        results.append({"case": what, "autograd": slow, "carried": fast, "ratio": 1 / ratio})
    return results


def main() -> None:
    """Both parts and their file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=10)
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "nets.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    stacks, slopes = replicas(options.replicas, options.rounds), derivatives(options.rounds)
    summary = [
        [
            f"{r['case']}: {r['R']} replicas by {r['way']}, alone / together",
            f"{r['alone'] / r['together']:.2f}",
        ]
        for r in stacks
    ]
    summary += [
        [
            f"Jacobian, Laplacian of 2-32-32-32-1, 500 points, {r['case']}: torch.func / by hand",
            f"{r['ratio']:.1f}",
        ]
        for r in slopes
    ]
    benching.write(options.json, summary, {"replicas": stacks, "derivatives": slopes})


if __name__ == "__main__":
    main()
