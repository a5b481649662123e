"""hydra/launcher=stacked: which jobs share a run, and a study through it against the same study without it."""

import json

import pytest
import yaml
from hydra import compose, initialize_config_dir

from lossatlas.jobs import Job
from lossatlas.paths import conf_dir
from lossatlas.stacked.group import plan

SMOKE = ("-m", "experiment=ldr_noisy", "scale=smoke", "noise=u60", "seed=0,1,2", "callbacks.progress=false")
EPOCHS = {"hl_gauss_plasticity": 3}  # one for each of its targets
STACKED = ("hydra/launcher=stacked", "hydra.launcher.n_jobs=1", "hydra.launcher.measure=false")


def job(seed=0, arm="gce", lr=0.1, q=0.7, noise="u30", tmp=None) -> Job:
    loss = {"_target_": "lossatlas.papers.ldr.GCE", "q": q}
    config = {
        "seed": seed, "arm": arm, "lr": lr, "loss": loss, "optimizer": {"lr": lr, "momentum": 0.9},
        "data": {"name": "letter", "seed": seed, "noise": {"name": noise}}, "epochs": 3,
    }  # fmt: skip
    return Job("ldr_noisy", {"noise": noise}, config, "0", tmp)


def test_jobs_that_differ_in_seed_rate_and_declared_scalars_share_a_run():
    jobs = [job(0), job(1), job(0, lr=0.01), job(0, q=0.05), job(0, noise="u60"), job(0, arm="ce")]
    assert plan(jobs, size=20) == [[0, 1, 2, 3], [4], [5]]


def test_jobs_that_differ_in_declared_settings_of_the_module_share_a_run():
    def playing(seed: int, **settings) -> Job:
        made = job(seed)
        made.config["module"] = {"_target_": "lossatlas.papers.neucb.LitNeuCB", "rounds": 10, **settings}
        return made

    jobs = [playing(0, knob=1.0), playing(1, knob=2.0), playing(1, knob=2.0, pool=2)]
    assert plan(jobs, size=20) == [[0, 1], [2]]


def test_a_seed_that_is_not_the_runs_is_no_seed():
    first, second = job(0), job(1)
    second.config["data"]["split_seed"] = 5
    assert plan([first, second], size=20) == [[0], [1]]


def test_groups_are_cut_to_size_and_for_idle_workers():
    jobs = [job(seed) for seed in range(10)]
    assert [len(group) for group in plan(jobs, size=4)] == [4, 4, 2]
    assert [len(group) for group in plan(jobs, size=20, workers=2)] == [5, 5]
    assert sorted(n for group in plan(jobs, size=3, workers=2) for n in group) == list(range(10))


def records(outputs, arm):
    found = [json.loads(p.read_text()) for p in sorted(outputs.glob(f"ldr_noisy/smoke/{arm}-*/record.json"))]
    return {record["seed"]: record for record in found}


@pytest.mark.parametrize("arm", ["ce", "aldr_kl", "tgce"])
def test_a_stacked_study_leaves_what_single_runs_leave(cli, outputs, tmp_path, monkeypatch, arm):
    answer = cli(*SMOKE, *STACKED, f"arm={arm}")
    assert answer.code == 0, answer
    stacked = records(outputs, arm)
    assert stacked.keys() == {0, 1, 2}
    assert not list(outputs.glob("ldr_noisy/smoke/.stacks/*"))
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "single"))
    assert cli(*SMOKE, f"arm={arm}").code == 0
    for seed, single in records(tmp_path / "single", arm).items():
        mine = stacked[seed]
        assert mine["status"] == "done"
        assert mine["config_hash"] == single["config_hash"]
        assert mine["device"] == "cpu, stack of 3"
        assert mine["extras"].keys() == single["extras"].keys()
        assert mine["metrics"] == pytest.approx(single["metrics"], abs=1e-5)
        folder = f"ldr_noisy/smoke/{arm}-u60-s{seed}-{single['config_hash']}"
        for name in ("curves.csv", "last.ckpt", "config.yaml", "csv/metrics.csv"):
            assert (outputs / folder / name).exists(), name
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(outputs))
    assert cli(*SMOKE, *STACKED, f"arm={arm}").out.count("skipped") == 3


def test_what_cannot_be_stacked_runs_one_after_another_with_a_line(cli, outputs):
    words = ("arm=ce", "seed=0,1", "optimizer._target_=torch.optim.Adafactor", "~optimizer.momentum")
    answer = cli(*SMOKE, *STACKED, *words)
    assert answer.code == 0, answer
    assert "one after another (Adafactor looks at more than one number" in answer.err
    assert {r["device"] for r in records(outputs, "ce").values()} == {"cpu"}


