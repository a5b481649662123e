"""Shared by all tests: own folders, one BLAS thread, shapes checked at run time, the CLI called in this process."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from budget import Budget

os.environ.setdefault("OMP_NUM_THREADS", "1")
from jaxtyping import config, install_import_hook
from shapes import ROUND

SRC = Path(__file__).parents[1] / "src"
CHECKED = [p for p in (SRC / "lossatlas").rglob("*.py") if "from jaxtyping import" in p.read_text()]
install_import_hook(
    [".".join(p.relative_to(SRC).with_suffix("").parts) for p in CHECKED], "shapes.typechecker"
)


@pytest.fixture(autouse=True)
def unhooked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of refusals ("refuse" in their name) see what users see: the hook would speak first."""
    ROUND.begin()
    own = "refuse" in request.node.name
    config.update("jaxtyping_disable", own)
    yield
    config.update("jaxtyping_disable", False)


@dataclass
class Answer:
    """What a command line gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of outputs of its own; data that is not generated would be looked for in an empty one."""
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("LOSSATLAS_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LOSSATLAS_MIRRORS", raising=False)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path / "outputs"


@pytest.fixture
def cli(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """`python -m run ...` in this process, since importing torch and Lightning costs seconds."""

    def call(*argv: str) -> Answer:
        from lossatlas import cli as module

        monkeypatch.setattr(sys, "argv", ["run", *argv])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            module.main()
        out, err = capfd.readouterr()
        return Answer(int(stop.value.code or 0), out, err)

    return call


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget",
        dest="limit",
        action="store_true",
        help="fail where a paper's tests cost more than its budget",
    )
    parser.addoption("--paper", default="", help="only this paper's tests, its smoke runs included")
    parser.addoption("--core", action="store_true", help="only the tests of the frame")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(
        Budget(**{k: config.getoption(k) for k in ("limit", "paper", "core")}), "budget"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line where the tests that need a browser were left out."""
    sys.path.insert(0, str(Path(__file__).parent / "report"))
    from browser import chromium, excuse

    if line := excuse(chromium(), os.environ):
        terminalreporter.write_line(line)
