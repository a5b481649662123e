"""What may stand in a card.yaml; a mistake is one line that names the claim, the key and what is allowed."""

from __future__ import annotations

import difflib
import importlib
import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from yaml import YAMLError

from lossatlas.claims.spec import (
    CHECKS,
    AnyStatistic,
    Check,
    FunctionStatistic,
    MetricStatistic,
    Name,
    Names,
    Number,
    Order,
    Slope,
    Strict,
    Trend,
    as_list,
)
from lossatlas.errors import UserError


class Part(Strict):
    """One statistic with its check: a claim is one part, or several that must all hold."""

    experiment: str
    statistic: AnyStatistic
    check: Check
    says: str = ""


class Contrast(Strict):
    """For what the claim's statement must not hold: a baseline in the arm's place, or a condition without the cause.

    Args:
        arm, than: instead of the check's.
        where: condition values instead of the statistic's.
        args: of a function statistic, instead of its own.
        says: why it should not hold there, own words.
    """

    arm: Names | None = None
    than: Names | None = None
    where: dict[str, Names] = Field(default_factory=dict)
    args: dict[str, Any] = Field(default_factory=dict)
    says: str = ""

    @model_validator(mode="after")
    def _something(self) -> Contrast:
        if not (self.arm or self.than or self.where or self.args):
            raise ValueError("`contrast` names at least one of arm, than, where, args")
        return self

    @property
    def label(self) -> str:
        """In words, such as `arm ce at noise=u00`."""
        names = [
            f"{key} {', '.join(value)}" for key, value in (("arm", self.arm), ("than", self.than)) if value
        ]
        points = [f"{key}={','.join(value)}" for key, value in self.where.items()]
        points += [f"{key}={value}" for key, value in self.args.items()]
        return " at ".join(part for part in (" ".join(names), " ".join(points)) if part)

    def part(self, part: Part) -> Part:
        """The same statement, about the contrast.

        Raises:
            UserError: the part has nothing that the contrast could replace.
        """
        statistic, check = part.statistic, part.check
        if self.where or self.args:
            where: dict[str, Any] = dict(self.where)
            change: dict[str, Any] = {}
            if isinstance(statistic, FunctionStatistic):
                where = {key: values[0] for key, values in where.items()}
                change["args"] = {**statistic.args, **self.args}
            elif self.args:
                raise UserError("contrast.args needs a statistic that is a function")
            statistic = statistic.model_copy(update={**change, "where": {**statistic.where, **where}})
        change = {key: value for key, value in (("arm", self.arm), ("than", self.than)) if value}
        if "than" in change and not hasattr(check, "than"):
            raise UserError(
                f"contrast.than: check {check.kind} compares with no other arm, name contrast.arm"
            )
        if set(change.get("arm") or check.arm or []) & set(
            change.get("than") or getattr(check, "than", []) or []
        ):
            raise UserError("contrast: an arm would be compared with itself, name another `arm` or `than`")
        return part.model_copy(update={"statistic": statistic, "check": check.model_copy(update=change)})


class Independent(Strict):
    """Repetitions inside a seed are units of their own, because they redraw everything."""

    independent: Annotated[str, Field(min_length=10)]


class Claim(Strict):
    """One statement of the paper, made testable before its study was run.

    Args:
        n: planned units: at another number the claim is not decided.
        units: by default the seed is the unit and its repetitions are averaged.
        contrast: for what the same statement must not hold.
        extended: why the affordable study cannot decide the claim; it waits for `grid=extended`.
        seeds: which seeds count, first (< 100), fresh (>= 1000, a declared confirmation) or all of both.
    """

    id: str
    says: str
    source: str
    parts: list[Part]
    n: Annotated[int, Field(ge=1)]
    units: Independent | None = None
    contrast: Contrast | None = None
    extended: str = ""
    note: str = ""
    seeds: Literal["all", "first", "fresh"] = "all"
    scale: str | None = None


class PaperFigure(Strict):
    """Numbers the paper prints: where, what they are, name to value, and at need name to the claim that checks it."""

    table: str
    what: str = ""
    values: dict[Name, Number | str] = Field(default_factory=dict)
    ours: dict[Name, str] = Field(default_factory=dict)


class Example(Strict):
    """A few lines of Python that use the paper's method without the runner, and a run that gives the same numbers.

    Args:
        code: Python, complete as it stands; tests/test_room_examples.py executes it.
        run: what is typed after `python -m run` for the same numbers, as words of a command line.
        same: metric of that run's record to the variable of `code` that equals it.
        unit: the repetition whose metrics are compared; without it the run's own.
        rtol: relative tolerance; sums may be taken in another order.
    """

    code: str
    run: str
    same: Annotated[dict[str, str], Field(min_length=1)]
    unit: int | None = None
    rtol: Annotated[float, Field(gt=0, lt=1)] = 1e-6


