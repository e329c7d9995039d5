"""Linear operators that a model was not trained for.

A model of a noisy process restores what any linear operator did to an image, by making every prediction
agree with the measurement [DDNM, section 3; DDRM, section 4]. One that knows classes does so by the class
that stands for none, unless a class is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff import rng
from ssdiff.arguments import require_number, require_whole
from ssdiff.errors import UsageError
from ssdiff.images import from_uint8, to_uint8
from ssdiff.images.picture import Form
from ssdiff.operators.base import Operator, Size
from ssdiff.operators.cut import Cut
from ssdiff.pipeline import Pipeline
from ssdiff.process.base import Process
from ssdiff.restoration.condition import Condition, choose_condition, require_label_free
from ssdiff.restoration.masks import GivenMask
from ssdiff.restoration.noise_level import estimate_noise
from ssdiff.restoration.options import Options, Told, check_tile
from ssdiff.restoration.tasks import (
    Known,
    Task,
    build_task,
    check_task,
    check_used,
    enlargement,
    measured_channels,
)
from ssdiff.sampling.data_consistency import Measurement, predict_consistent
from ssdiff.sampling.plan import Plan
from ssdiff.sampling.plug_and_play import (
    MIRRORS,
    falling_timesteps,
    noise_timestep,
    plug_and_play,
    seen_mirrored,
)

PLUG_AND_PLAY = "plug-and-play"
_MOST_PIXELS = 2**31  # beyond it a factor is a slip, and its operators alone would take all memory
_ROUNDING = 2 / 255 / 12**0.5  # std of the rounding to bytes, in units of the [-1, 1] image
# First and last noise of 255 that plug and play takes its images to have, and its steps; found by trial on
# pictures of the training set.
_PLAYS = {
    "deblur": (30.0, 2.0, 12),
    "super-resolve": (20.0, 2.0, 12),
    "inpaint": (60.0, 2.0, 24),
}


@dataclass(frozen=True)
class ZeroShot:
    """A linear operator that the model was not trained for.

    The operator acts on pictures of ``full`` pixels. Where the process is a little larger, it does not see
    the rest, which the model makes up and which is cut off.

    Attributes:
        pipeline: of kind ssd or ddpm, at the size of the pictures.
        name: of the task.
        full: (H, W) of the restored pictures.
        known: of what was done to the images.
        given: mask of inpainting; None for a rectangle in the middle.
        noise_std: of the measurement, in units of the [-1, 1] image; no less than the rounding to bytes.
        options: of the sampler.
        condition: what the network is told of the images' classes.
        own: the pipeline at the model's own size.
        notes: what the user should hear, filled while pictures are restored.
    """

    pipeline: Pipeline
    name: str
    full: Size
    known: Known
    given: GivenMask | None = None
    noise_std: float = 0.0
    options: Options = field(default_factory=Options)
    condition: Condition = field(default_factory=Condition)
    own: Pipeline | None = None
    notes: list[str] = field(default_factory=list)

    as_stored = False

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those that :meth:`restore` knows, the best first.

        Denoising is one prediction; a model of patches, which was trained as a denoiser of photographs,
        restores nearest to the truth by plug and play.
        """
        if self.name == "denoise":
            return ("direct", "ancestral", "ddim")
        preset = self.pipeline.preset
        plays = preset is not None and preset.data.patches and self.name in _PLAYS
        return (PLUG_AND_PLAY, "ancestral", "ddim") if plays else ("ancestral", "ddim")

    def check(self, sampler: str) -> bool:
        """Return whether a sampler begins at noise, so that its plan is that of sampling; refuse options that
        another takes no account of.

        Raises:
            UsageError: then.
        """
        drawn = sampler not in (PLUG_AND_PLAY, "direct")
        if not drawn and self.options.draws > 1:
            raise UsageError(f"{sampler} restores an image in one way only", hint="leave --draws out")
        if self.name == "denoise" and self.options.steps is not None and not drawn:
            raise UsageError("direct denoising is one step", hint="leave --steps out")
        if self.name == "denoise":
            self._plan(sampler, self.noise_std or 1.0)  # wrong options are found here
            return False
        if sampler != PLUG_AND_PLAY:
            return True
        if self.name not in _PLAYS:
            raise UsageError(
                f"{PLUG_AND_PLAY} is for {', '.join(_PLAYS)}, not for {self.name}",
                hint=f"choose one of {', '.join(self.samplers)}",
            )
        if self.options.eta is not None:
            raise UsageError(f"{PLUG_AND_PLAY} draws no noise", hint="leave eta out")
        if not isinstance(self.options.steps, int | None):
            raise UsageError(f"{PLUG_AND_PLAY} takes a number of steps, not {self.options.steps!r}")
        return False

    @cached_property
    def task(self) -> Task:
        """The operator at this size.

        Raises:
            UsageError: it cannot be had at this size.
        """
        known = self.known
        if self.given is not None:
            known = replace(known, mask=self.given.known(self.full, resized=self.own is None))
        return build_task(self.name, self.full, self.pipeline.channels, known)

    @cached_property
    def operator(self) -> Operator:
        """A, from images of the process's size."""
        whole = self.pipeline.process.states[0].size
        return self.task.operator if whole == self.full else Cut(self.task.operator, whole, self.full)

    @property
    def channels(self) -> int:
        """Channels of the measurement."""
        return measured_channels(self.name, self.pipeline.channels)

    @property
    def granule(self) -> int:
        """What height and width of clean images must be multiples of."""
        return enlargement(self.name, self.known)

    @property
    def size(self) -> Size:
        """(h, w) of the measurement."""
        return self.task.operator.out_size or self.full

    def full_of(self, size: Size) -> Size:
        """Return (H, W) of the restored pictures of degraded ones of (h, w)."""
        return size[0] * self.granule, size[1] * self.granule

    def at(self, full: Size) -> ZeroShot:
        """Return the same for pictures of (H, W) pixels.

        Raises:
            UsageError: the task, or a tile, cannot be had at that size.
        """
        pipeline, own = at_size(self.pipeline, self.own, full, self.options)
        if pipeline is self.pipeline:
            return self
        method = replace(self, pipeline=pipeline, full=full, own=own)
        _ = method.task  # what does not fit is found before anything is computed
        return method

    def of(self, form: Form, name: str) -> ZeroShot:
        """Return itself: no file says what was done to its picture."""
        return self

    def evaluations(self, sampler: str | None) -> int:
        """Return how often the network is asked in one restoration."""
        if sampler == PLUG_AND_PLAY:
            return self.condition.evaluations(self._turns())
        plan = self._plan(sampler, 1.0 if self.name == "denoise" else None)
        if self.name == "denoise" and sampler in (None, "direct"):
            return plan.network_evaluations * len(mirrors_of(self.pipeline))
        return plan.network_evaluations * self.options.draws

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return y = A x + n, rounded to bytes as a file would hold it.

        Raises:
            UsageError: there is no noise to be removed.
        """
        if self.name == "denoise" and not self.noise_std:
            raise UsageError("nobody says how much noise to add", hint="give noise_std (--noise-std)")
        key = rng.derive(self.options.seed, "restore/measurement")
        y = self.task.operator.apply(clean)
        noisy = y + self.noise_std * rng.normal(key, numbers.to(y.device), 0, tuple(y.shape[1:]))
        return from_uint8(to_uint8(noisy))

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return them as they are; blurs by a kernel with borders that go around the edge."""
        return self.task.admit(given)

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return the measurement enlarged or filled in without a model."""
        return self.task.full_size(degraded)

    def restore(
        self, degraded: Tensor, numbers: Tensor, sampler: str | None, told: Told | None = None
    ) -> Tensor:
        """Return images sampled from noise, every prediction made to agree with the measurement; or by the
        rule of the task, see :attr:`samplers`."""
        rule, pipeline = sampler or self.samplers[0], self.pipeline.watched(told)
        if self.name == "denoise":
            return torch.cat([self._denoised(pipeline, *one, rule) for one in _each(degraded, numbers)])
        known = Measurement(
            self.operator, degraded.to(pipeline.device), max(self.noise_std, _ROUNDING), pipeline.process
        )
        if rule == PLUG_AND_PLAY:
            return self._played(pipeline, known, degraded, numbers)
        plan = self._plan(rule)

        def draw(seed: int) -> Tensor:
            return self._walked(
                pipeline, numbers, plan, seed, refine=lambda predict: predict_consistent(predict, known)
            )

        return self.options.mean(draw)

    def _plan(self, sampler: str | None, noise_std: float | None = None) -> Plan:
        """The chain of a sampler; from the timestep of a noise down where one is given."""
        options, process = self.options, self.pipeline.process
        t = None if noise_std is None else noise_timestep(process, noise_std)
        return self.pipeline.plan(options.steps, sampler, options.eta, self.condition.guidance, t)

    def _denoised(self, pipeline: Pipeline, y: Tensor, numbers: Tensor, rule: str) -> Tensor:
        """One picture. a_t y is x_t at the timestep whose sigma_t / a_t is the noise's std: exactly so."""
        std = self.noise_std
        if not std:
            std = max(float(estimate_noise(y)), _ROUNDING)
            self.notes.append(f"estimated noise: std {127.5 * std:.1f} of 255; --noise-std says it otherwise")
        plan = self._plan(rule, std)
        x = pipeline.process.states[plan.timesteps[0]].signal * self._enlarged(y).to(pipeline.device)
        if rule == "direct":
            t, mirrors = plan.timesteps[0], mirrors_of(self.pipeline)
            predict = self.condition.predictor(pipeline, numbers)
            return self._cut(
                sum((seen_mirrored(predict, dims)(x, t) for dims in mirrors), 0 * x) / len(mirrors)
            )
        return self.options.mean(lambda seed: self._walked(pipeline, numbers, plan, seed, x=x))

    def _played(self, pipeline: Pipeline, known: Measurement, degraded: Tensor, numbers: Tensor) -> Tensor:
        guess = self._enlarged((self.task.guess or self.task.full_size)(degraded)).to(pipeline.device)
        x, predict = guess, self.condition.predictor(pipeline, numbers)
        evidence = known if self.task.follows is None else _Followed(known, self.task.follows)
        mirrors = mirrors_of(self.pipeline)
        for _, x in plug_and_play(predict, evidence, guess, self._turns(), mirrors=mirrors):  # noqa: B007
            pass
        return self._cut(x)

    def _turns(self) -> list[int]:
        """Timesteps of plug and play: from how wrong the guess may be down to the noise, but not below."""
        first, last, steps = _PLAYS[self.name]
        least = max(last / 127.5, self.noise_std)
        chosen = self.options.steps if isinstance(self.options.steps, int) else steps
        return falling_timesteps(self.pipeline.process, max(first / 127.5, least), least, chosen)

    def _walked(self, pipeline: Pipeline, numbers: Tensor, plan: Plan, seed: int, **more: Any) -> Tensor:
        state: Tensor | None = None
        labels = self.condition.labels(numbers)
        for _, state in pipeline.walk(numbers.to(pipeline.device), plan, seed, labels, **more):  # noqa: B007
            pass
        assert state is not None, "a walk has a first state"
        return self._cut(state)

    def _enlarged(self, x: Tensor) -> Tensor:
        """Pictures of the process's size, continued by their border."""
        whole, (height, width) = self.pipeline.process.states[0].size, self.full
        return F.pad(x, (0, whole[1] - width, 0, whole[0] - height), mode="replicate")

    def _cut(self, x: Tensor) -> Tensor:
        return x[..., : self.full[0], : self.full[1]].clamp(-1, 1).float().cpu()


