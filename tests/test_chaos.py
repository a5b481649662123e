"""scripts/chaos.py: a small dose of it, and that it notices what it is there to notice."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lossatlas import records

SCRIPT = Path(__file__).parents[1] / "scripts" / "chaos.py"


@pytest.fixture
def chaos():
    spec = importlib.util.spec_from_file_location("chaos", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["chaos"]


def done(root: Path, name: str, value: float = 0.5) -> Path:
    """A finished run of a study."""
    folder = root / "ldr_noisy" / "smoke" / name
    records.write(
        records.Record("ldr_noisy", "ldr", "ce", 0, metrics={"test/top1": value}), folder / "record.json"
    )
    (folder / "curves.csv").write_text("epoch\n1\n")
    return folder / "record.json"


def test_it_notices_repeated_lost_and_different_runs(chaos, tmp_path, monkeypatch):
    for name, value in (("a", 0.5), ("b", 0.5), ("c", 0.5)):
        done(tmp_path / "truth", name, value)
    truth = chaos.results(tmp_path / "truth")
    study = chaos.Study(tmp_path / "study", chaos.Tally("test"), tmp_path)
    monkeypatch.setattr(study, "start", lambda: SimpleNamespace(wait=lambda: 0, lines=list))
    done(study.root, "a")
    study.watch()
    assert study.tally.repeated == 0
    path = done(study.root, "a")  # the same results, written again
    done(study.root, "b", 0.5000000000000001)
    study.finish(truth)
    tally = study.tally
    assert (tally.runs, tally.lost, tally.repeated, tally.different) == (3, 1, 1, 1)
    assert tally.faults == ["b differs in metrics"]
    path.write_text(path.read_text()[:-9])
    (path.parent / "last.ckpt").write_bytes(b"half")
    assert study.halves() == [str(path), str(path.parent / "last.ckpt")]


def test_it_notices_an_end_that_is_not_one_line(chaos, tmp_path):
    study = chaos.Study(tmp_path / "study", chaos.Tally("full disk"), tmp_path)
    for code, lines in ((1, ["x"]), (2, ["x", "y"]), (2, ["Traceback (most recent call last):"])):
        study.ended(SimpleNamespace(lines=lambda lines=lines: lines), code, (2,))
    assert [fault.split(":")[0] for fault in study.tally.faults] == [
        "exit code 1", "2 lines instead of one", "a traceback",
    ]  # fmt: skip


@pytest.mark.study
@pytest.mark.timeout(900)
def test_two_kills_and_a_cut_file_change_nothing(tmp_path):
    """Two runs of a second each; most of its time are imports and compositions."""
    doses = {"kills": 2, "cuts": 1, "full": 0, "twice": 0, "denied": 0}
    words = [word for name, number in doses.items() for word in (f"--{name}", str(number))]
    env = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--arm", "ce", *words, "--write", tmp_path / "page.md"],
        env=env, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Faults: none." in (tmp_path / "page.md").read_text()
    assert "| **all** | 3 | 2 | 4 | **0** | **0** | **0** |" in done.stdout
