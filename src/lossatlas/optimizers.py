"""Optimisers that see names: groups of parameters with rules of their own, several optimisers in one module.

An experiment says which in its YAML; a plain partial (`_target_: torch.optim.SGD, _partial_: true`) stays what it was.

    optimizer:                                     # one optimiser, rules by name
      _target_: lossatlas.optimizers.Groups
      make: {_target_: torch.optim.SGD, _partial_: true, lr: 0.05, momentum: 0.9, weight_decay: 5.0e-4}
      rules:                                       # the first that matches; the others stay as `make` says
        - {match: ["*.bias", "*alpha"], weight_decay: 0.0}
        - {match: "loss.proxies", rate: 100, weight_decay: 0.0}

    optimizer:                                     # several, each with its own schedule
      _target_: lossatlas.optimizers.Several
      parts:
        heads: {match: "net.heads.*", make: {_target_: torch.optim.SGD, _partial_: true, lr: 0.1}, schedule: null}
        backbone: {match: "*", make: {_target_: torch.optim.SGD, _partial_: true, lr: 0.01}}

Names are the module's own, as `LitModule.named_parameters()` gives them (`net.0.weight`, `loss.c`); patterns are those
of fnmatch. Without `schedule` a part follows the experiment's, with null it has none. `LitModule.descend(loss)` steps
all of them, `descend(loss, of="heads")` one.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

Names = Sequence[tuple[str, Tensor]]
KEYS = {"match", "rate", "weight_decay", "optional"}


class Groups:
    """One optimiser whose parameters follow rules by name.

    Args:
        make: partial, called with parameter groups.
        rules: mappings of `match` (a pattern or several), `rate` (factor of the learning rate, >= 0),
            `weight_decay` (in place of make's, >= 0) and `optional` (true: may match nothing).

    Raises:
        ValueError: a rule of other keys or numbers; when called, a rule that matches nothing.

    Example:
        >>> import functools, torch
        >>> named = list(torch.nn.Linear(2, 3).named_parameters())
        >>> sgd = functools.partial(torch.optim.SGD, lr=0.5, weight_decay=0.1)
        >>> made = Groups(sgd, [{"match": "*bias", "rate": 4, "weight_decay": 0.0}])(named)
        >>> [(len(g["params"]), g["lr"], g["weight_decay"]) for g in made.param_groups]
        [(1, 0.5, 0.1), (1, 2.0, 0.0)]
    """

    named = True

    def __init__(self, make: Callable[..., Optimizer], rules: Sequence[Mapping[str, Any]] = ()) -> None:
        for rule in rules:
            numbers = [rule[key] for key in ("rate", "weight_decay") if rule.get(key) is not None]
            if (
                "match" not in rule
                or set(rule) - KEYS
                or not all(0 <= value < float("inf") for value in numbers)
            ):
                needs = "match, and of rate >= 0, weight_decay >= 0, optional what it needs"
                raise ValueError(f"a rule of Groups has {needs}, got {dict(rule)}")
        self.make, self.rules = make, list(rules)

    def __call__(self, named: Names) -> Optimizer:
        """The optimiser of these (name, parameter) pairs."""
        kept = [(rule, tensors) for rule, tensors in self._dealt(named) if tensors]
        groups = []
        for rule, tensors in kept:
            decay = rule.get("weight_decay")
            groups.append({"params": tensors} | ({} if decay is None else {"weight_decay": float(decay)}))
        optimizer = self.make(groups)
        if "weight_decay" not in optimizer.defaults and any("weight_decay" in group for group in groups):
            raise ValueError(f"{type(optimizer).__name__} has no weight_decay that a rule could set")
        for group, (rule, _) in zip(optimizer.param_groups, kept, strict=True):
            if rule.get("rate") is not None:
                group["lr"] = group["lr"] * rule["rate"]
        return optimizer

    def _dealt(self, named: Names) -> list[tuple[Mapping[str, Any], list[Tensor]]]:
        """Those that no rule names, then those of each rule."""
        dealt: list[tuple[Mapping[str, Any], list[Tensor]]] = [({}, []), *((rule, []) for rule in self.rules)]
        for name, p in named:
            place = next((i for i, rule in enumerate(self.rules) if matches(name, rule["match"])), -1)
            dealt[place + 1][1].append(p)
        for rule, tensors in dealt[1:]:
            if not tensors and not rule.get("optional"):
                raise ValueError(
                    f"rule {rule['match']!r} names no parameter that an earlier rule left: {_shown(named)}"
                )
        return dealt


class Several:
    """Several optimisers, each of the parameters that its pattern names and no earlier one did.

    Args:
        parts: name to a mapping of `match`, `make` (a partial, or Groups) and perhaps `schedule` (a partial; null for
            none; left out: the experiment's).

    Raises:
        ValueError: no part, or one of other keys; when called, a part without parameters, a parameter without a part.
    """

    named = True

    def __init__(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        for name, part in parts.items():
            if not {"match", "make"} <= set(part) <= {"match", "make", "schedule"}:
                raise ValueError(
                    f"part {name} of Several has match, make and perhaps schedule, got {list(part)}"
                )
        if not parts:
            raise ValueError("Several needs at least one part: {name: {match: .., make: ..}}")
        self.parts = dict(parts)

    def dealt(self, named: Names) -> dict[str, list[tuple[str, Tensor]]]:
        """(name, parameter) pairs of each part."""
        found: dict[str, list[tuple[str, Tensor]]] = {part: [] for part in self.parts}
        for name, p in named:
            owner = next((part for part, said in self.parts.items() if matches(name, said["match"])), None)
            if owner is None:
                raise ValueError(
                    f'parameter {name} belongs to no optimiser: add a part that matches it, such as "*"'
                )
            found[owner].append((name, p))
        if empty := [part for part, pairs in found.items() if not pairs]:
            raise ValueError(
                f"optimiser {empty[0]} names no parameter that an earlier part left: {_shown(named)}"
            )
        return found


def matches(name: str, patterns: str | Sequence[str]) -> bool:
    """Whether a parameter's name fits a pattern of fnmatch, or one of several.

    Example:
        >>> matches("net.0.bias", "*.bias"), matches("net.0.bias", ["loss.*", "net.1.*"])
        (True, False)
    """
    return any(fnmatchcase(name, p) for p in ([patterns] if isinstance(patterns, str) else patterns))


def built(make: Any, named: Names) -> Optimizer:
    """An optimiser of (name, parameter) pairs: a maker with `named` gets the pairs, a plain partial the parameters."""
    return make(list(named)) if getattr(make, "named", False) else make([p for _, p in named])


def configured(
    make: Any, named: Names, schedule: Callable[[Optimizer], Any] | None = None
) -> list[tuple[str | None, dict[str, Any]]]:
    """(name, {optimizer, lr_scheduler}) of each optimiser, as Lightning takes them; a single one has no name.

    Args:
        make: partial, Groups or Several.
        named: (name, parameter) pairs of what is trained.
        schedule: partial of those that say nothing of their own.

    Example:
        >>> import functools, torch
        >>> sgd = functools.partial(torch.optim.SGD, lr=0.1)
        >>> several = Several({"bias": {"match": "bias", "make": sgd}, "rest": {"match": "*", "make": sgd}})
        >>> [name for name, _ in configured(several, list(torch.nn.Linear(2, 3).named_parameters()))]
        ['bias', 'rest']
    """
    if not isinstance(make, Several):
        return [(None, _with_schedule(built(make, named), schedule))]
    return [
        (
            name,
            _with_schedule(built(make.parts[name]["make"], own), make.parts[name].get("schedule", schedule)),
        )
        for name, own in make.dealt(named).items()
    ]


def _with_schedule(optimizer: Optimizer, schedule: Callable[[Optimizer], Any] | None) -> dict[str, Any]:
    if schedule is None:
        return {"optimizer": optimizer}
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule(optimizer)}}


def _shown(named: Names) -> str:
    names = [name for name, _ in named]
    return ", ".join(names[:8]) + (f", .. ({len(names)} in all)" if len(names) > 8 else "")
