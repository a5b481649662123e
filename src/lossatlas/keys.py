"""Which keys a config may hold: those of conf/config.yaml and its groups, and those that an interpolation uses.

A key that nothing reads changes nothing: `sed=1` would be a second run of seed 0 under another name.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from typing import Any

from omegaconf import OmegaConf

from lossatlas.errors import UserError
from lossatlas.paths import conf_dir

# the first name in ${name.x}, ${oc.select:name,0}
USED = re.compile(r"\$\{\s*(?:[A-Za-z_][\w.]*:\s*)?\.*([A-Za-z_]\w*)")
PARTS = ("data", "net", "loss", "optimizer", "schedule", "module")  # what a run is built from
FREE = (
    "notes",
    "seeds",
)  # notes: kept with the record, read by nobody; seeds: of a study of cells (lossatlas.cells)
NO_KEYS = ("hydra", "experiment", "debug")  # groups that fill in other keys
CALLBACKS = ("progress", "history", "checkpoint")
LAST = {  # what other tools call it: by the last part of the key
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "max_steps": "epochs",
    "model": "net",
    "network": "net",
    "lr_scheduler": "schedule",
    "scheduler": "schedule",
    "optim": "optimizer",
    "criterion": "loss",
    "loss_fn": "loss",
    "dataset": "data",
    "datamodule": "data",
    "batchsize": "batch_size",
    "bs": "batch_size",
    "random_seed": "seed",
    "gradient_clip_val": "trainer.gradient_clip",
    "clip_grad_norm": "trainer.gradient_clip",
    "accumulate_grad_batches": "batch_size",
    "check_val_every_n_epoch": "eval_every",
    "output_dir": "output_root",
    "save_dir": "output_root",
}
RESUMES = "a run that was cut resumes by itself: repeat its command (rerun=true starts it anew)"


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean a, b?` where something is close, else the allowed values (at most 12)."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {', '.join(close)}?"
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"known: {shown}"


@lru_cache(maxsize=1)
def known_keys() -> frozenset[str]:
    """The top-level keys of every run: those of conf/config.yaml and the groups beside it."""
    root = conf_dir()
    own = OmegaConf.load(root / "config.yaml")
    groups = {path.name for path in root.iterdir() if path.is_dir()}
    return frozenset({str(key) for key in own} - {"defaults"} | groups - set(NO_KEYS) | set(FREE))


def habit(key: str) -> str | None:
    """What a key of another tool is called here, as half a sentence; None where it is no such key.

    Example:
        >>> habit("trainer.max_epochs")
        'that is epochs here'
    """
    last = key.split(".")[-1]
    if last in ("ckpt_path", "resume_from_checkpoint", "resume"):
        return RESUMES
    if re.fullmatch(r"limit_\w+_batches|overfit_batches|fast_dev_run|profiler|deterministic", last):
        return f"Lightning's own arguments stand under trainer_args: '+trainer_args.{last}=...'"
    name = LAST.get(last) if key.count(".") == 0 or key.startswith("trainer.") else None
    return f"that is {name} here" if name else None


def unknown(key: str, known: Iterable[str]) -> str:
    """One line about a key that is not there: what it is called here, else the nearest names."""
    return f"{key}: no such key; {habit(key) or nearest(key, known)}"


def unread_keys(raw: dict[str, Any]) -> list[str]:
    """Top-level keys that are neither known, nor used by an interpolation, nor a table that is chosen from.

    Args:
        raw: a config as plain data, interpolations not resolved.

    Example:
        >>> unread_keys({"epochs": 3, "epoch": 50, "rate": 0.1, "optimizer": {"lr": "${rate}"}})
        ['epoch']
    """
    strange = [str(key) for key in raw if key not in known_keys()]
    used = {name for text in _texts(raw) for name in USED.findall(text)} if strange else set()
    return [key for key in strange if key not in used and not _is_table(key, raw)]


def check_keys(raw: dict[str, Any], unread: Collection[str]) -> None:
    """Refuses keys that nothing reads, and callbacks that are not there.

    Args:
        raw: a config as plain data, interpolations not resolved.
        unread: of `unread_keys`, without those that a word of the command line has replaced.

    Raises:
        UserError: names the first such key and the nearest that are known.
    """
    for key in unread:
        names = {*known_keys(), *map(str, raw)} - set(unread)
        own = f"nothing reads it: a key of your own is used as ${{{key}}} by another"
        raise UserError(f"{unknown(key, names)} ({own})")
    callbacks = raw.get("callbacks")
    for key in callbacks if isinstance(callbacks, dict) else ():
        if key not in CALLBACKS:
            raise UserError(f"callbacks.{key}: no such key; {nearest(str(key), CALLBACKS)}")


def check_parts(raw: dict[str, Any], parts: dict[str, Any]) -> None:
    """Refuses a part that cannot be built: a word or a number, or a mapping that names no class.

    Args:
        raw: the config as plain data, interpolations not resolved.
        parts: `PARTS` with interpolations resolved.

    Raises:
        UserError: names the part, what came and what it may be.
    """
    arms, arm = raw.get("arms") or {}, raw.get("arm")
    if not isinstance(arms, dict):
        raise UserError(f"arms={arms}: should be a mapping from names to methods")
    if arm in arms and arms[arm] is None:
        raise UserError(f"arms.{arm}=null: the arm is empty; give it a mapping with a _target_")
    for name, value in parts.items():
        if value is None or value == {}:
            continue
        if not isinstance(value, dict):
            raise UserError(
                f"{name}={value}: {name} is a mapping with a _target_; {_instead(name, value, arms)}"
            )
        if "_target_" not in value and not all(isinstance(part, dict) for part in value.values()):
            raise UserError(
                f"{name}: the mapping names no class; it needs a _target_ beside {', '.join(value)}"
            )
    loss = parts.get("loss")
    if isinstance(loss, dict) and loss.get("reduction") in ("sum", "mean"):
        raise UserError(
            f"loss.reduction={loss['reduction']}: a loss gives one value per sample, from which the mean is taken;"
            " write reduction: none"
        )


def _instead(name: str, value: Any, arms: Any) -> str:
    folder = conf_dir() / name
    options = sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []
    if isinstance(arms, dict) and str(value) in arms:
        return f"did you mean arm={value}?"
    if options:
        return f"in an experiment file a group's option is taken by 'override /{name}: {nearest(str(value), options)}'"
    return f"{name}={{_target_: ...}}"


def _is_table(key: str, raw: dict[str, Any]) -> bool:
    """Whether a key holds the entries that another one chooses from, or YAML anchors that others were merged from."""
    table = raw[key]
    if not isinstance(table, dict):
        return False
    others = [value for name, value in raw.items() if name != key]
    if any(isinstance(value, str) and value in table for value in others):
        return True
    mappings = [found for value in others for found in _mappings(value)]
    parts = [part for part in table.values() if isinstance(part, dict) and part]
    return any(
        all(name in found and found[name] == part[name] for name in part)
        for part in parts
        for found in mappings
    )


def _mappings(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _mappings(value)
    elif isinstance(node, list):
        for value in node:
            yield from _mappings(value)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str) and "${" in node:
        yield node
