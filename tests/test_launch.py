"""Several processes: each rank starts from the job's resolved config; one folder and one record per job.

The rehearsals on the CPU (gloo) are real processes. A process imports torch for several seconds, so the
equality tests share two that torchrun started.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

SMOKE = ("experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false")
DDP = ("trainer=ddp_sim", "trainer.devices=2")
EXACT = 1e-12
DOUBLE = ("arm=aldr_kl", "limit.train=251", "trainer.precision=64-true")
FSDP = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2")
CASES = {  # 2 epochs, shuffled; rows of the last mini-batch of 16: words, how two processes share, tolerance
    "float64, 11 rows": (DOUBLE, DDP, EXACT),
    "float64, 1 row: a process gets none": ((*DOUBLE, "limit.train=241"), DDP, EXACT),
    "float32, clipped": (("arm=aldr_kl", "limit.train=251", "trainer.gradient_clip=0.3"), DDP, 1e-6),
    "float32, samples left out": (("arm=tgce", "limit.train=251", "arms.tgce.warm_up=0.5"), DDP, 1e-6),
    "sharded": (("arm=aldr_kl", "limit.train=251", "trainer.gradient_clip=0.3"), FSDP, 1e-6),
}


def environment(**more):
    """Of a process of its own; ranks must not take the test's process for a rank."""
    paths = [
        str(Path(__file__).parents[1] / "src"),
        str(Path(__file__).parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), **more}


