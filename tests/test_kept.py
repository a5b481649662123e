"""What is trained once by a recipe: made once, read by all, anew where damaged, told in the record, listed, removed."""

import multiprocessing
import os
import time

import pytest
import torch

from lossatlas import kept as room
from lossatlas import records
from lossatlas.errors import UserError
from lossatlas.kept import digest, keep, kept
from lossatlas.papers.f_distill import digits


def test_kept_networks_are_made_once_and_anew_where_damaged(tmp_path, capfd):
    calls = []

    def make():
        calls.append(torch.rand(()))  # neither the draw nor the seed below shows outside
        torch.manual_seed(5)
        return {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.float64)}

    before = torch.random.get_rng_state()
    first = kept("net", {"steps": 3}, make, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "not made yet" in capfd.readouterr().err
    again = kept("net", {"steps": 3}, make, tmp_path)
    assert len(calls) == 1
    assert all(torch.equal(first[k], again[k]) for k in first)
    kept("net", {"steps": 4}, make, tmp_path)
    assert len(calls) == 2
    files = sorted((tmp_path / "models").glob("net-*.safetensors"))
    assert len(files) == 2
    for damage in (lambda raw: raw[:-8] + b"\0\0\x80\x3f\0\0\x80\x3f", lambda raw: raw[:20]):
        for path in files:
            path.write_bytes(damage(path.read_bytes()))
        count = len(calls)
        assert torch.equal(kept("net", {"steps": 3}, make, tmp_path)["w"], first["w"])
        kept("net", {"steps": 4}, make, tmp_path)
        assert len(calls) == count + 2
        said = capfd.readouterr().err
        assert "damaged" in said or "unreadable" in said
    assert not list((tmp_path / "models").glob("*.part"))


def _make_slowly(root, marks):
    def make():
        (marks / str(os.getpid())).touch()
        time.sleep(0.5)
        return {"w": torch.ones(2)}

    kept("net", {}, make, root)


def test_one_process_makes_it_others_wait(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_make_slowly, args=(tmp_path, marks)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(list(marks.iterdir())) == 1


def test_a_folder_that_cannot_be_is_said_in_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the data folder"):
        kept("net", {}, dict, tmp_path / "file")


def test_another_runs_product_is_asked_for_by_its_words(tmp_path):
    with pytest.raises(
        UserError, match="not made yet; it comes from another run: run it first with arm=t seed=3"
    ):
        kept("teacher", {"seed": 3}, "arm=t seed=3", tmp_path)
    keep("teacher", {"seed": 3}, {"w": torch.ones(2, requires_grad=True)}, seconds=4.0, root=tmp_path)
    assert torch.equal(kept("teacher", {"seed": 3}, "arm=t seed=3", tmp_path)["w"], torch.ones(2))
    with pytest.raises(UserError, match="not made yet"):
        kept("teacher", {"seed": 4}, "arm=t seed=4", tmp_path)


def test_a_recipe_is_plain_data_and_holds_the_datas_digest(tmp_path):
    with pytest.raises(UserError, match="recipe of net must be plain data"):
        kept("net", {"x": torch.ones(1)}, dict, tmp_path)
    a, b = torch.ones(2, 3), torch.ones(3, 2)
    assert digest(a) == digest(torch.ones(2, 3))
    assert len({digest(a), digest(b), digest(a.double()), digest(a + 1), digest(a, b), digest(b, a)}) == 6


def test_seconds_and_memory_of_a_making_are_told_apart_from_the_runs(tmp_path):
    def slow():
        time.sleep(0.2)
        return {"w": torch.ones(2)}

    room.begin()
    kept("net", {"seed": 0}, slow, tmp_path)
    kept("net", {"seed": 0}, slow, tmp_path)
    (use,) = room.used()
    assert use["made"]
    assert use["file"] == next((tmp_path / "models").glob("*.safetensors")).name
    assert use["seconds"] == pytest.approx(room.spent())
    assert 0.2 <= use["seconds"] < 5
    assert use["peak_mb"] > 10
    room.begin()
    assert room.used() == []
    kept("net", {"seed": 0}, slow, tmp_path)
    assert room.used() == [{**use, "made": False}]
    assert room.spent() == 0


def test_a_record_says_what_was_used_and_the_list_what_nothing_refers_to(tmp_path, capsys):
    room.begin()
    for seed in (0, 1):
        kept("net", {"seed": seed}, lambda: {"w": torch.ones(2)}, tmp_path)
    uses = room.used()
    outputs = tmp_path / "outputs"
    for k in range(2):
        record = records.Record("e", "p", "a", k, kept=uses[:1])
        records.write(record, outputs / f"r{k}" / "record.json")
        assert records.read(outputs / f"r{k}" / "record.json") == record
    (outputs / "torn").mkdir()
    (outputs / "torn" / "record.json").write_text("{")
    (tmp_path / "models" / "cut-0.safetensors").write_bytes(b"torn")
    words = ["--root", str(tmp_path), "--outputs", str(outputs)]
    assert room.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    state = {line.split()[0]: line.split("  ")[-1] for line in lines[:-1]}
    assert state.pop("cut-0.safetensors") == "no record, unreadable"
    assert state == {uses[0]["file"]: "2 records", uses[1]["file"]: "no record"}
    assert lines[-1].startswith("3 files, 3 left in")
    assert room.main([*words[:2], "--outputs", str(tmp_path / "no"), "--remove"]) == 2
    assert room.main([*words, "--remove"]) == 0
    assert [path.name for path in (tmp_path / "models").glob("*.safetensors")] == [uses[0]["file"]]
    assert room.main(["--root", str(tmp_path / "none")]) == 0
    assert "nothing is kept in" in capsys.readouterr().out


def test_a_runs_record_holds_it_and_its_seconds_leave_it_out(cli, outputs, monkeypatch):
    words = ("experiment=f_distill_digits", "scale=smoke", "callbacks.progress=false", "keep=true")
    slow = digits.train_teacher

    def teacher(*args):
        time.sleep(1.0)
        return slow(*args)

    monkeypatch.setattr(digits, "train_teacher", teacher)
    start = time.perf_counter()
    assert cli(*words).code == 0
    took = time.perf_counter() - start
    (first,) = records.read_all(outputs)
    assert [(use["file"].rsplit("-", 1)[0], use["made"]) for use in first.kept] == [
        ("digits-classifier", True), ("digits-teacher", True)]  # fmt: skip
    assert first.kept[1]["seconds"] > 1
    assert first.seconds <= took - sum(use["seconds"] for use in first.kept)
    assert cli(*words, "rerun=true").code == 0
    (second,) = records.read_all(outputs)
    assert second.metrics == first.metrics
    assert [use["made"] for use in second.kept] == [False, False]
