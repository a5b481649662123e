"""What the report is made of: intervals, commands, stale records, equations, hostile text, and its command line."""

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import hostile as evil
import numpy as np
import pytest
import synthetic
from browser import REQUIRED, excuse
from claim_makers import around, card, claim, runs
from markupsafe import Markup
from pandas import DataFrame, concat

from lossatlas import records
from lossatlas.claims import comparisons, judge, load_card
from lossatlas.paths import experiments_dir, page_line
from lossatlas.report import build, gather, plots, stale
from lossatlas.report.__main__ import main
from lossatlas.report.effects import accepted, effects
from lossatlas.report.equations import mathml
from lossatlas.report.rows import tables
from lossatlas.study import curves

VALUES = {
    (arm, noise): around(level + i / 20)
    for arm, level in (("ours", 0.8), ("ce", 0.7), ("mae", 0.5))
    for i, noise in enumerate(("n2", "n1"))
}
METRIC = {"statistic": {"metric": "acc", "where": {"noise": ["n1", "n2"]}}}
AXIS = {"statistic": {"metric": "acc", "where": {}, "over": "noise"}}
KINDS = {
    "better": ({"kind": "better", "arm": "ours", "than": ["ce", "mae"], "by": 0.05}, METRIC),
    "lower": ({"kind": "better", "arm": "ours", "than": ["ce"], "lower": True, "by": 0.05}, METRIC),
    "bound": ({"kind": "bound", "arm": "ours", "above": 0.6}, METRIC),
    "never": ({"kind": "never", "arm": "ours", "below": 0.9, "rate": 0.5}, METRIC),
    "close": ({"kind": "close", "arm": "ours", "than": ["ce"], "within": 0.2}, METRIC),
    "value": ({"kind": "close", "arm": "ours", "value": 0.8, "within": 0.1}, METRIC),
    "ratio": ({"kind": "ratio", "arm": "ours", "than": ["ce"], "above": 1.05}, METRIC),
    "slope": ({"kind": "slope", "arm": "ours", "between": [-1, 1]}, AXIS),
    "order": ({"kind": "order", "arm": "ours"}, AXIS),
    "trend": ({"kind": "trend", "arm": "ours"}, AXIS),
}


def paper_of(known, table):
    """A paper of the report from a card and a table."""
    styles = {arm: {"color": "#0072B2", "marker": "o"} for arm in table["arm"].unique()}
    facts = gather.facts_of(table, {})
    return gather.Paper("p", known, table, judge(known, table), facts, styles, Path("nowhere"), {})


@pytest.mark.parametrize("kind", KINDS)
def test_bar_and_region_agree_with_the_test(kind):
    """The shaded side holds the effects that the check's own words ask for, and the dots stand where they are."""
    check, more = KINDS[kind]
    known = card(claim(check, **more))
    table = records.tidy(runs(VALUES))
    part = known.claims[0].parts[0]
    results = comparisons(known.claims[0], part, table)
    low, high = accepted(part.check)
    told = [float(number) for number in re.findall(r"-?\d+\.?\d*", results[0].limit)]
    assert [end for end in (low, high) if math.isfinite(end)] == pytest.approx(told)
    assert (low == -math.inf) == results[0].limit.startswith("<")
    (plot,) = effects(known.claims[0], paper_of(known, table))
    assert [line.label for line in plot.lines] == [result.label for result in results]
    for line, result in zip(plot.lines, results, strict=True):
        assert line.low is not None
        assert line.low <= line.at <= line.high
        outside = plot.region[0] > line.at or line.at > plot.region[1]
        assert line.inside != outside
        assert line.p == f"{result.p:.2g}"


def test_effects_without_records_say_so():
    known = card(claim(KINDS["bound"][0], **METRIC))
    (plot,) = effects(known.claims[0], paper_of(known, records.tidy(runs(VALUES, experiment="other"))))
    assert "no run of experiment exp" in plot.trouble
    assert plot.lines == []


