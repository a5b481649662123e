"""What a record says of the machine and the code: memory, versions, commit."""

import functools
import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lossatlas.paths import CHECKOUT, experiments_dir, is_checkout

PACKAGES = (
    "lossatlas",
    "torch",
    "pytorch-lightning",
    "torchmetrics",
    "hydra-core",
    "numpy",
    "scipy",
    "scikit-learn",
)


@functools.cache
def code_version() -> tuple[str, bool]:
    """(git commit, whether the working tree differs from it); the package version outside a checkout."""
    if is_checkout():
        git = ["git", "-C", str(CHECKOUT)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "src", "conf"], capture_output=True, text=True, check=False
        )
        if commit.returncode == 0:
            return commit.stdout.strip(), bool(changed.stdout.strip())
    return f"v{importlib.metadata.version('lossatlas')}", False


def claims_digest(card: str | Path) -> str:
    """Twelve digits of the sha256 of what a card claims, its notes and sources apart; "" where there is no card.

    Equal digits on the day of the study and today: the claims were written before it.
    """
    try:
        raw = OmegaConf.to_container(OmegaConf.load(card), resolve=False)
    except (OSError, YAMLError, OmegaConfBaseException):
        return ""
    if not isinstance(raw, dict) or not isinstance(raw.get("claims"), list):
        return ""
    kept = [_without(claim, ("note", "source")) for claim in raw["claims"]]
    text = json.dumps([raw.get("n"), raw.get("units"), kept], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without(claim: Any, keys: tuple[str, ...]) -> Any:
    return {k: v for k, v in claim.items() if k not in keys} if isinstance(claim, dict) else claim


def card_of(paper: str | None) -> Path:
    """Where a paper's card lies, if it has one."""
    return experiments_dir() / str(paper) / "card.yaml"


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of what computes the results."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def reset_peak_memory() -> None:
    """Starts a new peak: ru_maxrss never falls between the jobs of one process, VmHWM can be reset (Linux)."""
    try:
        with open("/proc/self/clear_refs", "w") as handle:
            handle.write("5")
    except OSError:  # not Linux, or not allowed: the peak is then the process's
        return


def peak_memory_mb(trainer: Any) -> float:
    """Peak resident memory in MB since `reset_peak_memory`, plus the GPU's peak where there is one."""
    import torch

    host = host_peak_mb()
    device = trainer.strategy.root_device
    return host + (torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0)


def host_peak_mb() -> float:
    """Peak resident memory in MB since `reset_peak_memory` (Linux), or of the process."""
    import resource

    try:
        with open("/proc/self/status") as handle:
            return next(int(line.split()[1]) / 1024 for line in handle if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
