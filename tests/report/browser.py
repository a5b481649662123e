"""Debian's Chromium for the tests of pages, and what is said where there is none."""

import os
import shutil
from collections.abc import Mapping

REQUIRED = "LOSSATLAS_REQUIRE_BROWSER"


def chromium() -> str | None:
    """Path of the browser; Playwright's own download is not used."""
    return os.environ.get("LOSSATLAS_CHROMIUM") or shutil.which("chromium")


def excuse(path: str | None, environ: Mapping[str, str]) -> str | None:
    """The line that says why the browser tests do not run; None if they must."""
    if path or environ.get(REQUIRED, "0") not in ("", "0"):
        return None
    return (
        "the report's browser tests did not run: no chromium on the PATH (Debian: apt-get install chromium)"
    )
