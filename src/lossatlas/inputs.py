"""What a run reads: the content of its data and of other files that its config names.

A config says where data come from and hashes to the same run whatever lies there; so the content is compared as well.
No torch here: a finished run on a set with a declared sha256 is kept without reading anything.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossatlas import checkpoint
from lossatlas.errors import UserError
from lossatlas.records import Record, write_text

PARTS = ("data", "module", "net", "loss")
NOTE = "data.sha256"  # beside a run's checkpoint: what it was trained on


def data_digest(cfg: DictConfig) -> str:
    """What identifies the content that a run reads: sha256 of its table or text, `Data.digest` where it is alone.

    A text value of the config with a slash in it that names a file here counts by the file's content. Made-up data and
    runs that read nothing give "".

    Raises:
        UserError: the data are not to be had.
    """
    found: list[str] = []
    for part in PARTS:
        node = cfg.get(part)
        if OmegaConf.is_config(node):
            found += _contents(OmegaConf.to_container(node, resolve=True))
    found = [digest for digest in found if digest]
    return (
        found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest() if found else ""
    )


def is_other(record: Record, cfg: DictConfig) -> bool:
    """Whether a finished run read other data than it would now; False where either is not known any more."""
    if not record.data_digest:
        return False
    try:
        return data_digest(cfg) not in ("", record.data_digest)
    except UserError:  # gone since: what was found stays
        return False


def settle(folder: Path, digest: str, name: str, anew: bool = False) -> None:
    """Forgets the checkpoint in a folder where it was made from other data, which is said, or where asked to.

    Args:
        folder: of the checkpoint. digest: of `data_digest`. name: of the run, for the line.
        anew: forget the checkpoint in any case.
    """
    known = folder / NOTE
    other = known.is_file() and digest and known.read_text(encoding="utf-8").strip() != digest
    if other:
        print(f"lossatlas: {name}: its data have changed since; it is run anew", file=sys.stderr)
    if other or anew:
        checkpoint.forget(folder / "last.ckpt")


def note(folder: Path, digest: str) -> None:
    """Notes beside the checkpoints to come what they are made from."""
    if digest:
        write_text(f"{digest}\n", folder / NOTE)


def _contents(node: Any) -> Iterator[str]:
    """Digests of what a part of a config reads, in the order of the config."""
    if isinstance(node, dict):
        read = _reader(str(node.get("_target_", "")))
        if read is not None:
            yield read(node)
            return
        for value in node.values():
            yield from _contents(value)
    elif isinstance(node, list):
        for value in node:
            yield from _contents(value)
    elif isinstance(node, str) and "/" in node and len(node) < 4096 and "\n" not in node and _is_file(node):
        with Path(node).open("rb") as file:
            yield hashlib.file_digest(file, "sha256").hexdigest()


def _reader(target: str) -> Any:
    """What tells the digest of a declaration in conf/data; None for anything else."""
    if target in ("lossatlas.data.load", "lossatlas.data.loading.load"):
        return _table
    if target == "lossatlas.data.text.load_verses":
        return _text
    return _lines if target == "lossatlas.data.lines.load_lines" else None


def _table(node: dict[str, Any]) -> str:
    if known := _declared(node):
        return known[0]
    from lossatlas.data.loading import table_digest

    return table_digest(node)


def _text(node: dict[str, Any]) -> str:
    if known := _declared(node):
        return known[0]
    from lossatlas.data.text import text_digest

    return text_digest(node)


def _lines(node: dict[str, Any]) -> str:
    if known := _declared(node):
        return known[0]
    from lossatlas.data.lines import lines_digest

    return lines_digest(node)


def _declared(node: dict[str, Any]) -> list[str]:
    """The digest that is known without looking: none of made-up rows, the declared one."""
    return [""] if node.get("fake") else [node["sha256"]] if node.get("sha256") else []


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False
