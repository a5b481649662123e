"""A command line before Hydra runs it: composed and checked, each value of a sweep apart, before any job starts."""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from lossatlas.errors import UserError
from lossatlas.jobs import describe
from lossatlas.keys import check_keys, nearest, unknown, unread_keys
from lossatlas.machine import card_of
from lossatlas.paths import conf_dir
from lossatlas.private import refuse_literals
from lossatlas.schema import check


def check_single(argv: list[str]) -> None:
    """Checks the command line of one run; says what a new optimiser's rate is.

    Raises:
        UserError: as `check_command`, and several values of a key.
    """
    words = [arg for arg in argv if not arg.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(words)
    for override in overrides:
        if override.is_sweep_override():
            raise UserError(f"{override.input_line}: several values are a study; write python -m run -m ...")
    say_rate(check_command(argv), overrides)


def check_command(argv: list[str]) -> DictConfig:
    """Composes and checks a command line, each value of a sweep apart, before any job starts.

    Raises:
        UserError: the first wrong name, key or value, with the nearest right one.
    """
    words = [arg for arg in argv if not arg.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(words)
    for override in overrides:
        _check_word(override)
    first = [_with(o, next(iter(values_of(o)))) for o in overrides]
    base = _compose(first)
    for k, override in enumerate(overrides):
        for value in itertools.islice(values_of(override), 1, None):
            _compose([*first[:k], _with(override, value), *first[k + 1 :]])
    return base


def _check_word(override: Override) -> None:
    """What Hydra would take without a word, or name badly."""
    key, line = override.key_or_group, override.input_line or ""
    if not key:
        raise OverrideParseException(line, "no key")
    if key in ("hydra.run.dir", "hydra.sweep.dir"):
        raise UserError(f"{line}: every run has a folder of its own under output_root; write output_root=DIR")
    group = conf_dir() / key
    if group.is_dir() and isinstance(override.value(), list):
        raise UserError(f"{line}: one at a time; {nearest('', (path.stem for path in group.glob('*.yaml')))}")
    if override.is_delete() and key in ("optimizer", "schedule"):
        raise UserError(f"{line}: it takes nothing away; write {key}=none")


def check_grid(base: DictConfig, given: set[str]) -> None:
    """Checks the experiment's own grid, of which Hydra would meet a wrong arm or value at its job only.

    Args:
        base: composed and checked.
        given: keys of the command line, which the grid does not set.

    Raises:
        UserError: the first value that is not there.
    """
    params = {str(key): value for key, value in (base._params or {}).items() if str(key) not in given}
    lines = [f"{key}={value}" for key, value in params.items()]
    for override in OverridesParser.create().parse_overrides(lines):
        key, values = override.get_key_element(), list(values_of(override))
        group = conf_dir() / key
        options = [path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")]
        if key == "arm" or options:
            known = list(map(str, base.arms)) if key == "arm" else options
            for value in values:
                if value not in known:
                    raise UserError(
                        f"hydra.sweeper.params.{key}: {value} is not there; {nearest(value, known)}"
                    )
            continue
        for value in values[:1] + values[-1:] if key == "seed" else values:
            cfg = base.copy()
            for own in ("_params", "_search"):
                cfg.pop(own)
            word = OverridesParser.create().parse_override(f"{key}={value}")
            OmegaConf.update(cfg, key.lstrip("+"), word.value())
            check(cfg)


def check_claims(base: DictConfig) -> None:
    """Checks the paper's card, so that a misspelt claim or formula is met before the first job.

    Raises:
        UserError: the card cannot be read, or names an experiment, arm or value of the grid that is not there.
    """
    path = card_of(base.paper)
    if not path.is_file():
        return
    from lossatlas.claims.names import check_card  # with pydantic's models of a card; no pandas, no scipy

    wrong, new = check_card(path)
    if wrong:
        raise UserError(wrong[0] + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))
    for line in new:
        print(f"lossatlas: {line} (in the records so far)", file=sys.stderr)


def say_rate(cfg: DictConfig, overrides: Sequence[Override]) -> None:
    """One line where another optimiser takes over the rate that the experiment chose for its own."""
    given = {o.key_or_group: o.input_line for o in overrides}
    chosen = cfg.optimizer if given.get("optimizer") and "lr" in cfg else None
    if chosen and not {"lr", "optimizer.lr"} & set(given):
        print(
            f"{given['optimizer']}: the rate is lr={chosen.lr}, which the experiment has for its own optimiser;"
            " lr=... changes it",
            file=sys.stderr,
        )


def count_jobs(cfg: DictConfig, words: Sequence[str]) -> int:
    """How many jobs a block of overrides makes, together with the experiment's own grid."""
    hydra = cfg.get("_params") or {}
    merged = {str(k): f"{k}={v}" for k, v in hydra.items()}
    for override in OverridesParser.create().parse_overrides(list(words)):
        merged[override.get_key_element()] = override.input_line or ""
    total = 1
    for override in OverridesParser.create().parse_overrides(list(merged.values())):
        total *= sum(1 for _ in values_of(override))
    return total


def _compose(overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            cfg = compose("config", overrides=overrides, return_hydra_config=True)
        except (ConfigCompositionException, ValueError) as error:
            raise _named(error, overrides) from None
        hydra = cfg.hydra
        params = OmegaConf.to_container(hydra.sweeper.get("params") or OmegaConf.create(), resolve=False)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        refuse_literals(
            {part: OmegaConf.to_container(hydra[part]) for part in ("launcher", "sweeper")}, "hydra"
        )
        _check_keys(cfg, overrides)
        check(cfg)
        if OmegaConf.select(hydra, "runtime.choices.experiment"):
            describe(cfg, hydra)
        cfg["_params"] = params
        cfg["_search"] = "Optuna" in str(hydra.sweeper.get("_target_"))
        return cfg


def _check_keys(cfg: DictConfig, overrides: list[str]) -> None:
    """Refuses keys that nothing reads; after a word such as optimizer.lr=1 nothing may read the experiment's `lr`."""
    raw = _raw(cfg)
    unread = unread_keys(raw)
    if unread:
        own = _raw(
            compose("config", overrides=[o for o in overrides if o.startswith(("experiment=", "scale="))])
        )
        read = set(own) - set(unread_keys(own))
        unread = [key for key in unread if key not in read]
    check_keys(raw, unread)


def _raw(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _named(error: Exception, overrides: list[str]) -> Exception:
    """Hydra's `Could not override` with the nearest key that exists."""
    text = str(error)
    if text.startswith("Config group override"):  # Hydra does not say which
        for override in OverridesParser.create().parse_overrides(overrides):
            group = conf_dir() / override.key_or_group
            if override.key_or_group and group.is_dir() and not isinstance(override.value(), str | list):
                options = [path.stem for path in group.glob("*.yaml")]
                return UserError(
                    f"{override.input_line}: no such {group.name}; {nearest(_plain(override), options)}"
                )
    if not text.startswith("Could not override '"):
        return error
    key = text.split("'")[1]
    keep = [o for o in overrides if o.startswith(("experiment=", "scale="))]
    try:
        cfg = compose("config", overrides=keep)
    except ConfigCompositionException:
        return error
    parent = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else None
    part = isinstance(parent, DictConfig) and "_target_" in parent  # its constructor knows what it takes
    more = f" (an argument that its YAML does not list is written +{key}=...)" if part else ""
    return UserError(unknown(key, _keys(cfg)) + more)


def _keys(cfg: Any, prefix: str = "") -> list[str]:
    keys = []
    for key in cfg:
        path = f"{prefix}{key}"
        keys.append(path)
        if OmegaConf.is_dict(cfg) and OmegaConf.is_dict(cfg._get_node(key)):
            keys += _keys(cfg._get_node(key), f"{path}.")
    return keys


def values_of(override: Override) -> Any:
    """The values of an override, as they stand on a command line; the ends of an interval."""
    if not override.is_sweep_override():
        return iter([_plain(override)])
    interval = override.value()
    if isinstance(interval, IntervalSweep):  # a search looks between its ends
        return iter([str(interval.start), str(interval.end)])
    return override.sweep_string_iterator()


def _plain(override: Override) -> str:
    return override.get_value_element_as_str() if override.value() is not None else "null"


def _with(override: Override, value: Any) -> str:
    if override.is_delete():
        return override.input_line or ""
    prefix = "++" if override.is_force_add() else "+" if override.is_add() else ""
    return f"{prefix}{override.get_key_element().lstrip('+')}={value}"
