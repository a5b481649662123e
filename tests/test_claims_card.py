"""What a card may say, and the one line it gets for what it may not."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from claim_makers import card, claim

from lossatlas.claims import load_card, load_function, parse_card
from lossatlas.errors import UserError

BETTER = {"kind": "better", "arm": "a", "than": ["b"], "by": 0.1}
HEAD = {"paper": "ldr", "title": "t", "authors": "Z", "venue": "ICML", "year": 2023, "n": 10}

# one claim of every form that the sheets of ldr, presto and comp_sum need
FORMS = """
- {id: robust, says: s, source: t, experiment: ldr_noisy,
   statistic: {metric: test/top1, where: {noise: u60}, worst: 0.04},
   check: {kind: better, arm: aldr_kl, than: [ce], by: 0.005}, contrast: {where: {noise: u00}, says: no noise}}
- {id: rank, says: s, source: t, experiment: ldr_noisy,
   statistic: {function: lossatlas.papers.ldr.study.mean_rank, args: {arm: aldr_kl}}, check: {kind: bound, below: 2.5}}
- {id: beats, says: s, source: t, experiment: presto_rare,
   statistic: {metric: mse, log: true, where: {setting: [2, 3], simulation: [A, B]}},
   check: {kind: better, arm: presto, than: logistic, lower: true, by: 0, sign: the paper claims no size}}
- {id: grows, says: s, source: t, experiment: presto_rare, seeds: first, note: why,
   statistic: {metric: log_ratio, where: {simulation: A}, over: setting, values: [1, 2, 3]},
   check: {kind: trend, arm: presto, increasing: false}, units: {independent: every one draws its data}}
- {id: soup, says: s, source: t, experiment: presto_soup, statistic: {metric: ece},
   check: {kind: better, arm: presto, than: logistic, by: 0.01, lower: true,
           correction: nadeau_bengio, test_fraction: 0.1}}
- id: bounds-hold
  says: s
  source: t
  experiment: comp_sum_bounds
  all:
    - {statistic: {metric: violations, trials: pairs}, check: {kind: never, arm: tau1, rate: 1.0e-5}}
    - {statistic: {metric: tightness, where: {tau: [0, 0.5, 1]}}, check: {kind: bound, above: 0.999}}
- {id: wide, says: s, source: t, experiment: comp_sum, statistic: {metric: acc},
   check: {kind: better, arm: ["1"], than: ["0", "2"], by: -0.015}}
- {id: log, says: s, source: t, experiment: e, statistic: {metric: l, log: true},
   check: {kind: better, arm: a, than: b, by: log 1.2}}
- {id: slope, says: s, source: t, experiment: e, statistic: {metric: l, over: n, values: {small: 10, large: 100}},
   check: {kind: slope, arm: a, between: [-.65, -.35]}}
