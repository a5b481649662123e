"""Several processes: each rank starts from the job's resolved config; one folder and one record per job."""

import json


def test_two_processes_train_one_job(cli, outputs, monkeypatch):
    words = ("experiment=ldr_noisy", "scale=smoke", "arm=ce", "noise=u60", "callbacks.progress=false")
    assert cli(*words).code == 0
    alone = json.loads(next(outputs.rglob("record.json")).read_text())
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(outputs.parent / "two"))
    answer = cli("-m", *words, "trainer=ddp_sim", "seed=0")
    assert answer.code == 0, answer
    (path,) = (outputs.parent / "two").rglob("record.json")
    together = json.loads(path.read_text())
    assert together["device"].startswith("2 x")
    assert together["config_hash"] == alone["config_hash"]
    # the same samples in the same mini-batches; sums of two halves round differently
    assert abs(together["metrics"]["train/loss"] - alone["metrics"]["train/loss"]) < 1e-5
    assert together["metrics"]["test/top5"] == alone["metrics"]["test/top5"]
