"""A study's files and its words on the terminal."""

import io
import json
import math

import pytest
from claim_makers import around, card, claim, runs
from matplotlib.figure import Figure
from pandas import DataFrame, concat

from lossatlas import records, study
from lossatlas.claims import judge
from lossatlas.errors import UserError
from lossatlas.records import Record

VALUES = {
    (arm, noise): around(level - i / 10, 1.0 if arm == "ce" else 0.9)
    for arm, level in (("ce", 0.6), ("aldr_kl", 0.7))
    for i, noise in enumerate(["u00", "u30", "u60"])
}
BETTER = {"kind": "better", "arm": "aldr_kl", "than": ["ce"], "by": 0.001}


def some_runs(**more):
    found = runs(
        VALUES, seconds=2.0, device="cpu (2 threads)", commit="abc", versions={"torch": "2.10"}, **more
    )
    found[0].status, found[0].metrics = "failed", {}
    return found


def own_figure(records: DataFrame) -> Figure:
    """A card's own figure: a square inch at 120 dpi."""
    return Figure(figsize=(1, 1))


def broken_figure(records: DataFrame) -> Figure:
    """A card's own figure with a fault."""
    raise KeyError("lambda_histogram")


def own_details(records: DataFrame) -> list[str]:
    """A card's own paragraphs."""
    return ["**Samples**", f"arms {', '.join(sorted(set(records['arm'])))}"]


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG")
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def test_finish_writes_four_files(tmp_path):
    example = {"code": "x = loss(f, y)", "run": "experiment=e arm=a", "same": {"test/a": "x"}, "unit": 0}
    known = card(
        claim(BETTER, "robust"), example=example, failures=["at u90"], notes=["smaller"], idea="An idea."
    )
    verdicts = study.finish(some_runs(), known, tmp_path / "s")
    assert [v.verdict for v in verdicts] == ["reproduced"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        "README.md",
        "figure.png",
        "records.csv",
        "verdicts.json",
    ]
    table = records.from_csv(tmp_path / "s" / "records.csv")
    assert judge(known, table) == verdicts
    found = json.loads((tmp_path / "s" / "verdicts.json").read_text())
    assert found["verdicts"][0]["p"] == verdicts[0].p
    assert (found["runs"], found["seconds"], found["versions"]) == (
        {"done": 29, "failed": 1},
        60.0,
        {"torch": "2.10"},
    )
    text = (tmp_path / "s" / "README.md").read_text()
    for part in (
        "# A paper", "A, B. ICML 2023.", "An idea.", "**robust**: so it is", "| **reproduced** |",
        "python -m run -m experiment=exp", "0.595 ± 0.021 (1 failed)", "n = 4 to 5", "- at u90", "- smaller",
        "## Use it alone\n\n```python\nx = loss(f, y)\n```", "`python -m run experiment=e arm=a`", "`x` (repetition 0)",
        "29 done, 1 failed; 60 s in all", "cpu (2 threads)", "`abc`",
        "torch 2.10",
    ):  # fmt: skip
        assert part in text, part


def test_interval_of_the_table_by_hand(tmp_path):
    table = records.tidy(runs({("a", "u60"): [1.0, 2.0, 3.0, "failed", "interrupted"], ("b", "u60"): [5.0]}))
    found = study.summary(table, "exp", "acc").set_index("arm")
    assert found.loc["a", ["mean", "n", "failed"]].tolist() == [2.0, 3, 1]
    assert found.loc["a", "half"] == pytest.approx(4.302653 / math.sqrt(3))  # t(.975, 2) s / sqrt(3), s = 1
    assert math.isnan(found.loc["b", "half"])
    text = study.cells(table, "exp", "acc")
    assert text.rows == [["a", "2.0 ± 2.5 (1 failed)"], ["b", "5"]]
    tuning = records.tidy(runs({("a", "u60"): [1.0, 2.0]}, seeds=[0, 100]))
    assert study.summary(tuning, "exp", "acc")["n"].tolist() == [1]


def test_many_conditions_stand_below_each_other():
    table = records.tidy(runs({("a", f"n{i}"): [float(i)] for i in range(8)}))
    text = study.cells(table, "exp", "acc")
    assert text.head == ["", "a"]
    assert [row[0] for row in text.rows] == [f"n{i}" for i in range(8)]


def test_units_of_a_run_make_the_interval():
    units = [{"unit": i, "metrics": {"auc": float(i)}} for i in range(3)]
    table = records.tidy([Record("e", "p", "a", 0, metrics={"loss": 1.0}, units=units)])
    assert study.summary(table, "e", "auc")[["mean", "n"]].to_numpy().tolist() == [[1.0, 3]]
    assert study.summary(table, "e", "loss")[["mean", "n", "failed"]].to_numpy().tolist() == [[1.0, 1, 0]]


def test_the_cards_details_stand_in_the_readme(tmp_path):
    told = {
        "own_details": "**Samples**\n\narms aldr_kl, ce",
        "broken_figure": "raised KeyError: 'lambda_histogram'",
    }
    for name, text in told.items():
        study.finish(some_runs(), card(claim(BETTER), details=f"{__name__}.{name}"), tmp_path)
        assert text in (tmp_path / "README.md").read_text()


def test_the_cards_figure_and_what_replaces_it(tmp_path, capsys):
    own = card(claim(BETTER), figure=f"{__name__}.own_figure")
    study.finish(some_runs(), own, tmp_path)
    assert size((tmp_path / "figure.png").read_bytes()) == (120, 120)
    for name in ("broken_figure", "no_figure"):
        study.finish(some_runs(), card(claim(BETTER), figure=f"{__name__}.{name}"), tmp_path)
        assert size((tmp_path / "figure.png").read_bytes()) == (600, 456)
        error = capsys.readouterr().err
        assert f"{name} raised" in error
        assert error.count("\n") == 1


