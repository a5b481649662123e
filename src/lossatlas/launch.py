"""Runs of several processes: every rank starts from the job's resolved config, never from argv.

Lightning's own launcher re-sends argv (with -m the children would start the sweep again) and leaves
LOCAL_RANK in the environment; here the ranks are plain worker processes and the sweep's process only waits.
A rank watches its parent and exits when the sweep is gone.
Processes that torchrun started are ranks already: they join one group and keep it for all jobs of a sweep.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import IO, TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lossatlas import records
from lossatlas.errors import StorageError, UserError
from lossatlas.locks import locked
from lossatlas.private import redact
from lossatlas.signals import STOP, heard_by

if TYPE_CHECKING:
    from lossatlas.jobs import Job
    from lossatlas.runner import Outcome

STOPPED, REFUSED = 130, 2  # exit codes of a rank besides 0 and 1
PATIENCE = 60.0  # seconds that ranks have for a checkpoint once they were asked to stop


# ------------------------------------------------------------------ who am I
def grouped() -> bool:
    """Whether this process is one of a group that a launcher (this one, torchrun) started."""
    return all(name in os.environ for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))


def rank() -> int:
    """This process's number in its group; 0 where there is none. Only rank 0 writes and prints."""
    return int(os.environ["RANK"]) if grouped() else 0


def world() -> int:
    """Processes in the group."""
    return int(os.environ["WORLD_SIZE"]) if grouped() else 1


def nodes() -> int:
    """Machines in the group, each with equally many processes."""
    return world() // int(os.environ.get("LOCAL_WORLD_SIZE", world()))


def backend(accelerator: str) -> str:
    """How processes talk: nccl between GPUs, gloo otherwise."""
    import torch

    gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    return "nccl" if gpu else "gloo"


def check(cfg: DictConfig, processes: int) -> None:
    """What several processes need of a config.

    Raises:
        UserError: nothing to share out, or a mini-batch that cannot be dealt evenly.
    """
    if "_target_" not in (cfg.data or {}):
        raise nothing_to_share(cfg)
    if cfg.batch_size % processes:
        raise UserError(f"batch_size={cfg.batch_size} over {processes} processes: make it a multiple")


def nothing_to_share(cfg: DictConfig) -> UserError:
    """Why a method without mini-batches is refused: known from its config, or from its module once that is built."""
    return UserError(
        f"trainer.devices={cfg.trainer.devices}: this experiment has no mini-batches to share, every process"
        " would do the same work; use trainer=cpu and a parallel launcher"
    )


# ------------------------------------------------------------------ the sweep's side
@dataclass
class Rank:
    """A started rank: its process, where it reports, and what it wrote to stderr (rank 0's is shown)."""

    process: Any
    reports: Connection
    stderr: IO[bytes] | None

    def report(self) -> dict[str, Any]:
        """What it said of its end: error, traceback; empty where it was killed."""
        with contextlib.suppress(EOFError, OSError):
            return self.reports.recv() if self.reports.poll() else {}
        return {}

    def said(self) -> str:
        """The end of its stderr, where that was kept."""
        if self.stderr is None:
            return ""
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace")[-10000:]

    def close(self) -> None:
        """Ends the process if it runs, and closes what belongs to it."""
        if self.process.pid:  # 0 would be this whole process group
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    self.process.pid, signal.SIGKILL
                )  # Process.kill trusts the server, which may have died
        self.process.join()
        self.reports.close()
        if self.stderr is not None:
            self.stderr.close()


