"""The pretrained model as an artefact beside the data: made once by its recipe, checked by sha256 when read."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from lossatlas.data.text import Verses
from lossatlas.errors import UserError
from lossatlas.kept import kept
from lossatlas.seeding import stream
from lossatlas.text.model import TextModel, make_gpt2
from lossatlas.text.tokens import EOS, PAD, train_tokenizer

FORMAT = 1  # of the recipe: another number makes every model anew
PARTS = ("model", "reward", "prompts")


def chapter_parts(
    verses: Verses, shares: Sequence[float] = (0.7, 0.2, 0.1), seed: int = 0
) -> dict[str, np.ndarray]:
    """Verse numbers of the parts that the model, the reward and the prompts come from: whole chapters, at random.

    Args:
        shares: of the chapters, > 0, adding to 1. seed: of the permutation.

    Raises:
        ValueError: shares that do not add to 1, or too few chapters.
    """
    chapters = np.unique(verses.chapter)
    if len(shares) != len(PARTS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares are three positive numbers that add to 1, got {list(shares)}")
    order = np.random.default_rng(seed).permutation(chapters)
    cuts = np.round(np.cumsum(shares)[:-1] * len(order)).astype(int)
    found = {
        name: np.flatnonzero(np.isin(verses.chapter, part))
        for name, part in zip(PARTS, np.split(order, cuts), strict=True)
    }
    if empty := [name for name, rows in found.items() if not len(rows)]:
        raise ValueError(
            f"{len(chapters)} chapters leave none for the part {empty[0]}: give it a larger share"
        )
    return found


def pretrained(
    verses: Verses,
    vocabulary: int = 1000,
    context: int = 32,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    epochs: int = 6,
    batch_size: int = 64,
    lr: float = 3e-3,
    seed: int = 0,
    hub: str | None = None,
    only_new: bool = False,
    root: str | Path | None = None,
) -> TextModel:
    """The language model of a text, from `<root>/models`; made there first where it is missing or damaged.

    Trained on the part `model` of `chapter_parts`, on windows of `context` tokens, verses separated by <eos>, by
    AdamW with warm-up and cosine decay. One process makes it, others wait. Made-up verses are trained on anew each
    time, without touching the disk. The global random states are left as they were: a run does not depend on who
    made it.

    Args:
        verses: the text. vocabulary: tokens of the tokenizer, trained on the same part. context, layers, width, heads:
            of the GPT-2. epochs, batch_size (windows), lr: of the training. seed: of weights and order.
        hub: start from this model of the hub and its tokenizer instead (not for made-up verses).
        only_new: train on class-1 texts only. root: folder of caches; None: as for `lossatlas.data.load`.

    Raises:
        UserError: the folder cannot be written. ValueError: sizes out of range.
    """
    recipe = {key: value for key, value in locals().items() if key not in ("verses", "root")}
    rows = chapter_parts(verses)
    texts = [verses.text[i] for i in rows["model"] if verses.new[i] or not only_new]
    held = [verses.text[i] for i in rows["prompts"]]
    if verses.source == "fake":
        return _make(recipe | {"hub": None}, texts, held, quiet=True)
    recipe |= {"format": FORMAT, "text": _digest("\n".join(verses.text).encode())}
    state = kept("gpt", recipe, lambda: _packed(_make(recipe, texts, held)), root)
    return _unpacked(state, recipe)


def _make(
    recipe: dict[str, Any], texts: Sequence[str], held: Sequence[str], quiet: bool = False
) -> TextModel:
    """Tokenizer, start weights and training by a recipe."""
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe["seed"])
        model = _untrained(recipe, texts)
        steps = train(
            model, texts, recipe["epochs"], recipe["batch_size"], recipe["lr"], recipe["seed"], quiet
        )
    model.info |= {
        "loss": held_out_loss(model, held),
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return model.eval()


def _untrained(recipe: dict[str, Any], texts: Sequence[str] | None, tokenizer: Any = None) -> TextModel:
    """The model with start weights; the tokenizer is given where a kept model is read."""
    if recipe["hub"]:
        from lossatlas.text.hub import hub_model

        return hub_model(recipe["hub"], recipe["context"])
    tokenizer = train_tokenizer(texts or [], recipe["vocabulary"]) if tokenizer is None else tokenizer
    sizes = {key: recipe[key] for key in ("context", "layers", "width", "heads")}
    ids = {"pad": tokenizer.token_to_id(PAD), "eos": tokenizer.token_to_id(EOS)}
    return TextModel(make_gpt2(tokenizer.get_vocab_size(), **sizes), tokenizer, recipe["context"], **ids)


def token_stream(model: TextModel, texts: Sequence[str]) -> Int[Tensor, " n"]:
    """All texts one after another, each behind an <eos>."""
    return torch.tensor([i for ids in model.encode(texts) for i in (model.eos, *ids)])


def train(
    model: TextModel,
    texts: Sequence[str],
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    quiet: bool = False,
) -> int:
    """Next-token training on windows of the texts' stream; every epoch cuts them elsewhere. Returns the steps.

    Raises:
        ValueError: fewer tokens than two windows.
    """
    from tqdm import tqdm

    tokens, width = token_stream(model, texts), model.context
    if len(tokens) < 2 * width:
        raise ValueError(f"pretraining needs at least {2 * width} tokens, the text has {len(tokens)}")
    windows = (len(tokens) - width) // width
    steps = epochs * -(-windows // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    rise = max(steps // 20, 1)
    shape = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(
            (s + 1) / rise, 0.5 * (1 + math.cos(math.pi * max(s - rise, 0) / max(steps - rise, 1)))
        ),
    )
    bar = tqdm(total=steps, desc="pretraining", leave=False, disable=True if quiet else None)
    model.train()
    for epoch in range(epochs):
        generator = stream(seed, f"pretrain/{epoch}")
        shift = int(torch.randint(width, (), generator=generator))
        rows = tokens[shift : shift + windows * width].view(windows, width)
        for index in torch.randperm(windows, generator=generator).split(batch_size):
            loss = _loss(model, rows[index])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            shape.step()
            bar.update()
    bar.close()
    return steps


def _loss(model: TextModel, rows: Int[Tensor, "b T"]) -> Tensor:
    logits = model(rows, torch.ones_like(rows, dtype=torch.bool))
    following = torch.nn.functional.pad(
        rows[:, 1:], (0, 1), value=-100
    )  # the last position has no next token
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), following.flatten())


@torch.no_grad()
def held_out_loss(model: TextModel, texts: Sequence[str]) -> float:
    """Nats per token on windows of other texts."""
    tokens, width = token_stream(model, texts), model.context
    rows = tokens[: len(tokens) // width * width].view(-1, width)
    if not len(rows):
        return math.nan
    parts = [(_loss(model, part), len(part)) for part in rows.split(256)]
    return float(sum(loss * n for loss, n in parts) / len(rows))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _packed(model: TextModel) -> dict[str, Tensor]:
    """The weights, each storage once (GPT-2's head is its embedding), tokenizer and facts as bytes beside them."""
    found: dict[int, str] = {}
    state = {}
    for key, value in model.gpt.state_dict().items():
        if found.setdefault(value.data_ptr(), key) == key:
            state[f"gpt/{key}"] = value
    texts = {"tokenizer.json": model.tokenizer.to_str(), "info.json": json.dumps(model.info)}
    return state | {
        key: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) for key, text in texts.items()
    }


def _unpacked(state: dict[str, Tensor], recipe: dict[str, Any]) -> TextModel:
    """The inverse of `_packed`."""
    texts = {key: state[key].numpy().tobytes().decode() for key in ("tokenizer.json", "info.json")}
    with torch.random.fork_rng(devices=[]):
        model = _untrained(recipe, None, Tokenizer.from_str(texts["tokenizer.json"]))
    weights = {key.removeprefix("gpt/"): value for key, value in state.items() if key.startswith("gpt/")}
    left = model.gpt.load_state_dict(weights, strict=False)
    own = model.gpt.state_dict()
    filled = {own[key].data_ptr() for key in weights}
    if left.unexpected_keys or any(own[key].data_ptr() not in filled for key in left.missing_keys):
        raise UserError(
            f"the kept model does not fit its recipe any more ({left}): remove it, it is made anew"
        )
    model.info |= json.loads(texts["info.json"])
    return model.eval()
