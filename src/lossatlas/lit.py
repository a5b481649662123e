"""LitModule: a net, a loss and an optimiser from config, trained by hand-written steps under Lightning.

Optimisation is manual everywhere, so that methods with gradient descent, with several networks in turn,
with their own update or with none at all share one path for bars, logs, checkpoints and records. A
Lightning batch is a chunk of mini-batches (loader.py): `step` is what one mini-batch does.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from lossatlas import optimizers
from lossatlas.data import Batch, Data, Split
from lossatlas.errors import UserError
from lossatlas.loader import Blocks, ChunkLoader
from lossatlas.metrics.classes import counted_wrong, unordered


class Diverged(RuntimeError):
    """The loss became NaN or infinite; the text names epoch and mini-batches."""


class LitModule(LightningModule):
    """The base class of every method; a supervised paper gives a loss, others override `step`.

    Args:
        data: tensors in memory, or None for a method that makes its own.
        net: maps (b, *shape) to scores (b, K).
        loss: (f, y) -> one value per sample; with `indexed = True`, (f, y, index) and per-sample state
            that `allocate(n)` creates. Where it has `predict(f)`, the metrics see that instead of the scores.
        optimizer: partial, called with the parameters; groups of parameters and several optimisers by
            `lossatlas.optimizers`; None for a method without one.
        schedule: partial, called with the optimiser (each of several that has none of its own); stepped once per epoch.
        batch_size: samples of a mini-batch over all processes.
        chunk: mini-batches per Lightning step.
        eval_every: epochs between evaluations (the last epoch is always evaluated).
        eval_batch: samples of an evaluation batch.
        gradient_clip: largest gradient norm, or None.
        topk: how many top-k accuracies are reported.
        rounds: without data, how many rounds (trials, bags, problems, steps) an epoch has.
    """

    def __init__(
        self,
        data: Data | None,
        net: nn.Module | None = None,
        loss: nn.Module | None = None,
        optimizer: Callable[..., Any] | None = None,
        schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
        *,
        seed: int = 0,
        batch_size: int = 64,
        chunk: int = 25,
        eval_every: int = 1,
        eval_batch: int = 4096,
        gradient_clip: float | None = None,
        topk: int = 5,
        rounds: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.data, self.net, self.loss = data, net, loss
        self._make_optimizer, self._make_schedule = optimizer, schedule
        self.seed, self.batch_size, self.chunk = seed, batch_size, chunk
        self.eval_every, self.eval_batch, self.gradient_clip = eval_every, eval_batch, gradient_clip
        self.rounds = rounds
        if data is not None and getattr(loss, "indexed", False):
            loss.allocate(len(data.train))  # type: ignore[union-attr, operator]
        if data is not None:
            test, val = _metrics(data.classes, topk)
            self.test_scores = MetricCollection(test, prefix="test/")
            self.val_scores = MetricCollection(val, prefix="val/")
            self.unordered = SumMetric()  # rows of a split whose scores name no class
        # a buffer, so that a run resumed in mid-epoch reports the whole epoch's mean
        self.register_buffer("loss_sum", torch.zeros(2, dtype=torch.float64))
        self.loss_sum: Tensor
        self._sharded = False
        self._scaler: Any = None
        self._names: list[str | None] = [None]

    # ---------------------------------------------------------------- what a paper overrides
    @property
    def can_stack(self) -> bool:
        """Whether replicas can be trained as one vectorised run (lossatlas.stacked).

        By itself so for supervised methods that leave the step and the losses to this class. One with `losses` of its
        own answers True where they are a pure function of parameters, buffers and mini-batch, random numbers left out.
        """
        own, shared = type(self), ("step", "losses", "descend", "mini_batches", "training_step")
        same = all(getattr(own, name) is getattr(LitModule, name) for name in shared)
        return same and self.data is not None and self.net is not None

    @classmethod
    def stack(cls, replicas: "list[Any]", scalars: dict[str, Tensor]) -> Any:
        """One module that trains all replicas; a method with rounds of its own may give its own.

        What comes back has `replica(r)`: error, metrics, rows, units and extras of one replica.
        """
        from lossatlas.stacked.stack import Stack

        return Stack(replicas, scalars)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (b, K) of inputs (b, *shape)."""
        assert self.net is not None
        return self.net(x)

    def predict(self, x: Tensor) -> Tensor:
        """What the metrics see: scores (b, K), or what the loss reads from them, such as numbers (b,)."""
        f = self(x)
        return self.loss.predict(f) if hasattr(self.loss, "predict") else f  # type: ignore[union-attr, operator]

    def losses(self, batch: Batch) -> Tensor:
        """(b,) one loss value per sample of a mini-batch."""
        assert self.loss is not None
        f = self(batch.x)
        return (
            self.loss(f, batch.y, batch.index)
            if getattr(self.loss, "indexed", False)
            else self.loss(f, batch.y)
        )

    def step(self, batch: Batch) -> Tensor:
        """One mini-batch: loss, gradients, one step of the optimiser. Returns the mean loss, detached."""
        loss = mean_of(self.losses(batch))
        self.descend(loss)
        return loss.detach()

    def play(self, rounds: Tensor) -> Tensor | None:
        """A chunk of rounds (m,) int64, in order, of a method without `data`. Returns their losses (m,), or None."""
        raise TypeError(
            f"{type(self).__name__} has no data and does not say what its rounds do: override play"
        )

    def results(self) -> dict[str, float]:
        """Final metrics (`test/...`) of a method without `data`."""
        return {}

    def unit_metrics(self) -> list[dict[str, Any]]:
        """One entry `{unit, metrics, ...}` per repetition, for methods that run many inside one run."""
        return []

    def extras(self) -> dict[str, Any]:
        """Small JSON for the record, such as histograms."""
        return {}

    def curve_rows(self) -> list[dict[str, float]]:
        """Rows of curves.csv where its axis is not the epoch, such as rounds; empty: what was logged each epoch."""
        return []

    # ---------------------------------------------------------------- optimisation
    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimisers and schedules from the partials of the config."""
        if self._make_optimizer is None:
            return None
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        made = optimizers.configured(self._make_optimizer, named, self._make_schedule)
        self._names = [name for name, _ in made]
        return [parts for _, parts in made] if len(made) > 1 else made[0][1]  # type: ignore[return-value]

    @property
    def _optimizers(self) -> list[Any]:
        return self._optimizer if isinstance(self._optimizer, list) else [self._optimizer]

    def descend(self, loss: Tensor, of: str | None = None) -> None:
        """zero_grad, backward, clip, step: on one process in full precision without Lightning's wrappers.

        Args:
            of: with several optimisers the name of the one that steps, whose parameters alone get gradients; None: all.

        Raises:
            ValueError: no optimiser has that name, or one was named on several processes.
        """
        if of is not None:
            return self._descend_one(loss, of)
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        if self._plain:
            loss.backward()
        else:
            self.manual_backward(loss * self._share)
        self.update()

    def _descend_one(self, loss: Tensor, of: str) -> None:
        if of not in self._names:
            raise ValueError(f"no optimiser is called {of!r}, there are {', '.join(map(str, self._names))}")
        if self.trainer.world_size > 1:
            raise ValueError(
                "descend(of=..) takes one process: the others wait for gradients of all parameters"
            )
        chosen = self._optimizers[self._names.index(of)]
        params = [p for group in chosen.param_groups for p in group["params"]]
        chosen.zero_grad()
        self.manual_backward(loss, inputs=params)
        self.update([chosen], params)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss as `backward` would take it: times the scaler's factor where trainer.precision=16-mixed has one.

        For methods that form gradients by `torch.autograd.grad` and hand them to `update`.
        """
        scaler = self._scaler
        return loss if scaler is None else scaler.scale(loss)

    def update(self, own: Sequence[Any] | None = None, params: Iterable[Tensor] | None = None) -> None:
        """Unscale, clip, step: what follows once the gradients are there.

        A scaler's factor (2^16 at first) leaves the gradients of every optimiser before their common norm is looked
        at, and each step is left out where one of its own gradients is not finite.

        Args:
            own: of this module's optimisers, those that step; None: all.
            params: whose norm is clipped; None: all of this module.
        """
        stepped = self._optimizers if own is None else own
        scaler: Any = self._scaler
        raw = [getattr(o, "optimizer", o) for o in stepped] if scaler is not None else []
        if scaler is not None:
            for optimizer in raw:
                scaler.unscale_(optimizer)
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters() if params is None else params, self.gradient_clip)
        if scaler is None:
            for optimizer in stepped:
                optimizer.step()
            return
        for optimizer in raw:  # Lightning's wrapper would unscale again, and forget the others' state
            scaler.step(optimizer)
        scaler.update()

    def setup(self, stage: str) -> None:
        """Keeps DDP from overwriting, at each chunk, what a process changed with the first process's values."""
        own = {id(state) for state in (self.loss_sum, *self.sample_states())}
        self._ddp_params_and_buffers_to_ignore = [name for name, b in self.named_buffers() if id(b) in own]

    def configure_model(self) -> None:
        """With trainer=fsdp shards the parameters of each child module over the processes, once."""
        mesh = self.device_mesh
        if mesh is None or self._sharded:
            return
        from torch.distributed.fsdp import fully_shard

        self._sharded = True
        for child in self.children():
            if any(p.requires_grad for p in child.parameters()):
                fully_shard(child, mesh=mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Moves the data to the device and looks the optimiser up once."""
        self._plain = self.trainer.world_size == 1 and self.trainer.precision in ("32-true", "64-true")
        found: Any = self.optimizers(use_pl_optimizer=not self._plain)
        self._optimizer: Any = found  # the only one, or the list
        self._scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        self._share = 1.0
        self._to_device()

    def on_validation_start(self) -> None:
        """Moves the data to the device."""
        self._to_device()

    def on_test_start(self) -> None:
        """Moves the data to the device."""
        self._to_device()

    def training_step(self, index: Tensor, _: int) -> None:
        """One chunk: its samples are gathered at once, then one `step` per mini-batch; or its rounds are played."""
        if self.data is None:
            values = self.play(index)
            if values is None:
                return
        else:
            values = self._steps(index) if self.trainer.world_size == 1 else self._shared_steps(index)
        total, count = values.sum(dtype=torch.float64), len(values)
        if not torch.isfinite(total):
            position = self.trainer.fit_loop.epoch_loop.batch_idx * self.chunk
            what = "rounds" if self.data is None else "mini-batches"
            where = f"epoch {self.current_epoch}, {what} {position} to {position + count - 1}"
            raise Diverged(f"loss {total.item() / count} in {where}")
        self.loss_sum[0] += total
        self.loss_sum[1] += count

    def _steps(self, index: Tensor) -> Tensor:
        return torch.stack([self.step(batch) for batch in self.mini_batches(index)])

    def _shared_steps(self, index: Tensor) -> Tensor:
        """One step per mini-batch, each shared with the other processes; returns the mini-batches' mean losses."""
        from lossatlas import ranks

        assert self.data is not None
        position, trainer = self.trainer.fit_loop.epoch_loop.batch_idx, self.trainer
        n, world = len(self.data.train), trainer.world_size
        shares = ranks.shares(n, self.batch_size, self.chunk, position, trainer.global_rank, world)
        values = []
        for share, batch in zip(shares, self.mini_batches(index), strict=True):
            self._share = share
            values.append(self.step(batch) * share)
        ranks.exchange(self.sample_states(), index.to(self.device))
        return trainer.strategy.reduce(torch.stack(values), reduce_op="mean")  # type: ignore[return-value]

    def sample_states(self) -> list[Tensor]:
        """Tensors of one row per training sample that training changes: the buffers of an indexed loss."""
        if self.data is None or not getattr(self.loss, "indexed", False):
            return []
        n = len(self.data.train)
        return [b for b in self.loss.buffers() if b.ndim and len(b) == n]  # type: ignore[union-attr]

    def mini_batches(self, index: Tensor) -> Iterable[Batch]:
        """The mini-batches of a chunk of training indices (m,)."""
        assert self.data is not None
        size = self.batch_size // self.trainer.world_size
        draws = self.data.draws(self.seed, self.current_epoch, index)
        batches = self.data.batches(self.data.train, index.to(self.device), size, train=True, draws=draws)
        return batches if self.dtype == torch.float32 else map(self._cast, batches)

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's mean loss and steps the schedule."""
        if self.loss_sum[1] > 0:  # rounds may have no losses
            self.log("train/loss", (self.loss_sum[0] / self.loss_sum[1]).float(), sync_dist=True)
        self.loss_sum.zero_()
        schedulers = self.lr_schedulers()
        for schedule in schedulers if isinstance(schedulers, list) else [schedulers] if schedulers else []:
            schedule.step()  # type: ignore[call-arg]

    def evaluates_now(self) -> bool:
        """Whether this epoch's end is one at which training curves are measured."""
        epoch = self.current_epoch + 1
        return epoch % self.eval_every == 0 or epoch == self.trainer.max_epochs

    # ---------------------------------------------------------------- evaluation
    def train_dataloader(self) -> ChunkLoader:
        """Chunks of shuffled training indices; chunks of rounds in their order where there is no data."""
        if self.data is None:
            return ChunkLoader(self.rounds, 1, self.chunk, self.seed, shuffle=False)
        world = self.trainer.world_size
        return ChunkLoader(
            len(self.data.train),
            self.batch_size,
            self.chunk,
            self.seed,
            rank=self.trainer.global_rank,
            world=world,
        )

    def val_dataloader(self) -> Blocks | list[Blocks]:
        """Blocks of indices of the validation fold; no loader where there is no fold."""
        return [] if self.data is None or self.data.val is None else self._blocks(self.data.val)

    def test_dataloader(self) -> Blocks:
        """Blocks of test indices; a single empty step where there is no data."""
        return Blocks(1, 1) if self.data is None else self._blocks(self.data.test)

    def _blocks(self, split: Split) -> Blocks:
        return Blocks(len(split), self.eval_batch, self.trainer.global_rank, self.trainer.world_size)

    def validation_step(self, index: Tensor, _: int) -> None:
        """Top-1 (or mse) on the validation fold, whose labels are the given (maybe noisy) ones."""
        assert self.data is not None
        assert self.data.val is not None
        self._score(self.val_scores, self.data.val, index)

    def on_validation_epoch_end(self) -> None:
        """Logs val/top1, or val/mse."""
        if self.data is not None and self.data.val is not None:
            self._log_scores(self.val_scores, "val")

    def test_step(self, index: Tensor, _: int) -> None:
        """Top-1 to top-k, or mse, on the test split."""
        if self.data is None:
            return
        self._score(self.test_scores, self.data.test, index)

    def on_test_epoch_end(self) -> None:
        """Logs test/top1... or test/mse, or the `results` of a method without data."""
        if self.data is None:
            self.log_dict(self.results())
            return
        self._log_scores(self.test_scores, "test")

    def _log_scores(self, metrics: MetricCollection, split: str) -> None:
        """Logs a split's metrics, and says how many samples had scores that name no class."""
        self.log_dict(metrics.compute())
        metrics.reset()
        count = int(self.unordered.compute())
        self.unordered.reset()
        if count:
            self.log(f"{split}/nonfinite", float(count))
            warnings.warn(
                f"{count} {split} samples have scores that are not finite: they count as wrong", stacklevel=2
            )

    @torch.no_grad()
    def scores(self, split: Split) -> Tensor:
        """(n, K) scores of a whole split, in evaluation mode, in large batches."""
        assert self.data is not None
        was = self.training
        self.eval()
        found = [self(self._gather(split, i, train=False).x) for i in Blocks(len(split), self.eval_batch)]
        self.train(was)
        return torch.cat(found)

    def _gather(self, split: Split, index: Tensor, train: bool) -> Batch:
        """Rows of a split on the device."""
        assert self.data is not None
        return self._cast(self.data.batch(split, index.to(self.device), train=train))

    def _cast(self, batch: Batch) -> Batch:
        """In the precision of the parameters (trainer.precision=64-true)."""
        x, y = (t.to(self.dtype) if t.is_floating_point() else t for t in (batch.x, batch.y))
        return batch._replace(x=x, y=y)

    def _score(self, metrics: MetricCollection, split: Split, index: Tensor) -> None:
        if len(index):
            batch = self._gather(split, index, train=False)
            f = self.predict(batch.x)
            if self.data is not None and self.data.classes:
                bad = unordered(f)
                self.unordered.update(bad.sum())
                f = counted_wrong(f, batch.y, bad)
            metrics.update(f, batch.y)
        elif (
            self._sharded
        ):  # nothing of a short last block is left for this process, but its part of the net is needed
            self(self._gather(split, torch.zeros(1, dtype=torch.int64), train=False).x)

    def _to_device(self) -> None:
        if self.data is not None:
            self.data = self.data.to(self.device)


def mean_of(losses: Tensor) -> Tensor:
    """The mean of a mini-batch's losses, which must be one per sample.

    Raises:
        UserError: one number for the whole mini-batch, whose sum would be b times the rate that the config says.
    """
    if losses.ndim == 0:
        raise UserError(
            "loss: it gives one number for a mini-batch and needs to give one per sample; write reduction: none"
        )
    return losses.mean()


def _metrics(classes: int, topk: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of the test split and of the validation fold: accuracies of labels, the squared error of numbers."""
    if classes == 0:
        return {"mse": MeanSquaredError()}, {"mse": MeanSquaredError()}
    top = {
        f"top{k}": MulticlassAccuracy(classes, top_k=k, average="micro")
        for k in range(1, min(topk, classes) + 1)
    }
    return dict(top), {"top1": top["top1"].clone()}
