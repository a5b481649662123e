"""What one run leaves behind, and the tidy table made of many.

A run writes one `record.json`. JSON knows no NaN: a NaN is written as null and an infinity as the string
"inf" or "-inf"; in metrics both become floats again when read, in extras and config they stay as they are.

Tidy table   one row per run, or one per unit (repetition within a run) where a run carries many. A run with
             units gets a row of its own, with an empty unit, only if it has metrics or extras of its own.
             `seconds` and `extras` stand in a run's first row, so that a sum over rows counts each run once.
Columns      experiment, scale, arm, <conditions>, seed, unit, status, <metrics>, seconds, peak_mb, device,
             commit, config_hash, extras: conditions between arm and seed, metrics between status and seconds.

pandas is imported inside the functions: the runner imports this module on its way to the first step.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.errors import UserError, unwritable

if TYPE_CHECKING:
    from pandas import DataFrame

LIMIT = 256 << 20  # bytes of a file that can be a record
STATUSES = ("done", "failed", "interrupted", "diverged")
HEAD = ("experiment", "scale", "arm")
MIDDLE = ("seed", "unit", "status")
TAIL = ("seconds", "peak_mb", "device", "commit", "config_hash", "extras")
RESERVED = frozenset((*HEAD, *MIDDLE, *TAIL, "paper", "unit_id", "failed", "value", "x", "condition"))


@dataclass
class Record:
    """One run, as written to `record.json`.

    Args:
        experiment, paper, arm: names as in the experiment's YAML.
        condition: the other keys of the study grid with the names of their values: {"noise": "u60"}.
        seed: < 100 or >= 1000 count for verdicts, 100..999 are tuning and pilots.
        status: done | failed | interrupted | diverged; error says why it is not done.
        metrics: name to float; NaN and infinities are allowed.
        units: repetitions carried by this run: {"unit": int, "metrics": {...}} and, where they differ from
            the run's, "condition", "arm", "seed" and "status". Where they have seeds of their own, the run's metrics
            are an overview of them and not in the table.
        extras: small JSON for figures and statistics, such as a histogram.
        curves: file name beside the record, or None.
        seconds, peak_mb: wall time and peak memory of the run.
        data_digest: of what it read (`inputs.data_digest`); "" where nothing was, or a record of before there was one.
        claims_digest: of the paper's claims when it was run (`machine.claims_digest`); "" before there was one.
        kept: what it used of `lossatlas.kept` ({file, seconds, peak_mb, made}); making it is not in its seconds.
    """

    experiment: str
    paper: str
    arm: str
    seed: int
    scale: str = "laptop"
    condition: dict[str, str] = field(default_factory=dict)
    status: str = "done"
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    units: list[dict[str, Any]] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    curves: str | None = None
    seconds: float = math.nan
    peak_mb: float = math.nan
    kept: list[dict[str, Any]] = field(default_factory=list)
    device: str = ""
    commit: str = ""
    dirty: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str = ""
    data_digest: str = ""
    claims_digest: str = ""


def name(value: Any) -> str:
    """The text of a condition's value, the same from YAML, Hydra and a CSV file (true, null, 0.5)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def write(record: Record, path: str | Path) -> None:
    """Write the record: a reader sees the old file or the whole new one, never a part.

    Raises:
        UserError: a status, condition or metric name is not allowed, or the folder cannot be written.
        TypeError: a value that JSON cannot hold.
    """
    _check(record)
    write_text(json.dumps(_plain(asdict(record)), indent=1, allow_nan=False) + "\n", path)


def write_text(text: str | bytes, path: str | Path) -> None:
    """Write a file atomically: a temporary file in the same folder, fsync, then os.replace.

    Raises:
        UserError: the folder cannot be made or written; a StorageError where the disk is full.
    """
    path = Path(path)
    data = text.encode() if isinstance(text, str) else text
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp gives 0600, which keeps colleagues from reading evidence
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(error, path, "free space there or choose a folder you may write to") from None


def read(path: str | Path) -> Record | None:
    """Read a record; None if the file is missing, torn or no record: to the runner that run is not done."""
    try:
        if Path(path).stat().st_size > LIMIT:
            return None
        raw = json.loads(Path(path).read_text())
        known = {f.name for f in fields(Record)}
        record = Record(**{key: value for key, value in raw.items() if key in known})
        record.metrics = _floats(record.metrics)
        record.units = [{**unit, "metrics": _floats(unit["metrics"])} for unit in record.units]
        record.seconds, record.peak_mb = _float(record.seconds), _float(record.peak_mb)
        _check(record)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError, UserError):
        return None
    return record


def read_all(folder: str | Path) -> list[Record]:
    """All readable records below a folder, in the order of their paths."""
    found = (read(path) for path in sorted(Path(folder).rglob("record.json")))
    return [record for record in found if record is not None]


def tidy(records: Iterable[Record]) -> DataFrame:
    """The tidy table of the head of this file.

    Args:
        records: any number, of any experiments; a condition a run does not have is the empty string.

    Raises:
        UserError: a condition or metric has the name of a fixed column, or one name is both.
    """
    from pandas import DataFrame

    records = _each_once(records)
    rows = [row for record in records for row in _rows(record)]
    conditions = _names(condition for _, condition, _ in rows)
    metrics = _names(values for _, _, values in rows)
    if both := set(conditions) & set(metrics):
        raise UserError(f"a name is a condition or a metric, not both: rename one {sorted(both)[0]!r}")
    flat = [
        {**fixed, **{key: condition.get(key, "") for key in conditions}, **values}
        for fixed, condition, values in rows
    ]
    table = DataFrame(flat, columns=[*HEAD, *conditions, *MIDDLE, *metrics, *TAIL])
    return _typed(table)


