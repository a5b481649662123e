"""Checkpoint files: sealed with a checksum, put in place atomically, the previous one kept.

A checkpoint of torch is a zip file, so its sha256 is written into the file itself, as the archive's
comment: one rename puts bytes and checksum in place together, and torch.load still reads the file. `unzip -z`
shows the checksum. A kill between any two lines here leaves at least one whole checkpoint behind.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 20
COMMENT = 64  # hex digits of a sha256


def seal(path: Path) -> None:
    """Writes the checksum into a file that torch.save has just written, and the file to the disk.

    Raises:
        ValueError: not a zip file without a comment.
    """
    with path.open("r+b") as file:
        body = os.fstat(file.fileno()).st_size - 2
        digest = _digest(file, body)
        if body < 20 or file.read(2) != b"\0\0":
            raise ValueError(f"{path} is no checkpoint: a zip file without a comment is expected")
        file.seek(body)
        file.write(COMMENT.to_bytes(2, "little") + digest)
        file.flush()
        os.fsync(file.fileno())


def is_whole(path: Path) -> bool:
    """Whether the file ends in the checksum of everything before it."""
    try:
        with path.open("rb") as file:
            body = os.fstat(file.fileno()).st_size - COMMENT - 2
            return body > 0 and _digest(file, body) == file.read()[2:]
    except OSError:
        return False


def put(part: Path, path: Path) -> None:
    """Seals `part` and makes it `path`; what was there becomes the previous checkpoint."""
    if part.is_dir():  # a sharded checkpoint of FSDP: the strategy's own format, and its own rename
        os.replace(part, path)
        return
    seal(part)
    if path.exists():
        os.replace(path, previous(path))
    os.replace(part, path)
    _sync_folder(path.parent)


def pick(path: Path, owner: bool = True) -> Path | None:
    """The newest whole checkpoint, or None; a torn one is named in one line and, by the owner, removed.

    Removed, because the next save would make it the previous checkpoint.
    """
    if path.is_dir():
        return path
    older = previous(path)
    found = next((p for p in (path, older) if is_whole(p)), None)
    torn = [p.name for p in (path, older) if p.exists() and not is_whole(p)]
    if torn and owner:
        then = f"going on from {found.name}" if found else "starting anew"
        print(f"lossatlas: {path.parent.name}: {' and '.join(torn)} torn; {then}", file=sys.stderr)
        for name in torn:
            (path.parent / name).unlink()
    return found


def forget(path: Path) -> None:
    """Removes both checkpoints."""
    for file in (path, previous(path)):
        file.unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Where the checkpoint before the last one lies."""
    return path.with_name("previous.ckpt")


def _digest(file: BinaryIO, size: int) -> bytes:
    """Hex sha256 of the next `size` bytes."""
    h = hashlib.sha256()
    while size > 0 and (block := file.read(min(BLOCK, size))):
        h.update(block)
        size -= len(block)
    return h.hexdigest().encode()


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
