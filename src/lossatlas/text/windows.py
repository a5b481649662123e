"""A long text as numbers, its last part held out, read through windows of one length."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from lossatlas.errors import UserError


@dataclass(frozen=True)
class Numbered:
    """A text as ids: the first part for training, the last held out, no window reaching across.

    Args:
        symbols: what an id stands for (characters, or words), in the order of the ids.
        train, held_out: (n,) int64 ids in the order of the text.
        between: what is written between two symbols: "" for characters, " " for words.
    """

    symbols: tuple[str, ...]
    train: Int[Tensor, " n"]
    held_out: Int[Tensor, " m"]
    between: str = ""

    def __len__(self) -> int:
        """K, the number of symbols."""
        return len(self.symbols)

    def decode(self, ids: Int[Tensor, " n"] | Sequence[int]) -> str:
        """The text of a row of ids."""
        return self.between.join(self.symbols[int(i)] for i in ids)

    def windows(
        self, part: str, starts: Int[Tensor, " b"], length: int
    ) -> tuple[Int[Tensor, "b length"], Int[Tensor, "b length"]]:
        """Inputs and targets (the inputs moved by one) of the windows that begin at `starts`.

        Args:
            part: train or held_out.
            starts: in [0, n - length).
            length: of a window, >= 1.

        Raises:
            UserError: a window reaches over an end of the part, or the part has another name.
        """
        ids = self._part(part)
        if len(starts) and not 0 <= int(starts.min()) <= int(starts.max()) <= len(ids) - length - 1:
            raise UserError(
                f"windows of {length} in {part} begin in [0, {len(ids) - length - 1}], "
                f"got {int(starts.min())} to {int(starts.max())}"
            )
        rows = ids[starts[:, None] + torch.arange(length + 1, device=starts.device)]
        return rows[:, :-1], rows[:, 1:]

    def starts(
        self, part: str, count: int, length: int, generator: torch.Generator | None = None
    ) -> Int[Tensor, " count"]:
        """Random places at which a window of this length may begin, with replacement.

        Raises:
            UserError: the part is shorter than a window and its target.
        """
        room = len(self._part(part)) - length
        if room < 1 or length < 1:
            raise UserError(f"{part} has {room + length} symbols, a window of {length} needs {length + 1}")
        return torch.randint(room, (count,), generator=generator)

    def _part(self, part: str) -> Tensor:
        if part not in ("train", "held_out"):
            raise UserError(f"a text has the parts train and held_out, got {part!r}")
        return getattr(self, part)


def cut(ids: Int[Tensor, " n"], held_out: float) -> tuple[Tensor, Tensor]:
    """Training and held-out part, the last share `held_out` of the ids.

    Raises:
        UserError: the share is not in (0, 1), or a part would be empty.
    """
    if not 0 < held_out < 1:
        raise UserError(f"held_out is a share in (0, 1), got {held_out}")
    at = len(ids) - round(held_out * len(ids))
    if not 0 < at < len(ids):
        raise UserError(f"a text of {len(ids)} symbols has no part of {held_out:g}: take a longer one")
    return ids[:at], ids[at:]
