"""Secrets stay in the environment: never in a config that is written, a record, a log or an error's text.

A key whose name ends in key, token, password, secret or credentials may hold an interpolation such as
`${oc.env:WANDB_API_KEY}`, which is what gets written; a literal value is refused.
"""

import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossatlas.errors import UserError

WORDS = "key|apikey|token|passw(?:or)?d|secret|credentials?"
NAME = re.compile(rf"(?i)(?:^|[_.-])(?:{WORDS})$")
LOGIN = re.compile(r"(\w+://[^/\s:@]*:)[^/\s@$]+@")  # scheme://user:password@host
GIVEN = re.compile(
    rf"(?i)((?<![a-z])(?:{WORDS})=)(?!\$\{{|\.\.\.)[^\s'\"\]]+"
)  # key=value in the text of an error
SHORTEST = 8  # characters of an environment variable's value that is looked for in texts


def refuse_literals(raw: Any, path: str = "") -> None:
    """Refuses a secret that is written out in a config, given as plain data before interpolation.

    Raises:
        UserError: names the key, never the value.
    """
    known = _environment()
    for where, value in _leaves(raw, path):
        text = "" if value is None or isinstance(value, bool) else str(value)
        found = next((name for name, secret in known.items() if secret in text), None)
        hidden = "${" in text and LOGIN.search(text) is None
        if found or (text and not hidden and (NAME.search(where) or LOGIN.search(text))):
            name = found or re.sub(r"\W+", "_", where.split(".")[-1]).upper()
            raise UserError(
                f"{where}: a secret would be written into records and logs; set an environment variable, then"
                f" '{where}=${{oc.env:{name}}}'"
            )


def written(cfg: DictConfig, without: Collection[str] = ()) -> dict[str, Any]:
    """The config with interpolations resolved, but for those that hold a secret.

    Args:
        cfg: composed.
        without: keys that are left out, and not resolved either.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    raw = {str(key): value for key, value in plain.items() if key not in without}
    resolved = {key: _resolved(cfg[key]) for key in raw}
    named = {str(value) for where, value in _leaves(resolved) if value is not None and NAME.search(where)}
    hidden = {*_environment().values(), *(text for text in named if len(text) > 3)}
    made = _merge(raw, resolved, "", hidden)
    assert isinstance(made, dict)
    return {str(key): value for key, value in made.items()}


def _resolved(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def redact(text: str) -> str:
    """A text for terminals and files: secrets of the environment, logins in addresses and given keys become ***."""
    for value in _environment().values():
        text = text.replace(value, "***")
    return GIVEN.sub(r"\1***", LOGIN.sub(r"\1***@", text))


def _environment() -> dict[str, str]:
    """Environment variables whose name says that they are secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if NAME.search(name) and len(value) >= SHORTEST and not value.isdigit()
    }


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all values; those of a list bear the list's path."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    else:
        yield path, node


def _merge(raw: Any, resolved: Any, path: str, hidden: set[str]) -> Any:
    if isinstance(resolved, dict):
        below = raw if isinstance(raw, dict) else {}
        return {key: _merge(below.get(key), value, str(key), hidden) for key, value in resolved.items()}
    if isinstance(resolved, list):
        beside = raw if isinstance(raw, list) else [None] * len(resolved)
        return [_merge(a, b, path, hidden) for a, b in zip(beside, resolved, strict=True)]
    secret = resolved is not None and (NAME.search(path) or any(text in str(resolved) for text in hidden))
    if not secret or isinstance(resolved, bool):
        return resolved
    return raw if isinstance(raw, str) else "***"  # reached by an interpolation further up
