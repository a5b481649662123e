"""Reports to look at: the one of the committed evidence, and a browser."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium, excuse
from filelock import FileLock

from lossatlas.paths import CHECKOUT, experiments_dir

if excuse(chromium(), os.environ):
    collect_ignore = ["test_report_browser.py"]  # tests/conftest.py says so at the end


@pytest.fixture(scope="session")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the committed evidence, built once for all processes of pytest-xdist."""
    from lossatlas.report import build

    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with FileLock(shared / "atlas.lock"):
        if not (shared / "atlas-done").exists():
            build(experiments_dir(), shared / "atlas", check=False)
            (shared / "atlas-done").touch()
    return shared / "atlas"


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of evidence that wants to run something."""
    import hostile as evil

    from lossatlas.report import build

    root = tmp_path_factory.mktemp("hostile")
    evil.paper(root / "evidence")
    build(root / "evidence", root / "report")
    return root / "report"


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where screenshots are kept for a person to look at."""
    folder = CHECKOUT / "outputs" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    path = chromium()
    assert path, (
        "no chromium on the PATH, and LOSSATLAS_REQUIRE_BROWSER asks for it: apt-get install chromium"
    )
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()
