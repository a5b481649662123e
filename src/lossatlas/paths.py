"""Where configs and cards lie: at the top of a checkout, inside the package in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]


def is_checkout() -> bool:
    """Whether the package runs from a source checkout (editable install) rather than from a wheel."""
    return (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / "conf" / "config.yaml").is_file()


def conf_dir() -> Path:
    """The folder with config.yaml."""
    return CHECKOUT / "conf" if is_checkout() else PACKAGE / "conf"


def experiments_dir() -> Path:
    """The folder with one card and one set of records per paper."""
    return CHECKOUT / "experiments" if is_checkout() else PACKAGE / "experiments"


def report_dir() -> Path:
    """Where `python -m lossatlas.report` writes: report/ of a checkout, or below the current folder."""
    return (CHECKOUT if is_checkout() else Path.cwd()) / "report"


def page_line(paper: str | None) -> str:
    """The paper's page in the report if it is built, else the command that builds it."""
    page = report_dir() / "papers" / f"{paper}.html"
    if page.is_file():
        return str(page)
    command = "make report" if is_checkout() else "python -m lossatlas.report"
    return f"`{command}` builds the atlas with a page for {paper}"
