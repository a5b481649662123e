"""One run and one study through the CLI, on generated data: records, resuming, skipping, failing."""

import json
import signal

import pytest
import torch

SMOKE = ("experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false")


def record_of(outputs, name="*"):
    (path,) = outputs.glob(f"ldr_noisy/smoke/{name}/record.json")
    return json.loads(path.read_text())


def weights(outputs, name="*"):
    (path,) = outputs.glob(f"ldr_noisy/smoke/{name}/last.ckpt")
    return torch.load(path, weights_only=True)


def test_a_run_leaves_its_whole_record(cli, outputs):
    answer = cli(*SMOKE)
    assert answer.code == 0, answer
    record = record_of(outputs)
    assert record["status"] == "done"
    assert {"test/top1", "test/top5", "train/top1_clean", "lambda/auc"} <= record["metrics"].keys()
    assert record["condition"] == {"noise": "u30"}
    assert record["peak_mb"] > 10
    assert record["config_hash"] in str(next(outputs.glob("ldr_noisy/smoke/*")))
    assert str(record["config"]["seed"]) == "0"
    assert (next(outputs.glob("ldr_noisy/smoke/*")) / "curves.csv").read_text().startswith("epoch,")
    assert "record.json" in answer.out


def test_a_finished_run_is_kept_and_rerun_repeats_it_with_equal_metrics(cli, outputs):
    cli(*SMOKE)
    (path,) = outputs.glob("ldr_noisy/smoke/*/record.json")
    before = path.stat().st_mtime_ns
    assert "kept from an earlier run" in cli(*SMOKE).out
    assert path.stat().st_mtime_ns == before
    first = record_of(outputs)["metrics"]
    assert "kept from an earlier run" not in cli(*SMOKE, "rerun=true").out
    assert path.stat().st_mtime_ns != before
    assert record_of(outputs)["metrics"] == first


@pytest.mark.parametrize("cut", [2, 3, 5, 7], ids=lambda k: f"after chunk {k} of 8")
@pytest.mark.parametrize("arm", ["aldr_kl", "tgce", "ce"])
def test_resumed_equals_uninterrupted_bitwise(cli, outputs, tmp_path, monkeypatch, arm, cut):
    """4 chunks an epoch: cuts in mid-epoch and, after chunk 4, at an epoch's start."""
    words = (
        *SMOKE,
        f"arm={arm}",
        "callbacks.checkpoint.every_chunks=1",
        "callbacks.checkpoint.every_seconds=null",
    )
    cli(*words)
    whole, whole_record = weights(outputs), record_of(outputs)
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "cut"))
    from lossatlas import callbacks

    seen = []

    def stop_at_cut(self, trainer):
        seen.append(1)
        self.stop_signal = signal.SIGINT if len(seen) == cut else None
        return maybe(self, trainer)

    maybe = callbacks.Checkpoints._maybe
    monkeypatch.setattr(callbacks.Checkpoints, "_maybe", stop_at_cut)
    assert cli(*words).code == 130
    assert record_of(tmp_path / "cut")["status"] == "interrupted"
    torch.rand(7)  # somebody else's draws in between
    assert cli(*words).code == 0
    resumed = weights(tmp_path / "cut")
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert record_of(tmp_path / "cut")["metrics"] == whole_record["metrics"]


def test_a_diverging_run_is_recorded_and_named(cli, outputs):
    answer = cli(*SMOKE, "arm=ce", "lr=1e38", "optimizer.weight_decay=0")
    record = record_of(outputs)
    assert record["status"] == "diverged"
    assert "mini-batches" in record["error"]
    assert answer.code == 1
    assert len(answer.err.strip().splitlines()) == 1


def test_a_failing_job_does_not_stop_the_sweep(cli, outputs, monkeypatch):
    from lossatlas.papers.ldr import study

    def fail(self, batch):
        raise RuntimeError("out of luck")

    def step(self, batch):
        return fail(self, batch) if self.seed == 1 else original(self, batch)

    original = study.LitLDR.step
    monkeypatch.setattr(study.LitLDR, "step", step)
    answer = cli("-m", *SMOKE, "arm=ce", "noise=u60", "seed=0,1,2")
    assert answer.code == 1
    states = sorted(
        json.loads(p.read_text())["status"] for p in outputs.glob("ldr_noisy/smoke/ce-*/record.json")
    )
    assert states == ["done", "done", "failed"]
    assert "not judged: scale=smoke" in answer.out  # the study ends all the same
    monkeypatch.undo()


def test_a_study_ends_with_table_verdicts_and_files(cli, outputs):
    answer = cli("-m", *SMOKE, "arm=ce,aldr_kl", "noise=u60", "seed=0,1")
    assert answer.code == 0, answer
    assert "not judged: scale=smoke" in answer.out
    study = outputs / "ldr_noisy" / "smoke" / "_study"
    assert {p.name for p in study.iterdir()} >= {"records.csv", "README.md", "figure.png"}


def test_a_torn_record_is_an_unfinished_run(cli, outputs):
    cli(*SMOKE)
    (path,) = outputs.glob("ldr_noisy/smoke/*/record.json")
    path.write_text(path.read_text()[:100])
    assert "kept from an earlier run" not in cli(*SMOKE).out
    assert record_of(outputs)["status"] == "done"


def test_a_folder_in_use_is_refused(cli, outputs):
    import fcntl

    cli(*SMOKE)
    (folder,) = outputs.glob("ldr_noisy/smoke/*")
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        answer = cli(*SMOKE, "rerun=true")
    assert answer.code == 2
    assert "another process" in answer.err


def test_infrastructure_does_not_change_a_runs_identity(cli, outputs):
    cli(*SMOKE)
    assert "kept from an earlier run" in cli(*SMOKE, "logger=none", "trainer.threads=2").out
    assert "kept from an earlier run" not in cli(*SMOKE, "arms.aldr_kl.alpha=3.0").out
    assert "kept from an earlier run" in cli(*SMOKE, "arms.ce.reduction=mean").out  # another arm's setting


def test_adam_does_not_look_for_a_driver_at_every_step_where_there_is_none(cli, monkeypatch):
    """Lightning's import asks torch to; a step of Adam on a small net then takes three times as long."""
    import torch

    if torch.cuda.device_count():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    assert cli(*SMOKE).code == 0
    monkeypatch.setattr(torch.cuda, "device_count", lambda: pytest.fail("asked again"))
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    torch.optim.Adam([parameter]).step()
