"""Cases in which a tool of this kind gives a wrong number without a word; each says what it gave before.

Sections: comparing, units and conditions, a study cut by its reader, protocol and provenance.
"""

import json
import math
import os
import shutil
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


# --- protocol and provenance -------------------------------------------------------------------------------------


def test_a_changed_protocol_is_not_judged(cli, outputs):
    """Before: "reproduced" and "not reproduced" lines about the paper, from generated data at smoke scale."""
    answer = cli("-m", *SMOKE, "arm=ce", "noise=u60", "seed=0")
    assert "not judged: scale=smoke" in answer.out
    assert "robust-uniform" not in answer.out
    folder = next(outputs.glob("ldr_noisy/smoke/_study*"))
    assert json.loads((folder / "verdicts.json").read_text())["verdicts"] == []
    text = (folder / "README.md").read_text()
    assert "Not judged: scale=smoke." in text
    assert "python -m run -m experiment=ldr_noisy scale=smoke" in text  # before: without the overrides
    assert "arm=ce noise=u60 seed=0" in text


def composed(*words):
    from hydra import compose
    from omegaconf import OmegaConf

    from lossatlas.jobs import describe
    from lossatlas.report.stale import _hydra

    with _hydra():
        cfg = compose("config", overrides=list(words), return_hydra_config=True)
        hydra = cfg.hydra
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        job = describe(cfg, hydra)
    return records.Record(
        job.experiment,
        "ldr",
        cfg.arm,
        cfg.seed,
        cfg.scale,
        job.condition,
        config=job.config,
        config_hash=job.config_hash,
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["arm=ce", "noise=u60", "seed=7", "trainer.threads=2", "chunk=10"], ""),
        (["epochs=1"], "epochs=1 (card: 40)"),
        (["limit.train=500"], "limit.train=500"),
        (["optimizer.weight_decay=0.1"], "optimizer.weight_decay=0.1 (card: 0.005)"),
    ],
)
def test_what_differs_from_the_protocol_is_named(words, line):
    from lossatlas.study.protocol import changes

    assert line in changes([composed("experiment=ldr_noisy", *words)])
    assert bool(changes([composed("experiment=ldr_noisy", *words)])) == bool(line)


def test_a_narrower_study_lies_beside_the_fuller(tmp_path):
    """Before: one run with one seed replaced the files of a whole study."""
    from lossatlas import study

    found = runs({("a", "u60"): [0.5, 0.75], ("b", "u60"): [0.25, 0.5]})
    for record in found:
        record.config_hash = f"{record.arm}{record.seed}"
    study.end(found, None, tmp_path / "_study")
    study.end(found[:1], None, tmp_path / "_study")
    assert len(records.from_csv(tmp_path / "_study" / "records.csv")) == 4
    assert len(records.from_csv(tmp_path / "_study_2" / "records.csv")) == 1


