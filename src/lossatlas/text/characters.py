"""A text by characters: one id for each character that occurs."""

import torch

from lossatlas.data.text import Verses
from lossatlas.text.windows import Numbered, cut


def characters(corpus: Verses, held_out: float = 0.1, first: int | None = None) -> Numbered:
    """The verses, one a line, as ids of their characters (in the order of their code points).

    Args:
        corpus: the text.
        held_out: share of the characters at the end that is kept for testing, in (0, 1).
        first: characters of the text that are used; None uses all.

    Raises:
        UserError: a share outside (0, 1), or a text too short for it.

    Example:
        >>> from lossatlas.data.text import fake_verses
        >>> text = characters(fake_verses())
        >>> x, y = text.windows("train", torch.tensor([0]), 8)
        >>> text.decode(y[0]) == text.decode(x[0])[1:] + text.symbols[int(y[0, -1])]
        True
    """
    whole = "\n".join(corpus.text)[:first]
    symbols = tuple(sorted(set(whole)))
    number = {symbol: k for k, symbol in enumerate(symbols)}
    train, rest = cut(torch.tensor([number[symbol] for symbol in whole]), held_out)
    return Numbered(symbols, train, rest)
