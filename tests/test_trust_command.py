"""Command lines that gave a wrong number, or no word, with exit code 0: what each gave before, and what it gives."""

import csv
import json

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lossatlas.paths import conf_dir

SMOKE = ("experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false", "arm=ce", "noise=u30")


def one_line(answer, *hints: str) -> None:
    """Refused before anything ran."""
    assert answer.code == 2, answer
    lines = [line for line in answer.err.splitlines() if line.strip()]
    assert len(lines) == 1, answer.err
    assert "Traceback" not in answer.err + answer.out
    for hint in hints:
        assert hint in lines[0]


def records(outputs) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(outputs.rglob("record.json"))]


# ---------------------------------------------------------------- 17: nothing trained, exit 0
REFUSED = [
    (("optimizer=none",), ("optimizer", "optimizer=adam")),
    (("loss=ce",), ("loss=ce", "did you mean arm=ce?")),
    (("loss=3",), ("loss=3", "_target_")),
    (("net=[16]",), ("net",)),
    (("optimizer=adamm",), ("optimizer=adamm", "adam")),
    (("optimizer=null",), ("optimizer=null", "none")),
    (("~optimizer",), ("optimizer=none",)),
    (("schedule=cosin",), ("cosine",)),
    (("arms.ce=null",), ("arms.ce=null", "empty")),
    (("arms.ce.reduction=sum",), ("reduction", "none")),
    (("~arms.ce.reduction",), ("one per sample", "reduction: none")),
    (("~optimizer._target_",), ("optimizer", "_target_")),
]


