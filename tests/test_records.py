"""Records survive writing and reading, torn files included, and become one tidy table."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lossatlas import records
from lossatlas.errors import UserError
from lossatlas.records import Record


def full(**change):
    fields = {
        "experiment": "ldr_noisy", "paper": "ldr", "arm": "ce", "seed": 3, "condition": {"noise": "u60"},
        "metrics": {"test/top1": 0.5, "loss": math.nan, "worst": math.inf, "best": -math.inf},
        "units": [{"unit": 0, "metrics": {"auc": math.nan}}, {"unit": 1, "metrics": {"auc": 0.7}}],
        "extras": {"hist": np.arange(3), "x": np.float32(0.5), "none": math.nan, "path": os.curdir, "pair": (1, 2)},
        "seconds": 1.5, "peak_mb": 20.0, "device": "cpu", "commit": "abc", "versions": {"torch": "2.10"},
        "config": {"lr": 0.1, "eps": math.inf}, "config_hash": "12345678",
    }  # fmt: skip
    return Record(**{**fields, **change})


def test_round_trip(tmp_path):
    path = tmp_path / "run" / "record.json"
    records.write(full(), path)
    found = records.read(path)
    assert found is not None
    assert math.isnan(found.metrics["loss"])
    assert (found.metrics["worst"], found.metrics["best"]) == (math.inf, -math.inf)
    assert math.isnan(found.units[0]["metrics"]["auc"])
    assert found.extras == {"hist": [0, 1, 2], "x": 0.5, "none": None, "path": ".", "pair": [1, 2]}
    assert found.config == {"lr": 0.1, "eps": "inf"}
    json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN and Infinity are not JSON
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]
    assert path.stat().st_mode & 0o777 == 0o644
    records.write(found, path)
    again = records.read(path)
    assert again is not None
    assert repr(again) == repr(found)


def test_what_is_no_record_reads_as_none(tmp_path):
    path = tmp_path / "record.json"
    records.write(full(), path)
    text = path.read_text()
    assert records.read(tmp_path / "none.json") is None
    for torn in (
        "",
        text[: len(text) // 2],
        "[]",
        "{}",
        text.replace("done", "finished"),
        text.replace('"seed"', '"sed"'),
    ):
        path.write_text(torn)
        assert records.read(path) is None
    path.write_bytes(b"\xff\xfe\x00")
    assert records.read(path) is None


def test_a_field_of_a_later_version_is_ignored(tmp_path):
    records.write(full(), tmp_path / "record.json")
    raw = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps({**raw, "mood": "fine"}))
    assert records.read(tmp_path / "record.json") is not None


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    records.write(full(), path)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="No space left on device"):
        records.write(full(seed=4), path)
    found = records.read(path)
    assert found is not None
    assert found.seed == 3
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    with pytest.raises(TypeError, match="JSON only"):
        records.write(full(extras={"f": len}), path)


def test_read_all(tmp_path):
    for seed in (1, 0):
        records.write(full(seed=seed), tmp_path / f"s{seed}" / "record.json")
    (tmp_path / "s2").mkdir()
    (tmp_path / "s2" / "record.json").write_text("{")
    assert [record.seed for record in records.read_all(tmp_path)] == [0, 1]


@pytest.mark.parametrize("key", ["seed", "status", "unit_id", "extras"])
def test_fixed_columns_are_guarded(tmp_path, key):
    for bad in (
        full(condition={key: "1"}),
        full(metrics={key: 1.0}),
        full(units=[{"unit": 0, "metrics": {key: 1.0}}]),
    ):
        with pytest.raises(UserError, match=f"'{key}' is a column of every record"):
            records.write(bad, tmp_path / "record.json")
        with pytest.raises(UserError, match=key):
            records.tidy([bad])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="a condition or a metric, not both"):
        records.tidy([full(condition={"n": "1"}), full(metrics={"n": 1.0})])
    with pytest.raises(UserError, match="status is one of done, failed, interrupted, diverged, got 'ok'"):
        records.write(full(status="ok"), tmp_path / "record.json")


def test_tidy_has_one_row_per_run_and_unit():
    lost = Record("presto", "presto", "logistic", 0, status="failed", error="boom", dirty=True, commit="abc")
    table = records.tidy([full(), full(units=[], seed=4), lost])
    metrics = ["test/top1", "loss", "worst", "best", "auc"]
    fixed = [*records.HEAD, "noise", *records.MIDDLE, *metrics, *records.TAIL]
    assert list(table.columns) == fixed
    assert (records.condition_columns(table), len(records.metric_columns(table))) == (["noise"], 5)
    assert table["unit"].tolist() == [pd.NA, 0, 1, pd.NA, pd.NA]
    assert table["auc"].isna().tolist() == [True, True, False, True, True]
    assert table["seconds"].sum() == 3.0  # each run once, whatever its number of units
    assert table["noise"].tolist() == ["u60"] * 4 + [""]
    assert table["commit"].tolist()[-1] == "abc-dirty"
    assert json.loads(table["extras"].tolist()[0])["hist"] == [0, 1, 2]
    assert np.isnan(table[records.metric_columns(table)].to_numpy(float)[4]).all()


def test_units_may_have_arm_condition_and_status_of_their_own():
    unit = {"unit": 7, "metrics": {"auc": 0.5}, "arm": "gce", "condition": {"n": 64}, "status": "diverged"}
    row = records.tidy([full(units=[unit], metrics={}, extras={})]).iloc[0]
    assert (row["arm"], row["noise"], row["n"], row["status"], row["seconds"]) == (
        "gce",
        "u60",
        "64",
        "diverged",
        1.5,
    )


def test_csv_round_trip(tmp_path):
    odd = full(
        condition={"noise": "null", "tau": 0.5, "flag": True}, metrics={"test/top1": 0.1 + 0.2}, seed=1000
    )
    table = records.tidy([full(), odd, Record("e", "p", "NA", 1, status="interrupted")])
    records.to_csv(table, tmp_path / "records.csv")
    pd.testing.assert_frame_equal(records.from_csv(tmp_path / "records.csv"), table)
    empty = records.tidy([])
    records.to_csv(empty, tmp_path / "empty.csv")
    assert list(records.from_csv(tmp_path / "empty.csv").columns) == list(empty.columns)


def test_from_csv_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"name a records\.csv"):
        records.from_csv(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="has no column 'experiment'"):
        records.from_csv(tmp_path / "a.csv")
    records.to_csv(records.tidy([full()]), tmp_path / "b.csv")
    text = (tmp_path / "b.csv").read_text()
    (tmp_path / "b.csv").write_text(text.replace(",3,", ",three,"))
    with pytest.raises(UserError, match=r"^[^\n]*cannot be read as a table of records[^\n]*$"):
        records.from_csv(tmp_path / "b.csv")


def test_importing_records_imports_neither_pandas_nor_torch():
    code = "import sys, lossatlas.records; sys.exit(bool({'pandas', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
