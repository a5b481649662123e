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


def test_submitit_local(cli, outputs, flaky):
    check_failures(
        cli, outputs, flaky, ("hydra/launcher=submitit_local", "hydra.launcher.parallel=2"), (0, 1, 2)
    )


def test_ray_on_a_local_cluster(cli, outputs, flaky):
    check_failures(cli, outputs, flaky, ("hydra/launcher=ray", "hydra.launcher.init.num_cpus=2"), (0, 1, 2))
