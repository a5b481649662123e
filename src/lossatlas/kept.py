"""What is trained once by a recipe and kept beside the data: teachers, feature extractors, pretrained models.

`kept(name, recipe, make)` gives the tensors of a recipe, made where they are missing. The recipe is the key, so two
arms (or two runs of one arm) that name the same recipe share one training: an arm gets what another arm's run produced
by giving that training as its `make`, with the seed in the recipe; whichever run comes first makes it, the others wait
and read. A run that has the tensors anyway leaves them with `keep`. A run's record says in `kept` what it used, what of
that it made itself, and the seconds and memory of its making, which are not in the run's own seconds.

    python -m lossatlas.kept            lists what lies there, its size, and which records refer to it
    python -m lossatlas.kept --remove   removes what no record below the outputs refers to
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    State = dict[str, Tensor]


@dataclass(frozen=True)
class Use:
    """What a run took from the folder, as its record says it.

    Args:
        file: name in the folder. seconds, peak_mb: of its making, by whichever run (None: of an older version).
        made: whether this run made it.
    """

    file: str
    seconds: float | None
    peak_mb: float | None
    made: bool


_used: list[Use] = []  # of the run that this process is at; the runner empties it


def begin() -> None:
    """A run begins: nothing is used yet."""
    _used.clear()


def used() -> list[dict[str, Any]]:
    """What the run has used so far, for its record; each file once."""
    last = {use.file: use for use in sorted(_used, key=lambda use: use.made)}
    return [asdict(use) for use in sorted(last.values(), key=lambda use: use.file)]


def spent() -> float:
    """Seconds that the run spent on making what is kept."""
    return sum(use.seconds or 0.0 for use in _used if use.made)


def kept(
    name: str, recipe: Mapping[str, Any], make: Callable[[], State] | str, root: str | Path | None = None
) -> State:
    """The tensors of a recipe, from `<root>/models/<name>-<digest of the recipe>.safetensors`.

    Made first where the file is missing, torn, damaged or of another recipe; one process makes it, others wait. The
    global random state is left as it was.

    Args:
        name: what it is, for the file and the lines on stderr.
        recipe: everything the tensors follow from, as plain data: sizes, the seed, the digest of the data (`digest`);
            changed code needs a changed recipe, too.
        make: trains them; or, where only another run can, the words that run it (`arm=teacher seed=3`).
        root: folder of caches; None: as for `lossatlas.data.load`.

    Raises:
        UserError: the folder cannot be written, the recipe is no plain data, or the other run has not been made.

    Example:
        >>> import tempfile, torch
        >>> folder = tempfile.mkdtemp()
        >>> kept("teacher", {"seed": 0}, lambda: {"w": torch.ones(2)}, folder)["w"]  # says on stderr that it is made
        tensor([1., 1.])
        >>> kept("teacher", {"seed": 0}, "arm=teacher", folder)["w"]  # another arm reads it
        tensor([1., 1.])
    """
    text, path = _place(name, recipe, root)
    state, damage = _read(path, text)
    if state is None and isinstance(make, str):
        raise UserError(
            f"{name}: {damage or 'not made yet'}; it comes from another run: run it first with {make}"
        )
    if state is None:
        from lossatlas.data.cache import say

        with _locked(path):
            state, damage = _read(path, text)  # another process may have made it meanwhile
            if state is None:
                assert callable(make)
                say(f"{path.stem}: {damage or 'not made yet'}; training it once")
                state = _made(path, text, make)
                say(f"{path.stem}: kept in {path.parent}")
                return state
    said = _metadata(path)
    _used.append(Use(path.name, *(_number(said.get(key)) for key in ("seconds", "peak_mb")), made=False))
    return state


def keep(
    name: str, recipe: Mapping[str, Any], state: State, seconds: float = 0.0, root: str | Path | None = None
) -> None:
    """Leaves tensors that a run has produced under a recipe, for the arms that ask for it; an older file is replaced.

    Args:
        seconds: what their training took, which stays in the run's own time.
    """
    text, path = _place(name, recipe, root)
    with _locked(path):
        _write(path, text, _plain(state), {"seconds": f"{seconds:.3f}"})
    _used.append(Use(path.name, seconds, None, made=False))


def digest(*tensors: Tensor) -> str:
    """sha256 of tensors, to stand for data in a recipe."""
    found = hashlib.sha256()
    for value in tensors:
        found.update(f"{tuple(value.shape)} {value.dtype}".encode() + value.cpu().numpy().tobytes())
    return found.hexdigest()


def _place(name: str, recipe: Mapping[str, Any], root: str | Path | None) -> tuple[str, Path]:
    """The recipe as text, and the file."""
    try:
        text = json.dumps(dict(recipe), sort_keys=True)
    except TypeError as error:
        raise UserError(f"the recipe of {name} must be plain data: {error}") from None
    return text, folder_of(root) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"


def folder_of(root: str | Path | None = None) -> Path:
    """Where kept files lie."""
    from lossatlas.data.cache import make_place

    return make_place(root, ()).root / "models"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time per file; the system drops the lock of one that died."""
    from filelock import FileLock

    from lossatlas.data.cache import writable

    with writable(path.parent):
        lock = FileLock(path.parent / f".{path.stem}.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _made(path: Path, text: str, make: Callable[[], State]) -> State:
    """Makes, measures and writes."""
    import torch

    from lossatlas.machine import host_peak_mb, reset_peak_memory

    reset_peak_memory()
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        state = _plain(make())
    seconds, peak = round(time.perf_counter() - start, 3), round(host_peak_mb(), 1)
    reset_peak_memory()  # the run's own peak is what comes now
    _write(path, text, state, {"seconds": str(seconds), "peak_mb": str(peak)})
    _used.append(Use(path.name, seconds, peak, made=True))
    return state


def _plain(state: State) -> State:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def _checksum(state: State) -> str:
    found = hashlib.sha256()
    for key in sorted(state):
        found.update(f"{key} {tuple(state[key].shape)} {state[key].dtype}".encode())
        found.update(state[key].numpy().tobytes())
    return found.hexdigest()


def _write(path: Path, recipe: str, state: State, more: Mapping[str, str]) -> None:
    from safetensors.torch import save_file

    from lossatlas.data.cache import atomic, writable

    with writable(path.parent), atomic(path) as temporary:
        save_file(state, str(temporary), metadata={"recipe": recipe, "sha256": _checksum(state), **more})


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


def _metadata(path: Path) -> dict[str, str]:
    """What a file says of itself; empty where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as held:
            return held.metadata() or {}
    except (OSError, ValueError, SafetensorError):
        return {}


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


# ---------------------------------------------------------------- python -m lossatlas.kept
def references(outputs: Path) -> dict[str, int]:
    """File name to how many records below a folder used it."""
    counts: dict[str, int] = {}
    for path in outputs.rglob("record.json"):
        try:
            for use in json.loads(path.read_text()).get("kept", []):
                counts[use["file"]] = counts.get(use["file"], 0) + 1
        except (OSError, ValueError, AttributeError, TypeError, KeyError):
            continue  # a torn record is run again and then refers anew
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Lists, and with --remove removes; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lossatlas.kept", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--outputs", type=Path, default=Path(os.environ.get("LOSSATLAS_OUTPUTS", "outputs")))
    parser.add_argument("--root", help="folder of caches; else LOSSATLAS_DATA or ~/.cache/lossatlas")
    parser.add_argument(
        "--remove", action="store_true", help="remove what no record below the outputs refers to"
    )
    args = parser.parse_args(argv)
    folder = folder_of(args.root)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        print(f"nothing is kept in {folder}")
        return 0
    if args.remove and not args.outputs.is_dir():
        print(
            f"lossatlas: {args.outputs} is not there, so nothing would count as used: --outputs DIR",
            file=sys.stderr,
        )
        return 2
    counts, freed = references(args.outputs), 0
    for path in files:
        said, size = _metadata(path), path.stat().st_size
        took = f"{float(said['seconds']):.0f} s" if "seconds" in said else "?"
        uses = counts.get(path.name, 0)
        state = f"{uses} records" if uses else "no record"
        if not said.get("recipe"):
            state += ", unreadable"
        if args.remove and not uses:
            path.unlink()
            (folder / f".{path.stem}.lock").unlink(missing_ok=True)
            freed, state = freed + size, "removed"
        print(f"{path.name:<48} {size / 2**20:8.2f} MB  made in {took:>6}  {state}")
    print(
        f"{len(files)} files, {sum(1 for f in files if f.exists())} left in {folder}; {freed / 2**20:.2f} MB freed"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
