"""Augmentation of whole batches: every sample its own parameters, each as torchvision's per-image transforms."""

import pytest
import torch
from torchvision.transforms.v2 import functional as v2

from lossatlas.data import load
from lossatlas.data.augment import Augment, TwoViews
from lossatlas.errors import UserError


def images(n: int = 300, H: int = 5, W: int = 6) -> torch.Tensor:
    return torch.randint(1, 256, (n, 2, H, W), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def per_image(x: torch.Tensor, augment: Augment, draws: torch.Tensor) -> torch.Tensor:
    """The same parameters through torchvision, one image after another."""
    H, W = x.shape[2:]
    found = []
    for image, top, left, flipped in zip(x, *augment.parameters(draws), strict=True):
        image = v2.crop(v2.pad(image, [augment.padding] * 4), int(top), int(left), H, W)
        found.append(v2.horizontal_flip(image) if flipped else image)
    return torch.stack(found)


@pytest.mark.parametrize("padding", [0, 1, 4, 9])
@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
def test_equals_the_per_image_transforms(padding, flip):
    augment = Augment(padding, flip)
    x = images()
    before, draws = x.clone(), augment.draw(len(x), torch.Generator().manual_seed(1))
    out = augment.apply(x, draws)
    assert out.dtype == torch.uint8
    assert torch.equal(out, per_image(x, augment, draws))
    assert torch.equal(x, before)


def test_every_sample_has_its_own_shift_and_all_are_reached():
    x = images(1).repeat(2000, 1, 1, 1)
    out = Augment(2)(x, torch.Generator().manual_seed(0))
    kinds, counts = torch.unique(out.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 2 * 5 * 5  # flips x shifts
    assert counts.min() > 15  # 40 expected, deviation 6.3


def test_parameters_are_uniform_over_the_shifts():
    top, left, flipped = Augment(4, 0.25).parameters(Augment().draw(90000, torch.Generator().manual_seed(0)))
    for shift in (top, left):
        counts = torch.bincount(shift, minlength=9)
        assert len(counts) == 9
        assert (counts - 10000).abs().max() < 5 * 10000**0.5
    assert abs(float(flipped.float().mean()) - 0.25) < 0.01
    assert (
        torch.corrcoef(torch.stack([top.float(), left.float(), flipped.float()])).triu(1).abs().max() < 0.02
    )


def test_same_generator_same_images_and_parts_equal_the_whole():
    x, augment = images(), Augment()
    whole = augment(x, torch.Generator().manual_seed(3))
    assert torch.equal(augment(x, torch.Generator().manual_seed(3)), whole)
    assert not torch.equal(augment(x, torch.Generator().manual_seed(4)), whole)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(torch.cat([augment(part, generator) for part in x.split(64)]), whole)
    torch.manual_seed(3)
    assert torch.equal(augment(x), whole)  # the global generator


def test_a_batch_goes_on_from_a_saved_state():
    x, generator = images(), torch.Generator().manual_seed(5)
    Augment()(x, generator)
    state = generator.get_state()
    first = Augment()(x, generator)
    generator.set_state(state)
    assert torch.equal(Augment()(x, generator), first)


def toy(**more):
    return load("toy", 3, [3, 8, 8], fake=True, mean=[0.5, 0.4, 0.3], std=[0.2, 0.1, 0.3], **more)


def test_draws_depend_on_seed_epoch_and_sample_alone():
    data, index = toy(augment="flip_crop"), torch.tensor([7, 400, 3])
    first = data.draws(0, 1, index)
    assert first is not None
    data.draws(0, 2, index)
    data.draws(1, 1, index)
    torch.rand(5)  # other draws do not matter
    assert torch.equal(data.draws(0, 1, index.flip(0)), first.flip(0))
    assert torch.equal(toy(augment="flip_crop").draws(0, 1, index[:1]), first[:1])
    assert not torch.equal(data.draws(0, 2, index), first)
    assert not torch.equal(data.draws(1, 1, index), first)
    assert toy().draws(0, 1, index) is None


@pytest.mark.parametrize("size", [16, 100])
@pytest.mark.parametrize("block", [1, 4 * 3 * 8 * 8 * 50, 2**30])
def test_batches_equal_one_batch_in_parts(size, block, monkeypatch):
    monkeypatch.setattr("lossatlas.data.core.BLOCK", block)
    data, index = toy(augment={"padding": 2, "flip": 0.5}), torch.randperm(512)[:250]
    draws = data.draws(0, 0, index)
    whole = data.batch("train", index, train=True, draws=draws)
    parts = list(data.batches("train", index, size, train=True, draws=draws))
    assert [len(part.y) for part in parts] == [len(part) for part in index.split(size)]
    for k in range(3):
        assert torch.equal(torch.cat([part[k] for part in parts]), whole[k])


def test_empty_batch():
    data = toy(augment="crop")
    none = torch.empty(0, dtype=torch.int64)
    assert data.batch("train", none, train=True).x.shape == (0, 3, 8, 8)
    assert list(data.batches("train", none, 4, train=True)) == []


def per_image_views(x, views, draws):
    """The same numbers through torchvision's functions, one view after another, before rounding."""
    found = []
    for image, pair in zip(x, draws, strict=True):
        for row in pair:
            moved = per_image(image[None], Augment(views.padding, views.flip), row[None, :3])[0].float() / 255
            factors = (1 + views.brightness * (2 * row[3] - 1), 1 + views.contrast * (2 * row[4] - 1))
            moved = v2.adjust_brightness(moved, float(factors[0]))
            moved = v2.adjust_contrast(moved, float(factors[1]))
            H, W = image.shape[1:]
            area, ratio = (0.02 + 0.31 * float(row[6])) * H * W, 0.3 ** (2 * float(row[7]) - 1)
            h, w = (int(min(max(round((area * r) ** 0.5), 1), s)) for r, s in ((ratio, H), (1 / ratio, W)))
            i, j = int(row[8] * (H - h + 1)), int(row[9] * (W - w + 1))
            if row[5] < views.erase:
                moved = v2.erase(moved, i, j, h, w, torch.zeros(1))
            found.append(255 * moved)
    return torch.stack(found).view(len(x), 2, *x.shape[1:])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "settings", [{}, {"erase": 1.0, "flip": 0.0}, {"brightness": 1.0, "contrast": 1.0, "erase": 0.0}]
)
def test_two_views_equal_the_per_image_transforms(channels, settings):
    x = torch.randint(0, 256, (60, channels, 12, 10), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    views, before = TwoViews(**settings), x.clone()
    draws = views.draw(len(x), torch.Generator().manual_seed(1))
    out = views.apply(x, draws)
    assert out.shape == (60, 2, channels, 12, 10)
    assert out.dtype == torch.uint8
    # half a grey level of rounding; torchvision's grey weights have four digits
    assert (out.float() - per_image_views(x, views, draws)).abs().max() < 0.55
    assert torch.equal(x, before)
    assert not torch.equal(out[:, 0], out[:, 1])


def test_two_views_alone_equal_shift_and_flip():
    x, views = images(), TwoViews(brightness=0.0, contrast=0.0, erase=0.0)
    draws = views.draw(len(x), torch.Generator().manual_seed(1))
    out = views.apply(x, draws)
    for v in range(2):
        assert torch.equal(out[:, v], Augment().apply(x, draws[:, v, :3]))


def test_erased_share_and_area():
    views = TwoViews(erase=0.25)
    draws = torch.rand(4000, 5, generator=torch.Generator().manual_seed(0))
    share = views.erased(draws, 28, 28).float().mean((1, 2))
    assert abs(float((share > 0).float().mean()) - 0.25) < 0.03
    kept = share[share > 0]
    assert float(kept.min()) > 0.01
    assert float(kept.max()) < 0.36
    assert abs(float(kept.mean()) - 0.175) < 0.015


def test_two_views_of_a_sample_depend_on_seed_epoch_and_sample_alone():
    data, index = toy(augment="two_views"), torch.tensor([7, 400, 3])
    draws = data.draws(0, 1, index)
    whole = data.batch("train", index, train=True, draws=draws)
    assert whole.x.shape == (3, 2, 3, 8, 8)
    parts = list(data.batches("train", index.flip(0), 2, train=True, draws=data.draws(0, 1, index.flip(0))))
    assert torch.equal(torch.cat([part.x for part in parts]).flip(0), whole.x)
    assert not torch.equal(data.draws(0, 2, index), draws)
    assert data.batch("test", index[:1], train=False).x.shape == (1, 3, 8, 8)
    same = toy(augment={"views": 2}).draws(0, 1, index)
    assert torch.equal(same, draws)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"views": 2, "erase": 1.5}, "erase must lie in"),
        ({"views": 2, "contrast": -0.1}, "contrast must lie in"),
        ({"views": 2, "padding": -1}, "padding must be"),
        ({"views": 3}, "views must be 1 or 2, got 3"),
        ({"erase": 0.5}, "takes padding and flip"),
        ("three_views", "two_views"),
    ],
)
def test_refused_views(what, says):
    with pytest.raises(UserError, match=says):
        toy(augment=what)
