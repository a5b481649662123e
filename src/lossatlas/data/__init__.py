"""Data sets: declared in conf/data, fetched once, kept in memory."""

from lossatlas.data.core import Batch, Data, Split
from lossatlas.data.loading import load
from lossatlas.data.noise import noisy_labels

__all__ = ["Batch", "Data", "Split", "load", "noisy_labels"]
