"""Where parsed tables lie between runs: one .npz a data set, without pickle, verified on every reading."""

import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lossatlas.data.table import Spec, Table, check_table, digest
from lossatlas.errors import UserError

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


def cache_path(spec: Spec, place: Place) -> Path:
    """The file that holds the parsed table."""
    return place.root / f"{spec.name}.npz"


def read_cache(spec: Spec, place: Place) -> tuple[Table, str] | None:
    """The cached table and the source it came from; None where there is no file.

    Raises:
        ValueError: truncated, tampered with, or not what the declaration says.
    """
    path = cache_path(spec, place)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            table = Table(held["x"], held["y"], held.get("part"))
            stored, source = str(held["sha256"]), str(held["source"])
        found = digest(table)
    except UNREADABLE as error:
        raise ValueError(f"unreadable: {first_line(error)}") from error
    expected = spec.sha256 or stored
    if found != expected:
        raise ValueError(f"sha256 {found[:12]}.. instead of {expected[:12]}..")
    check_table(table, spec)
    return table, source


def write_cache(table: Table, source: str, spec: Spec, place: Place) -> None:
    """Written under a temporary name, then renamed: a reader sees the whole file or none."""
    part = {} if table.part is None else {"part": table.part}
    with writable(place.root), atomic(cache_path(spec, place)) as temporary, temporary.open("wb") as file:
        np.savez(file, x=table.x, y=table.y, sha256=digest(table), source=source, allow_pickle=False, **part)


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
