"""From a declaration in conf/data to tensors: fetch once, cache, split, standardise, cut, add noise."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas.data.augment import make_augment
from lossatlas.data.cache import Place, cache_path, make_place, read_cache, write_cache
from lossatlas.data.core import Data, Split
from lossatlas.data.fake import fake_table
from lossatlas.data.fetching import check_kinds, fetch_once, first_that_works
from lossatlas.data.noise import check_noise, noisy_labels
from lossatlas.data.sources import KINDS
from lossatlas.data.table import Spec, Table, canonical, check_spec, check_table, digest
from lossatlas.errors import UserError
from lossatlas.seeding import stream

FOLDS = 5
Entries = Sequence[Mapping[str, Any]]


def load(
    name: str,
    classes: int,
    shape: Sequence[int],
    sources: Sequence[Mapping[str, Any]] = (),
    sha256: str | None = None,
    test: int | None = None,
    split_seed: int = 0,
    confusable: Sequence[Sequence[int]] = (),
    limit: Mapping[str, int | None] | None = None,
    fake: bool = False,
    val_fold: int | None = None,
    noise: Mapping[str, Any] | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    mirrors: str | Sequence[str | Path] | None = (),
    labels: Sequence[Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augment: str | Mapping[str, Any] = "none",
) -> Data:
    """A data set in memory; the first source that works is cached and used from then on.

    Order of things: canonical rows, permutation by `split_seed`, test rows, standardisation by the mean and
    deviation of all training rows, noise on all training labels, `limit`, validation fold. So neither a
    limit nor a fold changes a row or a label that stays.

    Args:
        name, classes, shape, sources, sha256, labels: the declaration, see conf/data.
        test: rows of the test split, where the source has no split of its own.
        split_seed: of the permutation, >= 0; the same for every run.
        confusable: pairs that class-dependent noise swaps.
        limit: {train: n, test: n}, rows kept, null keeps all.
        fake: made-up rows of this shape; touches no disk.
        val_fold: 0..4: that fifth of the training rows becomes `val`, its labels noisy like the others.
        noise: {kind, rate} or null; on training labels only.
        seed: of the noise, >= 0.
        root: folder of caches; null means LOSSATLAS_DATA or ~/.cache/lossatlas.
        mirrors: folders in the hub's layout; empty means LOSSATLAS_MIRRORS.
        mean, std: per channel, of pixels in [0, 1].
        augment: of training images: none, crop, flip, flip_crop, two_views, or a mapping, see `make_augment`.

    Raises:
        UserError: a wrong setting, or no source gave the declared rows.

    Example:
        >>> load("toy", 3, [4], fake=True).train.x.shape
        torch.Size([512, 4])
    """
    spec = make_spec(name, classes, shape, sha256, labels)
    keep = _check_settings(limit, val_fold, seed, split_seed)
    rate = (noise or {}).get("rate", 0.0)
    if noise:
        check_noise(noise.get("kind", ""), rate, classes, confusable)
    if fake:
        table, source = fake_table(spec, keep["train"], keep["test"], split_seed), "fake"
    else:
        table, source = fetch(spec, sources, make_place(root, mirrors))
    train, held_out = split_rows(table, test, split_seed)
    (x, y), (x_test, y_test) = _tensors(table, train, held_out)
    given = y
    if noise and rate:
        given = noisy_labels(y, noise["kind"], rate, classes, confusable, stream(seed, "noise"))
    whole = Split(*_cut(keep["train"], x, given, y))
    part, val = _fold(whole, val_fold)
    as_channel = [None if v is None else torch.tensor(list(v), dtype=torch.float32) for v in (mean, std)]
    return Data(
        name=name,
        classes=classes,
        train=part,
        test=Split(*_cut(keep["test"], x_test, y_test, y_test)),
        val=val,
        mean=as_channel[0],
        std=as_channel[1],
        augment=make_augment(augment, spec.shape),
        source=source,
    )


def fetch(
    spec: Spec, sources: Sequence[Mapping[str, Any]], place: Place, refresh: bool = False
) -> tuple[Table, str]:
    """The canonical table and its source's name: from the cache, else from the first source that works.

    Raises:
        UserError: no source worked, or the data folder cannot be written.
    """
    check_kinds(spec.name, sources, list(KINDS))

    def attempt(entry: Mapping[str, Any]) -> Table:
        table = KINDS[entry["kind"]](entry, spec, place)
        check_table(table, spec)
        table = canonical(table)
        if spec.sha256 and (found := digest(table)) != spec.sha256:
            raise ValueError(f"its rows have sha256 {found[:12]}.. instead of {spec.sha256[:12]}..")
        return table

    if sources and all(entry["kind"] == "formula" for entry in sources):
        # generated faster than read, and its arguments may change
        return first_that_works(spec.name, sources, attempt)
    return fetch_once(
        spec.name,
        cache_path(spec, place),
        read=lambda: read_cache(spec, place),
        fresh=lambda damage: first_that_works(spec.name, sources, attempt, damage),
        write=lambda table, source: write_cache(table, source, spec, place),
        rows=lambda table: f"{len(table.y)} rows",
        refresh=refresh,
    )


def split_rows(table: Table, test: int | None, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training and the test split, each in the order of one fixed permutation.

    Raises:
        UserError: neither the source nor `test` says which rows are for testing.
    """
    n = len(table.y)
    order = np.random.default_rng(split_seed).permutation(n)
    if table.part is not None:
        return order[table.part[order] == 0], order[table.part[order] == 1]
    if test is None or not 0 < test < n:
        raise UserError(f"data.test must be a number of rows between 1 and {n - 1}, got {test}")
    return order[:-test], order[-test:]