def test_rows_have_mean_n_failures_and_the_command():
    some = runs(
        {("ce", "u30"): [0.5, 0.6, "diverged"], ("mae", "u30"): ["failed", "failed"]}, seeds=[0, 1, 1000]
    )
    for record in some:
        record.config_hash = f"{record.arm}{record.seed}"
    (table,) = tables(paper_of(card(claim(KINDS["bound"][0])), records.tidy(some)))
    ce, mae = table.rows
    assert (ce.arm, ce.values, ce.cells["acc"].n, ce.failed) == ("ce", ["u30"], 2, [("diverged", 1)])
    assert ce.cells["acc"].value == pytest.approx(0.55)
    assert ce.commands == ["python -m run -m experiment=exp arm=ce noise=u30 seed=0,1,1000"]
    assert (mae.cells, mae.failed) == ({}, [("failed", 2)])  # an arm that never finished is still there


def test_conditions_of_repetitions_are_no_overrides():
    """A key that varies within a run cannot be given on its command line."""
    units = [{"unit": k, "metrics": {"gap": 0.1 * k}, "condition": {"n": str(2**k)}} for k in (1, 2, 3)]
    found = [
        records.Record("e", "p", "a", seed, units=units, condition={"d": "5"}, config_hash="h")
        for seed in (4,)
    ]
    (run,), place = stale.runs_of(records.tidy(found))
    assert (run.condition, run.seed, place.tolist()) == ((("d", "5"),), 4, [0, 0, 0])


@pytest.mark.parametrize(
    ("seeds", "last"),
    [([7], "seed=7"), ([2, 0, 1], "seed=0,1,2"), (range(20), "'seed=range(0,20)'")],
)
def test_commands_name_all_seeds(seeds, last):
    (line,) = stale.commands("e", "a", [("x", "a b")], seeds, "paper")
    assert line.endswith(f"experiment=e arm=a 'x=a b' scale=paper {last}")
    assert ("run -m" in line) == (len(seeds) > 1)
    assert len(stale.commands("e", "a", [], [*range(7), *range(1000, 1007)], "laptop")) == 2


def real_runs():
    """Records with the hashes that today's code gives them, with and without the config group of a condition."""
    from lossatlas.report.stale import Run, _composed, _hydra, jobs

    wanted = [
        Run("ldr_noisy", "smoke", arm, seed, (("noise", "u60"),), "")
        for arm in ("ce", "gce")
        for seed in (0, 7)
    ]
    with _hydra():
        hashes = [jobs.describe(*_composed(run)).config_hash for run in wanted]
    return [
        records.Record(r.experiment, "ldr", r.arm, r.seed, r.scale, dict(r.condition), config_hash=h)
        for r, h in zip(wanted, hashes, strict=True)
    ]


def test_stale_records_are_told(tmp_path, monkeypatch):
    found = real_runs()
    found[3].config_hash = "00000000"  # was run with something else
    found.append(records.Record("gone", "ldr", "ce", 0, config_hash="1"))
    found.append(records.Record("ldr_noisy", "ldr", "ce", 0, "smoke", {"noise": "no such"}, config_hash="2"))
    table = records.tidy(found)
    cache = tmp_path / "cache.json"
    expected = ["current", "current", "current", "stale", "unknown", "unknown"]
    assert stale.states(table, cache).tolist() == expected
    monkeypatch.setattr(stale, "_checked", lambda missing: pytest.fail("composed again"))
    assert stale.states(table, cache).tolist() == expected
    monkeypatch.setattr(stale, "_digest", lambda: "another code")
    with pytest.raises(pytest.fail.Exception, match="composed again"):
        stale.states(table, cache)


def test_a_stale_record_shows_on_both_pages(tmp_path):
    found = real_runs()
    found[0].config_hash = "00000000"
    for record in found:
        record.metrics = {"test/top1": 0.5}
    known = json.loads(
        json.dumps({"paper": "ldr", "title": "T", "authors": ["A"], "venue": "V", "year": 2023})
    )
    known["claims"] = [claim(KINDS["bound"][0], **METRIC)]
    synthetic.write(tmp_path / "evidence" / "ldr", known, found)
    build(tmp_path / "evidence", tmp_path / "out")
    assert "1 stale" in (tmp_path / "out" / "index.html").read_text()
    page = (tmp_path / "out" / "papers" / "ldr.html").read_text()
    assert page.count("stale: 1") == 1
    assert "3 as today's code composes them" in page.replace("&#39;", "'")


def test_equations_of_all_cards_become_mathml():
    for path in experiments_dir().glob("*/card.yaml"):
        for equation in load_card(path).equations:
            assert isinstance(mathml(equation.tex), Markup), equation.tex


