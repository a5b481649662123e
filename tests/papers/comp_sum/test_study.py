"""The comp_sum experiments: what they measure, what they refuse, their grids, their figure."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from lossatlas.papers.comp_sum import run_bounds
from lossatlas.papers.comp_sum.figure import figure
from lossatlas.papers.comp_sum.probe import MEASURED
from lossatlas.papers.comp_sum.study import LitBounds

SMOKE = ("scale=smoke", "callbacks.progress=false")


def record(cli, outputs, *words):
    """The record of one run."""
    answer = cli(*SMOKE, *words)
    assert answer.code == 0, answer.err
    (path,) = outputs.glob("*/smoke/*/record.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(("arm", "counted"), [("tau05", True), ("tau10", False), ("tau15", False)])
def test_uses_of_the_continuation_are_a_metric(cli, outputs, arm, counted):
    metrics = record(cli, outputs, "experiment=comp_sum", f"arm={arm}", "limit_exponent=1e-6")["metrics"]
    # with the tangent from g = 2e-6 on, every one of 2 x 256 visits is charged there, or nearly
    assert (450 < metrics["train/continued"] <= 512) if counted else (metrics["train/continued"] == 0)


def test_radius_zero_is_clean_accuracy(cli, outputs):
    metrics = record(cli, outputs, "experiment=comp_sum_adv", "radius=0.0", "epochs=6")["metrics"]
    assert metrics["test/robust"] == metrics["test/top1"] > 0.15


def test_robust_accuracy_is_of_the_first_images_and_of_the_fold(cli, outputs):
    found = record(
        cli,
        outputs,
        "experiment=comp_sum_adv",
        "arm=at_pgd",
        "data.val_fold=0",
        "module.attacked=8",
        "radius=0.01",
    )
    metrics = found["metrics"]
    assert {"val/top1", "val/robust", "test/top1", "test/robust"} <= set(metrics)
    for name in ("val/robust", "test/robust"):
        assert (8 * metrics[name]) == pytest.approx(round(8 * metrics[name]))  # a share of eight images


def test_standardised_images_are_refused(cli):
    answer = cli(*SMOKE, "experiment=comp_sum_adv", "data.mean=[0.286]", "data.std=[0.353]")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "needs images in [0, 1], fashion_mnist comes standardised: set data.mean=null" in answer.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["experiment=comp_sum", "arms.tau10.tau=-0.5"], "loss.tau=-0.5: should lie in [0, inf)"),
        (["experiment=comp_sum_bounds", "arms.tau10.tau=-0.5"], "tau=-0.5: should lie in [0, inf)"),
        (["experiment=comp_sum_bounds", "module.classes=[2,1]"], "the bound needs n >= 2 classes, got n=1"),
        (["experiment=comp_sum_bounds", "module.classes=[]"], "at least one number of classes"),
        (["experiment=comp_sum_adv", "radius=-0.1"], "radius=-0.1: should lie in [0, inf)"),
        (["experiment=comp_sum_adv", "module.restarts=0"], "restarts >= 1, got"),
    ],
)
def test_bad_input_is_one_line(cli, words, told):
    answer = cli(*SMOKE, *words)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert told in answer.err


def test_the_net_standardises_what_the_attack_sees_as_pixels():
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from lossatlas.paths import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        plain, attacked = (
            compose("config", overrides=[f"experiment={name}", "fake=true", "limit={train: 32, test: 16}"])
            for name in ("comp_sum", "comp_sum_adv")
        )
    torch.manual_seed(0)
    net = instantiate(attacked.net)
    four = torch.arange(4)
    pixels, standard = (instantiate(cfg.data).batch("test", four, train=False).x for cfg in (attacked, plain))
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert_close(net(pixels), net[1](standard))


def test_bounds_are_added_up_over_the_numbers_of_classes():
    module = LitBounds(None, tau=0.5, classes=[2, 10], samples=300, starts=4, steps=3, seed=7)
    module.play(torch.tensor([0]))
    module.play(torch.tensor([1]))
    found = [run_bounds(0.5, n, 300, 7, 4, 3) for n in (2, 10)]
    total = module.results()
    assert total["test/pairs"] == 600
    assert total["test/violations"] == total["test/search_violations"] == 0
    assert total["test/max_ratio"] == max(f[k] for f in found for k in ("max_ratio", "search_ratio"))
    assert total["test/tightness"] == min(f["tightness"] for f in found)
    units = module.unit_metrics()
    assert [u["condition"] for u in units] == [{"n": 2}, {"n": 10}]
    assert units[1]["metrics"] == {f"bound/{name}": found[1][name] for name in MEASURED}
    module.found[0, MEASURED.index("violations")] = 3
    assert module.results()["test/violations"] == 3


def test_points_of_the_figure_lie_under_the_bound():
    from lossatlas.papers.comp_sum import gamma_tau

    points = LitBounds(None, tau=0.0, classes=[3], samples=1, starts=1, steps=1).extras()["points"]
    surrogate, zero_one = (torch.tensor(points[k], dtype=torch.float64) for k in ("surrogate", "zero_one"))
    assert 50 < len(surrogate) == len(zero_one) <= 200
    assert (zero_one <= 1.001 * gamma_tau(surrogate, 0.0, points["n"])).all()  # written with 4 digits


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=comp_sum", "arm=tau10", "epochs=1", "limit.train=32"],
        ["experiment=comp_sum_adv", "arm=mart", "epochs=1", "limit.train=32"],
        ["experiment=comp_sum_bounds"],
    ],
    ids=lambda words: words[0],
)
def test_extended_grid_runs(cli, words):
    answer = cli("-m", *SMOKE, "+grid=extended", "seed=0", *words)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("experiment", ["comp_sum", "comp_sum_adv"])
def test_every_arm_is_tuned_by_the_same_number_of_runs(experiment):
    import yaml

    from lossatlas.paths import conf_dir

    cfg = yaml.safe_load((conf_dir() / f"experiment/{experiment}.yaml").read_text())
    runs = {}
    for block in cfg["grids"]["tune"]:
        for arm in block["arm"].split(","):
            here = 1
            for key in ("lr", "price"):
                here *= len(str(block.get(key, "")).split(","))
            runs[arm] = runs.get(arm, 0) + here
    assert set(runs) == set(cfg["arms"])
    assert len(set(runs.values())) == 1


def row(experiment, arm, seed, **metrics):
    base = {
        "experiment": experiment,
        "scale": "laptop",
        "arm": arm,
        "seed": seed,
        "status": "done",
        "extras": "",
    }
    return base | metrics


def test_figure_shows_what_was_run():
    rows = [
        row("comp_sum", arm, s, **{"test/top1": 0.8 + s / 100}) for arm in ("tau00", "tau10") for s in (0, 1)
    ]
    rows += [
        row("comp_sum_adv", arm, s, **{"test/top1": 0.7, "test/robust": 0.5 + s / 100})
        for arm in ("trades", "adv_comp_sum")
        for s in (0, 1)
    ]
    points = {"n": 2, "surrogate": [0.1, 0.9], "zero_one": [0.2, 0.5]}
    rows += [row("comp_sum_bounds", "tau10", 0, extras=json.dumps({"points": points}))]
    left, middle, right = figure(pd.DataFrame(rows)).axes
    drawn = np.asarray(left.lines[0].get_xydata())
    assert drawn.ravel().tolist() == pytest.approx([0.0, 0.805, 1.0, 0.805])
    assert len(middle.lines) == 6  # five curves and one set of points
    assert right.get_legend_handles_labels()[1] == ["adv_comp_sum", "trades"]


def test_figure_of_one_experiment_alone():
    rows = [row("comp_sum", "tau10", s, **{"test/top1": 0.8}) for s in (0, 1)]
    assert len(figure(pd.DataFrame(rows)).axes[0].lines) > 0
