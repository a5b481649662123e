"""What a composed config may hold, checked before torch is imported: types, ranges, names of arms.

Common keys are a pydantic model; a paper's own numeric keys are checked against the intervals
under `limits` in its experiment file, written as in mathematics: `arms.gce.q: (0, 1]`.
"""

import math
import re
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from lossatlas.errors import UserError
from lossatlas.keys import PARTS, check_parts, nearest, unknown
from lossatlas.private import refuse_literals

MISSING_KEY = re.compile(r"Interpolation key '([^']+)' not found")
INTERVAL = re.compile(r"^([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])\s*(int)?$")


class Strict(BaseModel):
    """No silent conversion: seed=1.5 or seed="3" is refused."""

    model_config = ConfigDict(strict=True, extra="allow")


class TrainerKeys(Strict):
    """The `trainer` group."""

    model_config = ConfigDict(strict=True, extra="forbid")
    accelerator: Literal["cpu", "gpu", "mps", "auto"]
    devices: PositiveInt
    strategy: Literal["auto", "ddp", "fsdp"]
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed", "bf16-true"]
    threads: PositiveInt | None
    compile: bool
    gradient_clip: float | None = Field(gt=0)


class Limit(Strict):
    """Rows kept of each split."""

    model_config = ConfigDict(strict=True, extra="forbid")
    train: PositiveInt | None
    test: PositiveInt | None


class Objective(Strict):
    """What a search looks for."""

    model_config = ConfigDict(strict=True, extra="forbid")
    metric: str | None
    direction: Literal["minimize", "maximize"] | None


class RunKeys(Strict):
    """The keys that every experiment has."""

    paper: str | None
    arm: str | None
    seed: int = Field(ge=0, lt=2**31)
    seeds: PositiveInt | None  # of a study of cells: how many, from `seed` on
    epochs: PositiveInt
    batch_size: PositiveInt
    chunk: PositiveInt
    eval_every: PositiveInt
    eval_batch: PositiveInt
    stack: PositiveInt
    fake: bool
    limit: Limit
    trainer: TrainerKeys
    objective: Objective
    rerun: bool | Literal["failed"]
    publish: bool
    trace: bool
    output_root: str
    data_root: str | None
    data_mirrors: str | list[str] | None


def check(cfg: DictConfig) -> None:
    """Checks a composed config.

    Raises:
        UserError: the first key that does not fit, the value that came and what is allowed.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(raw, dict)
    refuse_literals(raw)
    arms = raw.get("arms") or {}
    arm = raw.get("arm")
    if arms and arm not in arms:
        raise UserError(f"arm={arm} is not in this experiment; {nearest(str(arm), arms)}")
    try:
        keys = {name: _resolved(cfg, name) for name in RunKeys.model_fields}
        RunKeys.model_validate(keys)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(
            str(part) for part in first["loc"] if not str(part).startswith(("literal", "int", "bool"))
        )
        if first["type"] == "extra_forbidden":
            inner = {"trainer": TrainerKeys, "limit": Limit, "objective": Objective}[str(first["loc"][0])]
            raise UserError(
                unknown(where, [f"{first['loc'][0]}.{key}" for key in inner.model_fields])
            ) from None
        what = first["msg"].replace("Input should be", "should be")
        raise UserError(f"{where}={first['input']!r}: {what}") from None
    if (
        cfg.trainer.accelerator in ("cpu", "mps")
        and cfg.trainer.strategy == "auto"
        and cfg.trainer.devices > 1
    ):
        raise UserError(
            f"trainer.devices={cfg.trainer.devices}: one process uses one {cfg.trainer.accelerator} device;"
            " several processes on the CPU are trainer=ddp_sim"
        )
    check_parts(
        {str(key): value for key, value in raw.items()}, {name: _resolved(cfg, name) for name in PARTS}
    )
    for path, interval in (raw.get("limits") or {}).items():
        if path.split(".")[0] not in raw:
            raise UserError(f"limits: {path}: no such key; {nearest(path.split('.')[0], map(str, raw))}")
        check_interval(path, _resolved(cfg, path), interval)
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise _refusal(cfg, str(error.full_key or "config"), error) from None


def _refusal(cfg: DictConfig, path: str, error: OmegaConfBaseException) -> UserError:
    """One line; where a key such as `setting` names no entry of its table, the entries there are."""
    line = str(error).splitlines()[0]
    missing = MISSING_KEY.search(line)
    parts = missing[1].split(".") if missing else []
    for n in range(1, len(parts)):
        table = OmegaConf.select(cfg, ".".join(parts[:n]))
        if OmegaConf.is_dict(table) and parts[n] not in table:
            raw: Any = OmegaConf.to_container(cfg, resolve=False)
            chosen = [key for key, value in raw.items() if value == parts[n]]
            if chosen:
                known = nearest(parts[n], map(str, table))
                return UserError(f"{chosen[0]}={parts[n]} is not in this experiment; {known}")
            break
    return UserError(f"{path}: {line}")


def check_interval(path: str, value: Any, interval: str) -> None:
    """Checks one number against an interval such as `(0, 1]`, `[0, inf)` or `[1, inf) int`.

    Raises:
        UserError: not a number, NaN, or outside. A None passes (switched off).
    """
    match = INTERVAL.match(interval)
    if match is None:
        raise UserError(
            f"limits: {path}: {interval!r} is no interval; write it like '(0, 1]' or '[1, inf) int'"
        )
    if value is None:
        return
    left, low, high, right, whole = match.groups()
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UserError(
            f"{path}={value!r}: should be {'a whole number' if whole else 'a number'} in {interval}"
        )
    above = value > float(low) if left == "(" else value >= float(low)
    below = value < float(high) if right == ")" else value <= float(high)
    if math.isnan(value) or not (above and below):
        raise UserError(f"{path}={value}: should lie in {interval}")


def _resolved(cfg: DictConfig, path: str) -> Any:
    try:
        value = OmegaConf.select(cfg, path, throw_on_missing=True)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        raise _refusal(cfg, path, error) from None
