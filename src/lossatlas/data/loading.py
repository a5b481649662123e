"""From a declaration in conf/data to tensors: fetch once, cache, split, standardise, cut, add noise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossatlas.data.augment import make_augment
from lossatlas.data.cache import Place, cache_path, cached_digest, make_place, read_cache, say, write_cache
from lossatlas.data.core import Data, Split
from lossatlas.data.fake import fake_table
from lossatlas.data.fetching import check_kinds, fetch_once, first_that_works
from lossatlas.data.noise import check_noise, noisy_labels
from lossatlas.data.plain import plain_text
from lossatlas.data.sources import KINDS, label, local_paths, local_sums
from lossatlas.data.table import Spec, Table, canonical, check_spec, check_table, digest
from lossatlas.errors import UserError
from lossatlas.seeding import stream

FOLDS = 5
COLLAPSED = 0.01  # share of a column's distinct values that may fall together in float32 without a line
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
    standardise: bool = True,
) -> Data:
    """A data set in memory; the first source that works is cached and used from then on.

    The cache belongs to this declaration and, for files on this machine, to what they hold: where either changes the
    rows are read anew. A declared `sha256` of the rows stands for both.

    Order of things: canonical rows, permutation by `split_seed`, test rows, standardisation by the mean and
    deviation of all training rows, noise on all training labels, `limit`, validation fold. So neither a
    limit nor a fold changes a row or a label that stays.

    Args:
        name, classes, shape, sources, sha256, labels: the declaration, see conf/data; labels are compared as text.
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
        standardise: false keeps the features of a table as they are. classes: 0 makes y float32 numbers, as they are.

    Raises:
        UserError: a wrong setting, or no source gave the declared rows.

    Example:
        >>> load("toy", 3, [4], fake=True).train.x.shape
        torch.Size([512, 4])
    """
    spec = make_spec(name, classes, shape, sha256, labels, standardise)
    scale = [_per_channel(key, v, spec) for key, v in (("mean", mean), ("std", std))]
    keep = _check_settings(limit, val_fold, seed, split_seed)
    rate = (noise or {}).get("rate", 0.0)
    if noise and rate and not classes:
        raise UserError(
            f"noise changes class labels, {name} has numbers to be regressed: take noise=u00 or leave it out"
        )
    if noise and classes:
        check_noise(noise.get("kind", ""), rate, classes, confusable)
    if fake:
        table, source = fake_table(spec, keep["train"], keep["test"], split_seed), "fake"
    else:
        table, source = fetch(spec, sources, make_place(root, mirrors))
    train, held_out = split_rows(table, test, split_seed)
    (x, y), (x_test, y_test) = _tensors(table, train, held_out, spec)
    given = y
    if noise and rate and classes:
        given = noisy_labels(y, noise["kind"], rate, classes, confusable, stream(seed, "noise"))
    whole = Split(*_cut(keep["train"], x, given, y))
    part, val = _fold(whole, val_fold)
    return Data(
        name=name,
        classes=classes,
        train=part,
        test=Split(*_cut(keep["test"], x_test, y_test, y_test)),
        val=val,
        mean=scale[0],
        std=scale[1],
        augment=make_augment(augment, spec.shape),
        source=source,
        digest=table.sha256,
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
        found = digest(table)
        if spec.sha256 and found != spec.sha256:
            raise ValueError(f"its rows have sha256 {found[:12]}.. instead of {spec.sha256[:12]}..")
        return replace(table, sha256=found)

    def fresh(damage: str) -> tuple[Table, str]:
        files.update(held_files(spec, sources, place))  # before they are read: a later change is then seen
        return first_that_works(spec.name, sources, attempt, damage)

    def write(table: Table, source: str) -> bool:
        if source in made and not spec.sha256:  # by code, which may change
            return False
        write_cache(table, source, spec, place, sources, files)
        return True

    files: dict[str, str] = {}
    made = [label(entry) for entry in sources if "function" in entry]
    if made and (
        (len(made) == len(sources) and not spec.sha256) or all(e["kind"] == "formula" for e in sources)
    ):
        return first_that_works(spec.name, sources, attempt)  # made faster than read
    return fetch_once(
        spec.name,
        cache_path(spec, place, sources),
        read=lambda: read_cache(spec, place, sources, lambda: held_files(spec, sources, place)),
        fresh=fresh,
        write=write,
        rows=lambda table: f"{len(table.y)} rows",
        refresh=refresh,
    )


def held_files(spec: Spec, sources: Entries, place: Place) -> dict[str, str]:
    """sha256 of the declaration's files on this machine; none where the declaration gives the table's own."""
    return {} if spec.sha256 else local_sums(sources, lambda entry: local_paths(entry, place))


def table_digest(node: Mapping[str, Any]) -> str:
    """`Data.digest` of a declaration as in conf/data, from its cache or its sources; "" for made-up rows.

    Raises:
        UserError: it is wrong, or no source works.
    """
    if node.get("fake"):
        return ""
    spec = make_spec(*(node.get(key) for key in ("name", "classes", "shape", "sha256", "labels")))  # type: ignore[arg-type]
    if spec.sha256:
        return spec.sha256
    sources, place = node.get("sources") or (), make_place(node.get("root"), node.get("mirrors"))
    check_kinds(spec.name, sources, list(KINDS))
    known = cached_digest(spec, place, sources, held_files(spec, sources, place))
    return known or fetch(spec, sources, place)[0].sha256


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


def _tensors(table: Table, train: np.ndarray, test: np.ndarray, spec: Spec) -> list[tuple[Tensor, Tensor]]:
    """Features and labels of both splits; what is no image is standardised in float64 and then cast to float32."""
    x, y = table.x, table.y
    if x.dtype != np.uint8:
        x = as_float32(
            _standardised(x.astype(np.float64), train) if spec.standardise else x, table.x, spec.name
        )
    if y.dtype.kind == "f":
        y = as_float32(y[:, None], y[:, None], spec.name, "y")[:, 0]
    return [(torch.from_numpy(x[rows]), torch.from_numpy(y[rows])) for rows in (train, test)]


def _standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    rows = x[train]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = rows.mean(0), rows.std(0)
        constant = (rows == rows[:1]).all(0)  # their mean and deviation are off by a rounding
        mean, std = np.where(constant, rows[0], mean), np.where(constant, 1.0, std)
        return np.where(np.isfinite(std), (x - mean) / std, np.nan)


def as_float32(x: np.ndarray, raw: np.ndarray, name: str, what: str = "column") -> np.ndarray:
    """float32, if all of it is finite; says so where values that differ in `raw` become equal.

    Shapes:
        x, raw (n, d) -> (n, d), in the order of the canonical rows.

    Raises:
        UserError: a value that float32 cannot hold.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = x.astype(np.float32)
    finite = np.isfinite(narrow)
    if not finite.all():
        row, column = np.argwhere(~finite.reshape(len(x), -1))[0]
        raise UserError(
            f"{name}: {_which(what, column)} holds {raw.reshape(len(x), -1)[row, column]:g}, too large for float32 as"
            " it is used: drop or rescale the column, or take the row out"
        )
    lost = []
    for column, (before, after) in enumerate(
        zip(raw.reshape(len(x), -1).T, narrow.reshape(len(x), -1).T, strict=True)
    ):
        counts = [len(np.unique(values)) for values in (before, after)]
        if counts[1] < (1 - COLLAPSED) * counts[0]:
            lost.append((column, *counts))
    if lost:
        column, before, after = lost[0]
        more = f", and {len(lost) - 1} more columns so" if len(lost) > 1 else ""
        say(f"{name}: {before} distinct values of {_which(what, column)} become {after} in float32{more}")
    return narrow