@pytest.mark.parametrize(
    "tex",
    [
        "<script>x</script>",
        r"\text{<img src=x onerror=y>}",
        r"\frac{1",
        "</math><b>",
        r"\href{javascript:x}{y}",
    ],
)
def test_a_hostile_equation_is_text(tex):
    shown = str(Markup("{}").format(mathml(tex)))
    assert not re.search(r"<(script|img|b)\b|javascript:[^<]*\"", shown)


class Tags(HTMLParser):
    """Counts the elements and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.handlers, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.links += [value for name, value in attrs if name in ("href", "src")]


def test_hostile_text_makes_no_element(tmp_path):
    evil.paper(tmp_path / "evidence")
    build(tmp_path / "evidence", tmp_path / "out")
    for path in (tmp_path / "out" / "index.html", tmp_path / "out" / "papers" / "evil.html"):
        text = path.read_text()
        found = Tags(text)
        assert found.handlers == []
        assert not any(link.startswith("javascript") for link in found.links)
        assert found.tags.count("script") == text.count('<script src="') + text.count(
            '<script type="application/json">'
        )
        assert len(text) < 200_000  # 10 kB names are cut
        assert "NaN" not in "".join(re.findall(r'<script type="application/json">(.*?)</script>', text, re.S))


def test_58_papers_of_1000_records(tmp_path):
    """Sizes; times are measured by scripts/bench_report.py."""
    synthetic.paper(tmp_path / "evidence", "paper_00", 1000)
    for k in range(1, 58):
        shutil.copytree(tmp_path / "evidence" / "paper_00", tmp_path / "evidence" / f"paper_{k:02d}")
    build(tmp_path / "evidence", tmp_path / "out", check=False)
    assert (tmp_path / "out" / "index.html").stat().st_size < 1_000_000
    assert len(list((tmp_path / "out" / "papers").glob("*.html"))) == 58
    text = (tmp_path / "out" / "papers" / "paper_57.html").read_text()
    assert text.count("diverged") >= 4  # mae at each noise level
    assert "claim-1" in text
    assert len(text) < 200_000


def test_what_cannot_be_read_is_on_the_page(tmp_path, capsys):
    synthetic.paper(tmp_path / "evidence", "good", 40)
    (tmp_path / "evidence" / "bad").mkdir()
    (tmp_path / "evidence" / "bad" / "card.yaml").write_text("paper: bad\nclaims: 3\n")
    (tmp_path / "evidence" / "bad" / "figure.png").write_text("no picture")
    assert (
        main(
            ["--experiments", str(tmp_path / "evidence"), "--out", str(tmp_path / "out"), "--no-check-stale"]
        )
        == 0
    )
    index = (tmp_path / "out" / "index.html").read_text()
    assert "is a list of mappings" in index
    assert "A paper called good" in index
    assert "bad:" in capsys.readouterr().err


def test_command_line_refuses_in_one_line(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    synthetic.paper(tmp_path / "evidence", "good", 40)
    for arguments, part in (
        (["--experiments", str(tmp_path / "none")], "has no card"),
        (
            ["--experiments", str(tmp_path / "evidence"), "--out", str(tmp_path / "mine")],
            "holds files that are no report",
        ),
    ):
        assert main([*arguments, "--no-check-stale"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert part in error
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_curves_become_bands(tmp_path):
    found = []
    for seed in range(3):
        digest = f"h{seed}"
        found.append(
            records.Record(
                "e", "p", "a", seed, condition={"noise": "u30"}, config_hash=digest, curves="curves.csv"
            )
        )
        folder = tmp_path / "e" / "laptop" / f"a-1-s{seed}-{digest}"
        folder.mkdir(parents=True)
        lines = [f"{step},{seed + step},{'' if step % 2 else 5}" for step in range(1, 101)]
        (folder / "curves.csv").write_text(
            "\n".join(["epoch,train/loss,val/top1", *lines[: 100 - 50 * (seed == 2)]])
        )
    bands = curves.bands(records.tidy(found), tmp_path)
    loss = bands[bands["metric"] == "train/loss"]
    assert len(loss) == curves.STEPS
    assert (loss["step"].min(), loss["step"].max()) == (1, 100)
    first, last = loss.iloc[0], loss.iloc[-1]
    assert (first["mean"], first["n"], last["n"]) == (2.0, 3, 2)  # 1 + seed; the third stopped at step 50
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # t quantile at 2 degrees of freedom, written apart
    assert first["high"] - first["mean"] == pytest.approx(half)
    curves.to_csv(bands, tmp_path / "curves.csv")
    curves.update(tmp_path / "curves.csv", bands.assign(experiment="f"))
    curves.update(tmp_path / "curves.csv", bands.assign(experiment="f"))
    assert curves.from_csv(tmp_path / "curves.csv")["experiment"].value_counts().to_dict() == {
        "e": len(bands),
        "f": len(bands),
    }
    curves.to_csv(bands, tmp_path / "curves.csv")
    again = curves.from_csv(tmp_path / "curves.csv")
    assert np.allclose(again["mean"], bands["mean"], rtol=1e-4)
    (name,) = plots.curves(again, {"a": {"color": "#0072B2", "marker": "o"}})
    assert name == "e"
    assert curves.from_csv(tmp_path / "nothing.csv").empty


@pytest.mark.parametrize(
    ("steps", "mean", "half", "types"),
    [
        (np.arange(1.0, 101), np.ones(100), 0.1, ("linear", None)),
        (np.geomspace(1, 1e4, 50), np.geomspace(1, 1e-3, 50), 0.0, ("log", "log")),
        (np.geomspace(1, 1e4, 50), np.geomspace(1, 1e-3, 50), 0.1, ("log", None)),  # the band passes 0
    ],
)
def test_axes_of_curves_follow_steps_and_values(steps, mean, half, types):
    head = {"experiment": "e", "arm": "a", "condition": "all", "axis": "step", "n": 3}
    rows = DataFrame({"step": steps, "mean": mean, "low": mean - half, "high": mean + half}).assign(**head)
    flat = rows.assign(metric="flat", mean=0.0, low=0.0, high=0.0)
    made = plots.curves(concat([flat, rows.assign(metric="loss")]), {})["e"]
    layout = made[0].layout
    assert (layout["xaxis"]["type"], layout["yaxis"].get("type")) == types
    if mean.min() < mean.max():
        assert [plot.name for plot in made] == ["loss", "flat"]


def test_many_conditions_are_spread_over_pictures():
    values = {(arm, f"{d} {n}"): around(0.5) for arm in ("a", "b") for d in (5, 20) for n in range(1, 9)}
    some = runs(values)
    for record in some:
        d, n = record.condition["noise"].split()
        record.condition = {"d": d, "n": n}
    (table,) = tables(paper_of(card(claim(KINDS["bound"][0])), records.tidy(some)))
    made = plots.by_condition(table, {"a": {"color": "#000000"}, "b": {"color": "#111111"}})
    assert [plot.name for plot in made] == ["acc at d=5", "acc at d=20"]
    assert made[0].data[1]["x"] == [float(n) for n in range(1, 9)]
    assert made[0].data[1]["marker"]["color"] == "#111111"


def test_a_run_names_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr("lossatlas.paths.report_dir", lambda: tmp_path)
    assert page_line("ldr") == "`make report` builds the atlas with a page for ldr"
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "ldr.html").touch()
    assert page_line("ldr") == str(tmp_path / "papers" / "ldr.html")


def test_without_a_browser_one_line_says_so_unless_it_is_required():
    assert excuse("/usr/bin/chromium", {}) is None
    assert "did not run" in (excuse(None, {}) or "")
    assert excuse(None, {REQUIRED: "1"}) is None


def test_gallery_is_filled_between_its_markers(tmp_path, capsys):
    synthetic.paper(tmp_path / "experiments", "good", 200)
    (tmp_path / "README.md").write_text("a\n<!-- gallery:begin -->\nold\n<!-- gallery:end -->\nb\n")
    command = ["--experiments", str(tmp_path / "experiments"), "--gallery", str(tmp_path / "README.md")]
    assert main(command) == main(command) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("a\n<!-- gallery:begin -->\n<table>")
    assert 'src="experiments/good/figure.png"' in text
    assert "2 reproduced, 2 not reproduced" in text
    assert "old" not in text
    (tmp_path / "README.md").write_text("no marker")
    assert main(command) == 2
    assert "must hold" in capsys.readouterr().err
