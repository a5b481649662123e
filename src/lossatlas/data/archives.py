"""Opening what others packed: in memory, with limits on bytes, members and expansion; nothing is ever extracted.

A member that the caller did not name is not read, so where it points does not matter.
"""

import gzip
import io
import lzma
import math
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lossatlas.data.cache import first_line

LIMIT = 1 << 30  # bytes of one file, download or archive member
EXPANSION = 200  # times that a compressed stream may grow; real data sets stay below 40
SLACK = 4 << 20  # bytes that may come out whatever came in
MEMBERS = 20_000
DIRECTORY = 4 << 20  # bytes of a zip's directory: zipfile builds an object for every entry
ZIP_END, ZIP64_END = b"PK\5\6", b"PK\6\6"
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, struct.error,
    EOFError, OSError, RuntimeError, NotImplementedError, ValueError, OverflowError,
)  # fmt: skip


class SourceError(Exception):
    """Why one source gave nothing, in one line."""


class Unreachable(SourceError):
    """The source is not to be had from this machine; from another one it may be."""


def read_file(path: Path) -> bytes:
    """A regular file's bytes.

    Raises:
        SourceError: no regular file, or larger than LIMIT.
    """
    if not path.is_file():  # a pipe or a device would never end
        raise SourceError(f"{path.name} is no regular file")
    if path.stat().st_size > LIMIT:
        raise SourceError(f"{path.name} is larger than {LIMIT >> 20} MiB")
    return path.read_bytes()


def inside(member: str) -> PurePosixPath:
    """The member's path, if it stays inside its archive."""
    path = PurePosixPath(member.removeprefix("./"))
    if path.is_absolute() or ".." in path.parts or "\\" in member or "\0" in member:
        raise SourceError(f"the member path {member!r} leaves its archive")
    return path


def zip_member(archive: Path | bytes, member: str) -> bytes:
    """One member of a zip.

    Raises:
        SourceError: a path that leaves the archive, no such member or no regular file, too large or too many
            members, one that expands too much, or a damaged archive.
    """
    inside(member)
    raw = read_file(archive) if isinstance(archive, Path) else archive
    _check_directory(raw)
    with _damage(), zipfile.ZipFile(io.BytesIO(raw)) as held:
        try:
            info = held.getinfo(member)
        except KeyError as error:
            raise SourceError(f"the archive holds no {member}") from error
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG):
            raise SourceError(f"{member} is a link, folder or device; only regular files are read")
        if info.file_size > LIMIT:
            raise SourceError(f"{member} is larger than {LIMIT >> 20} MiB")
        check_expansion(member, info.file_size, min(info.compress_size, len(raw)))
        return held.read(info)


def _check_directory(raw: bytes) -> None:
    """The sizes at the end of a zip, before zipfile builds its list."""
    at = raw.rfind(ZIP_END, max(0, len(raw) - 65_557))
    if at < 0 or len(raw) - at < 22:
        raise SourceError("the archive is damaged (no directory at its end)")
    members, size = struct.unpack("<HI", raw[at + 10 : at + 16])
    wide = raw.rfind(ZIP64_END, max(0, at - 65_557), at)
    if wide >= 0 and len(raw) - wide >= 48:
        members, size = struct.unpack("<QQ", raw[wide + 32 : wide + 48])
    if members > MEMBERS or size > DIRECTORY:
        raise SourceError(f"the archive holds {members} members, at most {MEMBERS} are opened")


def tar_members(stream: Any, members: Sequence[str]) -> dict[str, bytes]:
    """Regular files of a tar, in one pass; links are not followed.

    Raises:
        SourceError: a member is missing or no regular file, too large, too many members, or a damaged archive.
    """
    wanted = {str(inside(m)): m for m in members}
    found: dict[str, bytes] = {}
    with _damage(), tarfile.open(fileobj=stream, mode="r|*") as held:
        for count, info in enumerate(held):
            if count >= MEMBERS:
                raise SourceError(f"the archive holds more than {MEMBERS} members")
            name = wanted.get(info.name.removeprefix("./"))
            if name is None or name in found:
                continue
            if not info.isreg():
                raise SourceError(f"{name} is a link, folder or device; only regular files are read")
            if info.size > LIMIT:
                raise SourceError(f"{name} is larger than {LIMIT >> 20} MiB")
            file = held.extractfile(info)
            found[name] = file.read() if file else b""
            if len(found) == len(wanted):
                break
    if missing := [m for m in members if m not in found]:
        raise SourceError(f"the archive holds no {missing[0]}")
    return found


