"""Hydra's own grid sweeper, which composes every job once before it starts any: a quarter of a second each.

A study's jobs differ in their seed more than in anything else, and a seed composes like any other.
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """All combinations of the swept values, in order; one job of each combination is composed beforehand."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Called by Hydra: raises what composing a job of the batch would."""
        kinds = {tuple(w for w in words if not w.startswith("seed=")): words for words in batch}
        super().validate_batch_is_legal(list(kinds.values()))
