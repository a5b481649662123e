"""What runs beside training: one time-refreshed bar, curves, checkpoints that can be resumed exactly."""

import contextlib
import errno
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

from lossatlas import checkpoint as files
from lossatlas import kept
from lossatlas.jobs import stop_asked
from lossatlas.signals import STOP, heard_by


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, raised at the end of a chunk, after the checkpoint."""


class Progress(Callback):
    """One bar over all mini-batch chunks of the run, redrawn at most ten times a second."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar where the run stands."""
        per_epoch = int(min(trainer.num_training_batches, 10**9))
        done = trainer.current_epoch * per_epoch + trainer.fit_loop.epoch_loop.batch_progress.current.ready
        total = per_epoch * (trainer.max_epochs or 1)
        self.bar = tqdm(
            total=total, initial=done, desc=self.label, leave=False, file=sys.stderr, disable=None
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """One chunk further."""
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last known loss, only where somebody looks."""
        if not self.bar.disable and "train/loss" in trainer.callback_metrics:
            loss = float(trainer.callback_metrics["train/loss"])
            self.bar.set_postfix(epoch=trainer.current_epoch + 1, loss=f"{loss:.4g}", refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        self.bar.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Closes the bar, so that the error has a line of its own."""
        if self.bar is not None:
            self.bar.close()


class History(Callback):
    """The epoch-wise metrics, part of the checkpoint, so that a resumed run has its whole curve."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning keeps a validation's values until the next one; a row holds its own epoch's only."""
        self._validated = True

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads what the epoch before logged, when every hook has logged."""
        self._read(trainer, trainer.current_epoch)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last epoch."""
        self._read(trainer, trainer.current_epoch)

    def _read(self, trainer: pl.Trainer, epochs_done: int) -> None:
        if epochs_done == 0 or (self.rows and self.rows[-1]["epoch"] >= epochs_done):
            return
        own = self._validated or not sum(
            trainer.num_val_batches
        )  # without a fold, val/ comes from the training
        fresh = {n: v for n, v in trainer.logged_metrics.items() if own or not n.startswith("val/")}
        metrics = {name: float(value) for name, value in fresh.items()}
        self._validated = False
        if metrics:
            self.rows.append({"epoch": float(epochs_done), **metrics})

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The rows of the run that is resumed."""
        self.rows = list(state_dict["rows"])


class Checkpoints(Callback):
    """`last.ckpt`, sealed and put in place at chunk ends, by time or by number of chunks; `previous.ckpt` is kept.

    Lightning's ModelCheckpoint counts optimiser steps, which stay 0 under a raw optimiser or none, and
    its checkpoints hold no random states. Here they are saved in the middle of an epoch or at an
    epoch's start, the two places from which Lightning's loops resume exactly.

    Args:
        folder: where `last.ckpt` lies; created.
        every_seconds: time between two checkpoints, or None.
        every_chunks: chunks between two checkpoints, or None.
    """

    def __init__(
        self, folder: Path, every_seconds: float | None = 20.0, every_chunks: int | None = None
    ) -> None:
        self.path = folder / "last.ckpt"
        self.every_seconds, self.every_chunks = every_seconds, every_chunks
        self.chunks, self.saved_at = 0, time.monotonic()
        self.begun, self.earlier = (
            time.perf_counter(),
            0.0,
        )  # this process's start; seconds of those before it
        self.stop_signal: int | None = None
        self._ask: Any = None
        self._resumed: dict[str, Any] | None = None

    @contextlib.contextmanager
    def signals(self) -> Any:
        """Ctrl-C and SIGTERM ask for a stop at the next chunk's end; a second Ctrl-C stops at once."""

        def ask(signum: int, _: Any) -> None:
            if self.stop_signal is not None:
                raise KeyboardInterrupt
            self.stop_signal = signum

        with heard_by(ask):
            self._ask = ask if signal.getsignal(signal.SIGINT) is ask else None
            yield
        self._ask = None

    def _take_signals(self) -> None:
        """Lightning puts a handler of its own in front of SIGTERM, which ends an epoch without a checkpoint."""
        if self._ask is not None:
            for signum in STOP:
                signal.signal(signum, self._ask)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Signals are ours again."""
        self._take_signals()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Signals are ours again."""
        self._take_signals()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sets the random states of the resumed run, after everything that could have drawn from them."""
        self._take_signals()
        if self._resumed is not None:
            set_random_state(self._resumed)
            self._resumed = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Between two epochs.

        Lightning clears the old epoch's counters only after this hook: resumed from here, it would skip the new epoch.
        """
        loop = trainer.fit_loop.epoch_loop
        loop.batch_progress.reset_on_run()
        loop.scheduler_progress.reset_on_run()
        self._maybe(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """In mid-epoch; at an epoch's last chunk the next epoch's start saves instead."""
        self.chunks += 1
        if not trainer.is_last_batch:
            self._maybe(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The trained model."""
        self.save(trainer)

    def _maybe(self, trainer: pl.Trainer) -> None:
        asked = self._asked()
        if self._due() or asked:
            self.save(trainer)
        if asked:
            raise Interrupted(f"stopped by {signal.Signals(asked).name}")

    def _due(self) -> bool:
        """Whether it is time for a checkpoint."""
        by_time = self.every_seconds is not None and time.monotonic() - self.saved_at >= self.every_seconds
        return by_time or (self.every_chunks is not None and self.chunks >= self.every_chunks)

    def _asked(self) -> int:
        """The signal that asked for a stop, 0 where none did; a sweep that ends asks as SIGTERM does."""
        if self.stop_signal is None and stop_asked():
            return int(signal.SIGTERM)
        return self.stop_signal or 0

    def save(self, trainer: pl.Trainer) -> None:
        """Writes a new file beside the old one, then puts it in its place."""
        part = self.path.with_suffix(".part")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            trainer.save_checkpoint(part)
            if trainer.is_global_zero:
                if not part.exists():  # Lightning swallows a PermissionError
                    raise PermissionError(errno.EACCES, "Permission denied", str(part))
                files.put(part, self.path)
        except BaseException:
            if part.is_file():
                part.unlink()  # a full disk: half a checkpoint would only take more of it
            raise
        self.chunks, self.saved_at = 0, time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Adds the random states and the seconds that the run took so far, in all its processes."""
        checkpoint["random_state"] = random_state()
        checkpoint["seconds"] = self.earlier + time.perf_counter() - self.begun - kept.spent()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Keeps the random states until training starts."""
        self._resumed = checkpoint.get("random_state")
        self.earlier = float(checkpoint.get("seconds", 0.0))


def random_state() -> dict[str, Any]:
    """All global random states, in types that torch.load(weights_only=True) reads."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, python, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "python": [version, list(python), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
