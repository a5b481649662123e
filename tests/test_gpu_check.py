"""scripts/gpu_check.py without a GPU: what it finds, and what it makes of what a run leaves."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import gpu_check


def test_it_finds_the_experiments_of_a_paper_and_refuses_an_unknown_one():
    assert set(gpu_check.experiments(["isogclr"])) == {"isogclr_cifar", "isogclr_longtail", "isogclr_sphere"}
    with pytest.raises(SystemExit, match="no paper 'isogcl'"):
        gpu_check.experiments(["isogcl"])


def record(folder: Path, status: str) -> None:
    folder.mkdir(parents=True)
    content = {"status": status, "peak_mb": 7.0, "device": "H100"}
    (folder / "record.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("status", "code", "state"), [("done", 0, "ok"), ("diverged", 0, "failed"), ("failed", 1, "failed")]
)
def test_a_run_is_ok_only_where_its_record_is_done(tmp_path, status, code, state):
    record(tmp_path / "e" / "run", status)
    assert gpu_check.row_of("smoke", "e", code, 1.0, ["the line"], tmp_path).state == state


def test_a_command_that_refuses_is_told_with_its_line(tmp_path):
    row = gpu_check.row_of("bf16", "e", 2, 1.0, ["", "lossatlas: float32 only", ""], tmp_path)
    assert (row.state, row.says) == ("refused", "lossatlas: float32 only")


def test_without_time_nothing_is_run_and_it_is_said(tmp_path):
    machine = gpu_check.Machine("cpu", tmp_path, ends=0.0)
    rows = list(gpu_check.run_all(machine, "smoke", {"a": [], "b": []}))
    assert [(row.what, row.state) for row in rows] == [("a", "not run"), ("b", "not run")]
    assert gpu_check.tell(rows) == "0 of 2 ok, 2 not run"
