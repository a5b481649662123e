"""Local stand-ins for what a source serves."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(folder: Path, members: dict[str, bytes], name: str = "toyset", version: str = "1.0") -> Path:
    """A wheel that pip accepts, with `members` beside its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as held:
        held.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        held.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        held.writestr(f"{info}/RECORD", "")
        for member, data in members.items():
            held.writestr(member, data)
    return path


def tar_of(members: dict[str, bytes | str]) -> io.BytesIO:
    """Bytes are files, texts are links."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as held:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                held.addfile(info)
            else:
                info.size = len(data)
                held.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0)


def png(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(out, "png")
    return out.getvalue()
