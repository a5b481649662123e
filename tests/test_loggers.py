"""TensorBoard, CSV and W&B hold the same metrics at the same steps; W&B asks nothing and waits for nobody."""

import csv
import http.server
import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from test_resume import at_chunk

SMOKE = ("experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false", "arm=ce", "noise=u60")
EVERY = ("callbacks.checkpoint.every_chunks=1", "callbacks.checkpoint.every_seconds=null")
KEY = "0123456789abcdef" * 2 + "deadbeef"  # of the right form, of nobody


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """A home without a login."""
    from lossatlas import loggers

    loggers._answers.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)


def rows(metrics):
    """{step: {metric: value}} from (step, metrics); the bookkeeping of W&B (_step, _runtime, ...) left out."""
    found: dict = {}
    for step, values in metrics:
        kept = {k: float(v) for k, v in values.items() if not k.startswith("_") and v not in ("", None)}
        assert not found.setdefault(int(step), {}).keys() & kept.keys() - {"epoch"}, "logged twice"
        found[int(step)] |= kept
    return found


def in_csv(folder: Path):
    with (folder / "csv" / "metrics.csv").open() as file:
        return rows((float(row.pop("step")), row) for row in csv.DictReader(file))


def in_tensorboard(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return rows(
        (event.step, {tag: event.value}) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)
    )


def wandb_records(path: Path):
    """The records of an offline file: a log of LevelDB (blocks of 32 KiB, records cut at their ends) of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, last
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def in_wandb(folder: Path):
    """The newest offline folder's history, and what the run says of itself."""
    path = max(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda p: p.stat().st_mtime_ns)
    history: list = []
    run: Any = None
    for record in wandb_records(path):
        if record.HasField("run"):
            run = record.run
        if record.HasField("history"):
            items = record.history.item
            values = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}
            history.append((values.pop("trainer/global_step"), values))
    return rows(history), run


def folder_of(outputs: Path, seed: int = 0) -> Path:
    (folder,) = outputs.glob(f"ldr_noisy/smoke/*-s{seed}-*")
    return folder


def check_equal(folder: Path):
    """All three, and their curves."""
    expected = in_csv(folder)
    assert {"train/loss", "epoch"} <= expected[min(expected)].keys()
    assert "test/top1" in expected[max(expected)]
    for found in (in_tensorboard(folder), in_wandb(folder)[0]):
        assert found.keys() == expected.keys()
        for step, values in expected.items():
            assert found[step] == pytest.approx(values, rel=1e-6), step  # TensorBoard keeps float32
    return expected


def test_all_loggers_hold_the_same_also_after_a_resume(cli, outputs, tmp_path, monkeypatch):
    assert cli(*SMOKE, *EVERY, "logger=many", "epochs=3").code == 0
    whole = check_equal(folder_of(outputs))
    record = json.loads((folder_of(outputs) / "record.json").read_text())
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "cut"))
    with at_chunk(monkeypatch, 10, lambda: signal.raise_signal(signal.SIGINT)):
        assert cli(*SMOKE, *EVERY, "logger=many", "epochs=3").code == 130
    folder = folder_of(tmp_path / "cut")
    (before,) = folder.glob("wandb/offline-run-*")
    answer = cli(*SMOKE, *EVERY, "logger=many", "epochs=3")
    assert answer.code == 0
    assert answer.err == ""
    assert check_equal(folder) == whole
    runs = {path.name.split("-")[-1] for path in folder.glob("wandb/offline-run-*")}
    assert runs == {before.name.split("-")[-1]}  # one W&B run, begun anew
    assert {k: v for k, v in whole[max(whole)].items() if k != "epoch"}.items() <= record["metrics"].items()


def test_a_sweep_is_one_group_of_one_wandb_run_a_job(cli, outputs):
    answer = cli("-m", *SMOKE, "seed=0,1", "logger=wandb")
    assert answer.code == 0
    assert answer.err == ""
    runs = [in_wandb(folder_of(outputs, seed))[1] for seed in (0, 1)]
    assert {run.run_group for run in runs} == {"ldr_noisy-smoke"}
    assert [sorted(run.tags) for run in runs] == [["ce", "ldr_noisy", "noise=u60"]] * 2
    assert len({run.run_id for run in runs}) == 2
    assert [run.display_name for run in runs] == [folder_of(outputs, seed).name for seed in (0, 1)]


def test_a_stacked_sweep_logs_what_single_runs_log(cli, outputs, tmp_path, monkeypatch):
    stacked = ("hydra/launcher=stacked", "hydra.launcher.n_jobs=1", "hydra.launcher.measure=false")
    assert cli("-m", *SMOKE, "seed=0,1", "logger=many", *stacked).code == 0
    together = [check_equal(folder_of(outputs, seed)) for seed in (0, 1)]
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "alone"))
    assert cli(*SMOKE, "seed=1").code == 0
    alone = in_csv(folder_of(tmp_path / "alone", 1))
    assert together[1].keys() == alone.keys()
    for step, values in alone.items():
        assert together[1][step] == pytest.approx(values, abs=1e-5), step


def test_a_key_without_a_network_is_one_line(cli, outputs, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    answer = cli("-m", *SMOKE, "seed=0,1", "logger=wandb")
    assert answer.code == 0, answer
    (line,) = answer.err.strip().splitlines()
    assert line.startswith("lossatlas: W&B goes on offline (http://127.0.0.1:9 does not answer: ")
    assert all("test/top1" in str(in_wandb(folder_of(outputs, seed))[0]) for seed in (0, 1))
    everything = b"".join(path.read_bytes() for path in outputs.rglob("*") if path.is_file())
    assert KEY.encode() not in everything


class Broken(http.server.BaseHTTPRequestHandler):
    """A service that answers everything with an error."""

    def do_HEAD(self):
        self.send_response(500)
        self.end_headers()

    do_GET = do_POST = do_HEAD  # noqa: N815

    def log_message(self, *args):
        pass


def test_a_service_that_fails_is_one_line(cli, outputs, monkeypatch):
    from lossatlas import loggers

    monkeypatch.setattr(loggers, "PATIENCE", 1)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
        answer = cli(*SMOKE, "logger=wandb")
        server.shutdown()
    assert answer.code == 0, answer
    (line,) = answer.err.strip().splitlines()
    assert line.startswith("lossatlas: W&B goes on offline (")
    assert "test/top1" in str(in_wandb(folder_of(outputs))[0])
