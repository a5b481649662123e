"""What a record says of the machine and the code: memory, versions, commit."""

import functools
import importlib.metadata
import subprocess
from typing import Any

from lossatlas.paths import CHECKOUT, is_checkout

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
