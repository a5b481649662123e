"""Preference tuning of a language model: pairs of its own samples, a pair loss, reward and KL along the way."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.data.text import Verses
from lossatlas.lit import LitModule
from lossatlas.loader import ChunkLoader
from lossatlas.seeding import stream
from lossatlas.text.model import TextModel, without_dropout
from lossatlas.text.preferences import Pairs, flip, read_preferences, sample_pairs
from lossatlas.text.pretrain import chapter_parts
from lossatlas.text.reward import BagReward
from lossatlas.text.tokens import Sequences, join


class PreferenceTuning(LitModule):
    """Trains a copy of a pretrained (SFT) model on preference pairs.

    Pairs are two samples of the SFT model per prompt, preferred by Bradley-Terry on the reward and flipped once. The
    reference's log-probabilities are computed once. Rewards are for the preferences and for evaluation only.

    Metrics: val/reward and val/kl each epoch; at the end test/reward, test/kl, test/reward_at_kl (reward where the
    run's path passes `at_kl`, on validation prompts), sft/reward, sft/loss, reward_model/accuracy; with `likelihoods`
    pairs/chosen and pairs/rejected, the change of the mean log-probability of the given responses, in nats.

    Policy and reference have no dropout, in training either: it would be noise in the log-ratios of the policy alone.

    Args:
        data: the text. net: the SFT model. loss: (log_w, log_l, ref_w, ref_l) -> one value per pair; one whose
            `takes_lengths` is true gets the lengths of winners and losers in tokens besides, (b,) int64 each.
        pairs: how many preferences. eps: chance that one is flipped, in [0, 1/2).
        prompt: tokens of a prompt. held_out: prompts of validation and of test each.
        temperature: of sampling the pairs; evaluation samples at 1.
        measures: evaluations an epoch. at_kl: nats at which rewards are compared.
        log_spaced: evaluate after 1, 2, 4, 8 ... steps as well.
        likelihoods: measure the log-probabilities of all training pairs, too, at every evaluation.
        reward: hub id of a classifier instead of the bag of words (not for made-up text).
        preferences: JSON Lines file of pairs to train on instead, taken as given.

    Raises:
        ValueError, UserError: a setting out of range, too short a text, a file without usable pairs.
    """

    def __init__(
        self,
        data: Verses,
        net: TextModel,
        loss: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: None = None,
        *,
        pairs: int = 2000,
        eps: float = 0.4,
        prompt: int = 8,
        held_out: int = 500,
        temperature: float = 1.0,
        measures: int = 4,
        at_kl: float = 1.0,
        log_spaced: bool = False,
        likelihoods: bool = False,
        reward: str | None = None,
        preferences: str | None = None,
        **settings: Any,
    ) -> None:
        without_dropout(net)
        super().__init__(None, copy.deepcopy(net), loss, optimizer, schedule, **settings)
        if not (pairs >= 1 and held_out >= 1 and measures >= 1 and 1 <= prompt < net.context and at_kl > 0):
            raise ValueError(
                f"preference tuning needs pairs, held_out, measures >= 1, 1 <= prompt < {net.context} and at_kl > 0, "
                f"got {pairs=}, {held_out=}, {measures=}, {prompt=}, {at_kl=}"
            )
        self.reference = net.requires_grad_(False).eval()
        self.held_out, self.measures, self.at_kl = held_out, measures, at_kl
        self.log_spaced, self.likelihoods = log_spaced, likelihoods
        self.judge, self.accuracy = make_reward(data, reward)
        self.prompts = self._prompts(data, prompt, pairs)
        train = self.prompts[2 * held_out :]
        if preferences is None:
            made = sample_pairs(net, train, self.judge, stream(self.seed, "text/pairs"), temperature)
            self.pairs: Pairs = flip(made, eps, stream(self.seed, "text/flips"))
        else:
            self.pairs = read_preferences(preferences, net)
        ref = [self._log_probs(net, rows) for rows in (self.pairs.winner, self.pairs.loser)]
        self.register_buffer("ref", torch.stack(ref), persistent=False)
        lengths = [rows.response.sum(1) for rows in (self.pairs.winner, self.pairs.loser)]
        self.register_buffer("lengths", torch.stack(lengths), persistent=False)
        self.register_buffer("path", torch.zeros(0, 5 if likelihoods else 3, dtype=torch.float64))
        self.ref: Tensor
        self.lengths: Tensor
        self.path: Tensor

    def _prompts(self, data: Verses, width: int, pairs: int) -> Tensor:
        """(2 held_out + pairs, width) first tokens of verses of the part `prompts`: validation, test, training.

        The held-out prompts are those of every seed; which of the others make pairs, and in what order, is the seed's.
        """
        texts = [data.text[i] for i in chapter_parts(data)["prompts"]]
        rows = torch.tensor([ids[:width] for ids in self.reference.encode(texts) if len(ids) >= width])
        rows = rows[torch.randperm(len(rows), generator=stream(0, "text/prompts"))]
        held, rest = rows[: 2 * self.held_out], rows[2 * self.held_out :]
        if len(rest) < pairs:
            raise ValueError(
                f"the text has {len(rows)} prompts of {width} tokens, fewer than {pairs=} and "
                f"2 x held_out={self.held_out}"
            )
        order = torch.randperm(len(rest), generator=stream(self.seed, "text/order"))[:pairs]
        return torch.cat([held, rest[order]])

    # ---------------------------------------------------------------- training
    def train_dataloader(self) -> ChunkLoader:
        """Chunks of shuffled pairs."""
        return ChunkLoader(len(self.pairs), self.batch_size, self.chunk, self.seed)

    def on_fit_start(self) -> None:
        """Moves pairs and reference to the device; the path starts at the SFT model."""
        super().on_fit_start()
        self.pairs = self.pairs.to(self.device)
        if not len(self.path):
            self._measure(0)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The path is as long as it was."""
        self.path = torch.zeros_like(checkpoint["state_dict"]["path"])

    def play(self, index: Tensor) -> Tensor:
        """A chunk of pairs, one step per mini-batch; returns the mini-batches' losses."""
        values = []
        per_epoch = -(-len(self.pairs) // self.batch_size)
        done = self.trainer.fit_loop.epoch_loop.batch_idx * self.chunk
        for k, batch in enumerate(index.to(self.device).split(self.batch_size), done + 1):
            values.append(self._step(batch))
            step = self.current_epoch * per_epoch + k
            due = (k * self.measures) // per_epoch > ((k - 1) * self.measures) // per_epoch
            if due or (self.log_spaced and step & (step - 1) == 0):
                self._measure(step)
        return torch.stack(values)

    def _step(self, batch: Tensor) -> Tensor:
        """Winners and losers in one pass."""
        assert isinstance(self.net, TextModel)
        assert self.loss is not None
        both = join(self.pairs.winner[batch], self.pairs.loser[batch])
        log_w, log_l = self.net.log_probs(both).chunk(2)
        lengths = self.lengths[:, batch] if getattr(self.loss, "takes_lengths", False) else ()
        loss = self.loss(log_w, log_l, *self.ref[:, batch], *lengths).mean()
        self.descend(loss)
        return loss.detach()

    def on_train_epoch_end(self) -> None:
        """Logs reward and KL of the epoch's end."""
        _, reward, kl = self.path[-1, :3].tolist()
        self.log("val/reward", reward)
        self.log("val/kl", kl)
        super().on_train_epoch_end()

    # ---------------------------------------------------------------- evaluation
    def _measure(self, step: int) -> None:
        """One more point of the path, on validation prompts; the same random numbers each time."""
        _, reward, kl = self.samples(self.net, self.prompts[: self.held_out])
        point = [step, float(reward.mean()), float(kl.mean())]
        if self.likelihoods:
            assert isinstance(self.net, TextModel)
            both = [self._log_probs(self.net, rows) for rows in (self.pairs.winner, self.pairs.loser)]
            point += [float(log_p.double().mean()) for log_p in both]
        self.path = torch.cat([self.path, self.path.new_tensor([point])])

    @torch.no_grad()
    def samples(self, model: Any, prompts: Tensor) -> tuple[list[str], Tensor, Tensor]:
        """Texts that a model writes for prompts, their rewards and KLs to the SFT model."""
        was = model.training
        model.eval()
        self.reference.eval()  # Lightning sets all parts to training mode; a hub model has dropout
        rows = model.generate(prompts.to(self.device), generator=stream(self.seed, "text/samples"))
        texts = model.decode(rows)
        kl = [model.kl(self.reference, part) for part in _blocks(rows)]
        model.train(was)
        return texts, self.judge(texts), torch.cat(kl)

    def results(self) -> dict[str, float]:
        """Reward and KL on test prompts, the reward at matched KL, and what the SFT model and the reward are worth."""
        test = self.prompts[self.held_out : 2 * self.held_out]
        after, reward, kl = self.samples(self.net, test)
        before, sft, _ = self.samples(self.reference, test)
        self._shown = [list(pair) for pair in zip(before[:3], after[:3], strict=True)]
        change = (self.path[-1, 3:] - self.path[0, 3:]).tolist()
        return {
            "test/reward": float(reward.mean()),
            "test/kl": float(kl.mean()),
            "test/reward_at_kl": reward_at(self.path, self.at_kl),
            "sft/reward": float(sft.mean()),
            "sft/loss": float(self.reference.info.get("loss", float("nan"))),
            "reward_model/accuracy": self.accuracy,
            "pairs/flipped": float(self.pairs.flipped.double().mean()),
            **dict(zip(("pairs/chosen", "pairs/rejected"), change, strict=False)),
        }

    def extras(self) -> dict[str, Any]:
        """The path (step, reward, KL and log-probabilities of the pairs if measured), three test samples."""
        path = [[round(v, 5) for v in point] for point in self.path.tolist()]
        return {"path": path, "samples": getattr(self, "_shown", [])}

    @torch.no_grad()
    def _log_probs(self, model: TextModel, rows: Sequences) -> Tensor:
        return torch.cat([model.log_probs(part) for part in _blocks(rows)])


def make_reward(data: Verses, hub: str | None) -> tuple[Any, float]:
    """The reward, fitted on the part `reward`, and its accuracy on the part `prompts`."""
    rows = chapter_parts(data)
    texts = {name: [data.text[i] for i in rows[name]] for name in ("reward", "prompts")}
    if hub is not None and data.source != "fake":
        from lossatlas.text.hub import HubReward

        reward: Any = HubReward(hub)
    else:
        reward = BagReward(texts["reward"], data.new[rows["reward"]])
    return reward, reward.accuracy(texts["prompts"], data.new[rows["prompts"]])


def reward_at(path: Tensor, kl: float) -> float:
    """Reward where the path (step, reward, KL) first reaches a KL, between its points; NaN if it never does."""
    reached = (path[:, 2] >= kl).nonzero()
    if not len(reached):
        return float("nan")
    i = int(reached[0])
    if i == 0:
        return float(path[0, 1])
    (_, r0, k0), (_, r1, k1) = path[i - 1, :3].tolist(), path[i, :3].tolist()
    return r0 + (r1 - r0) * (kl - k0) / (k1 - k0)


def _blocks(rows: Sequences, size: int = 256) -> list[Sequences]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
