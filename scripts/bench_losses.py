"""Forward and backward time and peak memory of every loss in the package against torch's cross_entropy.

The losses are those that the arms of the experiment files name, so a new paper's appear by themselves; one
that does not take scores (n, K) and labels (n,) is left out with a line. Writes docs/losses.md, too.

Usage: python scripts/bench_losses.py [--only NAME ...] [--json FILE] [--table FILE]
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler says hello at each start

import benching
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lossatlas.paths import CHECKOUT, conf_dir

BATCH, CLASSES, BATCHES = 256, (10, 1000, 50000), (256, 1024, 4096)
SLOW = 3.0  # times cross_entropy from which on a loss owes a reason
REASONS = {  # what the formula itself asks for beyond one log-softmax
    "LDRKL": "eq. 3: softplus of every score and the L1 norm, with their gradients",
    "ALDRKL": "eq. 2: a softmax and an entropy for lambda_i besides the loss itself; eq. 3: the L1 norm",
    "NCEPlus": "two losses; over 3 at small K only, where about 20 operations on (n,) cost more than the softmax",
    "ZLoss": "eq. 1: mean, deviation and z-score of the target, some fifteen calls on (n,), which outweigh ten scores",
}


def arms() -> dict[str, DictConfig]:
    """{label: node} of each different loss that an experiment names; values that only tuning sets do not count."""
    found: dict[str, DictConfig] = {}
    seen: set[str] = set()
    root = conf_dir() / "experiment"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for path in sorted(root.rglob("*.yaml")):
            name = str(path.relative_to(root).with_suffix(""))
            raw = compose("config", [f"experiment={name}"]).arms
            for arm in raw:
                plain = OmegaConf.to_container(raw[arm] or OmegaConf.create(), resolve=False)
                if not isinstance(plain, dict) or "_target_" not in plain or (key := _key(plain)) in seen:
                    continue
                node = compose("config", [f"experiment={name}", f"arm={arm}"]).arms[arm]
                try:
                    resolved = OmegaConf.create(OmegaConf.to_container(node, resolve=True))
                except OmegaConfBaseException:  # an arm that this experiment does not tune; another one may
                    continue
                seen.add(key)
                label = str(arm) if str(arm) not in found else f"{arm} ({name})"
                assert isinstance(resolved, DictConfig)
                found[label] = resolved
    return found


def _key(plain: dict[Any, Any]) -> str:
    """A loss without the numbers that come from the tuned table."""
    kept = {k: _key(v) if isinstance(v, dict) else v for k, v in plain.items() if "${" not in str(v)}
    return json.dumps(kept, sort_keys=True)


def make_call(loss: nn.Module, f: Tensor, y: Tensor) -> Callable[[], Any]:
    """Forward, mean, backward; raises TypeError for a loss of another signature."""
    index = torch.arange(len(y), device=y.device)
    if indexed := getattr(loss, "indexed", False):
        loss.allocate(len(y))  # type: ignore[operator]

    def call() -> None:
        f.grad = None
        (loss(f, y, index) if indexed else loss(f, y)).mean().backward()

    value = loss(f, y, index) if indexed else loss(f, y)
    if value.shape != y.shape:
        raise TypeError(f"gives {tuple(value.shape)} for {tuple(y.shape)} labels")
    return call


def reference(f: Tensor, y: Tensor) -> Callable[[], Any]:
    """The same with torch's cross_entropy."""

    def call() -> None:
        f.grad = None
        cross_entropy(f, y, reduction="none").mean().backward()

    return call


def peak_bytes(call: Callable[[], Any], f: Tensor) -> int:
    """Most bytes that one call holds beyond what was there before, by the profiler's record of allocations."""
    f.grad = None
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    allocations = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"
    )
    held = most = 0
    for _, size in allocations:
        held += size
        most = max(most, held)
    return most


def inputs(n: int, K: int) -> tuple[Tensor, Tensor]:
    """Standard normal scores with gradient, uniform labels."""
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(n, K, generator=generator).requires_grad_()
    return f, torch.randint(K, (n,), generator=generator)


def measure(loss: nn.Module, rounds: int) -> dict[str, Any]:
    """Times at each K, peak memory, and how time grows with the batch at the smallest K."""
    result: dict[str, Any] = {}
    for K in CLASSES:
        f, y = inputs(BATCH, K)
        ours, theirs = make_call(loss, f, y), reference(f, y)
        ce, own, ratio = benching.alternate(theirs, ours, rounds, 0.02)
        memory = [peak_bytes(call, f) for call in (theirs, ours)]
        result[str(K)] = {"us": own * 1e6, "ce_us": ce * 1e6, "ratio": ratio}
        result[str(K)] |= {"peak_mb": memory[1] / 2**20, "memory_ratio": memory[1] / max(memory[0], 1)}
    times = []
    for n in BATCHES:
        call = make_call(loss, *inputs(n, CLASSES[0]))
        call()
        times.append(min(benching.seconds(call, 5) for _ in range(5)))
    # from the last two: per-call overhead hides the growth of small batches
    result["growth"] = math.log(times[-1] / times[-2]) / math.log(BATCHES[-1] / BATCHES[-2])
    return result


