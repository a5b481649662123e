"""Studies of repetitions without a network: one run solves every cell of a grid for all its seeds at once.

A cell is one point of the grid of conditions (and, where a study wants it, of the arms). `solve` gets a cell and all
seeds and returns a number per seed; nothing loops over repetitions. The run plays a cell a round, so that bars,
checkpoints between cells, the record and `-m` over arms are those of every other run. The record has a row per cell
and seed, with that seed: to claims, tables and figures it is as if each seed had been a run.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lossatlas.errors import UserError
from lossatlas.lit import LitModule
from lossatlas.records import RESERVED, name
from lossatlas.seeding import draws, numpy_draws, numpy_stream, stream

__all__ = ["CellStudy", "draws", "numpy_draws", "numpy_stream", "stream"]

Cell = dict[str, Any]
Found = Mapping[str, Any]  # metric -> (R,) or (R, m)
BANDS = (
    100,
    1000,
)  # seeds below the first are for verdicts, from the second on fresh ones, between them pilots


class CellStudy(LitModule):
    """Base of a study without data and network; a paper gives `solve`, and `cells` where its grid is no product.

    A run has the seeds `seed`, `seed + 1`, ... `seed + seeds - 1`: `seeds=5` narrows a study, `seed=100` makes a pilot
    of it. What a repetition draws must come from its own streams (`draws`), so that its numbers depend on its seed
    alone, whichever others are solved beside it, and arms are paired.

    Args:
        data: None.
        seeds: how many, >= 1; together below 100, within 100..999 or from 1000 on.
        conditions: key -> values, whose product is the grid of `cells`.
        together: most seeds that one solve gets, where memory does not hold all; None: all. Side by side pays while a
            step costs its call: 20 seeds take 1/7 of their time one by one at 1 repetition each, 1/3 at 100, all of it
            at 1000 (100 steps on 5 numbers; scripts/bench_cells.py). Draw blocks of steps, not one stream a step.
        settings: of LitModule; `seed` is the first seed, `chunk` and `rounds` are not used.

    Raises:
        ValueError: seeds or together below 1, or seeds for pilots and for verdicts in one run.

    Example:
        >>> class Mean(CellStudy):
        ...     def solve(self, cell, seeds):
        ...         x = draws(seeds, "sample", lambda g: torch.randn(cell["n"], generator=g))
        ...         return {"error": x.mean(1).abs()}
        >>> study = Mean(None, seeds=3, conditions={"n": [10, 1000]})
        >>> study.play(torch.arange(2))
        >>> [(u["seed"], u["condition"]["n"], round(u["metrics"]["test/error"], 3)) for u in study.unit_metrics()][:3]
        [(0, 10, 0.595), (1, 10, 0.098), (2, 10, 0.429)]
    """

    def __init__(
        self,
        data: None = None,
        *,
        seeds: int = 20,
        conditions: Mapping[str, Sequence[Any]] | None = None,
        together: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(None, **settings)
        if min(seeds, together or 1) < 1:
            raise ValueError(f"a study needs seeds >= 1 and together >= 1, got {seeds=}, {together=}")
        last = self.seed + seeds - 1
        if any(self.seed < edge <= last for edge in BANDS):
            raise ValueError(
                f"seeds {self.seed} to {last} mix verdicts (below 100, from 1000 on) with pilots (100 to 999):"
                " choose seed and seeds on one side"
            )
        self.seeds = list(range(self.seed, last + 1))
        self.conditions, self.together = dict(conditions or {}), together or seeds
        self._found: dict[int, list[tuple[Cell, dict[str, Tensor]]]] = {}
        self._notes: dict[int, dict[str, Any]] = {}
        self._now = 0

    # ---------------------------------------------------------------- what a paper gives
    def solve(self, cell: Cell, seeds: list[int]) -> Found | list[tuple[Cell, Found]]:
        """All repetitions of a cell in one vectorised solve.

        Args:
            cell: one of `cells`.
            seeds: R of them.

        Returns:
            Metric to numbers: (R,), or (R, m) for m repetitions inside each seed, which are averaged. A name without
            `/` becomes `test/<name>`; infinity is "never", NaN a repetition that failed. Where one solve answers
            several cells, such as points along a run or arms on the same draws: pairs (more of the cell, metrics).
        """
        raise TypeError(f"{type(self).__name__} does not say what a cell is: override solve")

    def cells(self) -> list[Cell]:
        """The grid: one dict of conditions for each solve; a key `arm` names the arm of its rows."""
        return [
            dict(zip(self.conditions, point, strict=True))
            for point in itertools.product(*self.conditions.values())
        ]

    def note(self, **values: Any) -> None:
        """Small JSON for the record's extras, under the cell that is being solved, such as one curve for a figure."""
        self._notes.setdefault(self._now, {}).update(json.loads(json.dumps(values, default=_listed)))

    # ---------------------------------------------------------------- a round is a cell
    @cached_property
    def grid(self) -> list[Cell]:
        """`cells`, checked.

        Raises:
            UserError: none, one twice, or a key that every record has.
        """
        cells = [dict(cell) for cell in self.cells()]
        known = {label(cell) for cell in cells}
        if not cells or len(known) < len(cells):
            raise UserError(f"{type(self).__name__}.cells gives {len(cells)} cells, {len(known)} different")
        for cell in cells:
            if taken := sorted((RESERVED - {"arm"}) & set(cell)):
                raise UserError(f"{taken[0]!r} is a column of every record: call the condition otherwise")
        return cells

    def train_dataloader(self) -> Any:
        """One cell a step, in their order, so that a checkpoint may be made after each."""
        self.rounds, self.chunk = len(self.grid), 1
        return super().train_dataloader()

    def play(self, rounds: Tensor) -> None:
        """Solves the cells that are not solved yet."""
        for k in rounds.tolist():
            if k not in self._found:
                self._now = k
                blocks = [self._answers(self.grid[k], list(part)) for part in self._blocks_of_seeds()]
                self._found[k] = [
                    (cell, {metric: torch.cat([block[i][1][metric] for block in blocks]) for metric in found})
                    for i, (cell, found) in enumerate(blocks[0])
                ]

    def _blocks_of_seeds(self) -> list[tuple[int, ...]]:
        step = self.together
        return [tuple(self.seeds[i : i + step]) for i in range(0, len(self.seeds), step)]

    def _answers(self, cell: Cell, seeds: list[int]) -> list[tuple[Cell, dict[str, Tensor]]]:
        """What `solve` returned as (whole cell, metric -> (R,) float64)."""
        found = self.solve(dict(cell), seeds)
        pairs = [({}, found)] if isinstance(found, Mapping) else found
        answers = [({**cell, **more}, {_metric(m): self._numbers(m, v, seeds) for m, v in metrics.items()})
                   for more, metrics in pairs]  # fmt: skip
        if len({label(whole) for whole, _ in answers}) < len(answers):
            raise ValueError(f"{type(self).__name__}.solve answers one cell twice at {label(cell) or 'all'}")
        return answers

    def _numbers(self, metric: str, values: Any, seeds: list[int]) -> Tensor:
        numbers = torch.as_tensor(values).detach().to("cpu", torch.float64)
        if numbers.ndim not in (1, 2) or len(numbers) != len(seeds):
            raise ValueError(
                f"{type(self).__name__}.solve: {metric} has shape {tuple(numbers.shape)}, it must be ({len(seeds)},):"
                f" one number per seed, or ({len(seeds)}, m) for m repetitions in each"
            )
        return numbers if numbers.ndim == 1 else numbers.mean(1)

    # ---------------------------------------------------------------- checkpoint and record
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The solved cells."""
        checkpoint["cells"] = {
            "found": {k: [(json.dumps(c, default=_listed), m) for c, m in v] for k, v in self._found.items()},
            "notes": json.dumps(list(self._notes.items())),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on behind the last solved cell."""
        held = checkpoint["cells"]
        self._found = {k: [(json.loads(c), m) for c, m in v] for k, v in held["found"].items()}
        self._notes = dict(json.loads(held["notes"]))

    def results(self) -> dict[str, float]:
        """The mean of each metric over seeds and cells, to look at; the rows of the record are `unit_metrics`."""
        columns: dict[str, list[Tensor]] = {}
        for _, metrics in itertools.chain(*self._found.values()):
            for metric, values in metrics.items():
                columns.setdefault(metric, []).append(values[values.isfinite()])
        return {metric: torch.cat(parts).mean().item() for metric, parts in columns.items()}

    def unit_metrics(self) -> list[dict[str, Any]]:
        """A row per cell and seed."""
        rows = []
        for k in sorted(self._found):
            for cell, metrics in self._found[k]:
                fixed = {"condition": {key: value for key, value in cell.items() if key != "arm"}}
                fixed |= {"arm": cell["arm"]} if "arm" in cell else {}
                for i, seed in enumerate(self.seeds):
                    values = {metric: numbers[i].item() for metric, numbers in metrics.items()}
                    rows.append({"unit": 0, "seed": seed, **fixed, "metrics": values})
        return rows

    def extras(self) -> dict[str, Any]:
        """What cells noted, by their label."""
        return {label(self.grid[k]) or "all": self._notes[k] for k in sorted(self._notes)}


def label(cell: Cell) -> str:
    """One text for a cell.

    Example:
        >>> label({"B": 4, "sigma": 0.5})
        'B=4 sigma=0.5'
    """
    return " ".join(f"{key}={name(value)}" for key, value in cell.items())


def _metric(metric: str) -> str:
    return metric if "/" in metric else f"test/{metric}"


def _listed(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a note or condition holds JSON only, got {type(value).__name__}")
