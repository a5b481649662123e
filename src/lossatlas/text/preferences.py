"""Preference pairs: two samples of a model judged by a reward, flips drawn once, or a file of the user's."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lossatlas.data.plain import decoded, text_lines
from lossatlas.errors import UserError
from lossatlas.text.model import TextModel
from lossatlas.text.tokens import Sequences, pad

Reward = Callable[[Sequence[str]], Float[Tensor, " n"]]


@dataclass(frozen=True)
class Pairs:
    """Preferences as given: row i of `winner` was preferred to row i of `loser`, the prompt being the same.

    Args:
        winner, loser: rows of one width.
        flipped: (n,) whether the given preference is the opposite of the true one, for reports.
    """

    winner: Sequences
    loser: Sequences
    flipped: Bool[Tensor, " n"]

    def __post_init__(self) -> None:
        if len(self.winner) == 0:
            raise UserError("no preference pairs: give at least one")
        if torch.equal(self.winner.ids, self.loser.ids):
            raise UserError("chosen equals rejected in every pair: nothing can be learnt, check the pairs")

    def __len__(self) -> int:
        return len(self.winner)

    def to(self, device: torch.device | str) -> "Pairs":
        """The same pairs on `device`."""
        return Pairs(self.winner.to(device), self.loser.to(device), self.flipped.to(device))


def select(take: Bool[Tensor, " n"], yes: Sequences, no: Sequences) -> Sequences:
    """Row by row `yes` where taken, else `no`."""
    chosen = zip(vars(yes).values(), vars(no).values(), strict=True)
    return Sequences(*(torch.where(take[:, None], a, b) for a, b in chosen))


def sample_pairs(
    model: TextModel, prompts: Tensor, reward: Reward, generator: torch.Generator, temperature: float = 1.0
) -> Pairs:
    """Two samples for every prompt, preferred as Bradley-Terry on the reward has it: P(a > b) = sigmoid(r_a - r_b).

    Args:
        model: that writes the samples. prompts: (n, P) ids without padding. reward: of whole texts.
        generator: of samples and preferences. temperature: of sampling.
    """
    a, b = (model.generate(prompts, generator=generator, temperature=temperature) for _ in range(2))
    difference = reward(model.decode(a)) - reward(model.decode(b))
    first = torch.rand(len(prompts), generator=generator) < torch.sigmoid(difference)
    none = torch.zeros(len(prompts), dtype=torch.bool)
    return Pairs(select(first, a, b), select(~first, a, b), none)


def flip(pairs: Pairs, eps: float, generator: torch.Generator) -> Pairs:
    """Each preference turned round with chance eps; call it once, before training.

    Raises:
        ValueError: eps outside [0, 1/2).
    """
    if not 0 <= eps < 0.5:
        raise ValueError(f"a flip rate lies in [0, 1/2), got {eps=}: at 1/2 labels say nothing")
    turned = torch.rand(len(pairs), generator=generator) < eps
    return replace(
        pairs,
        winner=select(turned, pairs.loser, pairs.winner),
        loser=select(turned, pairs.winner, pairs.loser),
        flipped=pairs.flipped ^ turned,
    )


def read_preferences(path: str | Path, model: TextModel) -> Pairs:
    """A JSON Lines file with prompt, chosen and rejected, as TRL has it; rows are cut to the model's context.

    Raises:
        UserError: no such file, a line that is not such an object, no pair, or chosen = rejected everywhere.
    """
    try:
        found = text_lines(decoded(Path(path).read_bytes(), str(path)))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a file of preferences") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    lines = [(number, line) for number, line in enumerate(found, 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no preference pair: give lines with prompt, chosen and rejected")
    texts = [_texts(path, number, line) for number, line in lines]
    prompts, chosen, rejected = (model.encode(column) for column in zip(*texts, strict=True))
    rows: list[Sequences] = []
    for answers in (chosen, rejected):
        ended = [
            [*a, model.eos][: max(model.context - len(p), 0)] for p, a in zip(prompts, answers, strict=True)
        ]
        if short := [i for i, a in enumerate(ended, 1) if not a]:
            raise UserError(
                f"{path}: the prompt of pair {short[0]} fills the model's context of {model.context} tokens: shorten it"
            )
        rows.append(pad(prompts, ended, model.pad, width=model.context))
    winner, loser = rows
    return Pairs(winner, loser, torch.zeros(len(lines), dtype=torch.bool))


def _texts(path: str | Path, number: int, line: str) -> tuple[str, str, str]:
    try:
        found = json.loads(line)
        prompt, chosen, rejected = (found[key] for key in ("prompt", "chosen", "rejected"))
        if not all(isinstance(text, str) for text in (prompt, chosen, rejected)):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}, line {number}: a JSON object with the strings prompt, chosen and rejected is needed, "
            f"got {line[:40]}"
        ) from None
    return prompt, chosen, rejected
