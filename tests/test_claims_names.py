"""Every name in a card is one that its experiment has; every formula is LaTeX."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from claim_makers import card, claim

from lossatlas.claims import load_card
from lossatlas.claims.names import Names, check_card, misnamed

ROOT = Path(__file__).parents[1]
CARDS = sorted((ROOT / "experiments").glob("*/card.yaml"))
HAS = {
    "exp": Names(
        frozenset({"ce", "focal"}),
        frozenset({"test/top1", "test/top5"}),
        {"noise": frozenset({"u00", "u60", "0.5"})},
    )
}


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_the_cards_of_the_repository_name_what_there_is(path):
    assert check_card(path) == ([], [])


@pytest.mark.parametrize(
    ("old", "new", "wrong", "doubtful"),
    [
        (
            "experiment: ldr_noisy",
            "experiment: ldr_noise",
            "no experiment 'ldr_noise': did you mean 'ldr_noisy'?",
            "",
        ),
        ("arm: aldr_kl", "arm: aldr_k", "no arm 'aldr_k': did you mean 'aldr_kl'?", ""),
        ("noise: u60", "noise: u61", "no value of noise 'u61': did you mean 'u60'?", ""),
        (
            "metric: test/top1,",
            "metric: test/topp1,",
            "",
            "no metric 'test/topp1': did you mean 'test/top1'?",
        ),
        ("{noise: u60}", "{nois: u60}", "", "no condition 'nois': did you mean 'noise'?"),
    ],
)
def test_a_card_is_checked_without_pandas(tmp_path, old, new, wrong, doubtful):
    """What an experiment file declares is certain; what only earlier records could show is told and let pass."""
    text = (ROOT / "experiments/ldr/card.yaml").read_text()
    assert old in text
    (tmp_path / "card.yaml").write_text(text.replace(old, new, 1))
    (tmp_path / "records.csv").symlink_to(ROOT / "experiments/ldr/records.csv")
    found = check_card(tmp_path / "card.yaml")
    for lines, line in zip(found, (wrong, doubtful), strict=True):
        assert bool(lines) == bool(line)
        assert all(one.startswith("card ldr, claim ") and one.endswith(line) for one in lines)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "arm: aldr_kl",
            "arm: aldr_k",
            "card ldr, claim robust-uniform: no arm 'aldr_k': did you mean 'aldr_kl'?",
        ),
        ("kind: better", "kind: bettter", "got 'bettter': did you mean 'better'?"),
        (r"\lambda_i \leftarrow", r"\frac{\lambda_i \leftarrow", "{ and } do not match in"),
        (r"\lambda_i \leftarrow", r"x^a^b \leftarrow", "no LaTeX (DoubleSuperscripts)"),
    ],
)
def test_a_card_is_checked_before_the_first_job(cli, outputs, tmp_path, monkeypatch, old, new, line):
    (tmp_path / "ldr").mkdir()
    text = (ROOT / "experiments/ldr/card.yaml").read_text()
    assert old in text
    (tmp_path / "ldr" / "card.yaml").write_text(text.replace(old, new, 1))
    monkeypatch.setattr("lossatlas.machine.experiments_dir", lambda: tmp_path)
    answer = cli("-m", "experiment=ldr_noisy", "scale=smoke", "arm=ce", "seed=0", "noise=u60")
    assert answer.code == 2
    assert line in answer.err
    assert answer.err.count("\n") == 1
    assert not list(outputs.rglob("record.json"))


def test_the_check_of_a_card_needs_neither_pandas_nor_scipy():
    code = (
        "import sys; from pathlib import Path; from lossatlas.claims.names import check_card;"
        f"check_card(Path({str(CARDS[0])!r})); print({{'pandas', 'scipy', 'torch'}} & set(sys.modules))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    assert (
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout
        == "set()\n"
    )


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_formulas_of_the_cards_are_latex(path):
    pytest.importorskip("latex2mathml")
    from lossatlas.report.equations import mathml

    for equation in load_card(path).equations:
        shown = str(mathml(equation.tex))
        assert shown.startswith("<math"), equation.tex  # what cannot be parsed comes back as it was
        assert "\\" not in re.sub("<annotation.*", "", shown), equation.tex  # a command that nobody knows


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
