"""How near restored images are to the true ones: the table of the Cold Diffusion paper."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdiff.arguments import as_path, require_whole
from ssdiff.devices import pick_device
from ssdiff.display import html_table
from ssdiff.distributed import World, join_world
from ssdiff.errors import DataError, UsageError, memory_for
from ssdiff.evaluation import sets
from ssdiff.evaluation.distances import collect, compute_metric
from ssdiff.evaluation.features import Extractor, Features, open_extractor
from ssdiff.evaluation.image_quality import Row, compare, quality_table
from ssdiff.evaluation.pairs import Paired, Simulated, open_images
from ssdiff.images import to_uint8
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.restoration import Options, Trained
from ssdiff.schedules.respacing import Steps
from ssdiff.second_set import OtherImages
from ssdiff.weights.load import Found, find_model, load


@dataclass(frozen=True, slots=True)
class RestorationEvaluation:
    """Image quality of degraded images, and of what each sampler makes of them.

    Attributes:
        rows: means over the images by ``degraded`` and sampler: ``psnr`` in decibels (None where infinite),
            ``ssim``, ``rmse`` of pixels in 0..1, and ``distance`` if an extractor was given.
        distance: what to call that distance; None without an extractor.
        about: everything else that ``to_dict`` gives: model, steps, images, extractor, versions.
        warnings: what makes the numbers worse or not comparable.
    """

    rows: Mapping[str, Row]
    distance: str | None
    about: Mapping[str, Any]
    warnings: tuple[str, ...]

    @property
    def count(self) -> int:
        """Images of which the numbers are means."""
        return int(self.about["count"])

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff eval restore --json`` prints."""
        best = next(name for name in self.rows if name != "degraded")
        return {
            "metric": "restore",
            "name": f"PSNR of {best}",
            "value": self.rows[best]["psnr"],
            "rows": {name: dict(row) for name, row in self.rows.items()},
            "distance": self.distance,
            **self.about,
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        return quality_table(self.rows, self.count, self.distance)

    def _repr_html_(self) -> str:
        keys = {"psnr": "PSNR", "ssim": "SSIM", "rmse": "RMSE"} | (
            {"distance": self.distance} if self.distance else {}
        )
        rows = [
            [name, *("equal" if row[key] is None else f"{row[key]:.4g}" for key in keys)]
            for name, row in self.rows.items()
        ]
        return html_table(f"mean of {self.count} images", ["", *keys.values()], rows)


@dataclass(frozen=True, slots=True)
class _Config:
    """What was asked for; see :func:`evaluate_restoration`."""

    n: int | None
    t: int | None
    steps: Steps | None
    extractor: str | None
    weights_file: Path | None
    batch: int | None
    seed: int
    names: Path | None
    part: int | None


def evaluate_restoration(
    images: str | os.PathLike[str],
    model: Pipeline | Found | str | os.PathLike[str] | None = None,
    *,
    truth: str | os.PathLike[str] | None = None,
    other: OtherImages | None = None,
    n: int | None = None,
    t: int | None = None,
    steps: Steps | None = None,
    extractor: str | None = None,
    weights_file: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    seed: int = 0,
    names: str | os.PathLike[str] | None = None,
    part: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> RestorationEvaluation:
    """Degrade held-out images, restore them by every sampler of a model, and compare with the clean ones.

    Under torchrun each process restores its share; all return the same.

    Args:
        images: clean images, a folder, zip file or the name of a data set; degraded ones if there is a truth.
        model: pipeline, run, checkpoint or model file; the newest run, or the bundled model, where omitted.
        truth: folder or zip file of the clean images, of the names of the degraded ones.
        other: second set of a model of animorphosis, as :func:`ssdiff.load` takes it.
        n: the first so many images; all where omitted.
        t: timestep of the degradation, 1..T; T where omitted.
        steps: of sampling; the preset's, at most T, where omitted.
        extractor: adds the Frechet distance of features to the clean images: ``inception`` or
            ``module:Class``.
        weights_file: Inception's weights, for work offline.
        batch: images at once; the preset's where omitted.
        seed: of noise, and of a random degradation.
        names: text file with the names of those clean images that count, one a line, for a folder or a zip
            file; ``part`` chooses the lines that end in this number, as in CelebA's partition.
        part: see there.
        device: see :func:`ssdiff.devices.pick_device`; a pipeline restores where it is.
        progress: is told of preparing and restoring.

    Raises:
        UsageError: numbers out of range.
        DataError: images that cannot be read or do not go together.
        CheckpointError: a model that cannot be read.
        ResourceError: the device or its memory.
    """
    for name, value in (("n", n), ("batch", batch)):
        if value is not None:
            require_whole(name, value, 1)
    if extractor is None and weights_file is not None:
        raise UsageError(
            "weights_file is for the extractor inception", hint="give --extractor inception, or leave it out"
        )
    weights = None if weights_file is None else as_path("weights_file", weights_file)
    listed = None if names is None else as_path("names", names)
    config = _Config(n, t, steps, extractor, weights, batch, seed, listed, part)
    clean = None if truth is None else str(as_path("truth", truth))
    given = str(as_path("images", images))
    with join_world(device) as world:
        return _run(given, clean, model, other, config, world, device, progress)


def _run(
    images: str,
    truth: str | None,
    model: Pipeline | Found | str | os.PathLike[str] | None,
    other: OtherImages | None,
    config: _Config,
    world: World,
    device: str,
    progress: Progress | None,
) -> RestorationEvaluation:
    """What process 0 has found, on every process."""
    place, name, began = world.device(pick_device(device)), config.extractor, time.perf_counter()
    network = world.rank0_first(lambda: open_extractor(name, config.weights_file, place) if name else None)
    if isinstance(model, Pipeline):
        pipeline = model if other is None else model.with_other(other)
    else:
        pipeline = load(_path(model), device=str(place), other=other)
    options = Options(steps=config.steps, seed=config.seed)
    method = Trained(pipeline, config.t, options, given=truth is not None)
    told = list(method.notes)
    # A wrong number of steps is found before any image is read.
    top = pipeline.process.T if config.t is None else config.t
    plans = {name: pipeline.plan(config.steps, name, t=top) for name in method.samplers}
    preset = pipeline.required_preset()
    data = open_images(images, truth, preset, method, world, progress, config.names, config.part)
    count = min(config.n or len(data), len(data))
    if count < world.size:
        raise DataError(f"{count} images for {world.size} processes", hint="start fewer processes")
    batch = config.batch or pipeline.sampling.batch
    rows = _measure(method, data, count, batch, network, world, progress)
    result = None
    if rows is not None:
        warnings = told
        about = data.describe(warnings)
        if network is not None and count < sets.ENOUGH:
            warnings.append(f"{count} images: compare Frechet distances of equal numbers only")
        more = {
            "extractor": {"name": network.name, "given": name, "sha256": network.identity}
            if network
            else None,
            "checkpoint": pipeline.origin,
            "step": pipeline.step,
            "t": top,
            "steps": {name: plan.evaluations for name, plan in plans.items()},
            "seed": config.seed,
            "count": count,
            **about,
            "versions": sets.versions(),
            "seconds": round(time.perf_counter() - began, 3),
        }
        label = network.label("F") if network else None
        result = RestorationEvaluation(rows, label, more, tuple(warnings))
    return world.broadcast(result)


def _path(model: Found | str | os.PathLike[str] | None) -> Path:
    if isinstance(model, Found):
        return model.path
    return find_model(None if model is None else as_path("model", model)).path


def _measure(
    method: Trained,
    data: Simulated | Paired,
    count: int,
    batch: int,
    network: Extractor | None,
    world: World,
    progress: Progress | None,
) -> dict[str, Row] | None:
    """Means over the first ``count`` images by row, on process 0; each process restores its share."""
    scores: dict[str, list[Tensor]] = {}
    seen: dict[str, list[Features]] = {}
    share = world.shard(count)
    counter = Counter(progress, "restoring", count, ranks=world.size)
    for start in range(share.start, share.stop, batch):
        numbers = torch.arange(start, min(start + batch, share.stop))
        with memory_for(f"{len(numbers)} images at once", "lower the batch (--batch)"):
            clean, degraded = data.batch(method, numbers)
            results = dict(_restored(method, degraded, numbers))
        for name, x in results.items():
            scores.setdefault(name, []).append(torch.stack(compare(clean, x), dim=1))
        if network is not None:
            for name, x in {"clean": clean, **results}.items():
                seen.setdefault(name, []).append(collect(network, iter([to_uint8(x)])))
        counter(len(numbers))
    rows: dict[str, Row] = {}
    for name, parts in scores.items():
        whole = world.gather(torch.cat(parts))
        if whole is not None:
            means = [value if math.isfinite(value) else None for value in whole.mean(0).tolist()]
            rows[name] = dict(zip(("psnr", "ssim", "rmse"), means, strict=True))
    found = {name: sets.gathered(sets.joined(parts), world) for name, parts in seen.items()}
    for name, row in rows.items():
        if (features := found.get(name)) is not None:
            row["distance"] = compute_metric("fid", features, found["clean"])["distance"]
    return rows or None


def _restored(method: Trained, degraded: Tensor, numbers: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Degraded images, and what each sampler makes of them; (B, C, R, R)."""
    yield "degraded", method.baseline(degraded).float().cpu().clamp(-1, 1)
    for sampler in method.samplers:
        yield sampler, method.restore(degraded, numbers, sampler)
