"""Models, rewards and texts of the Hugging Face hub, for papers at their own scale."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lossatlas.data.cache import first_line
from lossatlas.data.text import Verses, fake_verses
from lossatlas.data.transport import HUB_LIMIT, SourceError, check_hub_size
from lossatlas.errors import UserError
from lossatlas.text.model import TextModel

T = TypeVar("T")
MODEL_LIMIT = 64 << 30  # bytes of a model's repository


def load_reviews(
    name: str,
    id: str,
    splits: Sequence[str] = ("train",),
    text: str = "text",
    label: str = "label",
    fake: bool = False,
    root: str | None = None,
    mirrors: Any = None,
) -> Verses:
    """Labelled texts of the hub as `Verses`: each a chapter of its own, class 1 in the place of the New Testament.

    Args:
        id: data set of the hub. splits: joined in order. text, label: its columns. fake: made-up verses instead.
        root, mirrors: as for other data; the hub's own cache is used.

    Raises:
        UserError: it cannot be loaded.
    """
    if fake:
        return fake_verses()

    def load() -> Verses:
        from datasets import load_dataset

        parts: list[Any] = [load_dataset(id, split=split) for split in splits]
        texts = tuple(str(t) for part in parts for t in part[text])
        labels = np.concatenate([np.asarray(part[label]) for part in parts]) == 1
        n = len(texts)
        return Verses(texts, np.zeros(n, np.int64), np.arange(n), labels, (name,), f"hub {id}")

    return reach(id, load, "dataset")


def hub_model(id: str, context: int) -> TextModel:
    """A causal language model and its (fast) tokenizer.

    Raises:
        UserError: it cannot be loaded.
    """

    def load() -> TextModel:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        words = AutoTokenizer.from_pretrained(id)
        gpt = AutoModelForCausalLM.from_pretrained(id, use_safetensors=True)
        end = words.eos_token_id
        padding = end if words.pad_token_id is None else words.pad_token_id
        return TextModel(gpt, words.backend_tokenizer, context, pad=padding, eos=end)

    return reach(id, load)


class HubReward:
    """Log-odds of a classifier's last class.

    Args:
        id: sequence classifier of the hub. batch_size: texts at a time.
    """

    def __init__(self, id: str, batch_size: int = 64) -> None:
        def load() -> Any:
            from transformers import pipeline

            return pipeline("text-classification", model=id, top_k=None, truncation=True)

        self.classify, self.batch_size = reach(id, load), batch_size

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, " n"]:
        found = self.classify(list(texts), batch_size=self.batch_size)
        last = [max(scores, key=lambda s: s["label"])["score"] for scores in found]
        return torch.tensor(last, dtype=torch.float64).clamp(1e-6, 1 - 1e-6).logit().float()

    def accuracy(self, texts: Sequence[str], labels: np.ndarray) -> float:
        """Share of texts whose class has the larger odds."""
        return float(((self(texts) > 0).numpy() == np.asarray(labels).astype(bool)).mean())


def reach(id: str, load: Callable[[], T], kind: str = "model") -> T:
    """The hub's answer, or one line that says what could not be had; a large repository is not downloaded."""
    try:
        _bounded(id, kind)
        return load()
    except Exception as error:  # the hub's libraries raise anything here
        raise UserError(
            f"{id}: not to be had from the Hugging Face hub ({first_line(error)}); fetch it on a machine with a "
            "network or set HF_HOME to a folder that holds it"
        ) from error


def _bounded(id: str, kind: str) -> None:
    if os.environ.get("HF_HUB_OFFLINE") or Path(id).is_dir():
        return
    try:
        check_hub_size(id, kind, limit=MODEL_LIMIT if kind == "model" else HUB_LIMIT)
    except SourceError:
        raise
    except Exception:  # out of reach: then only what is cached can be loaded
        return
