"""The example of every card runs as it stands and gives the numbers of the run that it names."""

import json
from typing import Any

import pytest

from lossatlas.claims import Card, load_card
from lossatlas.paths import experiments_dir

CARDS = [load_card(path) for path in sorted(experiments_dir().glob("*/card.yaml"))]


def record_of(outputs, card: Card) -> dict[str, float]:
    """Metrics of the one run below outputs, or of the repetition that the example is about."""
    assert card.example is not None
    (path,) = outputs.glob("*/*/*/record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "done"
    if card.example.unit is None:
        return record["metrics"]
    return next(unit["metrics"] for unit in record["units"] if unit["unit"] == card.example.unit)


@pytest.mark.parametrize("card", [c for c in CARDS if c.example], ids=lambda card: card.paper)
def test_example_gives_the_numbers_of_its_run(cli, outputs, card):
    space: dict[str, Any] = {}
    exec(compile(card.example.code, f"experiments/{card.paper}/card.yaml", "exec"), space)
    answer = cli(*card.example.run.split(), "callbacks.progress=false")
    assert answer.code == 0, answer.err
    metrics = record_of(outputs, card)
    for name, variable in card.example.same.items():
        assert float(space[variable]) == pytest.approx(metrics[name], rel=card.example.rtol, abs=1e-12), name
