"""What the loggers of a run have in common: the same metrics at the same steps, also in a run that was cut.

Lightning's CSVLogger deletes its file when a run is resumed, TensorBoard's writes a second one and W&B starts a
second run. Here a journal of what was logged is part of the checkpoint; a resumed run's loggers begin anew and are
given the journal first, so in the end they hold what the logs of a run that nobody cut hold.

Weights & Biases without questions: offline where there is no key or no answer. Each job is a W&B run of its own.
"""

import contextlib
import functools
import netrc
import os
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lossatlas import records
from lossatlas.jobs import Job

PATIENCE = 5  # seconds that W&B's server has for an answer before a run begins without it
UPLOAD = 60  # seconds that a run's end waits for the rest of an upload


def of_run(cfg: DictConfig, job: Job) -> list[Any]:
    """The loggers that the config asks for; W&B is told the study, the arm and the condition."""
    from lossatlas.runner import make

    tags = [job.experiment, str(cfg.arm), *(f"{key}={value}" for key, value in job.condition.items())]
    known = {
        "name": job.name, "group": f"{job.experiment}-{cfg.scale}", "tags": [tag[:64] for tag in tags],
        "config": job.config,
    }  # fmt: skip
    made = []
    for name, node in cfg.logger.items():
        wandb = node.get("_target_") == "lossatlas.loggers.wandb_logger"
        more = {key: value for key, value in known.items() if key not in node} if wandb else {}
        made.append(make(node, f"logger.{name}", **more))
    return made


class Journal(Logger):
    """A logger that only remembers, in the order of logging."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        """Of no use here."""
        return "journal"

    @property
    def version(self) -> str:
        """Of no use here."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Remembers them."""
        self.rows.append((step, {name: float(value) for name, value in metrics.items()}))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The record holds the config."""


class Replay(Callback):
    """Keeps the journal in the checkpoint, and fills the loggers of a resumed run with it.

    Args:
        loggers: of the run, without the journal.
    """

    def __init__(self, loggers: list[Any]) -> None:
        self.journal = Journal()
        self.loggers = [
            one for one in loggers if isinstance(one, CSVLogger | TensorBoardLogger | WandbLogger)
        ]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The logs begin anew; CSVLogger removes its own file, W&B overwrites a run of the same id."""
        if stage == "fit" and trainer.is_global_zero:
            for logger in self.loggers:
                if isinstance(logger, TensorBoardLogger):
                    for path in Path(logger.log_dir).glob("events.out.tfevents.*"):
                        path.unlink()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was logged before the checkpoint."""
        for step, metrics in self.journal.rows:
            for logger in self.loggers:
                logger.log_metrics(metrics, step=step)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """The journal so far."""
        return {"rows": self.journal.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The journal of the run that is resumed."""
        self.journal.rows = [(step, dict(metrics)) for step, metrics in state_dict["rows"]]


def close(loggers: list[Any], failed: bool) -> None:
    """Ends W&B's runs, so that the next job of this process gets one of its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._experiment is not None:
            with contextlib.suppress(Exception):  # the service is away: its folder can be synced later
                logger._experiment.finish(exit_code=int(failed))


# ------------------------------------------------------------------ Weights & Biases
class _Wandb(WandbLogger):
    """A WandbLogger that goes on offline where the service refuses or does not answer."""

    @property
    def experiment(self) -> Any:
        """The W&B run, created when something is logged first."""
        try:
            return WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
        except Exception as error:
            if self._wandb_init["mode"] == "offline":
                raise
            _say(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            self._wandb_init |= {
                "mode": "offline",
                "id": _drawn(Path(str(self.save_dir))),
            }  # the first id is taken
            return WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]


def wandb_logger(project: str, save_dir: str, **kwargs: Any) -> WandbLogger:
    """A WandbLogger that never asks for a login nor waits long; `wandb sync` uploads an offline folder later.

    Args:
        project: W&B's name for what belongs together.
        save_dir: the run's folder; W&B writes into its folder `wandb`.
        kwargs: of wandb.init, such as entity, group, tags.
    """
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")  # read before there are settings
    url = os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url
    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, base_url=url,
        init_timeout=4 * PATIENCE, finish_timeout=UPLOAD,
        x_save_requirements=False,  # takes seconds, and the record names the versions
    )  # fmt: skip
    chosen = {"mode": os.environ.get("WANDB_MODE") or _mode(url), "settings": settings, "resume": None}
    logger = _Wandb(project=project, save_dir=save_dir, **{"id": _id(Path(save_dir)), **chosen, **kwargs})
    logger._wandb_init.pop("anonymous", None)  # only mentioning it is warned of
    return logger


def _id(folder: Path) -> str:
    """The W&B run's id: kept by a run that is resumed, drawn for one that begins."""
    path = folder / "wandb" / "run-id"
    return path.read_text() if (folder / "last.ckpt").exists() and path.exists() else _drawn(folder)


def _drawn(folder: Path) -> str:
    drawn = secrets.token_hex(4)
    records.write_text(drawn, folder / "wandb" / "run-id")
    return drawn


def _mode(url: str) -> str:
    """Online only with a key and a server that answers."""
    keyed = os.environ.get("WANDB_API_KEY") or _logged_in(urllib.parse.urlsplit(url).hostname or "")
    return "online" if keyed and _answers(url) else "offline"


def _logged_in(host: str) -> bool:
    """Whether `wandb login` has left a key."""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


@functools.cache  # once a process: a sweep does not wait again for each job
def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True  # whatever it said, it is there
    except (OSError, ValueError) as error:
        _say(f"{url} does not answer: {getattr(error, 'reason', error)}")
        return False
    return True


def _say(why: str) -> None:
    print(f"lossatlas: W&B goes on offline ({why}); `wandb sync` uploads the run later", file=sys.stderr)
