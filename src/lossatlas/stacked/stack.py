"""R replicas of one method as one LightningModule.

Every replica is a LitModule of its own, built as for a run alone; its parameters and buffers are views into
tensors with a leading axis R. Training is one vmap over the replicas per mini-batch, written down once and replayed
(traced.py); everything that happens once an epoch (curves, evaluation, a paper's own hooks) is done by the replicas
themselves, one after another.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossatlas import optimizers
from lossatlas.data import Batch
from lossatlas.lit import LitModule, mean_of
from lossatlas.loader import Blocks, ChunkLoader
from lossatlas.stacked.optim import LINEAR_IN_LR, clip_each, step_each
from lossatlas.stacked.traced import Traced, settings_of


class _MeanLoss(nn.Module):
    """`losses(batch).mean()` as a forward, which is what functional_call calls."""

    def __init__(self, lit: LitModule) -> None:
        super().__init__()
        self.lit = lit

    def forward(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        return mean_of(self.lit.losses(Batch(x, y, index)))


class StackedLoader:
    """The replicas' chunk loaders side by side.

    Shapes:
        yields (R, m) int64, row r the chunk of replica r.
    """

    def __init__(self, loaders: list[ChunkLoader]) -> None:
        self.loaders = loaders
        self.sampler = self  # Lightning calls set_epoch on a loader's sampler

    def __len__(self) -> int:
        return len(self.loaders[0])

    def __iter__(self) -> Iterator[Tensor]:
        return map(torch.stack, zip(*self.loaders, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose orders the next iteration has."""
        for loader in self.loaders:
            loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """All replicas stand at the same chunk."""
        return self.loaders[0].state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration starts behind these chunks."""
        for loader in self.loaders:
            loader.load_state_dict(state)


class Stack(LightningModule):
    """Trains replicas of a method together; each ends as if it had been trained alone.

    Args:
        replicas: modules of one class, net and data shape; seeds, data and the scalars below may differ.
        scalars: attributes of the loss that differ between replicas, name to (R,).

    Raises:
        ValueError: no replica, or a method that cannot be stacked.
    """

    def __init__(
        self,
        replicas: list[LitModule],
        scalars: dict[str, Float[Tensor, " R"]] | None = None,
    ) -> None:
        super().__init__()
        if not replicas or not all(r.can_stack for r in replicas):
            raise ValueError("Stack needs at least one replica, all of a method whose can_stack is true")
        self.automatic_optimization = False
        self.replicas = nn.ModuleList(replicas)
        self.data = replicas[0].data
        self.chunk, self.scalars = replicas[0].chunk, scalars or {}
        self.rows: list[list[dict[str, float]]] = [[] for _ in replicas]
        self.errors: list[str | None] = [None for _ in replicas]
        self._logged: list[dict[str, float]] = [{} for _ in replicas]
        self._tested: list[dict[str, float]] = [{} for _ in replicas]
        self._traced = Traced(self._differentiate)
        self._losses = [_MeanLoss(replicas[0])]  # in a list, so that the replica is not registered twice
        for r, lit in enumerate(replicas):
            # what a replica logs is its own, and its schedule is the stack's
            lit.log = lambda name, value, r=r, **_: self._log(r, {name: value})  # type: ignore[method-assign]
            lit.log_dict = lambda values, r=r, **_: self._log(r, values)  # type: ignore[method-assign]
            lit.lr_schedulers = lambda: None  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self.replicas)

    def _log(self, r: int, values: dict[str, Any]) -> None:
        self._logged[r].update({name: float(value) for name, value in values.items()})

    # ---------------------------------------------------------------- stacking
    def configure_optimizers(self) -> Any:
        """Stacks the state, when Lightning has moved it to its device, and builds one optimiser on it."""
        self.stack()
        first: Any = self.replicas[0]
        if first._make_optimizer is None:
            return None
        named = [(n.removeprefix("lit."), p) for n, p in self.params.items() if p.requires_grad]
        made = [
            parts for _, parts in optimizers.configured(first._make_optimizer, named, first._make_schedule)
        ]
        self.rates = self._relative_rates([parts["optimizer"] for parts in made], [name for name, _ in named])
        return made if len(made) > 1 else made[0]

    def stack(self) -> None:
        """Moves parameters and buffers of all replicas into stacked tensors; the replicas keep views."""
        wrapped = [_MeanLoss(lit) for lit in self._lits]
        params, self.buffers_ = stack_module_state(wrapped)  # type: ignore[arg-type]
        trained = {name: p.requires_grad for name, p in wrapped[0].named_parameters()}
        self.params = {n: nn.Parameter(p.detach(), requires_grad=trained[n]) for n, p in params.items()}
        for r, module in enumerate(wrapped):
            for name, p in module.named_parameters():
                p.data = self.params[name].detach()[r]
            for name, _ in list(module.named_buffers()):
                owner, _, leaf = name.rpartition(".")
                module.get_submodule(owner)._buffers[leaf] = self.buffers_[name][r]

    def _relative_rates(self, made: list[torch.optim.Optimizer], names: list[str]) -> list[Tensor | None]:
        """For each optimiser the replicas' learning rates over the first one's; None where they are equal."""
        probe = [(name, nn.Parameter(torch.zeros(1))) for name in names]
        makers = [lit._make_optimizer for lit in self._lits]
        found = [optimizers.configured(make, probe) for make in makers if make]
        rates = torch.tensor(
            [[parts["optimizer"].param_groups[0]["lr"] for _, parts in each] for each in found],
            dtype=torch.float64,
        )
        for optimizer, own in zip(made, rates.T, strict=True):
            if (own != own[0]).any() and type(optimizer) not in LINEAR_IN_LR:
                raise ValueError(
                    f"{type(optimizer).__name__} cannot run replicas with different learning rates"
                )
        return [None if bool((own == own[0]).all()) else own / own[0] for own in rates.T]

    @property
    def _lits(self) -> list[LitModule]:
        return list(self.replicas)  # type: ignore[arg-type]

    # ---------------------------------------------------------------- training
    def differentiate(
        self, x: Tensor, y: Tensor, index: Tensor, settings: Hashable = None
    ) -> tuple[Float[Tensor, " R"], list[Tensor | None]]:
        """Each replica's mean loss on its own mini-batch, and the gradients of the stacked parameters.

        Args:
            settings: `self.settings()`, which a caller with many mini-batches looks up once.

        Shapes:
            x (R, b, *shape), y (R, b), index (R, b) -> (R,), and one gradient (R, ...) per entry of `params`,
            None for those that are frozen or had no part.
        """
        own = [*self.params.values(), *self.buffers_.values(), *self.scalars.values()]
        losses, *grads = self._traced(settings or self.settings(), [*own, x, y, index])
        assert losses is not None
        return losses, grads

    def settings(self) -> Hashable:
        """What the record of a step depends on beside tensors; hooks of a method may change it between chunks."""
        return settings_of(self._losses[0])

    def _differentiate(self, *tensors: Tensor) -> list[Tensor | None]:
        template, loss = self._losses[0], self._losses[0].lit.loss
        *own, x, y, index = tensors
        given = iter(own)
        params = {n: next(given).detach().requires_grad_(p.requires_grad) for n, p in self.params.items()}
        buffers, scalars = ({n: next(given) for n in names} for names in (self.buffers_, self.scalars))
        before = {name: getattr(loss, name) for name in scalars}

        def one(params: Any, buffers: Any, scalars: Any, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
            for name, value in scalars.items():
                setattr(loss, name, value)
            return functional_call(template, (params, buffers), (x, y, index))

        try:
            run = torch.vmap(one, randomness="different")
            # vmap has no rule for the fused attention: it would run it for one replica after another
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                losses = run(params, buffers, scalars, x, y, index)
        finally:
            for name, value in before.items():
                setattr(loss, name, value)
        trained = [p for p in params.values() if p.requires_grad]
        grads = iter(torch.autograd.grad(losses.sum(), trained, allow_unused=True))
        return [losses.detach(), *(next(grads) if p.requires_grad else None for p in params.values())]

    def descend(self, grads: Sequence[Tensor | None]) -> None:
        """Clip and step: the replicas do not see each other's gradients."""
        first, params = self._lits[0], list(self.params.values())
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        if first.gradient_clip is not None:
            clip_each(params, first.gradient_clip)
        for optimizer, rates in zip(self._optimizers, self.rates, strict=True):
            step_each(optimizer, rates)

    def on_fit_start(self) -> None:
        """Lets the replicas look at the trainer, and measures nothing."""
        found: Any = self.optimizers(use_pl_optimizer=False)
        self._optimizers: list[Any] = found if isinstance(found, list) else [found]
        for lit in self._lits:
            lit._trainer = self.trainer
            lit._plain = True
            lit._to_device()
        self.data = self._lits[0].data

    def training_step(self, index: Tensor, _: int) -> None:
        """One chunk of every replica: one vectorised step per mini-batch."""
        total, count, settings = 0.0, 0, self.settings()
        for batches in zip(
            *(lit.mini_batches(at) for lit, at in zip(self._lits, index, strict=True)), strict=True
        ):
            x, y, at = map(torch.stack, zip(*batches, strict=True))
            losses, grads = self.differentiate(x, y, at, settings)
            self.descend(grads)
            total, count = total + losses.double(), count + 1
        assert isinstance(total, Tensor)
        sums = self.buffers_["lit.loss_sum"]
        sums[:, 0] += total
        sums[:, 1] += count
        self._note_divergence(total / count, count)

    def _note_divergence(self, means: Float[Tensor, " R"], count: int) -> None:
        finite = torch.isfinite(means)
        if bool(finite.all()):
            return
        position = self.trainer.fit_loop.epoch_loop.batch_idx * self.chunk
        where = f"epoch {self.current_epoch}, mini-batches {position} to {position + count - 1}"
        for r in (~finite).nonzero()[:, 0].tolist():
            self.errors[r] = self.errors[r] or f"Diverged: loss {means[r].item()} in {where}"
        if all(self.errors):
            self.trainer.should_stop = True

    def on_train_epoch_start(self) -> None:
        """The replicas' own hook."""
        for lit in self._lits:
            lit.on_train_epoch_start()

    def on_train_epoch_end(self) -> None:
        """The replicas' own hook, a row of each one's curves, then the schedule."""
        for r, lit in enumerate(self._lits):
            lit.on_train_epoch_end()
            if self.errors[r] is None:
                self.rows[r].append({"epoch": float(self.current_epoch + 1), **self._logged[r]})
            self._logged[r].clear()
        known = [rows[-1]["train/loss"] for rows in self.rows if rows and "train/loss" in rows[-1]]
        if known:
            self.log("train/loss", sum(known) / len(known))
        found: Any = self.lr_schedulers()
        for schedule in found if isinstance(found, list) else [found] if found else []:
            schedule.step()

    # ---------------------------------------------------------------- evaluation
    def train_dataloader(self) -> StackedLoader:
        """The replicas' orders side by side."""
        for lit in self._lits:
            lit._trainer = self.trainer
        return StackedLoader([lit.train_dataloader() for lit in self._lits])

    def val_dataloader(self) -> Blocks | list[Blocks]:
        """As a replica's own: folds have one size."""
        return self._lits[0].val_dataloader()

    def test_dataloader(self) -> Blocks:
        """As a replica's own: test splits have one size."""
        return self._lits[0].test_dataloader()

    def validation_step(self, index: Tensor, batch_idx: int) -> None:
        """Every replica's."""
        for lit in self._lits:
            lit.validation_step(index, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Every replica's."""
        for lit in self._lits:
            lit.on_validation_epoch_end()

    def test_step(self, index: Tensor, batch_idx: int) -> None:
        """Every replica's."""
        for lit in self._lits:
            lit.test_step(index, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Every replica's; the last validation was logged before."""
        for r, lit in enumerate(self._lits):
            lit.on_test_epoch_end()
            self._tested[r] = dict(self._logged[r])
            self._logged[r].clear()

    def replica(self, r: int) -> dict[str, Any]:
        """What a run of replica r alone would have left: error, metrics, rows of its curves, units, extras."""
        if self.errors[r] is not None:
            return {"error": self.errors[r], "metrics": {}, "rows": self.rows[r], "units": [], "extras": {}}
        lit, last = self._lits[r], self.rows[r][-1] if self.rows[r] else {}
        metrics = {name: value for name, value in last.items() if name != "epoch"} | self._tested[r]
        found = {
            "rows": self.rows[r], "tested": self._tested[r], "units": lit.unit_metrics(), "extras": lit.extras(),
        }  # fmt: skip
        return {"error": None, "metrics": metrics, **found}

    # ---------------------------------------------------------------- checkpoints
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Curves and errors of the replicas."""
        checkpoint["stack"] = {"rows": self.rows, "errors": self.errors}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The inverse."""
        for name, value in checkpoint["stack"].items():
            setattr(self, name, value)


def faster_together(stack: Stack, steps: int = 8) -> tuple[bool, str]:
    """Whether one vectorised step beats R single ones, measured on copies of the present state.

    Args:
        stack: not yet trained.
        steps: mini-batches timed of each kind; the quickest counts, since a busy machine only ever adds.

    Returns:
        The answer, and a line that says what was measured.
    """
    import copy

    trial = copy.deepcopy(stack)
    trial.stack()
    first = trial._lits[0]
    assert first.data is not None
    n, b, R = len(first.data.train), first.batch_size, len(trial)
    index = torch.arange(steps * b) % n
    batches = [first.data.batch(first.data.train, part, train=False) for part in index.split(b)]
    alone = copy.deepcopy(stack._lits[0])

    def together(batch: Batch) -> None:
        trial.differentiate(*(part.expand(R, *part.shape) for part in batch))

    def single(batch: Batch) -> None:
        alone.losses(batch).mean().backward()

    costs = [_quickest(together, batches), _quickest(single, batches)]
    joint, sequential = costs[0], costs[1] * R
    line = f"{R} replicas: {joint * 1e3:.2f} ms a step together, {sequential * 1e3:.2f} ms one after another"
    return joint < sequential, line


def _quickest(run: Callable[[Batch], None], batches: Sequence[Batch]) -> float:
    """Seconds of the quickest of several calls."""
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        run(batch)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