class Equation(Strict):
    """One formula of the paper.

    Args:
        tex: LaTeX of mathematics, without dollar signs; the report turns it into MathML.
        says: what it is and what its symbols mean, own words.
        source: its number or place in the paper.
    """

    tex: str
    says: str = ""
    source: str = ""

    @model_validator(mode="after")
    def _balanced(self) -> Equation:
        """What a renderer would only meet when the page is built; the rest of LaTeX is the report's and the tests'."""
        plain = re.sub(r"\\\\|\\[{}]", " ", self.tex)  # a line break, a brace that is printed
        depth = [0, *itertools.accumulate({"{": 1, "}": -1}.get(letter, 0) for letter in plain)]
        words = Counter(re.findall(r"\\([a-zA-Z]+)", plain))
        odd = ["{ and }"] if depth[-1] or min(depth) < 0 else []
        odd += [rf"\{a} and \{b}" for a, b in (("left", "right"), ("begin", "end")) if words[a] != words[b]]
        if odd:
            raise ValueError(f"{odd[0]} do not match in {' '.join(self.tex.split())[:80]!r}")
        return self


class Card(Strict):
    """One paper: citation, its own figures, its claims, and what the generated README says besides.

    `family` is the group under which the report lists it.

    `figure` and `details` name functions of the tidy table: one draws figure.png, the other returns paragraphs of
    Markdown for what is neither a number nor a curve, such as texts that a model wrote.
    """

    paper: str
    title: str
    authors: Annotated[list[str], BeforeValidator(as_list)]
    venue: str
    year: Annotated[int, Field(ge=1900, le=2100)]
    url: str = ""
    citation: str = ""
    family: str = ""
    idea: str = ""
    equations: list[Equation] = Field(default_factory=list)
    figure: str | None = None
    details: str | None = None
    figures: list[PaperFigure] = Field(default_factory=list)
    metrics: list[str] = Field(default_factory=list)
    example: Example | None = None
    failures: Annotated[list[str], BeforeValidator(as_list)] = Field(default_factory=list)
    notes: Annotated[list[str], BeforeValidator(as_list)] = Field(default_factory=list)
    n: Annotated[int, Field(ge=1)] | None = None
    units: Independent | None = None
    claims: Annotated[list[Claim], Field(min_length=1)]

    @property
    def experiments(self) -> list[str]:
        """Every experiment a claim needs, in the order of the claims."""
        return list(dict.fromkeys(part.experiment for claim in self.claims for part in claim.parts))


def load_card(path: str | Path) -> Card:
    """Read and check a card.

    Raises:
        UserError: no such file, no YAML, or anything a card may not say.
    """
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): name a card.yaml") from None
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())}): mend that line") from None
    return parse_card(raw)


def parse_card(raw: Any) -> Card:
    """Check a card given as plain data, as OmegaConf.to_container gives it.

    Raises:
        UserError: an unknown key or kind, a missing field, a value out of range.

    Example:
        >>> statistic = {"metric": "test/top1", "where": {"noise": "u60"}}
        >>> check = {"kind": "better", "arm": "aldr_kl", "than": ["ce"], "by": 0.005}
        >>> claim = dict(id="a", says="b", source="Table 1", experiment="ldr_noisy")
        >>> card = dict(paper="ldr", title="t", authors="Z", venue="ICML", year=2023, n=10)
        >>> parse_card({**card, "claims": [{**claim, "statistic": statistic, "check": check}]}).experiments
        ['ldr_noisy']
    """
    if not isinstance(raw, dict):
        raise UserError("a card is a mapping with paper, title, authors, venue, year and claims")
    place = f"card {raw.get('paper', '?')}"
    claims = raw.get("claims")
    if not isinstance(claims, list):
        raise UserError(f"{place}: `claims` is a list of mappings with id, says, source, experiment, ...")
    common = {key: raw[key] for key in ("n", "units") if key in raw}
    parsed = [
        _claim(claim, f"{place}, claim {_label(claim, i)}", common) for i, claim in enumerate(claims, 1)
    ]
    ids = [claim.id for claim in parsed]
    if doubled := [id_ for id_ in ids if ids.count(id_) > 1]:
        raise UserError(f"{place}: two claims are called {doubled[0]!r}: give each an id of its own")
    return _build(Card, {**raw, "claims": parsed}, place)


