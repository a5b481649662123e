"""Plain text: bytes decoded, lines, and labels compared by how they are written."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

WHOLE = re.compile(r"\+?(-?\d+)(?:\.0*)?")  # +3, 3.0 and 3. are the number 3; 007 is a name
BOOLEANS = {
    "true": ("true", "yes", "on", "y"),
    "false": ("false", "no", "off", "n"),
}  # as YAML 1.1 reads them


def decoded(data: bytes, what: str, encoding: str = "utf-8") -> str:
    """The text of a file without its byte order mark.

    Raises:
        ValueError: not in this encoding; one line that names the line and what to do.

    Example:
        >>> decoded(b"\\xef\\xbb\\xbfa", "a.csv")
        'a'
    """
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") and encoding == "utf-8-sig":
        raise ValueError(f"{what} is UTF-16, not UTF-8: save it as UTF-8 or declare `encoding: utf-16`")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{what}, line {line}, is not {encoding.removesuffix('-sig')} (byte 0x{data[error.start]:02x}): save it as "
            "UTF-8 or, where the source takes it, declare `encoding: latin-1`"
        ) from error
    except LookupError as error:
        raise ValueError(f"{what}: no encoding {encoding!r}; utf-8 and latin-1 are usual ones") from error


def text_lines(text: str) -> list[str]:
    """Lines that end in a newline, with or without a carriage return; str.splitlines has ten more ends of lines.

    Example:
        >>> text_lines("a\\u2028b\\r\\nc\\n")
        ['a\\u2028b', 'c']
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines and not lines[-1] else lines


def is_missing(value: object) -> bool:
    """Whether a cell holds nothing: None, NaN, NaT or pandas' NA."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def plain_text(value: object) -> str:
    """A label's text: 3, 3.0, "3", "3.0" and " 3" are the same label; "007" is not 7; a truth value is true or false.

    Example:
        >>> [plain_text(v) for v in (3, -1.0, "-1.0", " 007", True, "None")]
        ['3', '-1', '-1', '007', 'true', 'None']
    """
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


def spellings(names: Sequence[str]) -> dict[str, int]:
    """Text -> position of each name, and of other ways to write a truth value where they are no names themselves.

    YAML reads an unquoted yes or no as a truth value, so `labels: [no, yes]` must find the texts no and yes.
    """
    known = {name: k for k, name in enumerate(names)}
    for truth, forms in BOOLEANS.items():
        if truth in known:
            for form in forms:
                for text in (form, form.capitalize(), form.upper()):
                    known.setdefault(text, known[truth])
    return known


def label_numbers(values: Iterable[Any], names: Sequence[str]) -> np.ndarray:
    """Class numbers (n,) int64 of labels as a source spells them.

    Args:
        values: n labels. names: of the classes, in their order, as `plain_text` writes them.

    Raises:
        ValueError: a label that is missing or not declared.

    Example:
        >>> label_numbers(["no", "yes"], ["true", "false"])
        array([1, 0])
    """
    known = spellings(names)
    texts = ["" if is_missing(v) else plain_text(v) for v in values]
    row = next((i for i, text in enumerate(texts) if text not in known), None)
    if row is not None:
        raise ValueError(f"labels must be among {', '.join(names[:8])}.., {_foreign(row, texts, known)}")
    return np.array([known[t] for t in texts], dtype=np.int64)


def _foreign(row: int, texts: Sequence[str], known: Mapping[str, int]) -> str:
    if not texts[row]:
        return f"row {row} holds none"
    like = next(
        (name for name in known if _number(name) is not None and _number(name) == _number(texts[row])), None
    )
    hint = f" (names are compared as text: declare {texts[row]!r} in quotes, not {like})" if like else ""
    return f"row {row} holds {texts[row]!r}{hint}"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