@pytest.mark.parametrize(("words", "hints"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_cannot_train_is_refused_in_one_line(cli, outputs, words, hints):
    """Before: optimizer=adam trained nothing and reported chance with exit code 0; loss=ce and arms.ce=null ended in
    `AssertionError: ` and a failed record; a sum over the
    batch trained at 16 times the rate (test/top1 .195, train/loss 66.5, where the mean gives .383 and 2.79)."""
    one_line(cli(*SMOKE, *words), *hints)
    assert not records(outputs)


def test_a_sum_over_the_batch_is_refused_in_a_stack_too(cli, outputs):
    """Before: trained at b times the rate, exit code 0."""
    answer = cli(
        "-m", *SMOKE, "~arms.ce.reduction", "seed=0,1", "hydra/launcher=stacked", "hydra.launcher.n_jobs=1"
    )
    assert answer.code == 2, answer
    assert "one per sample" in answer.err
    assert not records(outputs)


def composed(*words: str):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", list(words))


@pytest.mark.parametrize(
    ("words", "optimizer", "schedule"),
    [
        (("optimizer=adam",), {"_target_": "torch.optim.Adam", "lr": 0.1}, 0.5),
        (("optimizer=adamw", "lr=0.01"), {"_target_": "torch.optim.AdamW", "lr": 0.01}, 0.5),
        (
            ("optimizer=sgd", "schedule=none"),
            {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
            None,
        ),
        (
            ("optimizer.lr=0.3", "optimizer=sgd"),
            {"_target_": "torch.optim.SGD", "lr": 0.3, "momentum": 0.9},
            0.5,
        ),
    ],
)
def test_a_group_replaces_the_experiments_own_optimizer(words, optimizer, schedule):
    """Before: optimizer=adam was the text 'adam', which no part was built from."""
    cfg = composed(*SMOKE[:2], "arm=ce", *words)
    assert OmegaConf.to_container(cfg.optimizer, resolve=True) == {**optimizer, "_partial_": True}
    assert (cfg.schedule and cfg.schedule["at"][0]) == schedule


def test_schedule_groups_replace_the_experiments_own():
    """Before: schedule=cosine was a text."""
    cfg = composed("experiment=comp_sum", "schedule=step")
    assert "T_max" not in cfg.schedule
    assert composed("experiment=ldr_noisy", "schedule=cosine").schedule._target_.endswith("warmup_cosine")
    assert composed("experiment=ldr_noisy").optimizer.weight_decay == 5e-3  # nothing chosen, nothing changed


def test_another_optimizer_trains_and_its_rate_is_said(cli, outputs):
    """Before: top-1 .0469 (untrained) and exit code 0."""
    answer = cli(*SMOKE, "optimizer=adam", "epochs=3")
    assert answer.code == 0, answer
    assert "lr=0.1" in answer.err
    cli(*SMOKE, "optimizer=adam", "lr=0.003", "epochs=3")
    top1 = {record["config"]["lr"]: record["metrics"]["test/top1"] for record in records(outputs)}
    assert top1[0.003] > 0.15  # of 26 classes


# ---------------------------------------------------------------- 18: keys that nothing reads
UNKNOWN = [
    ("+ckpt_path=X", "resumes by itself"),
    ("+sed=1", "seed"),
    ("++epochz=100", "epochs"),
    ("+optimzer.lr=1", "optimizer"),
    ("+trainer.max_epochs=3", "epochs"),
    ("+callbacks.progres=false", "progress"),
    ("+limits.epoch='[1, 5]'", "epochs"),
    ("trainer.max_epochs=3", "epochs"),
    ("model=mlp", "net"),
    ("trainer.limit_train_batches=3", "trainer_args"),
    ("hydra.run.dir=/tmp/x", "output_root"),
    ("seed=1,2,3", "-m"),
    ("optimizer.nesterov=true", "+optimizer.nesterov"),
]


@pytest.mark.parametrize(("word", "hint"), UNKNOWN, ids=[word for word, _ in UNKNOWN])
def test_a_key_that_nothing_reads_is_refused(cli, outputs, word, hint):
    """Before: +ckpt_path trained from scratch, +sed=1 was seed 0 again, ++epochz=100 trained 2 epochs, all exit 0;
    `epochz=3` was answered with the advice to write +epochz=..."""
    answer = cli(*SMOKE, word)
    one_line(answer, hint)
    assert f"(a new key is written {word}" not in answer.err
    assert not records(outputs)


@pytest.mark.parametrize(
    ("line", "hint"), [("epoch: 50", "epochs"), ("papr: mine", "paper"), ("trainr: {threads: 1}", "trainer")]
)
def test_a_misspelt_key_of_an_experiment_file_is_refused(tmp_path, monkeypatch, line, hint):
    """Before: `epoch: 50` trained 1 epoch, `papr:` belonged to no paper."""
    import shutil

    from lossatlas import command, keys
    from lossatlas.errors import UserError

    shutil.copytree(conf_dir(), tmp_path / "conf")
    path = tmp_path / "conf" / "experiment" / "ldr_noisy.yaml"
    path.write_text(path.read_text() + line + "\n")
    for module in (command, keys):
        monkeypatch.setattr(module, "conf_dir", lambda: tmp_path / "conf")
    with pytest.raises(UserError, match=hint):
        command.check_command(SMOKE)


@pytest.mark.parametrize("word", ["optimizer.lr=0.05", "optimizer=none", "loss=null"])
def test_a_key_whose_reader_a_word_replaced_is_no_error(word):
    from lossatlas.command import check_command

    assert "lr" in check_command([*SMOKE, word])


def test_a_key_that_an_interpolation_uses_is_allowed(cli, outputs):
    answer = cli(*SMOKE, "+decay=1e-4", "optimizer.weight_decay=${decay}", "+notes.why=trial", "epochs=1")
    assert answer.code == 0, answer
    assert records(outputs)[0]["config"]["optimizer"]["weight_decay"] == 1e-4


@pytest.mark.study
def test_every_experiment_file_holds_known_keys_only():
    """Before: paper/f_distill_images was outside its own limits."""
    from lossatlas.keys import unread_keys
    from lossatlas.schema import check

    root = conf_dir() / "experiment"
    for path in root.rglob("*.yaml"):
        cfg = composed(f"experiment={path.relative_to(root).with_suffix('').as_posix()}")
        check(cfg)
        assert not unread_keys(OmegaConf.to_container(cfg, resolve=False))


@pytest.mark.parametrize(
    "words", [("hydra.sweeper.params.arm='ce,focall'",), ("hydra.sweeper.params.noise='u30,u31'",)]
)
def test_a_grid_of_the_file_is_checked_before_its_first_job(cli, outputs, words):
    """Before: `arm: ce,focall` ran half of the study, then refused the other half."""
    one_line(cli("-m", *SMOKE[:3], "seed=0", *words), "is not there")
    assert not outputs.exists()


# ---------------------------------------------------------------- 13: words taken for secrets
@pytest.mark.parametrize(
    "word",
    ["+module.pad_token='\"<pad>\"'", "+notes.key=3", "+notes.attention.key=4", "+notes.label_key=fine_label",
     "+notes.token=the", "+notes.key=superclass_of_cifar100", "+notes.sha=e3b0c44298fc1c149afbf4c8996fb924"],
)  # fmt: skip
def test_ordinary_names_are_no_secrets(word, cli):
    """Before: exit code 2, 'a secret would be written into records and logs'."""
    from lossatlas.command import check_command

    check_command([*SMOKE, word])


def test_what_looks_like_a_secret_is_refused_under_any_name(cli, outputs):
    """Before: `notes.remark=ghp_...` was written into config and record."""
    made = "ghp_" + "aB3dE5gH7jK9" * 3
    for word in (f"+notes.remark={made}", f"+notes.x={'Zq7Xv2Lp9Rt4' * 3}", "+notes.api_key=1234"):
        answer = cli(*SMOKE, word)
        one_line(answer, "environment variable")
        assert made not in answer.err
    assert not outputs.exists()


def test_a_plain_key_stays_in_the_config_and_so_in_the_identity():
    """Before: key=3 and key=4 were both written as '***', one run by their hash."""
    from lossatlas.private import written

    assert written(OmegaConf.create({"a": {"key": 3}})) != written(OmegaConf.create({"a": {"key": 4}}))


# ---------------------------------------------------------------- 10: an error while building
@pytest.mark.parametrize(
    "launcher", [(), ("hydra/launcher=stacked", "hydra.launcher.n_jobs=1")], ids=["basic", "stacked"]
)
def test_a_job_that_cannot_be_built_does_not_end_the_sweep(cli, outputs, launcher):
    """Before: job 2 ended the sweep with two lines, exit code 2, no table."""
    answer = cli("-m", *SMOKE, "epochs=1", "seed=0", "net.hidden=[16],[-1],[8]", *launcher)
    assert answer.code == 1, answer
    assert "negative dimension" in answer.err
    assert sorted(record["config"]["net"]["hidden"] for record in records(outputs)) == [[8], [16]]
    assert "table, figure and README" in answer.out
    assert "1 of 3 jobs" in answer.err


def test_any_exception_in_a_job_is_a_failed_job(cli, outputs, monkeypatch):
    """Before: an exception that was no UserError left Hydra's loop, and the jobs behind it never ran."""
    from lossatlas import runner

    real = runner.build

    def build(cfg, job, quiet):
        if cfg.seed == 1:
            raise AssertionError
        return real(cfg, job, quiet)

    monkeypatch.setattr(runner, "build", build)
    answer = cli("-m", *SMOKE, "epochs=1", "seed=0,1,2")
    assert answer.code == 1, answer
    assert [record["seed"] for record in records(outputs)] == [0, 2]
    assert "failed AssertionError: in test_trust_command.py, line" in answer.out
    assert any("raise AssertionError" in path.read_text() for path in outputs.rglob("error.txt"))


# ---------------------------------------------------------------- 11: schedules of very short runs
@pytest.mark.parametrize(("epochs", "rates"), [(1, [1.0]), (2, [1.0, 0.1]), (4, [1.0, 1.0, 0.1, 0.01])])
def test_a_run_of_one_epoch_has_its_own_rate(epochs, rates):
    """Before: a milestone at 0, so that a run of one epoch had a tenth of its rate from the first step on."""
    import torch

    from lossatlas.schedules import step_decay

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = step_decay(optimizer, epochs, at=[0.5, 0.75])
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(rates)


def test_one_epoch_trains_alike_with_and_without_the_schedule(cli, outputs):
    """Before: test/top1 of epochs=1 differed from that of schedule=none, at a tenth of the rate."""
    cli(*SMOKE, "epochs=1")
    cli(*SMOKE, "epochs=1", "schedule=none")
    first, second = (record["metrics"] for record in records(outputs))
    assert first == second


# ---------------------------------------------------------------- 9: a search without an objective
SEARCH = (
    "-m",
    "scale=smoke",
    "hydra/sweeper=optuna",
    "hydra.sweeper.n_trials=2",
    "callbacks.progress=false",
    "seed=0",
)


def test_a_search_over_squared_errors_minimises_them(cli, outputs):
    """Before: every trial was told to have failed ('no trial of 2 returned an objective'), exit code 0."""
    words = ("experiment=hl_gauss_noise", "arm=mse", "target_noise=u000", "lr=tag(log,interval(1e-4,1e-2))")
    answer = cli(*SEARCH, *words)
    assert answer.code == 0, answer
    found = json.loads(next(outputs.rglob("_search/*.json")).read_text())
    values = [trial["objective"] for trial in found["trials"]]
    assert (found["metric"], found["direction"]) == ("val/mse", "minimize")
    assert found["best"]["objective"] == min(values) < max(values)


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (("experiment=f_distill_gauss", "lr=interval(1e-4,1e-2)"), ("objective.metric=", "test/second_moment")),
        (("experiment=ldr_noisy", "lr=interval(1e-4,1e-2)", "objective.metric=test/top7"), ("did you mean test/top",)),
        (("experiment=ldr_noisy", "lr=interval(1e-4,1e-2)", "objective.metric=lambda/auc", "objective.direction=up"),
         ("minimize",)),
        (("experiment=ldr_noisy", "lr=interval(1e-4,1e-2)", "objective.metric=lambda/mean_clean"),
         ("objective.direction",)),
    ],
)  # fmt: skip
def test_an_objective_is_checked_before_the_first_job(cli, outputs, words, hints):
    """Before: all trials ran, and none had an objective."""
    one_line(cli(*SEARCH, *words), *hints)
    assert not outputs.exists()


def test_a_search_whose_runs_return_no_objective_has_another_exit_code(cli, outputs):
    """Before: exit code 0."""
    words = ("experiment=ldr_noisy", "arm=ce", "noise=u30", "objective.metric=lambda/auc", "epochs=1")
    answer = cli(*SEARCH, *words, "lr=interval(0.01,0.1)")
    assert "no trial of 2 returned lambda/auc" in answer.err
    assert answer.code == 1, answer


def test_the_table_of_published_metrics_names_each_experiments_objective():
    """The metrics that a search is checked against are those of experiments/<paper>/records.csv."""
    from lossatlas.objectives import recorded
    from lossatlas.paths import experiments_dir

    with (experiments_dir() / "hl_gauss" / "records.csv").open() as lines:
        header = next(csv.reader(lines))
    found = recorded("hl_gauss", "hl_gauss_noise")
    assert {"test/mse", "val/mse"} <= set(found) < set(header)