def test_evidence_is_of_commits_of_this_history():
    """A commit that no history has cannot be looked up; before: nobody checked."""
    git = ["git", "-C", str(CHECKOUT)]
    asked = subprocess.run([*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
    if asked.returncode != 0 or asked.stdout.strip() != "false":
        pytest.skip("no git history here, or a shallow one")
    commits = {
        (str(path.parent.name), commit.removesuffix("-dirty"))
        for path in (CHECKOUT / "experiments").glob("*/records.csv")
        for commit in records.from_csv(path)["commit"].unique()
        if commit
    }
    assert commits
    lost = {
        (slug, commit)
        for slug, commit in sorted(commits)
        if subprocess.run(
            [*git, "merge-base", "--is-ancestor", commit, "HEAD"], capture_output=True
        ).returncode
    }
    assert not lost


def lines_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def evidence_copy(tmp_path, monkeypatch):
    """A copy of the evidence of a paper whose runs take a second, and a tree that git calls clean."""
    from lossatlas import machine, sweeps

    root = tmp_path / "experiments"
    shutil.copytree(CHECKOUT / "experiments" / "f_distill", root / "f_distill")
    monkeypatch.setattr(sweeps, "experiments_dir", lambda: root)
    monkeypatch.setattr(machine, "experiments_dir", lambda: root)
    monkeypatch.setattr(sweeps, "_tracked_changes", lambda: "")
    return root / "f_distill"


GAUSS = ("-m", "experiment=f_distill_gauss", "hydra/launcher=basic", "arm=rkl", "callbacks.progress=false")


@pytest.mark.parametrize(
    ("words", "dirty", "line"),
    [
        (
            ("seed=0", "rounds=2"),
            False,
            "do not follow the card's protocol (module.rounds=2 (card: 400), rounds=2 (card: 400))",
        ),
        (("seed=0",), True, "1 records are of a tree with uncommitted changes"),
        (("seed=50",), False, "seed 50 is not of the study that f_distill_gauss.yaml plans (seeds 0 to 19)"),
    ],
)
def test_publish_refuses(cli, evidence_copy, monkeypatch, words, dirty, line):
    """Before: such runs were written over the evidence."""
    from lossatlas import runner

    monkeypatch.setattr(runner, "code_version", lambda: ("0" * 40, dirty))
    before = lines_of(evidence_copy)
    answer = cli(*GAUSS, *words, "publish=true")
    assert answer.code == 2, answer
    assert line in answer.err
    assert lines_of(evidence_copy) == before


def test_publish_writes_a_run_of_the_protocol(cli, evidence_copy, monkeypatch):
    """What the refusals let through: a run that repeats a published one replaces its row and changes no number."""
    from lossatlas import runner

    monkeypatch.setattr(runner, "code_version", lambda: ("0" * 40, False))
    before = records.from_csv(evidence_copy / "records.csv")
    answer = cli(*GAUSS, "seed=0", "publish=true")
    assert answer.code == 0, answer
    after = records.from_csv(evidence_copy / "records.csv")
    assert len(after) == len(before)
    new = after["commit"] == "0" * 40
    assert new.sum() == 1
    told = json.loads((evidence_copy / "verdicts.json").read_text())["claims"]
    assert told["at_study"]["f_distill_gauss"] == [told["now"]]


def test_publish_refuses_a_dirty_tree(cli, tmp_path, monkeypatch):
    from lossatlas import sweeps

    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("one")
    room = tree / "experiments" / "a"
    room.mkdir(parents=True)
    for name in ("records.csv", "verdicts.json", "card.yaml"):
        (room / name).write_text("one")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=tree, check=True)
    monkeypatch.setattr(sweeps, "CHECKOUT", tree)
    (tree / "untracked").write_text("no part of the commit")
    assert sweeps._tracked_changes() == ""
    (room / "records.csv").write_text("published by the study before in a queue")
    (room / "verdicts.json").write_text("two")
    assert sweeps._tracked_changes() == ""
    (room / "card.yaml").write_text("two")
    assert sweeps._tracked_changes() == "experiments/a/card.yaml"
    (room / "card.yaml").write_text("one")
    (tree / "file").write_text("two")
    answer = cli(*GAUSS, "seed=0", "publish=true")
    assert answer.code == 2
    assert "needs a clean tree, file differs from its commit" in answer.err


def test_other_data_are_not_judged(cli, outputs):
    """Before: "reproduced" and "not reproduced" about the paper, from another set."""
    words = ("-m", "experiment=comp_sum", "data=ring", "net=mlp", "arm=tau00", "seed=0", "epochs=1")
    answer = cli(*words, "callbacks.progress=false", "hydra/launcher=basic")
    assert answer.code == 0, answer
    assert "not judged: " in answer.out
    (folder,) = outputs.glob("comp_sum/laptop/_study*")
    assert json.loads((folder / "verdicts.json").read_text())["verdicts"] == []


def test_runs_of_one_config_on_two_sets_of_data_are_two():
    """Before: the second replaced the first without a word."""
    first, second = runs({("a", "u60"): [0.5]}), runs({("a", "u60"): [0.75]})
    for record, digest in ((first[0], "one"), (second[0], "two")):
        record.config_hash, record.data_digest = "same", digest
    assert len(records.tidy([*first, *second])) == 2
    second[0].data_digest = "one"
    assert records.tidy([*first, *second])["acc"].tolist() == [0.75]


def test_one_table_holds_one_protocol():
    """Before: n = 25 in ldr's tables (5 dirty seeds beside 20), zloss's command ran other seeds."""
    from lossatlas.study import evidence

    found = 0
    for path in sorted((CHECKOUT / "experiments").glob("*/records.csv")):
        table = records.from_csv(path)
        kept, earlier = evidence.split(table)
        assert earlier.empty, path
        text = (path.parent / "README.md").read_text()
        for name, rows in kept.groupby("experiment"):
            planned, shown = evidence.planned_seeds(name, core=True), evidence.command(name, rows["seed"])
            assert f"\n{shown}\n" in text
            found += planned == set(rows["seed"]) and "seed=" not in shown
    assert found > 15


def test_rows_of_an_earlier_protocol_lie_apart(tmp_path):
    from lossatlas import study

    noise = {("ce", "u60"): [0.5, 0.75], ("aldr_kl", "u60"): [0.25, 0.5]}
    fresh = runs(noise, experiment="ldr_noisy", seeds=[1000, 1001], commit="b" * 40)
    first = runs(noise, experiment="ldr_noisy", commit="a" * 40, dirty=True)
    records.to_csv(records.tidy(first), tmp_path / "records.csv")
    card = CHECKOUT / "experiments" / "ldr" / "card.yaml"
    study.publish(fresh, card, tmp_path)
    assert sorted(set(records.from_csv(tmp_path / "records.csv")["seed"])) == [1000, 1001]
    assert sorted(set(records.from_csv(tmp_path / "records_earlier.csv")["seed"])) == [0, 1]
    text = (tmp_path / "README.md").read_text()
    told = "4 rows of ldr_noisy, seeds 0 to 1, a tree with uncommitted changes; records_earlier.csv"
    assert f"- not counted: {told}" in text
    assert "experiment=ldr_noisy seed=1000,1001\n" in text
    shutil.copy(card, tmp_path / "card.yaml")
    study.refresh(tmp_path)
    assert told in (tmp_path / "README.md").read_text()


def test_claims_edited_after_the_study_are_seen(tmp_path):
    from lossatlas.machine import claims_digest

    path, text = tmp_path / "card.yaml", (CHECKOUT / "experiments" / "ldr" / "card.yaml").read_text()
    digests = []
    for old, new in (
        ("", ""),
        ("notes:", "notes:\n  - another"),
        ("by: 0.005", "by: 0.004"),
        ("n: 20", "n: 19"),
    ):
        path.write_text(text.replace(old, new, 1))
        digests.append(claims_digest(path))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert claims_digest(tmp_path / "none.yaml") == ""


def test_tables_have_the_order_of_the_experiment_file():
    """Before: the order in which jobs ended, in README alphabetical (c30 before u00)."""
    from lossatlas import study

    values = {(a, n): [0.5, 0.75] for a in ("aldr_kl", "mae", "ce") for n in ("c30", "u60", "u00", "u30")}
    for order in (1, -1):
        table = records.tidy(runs(values, experiment="ldr_noisy")[::order])
        shown = study.cells(table, "ldr_noisy", "acc")
        assert shown.head == ["", "u00", "u30", "u60", "c30"]
        assert [row[0] for row in shown.rows] == ["ce", "mae", "aldr_kl"]