@dataclass
class Group:
    """The ranks of one job."""

    ranks: list[Rank] = field(default_factory=list)
    asked: int = 0

    def ask(self, signum: int, _: Any) -> None:
        """A signal to the sweep goes on to every rank; the second one does not wait for a checkpoint."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = signum
        for one in self.ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.process.pid, signum)

    def wait(self) -> int | None:
        """None when all end well, else the number of the rank that ended badly first."""
        deadline = None
        while True:
            codes = [one.process.exitcode for one in self.ranks]
            if self.asked:
                deadline = deadline or time.monotonic() + PATIENCE
                if None not in codes or time.monotonic() > deadline:
                    raise KeyboardInterrupt
            elif any(codes):
                return next(k for k, code in enumerate(codes) if code)
            elif None not in codes:
                return None
            running = [one.process.sentinel for one in self.ranks if one.process.exitcode is None]
            multiprocessing.connection.wait(running, timeout=0.5)


def processes(cfg: DictConfig, job: "Job", quiet: bool = False) -> "Outcome":
    """Runs one job in `trainer.devices` ranks on this machine and waits; one dead rank ends all.

    The caller holds the folder's lock.

    Raises:
        UserError: the batch size cannot be divided, the devices are not there, a part is refused.
        KeyboardInterrupt: stopped by a signal, after the ranks' checkpoint and record.
    """
    from lossatlas.runner import Outcome, _require_device, outcome_of

    check(cfg, int(cfg.trainer.devices))
    if cfg.trainer.accelerator != "cpu":  # torch is imported by the ranks only
        _require_device(cfg.trainer.accelerator, cfg.trainer.devices)
    cfg.run_dir = str(job.folder)
    start = time.monotonic()
    with _started(cfg, job, quiet) as group:
        bad = group.wait()
        cause = group.ranks[bad] if bad is not None else None
        code = cause.process.exitcode if cause else 0
        report = cause.report() if cause else {}
        said = cause.said() if cause else ""
    if code == STOPPED:
        raise KeyboardInterrupt
    if code == REFUSED:
        kind = StorageError if report.get("storage") else UserError
        raise kind(report.get("error") or "a rank refused its job")
    if cause is not None:
        error = report.get("error") or f"rank {bad} {_end(code)}"
        if bad != 0 or "error" not in report:  # rank 0 writes the record of its own failure
            details = report.get("traceback") or f"{error}\n{said}"
            _record_failure(cfg, job, error, details, time.monotonic() - start)
        return Outcome("failed", error)
    record = records.read(job.folder / "record.json")
    if record is None:
        return Outcome("failed", f"the ranks left no record in {job.folder}")
    return outcome_of(cfg, job, record)


@contextlib.contextmanager
def _started(cfg: DictConfig, job: "Job", quiet: bool) -> Iterator[Group]:
    """The ranks of a job, started; on leaving none is left."""
    spec = {
        "cfg": OmegaConf.to_container(cfg, resolve=True),
        "job": {**asdict(job), "folder": str(job.folder)},
        "quiet": quiet,
    }
    group = Group()
    # the port is bound here and handed on, so that nobody else takes it meanwhile
    with heard_by(group.ask), socket.socket() as meeting:
        meeting.bind(("127.0.0.1", 0))
        meeting.listen()
        try:
            try:
                for k in range(int(cfg.trainer.devices)):
                    group.ranks.append(_start(k, spec, meeting))
            except EOFError:
                if not group.asked:
                    raise UserError(
                        "the process that starts ranks was killed; the same command goes on"
                    ) from None
            if group.asked:  # while they were started
                raise KeyboardInterrupt
            yield group
        finally:
            for one in group.ranks:
                one.close()


def _start(k: int, spec: dict[str, Any], meeting: socket.socket) -> Rank:
    trainer = spec["cfg"]["trainer"]
    if trainer["accelerator"] == "cpu":  # imports torch once for all ranks of a sweep
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["lossatlas.preload"])
    else:  # a device's driver is not shared with a process that forks
        context = multiprocessing.get_context("spawn")
    size = str(trainer["devices"])
    env = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(meeting.getsockname()[1]),
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "NODE_RANK": "0",
        "LOCAL_RANK": str(k),
        "RANK": str(k),
    }
    stderr = tempfile.NamedTemporaryFile(delete=False) if k else None  # noqa: SIM115  (closed with the rank)
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(
        target=_rank,
        args=(spec, {**os.environ, **env}, writing, meeting if k == 0 else None, stderr and stderr.name),
        name=f"{spec['job']['name']}, rank {k}",
    )
    with _no_main():
        process.start()
    writing.close()
    return Rank(process, reading, stderr)


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """A rank needs nothing of the script that started the sweep, which may have no guard against a second import."""
    main = sys.modules["__main__"]
    spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    main.__spec__ = main.__file__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if path is not None:
            main.__file__ = path
        else:
            del main.__file__


def _end(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}; the other ranks were ended"
    return f"ended with exit code {code}; the other ranks were ended"


def _record_failure(cfg: DictConfig, job: "Job", error: str, details: str, seconds: float) -> None:
    """The record of a job whose rank 0 could not write it."""
    from lossatlas.runner import make_record

    records.write_text(redact(details.rstrip()) + "\n", job.folder / "error.txt")
    device = f"{cfg.trainer.devices} x {cfg.trainer.accelerator}"
    record = make_record(
        cfg, job, "failed", error, {}, seconds=round(seconds, 3), peak_mb=float("nan"), device=device
    )
    records.write(record, job.folder / "record.json")


# ------------------------------------------------------------------ a rank's side
def _rank(
    spec: dict[str, Any],
    env: dict[str, str],
    reports: Connection,
    meeting: socket.socket | None,
    stderr: str | None,
) -> None:
    """A rank's whole life; ends its process with the exit code."""
    for signum in STOP:  # until training takes them there is nothing to save
        signal.signal(signum, lambda *_: os._exit(STOPPED))
    os.setsid()  # Ctrl-C reaches the sweep alone, which passes it on once
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if stderr is not None:
        with open(stderr, "ab") as file:
            os.unlink(stderr)  # the sweep holds it open, too
            os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    code, report = _run(spec, meeting.detach() if meeting else None)
    with contextlib.suppress(OSError):
        reports.send(report)
    atexit._run_exitfuncs()  # loggers close their files there; multiprocessing leaves it out
    sys.exit(code)