def test_one_diverging_replica_is_recorded_as_such(cli, outputs):
    answer = cli(*SMOKE, *STACKED, "arm=ce", "seed=0", "lr=0.1,1e38", "optimizer.weight_decay=0")
    assert answer.code == 1
    found = [json.loads(p.read_text()) for p in outputs.glob("ldr_noisy/smoke/ce-*/record.json")]
    assert sorted(record["status"] for record in found) == ["diverged", "done"]
    assert "mini-batches" in next(r["error"] for r in found if r["status"] == "diverged")


def test_a_failure_of_the_stack_is_every_replicas(cli, outputs, monkeypatch):
    from lossatlas.stacked.stack import Stack

    def fail(self, index, _):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Stack, "training_step", fail)
    assert cli(*SMOKE, *STACKED, "arm=ce").code == 1
    assert {record["error"] for record in records(outputs, "ce").values()} == {"RuntimeError: out of luck"}


def test_workers_share_the_stacks(cli, outputs):
    answer = cli(
        *SMOKE,
        "arm=ce,mae",
        "hydra/launcher=stacked",
        "hydra.launcher.n_jobs=2",
        "hydra.launcher.measure=false",
    )
    assert answer.code == 0, answer
    assert len(records(outputs, "ce")) == len(records(outputs, "mae")) == 3


def test_bad_sizes_are_refused(cli):
    answer = cli(*SMOKE, "arm=ce", "hydra/launcher=stacked", "hydra.launcher.size=0")
    assert answer.code == 2
    assert "size >= 1" in answer.err


def experiments() -> list[str]:
    """Every experiment at laptop scale, with its own default arm and condition."""
    return sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", experiments())
def test_every_method_says_whether_it_can_and_is_right(cli, outputs, tmp_path, monkeypatch, experiment):
    """Two seeds of each: in a stack as alone, or one after another with a line that says why.

    One epoch, since float32 rounding grows with every step; the tight comparison is in test_stacked.py
    (abs: one of 128 test images).
    """
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        default = compose("config", [f"experiment={experiment}", "scale=smoke"], return_hydra_config=True)
    words = (
        "-m",
        f"experiment={experiment}",
        "scale=smoke",
        f"epochs={EPOCHS.get(experiment, 1)}",
        f"seed=0,{default.get('seeds', 1)}",  # a run of a block of seeds, and the next block
        "logger=none",
    )
    grid = default.hydra.sweeper.params or {}
    path = conf_dir() / "scale" / "smoke" / f"{experiment}.yaml"
    smoke = (
        yaml.safe_load(path.read_text()) if path.is_file() else {}
    )  # -m would replace its sizes by the grid's
    values = {key: default[key] if key in smoke else str(value).split(",")[0] for key, value in grid.items()}
    first = [f"{key}={value}" for key, value in values.items() if key not in ("arm", "seed")]
    arm = f"arm={default.arm}"
    answer = cli(*words, arm, *first, *STACKED)
    assert answer.code == 0, answer

    def found(folder):
        paths = folder.glob(f"{experiment}/smoke/*/record.json")
        return {r["seed"]: r for r in (json.loads(path.read_text()) for path in paths)}

    stacked = found(outputs)
    if "one after another" in answer.err:
        assert {r["device"] for r in stacked.values()} == {"cpu"}
        return
    assert {r["device"] for r in stacked.values()} == {"cpu, stack of 2"}
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "single"))
    assert cli(*words, arm, *first).code == 0
    for seed, single in found(tmp_path / "single").items():
        for mine, theirs in (
            (stacked[seed], single),
            *zip(stacked[seed]["units"], single["units"], strict=True),
        ):
            mine, theirs = ({k: float(v) for k, v in side["metrics"].items()} for side in (mine, theirs))
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-2, nan_ok=True)


def test_rows_drawn_by_the_seed_do_not_hinder_a_stack_and_a_fixed_split_is_one(tmp_path):
    def jobs(*splits):
        return [
            Job("e", {}, {"seed": seed, "data": {"split_seed": split}}, "0", tmp_path)
            for seed, split in splits
        ]

    assert plan(jobs((0, 0), (1, 1), (2, 2)), size=20) == [[0, 1, 2]]  # split_seed: ${seed}
    assert plan(jobs((0, 0), (1, 0), (2, 0)), size=20) == [[0, 1, 2]]  # the same rows for all
    assert plan(jobs((0, 0), (1, 0), (1, 1)), size=20) == [[0, 1], [2]]  # two splits asked for
