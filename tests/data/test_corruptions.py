"""Truths of the corruptions: values written out, neutral strengths, ranges, refusals."""

import pytest
import torch
from torch.testing import assert_close

from lossatlas.data.corruptions import CORRUPTIONS, corrupt, smooth_field
from lossatlas.errors import UserError


def images(n: int = 64, side: int = 12, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(n, 1, side, side, dtype=dtype, generator=torch.Generator().manual_seed(0))


def gen(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


NEUTRAL = {
    "gaussian_noise": 0,
    "salt_and_pepper": 0,
    "contrast": 1,
    "brightness": 0,
    "darkness": 1,
    "gamma": 1,
}
NEUTRAL |= {"blur": 1, "pixelation": 1, "fog": 0, "shift": 0}


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_strength_changes_nothing(name):
    x = images()
    assert_close(corrupt(x, name, NEUTRAL[name], gen()), x, atol=1e-15, rtol=0)


STRONG = {"gaussian_noise": 0.3, "shot_noise": 20, "salt_and_pepper": 0.2, "contrast": 2.5, "brightness": 0.4}
STRONG |= {"darkness": 0.5, "gamma": 1.6, "blur": 3, "pixelation": 5, "fog": 0.5, "shift": 2}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_result_is_an_image_and_depends_on_the_generator_alone(name):
    x = images()
    once, again = (corrupt(x, name, STRONG[name], gen()) for _ in range(2))
    assert once.shape == x.shape
    assert 0 <= once.min() <= once.max() <= 1
    assert_close(once, again, atol=0, rtol=0)
    assert not torch.equal(once, x)


def test_formulas():
    x = images(3)
    assert_close(corrupt(x, "darkness", 0.5), x / 2)
    assert_close(corrupt(x, "gamma", 1.6), x.pow(1.6))
    mean = x.mean((1, 2, 3), keepdim=True)
    assert_close(corrupt(x, "contrast", 0.5), (x + mean) / 2)
    moved = corrupt(x, "shift", 2)
    assert_close(moved[..., 2:], x[..., :-2])
    assert (moved[..., :2] == 0).all()
    blurred = corrupt(x, "blur", 3)
    assert_close(blurred[0, 0, 5, 7], x[0, 0, 4:7, 6:9].mean())
    assert_close(
        blurred[0, 0, 0, 0], (4 * x[0, 0, 0, 0] + 2 * x[0, 0, 0, 1] + 2 * x[0, 0, 1, 0] + x[0, 0, 1, 1]) / 9
    )
    blocks = corrupt(x, "pixelation", 5)
    assert_close(blocks[1, 0, 2, 8], x[1, 0, :5, 5:10].mean())
    assert_close(blocks[1, 0, 11, 11], x[1, 0, 10:, 10:].mean())  # the last blocks are smaller


def test_random_ones_have_their_moments():
    grey = torch.full((400, 1, 12, 12), 0.5, dtype=torch.float64)
    noise = corrupt(grey, "gaussian_noise", 0.1, gen()) - grey
    assert abs(noise.std() - 0.1) < 1e-3
    shot = corrupt(grey, "shot_noise", 100, gen())
    assert abs(shot.mean() - 0.5) < 2e-3
    assert abs(shot.var() - 0.5 / 100) < 1e-4  # a Poisson count of mean 50 over 100
    salt = corrupt(grey, "salt_and_pepper", 0.2, gen())
    assert abs((salt == 0).double().mean() - 0.1) < 5e-3
    assert abs((salt == 1).double().mean() - 0.1) < 5e-3
    fog = corrupt(torch.zeros(400, 1, 12, 12), "fog", 0.5, gen())
    assert abs(fog.mean() - 0.25) < 1e-2


def test_smooth_field_is_smooth():
    field = smooth_field(100, 32, 4, gen())
    rough = torch.rand(100, 1, 32, 32, generator=gen())
    assert field.diff(dim=3).abs().mean() < 0.15 * rough.diff(dim=3).abs().mean()
    assert 0 <= field.min() <= field.max() <= 1


@pytest.mark.parametrize(
    ("name", "strength", "line"),
    [
        ("fogg", 1, "fog"),
        ("blur", 2, "take 3"),
        ("blur", 2.5, "whole number"),
        ("fog", 1.5, r"\[0, 1\]"),
        ("gamma", float("nan"), "got nan"),
        ("shift", 12, "leaves nothing"),
    ],
)
def test_refusals(name, strength, line):
    with pytest.raises(UserError, match=line):
        corrupt(images(), name, strength)
