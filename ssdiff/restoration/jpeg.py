"""Undo the rounding of a JPEG file: among the pictures that it may have been made from, the likely one.

What a file says of a block is exact: each of its cosines lies within half a step of the one in the file. Of
a normal distribution around a prediction that leaves a truncated one, whose mean is known in closed form; so
data and denoiser take turns as with any other measurement. See docs/math.md, section 17.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import DataError, UsageError
from ssdiff.images.jpeg import JpegTables, tables_of_quality, through_jpeg
from ssdiff.images.picture import Form
from ssdiff.operators.base import Size
from ssdiff.pipeline import Pipeline
from ssdiff.process.base import Process
from ssdiff.restoration.condition import Condition
from ssdiff.restoration.options import Options, Told
from ssdiff.restoration.tasks import JPEG
from ssdiff.restoration.zero_shot import PLUG_AND_PLAY, at_size, check_prior, mirrors_of
from ssdiff.sampling.plug_and_play import falling_timesteps, plug_and_play

_SIDE = 8  # samples of a block
_STEPS = 4
_FIRST, _LAST = 1.25, 0.25  # noise to begin at for the root of the tables' steps, and to end at as a share of
# that, found by trial on pictures of the training set
_BAND = 2**21  # samples that are corrected at once, since a truncated mean needs many intermediate results
_SWEEPS = 15
# Luma, blue and red difference of colours in 0..255 [JFIF, section 7]; luma is taken around 0 as the others.
_PLANES = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True, eq=False)
class JpegCells:
    """The pictures that would have become the same JPEG file.

    Attributes:
        centres: of each plane, (B, h, w) cosines as the file has them, in blocks; whole blocks.
        steps: of each plane, (8, 8).
        widths: of each plane, (B, h / 8, w / 8) widths of the cells in steps.
        factor: of the sampling of chroma.
        size: (H, W) of the picture.
        process: of the model.
    """

    centres: list[Tensor]
    steps: list[Tensor]
    widths: list[Tensor]
    factor: Size
    size: Size
    process: Process

    @classmethod
    def of(cls, picture: Tensor, tables: JpegTables, process: Process) -> JpegCells:
        """Return the cells of a decoded file.

        The cosines are won back by rounding, which the decoder's rounding of pixels hides from no step above
        1; of chroma first the decoder's triangular enlargement is undone. Where the decoder cut pixels at
        black or white, or a block reaches beyond the picture, they may be those of a neighbouring cell, so
        that such blocks get cells of three times the width.

        Args:
            picture: (B, C, H, W) in [-1, 1], C 1 or 3.
            tables: of the file.
            process: of the model.
        """
        steps = [torch.tensor(tables.luma, dtype=torch.float32).view(_SIDE, _SIDE)]
        if tables.chroma is not None and picture.shape[1] == 3:
            steps += [torch.tensor(tables.chroma, dtype=torch.float32).view(_SIDE, _SIDE)] * 2
        size = (picture.shape[-2], picture.shape[-1])
        cells = cls([], steps, [], tables.factor if len(steps) > 1 else (1, 1), size, process)
        cut = (picture.abs() >= 1).any(dim=1).to(picture)
        for k, plane in enumerate(cells._planes(picture)):
            rows, columns = (_SIDE * share for share in (cells.factor if k else (1, 1)))
            unsure = F.pad(cut, cells._missing(), value=1.0)
            cells.widths.append(1 + 2 * F.max_pool2d(unsure[:, None], (rows, columns))[:, 0])
            samples = _enlargement_undone(plane, cells.factor) if k else plane
            cosines = _cosines(samples)
            step = _tiled(steps[k], cosines)
            cells.centres.append((cosines / step).round_() * step)
        return cells

    def correct(self, clean: Tensor, t: int) -> Tensor:
        """Return the mean of the clean images given the file, taken to be N(clean, r_t^2 I) without it.

        Each cosine c of a block is normal around that of ``clean`` and lies within half a step of the
        file's: the mean of the truncated distribution [docs/math.md, equations (88) and (89)]. What luma and
        chroma have in common is left out of account.

        Args:
            clean: (B, C, H', W') in [-1, 1], of the process's size, which is the picture's or larger.
            t: timestep, 1..T, that it was predicted from.
        """
        height, width = self.size
        image = clean[..., :height, :width]
        deviation = 127.5 / math.sqrt(1 + self.process.states[t].snr)  # r_t
        changes = []
        for k, plane in enumerate(self._planes(image)):
            spread = deviation * (math.hypot(*_PLANES[k]) if image.shape[1] == 3 else 1)
            rows, columns = self.factor if k else (1, 1)
            # a sample of chroma is the mean of its pixels
            change = self._change(k, plane, spread / math.sqrt(rows * columns))
            wide = change.repeat_interleave(rows, -2).repeat_interleave(columns, -1)
            changes.append(wide[:, :height, :width])
        if len(changes) == 1:
            shift = changes[0][:, None].expand_as(image)
        else:
            back = torch.linalg.inv(torch.tensor(_PLANES, dtype=torch.float64)).to(image)
            shift = torch.einsum("ij,jbhw->bihw", back, torch.stack(changes))
        result = clean.clone()
        result[..., :height, :width] += shift / 127.5
        return result

    def _planes(self, image: Tensor) -> Iterator[Tensor]:
        """(B, h, w) samples of luma and chroma in grey levels, luma less 128, of whole blocks; chroma reduced
        by means."""
        whole = F.pad(image, self._missing(), mode="replicate")
        for k in range(len(self.steps)):
            colour = torch.tensor(_PLANES[k] if image.shape[1] == 3 else [1.0]).to(image)
            plane = torch.tensordot(colour, whole, ([0], [1])) * 127.5 - (0.5 if k == 0 else 0)
            yield F.avg_pool2d(plane[:, None], self.factor)[:, 0] if k else plane

    def _missing(self) -> tuple[int, int, int, int]:
        """Pixels that the picture lacks, right and below, to whole blocks of every plane."""
        rows, columns = (_SIDE * share for share in self.factor)
        return 0, -self.size[1] % columns, 0, -self.size[0] % rows

    def _change(self, k: int, plane: Tensor, spread: float) -> Tensor:
        """What the file changes of a plane's samples, some rows of blocks at a time."""
        rows = max(1, _BAND // (plane.shape[0] * plane.shape[-1] * _SIDE)) * _SIDE
        for top in range(0, plane.shape[-2], rows):
            part = plane[:, top : top + rows]
            cosines = _cosines(part)
            centres = self.centres[k][:, top : top + rows].to(part)
            widths = self.widths[k][:, top // _SIDE : (top + rows) // _SIDE].to(part)
            half = (
                _tiled(self.steps[k], cosines)
                / 2
                * widths.repeat_interleave(_SIDE, 1).repeat_interleave(_SIDE, 2)
            )
            mean = truncated_mean(cosines, spread, centres - half, centres + half)
            plane[:, top : top + rows] = _samples(mean.sub_(cosines))
        return plane


def truncated_mean(mean: Tensor, std: float, low: Tensor, high: Tensor) -> Tensor:
    """Return the mean of normal distributions that are known to lie within an interval.

    m + s (phi(a) - phi(b)) / (Phi(b) - Phi(a)) with a = (low - m) / s and b = (high - m) / s; the end of the
    interval that is nearest where the distribution has next to nothing within it [docs/math.md, equation
    (89)].

    Args:
        mean: m, of any shape.
        std: s, above 0.
        low: of that shape.
        high: likewise, above ``low``.
    """
    a, b = (low - mean) / std, (high - mean) / std
    right = a + b > 0  # its mirror image lies in the left tail, whose probabilities keep their digits
    a, b = torch.where(right, -b, a), torch.where(right, -a, b)
    within = torch.special.ndtr(b) - torch.special.ndtr(a)
    shift = (torch.exp(a.square() / -2) - torch.exp(b.square() / -2)) / (math.sqrt(2 * math.pi) * within)
    found = mean + std * torch.where(right, -shift, shift)
    return torch.where(within > 1e-6, found, mean).clamp(low, high)


@dataclass(frozen=True)
class Jpeg:
    """Restoration of pictures out of JPEG files, by plug and play.

    Attributes:
        pipeline: of kind ssd or ddpm, at the size of the pictures.
        full: (H, W) of the pictures.
        quality: of files that are written to be restored, or that pictures once were in.
        tables: of the file; those of the quality where omitted.
        options: of the sampler.
        condition: what the network is told of the images' classes.
        own: the pipeline at the model's own size.
        notes: what the user should hear.
    """

    pipeline: Pipeline
    full: Size
    quality: int | None = None
    tables: JpegTables | None = None
    options: Options = field(default_factory=Options)
    condition: Condition = field(default_factory=Condition)
    own: Pipeline | None = None
    notes: list[str] = field(default_factory=list)

    granule = 1
    as_stored = True
    samplers = (PLUG_AND_PLAY,)

    def check(self, sampler: str) -> bool:
        """Return that no sampler begins at noise; refuse options that plug and play takes no account of.

        Raises:
            UsageError: then, or for another sampler.
        """
        if sampler != PLUG_AND_PLAY:
            raise UsageError(f"{JPEG} is restored by {PLUG_AND_PLAY}, not by {sampler}")
        if self.options.draws > 1 or self.options.eta is not None:
            raise UsageError(f"{PLUG_AND_PLAY} draws no noise", hint="leave --draws and eta out")
        if not isinstance(self.options.steps, int | None):
            raise UsageError(f"{PLUG_AND_PLAY} takes a number of steps, not {self.options.steps!r}")
        return False

    @property
    def size(self) -> Size:
        """(h, w) of the degraded images."""
        return self.full

    @property
    def channels(self) -> int:
        """Channels of the degraded images."""
        return self.pipeline.channels

    def full_of(self, size: Size) -> Size:
        """Return (H, W) of the restored pictures: those of the degraded ones."""
        return size

    def of(self, form: Form, name: str) -> Jpeg:
        """Return the same for a file.

        Raises:
            DataError: it is no JPEG file of luma and chroma, and nobody says its quality.
            UsageError: it is one, and a quality is said, too.
        """
        if form.tables is None and self.quality is None:
            raise DataError(
                f"{name} is no JPEG file, or none that keeps luma and chroma apart",
                path=name,
                hint="of a picture that was one, give its quality (--quality)",
            )
        if form.tables is not None and self.quality is not None:
            raise UsageError(f"{name} says itself how it was rounded", hint="leave --quality out")
        return self if form.tables is None else replace(self, tables=form.tables)

    def at(self, full: Size) -> Jpeg:
        """Return the same for pictures of (H, W) pixels.

        Raises:
            UsageError: a tile cannot be had at that size.
        """
        pipeline, own = at_size(self.pipeline, self.own, full, self.options)
        return self if pipeline is self.pipeline else replace(self, pipeline=pipeline, full=full, own=own)

    def evaluations(self, sampler: str | None) -> int:
        """Return how often the network is asked in one restoration."""
        return self.condition.evaluations(self._turns())

    def degrade(self, clean: Tensor, numbers: Tensor) -> Tensor:
        """Return the images as files of the quality give them back.

        Raises:
            UsageError: no quality is said.
        """
        if self.quality is None:
            raise UsageError("nobody says how good the JPEG shall be", hint="give quality (--quality)")
        return through_jpeg(clean, self.quality)

    def admit(self, given: Tensor, numbers: Tensor) -> Tensor:
        """Return them as they are."""
        return given.clone()

    def baseline(self, degraded: Tensor) -> Tensor:
        """Return the images as they were decoded."""
        return degraded.clone()

    def restore(
        self, degraded: Tensor, numbers: Tensor, sampler: str | None, told: Told | None = None
    ) -> Tensor:
        """Return restored images."""
        pipeline = self.pipeline.watched(told)
        height, width = self.pipeline.process.states[0].size
        guess = degraded.to(pipeline.device)
        cells = JpegCells.of(guess, self._tables, pipeline.process)
        guess = F.pad(guess, (0, width - self.full[1], 0, height - self.full[0]), mode="replicate")
        restored = guess
        predict, mirrors = self.condition.predictor(pipeline, numbers), mirrors_of(self.pipeline)
        for _, restored in plug_and_play(predict, cells, guess, self._turns(), mirrors=mirrors):  # noqa: B007
            pass
        return restored[..., : self.full[0], : self.full[1]].clamp(-1, 1).float().cpu()

    @property
    def _tables(self) -> JpegTables:
        if self.tables is not None:
            return self.tables
        assert self.quality is not None, "said, or the file's"
        return tables_of_quality(self.quality, self.channels)

    def _turns(self) -> list[int]:
        steps = self.options.steps if isinstance(self.options.steps, int) else _STEPS
        known = self.tables or (None if self.quality is None else self._tables)
        mean_square = 1.0 if known is None else sum(step**2 for step in known.luma) / 64
        first = _FIRST * mean_square**0.25 / 127.5
        return falling_timesteps(self.pipeline.process, first, _LAST * first, steps)


def jpeg(pipeline: Pipeline, options: Options, quality: int | None = None) -> Jpeg:
    """Return a way to undo the rounding of JPEG files.

    Args:
        pipeline: a model of kind ssd or ddpm.
        options: of the sampler.
        quality: 1..100, of files to be written, or of those that the pictures were once in; of JPEG files
            their own tables count.

    Raises:
        UsageError: a quality out of range, or a model that cannot do it.
    """
    condition = check_prior(pipeline, JPEG, options)
    if quality is not None:
        tables_of_quality(quality)
    return Jpeg(pipeline, pipeline.process.states[0].size, quality, None, options, condition)


def _enlargement_undone(samples: Tensor, factor: Size) -> Tensor:
    """Samples of chroma before the decoder made them twice as many by weights of 3/4 and 1/4.

    Means of pairs of what it made are (l + 6 c + r) / 8 of a sample c and its neighbours; solved by Jacobi's
    iteration, whose error falls by a factor of 3 each time.
    """
    for dim, share in zip((-2, -1), factor, strict=True):
        if share != 2:  # others are repeated
            continue
        means, n = samples, samples.shape[dim]
        before = torch.arange(n, device=samples.device).sub(1).clamp_(min=0)
        after = torch.arange(n, device=samples.device).add(1).clamp_(max=n - 1)
        for _ in range(_SWEEPS):
            around = samples.index_select(dim, before) + samples.index_select(dim, after)
            samples = (8 * means - around) / 6
    return samples


def _cosines(samples: Tensor) -> Tensor:
    """(B, h, w) samples to the orthonormal cosines of their blocks, where the block was."""
    return _blockwise(samples, _basis(samples))


def _samples(cosines: Tensor) -> Tensor:
    return _blockwise(cosines, _basis(cosines).T)


def _blockwise(x: Tensor, matrix: Tensor) -> Tensor:
    """M B M^T of each block B."""
    images, height, width = x.shape
    blocks = x.reshape(images, height // _SIDE, _SIDE, width // _SIDE, _SIDE)
    result: Tensor = torch.einsum("ia,bracw,jw->bricj", matrix, blocks, matrix)
    return result.reshape(images, height, width)


def _basis(like: Tensor) -> Tensor:
    """(8, 8): row k is the k-th orthonormal cosine [JPEG, section A.3.3]."""
    k, n = torch.arange(_SIDE, dtype=torch.float64)[:, None], torch.arange(_SIDE, dtype=torch.float64)
    basis = torch.cos((2 * n + 1) * k * (math.pi / (2 * _SIDE))) / math.sqrt(_SIDE / 2)
    basis[0] /= math.sqrt(2)
    return basis.to(like)


def _tiled(step: Tensor, cosines: Tensor) -> Tensor:
    """(h, w) the table at every block of (B, h, w)."""
    return step.to(cosines).repeat(cosines.shape[-2] // _SIDE, cosines.shape[-1] // _SIDE)
