"""Intervals of numeric keys and the nearest name."""

import pytest
from hydra import compose, initialize_config_dir

from lossatlas.errors import UserError
from lossatlas.keys import nearest
from lossatlas.paths import conf_dir
from lossatlas.schema import check, check_interval


@pytest.mark.parametrize(
    ("value", "interval"),
    [
        (1, "(0, 1]"),
        (0, "[0, inf)"),
        (1e-9, "(0, 1]"),
        (3, "[1, inf) int"),
        (None, "(0, 1)"),
        (-2.5, "(-inf, 0)"),
    ],
)
def test_inside(value, interval):
    check_interval("key", value, interval)


@pytest.mark.parametrize(
    ("value", "interval"),
    [(0, "(0, 1]"), (1.0, "(0, 1)"), (float("nan"), "[0, 1]"), ("0.5", "[0, 1]"), (True, "[0, 1]"),
     (1.0, "[1, inf) int"), (float("inf"), "[0, inf)")],
)  # fmt: skip
def test_outside_names_key_value_and_interval(value, interval):
    with pytest.raises(UserError, match="key=") as caught:
        check_interval("key", value, interval)
    assert interval in str(caught.value)


def test_a_limit_that_is_no_interval_says_how_to_write_one():
    with pytest.raises(UserError, match=r"\(0, 1\]"):
        check_interval("key", 1, "positive")


def test_nearest():
    assert nearest("alrd_kl", ["ce", "aldr_kl"]) == "did you mean aldr_kl?"
    assert nearest("xyz", ["b", "a"]) == "known: a, b"


@pytest.mark.parametrize(
    ("experiment", "word", "says"),
    [
        ("grokking_poly", "setting=alpha3", "setting=alpha3 is not in this experiment; did you mean alpha32"),
        ("zloss_words", "size=medium", "size=medium is not in this experiment; known: large, small, whole"),
        ("isogclr_longtail", "setting=lwo", "setting=lwo is not in this experiment; did you mean low?"),
    ],
)
def test_a_condition_that_is_not_there_is_told_with_those_that_are(experiment, word, says):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", [f"experiment={experiment}", word])
    with pytest.raises(UserError) as caught:
        check(cfg)
    assert str(caught.value).startswith(says)