def test_colours_do_not_depend_on_what_was_run():
    arms = [f"arm{i}" for i in range(9)]
    styles = study.palette(arms)
    assert len({tuple(style.values()) for style in styles.values()}) == 9
    assert study.palette(arms[:2])["arm1"] == styles["arm1"]


def test_arms_of_one_experiment_share_no_colour_while_there_are_enough():
    many = DataFrame({"experiment": "a", "arm": [f"arm{k}" for k in range(7)]})
    few = DataFrame({"experiment": "b", "arm": ["arm5", "z", "y", "x"]})
    table = concat([many, few])
    styles = study.arm_styles(table)
    for _, arms in table.groupby("experiment")["arm"]:
        assert len({styles[arm]["color"] for arm in arms}) == len(arms)
    assert styles == study.arm_styles(table[::-1])
    assert styles["arm0"] == study.palette(["arm0"])["arm0"]


def test_end_prints_table_and_verdicts_although_jobs_failed(tmp_path, capsys):
    path = tmp_path / "card.yaml"
    path.write_text(card_text())
    verdicts = study.end(some_runs(), path, tmp_path / "s", grid="extended")
    out = capsys.readouterr().out
    assert "exp: acc  (mean ± 95 % t half-width, n = 4 to 5)" in out
    assert "reproduced  robust" in out
    assert "where it fails:\n  at u90" in out
    assert "\033[" not in out
    assert [v.verdict for v in verdicts] == ["reproduced", "not run"]
    assert "experiment=exp +grid=extended" in (tmp_path / "s" / "README.md").read_text()


def test_end_when_every_job_failed(tmp_path, capsys):
    path = tmp_path / "card.yaml"
    path.write_text(card_text())
    lost = [Record("exp", "paper", "ce", s, status="failed", error="boom") for s in range(2)]
    assert [v.verdict for v in study.end(lost, path, tmp_path / "s")] == ["not run", "not run"]
    assert "no run of experiment exp is done" in capsys.readouterr().out
    assert (tmp_path / "s" / "figure.png").exists()


def test_end_without_a_card(tmp_path, capsys):
    assert study.end(some_runs(), None, tmp_path / "s") == []
    assert "exp: acc" in capsys.readouterr().out
    assert (tmp_path / "s" / "README.md").read_text().startswith("# paper\n")


def card_text() -> str:
    import yaml

    other = claim(BETTER, "elsewhere", experiment="other")
    head = {
        "paper": "paper",
        "title": "A paper",
        "authors": "A",
        "venue": "ICML",
        "year": 2023,
        "n": 5,
        "failures": "at u90",
    }
    return yaml.safe_dump({**head, "claims": [claim(BETTER, "robust"), other]})


def test_publish_keeps_the_other_experiment_and_replaces_the_same_runs(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(card_text())
    tuning = runs({("ce", "u00"): [0.1]}, seeds=[100])
    study.publish([*some_runs(), *tuning], path, tmp_path)
    table = records.from_csv(tmp_path / "records.csv")
    assert len(table) == 30  # without the tuning seed
    other = runs({**VALUES, ("mae", "u60"): [0.2]}, experiment="other", versions={"torch": "2.11"})
    for record in other:
        record.metrics["auc"] = 0.5
    verdicts = study.publish(other, path, tmp_path)
    assert [v.verdict for v in verdicts] == ["reproduced", "reproduced"]
    again = runs({("ce", "u00"): [0.61]})  # the run that had failed
    study.publish(again, path, tmp_path)
    table = records.from_csv(tmp_path / "records.csv")
    assert len(table) == 61
    assert set(table["status"]) == {"done"}
    assert records.metric_columns(table) == ["acc", "auc"]
    text = (tmp_path / "README.md").read_text()
    assert "experiment=other" in text
    assert "torch 2.11" in text
    with pytest.raises(UserError, match="publish that scale only"):
        study.publish(some_runs(scale="smoke"), path, tmp_path)
    with pytest.raises(UserError, match="seeds for verdicts"):
        study.publish(tuning, path, tmp_path)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_on_a_terminal_only(monkeypatch):
    verdicts = judge(
        card(claim(BETTER, "robust"), claim(BETTER, "gone", experiment="x")), records.tidy(some_runs())
    )
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, terminal = io.StringIO(), Terminal()
    study.print_verdicts(verdicts, plain)
    study.print_verdicts(verdicts, terminal)
    assert "\033[" not in plain.getvalue()
    assert "\033[32mreproduced\033[0m" in terminal.getvalue()
    assert "\033[90mnot run\033[0m" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    silent = Terminal()
    study.print_verdicts(verdicts, silent)
    assert silent.getvalue() == plain.getvalue()
    lines = plain.getvalue().splitlines()[1:]
    starts = {line.index(word) for line, word in zip(lines, ("claim", "robust", "gone"), strict=True)}
    assert len(starts) == 1


def test_a_pipe_in_a_claim_does_not_break_the_table(tmp_path):
    study.finish(some_runs(), card(claim(BETTER, says="|w| falls")), tmp_path)
    assert "\\|w\\| falls" in (tmp_path / "README.md").read_text()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        study.finish(some_runs(), card(claim(BETTER)), tmp_path / "file" / "s")


def test_a_time_that_is_never_reached_is_no_failure():
    table = records.tidy(runs({("a", "u60"): [1.0, math.inf, 3.0, math.inf, "failed"]}))
    found = study.summary(table, "exp", "acc")
    assert found[["n", "never", "failed"]].iloc[0].tolist() == [2, 2, 1]
    assert study.cells(table, "exp", "acc").rows[0][1].endswith(" (1 failed, 2 never)")
