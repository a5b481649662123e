"""Cases in which a tool of this kind gives a wrong number without a word; each says what it gave before.

Sections: comparing, units and conditions, a study cut by its reader, protocol and provenance.
"""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
from claim_makers import runs

from lossatlas import compare, records
from lossatlas.paths import CHECKOUT

SMOKE = ("experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false")


# --- comparing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "p"),
    [
        ([0.0] * 5, 1.0),  # before: p = 0
        ([0.25] * 5, 2 / 2**5),  # before: p = 0; five equal signs have that probability
        ([-0.25] * 5, 2 / 2**5),
        ([0.5, -0.5, 0.0, 0.0, 0.0], 1.0),
    ],
)
def test_p_of_equal_differences(shift, p):
    base = [0.5, 0.625, 0.75, 0.375, 0.25]
    values = {("a", "u60"): [b + s for b, s in zip(base, shift, strict=True)], ("b", "u60"): base}
    table = records.tidy(runs(values))
    (row,) = compare.compare(compare.sides([table], "a", "b"), ["acc"])
    assert row.p == pytest.approx(p)
    assert row.test == "paired t"


@pytest.mark.parametrize(("first", "p"), [(0.5, 1.0), (0.75, 2 / math.comb(10, 5))])
def test_p_of_two_constants_in_two_experiments(first, p):
    """Before: p = nan for both."""
    tables = [
        records.tidy(runs({("a", "u60"): [first] * 5}, experiment="one")),
        records.tidy(runs({("b", "u60"): [0.5] * 5}, experiment="two")),
    ]
    (row,) = compare.compare(compare.sides(tables, "one:a", "two:b"), ["acc"])
    assert row.p == pytest.approx(p)


# --- units and conditions ----------------------------------------------------------------------------------------


def conditions(outputs):
    found = {}
    for path in outputs.glob("ldr_noisy/smoke/*/record.json"):
        record = json.loads(path.read_text())
        found.setdefault(record["config_hash"], []).append(record)
    return found


def test_a_key_swept_on_the_command_line_is_a_condition(cli, outputs):
    """Before: one cell `ce`, n = 2, that pooled weight decays of .005 and 5."""
    words = ("-m", *SMOKE, "arm=ce", "noise=u30", "seed=0", "epochs=1", "optimizer.weight_decay=0.005,5.0")
    answer = cli(*words)
    assert answer.code == 0, answer
    table = records.from_csv(next(outputs.glob("ldr_noisy/smoke/_study*/records.csv")))
    assert records.condition_columns(table) == ["noise", "optimizer.weight_decay"]
    assert sorted(table["optimizer.weight_decay"]) == ["0.005", "5.0"]
    assert "n = 1)" in answer.out
    assert "ce-u30-5.0-s0" in answer.out  # the progress line
    text = next(outputs.glob("ldr_noisy/smoke/_study*/README.md")).read_text()
    assert "| 0.005 | 5.0 |" in text
    before = conditions(outputs)
    assert len(before) == 2
    alone = cli(*SMOKE, "arm=ce", "noise=u30", "seed=0", "epochs=1", "optimizer.weight_decay=5.0")
    assert "kept from an earlier run" in alone.out  # the hash is that of the resolved config
    assert conditions(outputs).keys() == before.keys()


@pytest.mark.parametrize(
    ("word", "arm", "keys"),
    [
        ("net.hidden=[16],[8]", "ce", ["net.hidden"]),
        ("+trainer_args.limit_train_batches=1,2", "ce", ["trainer_args.limit_train_batches"]),
        ("epochs=range(1,3)", "ce", ["epochs"]),
        ("net=glob(*)", "ce", ["net"]),
        ("trainer.threads=1,2", "ce", []),  # the same run twice
        ("arms.aldr_kl.alpha=1.0,2.0", "ce", []),
        ("arms.aldr_kl.alpha=1.0,2.0", "aldr_kl", ["arms.aldr_kl.alpha"]),
        ("epochs=3", "ce", []),
    ],
)
def test_which_swept_keys_are_conditions(word, arm, keys):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from lossatlas import jobs, sweeps

    swept = sweeps._swept(OverridesParser.create().parse_overrides([word, "seed=0,1", "arm=ce,mae"]))
    cfg = OmegaConf.create({"arm": arm})
    assert [key for key in swept if jobs._counts(key.split("."), cfg)] == keys


def test_a_seed_that_is_named_twice_is_one_unit(cli, outputs):
    """Before: n = 4 with the interval of four units."""
    answer = cli("-m", *SMOKE, "arm=ce", "noise=u30", "seed=0,0,0,1", "epochs=1")
    assert answer.code == 0, answer
    assert "n = 2)" in answer.out
    assert len(records.from_csv(next(outputs.glob("ldr_noisy/smoke/_study*/records.csv")))) == 2


def test_a_record_that_lies_twice_is_one_row():
    """Before: `compare` refused the pair as "the same run with two configurations"."""
    values = {("a", "u60"): [0.5, 0.75, 0.625], ("b", "u60"): [0.25, 0.375, 0.5]}
    found = runs(values)
    for record in found:
        record.config_hash = f"{record.arm}{record.seed}"
    table = records.tidy([*found, found[0], found[0]])
    assert len(table) == 6
    import pandas as pd

    doubled = pd.concat([table, table.iloc[:2]], ignore_index=True)
    assert len(records.one_row_a_run(doubled)) == 6
    found[0].config_hash = "other"  # really two configurations: both stay, and claims refuse them
    assert len(records.tidy([*found, *runs({("a", "u60"): [0.5]})])) == 7


# --- a study cut by its reader -----------------------------------------------------------------------------------


def test_a_closed_pipe_ends_the_printing_only(tmp_path):
    """Before: 3 of 6 runs and no table after `| head -2`."""
    words = ["-m", "run", "-m", *SMOKE, "arm=ce", "noise=u00,u30,u60", "seed=0,1", "epochs=1"]
    env = os.environ | {"LOSSATLAS_OUTPUTS": str(tmp_path), "PYTHONPATH": str(CHECKOUT / "src")}
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *words], env=env, cwd=tmp_path, stdout=writer, stderr=writer)
    os.close(writer)
    assert done.returncode == 0
    assert len(list(tmp_path.glob("ldr_noisy/smoke/ce-*/record.json"))) == 6
    assert len(records.from_csv(next(tmp_path.glob("ldr_noisy/smoke/_study*/records.csv")))) == 6


def test_seconds_of_a_resumed_run_count_all_processes(cli, outputs, monkeypatch):
    """Before: the second process's seconds only."""
    from lossatlas import callbacks

    words = (
        *SMOKE,
        "arm=ce",
        "callbacks.checkpoint.every_chunks=1",
        "callbacks.checkpoint.every_seconds=null",
    )

    def stop(self, trainer):
        self.begun -= 1000.0  # as if the first process had taken that long
        self.stop_signal = signal.SIGINT
        return maybe(self, trainer)

    maybe = callbacks.Checkpoints._maybe
    monkeypatch.setattr(callbacks.Checkpoints, "_maybe", stop)
    assert cli(*words).code == 130
    monkeypatch.setattr(callbacks.Checkpoints, "_maybe", maybe)
    assert cli(*words).code == 0
    (path,) = outputs.glob("ldr_noisy/smoke/*/record.json")
    assert 1000 < json.loads(path.read_text())["seconds"] < 2000