def _run(spec: dict[str, Any], meeting: int | None) -> tuple[int, dict[str, Any]]:
    """Exit code and report of a rank."""
    import torch.distributed as dist

    from lossatlas import runner

    cfg, job = runner.load_job(spec)
    try:
        join(cfg, meeting)
        outcome = runner.execute(cfg, job, quiet=spec["quiet"] or rank() != 0)
    except UserError as error:
        return REFUSED, {"error": str(error), "storage": isinstance(error, StorageError)}
    except KeyboardInterrupt:
        return STOPPED, {}
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return 1, {"error": text, "traceback": traceback.format_exc()}
    if outcome.status not in ("done", "diverged"):
        return 1, {"error": outcome.line, "traceback": outcome.report}
    dist.destroy_process_group()
    return 0, {}


def _leave_with_parent() -> None:
    """The sentinel is ready when the sweep's process has ended, however it ended: no rank outlives it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def joined(cfg: DictConfig, job: "Job", quiet: bool) -> "Outcome":
    """One job in processes that torchrun started: rank 0 decides for all whether it runs, writes and prints.

    Raises:
        UserError: the config asks for other processes than were started, or rank 0 was refused the folder.
        SystemExit: this rank failed; torchrun then ends the others, which would wait for it.
    """
    import torch.distributed as dist

    from lossatlas import runner

    here = int(os.environ.get("LOCAL_WORLD_SIZE", world()))
    if cfg.trainer.devices != here:
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}, but {here} processes were started on this machine: use"
            f" trainer=ddp_sim (CPU) or trainer=ddp (GPU) with trainer.devices={here}"
        )
    check(cfg, world())
    runner._require_device(cfg.trainer.accelerator, cfg.trainer.devices)
    join(cfg)
    with contextlib.ExitStack() as stack:
        decision: list[Any] = [None]
        if rank() == 0:
            decision = [_decide(cfg, job, stack)]
        dist.broadcast_object_list(decision)
        found, refused = decision[0]
        if refused:
            raise UserError(refused)
        if found:
            return runner.finished(cfg, job) or runner.Outcome("skipped")
        outcome = runner.execute(cfg, job, quiet=quiet or rank() != 0)
    if outcome.status == "failed":
        if rank() == 0:
            print(f"lossatlas: {job.name}: {outcome.line}", file=sys.stderr)
        raise SystemExit(1)
    return outcome


def _decide(cfg: DictConfig, job: "Job", stack: contextlib.ExitStack) -> tuple[bool, str]:
    """(the run is finished, why it is refused), seen from rank 0, which takes the folder's lock."""
    from lossatlas import runner

    try:
        if runner.finished(cfg, job) is not None:
            return True, ""
        stack.enter_context(locked(job.folder))
        runner.ready(cfg, job)
    except UserError as error:
        return False, str(error)
    return False, ""


def join(cfg: DictConfig, meeting: int | None = None) -> None:
    """Puts this process into its group; `meeting` is rank 0's listening socket, None under torchrun."""
    import torch
    import torch.distributed as dist
    from lightning_utilities.core.rank_zero import rank_zero_only
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    rank_zero_only.rank = (
        rank()
    )  # Lightning looked when it was imported, maybe in the process that was forked
    if dist.is_initialized():
        return
    kind, local = backend(cfg.trainer.accelerator), int(os.environ["LOCAL_RANK"])
    more: dict[str, Any] = {}
    if kind == "nccl":
        torch.cuda.set_device(local)
        more["device_id"] = torch.device("cuda", local)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        more["store"] = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            world(),
            is_master=rank() == 0,
            master_listen_fd=meeting,
        )
    dist.init_process_group(kind, rank=rank(), world_size=world(), **more)