def table(results: dict[str, Any], targets: dict[str, str], skipped: dict[str, str]) -> str:
    """docs/losses.md."""
    facts = benching.facts()
    head = (
        "# What the losses cost\n\n"
        f"Forward and backward on logits ({BATCH}, K), float32, {facts['threads']} thread(s) of {facts['cpu']}, torch "
        f"{facts['torch']}: time and peak\nmemory as multiples of `torch.nn.functional.cross_entropy` on the same "
        "logits; memory counts what a call allocates, the gradient\nincluded. Growth: exponent of the time in the batch"
        f" ({BATCHES[-2]} to {BATCHES[-1]} samples, K = {CLASSES[0]}); 1 is linear, a sum over pairs goes to 2. At K = "
        f"{CLASSES[0]}\na call is overhead of small operations, not arithmetic. Generated by `python "
        "scripts/bench_losses.py`.\n\n"
    )
    columns = [
        "loss",
        "class",
        *(f"time, K = {K}" for K in CLASSES),
        f"memory, K = {CLASSES[-1]}",
        "growth",
        "why",
    ]
    lines = [columns, ["---"] * len(columns)]
    for label, found in results.items():
        ratios = [f"{found[str(K)]['ratio']:.2f}" for K in CLASSES]
        memory = f"{found[str(CLASSES[-1])]['memory_ratio']:.2f}"
        lines.append(
            [
                label,
                f"`{targets[label]}`",
                *ratios,
                memory,
                f"{found['growth']:.1f}",
                reason(label, found, targets),
            ]
        )
    text = head + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
    if skipped:
        text += "\nLeft out, not a loss of scores and labels: "
        text += "; ".join(f"{label} (`{targets[label]}`: {why})" for label, why in skipped.items()) + ".\n"
    return text


def reason(label: str, found: dict[str, Any], targets: dict[str, str]) -> str:
    """Why a loss takes more than SLOW times cross_entropy at some K; empty where it does not."""
    if max(found[str(K)]["ratio"] for K in CLASSES) <= SLOW:
        return ""
    return REASONS.get(targets[label].rsplit(".", 1)[1], "**no reason given: profile it**")


def main() -> int:
    """Measures, writes JSON and table; exits 1 where a slow loss has no reason."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", help="labels or parts of them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "losses.json")
    parser.add_argument("--table", type=Path, default=CHECKOUT / "docs" / "losses.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results, targets, skipped = {}, {}, {}
    for label, node in arms().items():
        if args.only and not any(word in label for word in args.only):
            continue
        targets[label] = str(node["_target_"])
        try:
            loss = instantiate(node)
            if not isinstance(loss, nn.Module):
                raise TypeError(f"a {type(loss).__name__}")
            make_call(loss, *inputs(4, 10))
        except Exception as error:
            skipped[label] = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
            print(f"{label}: left out, {skipped[label]}")
            continue
        results[label] = measure(loss, args.rounds)
        shown = "  ".join(f"K={K} {results[label][str(K)]['ratio']:.2f}" for K in CLASSES)
        print(
            f"{label}: {shown}  memory {results[label][str(CLASSES[-1])]['memory_ratio']:.2f}  growth "
            f"{results[label]['growth']:.1f}",
            flush=True,
        )
    unexplained = [label for label in results if reason(label, results[label], targets).startswith("**")]
    if not args.only:
        args.table.parent.mkdir(parents=True, exist_ok=True)
        args.table.write_text(table(results, targets, skipped))
        benching.write(
            args.json, summary(results), {"losses": results, "classes": targets, "left_out": skipped}
        )
    if unexplained:
        print(f"over {SLOW:g} times cross_entropy without a reason: {', '.join(unexplained)}")
    return int(bool(unexplained))


def summary(results: dict[str, Any]) -> list[list[str]]:
    """Two lines for README."""
    rows = []
    for K in CLASSES:
        ratios = {label: found[str(K)]["ratio"] for label, found in results.items()}
        worst = max(ratios, key=lambda label: ratios[label])
        middle = sorted(ratios.values())[len(ratios) // 2]
        rows.append(
            [
                f"{len(ratios)} losses against cross_entropy, K = {K}",
                f"median {middle:.1f} x, most {ratios[worst]:.1f} x ({worst})",
            ]
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
