"""What a search looks for: a metric of the runs and whether it is to fall or to rise, known before the first job."""

import csv
import math
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossatlas.errors import UserError
from lossatlas.keys import nearest
from lossatlas.paths import experiments_dir

USUAL = ("top1", "mse")  # what LitModule measures: labels, numbers
LOWER = (
    "mse", "mae", "rmse", "nll", "loss", "error", "perplexity", "regret", "distance", "kl", "tv", "brier", "ms",
    "calibration", "gap", "seconds", "violations",
)  # fmt: skip
HIGHER = ("accuracy", "f1", "auc", "return", "reward", "precision", "recall", "mrr", "spearman", "robust")


def direction_of(metric: str) -> str | None:
    """`minimize` or `maximize` by the words of a metric's name; None where they do not say.

    Example:
        >>> direction_of("test/mse"), direction_of("val/top1"), direction_of("tau/mean")
        ('minimize', 'maximize', None)
    """
    words = metric.split("/")[-1].split("_")
    if any(word in LOWER for word in words):
        return "minimize"
    rises = any(word in HIGHER or (word.startswith("top") and word[3:].isdigit()) for word in words)
    return "maximize" if rises else None


def objective(cfg: DictConfig, experiment: str) -> tuple[str, str]:
    """The metric and the direction of a search over an experiment.

    Args:
        cfg: composed; `objective.metric` and `objective.direction` where it or the user names them.
        experiment: its name; what its published runs recorded tells the usual metric.

    Raises:
        UserError: no metric or direction is known, or its runs do not record the metric.
    """
    known = recorded(str(cfg.paper), experiment)
    fold = OmegaConf.select(cfg, "data.val_fold") is not None
    metric = cfg.objective.metric or _usual(cfg, known, fold)
    if metric is None:
        shown = nearest("", known) if known else "one that its runs record"
        raise UserError(
            f"{experiment} names no objective for a search: give objective.metric=... ({shown}) and"
            " objective.direction=minimize or maximize"
        )
    twin = metric.replace("val/", "test/", 1) if fold else metric
    if known and metric not in known and twin not in known:
        raise UserError(
            f"objective.metric={metric}: the runs of {experiment} do not record it; {nearest(metric, known)}"
        )
    direction = cfg.objective.direction or direction_of(metric)
    if direction is None:
        raise UserError(f"objective.metric={metric}: say objective.direction=minimize or maximize, too")
    return metric, direction


def objective_value(cfg: DictConfig, metrics: Mapping[str, float | None]) -> float | None:
    """What a run returns to a search: its finite objective, else None."""
    names = [f"{split}/{name}" for name in USUAL for split in ("val", "test")]
    named = [cfg.objective.metric] if cfg.objective.metric else names
    value = next((metrics[name] for name in named if metrics.get(name) is not None), None)
    return value if value is not None and math.isfinite(value) else None


def recorded(paper: str, experiment: str) -> list[str]:
    """The metrics that the published runs of an experiment recorded; empty where none are published."""
    path = experiments_dir() / paper / "records.csv"
    if not path.exists():
        return []
    found: dict[str, None] = {}
    with path.open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row.get("experiment") == experiment:
                found.update(dict.fromkeys(name for name, value in row.items() if value and "/" in str(name)))
    return list(found)


def _usual(cfg: DictConfig, known: Collection[str], fold: bool) -> str | None:
    """Top-1 of labels or the squared error of numbers, on the validation fold where there is one."""
    data: Any = cfg.data
    split = "val" if fold else "test"
    if known:
        return next((f"{split}/{name}" for name in USUAL if f"test/{name}" in known), None)
    return f"{split}/{USUAL[0]}" if data and "_target_" in data else None
