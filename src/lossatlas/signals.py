"""Ctrl-C, and the SIGTERM that clusters send before they take a machine away: who listens while."""

import signal
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


def interrupt(signum: int, frame: Any) -> None:
    """A handler that makes of a signal what Python makes of Ctrl-C."""
    raise KeyboardInterrupt
