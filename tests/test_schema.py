"""Intervals of numeric keys and the nearest name."""

import pytest

from lossatlas.errors import UserError
from lossatlas.schema import check_interval, nearest


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
