"""Numbers and names as the pages show them."""

from __future__ import annotations

import math

LONG = 300  # characters of a name that a page shows


def number(value: float) -> str:
    """Three figures, a dash for NaN.

    Example:
        >>> number(0.123456), number(1e308), number(float("nan")), number(-0.0)
        ('0.123', '1e+308', '–', '0')
    """
    if value is None or math.isnan(value):
        return "–"
    return f"{value + 0.0:.3g}"


def short(text: object, limit: int = LONG) -> str:
    """A name cut where it would fill the page, with its length said.

    Example:
        >>> short("abcdef", 4)
        'abc… (6 characters)'
    """
    text = str(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}… ({len(text)} characters)"


def duration(seconds: float) -> str:
    """Seconds in the unit a reader would choose.

    Example:
        >>> duration(42.0), duration(2575), duration(9000)
        ('42 s', '43 min', '2.5 h')
    """
    if not math.isfinite(seconds):
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def link(url: str) -> str:
    """The address if it is one of the web, else nothing: a card may not put a script behind a link."""
    return url if url.startswith(("https://", "http://")) else ""
