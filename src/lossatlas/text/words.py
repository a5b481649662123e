"""A text by words: the most frequent ones, <unk> for the others, <end> behind every verse; padded sentences."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lossatlas.data.text import Verses
from lossatlas.data.words import vocabulary, words
from lossatlas.errors import UserError
from lossatlas.text.windows import Numbered, cut

UNK, END, PAD = "<unk>", "<end>", "<pad>"


def word_ids(corpus: Verses, at_most: int, held_out: float = 0.1) -> Numbered:
    """The verses as ids of their words and punctuation marks, in lower case, with <end> behind every verse.

    The `at_most` most frequent symbols of the training part (<end> counts as one) have ids of their own, the most
    frequent first; all others are <unk>, the last id. So K = at_most + 1 at most.

    Args:
        corpus: the text.
        at_most: symbols with an id of their own, >= 2.
        held_out: share of the words at the end that is kept for testing, in (0, 1).

    Raises:
        UserError: an argument out of range, or a text too short.

    Example:
        >>> from lossatlas.data.text import fake_verses
        >>> text = word_ids(fake_verses(), at_most=50)
        >>> len(text), text.symbols[-1]
        (51, '<unk>')
    """
    if at_most < 2:
        raise UserError(f"at_most must be >= 2 words, got {at_most}")
    spoken = [word for verse in corpus.text for word in (*words(verse), END)]
    order, _ = cut(torch.arange(len(spoken)), held_out)
    known = vocabulary(spoken[: len(order)], at_most=at_most)
    train, rest = cut(torch.tensor([known.get(word, len(known)) for word in spoken]), held_out)
    return Numbered((*known, UNK), train, rest, between=" ")


def padded_words(
    texts: Sequence[str], known: Mapping[str, int], length: int
) -> tuple[Int[Tensor, "n length"], Bool[Tensor, "n length"]]:
    """Texts as rows of word ids of one length, and a mask that is True at words.

    Args:
        texts: at least one, each with a word.
        known: word to id, with <pad> and <unk>.
        length: words of a row.

    Raises:
        UserError: a text has no word or more than `length`, or the ids lack <pad> or <unk>.

    Example:
        >>> padded_words(["The ark.", "an Ark"], {"<pad>": 0, "<unk>": 1, "the": 2, "ark": 3}, 4)[0].tolist()
        [[2, 3, 1, 0], [1, 3, 0, 0]]
    """
    if missing := {PAD, UNK} - set(known):
        raise UserError(f"word ids need {' and '.join(sorted(missing))}")
    rows = [[known.get(word, known[UNK]) for word in words(text)] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if not 1 <= len(row) <= length:
            raise UserError(f"a row has 1 to {length} words, {text!r} has {len(row)}")
    ids = torch.tensor([row + [known[PAD]] * (length - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(length) < lengths[:, None]