"""


def test_every_form_of_the_sheets_parses():
    found = parse_card({**HEAD, "claims": yaml.safe_load(FORMS)})
    assert found.experiments == [
        "ldr_noisy",
        "presto_rare",
        "presto_soup",
        "comp_sum_bounds",
        "comp_sum",
        "e",
    ]
    assert [len(c.parts) for c in found.claims] == [1, 1, 1, 1, 1, 2, 1, 1, 1]
    beats: Any = found.claims[2].parts[0]
    by: Any = found.claims[7].parts[0].check
    assert beats.statistic.where == {"setting": ["2", "3"], "simulation": ["A", "B"]}
    assert by.by == pytest.approx(math.log(1.2))
    assert found.claims[4].parts[0].check.overlap == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"check": {**BETTER, "thn": ["b"]}},
            "check better: unknown key 'thn': did you mean 'than'? allowed are",
        ),
        (
            {"check": {"kind": "beter", "arm": "a"}},
            "got 'beter': did you mean 'better'?",
        ),
        ({"check": {"kind": "better", "arm": "a"}}, "`than` is missing"),
        ({"check": {**BETTER, "by": 0}}, "say in `sign` why the bare sign is the claim"),
        ({"check": {"kind": "better", "arm": "a", "than": "b"}}, "no `by` is no smallest effect"),
        ({"check": {**BETTER, "sign": "so"}}, "leave it out beside `by`"),
        ({"check": {"kind": "ratio", "arm": "a", "than": "b", "above": 1}}, "a ratio of 1 is no smallest"),
        ({"check": {"kind": "ratio", "arm": "a", "above": 2, "by": -1}}, "a relative difference > 0"),
        ({"contrast": {}}, "at least one of arm, than, where, args"),
        ({"contrast": {"armm": "b"}}, "unknown key 'armm': did you mean 'arm'?"),
        ({"contrast": {"arm": "b"}}, "an arm would be compared with itself"),
        ({"units": "independent"}, "write {independent: why}"),
        ({"n": 0}, "n: Input should be greater than or equal to 1, got 0"),
        ({"check": {**BETTER, "than": ["a"]}}, "none in common"),
        ({"check": {**BETTER, "by": "much"}}, "by: "),
        ({"check": {**BETTER, "by": True}}, "a number is needed"),
        ({"check": {**BETTER, "correction": "nadeau_bengio"}}, "come together"),
        ({"check": {"kind": "bound", "arm": "a"}}, "exactly one of `above` and `below`"),
        (
            {"check": {"kind": "bound", "arm": "a", "above": 0, "below": 1}},
            "exactly one of `above` and `below`",
        ),
        ({"check": {"kind": "close", "arm": "a", "within": 0.1}}, "either `value`, or `than`"),
        (
            {"check": {"kind": "close", "arm": "a", "value": 0, "within": 0}},
            "within: Input should be greater than 0",
        ),
        ({"check": {"kind": "ratio", "arm": "a", "below": 0}}, "the bar of a ratio is > 0"),
        ({"check": {"kind": "slope", "arm": "a", "between": [1, 0]}}, "lo < hi"),
        ({"check": {"kind": "order", "arm": "a"}}, "check order needs statistic.over"),
        ({"statistic": {"metric": "acc", "over": "noise"}}, "with check better needs statistic.reduce"),
        ({"statistic": {"metric": "acc", "reduce": "mean"}}, "need `over`"),
        (
            {"statistic": {"metric": "acc", "over": "n", "reduce": "median"}},
            "reduce: Input should be 'mean', 'min'",
        ),
        ({"statistic": {"metric": "acc", "wheer": {}}}, "did you mean 'where'?"),
        ({"statistic": {"where": {}}}, "`statistic` is a mapping with `metric` or `function`"),
        ({"seeds": "some"}, "seeds: Input should be 'all', 'first' or 'fresh', got 'some'"),
        ({"sources": "x"}, "unknown key 'sources': did you mean 'source'?"),
        ({"all": []}, "`all` is a list"),
    ],
)
def test_a_mistake_in_a_claim_is_one_line(change, text):
    raw = {**claim(BETTER, "robust"), **change}
    if "statistic" in change:
        raw["statistic"] = change["statistic"]
    with pytest.raises(UserError) as error:
        parse_card({**HEAD, "claims": [raw]})
    line = str(error.value)
    assert line.startswith("card ldr, claim robust: ")
    assert text in line
    assert "\n" not in line


@pytest.mark.parametrize("key", ["says", "source", "experiment", "statistic", "check"])
def test_a_missing_field_of_a_claim_is_named(key):
    raw = {k: v for k, v in claim(BETTER).items() if k != key}
    with pytest.raises(UserError, match=f"card ldr, claim c: `{key}` is missing"):
        parse_card({**HEAD, "claims": [raw]})


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ([], "a card is a mapping"),
        ({**HEAD}, "`claims` is a list"),
        ({**HEAD, "claims": []}, "claims: List should have at least 1 item"),
        ({**HEAD, "claims": [claim(BETTER), claim(BETTER)]}, "two claims are called 'c'"),
        (
            {**HEAD, "venu": "x", "claims": [claim(BETTER)]},
            "card ldr: unknown key 'venu': did you mean 'venue'?",
        ),
        (
            {**HEAD, "year": 23, "claims": [claim(BETTER)]},
            "year: Input should be greater than or equal to 1900, got 23",
        ),
        (
            {**{k: v for k, v in HEAD.items() if k != "title"}, "claims": [claim(BETTER)]},
            "`title` is missing",
        ),
        ({**HEAD, "claims": ["robust"]}, "a claim is a mapping"),
        *(
            ({**HEAD, "claims": [claim(BETTER)], "equations": [{"tex": "x"}, {"tex": tex}]}, text)
            for tex, text in (
                (r"\frac{a}{b", r"card ldr: equations.1: { and } do not match in '\\frac{a}{b'"),
                ("a}{b", "{ and } do not match"),
                (r"\left( a", r"\left and \right do not match"),
                (r"\begin{cases} a \\ b", r"\begin and \end do not match"),
            )
        ),
    ],
)
def test_a_mistake_in_a_card_is_one_line(raw, text):
    with pytest.raises(UserError, match=r"^[^\n]+$") as error:
        parse_card(raw)
    assert text in str(error.value)


def test_the_planned_number_of_units_is_needed():
    head = {key: value for key, value in HEAD.items() if key != "n"}
    with pytest.raises(UserError, match=r"card ldr, claim c: `n` is missing, the planned number of units"):
        parse_card({**head, "claims": [claim(BETTER)]})
    own = parse_card({**HEAD, "claims": [claim(BETTER, n=5), claim(BETTER, "d")]}).claims
    assert [c.n for c in own] == [5, 10]


def test_load_card(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump({**HEAD, "claims": [claim(BETTER)]}))
    assert load_card(path).authors == ["Z"]
    path.write_text("paper: [")
    with pytest.raises(UserError, match="is not YAML"):
        load_card(path)
    with pytest.raises(UserError, match="cannot be read"):
        load_card(tmp_path / "none.yaml")
    for text in ("a: [1", "!!python/object/apply:os.getcwd []"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"card\.yaml (is not YAML|cannot be read)"):
            load_card(path)


def test_cards_of_the_repository_parse():
    found = sorted((Path(__file__).parents[1] / "experiments").glob("*/card.yaml"))
    assert found
    assert [load_card(path).paper for path in found] == [path.parent.name for path in found]


def test_load_function():
    assert load_function("math.sqrt") is math.sqrt
    for dotted in ("math.no", "nomodule.f", "sqrt", "math.pi"):
        with pytest.raises(UserError, match=dotted):
            load_function(dotted)


def test_card_with_all_fields():
    figures = [{"table": "Table 1", "what": "top-1", "values": {"ce": 0.61, "aldr_kl": "0.7 (0.1)"}}]
    example = {"code": "x = 1", "run": "experiment=e arm=a", "same": {"test/a": "x"}}
    found = card(
        claim(BETTER), figures=figures, example=example, failures="slow", notes=["n"], citation="c", idea="i"
    )
    assert found.example is not None
    assert (found.example.unit, found.example.same) == (None, {"test/a": "x"})
    with pytest.raises(UserError, match=r"example\.same"):
        card(claim(BETTER), example={**example, "same": {}})
    assert found.figures[0].values == {"ce": 0.61, "aldr_kl": "0.7 (0.1)"}
    assert (found.failures, found.notes) == (["slow"], ["n"])
