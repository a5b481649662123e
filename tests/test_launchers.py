"""Launchers and the sweeper as Hydra groups: one job fails, one dies, the others run; rerun=failed repeats the two."""

import json
import os
import sys
from pathlib import Path

import pytest
from joblib.externals.loky import get_reusable_executor

SMOKE = ("experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false", "arm=ce", "noise=u60", "epochs=1")
FLAKY = '''
import os
import signal
from pathlib import Path

from lossatlas.papers.ldr.study import LitLDR


class LitFlaky(LitLDR):
    """Seed 1 fails and seed 2 dies as if killed for its memory, until the file `mended` is there."""

    def step(self, batch):
        if not Path(os.environ["LOSSATLAS_OUTPUTS"], "mended").exists():
            if self.seed == 1:
                raise RuntimeError("out of luck")
            if self.seed == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().step(batch)
'''


@pytest.fixture
def flaky(outputs, tmp_path, monkeypatch):
    """Words that make seed 1 fail and seed 2 die; in every process, since the class is importable there."""
    (tmp_path / "flaky.py").write_text(FLAKY)
    outputs.mkdir()
    source = str(Path(__file__).parents[1] / "src")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), source, os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.delitem(sys.modules, "flaky", raising=False)
    return (*SMOKE, "module._target_=flaky.LitFlaky")


def statuses(outputs):
    """{seed: status} of the records."""
    found = (json.loads(path.read_text()) for path in outputs.rglob("record.json"))
    return {record["seed"]: record["status"] for record in found}


def check_failures(cli, outputs, words, launcher, seeds):
    """One sweep with failures, the repetition of what failed."""
    bad = [seed for seed in seeds if seed in (1, 2)]
    command = ("-m", *words, f"seed={','.join(map(str, seeds))}", *launcher)
    answer = cli(*command)
    assert answer.code == 1, answer
    assert statuses(outputs) == {seed: {1: "failed"}.get(seed, "done") for seed in seeds if seed != 2}
    summary = next(line for line in answer.err.splitlines() if "did not finish" in line)
    assert summary.startswith(f"{len(bad)} of {len(seeds)} jobs")
    assert "ce-u60-s1" in summary
    assert answer.out.count("ce-u60-s0: done") == 1
    assert answer.out.count("out of luck") == 1
    assert ("seed=2" in summary) == (2 in seeds)
    assert "Traceback" not in answer.out + answer.err
    first = next(outputs.rglob("ce-u60-s0-*/record.json"))
    before = first.stat().st_mtime_ns
    (outputs / "mended").touch()
    get_reusable_executor().shutdown(wait=True)  # joblib's workers belong to the first sweep
    answer = cli(*command, "rerun=failed")
    assert answer.code == 0, answer
    assert set(statuses(outputs).values()) == {"done"}
    assert answer.out.count(": skipped") == len(seeds) - len(bad)
    assert answer.out.count(": done") == len(bad)
    assert first.stat().st_mtime_ns == before


def test_joblib(cli, outputs, flaky):
    check_failures(cli, outputs, flaky, ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), (0, 1, 3))


@pytest.mark.study
def test_submitit_local(cli, outputs, flaky):
    check_failures(
        cli, outputs, flaky, ("hydra/launcher=submitit_local", "hydra.launcher.parallel=2"), (0, 1, 2)
    )


@pytest.mark.study
def test_ray_on_a_local_cluster(cli, outputs, flaky):
    check_failures(cli, outputs, flaky, ("hydra/launcher=ray", "hydra.launcher.init.num_cpus=2"), (0, 1, 2))


