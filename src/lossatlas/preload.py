"""Imported by the server that ranks are forked from, and by nothing else: torch once, deaf to signals.

Clusters and `timeout` send SIGTERM to every process of a job; the server must stay until the ranks have saved.
"""

import contextlib
import os
import signal

with contextlib.suppress(PermissionError):
    os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a rank sets handlers of its own

import lossatlas.ranks  # noqa: E402
import lossatlas.runner  # noqa: E402, F401
