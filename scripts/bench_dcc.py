"""One move of condensed images by DC's classwise distance: a loop over classes against one vmap over them.

Both give the distance and its gradient with respect to the images, for the study's network; the gradients must agree.

Usage: python scripts/bench_dcc.py [--rounds 5] [--classes 5 10] [--json FILE]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import benching
import torch
from torch import Tensor, nn
from torch.nn import functional

from lossatlas.papers.dcc import ConvNet, classwise_distance
from lossatlas.papers.dcc.matching import row_distance, weights_of


def together(net: nn.Module, S: Tensor, T: Tensor) -> Tensor:
    """`classwise_distance`, all classes' gradients by vmap(grad)."""
    every = dict(net.named_parameters())
    names = [name for name, p in every.items() if any(p is weight for weight in weights_of(net))]

    def loss(matched: dict[str, Tensor], images: Tensor, c: Tensor) -> Tensor:
        scores = torch.func.functional_call(net, {**every, **matched}, (images,))
        return functional.cross_entropy(scores, c.expand(len(images)))

    matched, classes = {name: every[name].detach() for name in names}, torch.arange(len(S))
    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    G, H = gradient(matched, S, classes), gradient(matched, T, classes)
    return torch.stack([row_distance(G[n].flatten(2), H[n].detach().flatten(2)).sum() for n in names]).sum()


def main() -> None:
    """Alternates the two and writes the ratio of their times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "dcc.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    summary, results = [], []
    for C in options.classes:
        net = ConvNet(1, C, 14, width=16, depth=2)
        S, T = torch.randn(C, 1, 1, 14, 14, requires_grad=True), torch.randn(C, 64, 1, 14, 14)

        def move(
            measure: Callable[..., Tensor], net: nn.Module = net, S: Tensor = S, T: Tensor = T
        ) -> Tensor:
            return torch.autograd.grad(measure(net, S, T), S)[0]

        torch.testing.assert_close(move(classwise_distance), move(together), atol=1e-4, rtol=1e-3)
        loop, vmap, ratio = benching.alternate(
            lambda move=move: move(classwise_distance), lambda move=move: move(together), options.rounds, 5.0
        )
        results.append({"classes": C, "loop": loop, "vmap": vmap, "ratio": ratio})
        what = f"a move of {C} images by DC (14 x 14, width 16, 64 real images a class), vmap / loop over classes"
        summary.append([what, f"{1000 * vmap:.0f} / {1000 * loop:.0f} ms = {ratio:.2f}"])
    benching.write(options.json, summary, results)


if __name__ == "__main__":
    main()
