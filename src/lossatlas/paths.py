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
