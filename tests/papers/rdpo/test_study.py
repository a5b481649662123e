"""The rdpo studies through the CLI: resuming, refused input, the figure and the README's paragraphs."""

import json
import signal

import pytest
import torch

from lossatlas import records
from lossatlas.papers.rdpo.figure import details, figure

TEXT = ("experiment=rdpo_text", "scale=smoke", "callbacks.progress=false")
LINEAR = ("experiment=rdpo_loglinear", "scale=smoke", "chunk=1", "callbacks.progress=false")
OFTEN = ("callbacks.checkpoint.every_chunks=1", "callbacks.checkpoint.every_seconds=null", "batch_size=8")


def left(outputs, experiment):
    (folder,) = (path.parent for path in outputs.glob(f"{experiment}/smoke/*/record.json"))
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    return json.loads((folder / "record.json").read_text()), checkpoint["state_dict"]


@pytest.mark.parametrize(("words", "cut"), [(TEXT, 5), (LINEAR, 2)], ids=["text, second epoch", "linear"])
def test_a_resumed_run_equals_an_uninterrupted_one(cli, outputs, tmp_path, monkeypatch, words, cut):
    from lossatlas import callbacks

    name = words[0].removeprefix("experiment=")
    cli(*words, *OFTEN)
    whole, weights = left(outputs, name)
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "cut"))
    seen, maybe = [], callbacks.Checkpoints._maybe

    def stop_at_cut(self, trainer):
        seen.append(1)
        self.stop_signal = signal.SIGINT if len(seen) == cut else None
        return maybe(self, trainer)

    monkeypatch.setattr(callbacks.Checkpoints, "_maybe", stop_at_cut)
    assert cli(*words, *OFTEN).code == 130
    torch.rand(7)  # somebody else's draws in between
    assert cli(*words, *OFTEN).code == 0
    again, resumed = left(tmp_path / "cut", name)
    assert weights.keys() == resumed.keys()
    for key, value in weights.items():
        assert torch.equal(value, resumed[key]), key
    assert again["metrics"] == whole["metrics"]
    assert again["units"] == whole["units"]
    assert again["extras"] == whole["extras"]


def test_arms_start_from_the_same_pairs_and_the_path_starts_at_the_sft_model(cli, outputs):
    found = {}
    for arm in ("dpo", "cdpo"):
        assert cli(*TEXT, f"arm={arm}", "lr=1e-2").code == 0
        (path,) = outputs.glob(f"rdpo_text/smoke/{arm}-*/record.json")
        found[arm] = json.loads(path.read_text())
    first = {arm: record["extras"]["path"] for arm, record in found.items()}
    assert first["dpo"][0] == first["cdpo"][0]
    assert first["dpo"][0][2] == 0  # no KL before the first step
    assert first["dpo"][-1] != first["cdpo"][-1]
    assert first["dpo"][-1][2] > 0
    assert first["dpo"][-1][0] == 4  # two epochs of 24 pairs in batches of 16
    for same in ("sft/reward", "sft/loss", "reward_model/accuracy", "pairs/flipped"):
        assert found["dpo"]["metrics"][same] == found["cdpo"]["metrics"][same]
    assert found["dpo"]["metrics"]["val/reward"] == pytest.approx(
        first["dpo"][-1][1], abs=1e-4
    )  # what tuning goes by
    assert len(found["dpo"]["extras"]["samples"]) == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("eps=0.5",), "eps=0.5: should lie in [0, 0.5)"),
        (("eps=-0.1",), "eps=-0.1: should lie in [0, 0.5)"),
        (("beta=0",), "beta=0: should lie in (0, inf)"),
        (("lr=0",), "lr=0: should lie in (0, inf)"),
        (("module.preferences=EMPTY",), "holds no preference pair"),
        (("module.preferences=EQUAL",), "chosen equals rejected in every pair"),
        (("module.pairs=9999",), "fewer than pairs=9999"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(cli, outputs, tmp_path, words, text):
    row = {"prompt": "Koba", "chosen": "balo", "rejected": "balo"}
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "equal.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    words = [
        w.replace("EMPTY", str(tmp_path / "empty.jsonl")).replace("EQUAL", str(tmp_path / "equal.jsonl"))
        for w in words
    ]
    answer = cli(*TEXT, *words)
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1
    assert text in answer.err
    assert not list(outputs.rglob("record.json"))


def test_a_file_of_preferences_is_trained_on(cli, outputs, tmp_path):
    row = {"prompt": "Koba balo", "chosen": "lope", "rejected": "gupo taro"}
    path = tmp_path / "mine.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 20)
    assert cli(*TEXT, f"module.preferences={path}", "lr=1e-2").code == 0
    record, _ = left(outputs, "rdpo_text")
    assert record["metrics"]["pairs/flipped"] == 0
    assert record["metrics"]["test/kl"] > 0


def test_figure_and_paragraphs_from_records(cli, outputs):
    for words in (TEXT, (*TEXT, "seed=1"), LINEAR, (*LINEAR, "seed=1")):
        assert cli(*words).code == 0
    table = records.tidy(records.read_all(outputs))
    panels = figure(table).axes
    assert [len(ax.get_lines()) > 0 for ax in panels] == [True, True, True, True]
    told = details(table)
    assert "accuracy" in told[0]
    assert told[1].count("| SFT |") == 3
    assert details(table[table["experiment"] == "rdpo_loglinear"]) == []
