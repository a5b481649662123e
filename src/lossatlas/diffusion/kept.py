"""Networks that are made once by a recipe and kept beside the data: teachers, feature extractors."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossatlas.data.cache import atomic, make_place, say, writable

State = dict[str, Tensor]


def kept(
    name: str, recipe: Mapping[str, Any], make: Callable[[], State], root: str | Path | None = None
) -> State:
    """The tensors of a recipe, from `<root>/models/<name>-<digest of the recipe>.safetensors`.

    Made first where the file is missing, damaged or of another recipe; one process makes it, others wait. The
    global random state is left as it was.

    Args:
        name: what it is, for the file and the lines on stderr.
        recipe: everything the tensors follow from, as plain data; changed code needs a changed recipe, too.
        make: trains them.
        root: folder of caches; None: as for `lossatlas.data.load`.

    Raises:
        UserError: the folder cannot be written.
    """
    text = json.dumps(dict(recipe), sort_keys=True)
    models = make_place(root, ()).root / "models"
    path = models / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    found, damage = _read(path, text)
    if found is not None:
        return found
    from filelock import FileLock

    with writable(models):
        lock = FileLock(models / f".{path.stem}.lock")
        lock.acquire()
    try:
        found, damage = _read(path, text)  # another process may have made it meanwhile
        if found is not None:
            return found
        say(f"{path.stem}: {damage or 'not made yet'}; training it once")
        with torch.random.fork_rng(devices=[]):
            state = {key: value.detach().cpu().contiguous() for key, value in make().items()}
        _write(path, text, state)
        say(f"{path.stem}: kept in {models}")
    finally:
        lock.release()
    return state


def _checksum(state: State) -> str:
    found = hashlib.sha256()
    for key in sorted(state):
        found.update(f"{key} {tuple(state[key].shape)} {state[key].dtype}".encode())
        found.update(state[key].numpy().tobytes())
    return found.hexdigest()


def _write(path: Path, recipe: str, state: State) -> None:
    from safetensors.torch import save_file

    with writable(path.parent), atomic(path) as temporary:
        save_file(state, str(temporary), metadata={"recipe": recipe, "sha256": _checksum(state)})


def _read(path: Path, recipe: str) -> tuple[State | None, str]:
    """The kept tensors, or None and why they cannot be used."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None, ""
    try:
        with safe_open(str(path), framework="pt") as held:
            said = held.metadata() or {}
            state = {key: held.get_tensor(key) for key in held.keys()}  # noqa: SIM118  (no mapping)
    except (OSError, ValueError, SafetensorError) as error:
        return None, f"unreadable ({' '.join(str(error).split())[:80]})"
    if said.get("recipe") != recipe:
        return None, "made by another recipe"
    if said.get("sha256") != _checksum(state):
        return None, "damaged (its sha256 is another)"
    return state, ""
