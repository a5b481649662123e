"""The first source that works, kept: shared by tables and texts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lossatlas.data.cache import first_line, say, writable
from lossatlas.data.sources import label
from lossatlas.data.transport import SourceError, Unreachable
from lossatlas.errors import UserError

Held = TypeVar("Held")
Entries = Sequence[Mapping[str, Any]]
Reader = Callable[[], tuple[Held, str] | None]


def check_kinds(name: str, sources: Entries, kinds: Sequence[str]) -> None:
    """Raises UserError where a source is of no known kind."""
    for entry in sources:
        if entry.get("kind") not in kinds:
            raise UserError(
                f"{name}: a source's kind must be one of {', '.join(kinds)}, got {entry.get('kind')!r}"
            )


def first_that_works(
    name: str, sources: Entries, attempt: Callable[[Mapping[str, Any]], Held], damage: str = ""
) -> tuple[Held, str]:
    """What the first working source gave, and its name.

    Args:
        name: of the data set, for messages.
        sources: in the order they are tried.
        attempt: from an entry to checked contents; any exception sends us to the next source.
        damage: what is wrong with the cache, for the message.

    Raises:
        UserError: none worked; names every source, its reason and the command that would fetch it.
    """
    failures, unreachable = [], not sources
    for position, entry in enumerate(sources):
        try:
            return attempt(entry), label(entry)
        except UserError:
            raise
        except Exception as error:  # libraries raise anything here; the reason is kept
            # what was read and is wrong stays wrong wherever it is fetched
            unreachable |= isinstance(error, Unreachable) or not isinstance(
                error, SourceError | ValueError | LookupError | TypeError | AttributeError | ImportError
            )
            reason = f"no key {error} in its entry" if isinstance(error, KeyError) else first_line(error)
            failures.append(f"{label(entry)} ({reason})")
            following = f", trying {label(sources[position + 1])}" if position + 1 < len(sources) else ""
            say(f"{name}: {failures[-1]} failed{following}")
    told = f"{damage}, delete it; " if damage else ""
    tried = "; ".join(failures) or "its conf/data file names none"
    then = "mend the file, or what the data set's declaration says of it"
    if unreachable:
        then = f"On a machine that reaches one: python scripts/fetch_data.py {name}"
    raise UserError(f"{name}: {told}no source worked: {tried}. {then[0].upper()}{then[1:]}")


def fetch_once(
    name: str,
    path: Path,
    read: Reader[Held],
    fresh: Callable[[str], tuple[Held, str]],
    write: Callable[[Held, str], bool | None],
    rows: Callable[[Held], str],
    refresh: bool = False,
) -> tuple[Held, str]:
    """The cached contents; else `fresh` ones, written under a lock, so that many jobs fetch once.

    Args:
        name: of the data set.
        path: the cache, for messages; its folder holds the lock.
        read: the cache's contents and their source, None where there is none, ValueError where damaged.
        fresh: from the cache's damage ("" where there is none) to contents and source.
        write: keeps contents and source; False where they are not to be kept.
        rows: how much was fetched, for the message.
        refresh: fetch again what is there already.

    Raises:
        UserError: no source worked, or the data folder cannot be written.
    """
    held, _ = _cached(path, read, refresh)
    if held:
        return held
    from filelock import FileLock

    with writable(path.parent):
        lock = FileLock(path.parent / f".{name}.lock")
        lock.acquire()
    try:
        held, damage = _cached(path, read, refresh)  # another process may have fetched it meanwhile
        if held:
            return held
        if damage:
            say(f"{name}: {damage}; fetching it again")
        found, source = fresh(damage)
        kept = write(found, source) is not False
    finally:
        lock.release()
    if kept:
        say(f"{name}: {rows(found)} from {source}, kept in {path}")
    return found, source


def _cached(path: Path, read: Reader[Held], refresh: bool) -> tuple[tuple[Held, str] | None, str]:
    if refresh:
        return None, ""
    try:
        return read(), ""
    except ValueError as error:
        return None, f"the cache {path} is damaged ({first_line(error)})"
