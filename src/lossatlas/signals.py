"""Ctrl-C, and the SIGTERM that clusters send before they take a machine away: who listens while."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def heard_by(
    handler: Callable[[int, Any], None], signals: tuple[signal.Signals, ...] = STOP
) -> Iterator[None]:
    """`handler` gets these signals inside; outside the main thread, where Python allows none, nothing changes."""
    main = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, handler) for s in signals} if main else {}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


class _Outliving:
    """A text stream that goes on, silently, when its reader has gone (`| head -2`)."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """As the stream's own; nothing is written once the pipe is closed."""
        self._tried(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """As the stream's own."""
        self._tried(self.stream.flush)

    def _tried(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            self._close()

    def _close(self) -> None:
        """What is left in the buffer, and whatever child processes print, goes nowhere from here on."""
        try:
            number = self.stream.fileno()
        except (OSError, ValueError, AttributeError):
            self.stream = open(os.devnull, "w")  # noqa: SIM115  (the process's stream to its end)
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


@contextmanager
def outliving_readers() -> Iterator[None]:
    """Inside, a closed pipe on stdout or stderr ends the printing and not the runs."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if stream is None or isinstance(stream, _Outliving) else _Outliving(stream)
        for stream in before
    )
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Outliving):
                stream.flush()
        sys.stdout, sys.stderr = before


def interrupt(signum: int, frame: Any) -> None:
    """A handler that makes of a signal what Python makes of Ctrl-C."""
    raise KeyboardInterrupt
