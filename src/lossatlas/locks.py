"""One process per run folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lossatlas.errors import ADVICE, UserError, unwritable

TEMPORARY = (".record.json.", ".config.yaml.", ".error.txt.", ".curves.csv.")  # of records.write_text
HELD: set[Path] = set()  # what this process has locked


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process per run folder; the system drops the lock of a process that died.

    Raises:
        UserError: another process holds it, or the folder cannot be written.
    """
    if folder in HELD:
        yield
        return
    with _take_lock(folder):
        HELD.add(folder)
        try:
            for left in folder.iterdir():  # a killed process's temporary files
                if left.is_file() and (left.suffix == ".part" or left.name.startswith(TEMPORARY)):
                    left.unlink(missing_ok=True)
            yield
        finally:
            HELD.discard(folder)
            if [path.name for path in folder.iterdir()] == [".lock"]:  # refused before anything was written
                (folder / ".lock").unlink()
                folder.rmdir()


def _take_lock(folder: Path) -> IO[str]:
    path = folder / ".lock"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        except OSError as error:
            raise unwritable(error, folder, ADVICE) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            raise UserError(
                f"{folder} is being written by another process; wait for it or change output_root"
            ) from None
        if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
            return handle
        handle.close()  # whoever held it has just removed it
