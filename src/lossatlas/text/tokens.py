"""Byte-pair tokens trained on the spot, and rows of tokens with padding on either side."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"  # ids 0, 1, 2


def train_tokenizer(texts: Sequence[str], vocabulary: int = 1000) -> Tokenizer:
    """A byte-pair tokenizer whose alphabet is that of the texts; the same texts give the same tokenizer.

    Args:
        texts: at least one. vocabulary: largest number of tokens, the three special ones included, >= 16.

    Raises:
        ValueError: no text or too small a vocabulary.

    Example:
        >>> train_tokenizer(["in the beginning"], 32).encode("in the").ids  # doctest: +SKIP
    """
    if not texts or vocabulary < 16:
        raise ValueError(
            f"a tokenizer needs texts and a vocabulary >= 16, got {len(texts)} texts, {vocabulary=}"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[PAD, EOS, UNK], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True)
class Sequences:
    """Rows of tokens.

    Args:
        ids: (n, T) int64.
        mask: (n, T) bool, False where padded.
        response: (n, T) bool, the tokens that belong to the answer rather than the prompt.
    """

    ids: Int[Tensor, "n T"]
    mask: Bool[Tensor, "n T"]
    response: Bool[Tensor, "n T"]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Tensor | slice) -> "Sequences":
        return Sequences(self.ids[index], self.mask[index], self.response[index])

    def to(self, device: torch.device | str) -> "Sequences":
        """The same rows on `device`."""
        return Sequences(self.ids.to(device), self.mask.to(device), self.response.to(device))


def join(first: Sequences, second: Sequences) -> Sequences:
    """The rows of both (of one width), so that one pass of a model serves winners and losers."""
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return Sequences(*(torch.cat(pair) for pair in pairs))


def pad(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]] | None = None,
    fill: int = 0,
    side: str = "right",
    width: int | None = None,
) -> Sequences:
    """Rows of prompt and answer, padded to one width.

    Args:
        prompts, answers: token ids; no answers: prompts only. fill: id of the padding. side: left or right.
        width: at least the longest row; None: the longest row.

    Raises:
        ValueError: no rows, an unknown side, or a row longer than the width.
    """
    given = answers if answers is not None else [[] for _ in prompts]
    rows = [[*p, *a] for p, a in zip(prompts, given, strict=True)]
    longest = max(map(len, rows), default=0)
    width = longest if width is None else width
    if not rows or side not in ("left", "right") or longest > width:
        raise ValueError(
            f"padding needs rows no longer than {width=} and side left|right, got {len(rows)} rows, {longest=}, {side=}"
        )
    ids = torch.full((len(rows), width), fill)
    mask, response = torch.zeros(ids.shape, dtype=torch.bool), torch.zeros(ids.shape, dtype=torch.bool)
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        start = width - len(row) if side == "left" else 0
        ids[i, start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, start : start + len(row)] = True
        response[i, start + len(prompt) : start + len(row)] = True
    return Sequences(ids, mask, response)
