"""Every name in a card is one that its experiment has; every formula is LaTeX."""

from pathlib import Path

import pytest
from claim_makers import card, claim
from omegaconf import OmegaConf

from lossatlas import records
from lossatlas.claims import load_card
from lossatlas.claims.names import Names, misnamed, names_of

ROOT = Path(__file__).parents[1]
CARDS = sorted((ROOT / "experiments").glob("*/card.yaml"))
HAS = {
    "exp": Names(
        frozenset({"ce", "focal"}),
        frozenset({"test/top1", "test/top5"}),
        {"noise": frozenset({"u00", "u60", "0.5"})},
    )
}


def arms_of(name):
    """The arms of an experiment's file and of the files that it inherits from."""
    raw = OmegaConf.to_container(OmegaConf.load(ROOT / "conf/experiment" / f"{name}.yaml"), resolve=False)
    assert isinstance(raw, dict)
    inherited = [d for d in raw.get("defaults") or [] if isinstance(d, str) and d.startswith("/experiment/")]
    above = [arm for d in inherited for arm in arms_of(d.removeprefix("/experiment/"))]
    return [*above, *(raw.get("arms") or {})]


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_the_cards_of_the_repository_name_what_there_is(path):
    found = load_card(path)
    lies = path.parent / "records.csv"
    table = records.from_csv(lies) if lies.exists() else records.tidy([])
    experiments = {}
    for conf in (ROOT / "conf/experiment").glob("*.yaml"):
        rows = table[table["experiment"] == conf.stem] if conf.stem in found.experiments else None
        experiments[conf.stem] = names_of(arms_of(conf.stem), rows)
    assert misnamed(found, experiments) == []


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_formulas_of_the_cards_are_latex(path):
    convert = pytest.importorskip("latex2mathml.converter").convert
    for equation in load_card(path).equations:
        convert(equation.tex)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"experiment": "exq"}, "no experiment 'exq': did you mean 'exp'?"),
        (
            {"check": {"kind": "better", "arm": "focall", "than": ["ce"], "by": 0.1}},
            "no arm 'focall': did you mean 'focal'?",
        ),
        ({"statistic": {"metric": "test/topp1"}}, "no metric 'test/topp1': did you mean 'test/top1'?"),
        ({"statistic": {"where": {"noise": "u61"}}}, "no value of noise 'u61': did you mean 'u60'?"),
        ({"statistic": {"where": {"nois": "u60"}}}, "no condition 'nois': did you mean 'noise'?"),
        ({"contrast": {"where": {"noise": "u000"}}}, "no value of noise 'u000': did you mean 'u00'?"),
        ({"contrast": {"arm": "fokal"}}, "no arm 'fokal': did you mean 'focal'?"),
    ],
)
def test_a_misspelt_name_is_one_line_with_the_nearest(change, line):
    change = dict(change)
    statistic = {"metric": "test/top1", **change.pop("statistic", {})}
    check = change.pop("check", {"kind": "better", "arm": "focal", "than": ["ce"], "by": 0.1})
    raw = card(claim(check, statistic=statistic, **change))
    assert misnamed(raw, HAS) == [f"card paper, claim c: {line}"]


def test_a_sound_card_and_numbers_in_any_spelling_pass():
    check = {"kind": "better", "arm": "focal", "than": ["ce"], "by": 0.1}
    assert (
        misnamed(card(claim(check, statistic={"metric": "test/top1", "where": {"noise": 0.50}})), HAS) == []
    )


STUDY = ("-m", "experiment=ldr_noisy", "scale=smoke", "arm=ce", "seed=0,1", "noise=u30")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("arm: aldr_kl", "arm: aldrkl"), "no arm 'aldrkl': did you mean 'aldr_kl'?"),
        (("noise: u60", "noise: u61"), "no value of noise 'u61': did you mean 'u60'?"),
        (
            ("experiment: ldr_noisy", "experiment: ldr_noise"),
            "no experiment 'ldr_noise': did you mean 'ldr_noisy'?",
        ),
        ((r"\lambda_i \leftarrow", r"\frac{\lambda_i \leftarrow"), "{ against"),
        ((r"\lambda_i \leftarrow", r"\lambda_i \frac \leftarrow \right"), r"\right: a pair"),
        (("kind: better", "kind: bettter"), "did you mean 'better'?"),
        ((r"\lambda_i \leftarrow", r"\begin{cases} \lambda_i \leftarrow"), "no LaTeX"),
    ],
)
def test_a_card_is_checked_before_the_first_job(cli, outputs, tmp_path, monkeypatch, change, line):
    text = (ROOT / "experiments" / "ldr" / "card.yaml").read_text()
    assert change[0] in text
    folder = tmp_path / "experiments"
    (folder / "ldr").mkdir(parents=True)
    (folder / "ldr" / "card.yaml").write_text(text.replace(change[0], change[1]))
    monkeypatch.setattr("lossatlas.machine.experiments_dir", lambda: folder)
    answer = cli(*STUDY)
    assert answer.code == 2
    assert line in answer.err
    assert answer.err.count("\n") == 1
    assert not list(outputs.rglob("record.json"))