def _tensors(table: Table, train: np.ndarray, test: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    if table.x.dtype == np.uint8:
        return [(torch.from_numpy(table.x[rows]), torch.from_numpy(table.y[rows])) for rows in (train, test)]
    x = table.x.astype(np.float64)
    mean, std = x[train].mean(0), x[train].std(0)
    x = ((x - mean) / np.where(std > 0, std, 1.0)).astype(np.float32)  # a constant feature becomes 0
    return [(torch.from_numpy(x[rows]), torch.from_numpy(table.y[rows])) for rows in (train, test)]


def _cut(
    rows: int | None, x: torch.Tensor, y: torch.Tensor, y_clean: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    if rows is None or rows >= len(y):
        return x, y, y_clean
    kept = y[:rows].clone()
    return (
        x[:rows].clone(),
        kept,
        kept if y is y_clean else y_clean[:rows].clone(),
    )  # a view would pin all rows


def _fold(whole: Split, val_fold: int | None) -> tuple[Split, Split | None]:
    if val_fold is None:
        return whole, None
    in_fold = torch.arange(len(whole)) % FOLDS == val_fold  # the rows are permuted already

    def rows(mask: torch.Tensor) -> Split:
        y = whole.y[mask]
        return Split(whole.x[mask], y, y if whole.y is whole.y_clean else whole.y_clean[mask])

    return rows(~in_fold), rows(in_fold)


def make_spec(
    name: str, classes: int, shape: Sequence[int], sha256: str | None, labels: Sequence[Any] | None
) -> Spec:
    """A declaration, checked; UserError where it is wrong."""
    names = None if labels is None else tuple(str(v) for v in labels)
    spec = Spec(name, int(classes), tuple(int(s) for s in shape), sha256, names)
    try:
        check_spec(spec)
    except ValueError as error:
        raise UserError(str(error)) from error
    return spec


def _check_settings(
    limit: Mapping[str, int | None] | None, val_fold: int | None, seed: int, split_seed: int
) -> dict[str, int | None]:
    keep = {"train": None, "test": None, **(limit or {})}
    if unknown := set(keep) - {"train", "test"}:
        raise UserError(f"data.limit takes train and test, got {', '.join(sorted(map(str, unknown)))}")
    for key, rows in keep.items():
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
            raise UserError(f"data.limit.{key} must be null or a number of rows >= 1, got {rows!r}")
    if val_fold is not None and (isinstance(val_fold, bool) or val_fold not in range(FOLDS)):
        raise UserError(f"data.val_fold must be null or 0..{FOLDS - 1}, got {val_fold!r}")
    for key, value in (("seed", seed), ("data.split_seed", split_seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UserError(f"{key} must be an integer >= 0, got {value!r}")
    return keep
