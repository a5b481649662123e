"""The exceptions that carry a message meant for the user."""

import errno
from pathlib import Path

ADVICE = "free space there or set output_root=DIR to a writable folder; the same command goes on from there"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class UserError(Exception):
    """Something the user can mend; its text is one line that says what to do. The CLI prints it and exits with 2."""


class StorageError(UserError):
    """A folder that cannot be written any more: full, read-only, over its quota. It ends a sweep, too."""


class Halt(BaseException):
    """A StorageError on its way out of a sweep; no Exception, because Hydra would go on with the next job."""


def unwritable(error: OSError, path: Path, advice: str) -> UserError:
    """What to say of a folder that cannot be written: a StorageError where no other run could write, either."""
    kind = StorageError if error.errno in FULL else UserError
    return kind(f"cannot write {path} ({error.strerror or error}): {advice}")


def storage_error(problem: BaseException, folder: Path) -> UserError | None:
    """What to say where `problem`, or what caused it, is a folder that cannot be written; else None."""
    seen: BaseException | None = problem
    while seen is not None:
        if isinstance(seen, StorageError):
            return seen
        if isinstance(seen, OSError):
            own = isinstance(seen, PermissionError) and str(seen.filename).startswith(str(folder))
            if own or seen.errno in FULL:
                return unwritable(seen, folder, ADVICE)
        seen = seen.__cause__ or seen.__context__
    return None