class Bounded:
    """A readable stream that refuses to give more than `limit` bytes."""

    def __init__(self, stream: Any, limit: int, what: str) -> None:
        self.stream, self.left, self.what = stream, limit, what

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes.

        Raises:
            SourceError: the stream holds more than its limit.
        """
        data = self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise SourceError(f"{self.what} expands more than {EXPANSION}-fold")
        return data


def unzipped(raw: bytes, what: str) -> Bounded:
    """The bytes inside a .gz, as a stream that stops where they are out of proportion."""
    return Bounded(gzip.GzipFile(fileobj=io.BytesIO(raw)), SLACK + EXPANSION * len(raw), what)


def check_expansion(what: str, size: int, packed: int) -> None:
    """Raises SourceError where so few bytes should become so many."""
    if size > SLACK + EXPANSION * packed:
        raise SourceError(f"{what} expands more than {EXPANSION}-fold")


def read_idx_array(data: bytes, shape: Sequence[int], name: str) -> np.ndarray:
    """An idx array of unsigned bytes, gzipped or not, whose samples have this shape ((): labels).

    Raises:
        SourceError, ValueError: another type or shape, a length that is not the declared one, a gzip bomb.
    """
    stream: Any = unzipped(data, name) if data[:2] == b"\x1f\x8b" else io.BytesIO(data)
    with _damage():
        head = stream.read(4)
        if len(head) < 4 or head[:3] != b"\0\0\x08":
            raise SourceError(f"{name} is not an idx file of unsigned bytes")
        # a flat (n, d), an (n, H, W) and an (n, C, H, W) all hold the same bytes
        if not 1 <= head[3] <= 4:
            raise SourceError(f"{name} declares {head[3]} dimensions, 1 to 4 are expected")
        dims = struct.unpack(f">{head[3]}I", stream.read(4 * head[3]))
        total = math.prod(dims)
        if math.prod(dims[1:]) != math.prod(shape):
            raise SourceError(f"{name} holds samples of shape {list(dims[1:])}, {list(shape)} is expected")
        if total > LIMIT:
            raise SourceError(f"{name} declares {total >> 20} MiB, at most {LIMIT >> 20} are read")
        body = stream.read(total + 1)
    if len(body) != total:
        raise ValueError(f"the idx file declares {list(dims)} bytes and holds {len(body)}")
    return np.frombuffer(body, np.uint8).reshape(dims[0], *shape)


def read_npy_array(data: bytes, shape: Sequence[int], name: str) -> np.ndarray:
    """The one array of an .npz: unsigned bytes (samples) or integers (labels), never objects.

    Raises:
        SourceError: objects, another type or shape, too large, or a damaged file.
    """
    _check_directory(data)
    with _damage(), zipfile.ZipFile(io.BytesIO(data)) as held:
        names = held.namelist()
    if len(names) != 1:
        raise SourceError(f"{name} holds {len(names)} arrays, one is expected")
    file = io.BytesIO(zip_member(data, names[0]))
    with _damage():
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise SourceError(f"{name} is of npy version {version}, 1.0 or 2.0 is expected")
        dims, _, dtype = read[version](file)
        if dtype.hasobject or dtype.kind not in "ui" or (shape and dtype != np.uint8):
            raise SourceError(f"{name} holds {dtype}, {'uint8' if shape else 'integers'} are expected")
        if math.prod(dims[1:]) != math.prod(shape) or not dims:
            raise SourceError(f"{name} holds samples of shape {list(dims[1:])}, {list(shape)} is expected")
        if math.prod(dims) * dtype.itemsize != len(file.getbuffer()) - file.tell():
            raise SourceError(f"{name} declares {list(dims)} values and holds {len(file.getbuffer())} bytes")
        file.seek(0)
        array = np.lib.format.read_array(file, allow_pickle=False)
    return array.reshape(dims[0], *shape)


@contextmanager
def _damage() -> Iterator[None]:
    """What the libraries raise at damaged bytes, as one line."""
    try:
        yield
    except BROKEN as error:
        raise SourceError(f"the archive is damaged ({first_line(error)})") from error
