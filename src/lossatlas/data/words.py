"""Words of a text: tokens, a vocabulary of frequent ones, contiguous splits by chapter, next-word samples."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from lossatlas.data.core import Data, Split
from lossatlas.data.text import Verses
from lossatlas.errors import UserError

TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)*|[^\sa-z]")


def words(text: str) -> list[str]:
    """Lower-case words, every punctuation mark a word of its own.

    Example:
        >>> words("And Noah's sons went.")
        ['and', "noah's", 'sons', 'went', '.']
    """
    return TOKEN.findall(text.lower())


def vocabulary(tokens: Iterable[str], at_least: int = 1, at_most: int | None = None) -> dict[str, int]:
    """Numbers of the words seen at least `at_least` times, the most frequent first (ties by the alphabet).

    Args:
        tokens: of the training part only.
        at_least: >= 1.
        at_most: keep this many of the most frequent; None keeps all.

    Example:
        >>> vocabulary(["b", "a", "b"], at_least=2)
        {'b': 0}
    """
    counts = sorted(Counter(tokens).items(), key=lambda item: (-item[1], item[0]))
    return {word: k for k, (word, n) in enumerate(counts[:at_most]) if n >= at_least}


def split_chapters(verses: Verses, tokens: Sequence[int], sizes: Sequence[int]) -> list[np.ndarray]:
    """Verse numbers of consecutive parts that end with a chapter, each of at most `sizes` tokens.

    Args:
        verses: the text.
        tokens: (n,) tokens of each verse.
        sizes: tokens of each part, in the order of the text; what is left over belongs to none.

    Raises:
        UserError: a part has no whole chapter, or the text is too short for the last part to be filled.
    """
    per_chapter = np.bincount(verses.chapter, weights=np.asarray(tokens)).astype(np.int64)
    parts, start = [], 0
    for size in sizes:
        count = int((np.cumsum(per_chapter[start:]) <= size).sum())
        if count == 0:
            raise UserError(
                f"a part of {size} tokens holds no whole chapter of the {per_chapter[start:].sum()} tokens that are"
                " left: take smaller parts or a longer text"
            )
        parts.append(np.flatnonzero((verses.chapter >= start) & (verses.chapter < start + count)))
        start += count
    return parts


def next_words(
    corpus: Verses,
    context: int = 5,
    tokens: Mapping[str, int] | None = None,
    at_least: int = 20,
    at_most: int | None = None,
    own_parts: bool = False,
    name: str = "words",
    limit: Mapping[str, int | None] | None = None,
    val: bool = False,
) -> Data:
    """Samples "the previous words -> the next word", the parts contiguous by chapter.

    A word outside the vocabulary is <unk> in a context and never a target; a chapter opens with <s>. So
    inputs are numbers in [0, K + 2): the K words, <unk> = K, <s> = K + 1.

    Args:
        corpus: the text.
        context: previous words of a sample, >= 1.
        tokens: {train, val, test} tokens of the parts; a number of at most 1 is a share of the text.
        own_parts: the corpus comes tokenised, its words apart by spaces, its books being train, val and test:
            `tokens` is not used.
        at_least, at_most: of `vocabulary`, counted in the training part.
        name: of the data set.
        limit: {train, test} samples kept, the first ones; None keeps all.
        val: whether the validation part is used (tuning only).

    Shapes:
        x (n, context) int64, y (n,) int64.

    Raises:
        UserError: sizes that the text does not hold, or fewer than 3 words in the vocabulary.
    """
    if context < 1 or at_least < 1:
        raise UserError(f"data.context and data.at_least must be >= 1, got {context} and {at_least}")
    spoken = [verse.split() if own_parts else words(verse) for verse in corpus.text]
    parts = (
        [np.flatnonzero(corpus.book == k) for k in range(3)] if own_parts else _parts(corpus, spoken, tokens)
    )
    known = vocabulary((w for i in parts[0] for w in spoken[i]), at_least, at_most)
    if len(known) < 3:
        raise UserError(f"a vocabulary of at least 3 words is needed, got {len(known)}: lower data.at_least")
    train, held_out, test = (_samples(part, spoken, corpus.chapter, known, context) for part in parts)
    keep = limit or {}
    return Data(
        name=name,
        classes=len(known),
        train=_first(train, keep.get("train")),
        test=_first(test, keep.get("test")),
        val=_first(held_out, keep.get("test")) if val else None,
        source=corpus.source,
        digest=corpus.digest,
    )


def _parts(corpus: Verses, spoken: list[list[str]], tokens: Mapping[str, int] | None) -> list[np.ndarray]:
    """Training, validation and test verses by numbers or shares of tokens."""
    lengths = [len(w) for w in spoken]
    wanted = {"train": 0.8, "val": 0.1, "test": 0.1, **(tokens or {})}
    total = sum(lengths)
    return split_chapters(
        corpus,
        lengths,
        [int(v if v > 1 else v * total) for v in (wanted["train"], wanted["val"], wanted["test"])],
    )


def _samples(
    part: np.ndarray, spoken: Sequence[list[str]], chapter: np.ndarray, known: Mapping[str, int], context: int
) -> tuple[torch.Tensor, torch.Tensor]:
    K = len(known)
    pieces: list[np.ndarray] = []
    for c in np.unique(chapter[part]):
        numbers = [known.get(w, K) for i in part[chapter[part] == c] for w in spoken[i]]
        padded = np.array([K + 1] * context + numbers, dtype=np.int64)
        pieces.append(np.lib.stride_tricks.sliding_window_view(padded, context + 1))
    rows = torch.from_numpy(np.concatenate(pieces))
    rows = rows[rows[:, -1] < K]
    return rows[:, :-1].contiguous(), rows[:, -1].contiguous()


def _first(rows: tuple[torch.Tensor, torch.Tensor], n: int | None) -> Split:
    x, y = (part if n is None else part[:n].clone() for part in rows)
    return Split(x, y, y)
