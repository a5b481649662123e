"""A reward that can be checked: logistic regression on the words of a text."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor


class BagReward:
    """Log-odds of class 1 given the words of a text: linear in word counts, so a shared prompt cancels in a pair.

    Args:
        texts, labels: what it is fitted on, labels of both classes. min_count: texts that must hold a word.
        C: inverse strength of the ridge penalty, > 0.

    Attributes:
        words: how many it knows.

    Raises:
        ValueError: one class only, or no word frequent enough.
    """

    def __init__(self, texts: Sequence[str], labels: np.ndarray, min_count: int = 5, C: float = 0.1) -> None:
        if len(set(np.asarray(labels).tolist())) != 2:
            raise ValueError("a reward is fitted on texts of two classes, all of these are of one")
        self.counts = CountVectorizer(min_df=min_count, token_pattern=r"[a-z']+")
        self.model = LogisticRegression(C=C, max_iter=1000)
        self.model.fit(self.counts.fit_transform(texts), labels)
        self.words = len(self.counts.vocabulary_)

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, " n"]:
        """Log-odds, float32."""
        return torch.from_numpy(self.model.decision_function(self.counts.transform(texts))).float()

    def accuracy(self, texts: Sequence[str], labels: np.ndarray) -> float:
        """Share of texts whose class has the larger odds."""
        return float(((self(texts) > 0).numpy() == np.asarray(labels).astype(bool)).mean())