def at_size(
    pipeline: Pipeline, own: Pipeline | None, full: Size, options: Options
) -> tuple[Pipeline, Pipeline | None]:
    """Return a pipeline for pictures of (H, W) pixels, and that of the model's own size where it is another.

    Args:
        pipeline: of some size.
        own: that of the model's own size, None where ``pipeline`` is it.
        full: (H, W).
        options: of the tiles.

    Raises:
        UsageError: a picture of too many pixels, or a tile that cannot be had at that size.
    """
    native = own or pipeline
    if full == native.process.states[0].size:
        return native, None
    if full[0] * full[1] > _MOST_PIXELS:
        raise UsageError(
            f"the restored picture would have {full[1]} x {full[0]} pixels, more than {_MOST_PIXELS}",
            hint="choose a smaller factor (--factor)",
        )
    check_tile(full, options)
    return native.at_size(full, tile=options.tile, overlap=options.overlap), native


def mirrors_of(pipeline: Pipeline) -> Sequence[tuple[int, ...]]:
    """Return the ways in which a network sees images: mirrored in all, if it was trained on patches."""
    preset = pipeline.preset
    return MIRRORS if preset is not None and preset.data.patches else MIRRORS[:1]


@dataclass(frozen=True)
class _Followed:
    """A measurement of some pixels, whose corrections are passed on to the others."""

    measurement: Measurement
    follows: Callable[[Tensor], Tensor]

    @property
    def process(self) -> Process:
        return self.measurement.process

    def correct(self, clean: Tensor, t: int) -> Tensor:
        return clean + self.follows(self.measurement.correct(clean, t) - clean)


