"""Runs of several processes: every rank starts from the job's resolved config, never from argv.

Lightning's own launcher re-sends argv (with -m the children would start the sweep again) and leaves
LOCAL_RANK in the environment; here the ranks are plain worker processes and the sweep's process only waits.
"""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from lossatlas import records

if TYPE_CHECKING:
    from lossatlas.jobs import Job
    from lossatlas.runner import Outcome


def processes(cfg: DictConfig, job: "Job") -> "Outcome":
    """Starts `trainer.devices` ranks of one job on this machine and waits; one dead rank ends all.

    Raises:
        UserError: the batch size cannot be divided, or the devices are not there.
    """
    from lossatlas.errors import UserError
    from lossatlas.runner import Outcome, _require_device, locked

    world = int(cfg.trainer.devices)
    if cfg.batch_size % world:
        raise UserError(f"batch_size={cfg.batch_size} over trainer.devices={world}: make it a multiple")
    _require_device(cfg.trainer.accelerator, world)
    cfg.run_dir = str(job.folder)
    with locked(job.folder):
        spec = job.folder / "job.json"
        plain = OmegaConf.to_container(cfg, resolve=True)
        spec.write_text(json.dumps({"cfg": plain, "job": {**asdict(job), "folder": str(job.folder)}}))
        port = _free_port()
        env = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world),
            "NODE_RANK": "0",
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "lossatlas.launch", str(spec)],
                env={**os.environ, **env, "LOCAL_RANK": str(k), "RANK": str(k)},
            )
            for k in range(world)
        ]
        try:
            code = _wait(ranks)
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    if code in (130, -2):
        raise KeyboardInterrupt
    record = records.read(job.folder / "record.json")
    if code != 0 or record is None:
        return Outcome("failed", f"a rank ended with code {code}; see {job.folder / 'error.txt'}")
    from lossatlas.runner import _headline, _objective, _report

    return Outcome(
        record.status, _headline(record.metrics), _report(cfg, job, record), _objective(cfg, record.metrics)
    )


def _wait(ranks: list[subprocess.Popen]) -> int:
    """0 when all ranks end well, else the first bad exit code, at once."""
    while True:
        codes = [rank.poll() for rank in ranks]
        bad = [code for code in codes if code]
        if bad:
            return bad[0]
        if all(code == 0 for code in codes):
            return 0
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def rank_main(path: str) -> int:
    """What one rank runs."""
    from lossatlas import runner

    cfg, job = runner.load_job(Path(path))
    try:
        outcome = runner.execute(cfg, job, quiet=os.environ["LOCAL_RANK"] != "0")
    except KeyboardInterrupt:
        return 130
    return 0 if outcome.status in ("done", "diverged") else 1


if __name__ == "__main__":
    sys.exit(rank_main(sys.argv[1]))
