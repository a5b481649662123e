"""f-distill on digits: teacher and classifier made once, the student's start, frozen parts, what is measured."""

from dataclasses import asdict

import pytest
import torch
from torch.testing import assert_close

from lossatlas import records
from lossatlas.papers.f_distill import Digits, JensenShannon, LitDistill
from lossatlas.papers.f_distill.digits import digits, new_classifier, train_classifier

TINY = {"teacher_steps": 3, "classifier_steps": 3, "evaluated": 64}


@pytest.fixture
def task(outputs):
    return Digits(**TINY, keep=False)


def test_pixels_are_scikit_learns():
    x, y = digits()
    assert (x.shape, y.shape) == ((1797, 64), (1797,))
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    assert float(x.std()) == pytest.approx(0.75, abs=0.01)


def test_student_and_fake_score_start_as_the_teacher(task):
    run = LitDistill(divergence=JensenShannon(), task=task, sigma=(0.1, 1.0), rounds=2, batch_size=8)
    x, sigma = torch.randn(1, 5, 64), torch.rand(1, 5, 1) + 0.1
    assert_close(run.fake(x, sigma), task.teacher(x, sigma))
    assert not run.difference(x, x, sigma).any()
    z = torch.randn(1, 5, 64)
    assert_close(run.generator(z), task.teacher(2.5 * z, torch.full((1, 5, 1), 2.5)))
    assert_close(task.denoise(x.expand(3, 5, 64), sigma.expand(3, 5, 1))[2:], task.teacher(x, sigma))


def test_the_teacher_stays_as_it_is_and_is_shared_by_a_stack(task):
    runs = [
        LitDistill(divergence=JensenShannon(), task=task, seed=s, sigma=(0.1, 1.0), rounds=3, batch_size=8)
        for s in (0, 1)
    ]
    whole = LitDistill.stack(runs)
    before = [p.clone() for p in whole.task.parameters()]
    whole.play(torch.arange(3))
    assert all(torch.equal(a, b) for a, b in zip(before, whole.task.parameters(), strict=True))
    assert all(p.grad is None and len(p) != 2 for p in whole.task.teacher.parameters())
    assert {len(p) for p in whole.generator.parameters()} == {2}
    alone = LitDistill(
        divergence=JensenShannon(), task=task, seed=1, sigma=(0.1, 1.0), rounds=3, batch_size=8
    )
    alone.play(torch.arange(3))
    assert_close(whole.samples()[1], alone.samples()[0], rtol=1e-3, atol=1e-4)


def test_both_networks_are_kept_by_their_recipes(outputs, monkeypatch):
    first = Digits(**TINY)
    monkeypatch.setattr("lossatlas.papers.f_distill.digits.train_teacher", None)  # must not be called again
    again = Digits(**TINY)
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(TypeError):
        Digits(**{**TINY, "teacher_steps": 4})


def test_what_is_measured(outputs):
    task = Digits(teacher_steps=1, classifier_steps=60, keep=False)
    assert float((task.classifier(task.images).argmax(1) == digits()[1]).float().mean()) > 0.95
    same = task.measure(task.images)
    assert same == pytest.approx({"recall": 1.0, "precision": 1.0, "feature_distance": 0.0}, abs=1e-5)
    zeros = task.measure(task.images[digits()[1] == 0])
    assert zeros["recall"] < 0.3
    assert zeros["precision"] > 0.95
    assert zeros["feature_distance"] > 1
    assert task.shown(torch.tensor([[-1.0] * 32 + [1.0] * 32])) == "0" * 32 + "f" * 32


def test_training_is_the_same_every_time():
    x, y = digits()
    one, other = train_classifier(x, y, 3), train_classifier(x, y, 3)
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert new_classifier()[0].weight.shape == (128, 64)


@pytest.mark.parametrize("wrong", [{"teacher_steps": 0}, {"sigma_init": 0.0}, {"evaluated": 1798}])
def test_refused(wrong):
    with pytest.raises(ValueError, match="Digits needs"):
        Digits(**{**TINY, **wrong}, keep=False)


def test_a_smoke_run_leaves_no_file_behind_and_its_samples_in_the_record(cli, outputs):
    assert cli("experiment=f_distill_digits", "scale=smoke", "callbacks.progress=false").code == 0
    (record,) = [asdict(records.read(p)) for p in outputs.glob("*/smoke/*/record.json")]  # type: ignore[arg-type]
    assert len(record["extras"]["samples"]) == 24 * 64
    assert set(record["metrics"]) >= {"test/recall", "test/precision", "test/feature_distance"}
    assert not (outputs.parent / "data").exists()


def test_one_step_on_the_images_of_a_data_set(cli, outputs):
    answer = cli("experiment=paper/f_distill_images", "scale=smoke", "callbacks.progress=false")
    assert answer.code == 0, answer.err
    (record,) = [asdict(records.read(p)) for p in outputs.rglob("record.json")]  # type: ignore[arg-type]
    assert record["extras"]["samples"] == ""
    assert record["config"]["module"]["n_fake"] == 5