def load_function(dotted: str) -> Callable:
    """Import `package.module.function`.

    Raises:
        UserError: there is no such module or function.
    """
    module, _, attribute = dotted.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{dotted} cannot be imported ({error}): name a function by its dotted path"
        ) from None
    if not callable(function):
        raise UserError(f"{dotted} is no function: a card names functions by their dotted path")
    return function


def _label(claim: Any, position: int) -> str:
    return str(claim.get("id", position)) if isinstance(claim, dict) else str(position)


CLAIM_KEYS = [key for key in Claim.model_fields if key != "parts"]


def _claim(raw: Any, place: str, common: dict[str, Any]) -> Claim:
    if not isinstance(raw, dict):
        raise UserError(f"{place}: a claim is a mapping with id, says, source, experiment, statistic, check")
    single = {key: raw[key] for key in ("experiment", "statistic", "check") if key in raw}
    allowed = [*CLAIM_KEYS, "experiment", "statistic", "check", "all"]
    if unknown := [key for key in raw if key not in allowed]:
        raise UserError(f"{place}: {_unknown(str(unknown[0]), allowed)}")
    if "all" in raw:
        if not isinstance(raw["all"], list) or not raw["all"] or {"statistic", "check"} & set(raw):
            raise UserError(f"{place}: `all` is a list of {{statistic, check}} and stands instead of both")
        pieces = [{**single, **(piece if isinstance(piece, dict) else {})} for piece in raw["all"]]
    else:
        pieces = [single]
    many = len(pieces) > 1
    parts = [_part(piece, f"{place}, part {i}" if many else place) for i, piece in enumerate(pieces, 1)]
    rest = {**common, **{key: raw[key] for key in CLAIM_KEYS if key in raw}}
    if "n" not in rest:
        raise UserError(f"{place}: `n` is missing, the planned number of units, here or once for the card")
    if isinstance(rest.get("units"), str):
        raise UserError(
            f"{place}: units: write {{independent: why}}, why a repetition redraws everything that a seed does"
        )
    claim = _build(Claim, {**rest, "parts": parts}, place)
    for part in claim.parts if claim.contrast else []:
        try:
            claim.contrast.part(part)  # type: ignore[union-attr]
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    return claim


def _part(raw: dict, place: str) -> Part:
    for key in ("experiment", "statistic", "check"):
        if key not in raw:
            raise UserError(f"{place}: `{key}` is missing")
    statistic, check = raw["statistic"], raw["check"]
    if not isinstance(statistic, dict) or not ({"metric", "function"} & set(statistic)):
        raise UserError(f"{place}: `statistic` is a mapping with `metric` or `function`")
    kind = check.get("kind") if isinstance(check, dict) else None
    if kind not in CHECKS:
        near = difflib.get_close_matches(str(kind), CHECKS, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{place}: check.kind is one of {', '.join(CHECKS)}, got {kind!r}{hint}")
    model = FunctionStatistic if "function" in statistic else MetricStatistic
    built = {
        "statistic": _build(model, statistic, f"{place}: statistic"),
        "check": _build(CHECKS[kind], check, f"{place}: check {kind}"),
    }
    part = _build(Part, {**raw, **built}, place)
    _axis(part, place)
    return part


def _axis(part: Part, place: str) -> None:
    """An axis is what slope, order and trend need and what the others cannot use."""
    statistic = part.statistic
    if not isinstance(statistic, MetricStatistic):
        return
    wants, has = (
        isinstance(part.check, Slope | Order | Trend),
        statistic.over is not None and statistic.reduce is None,
    )
    if wants and not has:
        raise UserError(f"{place}: check {part.check.kind} needs statistic.over, the key that is its axis")
    if has and not wants:
        raise UserError(f"{place}: statistic.over with check {part.check.kind} needs statistic.reduce")


Model = TypeVar("Model", bound=BaseModel)


def _build(model: type[Model], raw: Any, place: str) -> Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(step) for step in first["loc"])
        if first["type"] == "extra_forbidden":
            steps = [str(step) for step in first["loc"]]
            inner = {"contrast": Contrast, "units": Independent}.get(steps[0], model)
            known = inner if len(steps) > 1 else model
            text = _unknown(steps[-1], list(known.model_fields))
        elif first["type"] == "missing":
            text = f"`{key}` is missing"
        else:
            message = first["msg"].removeprefix("Value error, ")
            text = f"{key}: {message}, got {first['input']!r}" if key else message
        raise UserError(f"{place}: {text}") from None


def _unknown(key: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown key {key!r}: {hint}allowed are {', '.join(allowed)}"
