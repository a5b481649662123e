"""Parts of a data set as a data set: classes, rows of each, smaller images; and two data sets as one.

In YAML a view is a node around a declaration, such as conf/data/fashion_mnist_7.yaml:

    defaults: [fashion_mnist@data]          # the declaration as data.data, whose own keys stay what they were
    _target_: lossatlas.data.views.view
    _convert_: all
    name: fashion_mnist_7
    classes: 10                             # of the view: nets read ${data.classes} and ${data.shape}, the view
    shape: [1, 7, 7]                        # refuses others than it has
    pool: 7
    split_seed: ${seed}                     # every seed draws rows of its own; such seeds stack all the same
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from lossatlas.data.augment import make_augment
from lossatlas.data.core import Data, Split
from lossatlas.errors import UserError
from lossatlas.seeding import stream

SPLITS = ("train", "test", "val")
PART = 4096  # images pooled at once


def view(
    data: Data,
    keep: Sequence[int] | None = None,
    relabel: Sequence[int] | None = None,
    rows_per_class: int | None = None,
    imbalance: float | None = None,
    crop: int | None = None,
    pool: int | None = None,
    augment: str | Mapping[str, Any] | None = None,
    split_seed: int = 0,
    name: str | None = None,
    classes: int | None = None,
    shape: Sequence[int] | None = None,
) -> Data:
    """Part of a data set, in this order: classes kept, classes renamed, rows drawn, images cropped, images pooled.

    `rows_per_class` and `imbalance` choose training rows by their true class; fewer rows of a class are among more
    rows of it, and the rows that stay keep their order. Pooled bytes are rounded to bytes. Where the size of images
    changes, a declared mean and deviation of pixels are measured anew, on all training images of `data`.

    Args:
        keep: classes that stay, in their new order: class keep[k] becomes k.
        relabel: the new class of each class (of those kept), such as [0, 0, 1, 1]; new classes are 0 .. max.
        rows_per_class: training rows of each class of the view, >= 1; with `imbalance` of the first class.
        imbalance: rows of the first class over rows of the last, >= 1, geometric between; without `rows_per_class`
            as many rows as there are.
        crop: side of the square in the middle of the images, <= height and width.
        pool: side after average pooling, a divisor of the side before.
        augment: of the view's training images, see `make_augment`; None: that of `data`.
        split_seed: of the rows that are drawn, >= 0; `${seed}` in a config gives every seed its own.
        name: of the view; None: that of `data`.
        classes, shape: what the view must turn out to have, for configs whose nets read them.

    Shapes:
        images (n, C, H, W) -> (n', C, crop, crop) -> (n', C, pool, pool); y and y_clean (n,) -> (n',).

    Raises:
        UserError: a setting that the data cannot meet.

    Example:
        >>> from lossatlas.data import load
        >>> images = load("made", 4, [1, 28, 28], fake=True)
        >>> small = view(images, keep=[3, 1], rows_per_class=20, pool=7)
        >>> small.shape, small.classes, small.train.y.bincount().tolist()
        ((1, 7, 7), 2, [20, 20])
        >>> view(images, rows_per_class=64, imbalance=16).train.y.bincount().tolist()
        [64, 25, 10, 4]
    """
    asked = {
        "keep": keep and list(keep), "relabel": relabel and list(relabel), "rows_per_class": rows_per_class,
        "imbalance": imbalance, "crop": crop, "pool": pool,
    }  # fmt: skip
    _check(data, {**asked, "split_seed": split_seed})
    found = {split: rows for split in SPLITS if (rows := getattr(data, split)) is not None}
    table = _class_table(data.classes, keep, relabel)
    K = data.classes if table is None else int(table.max()) + 1
    if table is not None:
        found = {split: _relabelled(rows, table, f"{data.name}, {split}") for split, rows in found.items()}
    if rows_per_class is not None or imbalance is not None:
        kept = drawn_rows(found["train"].y_clean, K, rows_per_class, imbalance, split_seed)
        found["train"] = _taken(found["train"], kept)
        asked["split_seed"] = split_seed
    scale = {"mean": data.mean, "std": data.std}
    if crop is not None or pool is not None:
        found = {split: replace(rows, x=_resized(rows.x, crop, pool)) for split, rows in found.items()}
        if any(v is not None for v in scale.values()):
            fresh = _pixel_scale(_resized(data.train.x, crop, pool))
            scale = {key: None if v is None else fresh[key] for key, v in scale.items()}
    new_shape = tuple(found["train"].x.shape[1:])
    made = replace(
        data, **found, **scale, name=name or data.name, classes=K, source=f"{data.source}, a view",
        augment=_augment(data, augment, pool, new_shape), digest=_digest(data.digest, asked), _drawn={},
    )  # fmt: skip
    _check_declared(made, classes, shape)
    return made


def union(a: Data, b: Data, apart: bool = False, name: str | None = None) -> Data:
    """The rows of `a` followed by those of `b`, split by split.

    Rows stay as they are: tables that were standardised by their own rows are joined as such (`standardise: false`
    keeps raw numbers). Where images' means and deviations differ, the union has those of all its training pixels.

    Args:
        apart: classes of `b` count on behind those of `a`; otherwise both have the same classes.
        name: of the union; None: both names with a plus.

    Raises:
        UserError: shapes, kinds of numbers, classes or augmentations that do not fit, or one without a `val`.

    Example:
        >>> from lossatlas.data import load
        >>> digits = load("made", 4, [16], fake=True)
        >>> both = union(view(digits, keep=[0, 1]), view(digits, keep=[3]), apart=True)
        >>> both.classes, len(both.train) == int((digits.train.y != 2).sum())
        (3, True)
    """
    _check_pair(a, b, apart)
    shift = a.classes if apart else 0
    joined: dict[str, Any] = {
        split: _joined(getattr(a, split), getattr(b, split), shift)
        for split in SPLITS
        if getattr(a, split) is not None
    }
    mean, std = _joined_scale(a, b)
    settings = {"union": b.digest, "apart": apart}
    return Data(
        name=name or f"{a.name}+{b.name}",
        classes=a.classes + (b.classes if apart else 0),
        **joined,
        mean=mean,
        std=std,
        augment=a.augment,
        source=f"{a.source} and {b.source}",
        digest=_digest(a.digest, settings) if b.digest else "",
    )


def drawn_rows(
    y: Int[Tensor, " n"], classes: int, rows_per_class: int | None, imbalance: float | None, seed: int
) -> Int[Tensor, " m"]:
    """Positions, ascending, of the rows that are drawn of each class; see `view`.

    Raises:
        UserError: a class that has fewer rows than are asked for, or would have none.

    Example:
        >>> drawn_rows(torch.tensor([0, 1, 0, 1]), 2, 1, None, seed=0).shape
        torch.Size([2])
    """
    counts = torch.bincount(y, minlength=classes)
    share = (imbalance or 1.0) ** -(torch.arange(classes, dtype=torch.float64) / max(classes - 1, 1))
    most = (counts / share).min().floor() if rows_per_class is None else float(rows_per_class)
    wanted = (most * share).round().long()
    if (short := (wanted > counts) | (wanted < 1)).any():
        k = int(short.nonzero()[0])
        raise UserError(
            f"a view with rows_per_class={rows_per_class}, imbalance={imbalance} takes {int(wanted[k])} training rows"
            f" of class {k}, which has {int(counts[k])}: change them, or a limit that cut the rows before"
        )
    order = torch.randperm(len(y), generator=stream(seed, "view/rows"))
    by_class = order[torch.argsort(y[order], stable=True)]
    rank = torch.arange(len(y)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return by_class[rank < wanted.repeat_interleave(counts)].sort().values


def _check(data: Data, asked: Mapping[str, Any]) -> None:
    """Refuses settings of a wrong kind, and those that these data cannot have."""
    for key, least in (("rows_per_class", 1), ("crop", 1), ("pool", 1), ("split_seed", 0)):
        value = asked[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UserError(f"{key} of a view must be a whole number >= {least}, got {value!r}")
    ratio = asked["imbalance"]
    if ratio is not None and (
        isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio < float("inf")
    ):
        raise UserError(
            f"imbalance of a view must be a finite number >= 1, first class over last, got {ratio!r}"
        )
    of_classes = [k for k in ("keep", "relabel", "rows_per_class", "imbalance") if asked[k] is not None]
    if of_classes and not data.classes:
        raise UserError(f"{of_classes[0]} of a view needs classes, {data.name} has numbers to be regressed")
    of_images = [k for k in ("crop", "pool") if asked[k] is not None]
    if of_images and len(data.shape) != 3:
        raise UserError(
            f"{of_images[0]} of a view needs images (C, H, W), {data.name} has shape {list(data.shape)}"
        )


def _class_table(
    classes: int, keep: Sequence[int] | None, relabel: Sequence[int] | None
) -> Int[Tensor, " K"] | None:
    """(K,) the new class of each old one, -1 where it is left out; None where all stay."""
    if keep is None and relabel is None:
        return None
    kept = list(range(classes)) if keep is None else list(keep)
    if not kept or not _whole(kept) or len(set(kept)) < len(kept) or not set(kept) <= set(range(classes)):
        raise UserError(f"keep of a view must be different classes of 0..{classes - 1}, got {kept}")
    new = list(range(len(kept))) if relabel is None else list(relabel)
    if not _whole(new) or len(new) != len(kept) or set(new) != set(range(max(new) + 1)):
        raise UserError(
            f"relabel of a view must give each of {len(kept)} classes a new one, all of 0..max in use, got {new}"
        )
    table = torch.full((classes,), -1, dtype=torch.int64)
    table[torch.tensor(kept)] = torch.tensor(new)
    return table


def _whole(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) for v in values)


def _relabelled(rows: Split, table: Int[Tensor, " K"], what: str) -> Split:
    clean = table[rows.y_clean]
    inside = clean >= 0
    y = clean if rows.y is rows.y_clean else table[rows.y]
    if not inside.any():
        raise UserError(f"a view of {what}: no row is of the classes that are kept")
    if (y[inside] < 0).any():
        raise UserError(
            f"a view of {what}: label noise gave kept rows labels of classes that are left out: take noise=u00 or"
            " keep all classes"
        )
    changed = Split(rows.x, y, clean)
    return changed if inside.all() else _taken(changed, inside.nonzero()[:, 0])


def _taken(rows: Split, index: Int[Tensor, " m"]) -> Split:
    y = rows.y[index]
    return Split(rows.x[index], y, y if rows.y is rows.y_clean else rows.y_clean[index])


def _resized(x: Tensor, crop: int | None, pool: int | None) -> Tensor:
    """Cropped to the middle, then averaged over squares; bytes stay bytes."""
    H, W = x.shape[2:]
    if crop is not None:
        if crop > min(H, W):
            raise UserError(f"crop={crop} of a view: the images are {H} x {W}")
        top, left = (H - crop) // 2, (W - crop) // 2
        x = x[:, :, top : top + crop, left : left + crop].contiguous()
    if pool is None:
        return x
    H, W = x.shape[2:]
    if H != W or H % pool:
        raise UserError(
            f"pool={pool} of a view: no divisor of images of {H} x {W}; crop them to a multiple first"
        )
    if x.dtype != torch.uint8:
        return avg_pool2d(x, H // pool)
    return torch.cat([avg_pool2d(part.float(), H // pool).round_().to(torch.uint8) for part in x.split(PART)])


def _pixel_scale(x: Tensor) -> dict[str, Tensor]:
    """Mean and deviation of each channel's pixels in [0, 1], exact sums over their 256 values; 1 where constant."""
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ values
    std = (share * (values - mean[:, None]).square()).sum(1).sqrt()
    return {"mean": mean.float(), "std": torch.where(std > 0, std, 1.0).float()}


def _augment(
    data: Data, what: str | Mapping[str, Any] | None, pool: int | None, shape: tuple[int, ...]
) -> Any:
    if what is not None:
        return make_augment(what, shape)
    if pool is not None and data.augment is not None and data.augment.padding:
        raise UserError(
            f"a view with pool={pool} of augmented images: a shift of {data.augment.padding} pixels is another one on"
            " pooled images; give the view its own `augment`, or none"
        )
    return data.augment


def _digest(digest: str, settings: Mapping[str, Any]) -> str:
    """Of the content and what a view or union makes of it; that of the content where nothing changes it."""
    given = {key: value for key, value in settings.items() if value is not None}
    if not digest or not given:
        return digest
    return hashlib.sha256(json.dumps([digest, given], sort_keys=True).encode()).hexdigest()


def _check_declared(made: Data, classes: int | None, shape: Sequence[int] | None) -> None:
    for key, said, found in (("classes", classes, made.classes), ("shape", shape, made.shape)):
        if said is not None and (tuple(said) if key == "shape" else said) != found:  # type: ignore[arg-type]
            is_ = list(found) if isinstance(found, tuple) else found
            raise UserError(
                f"the view {made.name} has {key} {is_}, its declaration says {said}: write {key}: {is_}"
            )


def _check_pair(a: Data, b: Data, apart: bool) -> None:
    names = f"a union of {a.name} and {b.name}"
    if a.shape != b.shape or a.train.x.dtype != b.train.x.dtype:
        kinds = [f"{list(d.shape)} {str(d.train.x.dtype).removeprefix('torch.')}" for d in (a, b)]
        raise UserError(f"{names} needs samples of one shape and kind, got {kinds[0]} and {kinds[1]}")
    if bool(a.classes) != bool(b.classes) or (not apart and a.classes != b.classes):
        raise UserError(
            f"{names} needs the same classes, got {a.classes} and {b.classes}; with `apart: true` those of the second"
            " count on behind those of the first"
        )
    if apart and not a.classes:
        raise UserError(f"{names}: `apart` needs classes, these have numbers to be regressed")
    if (a.val is None) != (b.val is None):
        raise UserError(f"{names}: one has a validation fold, give both a val_fold or none")
    if a.augment != b.augment:
        raise UserError(f"{names} needs one augmentation, got {a.augment} and {b.augment}")
    if any((getattr(a, key) is None) != (getattr(b, key) is None) for key in ("mean", "std")):
        raise UserError(f"{names}: one declares mean and std of its pixels, the other does not")


def _joined(a: Split, b: Split, shift: int) -> Split:
    clean = torch.cat([a.y_clean, b.y_clean + shift])
    same = a.y is a.y_clean and b.y is b.y_clean
    return Split(torch.cat([a.x, b.x]), clean if same else torch.cat([a.y, b.y + shift]), clean)


def _joined_scale(a: Data, b: Data) -> tuple[Tensor | None, Tensor | None]:
    """Mean and deviation of the pixels of both, from their own and their numbers of rows."""
    if a.mean is None or b.mean is None or a.std is None or b.std is None:
        return a.mean, a.std
    if torch.equal(a.mean, b.mean) and torch.equal(a.std, b.std):
        return a.mean, a.std
    w = len(a.train) / (len(a.train) + len(b.train))
    mean = w * a.mean + (1 - w) * b.mean
    square = w * (a.std**2 + (a.mean - mean) ** 2) + (1 - w) * (b.std**2 + (b.mean - mean) ** 2)
    return mean, square.sqrt()