def _each(degraded: Tensor, numbers: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """One picture after another: each begins at the timestep of its own noise."""
    return zip(degraded.split(1), numbers.split(1), strict=True)


def check_prior(pipeline: Pipeline, task: str, options: Options) -> Condition:
    """Return of which classes images are taken to be; refuse a model that cannot undo what it was not trained
    for.

    Raises:
        UsageError: then, or as :func:`ssdiff.restoration.condition.choose_condition`.
    """
    if not (pipeline.process.noisy and pipeline.process.isotropic):
        raise UsageError(
            f"{task} without training needs a model of kind ssd or ddpm",
            hint="use a model that was trained for this degradation",
        )
    condition = choose_condition(pipeline, options)
    require_label_free(pipeline, condition)
    return condition


def zero_shot(
    pipeline: Pipeline,
    task: str,
    options: Options,
    *,
    factor: int | None = None,
    std: float | None = None,
    mask: Tensor | GivenMask | None = None,
    noise_std: float | None = None,
    kernel: Tensor | None = None,
    reduction: str | None = None,
) -> ZeroShot:
    """Return a way to undo a task by name, with a model that was not trained for it.

    Args:
        pipeline: the model.
        task: one of :data:`ssdiff.restoration.tasks.TASKS`.
        options: of the sampler.
        factor: of super-resolution, 2 or more; 4 where omitted.
        std: of the blur, pixels; 2 where omitted.
        mask: (H, W), 1 where the image is known and 0 where it is missing, or as it was given; a rectangle in
            the middle is missing where omitted.
        noise_std: of the measurement, in units of the [-1, 1] image; 0, or
            omitted, lets denoising estimate it.
        kernel: (h, w) of a blur, instead of ``std``.
        reduction: how small pictures came about, one of :data:`ssdiff.restoration.tasks.REDUCTIONS`; omitted,
            by area for a model of photographs (of patches), else as [SSD] reduces.

    Raises:
        UsageError: an unknown task, a number out of range, or a model that cannot do it.
    """
    condition = check_prior(pipeline, task, options)
    check_used(
        task, factor=factor, reduction=reduction, std=std, kernel=kernel, mask=mask, noise_std=noise_std
    )
    factor = 4 if factor is None else factor
    std = 2.0 if std is None else std
    noise_std = 0.0 if noise_std is None else noise_std
    require_whole("factor", factor)
    for name, value in (("std", std), ("noise_std", noise_std)):
        require_number(name, value)
    if noise_std < 0:
        raise UsageError(f"the noise must have a std of at least 0, not {noise_std}")
    given = mask if isinstance(mask, GivenMask) else None
    photographs = pipeline.preset is not None and pipeline.preset.data.patches
    usual = "area" if photographs else "bilinear"
    small = usual if reduction is None else reduction
    known = Known(factor, std, mask if isinstance(mask, Tensor) else None, kernel, small)
    check_task(task, pipeline.channels, known)
    full = pipeline.process.states[0].size
    notes = [] if given is None else list(given.notes)
    return ZeroShot(pipeline, task, full, known, given, noise_std, options, condition, notes=notes)
