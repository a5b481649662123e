"""scripts/studies.py: several studies in one command, what is left, a kill in between, the verdicts at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lossatlas.paths import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "scripts"))
import studies
from studies import Queue, Study

SMOKE = ("scale=smoke", "seed=0", "callbacks.progress=false")


def study(name="a", jobs=10, **more):
    return Study(name, "p", jobs, Path("nowhere"), **more)


def test_what_is_left_by_its_own_pace_the_published_one_or_the_others():
    own = study(ended=4, ran=2, seconds=20.0)  # two were kept
    told = study("b", known=30.0)
    other = study("c", jobs=3)
    queue = Queue([own, told, other], cores=2, clock=lambda: 0.0)
    assert queue.remaining() == 6 * 10 + 10 * 15 + 3 * 10
    assert "0 of 3 done, 19 jobs left, about 4 min, until " in queue.line()
    own.code, told.code = 0, 1
    assert queue.remaining() == 30
    assert "2 of 3 done, 3 jobs left, about 30 s, until " in queue.line()
    assert Queue([study()]).remaining() is None
    assert Queue([study()]).line() == "studies: 0 of 1 done, 10 jobs left"
    other.code = 0
    assert queue.line() == "studies: 3 of 3 done, 0 jobs left"


def test_ends_of_jobs_are_counted_from_their_lines():
    one = study(jobs=4)
    lines = ["[1/4] ce-u60-s0: done test/top1 0.8 (3.2 s)", "[2/4] ce-u60-s1: skipped (kept; rerun=true repeats it)",
             "noise", "[4/4] ce-u60-s3: failed ValueError: x", "[4/4] ce-u60-s2: diverged loss nan"]  # fmt: skip
    assert [studies.note(one, line) for line in lines] == [True, True, False, True, True]
    assert (one.ended, one.ran, one.left) == (4, 3, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["comp_sum_bounds", "comp_sun_bounds"], "experiment=comp_sun_bounds: no such experiment; did you mean"),
        (["comp_sum_bounds", "comp_sum_bounds"], "comp_sum_bounds stands twice"),
        (["comp_sum_bounds", "--grid", "extendet"], "grid=extendet: not in this experiment; did you mean extended?"),
        (["comp_sum_bounds", "arm=tau99"], "arm=tau99 is not in this experiment"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_told_before_anything_starts(outputs, capfd, words, told):
    assert studies.main(words) == 2
    out, err = capfd.readouterr()
    assert told in err
    assert err.count("\n") == 1
    assert not out
    assert not outputs.exists()


def test_jobs_are_counted_with_grid_and_narrowing(outputs):
    whole, narrow = (
        studies.prepare(["comp_sum_bounds"], w, "core")[0] for w in ([], ["arm=tau00,tau05", "seed=0"])
    )
    assert (whole.jobs, narrow.jobs) == (10, 2)
    assert studies.prepare(["comp_sum_bounds"], ["seed=0,1"], "extended")[0].jobs == 6
    assert whole.known is not None
    assert narrow.folder == outputs / "comp_sum_bounds" / "laptop"


def call(outputs, *words):
    command = [
        sys.executable,
        str(CHECKOUT / "scripts" / "studies.py"),
        *words,
        "--launcher",
        "basic",
        *SMOKE,
    ]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT / "src")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.mark.study
def test_two_studies_killed_in_the_first_go_on_and_end_with_verdicts(outputs):
    words = ("comp_sum_bounds", "presto_rare")
    process = call(outputs, *words)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[3/5]"):
            process.kill()
            break
    process.wait()
    bounds = outputs / "comp_sum_bounds" / "smoke"
    until = time.monotonic() + 60
    while time.monotonic() < until and not _free(bounds):
        time.sleep(0.2)
    done = [p for p in bounds.glob("*/record.json") if json.loads(p.read_text())["status"] == "done"]
    assert 3 <= len(done) < 5
    process = call(outputs, *words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count(": skipped ") >= 3
    assert "=== presto_rare: 35 jobs" in out
    tail = out.split("studies: ")[-1]
    assert out.count("not judged: scale=smoke") == 2
    assert [line.split()[:3] for line in tail.splitlines() if "not judged" in line][-2:] == [
        [name, "not", "judged"] for name in words
    ]


def _free(folder):
    """Whether no study below the folder runs any more: every lock can be taken."""
    import fcntl

    for lock in folder.glob("*/.lock"):
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


@pytest.mark.study
def test_a_stop_is_passed_on_and_told(outputs):
    process = call(outputs, "comp_sum_bounds", "samples=20000")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[1/5]"):
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "0 of 1 done" in err
    assert "the same command goes on from here" in err
