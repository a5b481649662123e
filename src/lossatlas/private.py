"""Secrets stay in the environment: never in a config that is written, a record, a log or an error's text.

A secret is known by its value (the formats of known services, what looks drawn at random) or by a key that names
nothing else (`NAMES`). Such a key may hold an interpolation such as `${oc.env:WANDB_API_KEY}`, which is what gets
written; a literal value is refused. `pad_token`, `key` and `label_key` are ordinary words of this field.
"""

import itertools
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossatlas.errors import UserError

NAMES = frozenset({
    "password", "passwd", "passphrase", "secret", "credential", "credentials", "apikey", "api_key", "access_key",
    "secret_key", "private_key", "signing_key", "access_token", "api_token", "auth_token", "bearer_token",
    "refresh_token", "session_token", "hf_token", "github_token", "wandb_key", "api_secret", "client_secret",
})  # fmt: skip
WORDS = "key|apikey|token|passw(?:or)?d|secret|credentials?"
NAME = re.compile(
    rf"(?i)(?:^|[_.-])(?:{WORDS})$"
)  # of environment variables; of a key only where the value looks it
FORMATS = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|xox[abeprs]-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
RANDOM = re.compile(r"[A-Za-z0-9_+=/-]{16,}")  # what a drawn secret is made of
LOGIN = re.compile(r"(\w+://[^/\s:@]*:)[^/\s@$]+@")  # scheme://user:password@host
GIVEN = re.compile(r"([\w.-]+)=(?!\$\{|\.\.\.)([^\s'\"\]]+)")  # key=value in the text of an error
SHORTEST = 8  # characters of an environment variable's value that is looked for in texts


def is_secret(key: str, value: Any) -> bool:
    """Whether a key's value has to be kept out of files: by the key's exact name, or by how the value looks.

    Example:
        >>> is_secret("service.api_key", "1234"), is_secret("pad_token", "<pad>"), is_secret("attention.key", 3)
        (True, False, False)
        >>> is_secret("notes.token", "9f8a7c6b5d4e3f2a1b0c"), is_secret("sha256", "9f8a7c6b5d4e3f2a1b0c")
        (True, False)
    """
    if _names_secret(key):
        return True
    text = str(value)
    if FORMATS.search(text):
        return True
    if not RANDOM.fullmatch(text):
        return False
    kinds = {"digit" if c.isdigit() else "upper" if c.isupper() else "lower" for c in text if c.isalnum()}
    if NAME.search(key):
        return "digit" in kinds and len(kinds) > 1 and _changes(text) >= 0.2
    return len(text) >= 24 and "/" not in text and len(kinds) == 3 and _changes(text) >= 0.35


def _names_secret(key: str) -> bool:
    """Whether the last words of a key are one of `NAMES`: `db_password` is, `pad_token` is not."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", key.split(".")[-1]).lower().replace("-", "_").split("_")
    return any("_".join(words[-n:]) in NAMES for n in (1, 2))


def _changes(text: str) -> float:
    """The share of neighbouring letters and digits of which one is a digit or a capital and the other is not."""
    pairs = [(a, b) for a, b in itertools.pairwise(text) if a.isalnum() and b.isalnum()]
    changed = sum(a.isdigit() != b.isdigit() or a.isupper() != b.isupper() for a, b in pairs)
    return changed / max(1, len(pairs))


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
        if found or (text and not hidden and (is_secret(where, text) or LOGIN.search(text))):
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
    named = {
        str(value) for where, value in _leaves(resolved) if value is not None and is_secret(where, value)
    }
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
    return GIVEN.sub(_hidden, FORMATS.sub("***", LOGIN.sub(r"\1***@", text)))


def _hidden(found: re.Match[str]) -> str:
    key, value = found.groups()
    return f"{key}=***" if is_secret(key, value.strip("{}(),;.")) else found[0]


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
    secret = resolved is not None and (
        is_secret(path, resolved) or any(text in str(resolved) for text in hidden)
    )
    if not secret or isinstance(resolved, bool):
        return resolved
    return raw if isinstance(raw, str) else "***"  # reached by an interpolation further up
