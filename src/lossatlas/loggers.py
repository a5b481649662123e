"""Weights & Biases without questions: offline where there is no key."""

import os
from typing import Any


def wandb_logger(project: str, save_dir: str, **kwargs: Any) -> Any:
    """A WandbLogger that never asks for a login; `wandb sync` uploads an offline folder later."""
    from pytorch_lightning.loggers import WandbLogger

    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(
        project=project, save_dir=save_dir, offline=not os.environ.get("WANDB_API_KEY"), **kwargs
    )
