"""Runs and sweeps that are cut: signals, kills, torn files, full disks, two starts at once."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lossatlas import checkpoint, locks, records, runner
from lossatlas.lit import LitModule

SMOKE = ("experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false", "arm=ce")
SWEEP = ("-m", "noise=u60", "seed=0,1,2")
STACK = ("hydra/launcher=stacked", "hydra.launcher.n_jobs=1", "hydra.launcher.measure=false")
EVERY = ("callbacks.checkpoint.every_chunks=1", "callbacks.checkpoint.every_seconds=null")


def folders(outputs: Path) -> list[Path]:
    return sorted(outputs.glob("ldr_noisy/smoke/ce-*"))


def record_of(outputs: Path) -> dict:
    (folder,) = folders(outputs)
    return json.loads((folder / "record.json").read_text())


@contextmanager
def at_chunk(monkeypatch, chunk: int, act) -> Iterator[None]:
    """`act` is called in the middle of that chunk of training, counted over all runs."""
    seen = []
    original = LitModule.training_step

    def step(self, index, i):
        seen.append(1)
        if len(seen) == chunk:
            act()
        return original(self, index, i)

    with monkeypatch.context() as patch:
        patch.setattr(LitModule, "training_step", step)
        yield


@pytest.fixture
def whole(cli, tmp_path, monkeypatch, uncut=[]) -> dict:  # noqa: B006  (run once for all tests)
    """Metrics of the run that nothing cuts, elsewhere."""
    if not uncut:
        with monkeypatch.context() as patch:
            patch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "whole"))
            assert cli(*SMOKE).code == 0
        uncut.append(record_of(tmp_path / "whole")["metrics"])
    return uncut[0]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("chunk", [2, 4, 8], ids=["mid-epoch", "last of an epoch", "last of all"])
def test_a_signal_saves_records_exits_130_and_the_same_command_goes_on(
    cli, outputs, monkeypatch, whole, signum, chunk
):
    with at_chunk(monkeypatch, chunk, lambda: signal.raise_signal(signum)):
        answer = cli(*SMOKE)
    assert answer.code == 130, answer
    assert "Traceback" not in answer.err
    assert record_of(outputs)["status"] == ("done" if chunk == 8 else "interrupted")
    (folder,) = folders(outputs)
    assert checkpoint.is_whole(folder / "last.ckpt")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    started = []
    with at_chunk(monkeypatch, 10**9, lambda: None), monkeypatch.context() as patch:
        patch.setattr(LitModule, "mini_batches", counted(LitModule.mini_batches, started))
        assert cli(*SMOKE).code == 0
    assert len(started) == 8 - chunk
    assert record_of(outputs)["metrics"] == whole


def counted(function, seen):
    def call(self, index):
        seen.append(1)
        return function(self, index)

    return call


def test_a_second_ctrl_c_stops_at_once(cli, outputs, monkeypatch):
    before = signal.getsignal(signal.SIGINT)

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with at_chunk(monkeypatch, 2, twice):
        answer = cli(*SMOKE)
    assert answer.code == 130
    assert answer.err.strip() == "interrupted: the same command goes on where it stopped"
    assert not list(outputs.rglob("record.json"))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_stops_the_sweep_and_not_only_the_job(cli, outputs, monkeypatch):
    words = ("-m", *SMOKE, "noise=u60", "seed=0,1,2")
    with at_chunk(monkeypatch, 10, lambda: signal.raise_signal(signal.SIGINT)):
        answer = cli(*words)
    assert answer.code == 130
    assert "Traceback" not in answer.err
    states = [records.read(f / "record.json").status for f in folders(outputs)]
    assert states == ["done", "interrupted"]
    first = (folders(outputs)[0] / "record.json").stat()
    assert cli(*words).code == 0
    assert [records.read(f / "record.json").status for f in folders(outputs)] == ["done"] * 3
    again = (folders(outputs)[0] / "record.json").stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_a_signal_between_two_jobs_stops_the_sweep(cli, outputs, monkeypatch):
    execute = runner.execute

    def then_signal(*args):
        outcome = execute(*args)
        signal.raise_signal(signal.SIGTERM)
        return outcome

    monkeypatch.setattr(runner, "execute", then_signal)
    answer = cli("-m", *SMOKE, "noise=u60", "seed=0,1,2")
    assert answer.code == 130
    assert len(folders(outputs)) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, flip, empty, Path.unlink])
def test_a_torn_checkpoint_gives_way_to_the_previous_one(cli, outputs, monkeypatch, whole, spoil):
    with at_chunk(monkeypatch, 6, lambda: signal.raise_signal(signal.SIGINT)):
        cli(*SMOKE, *EVERY)
    (folder,) = folders(outputs)
    spoil(folder / "last.ckpt")
    started = []
    with monkeypatch.context() as patch:
        patch.setattr(LitModule, "mini_batches", counted(LitModule.mini_batches, started))
        answer = cli(*SMOKE)
    assert answer.code == 0
    assert len(started) == 3  # chunks 6 to 8
    if spoil is not Path.unlink:
        assert answer.err.strip() == f"lossatlas: {folder.name}: last.ckpt torn; going on from previous.ckpt"
    assert record_of(outputs)["metrics"] == whole


def test_two_torn_checkpoints_start_the_run_anew(cli, outputs, monkeypatch, whole):
    with at_chunk(monkeypatch, 6, lambda: signal.raise_signal(signal.SIGINT)):
        cli(*SMOKE, *EVERY)
    (folder,) = folders(outputs)
    for name in ("last.ckpt", "previous.ckpt"):
        cut(folder / name)
    answer = cli(*SMOKE)
    assert answer.err.strip().endswith("last.ckpt and previous.ckpt torn; starting anew")
    assert record_of(outputs)["metrics"] == whole


@pytest.mark.parametrize("steps", range(4), ids=["seal", "keep the old", "put the new", "sync"])
def test_every_cut_inside_a_save_leaves_a_whole_checkpoint(tmp_path, monkeypatch, steps):
    """The steps of `put` one by one, as a kill between them would leave them."""
    path, part = tmp_path / "last.ckpt", tmp_path / "last.part"
    for k in range(2):
        torch.save({"k": k}, part)
        checkpoint.put(part, path)
    torch.save({"k": 2}, part)
    done = []

    def or_die(function):
        def call(*args):
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(1)
            return function(*args)

        return call

    with monkeypatch.context() as patch:
        for where, name in ((checkpoint, "seal"), (checkpoint.os, "replace"), (checkpoint, "_sync_folder")):
            patch.setattr(where, name, or_die(getattr(where, name)))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.put(part, path)
    found = checkpoint.pick(path)
    assert found is not None
    assert torch.load(found, weights_only=True)["k"] == (2 if steps == 3 else 1)


def test_a_torn_record_is_named_and_taken_up_from_the_checkpoint(cli, outputs, whole):
    cli(*SMOKE)
    (folder,) = folders(outputs)
    cut(folder / "record.json")
    answer = cli(*SMOKE)
    assert answer.code == 0
    assert "record.json torn" in answer.err.splitlines()[0]
    assert record_of(outputs)["metrics"] == whole


def test_a_torn_record_of_a_stack_is_run_anew_and_not_from_its_model(cli, outputs):
    assert cli(*SMOKE, *SWEEP, *STACK).code == 0
    folder = next(outputs.glob("ldr_noisy/smoke/ce-u60-s1-*"))
    metrics = records.read(folder / "record.json").metrics
    cut(folder / "record.json")
    answer = cli(*SMOKE, *SWEEP, *STACK)
    assert answer.code == 0, answer
    assert [line.split("; ")[-1] for line in answer.err.strip().splitlines()] == [
        "the run is taken up again",
        "starting anew",
    ]
    assert records.read(folder / "record.json").metrics == pytest.approx(metrics, abs=1e-5)


def test_the_lock_of_a_killed_process_does_not_block(cli, outputs):
    cli(*SMOKE)
    (folder,) = folders(outputs)
    code = (
        "import fcntl, sys, time; h = open(sys.argv[1], 'w'); fcntl.flock(h, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, folder / ".lock"], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    assert cli(*SMOKE, "rerun=true").code == 2
    holder.kill()
    holder.wait()
    (folder / ".record.json.abc").write_text("left by the killed process")
    assert cli(*SMOKE, "rerun=true").code == 0
    assert not list(folder.glob(".record*"))


def test_a_run_finished_by_another_process_meanwhile_is_kept(cli, outputs, monkeypatch):
    cli(*SMOKE)
    (folder,) = folders(outputs)
    held = (folder / "record.json").read_bytes()
    (folder / "record.json").unlink()
    take = locks._take_lock

    def slow(path):
        handle = take(path)
        (folder / "record.json").write_bytes(held)
        return handle

    monkeypatch.setattr(locks, "_take_lock", slow)
    monkeypatch.setattr(runner, "execute", lambda *a: pytest.fail("a finished run was repeated"))
    answer = cli(*SMOKE)
    assert answer.code == 0
    assert "kept from an earlier run" in answer.out


def test_a_lock_file_removed_by_its_holder_is_taken_anew(tmp_path, monkeypatch):
    folder, flock = tmp_path / "run", fcntl.flock

    def removed_meanwhile(handle, how):
        flock(handle, how)
        monkeypatch.setattr(locks.fcntl, "flock", flock)
        (folder / ".lock").unlink()

    monkeypatch.setattr(locks.fcntl, "flock", removed_meanwhile)
    with locks._take_lock(folder) as handle:
        assert os.path.samestat(os.fstat(handle.fileno()), (folder / ".lock").stat())


@contextmanager
def file_size_limit(size: int):
    """Writing beyond `size` bytes of a file fails, as on a full disk (EFBIG instead of ENOSPC)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("multirun", "size"),
    [((), 16000), ((), 3000), ((), 500), (SWEEP, 16000), ((*SWEEP, *STACK), 16000), ((*SWEEP, *STACK), 3000)],
    ids=["checkpoint", "record", "config", "sweep", "stack", "record of a stack"],
)
def test_a_full_disk_is_one_line_exit_2_and_nothing_half_written(cli, outputs, multirun, size, whole):
    words = (*multirun, *SMOKE, "logger=none")
    with file_size_limit(size):
        answer = cli(*words)
    assert answer.code == 2, answer
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert "File too large" in answer.err
    assert "Traceback" not in answer.err + answer.out
    assert not list(outputs.rglob("record.json"))
    assert not list(outputs.rglob("*.ckpt"))
    assert not [p for p in outputs.rglob("*") if p.suffix == ".part" or p.name.count(".") > 2]
    if STACK[0] not in multirun:  # whose folders are made together
        assert len(folders(outputs)) <= 1  # the sweep ends: no further job could write, either
    if not multirun:
        assert cli(*words).code == 0
        assert record_of(outputs)["metrics"] == whole


@pytest.mark.study
@pytest.mark.timeout(1800)
def test_ctrl_c_in_a_sweep_of_several_processes_saves_every_job(outputs):
    """SIGINT to the whole group, as a terminal sends it: two loky workers train, the parent waits."""
    words = [w for w in SMOKE if w != "arm=ce"]
    command = [sys.executable, "-m", "run", "-m", *words, *EVERY, "arm=ce", "epochs=400", "noise=u60"]
    command += ["seed=0,1,2,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    sweep = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 1200
        while len(list(outputs.rglob("previous.ckpt"))) < 2:
            assert sweep.poll() is None, sweep.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(sweep.pid, signal.SIGINT)
        _, err = sweep.communicate(timeout=600)
    finally:
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
    assert sweep.returncode == 130
    assert err.strip() == "interrupted: the same command goes on where it stopped"
    found = [records.read(path) for path in outputs.rglob("record.json")]
    assert [r.status for r in found] == ["interrupted"] * 2
