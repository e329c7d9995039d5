"""The optimiser's step and everything that a checkpoint must hold."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssdiff import rng
from ssdiff.config import TrainingSettings
from ssdiff.devices import autocast, memory_format, repeatable
from ssdiff.errors import CheckpointError, NonFiniteError, ProcessError, memory_for
from ssdiff.models.branched_unet import BranchedUNet, separate_networks
from ssdiff.models.flexi_unet import FlexiUNet
from ssdiff.process.base import Process
from ssdiff.training.batches import COUNTERS, Batches, TimestepSampler
from ssdiff.training.compile import compiled, require_compiler
from ssdiff.training.graphs import Graphs
from ssdiff.training.losses import Network, Objective, Visit, objective
from ssdiff.training.preserved import preserved
from ssdiff.training.timesteps import coarse_log_snr, timestep_masses
from ssdiff.training.uncertainty import Uncertainty

MEMORY_HINT = (
    "lower the batch (--batch), raise training.grad_accum_steps, or set model.activation_checkpointing = true"
)
_BUCKET = 1 << 23  # numbers reduced between processes at a time


@dataclass(frozen=True, slots=True)
class Averages:
    """Means since they were last asked for."""

    loss: float
    by_resolution: dict[int, float]
    grad_norm: float
    steps: int


class Trainer:
    """Weights, their average, the optimiser, and one step.

    With ``settings.compile`` the network runs as compiled graphs, one for each pair of resolutions, made when
    a pair first occurs. They read and train the same weights, so checkpoints do not depend on it, and a run
    may be resumed with or without. Bit for bit it equals the uninterrupted run only with the same setting
    (and, compiled for CUDA, only if the compiler chooses the same kernels again).

    Networks of a model that have weights of their own have an optimiser each, and the gradient of each is
    clipped by itself. With ``settings.own_after`` they share weights in the first steps; then weights,
    averages and the optimiser's state are copied to each.

    With ``settings.uncertainty`` each loss is divided by what :class:`Uncertainty` expects of its noise
    level; the reported means stay those of the losses themselves.

    Args:
        settings: the optimiser's.
        process: the forward process.
        model: the network, on its device; trained in place.
        batches: gives clean images, and says which part of the global batch they are.
        precision: type of the network's mixed precision.
        predict: what the network's output stands for, as in :func:`ssdiff.training.losses.gaussian_loss`.
        full_size: the process without resolution transitions, for ``settings.overlap_share``.

    Attributes:
        step: steps done.
        ema: the averaged network, in evaluation mode.
        precision: as given; the next step takes what it is then.
        own_since: step at which the networks got weights of their own; None as long as all is shared.

    Raises:
        ResourceError: the settings ask for a compiler, and it does not work here.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        process: Process,
        model: nn.Module,
        batches: Batches,
        *,
        precision: torch.dtype = torch.float32,
        predict: str = "x0",
        full_size: Process | None = None,
    ) -> None:
        self.settings, self.process, self.model = settings, process, model.train()
        self.own_since = 0 if isinstance(model, BranchedUNet) else None
        if isinstance(model, BranchedUNet) and branching_step(settings):
            model.share_weights()
            self.own_since = None
        self.ema = copy.deepcopy(model).requires_grad_(False).eval()
        self.step = 0
        self._batches, self.precision = batches, precision
        self._objective = objective(process, settings, predict)
        overlap: list[int] = []
        masses, overlap_masses = timestep_masses(process, settings), None
        if full_size is not None and settings.overlap_share:
            overlap = overlapping(process, full_size, settings.overlap_log_snr)
            self._beyond = objective(full_size, settings, predict)
            if (whole := timestep_masses(full_size, settings)) is not None:
                overlap_masses = whole[torch.tensor(overlap) - 1]
        self._gather()
        self._device = self._weights[0].device
        if settings.compile:
            require_compiler(self._device)
        self._run = self._runner()
        self._timesteps = TimestepSampler(
            [state.size for state in process.states],
            settings.seed,
            settings.transition_share,
            settings.grad_accum_steps,
            overlap,
            settings.overlap_share,
            masses,
            overlap_masses,
            settings.transitions,
        )
        self._uncertainty: Uncertainty | None = None
        if settings.uncertainty:
            levels = [coarse_log_snr(process)]
            if full_size is not None and overlap:
                levels.append(coarse_log_snr(full_size)[torch.tensor(overlap) - 1])
            self._uncertainty = Uncertainty(torch.cat(levels), *self._timesteps.places(), self._device)
        self._resolutions = sorted({state.resolution for state in process.states[1:]}, reverse=True)
        self._sums = torch.zeros(len(self._resolutions), 2, device=self._device)
        self._norms: list[float] = []
        self._unread: list[tuple[Tensor, str]] = []

    @repeatable()
    def advance(self) -> None:
        """Take one step of the optimiser.

        A gradient that is not finite never reaches the weights. On CUDA the host learns of it when
        :meth:`averages` or :meth:`state` is asked for, because it does not wait for the device here.

        Raises:
            NonFiniteError: the loss or the gradient is not finite.
            ResourceError: the network cannot be compiled.
        """
        settings = self.settings
        if self._branches and self.step >= branching_step(settings):
            self._branch()
        for micro in range(settings.grad_accum_steps):
            self._backward(self.step * settings.grad_accum_steps + micro)
        used = [weight.grad for weight in self._weights if weight.grad is not None]
        if self._batches.world.size > 1:
            _average(used, self._batches.world.size)
        trained = [(one, found) for one in self._optimizers if (found := _gradients(one))]
        norms = [torch.nn.utils.get_total_norm(found) for _, found in trained]
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        self._unread.append((norm, f"step {self.step + 1} ({self._last})"))
        if norm.device.type != "cuda":
            self._read_norms()
        for (optimizer, gradients), its_norm in zip(trained, norms, strict=True):
            self._hand_over(optimizer, norm, its_norm, gradients)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self._uncertainty is not None:
            self._uncertainty.step(self._batches.world)
        self.step += 1
        decay = averaging(settings, self.step)
        if decay is not None:
            get_ema_multi_avg_fn(decay)(self._averaged, self._weights, self.step)
        for averaged, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            if self._batches.world.size > 1:  # statistics of its own batches; a checkpoint holds one's
                dist.broadcast(buffer, src=0)
            averaged.copy_(buffer)

    def rehearse(self, precision: torch.dtype) -> None:
        """Do the forward and backward pass of a micro-batch at the largest resolution, not compiled, and keep
        nothing of it: what a probe of the precision measures.

        Args:
            precision: of the network, for this once.
        """
        before = self.precision, self._run
        self.precision, self._run = precision, self.model
        timesteps = self._timesteps.largest(len(self._batches.positions))
        try:
            with preserved(self.model):
                self._losses(0, timesteps, self._objective).mean().backward()
        finally:
            self.precision, self._run = before
            self.model.zero_grad(set_to_none=True)

    def averages(self) -> Averages:
        """Return the mean losses since the last call, over all processes; one exchange with the device.

        Raises:
            NonFiniteError: as :meth:`advance`.
        """
        self._read_norms()
        sums = self._sums.clone()
        if self._batches.world.size > 1:
            dist.all_reduce(sums)
        self._sums.zero_()
        table = sums.cpu().double()
        total, count = table.sum(0).tolist()
        by_resolution = {
            r: s / n for r, (s, n) in zip(self._resolutions, table.tolist(), strict=True) if n > 0
        }
        norms, self._norms = self._norms, []
        return Averages(total / max(count, 1), by_resolution, sum(norms) / max(len(norms), 1), len(norms))

    def unreported(self) -> dict[str, Any]:
        """Return what :meth:`averages` would average now, for JSON: a checkpoint keeps it, so that the next
        means of a resumed run are those of a run that was never interrupted.

        Raises:
            NonFiniteError: as :meth:`advance`.
        """
        self._read_norms()
        sums = self._sums.clone()
        if self._batches.world.size > 1:
            dist.all_reduce(sums)
        return {"sums": sums.tolist(), "norms": list(self._norms)}

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors of a checkpoint: ``ema``, ``weights``, ``optimizer``, and ``uncertainty`` where
        losses are weighed by it.

        Raises:
            NonFiniteError: as :meth:`advance`.
        """
        self._read_norms()
        states = self._states()
        optimizer = {
            f"{key}.{name}": value
            for name, weight in zip(self._names, self._weights, strict=True)
            for key, value in states.get(weight, {}).items()
        }
        averaged, weights = (
            {name: value.detach() for name, value in module.state_dict().items()}
            for module in (self.ema, self.model)
        )
        known = {} if self._uncertainty is None else {"uncertainty": self._uncertainty.state()}
        return {"ema": averaged, "weights": weights, "optimizer": optimizer, **known}

    @torch.no_grad()
    def restore(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        unreported: Mapping[str, Any] | None = None,
        own_since: int | None = None,
    ) -> None:
        """Continue from the tensors of :meth:`state` after ``step`` steps.

        Args:
            step: steps done.
            tensors: of a checkpoint.
            unreported: from :meth:`unreported`; nothing where a checkpoint has none.
            own_since: as the attribute was.

        Raises:
            CheckpointError: if a tensor is missing or has another shape.
        """
        if own_since is None and self.own_since is not None:
            self._share()  # the checkpoint's are one set, optimiser's state too; the next step may branch
        elif self._branches and own_since is not None:
            self._branch()
            self.own_since = own_since
        for module, kind in ((self.ema, "ema"), (self.model, "weights")):
            for name, target in module.state_dict().items():
                source = tensors[kind].get(name)
                if source is None or source.shape != target.shape:
                    found = "missing" if source is None else f"of shape {tuple(source.shape)}"
                    raise CheckpointError(f"{kind} {name} is {found}, the model needs {tuple(target.shape)}")
                target.copy_(source)
        by_name = dict(zip(self._names, self._weights, strict=True))
        owner = {weight: optimizer for optimizer in self._optimizers for weight in _weights(optimizer)}
        for entry, value in tensors["optimizer"].items():
            key, _, name = entry.partition(".")
            if name not in by_name:
                raise CheckpointError(f"the optimizer's state names an unknown weight {name}")
            weight = by_name[name]
            like = weight if value.shape == weight.shape else torch.empty((), device=weight.device)
            owner[weight].state[weight][key] = torch.empty_like(like, dtype=value.dtype).copy_(value)
        if self._uncertainty is not None:
            self._uncertainty.restore(tensors.get("uncertainty"))
        self.step = step
        if unreported is not None:
            sums = torch.tensor(unreported["sums"])
            if sums.shape == self._sums.shape and self._batches.world.rank == 0:  # of all processes together
                self._sums.copy_(sums)
            self._norms = [float(norm) for norm in unreported["norms"]]

    def _backward(self, counter: int) -> None:
        """Gradients of one micro-batch are added to those that are there."""
        settings, positions = self.settings, self._batches.positions
        timesteps = self._timesteps.draw(counter % COUNTERS, positions)
        overlaps = self._timesteps.overlaps(counter % COUNTERS)
        side = self.process.states[0 if overlaps else int(timesteps[0])].resolution
        self._last = f"{side} px, timesteps {int(timesteps.min())}..{int(timesteps.max())}"
        with memory_for(f"training.batch = {settings.batch} at {side} px", MEMORY_HINT):
            losses = self._losses(counter, timesteps, self._beyond if overlaps else self._objective)
            weighted = losses
            if self._uncertainty is not None:
                places = self._timesteps.place(timesteps, overlaps)
                weighted = losses * self._uncertainty.weights(places)
                self._uncertainty.add(places, losses)
            (weighted.mean() / settings.grad_accum_steps).backward()
        row = self._sums[self._resolutions.index(side)]
        row[0] += losses.detach().sum()
        row[1] += len(losses)

    def _losses(self, counter: int, timesteps: Tensor, measure: Objective) -> Tensor:
        """Loss of each image of a micro-batch."""
        settings, positions = self.settings, self._batches.positions
        x0, labels = self._batches(counter)
        x0 = x0.contiguous(memory_format=memory_format(x0.device))
        seen = counter * self._batches.global_batch
        visit = Visit(positions, counter % COUNTERS, positions + seen)
        # Of dropout, and of whatever else a network draws.
        torch.manual_seed(
            rng.derive(settings.seed, f"train/dropout/{counter}/{self._batches.world.rank}") >> 1
        )
        return measure(self._network, x0, timesteps, visit, labels)

    def _runner(self) -> Network:
        """The network as it is run in training."""
        if self.settings.compile:
            return compiled(self.model)
        # Networks of others may do what a graph would not repeat.
        known = isinstance(self.model, FlexiUNet | BranchedUNet)
        if self.settings.cuda_graphs and known and self._device.type == "cuda":
            return Graphs(self.model)
        return self.model

    def _gather(self) -> None:
        """List the weights and their averages, and make an optimiser for each network that has its own."""
        self._names = [name for name, _ in self.model.named_parameters()]
        self._weights, self._averaged = list(self.model.parameters()), list(self.ema.parameters())
        networks = [self.model] if self.own_since is None else separate_networks(self.model)
        self._optimizers = [
            torch.optim.AdamW(
                network.parameters(),
                lr=self.settings.lr,
                betas=self.settings.betas,
                weight_decay=self.settings.weight_decay,
                fused=True,
            )
            for network in networks
        ]

    @property
    def _branches(self) -> bool:
        """Whether networks share weights that will be their own."""
        return isinstance(self.model, BranchedUNet) and self.own_since is None

    def _share(self) -> None:
        """Let the networks of all sizes have one set of weights again, for those that are to be restored."""
        for module in (self.model, self.ema):
            assert isinstance(module, BranchedUNet), "others have no weights of their own"
            module.share_weights()
        self.own_since = None
        self._gather()

    def _branch(self) -> None:
        """Copy weights, averages and the optimiser's state to each network of a size."""
        states = self._states()
        known = {
            name: states.get(weight, {})
            for name, weight in self.model.named_parameters(remove_duplicate=False)
        }
        for module in (self.model, self.ema):
            assert isinstance(module, BranchedUNet), "others do not branch"
            module.branch()
        self.own_since = self.step
        self._gather()
        self._run = self._runner()
        by_weight: dict[Any, dict[str, Tensor]] = {
            weight: known[name] for name, weight in self.model.named_parameters()
        }
        for optimizer in self._optimizers:
            for weight in _weights(optimizer):
                if found := by_weight[weight]:
                    optimizer.state[weight] = {key: value.clone() for key, value in found.items()}

    def _states(self) -> dict[Any, dict[str, Tensor]]:
        """What the optimisers keep of each weight."""
        return {weight: state for one in self._optimizers for weight, state in one.state.items()}

    def _hand_over(
        self, optimizer: torch.optim.Optimizer, norm: Tensor, its_norm: Tensor, gradients: list[Tensor]
    ) -> None:
        """Let a fused optimiser divide by what clipping asks for, and skip a gradient that is not finite;
        both as numbers on the device, which it reads under these names for mixed precision."""
        optimizer.found_inf = norm.isfinite().logical_not().float()  # type: ignore[attr-defined]
        if not self.settings.grad_clip_norm:
            return
        scale = (its_norm / self.settings.grad_clip_norm).clamp_min(1.0)
        if norm.device.type == "mps":  # its fused optimiser takes both numbers and ignores them
            torch._foreach_div_(gradients, scale)
        else:
            optimizer.grad_scale = scale  # type: ignore[attr-defined]

    def _read_norms(self) -> None:
        """Wait for the device, and look whether all gradients since the last time were finite."""
        unread, self._unread = self._unread, []
        sizes = torch.stack([norm for norm, _ in unread]).tolist() if unread else []
        for size, (_, where) in zip(sizes, unread, strict=True):
            if not math.isfinite(size):
                raise NonFiniteError(
                    f"the gradient is not finite at {where}; nothing was saved",
                    hint="resume from the last checkpoint with a lower training.lr or in fp32",
                )
        self._norms += sizes

    def _network(self, x_t: Tensor, index: Tensor, resolution: int, labels: Tensor | None) -> Tensor:
        with autocast(self._device, self.precision):
            return self._run(x_t, index, resolution, labels)