def torchrun(lines, outputs, timeout=550):
    """`torchrun --nproc-per-node 2` on several command lines."""
    script = Path(__file__).with_name("rank_script.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(script), json.dumps(lines)],
        env=environment(LOSSATLAS_OUTPUTS=str(outputs)),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def elastic(tmp_path_factory):
    """Every case twice (the second is kept), then a sweep of two jobs, all in the same two processes."""
    outputs = tmp_path_factory.mktemp("elastic")
    lines = [[*SMOKE, *how, *words, f"seed={k}"] for k, (words, how, _) in enumerate(CASES.values())]
    lines += [lines[0], ["-m", *SMOKE, *DDP, "arm=ce", "noise=u60", "seed=10,11"]]
    return outputs, torchrun(lines, outputs)


def state(outputs, seed):
    """The trained parameters and buffers of one run."""
    (path,) = Path(outputs).rglob(f"*-s{seed}-*/last.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


def record(outputs, seed):
    (path,) = Path(outputs).rglob(f"*-s{seed}-*/record.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_with_half_the_batch_each_are_one_process(cli, outputs, elastic, case):
    words, _, tolerance = CASES[case]
    seed = list(CASES).index(case)
    answer = cli(*SMOKE, *words, f"seed={seed}")
    assert answer.code == 0, answer
    assert elastic[1].returncode == 0, elastic[1].stderr
    alone, together = state(outputs, seed), state(elastic[0], seed)
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=tolerance, atol=tolerance, msg=name)
    a, b = record(outputs, seed), record(elastic[0], seed)
    assert b["device"] == "2 x cpu"
    assert a["config_hash"] == b["config_hash"]
    assert a["metrics"].keys() == b["metrics"].keys()
    for name in a["metrics"]:
        assert a["metrics"][name] == pytest.approx(b["metrics"][name], abs=1e-5), name


def test_torchrun_runs_jobs_one_after_another_and_rank_0_alone_speaks(elastic):
    outputs, done = elastic
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ldr_noisy: aldr_kl") == 5  # 4 runs, one of them kept the second time
    assert done.stdout.count("kept from an earlier run") == 1
    assert done.stdout.count("ce-u60-s10: done") == done.stdout.count("[2/2]") == 1
    assert len(list(outputs.rglob("record.json"))) == len(CASES) + 2
    assert len(list((outputs / ".sweeps").iterdir())) == 1


def start(*words, outputs, **more):
    """The command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "run", *words],
        env=environment(LOSSATLAS_OUTPUTS=str(outputs), **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes(outputs):
    """Ids of the processes that have this test's outputs in their environment, but for the test itself."""
    mark, found = f"LOSSATLAS_OUTPUTS={outputs}".encode(), []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0") and int(path.name) != os.getpid():
                found.append(int(path.name))
        except (OSError, ValueError):
            continue
    return found


def until(condition, seconds=300.0):
    """Waits for a condition and returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)
    return value


def ranks_of(outputs):
    """Process ids of the ranks that run now, rank 0 first: forked by the server that has imported torch."""
    servers = {}
    for pid in processes(outputs):
        try:
            if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                servers[pid] = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    return sorted(pid for pid, parent in servers.items() if parent in servers)


def sweep(outputs, seeds, repeats):
    """The same sweep again and again, in fresh folders; each has a time-out."""
    for k in range(repeats):
        here = outputs / str(k)
        words = (*SMOKE, *DDP, "arm=aldr_kl", "noise=u30", f"seed={','.join(map(str, range(seeds)))}")
        # as on a cluster: a job of one Slurm task that starts its ranks itself
        slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "study", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        process = start("-m", *words, outputs=here, **slurm)
        out, err = process.communicate(timeout=240 * seeds)
        assert process.returncode == 0, err
        assert out.count(": done ") == seeds
        assert "GPU available" not in out + err
        folders = [p for p in (here / "ldr_noisy" / "smoke").iterdir() if p.name != "_study"]
        assert len(folders) == len(list(here.rglob("record.json"))) == seeds
        for folder in folders:
            names = {p.name for p in folder.iterdir()} - {"previous.ckpt"}
            assert names == {"record.json", "config.yaml", "curves.csv", "last.ckpt", "csv", ".lock"}
        assert not processes(here)


def test_a_sweep_of_two_processes_a_job_ends(tmp_path):
    sweep(tmp_path, seeds=2, repeats=1)


@pytest.mark.study
@pytest.mark.timeout(4000)
def test_a_sweep_of_two_processes_a_job_ends_ten_times_in_a_row(tmp_path):
    sweep(tmp_path, seeds=3, repeats=10)


def test_a_killed_rank_ends_its_job_with_one_line_and_rerun_failed_repeats_that_one(tmp_path):
    words = ("-m", *SMOKE, *DDP, "arm=ce", "noise=u60", "seed=0,1")
    process = start(*words, outputs=tmp_path)
    until(lambda: len(ranks_of(tmp_path)) == 2)
    os.kill(ranks_of(tmp_path)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 1, err
    line = "ce-u60-s0: failed rank 1 was killed by SIGKILL"
    assert out.count(line) == 1
    assert out.count("ce-u60-s1: done") == 1
    assert err.strip().splitlines()[-1].startswith("1 of 2 jobs did not finish: ce-u60-s0")
    assert "Traceback" not in out + err
    assert not processes(tmp_path)
    assert record(tmp_path, 0)["status"] == "failed"
    assert "SIGKILL" in record(tmp_path, 0)["error"]
    (kept,) = tmp_path.rglob("ce-u60-s1-*/record.json")
    before = kept.stat().st_mtime_ns
    again = start(*words, "rerun=failed", outputs=tmp_path)
    out, err = again.communicate(timeout=500)
    assert again.returncode == 0, err
    assert "ce-u60-s0: done" in out
    assert "ce-u60-s1: skipped" in out
    assert record(tmp_path, 0)["status"] == "done"
    assert kept.stat().st_mtime_ns == before


def test_no_rank_outlives_its_parent(tmp_path):
    process = start(*SMOKE, *DDP, "arm=ce", outputs=tmp_path)
    until(lambda: len(ranks_of(tmp_path)) == 2)
    process.kill()
    process.communicate()
    until(lambda: not processes(tmp_path), 200)


@pytest.mark.parametrize("everywhere", [False, True], ids=["the sweep", "every process, as clusters do"])
def test_a_signal_lets_all_ranks_stop_at_one_chunk(tmp_path, everywhere):
    words = (*SMOKE, *DDP, "arm=aldr_kl", "epochs=200")
    process = start(*words, "callbacks.checkpoint.every_chunks=3", outputs=tmp_path)
    until(lambda: list(tmp_path.rglob("last.ckpt")))
    for pid in {*processes(tmp_path), process.pid} if everywhere else {process.pid}:
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert len(err.strip().splitlines()) == 1
    assert record(tmp_path, 0)["status"] == "interrupted"
    until(lambda: not processes(tmp_path), 60)


# ------------------------------------------------------------------ GPUs, as far as a machine without one can go
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_processes_on_gpus_are_refused_in_one_line_where_there_is_none(cli, outputs, monkeypatch, trainer):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    answer = cli(*SMOKE, f"trainer={trainer}")
    assert answer.code == 2
    (line,) = answer.err.strip().splitlines()
    assert "2 GPU(s), 0 are here" in line
    assert "ddp_sim" in line
    assert not list(outputs.rglob("record.json"))


def test_gpu_ranks_are_fresh_processes_that_would_speak_nccl(cli, outputs, monkeypatch):
    from lossatlas import launch

    made = []

    class Process:
        exitcode, pid, sentinel = 1, None, 0  # never started

        def __init__(self, **kwargs):
            made.append(kwargs)

        def start(self):
            pass

        kill = join = start

    class Context:
        Pipe = staticmethod(launch.multiprocessing.Pipe)

    methods = []
    Context.Process = Process
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        launch.multiprocessing, "get_context", lambda method: methods.append(method) or Context()
    )
    answer = cli(*SMOKE, "trainer=ddp", "arm=ce")
    assert methods == ["spawn", "spawn"]
    assert [kwargs["target"] for kwargs in made] == [launch._rank] * 2
    environments = [kwargs["args"][1] for kwargs in made]
    assert [(e["RANK"], e["LOCAL_RANK"], e["WORLD_SIZE"]) for e in environments] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert launch.backend(made[0]["args"][0]["cfg"]["trainer"]["accelerator"]) == "nccl"
    assert launch.backend("cpu") == "gloo"
    assert answer.code == 1
    assert "rank 0 ended with exit code 1" in answer.err
    assert record(outputs, 0)["status"] == "failed"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("experiment=ldr_noisy", "trainer.devices=3"), "make it a multiple"),
        (("experiment=presto_rare",), "no mini-batches"),
        (
            ("experiment=neucb_datasets",),
            "no mini-batches",
        ),  # has data, and plays rounds: its ranks refuse it
    ],
    ids=["batch", "no data", "rounds"],
)
def test_what_cannot_be_shared_is_refused(cli, outputs, words, hint):
    answer = cli(*words, "scale=smoke", "trainer=ddp_sim")
    assert answer.code == 2, answer
    (line,) = answer.err.strip().splitlines()
    assert hint in line
    assert not list(outputs.rglob("record.json"))


def test_shares_of_a_mini_batch_sum_to_one():
    from lossatlas import ranks
    from lossatlas.loader import ChunkLoader

    for n, size, chunk, world in ((10, 4, 3, 2), (9, 4, 1, 4), (12, 4, 5, 4), (5, 8, 2, 2)):
        loaders = [list(ChunkLoader(n, size, chunk, 0, rank=r, world=world)) for r in range(world)]
        for position in range(len(loaders[0])):
            shares = [ranks.shares(n, size, chunk, position, r, world) for r in range(world)]
            for weights in zip(*shares, strict=True):
                assert sum(weights) == pytest.approx(world)
            for r in range(world):  # as many parts as weights, none empty
                parts = loaders[r][position].split(size // world)
                assert len(parts) == len(shares[r])
                assert all(len(part) for part in parts)