def _which(what: str, column: int) -> str:
    return what if what == "y" else f"{what} {column} of the features"


def _per_channel(key: str, values: Sequence[float] | None, spec: Spec) -> Tensor | None:
    """The mean or deviation of each channel; one number for three channels would be spread over them unasked."""
    if values is None:
        return None
    found = torch.tensor([float(v) for v in values], dtype=torch.float32)
    right = spec.image and len(found) == spec.shape[0] and bool(found.isfinite().all())
    if not right or (key == "std" and not bool((found > 0).all())):
        raise UserError(
            f"data.{key} must be {spec.shape[0] if spec.image else 'null, or the'} finite numbers, one a channel of an"
            f" image{', > 0' if key == 'std' else ''}, got {list(values)}"
        )
    return found


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
    name: str,
    classes: int,
    shape: Sequence[int],
    sha256: str | None,
    labels: Sequence[Any] | None,
    standardise: bool = True,
) -> Spec:
    """A declaration, checked; UserError where it is wrong."""
    if labels is not None and any(v is None or v != v for v in labels):
        raise UserError(f"data.labels of {name} holds an empty name: write names such as null or ~ in quotes")
    sizes = (classes, *shape)
    if any(isinstance(s, bool) or not isinstance(s, int) for s in sizes):
        raise UserError(
            f"data.classes and data.shape must be whole numbers, got {classes!r} and {list(shape)}"
        )
    if not isinstance(standardise, bool):
        raise UserError(f"data.standardise must be true or false, got {standardise!r}")
    names = None if labels is None else tuple(plain_text(v) for v in labels)
    spec = Spec(name, classes, tuple(shape), sha256, names, standardise)
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
