"""A causal language model with its tokenizer: log-probabilities of responses, generation, KL to another model."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lossatlas.text.tokens import Sequences


def make_gpt2(
    vocabulary: int, context: int = 32, layers: int = 2, width: int = 64, heads: int = 4
) -> nn.Module:
    """transformers' GPT-2 with random weights and no dropout.

    Args:
        vocabulary: tokens. context: positions. layers, width, heads: of the decoder; width is a multiple of heads.

    Raises:
        ValueError: width is no multiple of heads.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    if width % heads:
        raise ValueError(f"a GPT-2 needs width as a multiple of heads, got {width=}, {heads=}")
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=context, n_embd=width, n_layer=layers, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


class TextModel(nn.Module):
    """A causal language model of transformers and its tokenizer.

    Args:
        gpt: answers (input_ids, attention_mask, position_ids) with logits.
        tokenizer: text to ids and back.
        context: largest number of tokens of a sequence.
        pad, eos: ids of padding and end of text.
        info: how it was made, for the record.
    """

    def __init__(
        self,
        gpt: nn.Module,
        tokenizer: Tokenizer,
        context: int,
        pad: int = 0,
        eos: int = 1,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.gpt, self.tokenizer, self.context = gpt, tokenizer, context
        self.pad, self.eos, self.info = pad, eos, dict(info or {})

    def forward(self, ids: Int[Tensor, "b T"], mask: Bool[Tensor, "b T"]) -> Float[Tensor, "b T V"]:
        """Logits of the token after each position; positions count from the first token that is no padding."""
        return self.gpt(
            input_ids=ids, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
        ).logits

    def log_probs(self, rows: Sequences) -> Float[Tensor, " b"]:
        """log pi(response | prompt): the sum over response tokens; padding on either side changes nothing."""
        logits = self(rows.ids, rows.mask)[:, :-1]
        each = -cross_entropy(logits.transpose(1, 2), rows.ids[:, 1:], reduction="none")
        return torch.where(rows.response[:, 1:], each, 0.0).sum(1)

    def kl(self, other: "TextModel", rows: Sequences) -> Float[Tensor, " b"]:
        """KL(self, other) of the next token, summed over a row's response positions.

        Its mean over responses drawn from self estimates KL of the two policies, with less variance than the
        difference of their log-probabilities.
        """
        own, others = (m(rows.ids, rows.mask)[:, :-1].log_softmax(-1) for m in (self, other))
        each = (own.exp() * (own - others)).sum(-1)
        return torch.where(rows.response[:, 1:], each, 0.0).sum(1)

    @torch.no_grad()
    def generate(
        self,
        prompts: Int[Tensor, "b P"],
        mask: Bool[Tensor, "b P"] | None = None,
        new: int | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Sequences:
        """Samples a continuation of every prompt at once, with a key-value cache; a row ends behind its eos.

        Args:
            prompts: ids, padded on the left where `mask` is False. new: most tokens to add; None: up to the context.
            generator: on the CPU. temperature: > 0.

        Raises:
            ValueError: no room in the context, or temperature <= 0.
        """
        mask = torch.ones_like(prompts, dtype=torch.bool) if mask is None else mask
        new = self.context - prompts.shape[1] if new is None else new
        if not (new >= 1 and prompts.shape[1] + new <= self.context and temperature > 0):
            raise ValueError(
                f"generation needs temperature > 0 and 1 <= new <= context - prompt, got {new=}, "
                f"context={self.context}, prompt={prompts.shape[1]}, {temperature=}"
            )
        ids, cache, step = prompts, None, prompts
        alive = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        response = torch.zeros_like(mask)
        for _ in range(new):
            place = positions(mask)[:, -step.shape[1] :]
            out = self.gpt(
                input_ids=step,
                attention_mask=mask.long(),
                position_ids=place,
                cache=cache,
                use_cache=True,
            )
            cache = out.cache
            p = (out.logits[:, -1].float().cpu() / temperature).softmax(-1)
            step = torch.multinomial(p, 1, generator=generator).to(ids.device)
            step = torch.where(alive[:, None], step, self.pad)
            ids = torch.cat([ids, step], 1)
            mask = torch.cat([mask, alive[:, None]], 1)
            response = torch.cat([response, alive[:, None]], 1)
            alive = alive & (step[:, 0] != self.eos)
            if not alive.any():
                break
        short = prompts.shape[1] + new - ids.shape[1]  # every row ended early: one width for all calls
        fill = nn.functional.pad
        return Sequences(
            fill(ids, (0, short), value=self.pad), fill(mask, (0, short)), fill(response, (0, short))
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        return [e.ids for e in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, rows: Sequences) -> list[str]:
        """Prompt and response of each row as text, special tokens left out."""
        kept = [ids[mask].tolist() for ids, mask in zip(rows.ids.cpu(), rows.mask.cpu(), strict=True)]
        return [text.strip() for text in self.tokenizer.decode_batch(kept, skip_special_tokens=True)]


def positions(mask: Bool[Tensor, "b T"]) -> Int[Tensor, "b T"]:
    """Position of each token, counted from the first that is no padding."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