SBATCH = """#!/usr/bin/env python3
# a stand-in for Slurm's sbatch: runs every task of the array at once, with what Slurm sets
import os, re, subprocess, sys
lines = [x[len("#SBATCH "):] for x in open(sys.argv[-1]).read().splitlines() if x.startswith("#SBATCH ")]
given = dict(x.lstrip("-").split("=", 1) if "=" in x else (x.lstrip("-"), "") for x in lines)
open(os.environ["FAKE_SLURM"] + "/options", "w").write("\\n".join(lines))
first, last = map(int, given["array"].split("%")[0].split("-"))
for task in range(first, last + 1):
    env = dict(os.environ, SLURM_JOB_ID=f"{7 + task}", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=str(task),
               SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_JOB_NUM_NODES="1",
               SLURM_JOB_NAME="study", SLURM_JOB_NODELIST="here", SLURMD_NODENAME="here")
    subprocess.Popen(["bash", sys.argv[-1]], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
"""
SRUN = """#!/usr/bin/env python3
import os, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words = words[1:] if "=" in words[0] or words[0] in ("--unbuffered",) else words[2:]
os.execvp(words[0], words)
"""
SACCT = """#!/usr/bin/env python3
print("JobID|State|NodeList\\n7_0|RUNNING|here\\n7_1|RUNNING|here")
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm's commands, played by scripts that run jobs on this machine."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SACCT}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


def test_submitit_slurm_sends_one_array_whose_tasks_are_the_runs(cli, outputs, slurm):
    answer = cli(
        "-m",
        *SMOKE,
        "seed=0,1",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.parallel=2",
        "hydra.launcher.parameters.slurm_partition=short",
        "+hydra.launcher.parameters.slurm_qos=low",
    )
    assert answer.code == 0, answer
    assert statuses(outputs) == {0: "done", 1: "done"}
    assert "submitted Slurm array 7: 2 jobs" in answer.out
    options = (slurm / "options").read_text()
    for option in ("--array=0-1%2", "--partition=short", "--qos=low", "--time=240", "--cpus-per-task=1"):
        assert option in options, options


def test_a_requeued_job_is_the_same_call_again():
    from hydra_plugins.lossatlas.launchers import Call, SubmititLocalLauncher

    launcher = SubmititLocalLauncher(folder="nowhere")
    launcher.hydra_context = launcher.config = launcher.task_function = None
    call = Call(launcher, ["seed=3"], 0)
    again = call.checkpoint()
    assert again.function is call
    assert call.name == "seed=3"


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (("hydra/launcher=submitit_local",), "submitit", "cluster"),
        (("hydra/launcher=submitit_slurm",), "submitit", "cluster"),
        (("hydra/launcher=ray",), "ray", "ray"),
        (("hydra/sweeper=optuna", "lr=interval(0.01,0.1)"), "optuna", "optuna"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    cli, outputs, monkeypatch, words, module, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    answer = cli("-m", *SMOKE, *words)
    assert answer.code == 2
    (line,) = answer.err.strip().splitlines()
    assert f"pip install 'lossatlas[{extra}]'" in line
    assert not list(outputs.rglob("record.json"))


# ------------------------------------------------------------------ Optuna
SEARCH = ("-m", *SMOKE, "hydra/sweeper=optuna", "data.val_fold=0", "hydra.sweeper.n_trials=3")


def searched(outputs):
    """{search: what it found}."""
    found = [json.loads(path.read_text()) for path in outputs.rglob("_search/*.json")]
    return {each["search"]: each for each in found}


def test_optuna_searches_values_and_never_seeds_or_arms(cli, outputs):
    words = (*SEARCH, "arm=ce,gce", "seed=100,101", "lr=tag(log,interval(0.001,1.0))", "theta=0.05,0.7")
    answer = cli(*words)
    assert answer.code == 0, answer
    found = searched(outputs)
    assert set(found) == {"arm=ce noise=u60", "arm=gce noise=u60"}
    records = [json.loads(path.read_text()) for path in outputs.rglob("record.json")]
    for name, search in found.items():
        assert len(search["trials"]) == 3
        for trial in search["trials"]:
            assert trial["params"].keys() == {"lr", "theta"}
            assert 0.001 <= trial["params"]["lr"] <= 1.0
            mine = [
                r["metrics"]["val/top1"]
                for r in records
                if f"arm={r['arm']}" in name and r["config"]["lr"] == trial["params"]["lr"]
            ]
            assert len(mine) == 2  # one run a seed
            assert trial["objective"] == pytest.approx(sum(mine) / 2)
        assert search["best"]["objective"] == max(trial["objective"] for trial in search["trials"])
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("record.json")}
    again = cli(*words)  # the seeded sampler asks for the same trials
    assert again.out.count(": skipped") == 12
    assert searched(outputs) == found
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("record.json")} == before


def test_a_failing_trial_is_told_and_the_search_goes_on(cli, outputs):
    answer = cli(*SEARCH, "lr=1e38,0.1", "hydra.sweeper.n_trials=4", "optimizer.weight_decay=0")
    (search,) = searched(outputs).values()
    states = {trial["params"]["lr"]: trial["state"] for trial in search["trials"]}
    assert states == {"1e+38": "FAIL", "0.1": "COMPLETE"}
    assert search["best"]["params"] == {"lr": "0.1"}
    assert answer.code == 1
    assert "diverged" in answer.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("seed=0,1",), "nothing to search"),
        (("lr=interval(0.01,0.1)", "seed=int(interval(0,5))"), "never searched"),
        (("lr=interval(0.0,0.1)",), "(0, inf)"),
        (("sed=interval(0,5)",), "seed"),
    ],
)
def test_a_search_that_makes_no_sense_is_one_line(cli, outputs, words, hint):
    answer = cli(*SEARCH, *words)
    assert answer.code == 2, answer
    (line,) = answer.err.strip().splitlines()
    assert hint in line


def test_distributions_follow_what_was_written():
    import optuna
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from hydra_plugins.lossatlas.search import distribution

    words = [
        "a=interval(0.0,2.5)",
        "a=int(interval(1,8))",
        "a=tag(log,interval(0.1,10.0))",
        "a=range(2,9,3)",
        "a=x,y",
    ]
    made = [distribution(optuna, o) for o in OverridesParser.create().parse_overrides(words)]
    kinds = optuna.distributions
    assert made == [
        kinds.FloatDistribution(0.0, 2.5),
        kinds.IntDistribution(1, 8),
        kinds.FloatDistribution(0.1, 10.0, log=True),
        kinds.IntDistribution(2, 8, step=3),
        kinds.CategoricalDistribution(["x", "y"]),
    ]


def test_a_grid_composes_one_job_of_each_kind_before_it_starts(monkeypatch):
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    from hydra_plugins.lossatlas.grid import GridSweeper

    composed = []
    monkeypatch.setattr(BasicSweeper, "validate_batch_is_legal", lambda self, batch: composed.extend(batch))
    batch = [[f"arm={arm}", f"seed={seed}"] for arm in ("ce", "gce") for seed in range(20)]
    GridSweeper(max_batch_size=None).validate_batch_is_legal(batch)
    assert [words[0] for words in composed] == ["arm=ce", "arm=gce"]