def overlapping(process: Process, full_size: Process, log_snr: float) -> list[int]:
    """Return the timesteps beyond the transition of the full size down to a log-SNR of the full-size process.

    Args:
        process: that changes resolution.
        full_size: the same without.
        log_snr: least log(a^2 / sigma^2).

    Raises:
        ProcessError: there are none.
    """
    full = process.states[0].size
    found = [
        t
        for t in range(1, process.T + 1)
        if process.states[t].size != full and math.log(full_size.states[t].snr) >= log_snr
    ]
    if not found:
        raise ProcessError(
            f"no timestep lies between the first transition and a log-SNR of {log_snr:g}",
            hint="lower training.overlap_log_snr",
        )
    return found


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Return the rate of a step, counted from 0: a linear warm-up, then constant, then perhaps a fall towards
    0.

    With a ``lr_decay_share`` below 1 runs of one warm-up are alike until theirs begins, however long they
    are.
    """
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    falling = settings.lr_decay_share * (settings.steps - settings.warmup)
    remaining = min(max(settings.steps - step, 0) / max(falling, 1.0), 1.0)
    factor = {"constant": 1.0, "linear": remaining, "cosine": 0.5 - 0.5 * math.cos(math.pi * remaining)}
    return settings.lr * factor[settings.lr_schedule]


def branching_step(settings: TrainingSettings) -> int:
    """Return the steps after which the sizes of ``model.own`` get weights of their own."""
    return min(round(settings.own_after * settings.steps), settings.steps - 1)


def averaging(settings: TrainingSettings, step: int) -> float | None:
    """Return the share that the averaged weights keep at a step; None where they are left alone.

    In the first ``ema_start`` steps the average is the weights themselves. Then the first step of every
    ``ema_every`` averages, as Cold Diffusion does with 2,000 and 10 [CD]. An average from the first step on
    follows quickly while it is young, so that short runs do not end near their random start.

    Args:
        settings: give decay, interval and start.
        step: counted from 1.
    """
    done = step - 1
    if done < settings.ema_start:
        return 0.0
    if done % settings.ema_every:
        return None
    if settings.ema_start:
        return settings.ema
    count = done // settings.ema_every + 1
    return min(settings.ema, count / (count + 9))


def _weights(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Those of its weights that the step has used."""
    return [weight.grad for weight in _weights(optimizer) if weight.grad is not None]


def _average(gradients: list[Tensor], world: int) -> None:
    """Mean over processes, in place. All use the same part of the network, so nobody searches for unused
    weights."""
    bucket: list[Tensor] = []
    for position, gradient in enumerate(gradients):
        bucket.append(gradient)
        if sum(g.numel() for g in bucket) >= _BUCKET or position == len(gradients) - 1:
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            flat /= world
            parts = flat.split([g.numel() for g in bucket])
            torch._foreach_copy_(bucket, [part.view_as(g) for part, g in zip(parts, bucket, strict=True)])
            bucket = []
