"""Views and unions: which rows and pixels they hold, what follows them, what is refused; through the command line."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.testing import assert_close

from lossatlas.data import Data, Split
from lossatlas.data.augment import Augment
from lossatlas.data.views import drawn_rows, union, view
from lossatlas.errors import UserError
from lossatlas.paths import conf_dir


def images(n: int = 120, K: int = 4, side: int = 8, **more) -> Data:
    g = torch.Generator().manual_seed(5)
    parts = []
    for rows in (n, 40):
        y = torch.arange(rows) % K
        parts.append(Split(torch.randint(256, (rows, 2, side, side), generator=g, dtype=torch.uint8), y, y))
    scale = {"mean": torch.tensor([0.1, 0.2]), "std": torch.tensor([0.3, 0.4])}
    return Data("made", K, *parts, **{**scale, "digest": "abc", **more})


def noisy(data: Data) -> Data:
    data.train = Split(data.train.x, (data.train.y + 1) % data.classes, data.train.y)
    return data


# ---------------------------------------------------------------- classes and rows
def test_kept_classes_are_renamed_in_their_order_and_keep_their_rows():
    data = images()
    small = view(data, keep=[3, 1])
    rows = torch.tensor([i for i in range(120) if i % 4 in (1, 3)])
    assert torch.equal(small.train.x, data.train.x[rows])
    assert torch.equal(small.train.y, torch.tensor([{3: 0, 1: 1}[int(i) % 4] for i in rows]))
    assert small.classes == 2
    assert small.train.y is small.train.y_clean
    assert len(small.test) == 20
    assert torch.equal(small.mean, data.mean)


def test_new_labels_are_given_to_true_and_noisy_ones():
    two = view(noisy(images()), relabel=[0, 0, 1, 1])
    clean = torch.arange(120) % 4
    assert torch.equal(two.train.y_clean, clean // 2)
    assert torch.equal(two.train.y, (clean + 1) % 4 // 2)
    assert two.classes == 2
    assert torch.equal(view(images(), keep=[2, 0, 3], relabel=[1, 0, 1]).test.y[:3], torch.tensor([0, 1, 1]))


def test_rows_of_a_class_are_nested_drawn_by_the_seed_and_by_the_true_class():
    data = noisy(images())
    few, more, other = (view(data, rows_per_class=n, split_seed=s) for n, s in ((5, 0), (9, 0), (5, 1)))
    assert few.train.y_clean.bincount().tolist() == [5] * 4
    assert torch.equal(few.train.y, (few.train.y_clean + 1) % 4)
    held = [{bytes(x.numpy().tobytes()) for x in made.train.x} for made in (few, more, other)]
    assert held[0] < held[1]
    assert len(held[0] & held[2]) < 12
    assert torch.equal(few.train.x, view(data, rows_per_class=5).train.x)
    assert few.test is data.test or torch.equal(few.test.x, data.test.x)


def test_rows_are_drawn_uniformly_within_a_class():
    y = torch.arange(12) % 3
    seen = torch.stack([torch.bincount(drawn_rows(y, 3, 2, None, s), minlength=12) for s in range(2000)])
    assert_close(seen.double().mean(0), torch.full((12,), 0.5).double(), atol=0.05, rtol=0)


def test_imbalance_is_geometric_and_takes_as_many_rows_as_there_are():
    assert view(images(), imbalance=8).train.y.bincount().tolist() == [30, 15, 8, 4]
    assert view(images(), imbalance=8, rows_per_class=16).train.y.bincount().tolist() == [16, 8, 4, 2]
    y = torch.tensor([0] * 9 + [1] * 9 + [2] * 2)  # the last class decides: 2 of it, 8 of the first
    assert torch.bincount(y[drawn_rows(y, 3, None, 4.0, 0)]).tolist() == [8, 4, 2]


# ---------------------------------------------------------------- images
def test_pool_is_the_side_after_averaging_and_crop_the_square_in_the_middle():
    data = images()
    small = view(data, crop=4, pool=2)
    x = data.train.x[:, :, 2:6, 2:6].double()
    mean = np.round(x.reshape(120, 2, 2, 2, 2, 2).mean((3, 5)).numpy()).astype(np.uint8)
    assert small.shape == (2, 2, 2)
    assert np.array_equal(small.train.x.numpy(), mean)
    assert small.train.x.dtype == torch.uint8
    assert len(small.test) == len(data.test)


def test_pixels_of_a_smaller_image_come_standardised_by_their_own_mean():
    """With the mean and deviation of the large image they came out with .45 and .9 in place of 0 and 1."""
    small = view(images(), pool=2)
    x = small.batch("train", torch.arange(120), train=False).x
    assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert_close(x.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5, rtol=0)
    drawn = view(images(), pool=2, rows_per_class=3, split_seed=1)
    assert torch.equal(drawn.mean, small.mean)  # of all training images, whatever rows are drawn
    assert view(images(mean=None, std=None), pool=2).mean is None


def test_a_view_draws_augmentations_for_its_own_rows():
    data = images(augment=Augment(padding=0))
    data.draws(0, 0, torch.arange(120))
    few = view(data, rows_per_class=2)
    assert few.draws(0, 0, torch.arange(8)).shape == (8, 3)
    assert torch.equal(few._drawn[0][1], Augment().draw(8, _stream()))
    assert view(images(augment=Augment()), pool=4, augment="flip").augment == Augment(padding=0)
    with pytest.raises(UserError, match="shift of 4 pixels is another one on pooled images"):
        view(images(augment=Augment()), pool=4)


def _stream():
    from lossatlas.seeding import stream

    return stream(0, "augment/0")


def test_the_digest_is_of_the_data_and_of_what_a_view_makes_of_them():
    data = images()
    made = [
        view(data, **how).digest
        for how in (
            {}, {"pool": 4}, {"pool": 2}, {"crop": 4}, {"keep": [0, 1]}, {"keep": [1, 0]}, {"relabel": [0, 0, 1, 1]},
            {"rows_per_class": 3}, {"rows_per_class": 3, "split_seed": 1}, {"imbalance": 2},
        )
    ]  # fmt: skip
    assert made[0] == "abc"
    assert len(set(made)) == len(made)
    assert view(data, pool=4).digest == view(data, pool=4, split_seed=3).digest  # nothing is drawn
    assert view(images(digest="xyz"), pool=4).digest != made[1]
    assert view(images(digest=""), pool=4).digest == ""
    assert len({union(data, data).digest, union(data, data, apart=True).digest, "abc"}) == 3


# ---------------------------------------------------------------- unions
def test_a_union_holds_the_rows_of_both_and_may_keep_their_classes_apart():
    a, b = images(), noisy(images(80))
    both = union(a, b)
    assert torch.equal(both.train.x, torch.cat([a.train.x, b.train.x]))
    assert torch.equal(both.train.y, torch.cat([a.train.y, b.train.y]))
    assert torch.equal(both.train.y_clean, torch.cat([a.train.y, b.train.y_clean]))
    assert (both.classes, len(both.test)) == (4, 80)
    split = union(a, view(b, relabel=[0, 0, 1, 1]), apart=True)
    assert split.classes == 6
    assert split.train.y[120:].unique().tolist() == [4, 5]
    halves = union(view(a, keep=[0, 1]), view(a, keep=[2, 3]), apart=True)
    assert halves.train.y.bincount().tolist() == [30] * 4


def test_a_union_of_other_pixels_has_the_mean_and_deviation_of_all_of_them():
    dark, bright = images(), images(40)
    dark.train.x, bright.train.x = dark.train.x // 4, 255 - bright.train.x // 8
    own = [{"mean": (x := d.train.x.double() / 255).mean((0, 2, 3)).float(),
            "std": x.std((0, 2, 3), correction=0).float()} for d in (dark, bright)]  # fmt: skip
    for data, scale in zip((dark, bright), own, strict=True):
        data.mean, data.std = scale["mean"], scale["std"]
    both = union(dark, bright)
    x = both.batch("train", torch.arange(160), train=False).x
    assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert_close(x.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5, rtol=0)


# ---------------------------------------------------------------- refusals
NUMBERS = Data("n", 0, *[Split(torch.zeros(4, 3), torch.zeros(4), torch.zeros(4))] * 2)
BAD = [
    (lambda: view(images(), pool=3), "pool=3 of a view: no divisor of images of 8 x 8"),
    (lambda: view(images(), pool=16), "pool=16 of a view: no divisor"),
    (lambda: view(images(), crop=9), "crop=9 of a view: the images are 8 x 8"),
    (lambda: view(images(), crop=0), "crop of a view must be a whole number >= 1, got 0"),
    (lambda: view(images(), pool=True), "pool of a view must be a whole number"),
    (lambda: view(images(), split_seed=-1), "split_seed of a view must be a whole number >= 0"),
    (lambda: view(NUMBERS, pool=1), r"needs images \(C, H, W\), n has shape \[3\]"),
    (lambda: view(NUMBERS, rows_per_class=1), "needs classes, n has numbers to be regressed"),
    (lambda: view(images(), keep=[0, 0]), r"different classes of 0..3, got \[0, 0\]"),
    (lambda: view(images(), keep=[]), "different classes of 0..3"),
    (lambda: view(images(), keep=[4]), "different classes of 0..3"),
    (lambda: view(images(), relabel=[0, 2, 0, 2]), "all of 0..max in use"),
    (lambda: view(images(), relabel=[0, 1]), "each of 4 classes"),
    (lambda: view(images(), rows_per_class=31), "takes 31 training rows of class 0, which has 30"),
    (lambda: view(images(), rows_per_class=3, imbalance=100), "takes 0 training rows of class 2"),
    (lambda: view(images(), imbalance=0.5), "finite number >= 1"),
    (lambda: view(images(), imbalance=float("nan")), "finite number >= 1"),
    (lambda: view(noisy(images()), keep=[0, 1]), "label noise gave kept rows labels of classes that are left out"),
    (lambda: view(images(), pool=4, shape=[2, 8, 8]), r"has shape \[2, 4, 4\], its declaration says \[2, 8, 8\]"),
    (lambda: view(images(), keep=[1, 2], classes=4), "has classes 2, its declaration says 4: write classes: 2"),
    (lambda: union(images(), images(side=4)), r"one shape and kind, got \[2, 8, 8\] uint8 and \[2, 4, 4\] uint8"),
    (lambda: union(images(), view(images(), keep=[0])), "the same classes, got 4 and 1; with `apart: true`"),
    (lambda: union(NUMBERS, NUMBERS, apart=True), "`apart` needs classes"),
    (lambda: union(images(), images(augment=Augment())), "one augmentation"),
    (lambda: union(images(), images(mean=None)), "one declares mean and std"),
    (lambda: union(images(), images(val=images().test)), "one has a validation fold"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "says"), BAD)
def test_what_the_data_cannot_meet_is_refused_in_one_line(call, says):
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- from YAML, through the command line
DIGITS = ("experiment=ldr_noisy", "arm=ce", "data=digits", "noise=u00", "scale=smoke", "fake=false", "epochs=2",
          "limit.train=100", "data.split_seed=${seed}", "callbacks.progress=false")  # fmt: skip
STACKED = ("hydra/launcher=stacked", "hydra.launcher.n_jobs=1", "hydra.launcher.measure=false")


def composed(*words: str) -> Data:
    with initialize_config_dir(str(conf_dir()), version_base=None):
        return instantiate(compose("config", list(words)).data)


def records(outputs, pattern: str) -> dict[int, dict]:
    found = [json.loads(path.read_text()) for path in outputs.glob(f"{pattern}/record.json")]
    return {record["seed"]: record for record in found}


def assert_stacks_as_single(cli, outputs, monkeypatch, tmp_path, words, pattern):
    """Two seeds through the stacked launcher: one stack of 2, each as its run alone; returns their metrics."""
    answer = cli("-m", *words, "seed=0,1", *STACKED)
    assert answer.code == 0, answer
    stacked = records(outputs, pattern)
    assert {r["device"] for r in stacked.values()} == {"cpu, stack of 2"}, answer.err
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "single"))
    for seed in (0, 1):
        answer = cli(*words, f"seed={seed}")
        assert answer.code == 0, answer
    single = records(tmp_path / "single", pattern)
    assert single.keys() == stacked.keys() == {0, 1}
    for seed, record in single.items():
        assert record["device"] == "cpu"
        assert record["config_hash"] == stacked[seed]["config_hash"]
        assert stacked[seed]["metrics"] == pytest.approx(record["metrics"], abs=1e-5)
    return {seed: record["metrics"] for seed, record in single.items()}


def test_a_split_seed_that_is_the_seed_draws_rows_by_seed_and_stacks(cli, outputs, monkeypatch, tmp_path):
    """limit.train gave every seed the same rows."""
    made = [composed(*DIGITS, f"seed={seed}") for seed in (0, 1, 1)]
    assert not torch.equal(made[0].train.x, made[1].train.x)
    assert torch.equal(made[1].train.x, made[2].train.x)
    assert [len(data.train) for data in made] == [100] * 3
    metrics = assert_stacks_as_single(cli, outputs, monkeypatch, tmp_path, DIGITS, "ldr_noisy/smoke/ce-*")
    assert metrics[0] != metrics[1]


def test_a_view_in_an_experiment_stacks_though_its_data_have_a_fixed_split(
    cli, outputs, monkeypatch, tmp_path
):
    conf = ("experiment=ldr_noisy", "arm=ce", "data=none", "+data@data.data=digits", "noise=u00", "scale=smoke",
            "fake=false", "epochs=2", "limit.train=null", "limit.test=null", "callbacks.progress=false",
            "+data._target_=lossatlas.data.views.view", "+data._convert_=all", "+data.name=three", "+data.classes=3",
            "+data.shape=[64]", "+data.keep=[1,4,7]", "+data.rows_per_class=20",
            "+data.split_seed=${seed}")  # fmt: skip
    made = [composed(*conf, f"seed={seed}") for seed in (0, 1)]
    assert not torch.equal(made[0].train.x, made[1].train.x)
    assert torch.equal(made[0].test.x, made[1].test.x)  # data.data.split_seed: 0
    assert made[0].digest != made[1].digest
    assert_stacks_as_single(cli, outputs, monkeypatch, tmp_path, conf, "ldr_noisy/smoke/ce-*")


def test_the_declared_view_of_fashion_mnist_and_a_union_of_two_compose():
    words = (
        "data=fashion_mnist_7",
        "fake=true",
        "data.rows_per_class=10",
        "data.keep=[0,6]",
        "data.classes=2",
    )
    data = composed(*words)
    assert (data.name, data.shape, data.classes, len(data.train)) == ("fashion_mnist_7", (1, 7, 7), 2, 20)
    both = composed("data=none", "+data@data.a=mnist", "+data@data.b=fashion_mnist", "fake=true", "+data.apart=true",
                    "+data._target_=lossatlas.data.views.union")  # fmt: skip
    assert both.classes == 20
    assert both.train.y.max() == 19


def test_a_wrong_view_is_one_line_on_the_command_line(cli):
    words = (
        "experiment=ldr_noisy",
        "arm=ce",
        "noise=u00",
        "net=small_conv",
        "data=fashion_mnist_7",
        "scale=smoke",
    )
    answer = cli(*words, "data.pool=5")
    assert answer.code == 2
    assert "data: pool=5 of a view: no divisor of images of 28 x 28" in answer.err
    assert answer.err.count("\n") <= 2


def test_seeds_whose_data_differ_in_size_run_one_after_another(cli, outputs):
    words = ("experiment=ldr_noisy", "arm=ce", "data=none", "+data@data.data=digits", "noise=u00", "scale=smoke",
             "fake=false", "epochs=1", "limit.train=200", "callbacks.progress=false", "data.data.split_seed=${seed}",
             "+data._target_=lossatlas.data.views.view", "+data._convert_=all", "+data.classes=3", "+data.shape=[64]",
             "+data.name=three", "+data.keep=[1,4,7]")  # fmt: skip
    answer = cli("-m", *words, "seed=0,1", *STACKED)
    assert answer.code == 0, answer
    assert "one after another (their data have different numbers of rows)" in answer.err
    assert {r["device"] for r in records(outputs, "ldr_noisy/smoke/ce-*").values()} == {"cpu"}
