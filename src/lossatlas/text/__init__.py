"""Language models small enough for a laptop: tokens, a GPT-2, its pretraining, generation, rewards and preferences.

What papers on text share. A text is a `Verses`; a model is a `TextModel` (transformers' GPT-2 with its tokenizer), made
once by `pretrained` and kept beside the data; sequences are (ids, mask, response) with padding on either side.
"""

from lossatlas.text.losses import DPO, IPO, MarginLoss
from lossatlas.text.model import TextModel, make_gpt2
from lossatlas.text.preferences import Pairs, flip, read_preferences, sample_pairs
from lossatlas.text.pretrain import chapter_parts, pretrained
from lossatlas.text.reward import BagReward
from lossatlas.text.tokens import Sequences, pad, train_tokenizer

__all__ = [
    "DPO",
    "IPO",
    "BagReward",
    "MarginLoss",
    "Pairs",
    "Sequences",
    "TextModel",
    "chapter_parts",
    "flip",
    "make_gpt2",
    "pad",
    "pretrained",
    "read_preferences",
    "sample_pairs",
    "train_tokenizer",
]
