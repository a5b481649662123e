"""Samples per second of the in-memory pipeline against torchvision's usual one, the same augmentation.

Usual: a Dataset of PIL images as torchvision's, v2 transforms per image (random crop with padding, flip, to float,
normalise), a DataLoader with 2 workers. Ours: uint8 in memory, whole batches, in the training process. Both give
normalised float32 batches on the same real images. Ours has one thread, the usual one 2 workers and the main process.

Usage: python scripts/bench_data.py [--data cifar10|fashion_mnist] [--rows N] [--repeats 3] [--json FILE]
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import benching
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lossatlas import runner
from lossatlas.data import Data
from lossatlas.loader import ChunkLoader
from lossatlas.paths import conf_dir

BATCH, PADDING, WORKERS = 128, 4, 2


class Images(Dataset):
    """As torchvision's own: an array in memory, one PIL image and one label an item."""

    def __init__(self, data: Data, transform: Any) -> None:
        self.pixels = data.train.x.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        self.labels, self.transform = data.train.y.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i]


def usual(data: Data) -> Iterable[Any]:
    """torchvision's pipeline."""
    assert data.mean is not None
    assert data.std is not None
    transform = v2.Compose(
        [
            v2.RandomCrop(data.shape[1:], padding=PADDING),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(data.mean.tolist(), data.std.tolist()),
        ]
    )
    return DataLoader(Images(data, transform), BATCH, shuffle=True, num_workers=WORKERS)


class Ours:
    """One epoch as LitModule runs it: chunks of indices, cut into mini-batches."""

    def __init__(self, data: Data, chunk: int = 50) -> None:
        self.data, self.order, self.epoch = data, ChunkLoader(len(data.train), BATCH, chunk, seed=0), 0

    def __iter__(self) -> Iterator[Any]:
        self.order.set_epoch(self.epoch)
        for index in self.order:
            draws = self.data.draws(0, self.epoch, index)
            yield from self.data.batches("train", index, BATCH, train=True, draws=draws)
        self.epoch += 1


def epoch_rate(batches: Iterable[Any]) -> list[float]:
    """Samples per second of wall time and of processor time of all processes, over a whole epoch.

    The first batch starts the wall clock, so that starting workers is free there.
    """
    found, first, start, spent = 0, 0, 0.0, processor()
    for k, batch in enumerate(batches):
        found += len(batch[1])
        if k == 0:
            first, start = found, time.perf_counter()
    return [(found - first) / (time.perf_counter() - start), found / (processor() - spent)]


def processor() -> float:
    """Processor seconds of this process and of the workers that have ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, who))


def memory_mb(data: Data) -> dict[str, float]:
    """Bytes the pipeline holds: all stored pixels, what they would be as float32, one mini-batch on its way."""
    pixels = data.train.x.numel() + data.test.x.numel()
    row = data.train.x[0].numel()
    padded = data.train.x.shape[1] * (data.shape[1] + 2 * PADDING) * (data.shape[2] + 2 * PADDING)
    in_flight = BATCH * (
        6 * row + padded + 4 * row
    )  # gathered, windows, flip, both (2), choice; padded; float32
    draws = 12 * len(data.train)
    return {name: size / 2**20 for name, size in
            {"stored": pixels, "as_float32": 4 * pixels, "draws": draws, "mini_batch": in_flight}.items()}  # fmt: skip


def main() -> int:
    """Alternates both pipelines and prints their rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training images of an epoch; all of them without it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)  # of 128 small images more threads wait longer than they work
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        rows = "null" if args.rows is None else args.rows
        words = [f"data={args.data}", "data.augment=flip_crop", f"limit.train={rows}"]
        data = runner.make(compose("config", words).data, "data")
    theirs, ours = usual(data), Ours(data)
    rates: dict[str, list[list[float]]] = {"ours": [], "usual": []}
    epoch_rate(ours)
    for _ in range(args.repeats):
        rates["usual"].append(epoch_rate(theirs))
        rates["ours"].append(epoch_rate(ours))
    middle = {name: statistics.median(wall for wall, _ in values) for name, values in rates.items()}
    pairs = list(zip(rates["ours"], rates["usual"], strict=True))
    ratio, of_processor = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
    memory = memory_mb(data)
    result = {"data": args.data, "batch": BATCH, "samples_per_s": middle, "ratio": ratio}
    result |= {"ratio_processor": of_processor, "memory_mb": memory, "rows": len(data.train)}
    n = f"{len(data.train)} training images, batches of {BATCH}"
    summary = [
        [f"{args.data}: {n}, crop and flip, samples/s",
         f"{middle['ours']:,.0f} against {middle['usual']:,.0f} of a DataLoader with {WORKERS} workers: "
         f"{ratio:.0f} x wall, {of_processor:.0f} x processor time"],
        [f"{args.data}: memory",
         f"{memory['stored']:.0f} MB of uint8 for all splits ({memory['as_float32']:.0f} MB as float32), "
         f"{memory['mini_batch']:.1f} MB for a mini-batch on its way"],
    ]  # fmt: skip
    benching.write(
        args.json or benching.FOLDER / f"data_{args.data}.json", summary, {**result, "rates": rates}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