def _each_once(records: Iterable[Record]) -> list[Record]:
    """Of records of one run (equal hash, data, arm, condition and seed) the last: asked for twice, it is one run."""
    found: dict[Any, Record] = {}
    for k, record in enumerate(records):
        condition = tuple(sorted((key, name(value)) for key, value in record.condition.items()))
        own = (record.experiment, record.scale, record.arm, condition, record.seed, record.config_hash)
        own = (*own, record.data_digest)  # of other data it is another run
        found[own if record.config_hash else k] = record
    return list(found.values())


def one_row_a_run(table: Any) -> Any:
    """A tidy table in which a row of a run (or of its unit) stands once, the last; rows without a hash all stay."""
    keys = [*HEAD, *condition_columns(table), "seed", "unit", "config_hash"]
    again = table.duplicated(keys, keep="last") & (table["config_hash"] != "")
    return table[~again].reset_index(drop=True)


def condition_columns(table: DataFrame) -> list[str]:
    """Names of the conditions of a tidy table: the columns between arm and seed."""
    columns = list(table.columns)
    return columns[columns.index("arm") + 1 : columns.index("seed")]


def metric_columns(table: DataFrame) -> list[str]:
    """Names of the metrics of a tidy table: the columns between status and seconds."""
    columns = list(table.columns)
    return columns[columns.index("status") + 1 : columns.index("seconds")]


def to_csv(table: DataFrame, path: str | Path) -> None:
    """Write a tidy table atomically; `from_csv` gives it back exactly."""
    write_text(table.to_csv(index=False, lineterminator="\n"), path)


def from_csv(path: str | Path) -> DataFrame:
    """Read a tidy table written by `to_csv`.

    Raises:
        UserError: no such file, or it is not a tidy table.
    """
    from pandas import read_csv
    from pandas.errors import ParserError

    try:
        table = read_csv(path, dtype=str, keep_default_na=False)
        missing = [column for column in (*HEAD, *MIDDLE, *TAIL) if column not in table.columns]
        if missing:
            raise UserError(
                f"{path} is not a table of records, it has no column {missing[0]!r}: name a records.csv"
            )
        return _typed(table)
    except (OSError, ValueError, ParserError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a table of records ({text}): name a records.csv") from None


def _check(record: Record) -> None:
    if record.status not in STATUSES:
        raise UserError(f"a record's status is one of {', '.join(STATUSES)}, got {record.status!r}")
    parts = [
        (record.condition, record.metrics),
        *((u.get("condition", {}), u["metrics"]) for u in record.units),
    ]
    for condition, metrics in parts:
        for key in (*condition, *metrics):
            if key in RESERVED:
                raise UserError(
                    f"{key!r} is a column of every record: give the condition or metric another name"
                )


def _rows(record: Record) -> Iterable[tuple[dict, dict, dict]]:
    """(fixed columns, conditions, metrics) of each row of one run."""
    _check(record)
    commit = record.commit + ("-dirty" if record.dirty else "")
    fixed = {
        key: getattr(record, key)
        for key in ("experiment", "scale", "arm", "seed", "status", "device", "peak_mb")
    }
    fixed |= {"commit": commit, "config_hash": record.config_hash, "unit": None}
    condition = {key: name(value) for key, value in record.condition.items()}
    extras = json.dumps(_plain(record.extras), allow_nan=False) if record.extras else ""
    once = {"seconds": record.seconds, "extras": extras}
    if not record.units or record.metrics or record.extras:
        yield fixed | once, condition, {} if any("seed" in u for u in record.units) else record.metrics
        once = {"seconds": math.nan, "extras": ""}
    for unit in record.units:
        own = {"unit": unit["unit"], **{key: unit[key] for key in ("arm", "seed", "status") if key in unit}}
        more = {key: name(value) for key, value in unit.get("condition", {}).items()}
        yield fixed | once | own, condition | more, unit["metrics"]
        once = {"seconds": math.nan, "extras": ""}


def _names(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Every key once, in the order of first appearance."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _typed(table: Any) -> Any:
    """Give every column the one type it has, whether it comes from records or from text."""
    import pandas as pd

    numbers = [*metric_columns(table), "seconds", "peak_mb"]
    for column in table.columns:
        if column in numbers:
            table[column] = pd.Series(pd.to_numeric(table[column].replace("", math.nan))).astype(float)
        elif column in ("seed", "unit"):
            kind = "int64" if column == "seed" else "Int64"
            table[column] = pd.Series(pd.to_numeric(table[column].replace("", None))).astype(kind)
        else:
            table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str)
    return table


def _plain(value: Any) -> Any:
    """A JSON value without NaN; numpy and torch scalars and arrays become numbers and lists."""
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else (None if math.isnan(value) else str(value))
    if isinstance(value, Mapping):
        return {name(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"a record holds JSON only, got {type(value).__name__}: turn it into numbers, strings or lists"
    )


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {key: _float(value) for key, value in metrics.items()}
