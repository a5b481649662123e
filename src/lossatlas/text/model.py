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
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's gelu_new in one kernel
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def without_dropout(model: nn.Module) -> None:
    """Switches every dropout of a model off for good, in place, those that attention keeps as a number among them."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


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
        logits, k = self._answers(rows)
        each = -cross_entropy(logits.flatten(0, 1), rows.ids[:, k:].flatten(), reduction="none")
        return torch.where(rows.response[:, k:], each.view(len(rows), -1), 0.0).sum(1)

    def kl(self, other: "TextModel", rows: Sequences) -> Float[Tensor, " b"]:
        """KL(self, other) of the next token, summed over a row's response positions.

        Its mean over responses drawn from self estimates KL of the two policies, with less variance than the
        difference of their log-probabilities.
        """
        (own, k), (others, _) = self._answers(rows), other._answers(rows)
        own, others = own.log_softmax(-1), others.log_softmax(-1)
        each = (own.exp() * (own - others)).sum(-1)
        return torch.where(rows.response[:, k:], each, 0.0).sum(1)

    def _answers(self, rows: Sequences) -> tuple[Float[Tensor, "b m V"], int]:
        """Logits of the columns from k on, the first that holds a response token; prompts need no logits."""
        held = rows.response.any(0).nonzero()
        k = max(int(held[0]), 1) if len(held) else 1
        out = self.gpt(
            input_ids=rows.ids,
            attention_mask=rows.mask.long(),
            position_ids=positions(rows.mask),
            use_cache=False,
            logits_to_keep=rows.ids.shape[1] - k + 1,
        )
        return out.logits[:, :-1], k

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
                logits_to_keep=1,
            )
            cache = out.cache
            step = draw(out.logits[:, -1].float().cpu() / temperature, generator).to(ids.device)
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


def draw(logits: Float[Tensor, "b V"], generator: torch.Generator | None = None) -> Int[Tensor, "b 1"]:
    """One token per row from softmax(logits), by inverting the distribution function.

    One random number a row instead of torch.multinomial's one a token: faster, and models that are close to each
    other draw the same tokens from the same numbers.
    """
    up_to = logits.softmax(-1).cumsum(-1)
    u = torch.rand(len(logits), 1, generator=generator, dtype=up_to.dtype) * up_to[:, -1:]
    return torch.searchsorted(up_to, u, right=True).clamp(max=logits.shape[1] - 1)


def positions(mask: Bool[Tensor, "b T"]) -> Int[Tensor, "b T"]:
    """Position of each token, counted from the first that is no padding."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
