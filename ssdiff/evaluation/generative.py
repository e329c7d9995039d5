"""How near generated images are to real ones: FID, KID, precision and recall, MIND; and inception score."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from ssdiff import runs
from ssdiff.arguments import as_path, require_type, require_whole
from ssdiff.config import DataSettings
from ssdiff.devices import pick_device
from ssdiff.display import html_table
from ssdiff.distributed import World, join_world
from ssdiff.errors import UsageError, did_you_mean
from ssdiff.evaluation import sets
from ssdiff.evaluation.distances import METRICS, collect, compute_metric, require
from ssdiff.evaluation.features import INCEPTION, Extractor, Features, open_extractor
from ssdiff.evaluation.sets import ImageSource
from ssdiff.generation import Generation
from ssdiff.images import fit, from_uint8, to_uint8
from ssdiff.images.convert import given
from ssdiff.images.read import pixels
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.schedules.respacing import Steps
from ssdiff.second_set import OtherImages
from ssdiff.weights.load import Found, load

ModelOrImages: TypeAlias = "Pipeline | Found | Tensor | str | os.PathLike[str]"
"""A model (pipeline, run, checkpoint or model file), a folder or zip of images, the name of a data set, or a
tensor (N, C, H, W) of bytes or of floats in [-1, 1]."""

_SUBSET = 1000  # images in a subset of kid
_NAMES = {"prc": "precision and recall", "is": "inception score", "mind": "MIND"}
_LETTERS = {"fid": "F", "kid": "K"}


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """What is measured, and how; see :func:`evaluate`.

    Raises:
        UsageError: a number out of range, an unknown metric, or options that do not go together.
    """

    metrics: tuple[str, ...] = ("fid",)
    extractor: str = INCEPTION
    weights_file: Path | None = None
    n: int | None = None
    steps: Steps | None = None
    sampler: str | None = None
    eta: float | None = None
    resize: int | None = None
    subset_size: int | None = None
    batch: int | None = None
    seed: int = 0
    names: Path | None = None
    part: int | None = None
    other: OtherImages | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            raise UsageError("no metric was named", hint=f"choose from {', '.join(METRICS)}")
        for name in self.metrics:
            if name not in METRICS:
                raise UsageError(f"unknown metric {name!r}", hint=did_you_mean(name, METRICS))
        for name in ("n", "resize", "batch", "subset_size"):
            value = getattr(self, name)
            if value is not None:
                require_whole(name, value, 1)
        if self.subset_size is not None and "kid" not in self.metrics:
            raise UsageError("subset_size is for kid", hint="leave it out")

    @property
    def subset(self) -> int:
        """Images in a subset of kid."""
        return self.subset_size or _SUBSET

    @property
    def compares(self) -> bool:
        """Whether a metric needs a reference."""
        return self.metrics != ("is",)

    def require(self, count: int) -> None:
        """Refuse too few images for one of the metrics.

        Raises:
            DataError: then.
        """
        for metric in self.metrics:
            require(metric, count, self.subset)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of generated images, with what they were measured on.

    Attributes:
        values: numbers of each metric: ``distance`` of fid and mind, ``mean`` and ``std`` of kid and is,
            ``precision`` and ``recall`` of prc.
        names: what to call each: FID and KID are those of Inception alone.
        extractor: name, what was asked for, SHA-256 of weights and code.
        generated: where the generated images come from, how many, how large, how they were drawn.
        reference: the same of the reference; None for is alone.
        subset_size: images in a subset of kid.
        warnings: what makes the numbers worse or not comparable.
        versions: of the software that they depend on.
        seconds: that it took.
    """

    values: Mapping[str, Mapping[str, float]]
    names: Mapping[str, str]
    extractor: Mapping[str, str]
    generated: Mapping[str, Any]
    reference: Mapping[str, Any] | None
    subset_size: int
    warnings: tuple[str, ...]
    versions: Mapping[str, str]
    seconds: float

    @property
    def value(self) -> float:
        """The first number of the first metric."""
        return next(iter(next(iter(self.values.values())).values()))

    def to_dict(self) -> dict[str, Any]:
        """Return what ``ssdiff eval fid --json`` prints; of several metrics under ``results``, one each."""
        results = [self._result(metric) for metric in self.values]
        return results[0] if len(results) == 1 else {"results": results, "warnings": list(self.warnings)}

    def _result(self, metric: str) -> dict[str, Any]:
        values = dict(self.values[metric])
        return {
            "metric": metric,
            "name": self.names[metric],
            "value": next(iter(values.values())),
            **values,
            "extractor": dict(self.extractor),
            "images": dict(self.generated),
            "reference": dict(self.reference) if self.reference is not None and metric != "is" else None,
            "subset_size": self.subset_size if metric == "kid" else None,
            "warnings": list(self.warnings),
            "versions": dict(self.versions),
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        lines = []
        for metric, values in self.values.items():
            shown = ", ".join(f"{key} {value:.5g}" for key, value in values.items())
            lines.append(f"{self.names[metric]}: {shown} ({self._counts(metric)})")
        return "\n".join(lines)

    def _counts(self, metric: str) -> str:
        count = f"{self.generated['count']} images"
        if self.reference is None or metric == "is":
            return count
        return f"{count} against {self.reference['count']} of {_origin(self.reference)}"

    def _repr_html_(self) -> str:
        rows = [
            [self.names[metric], key, f"{value:.5g}"]
            for metric, values in self.values.items()
            for key, value in values.items()
        ]
        return html_table(self._counts(next(iter(self.values))), ["Metric", "", "Value"], rows)


def evaluate(
    generated: ModelOrImages,
    reference: ModelOrImages | None = None,
    metrics: str | Iterable[str] = ("fid",),
    *,
    extractor: str = INCEPTION,
    weights_file: str | os.PathLike[str] | None = None,
    n: int | None = None,
    steps: Steps | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    resize: int | None = None,
    subset_size: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    names: str | os.PathLike[str] | None = None,
    part: int | None = None,
    other: OtherImages | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """Measure how near generated images are to reference images; several metrics share the features.

    Under torchrun each process draws and looks at its share; all return the same.

    Args:
        generated: a model, a folder or zip of images, the name of a data set, or a tensor (N, C, H, W), uint8
            or floating point in [-1, 1]. A folder or file that is a run, a checkpoint or a ``.safetensors``
            file is a model.
        reference: likewise. Omitted, the training data of the model; ``is`` needs none. Of a second model
            images of other numbers are drawn than of the first.
        metrics: some of ``fid``, ``kid``, ``prc``, ``is``, ``mind``; see
            :func:`ssdiff.evaluation.distances.compute_metric`.
        extractor: ``inception``, or ``module:Class`` of a network of one's own.
        weights_file: Inception's weights, for work offline.
        n: images that a model draws; 10,000 where omitted.
        steps: of sampling, 1..T, likewise ``sampler`` and ``eta``; the preset's where omitted.
        sampler: name, see :func:`ssdiff.samplers`.
        eta: share of fresh noise of ddim, 0..1.
        resize: pixels to which all images are cut and fitted.
        subset_size: images in a subset of ``kid``; 1000 where omitted.
        batch: images drawn at once; changes the memory, not the images.
        seed: of the images that are drawn.
        names: text file with the names of those images of the reference that count, one a line, for a folder
            or a zip file; ``part`` chooses the lines that end in this number, as in CelebA's partition.
        part: see there.
        other: second set of a model of animorphosis, at whose images it begins, as :func:`ssdiff.load` takes
            it; of ``generated``, not of a second model.
        device: see :func:`ssdiff.devices.pick_device`; a pipeline draws where it is.
        progress: is told of preparing, generating and features.

    Raises:
        UsageError: options out of range or that do not go together, or a tensor that holds no images.
        DataError: images that cannot be read, of unequal sizes, or too few.
        CheckpointError: a model or extractor that cannot be read.
        ResourceError: the device, its memory, or weights that are not available.
    """
    require_type("metrics", metrics, Iterable, f"choose from {', '.join(METRICS)}")
    config = EvaluationConfig(
        metrics=(metrics,) if isinstance(metrics, str) else tuple(metrics),
        extractor=extractor,
        weights_file=None if weights_file is None else as_path("weights_file", weights_file),
        n=n,
        steps=steps,
        sampler=sampler,
        eta=eta,
        resize=resize,
        subset_size=subset_size,
        batch=batch,
        seed=seed,
        names=None if names is None else as_path("names", names),
        part=part,
        other=other,
    )
    with join_world(device) as world:
        return run(generated, reference, config, world, device, progress)


def run(
    generated: ModelOrImages,
    reference: ModelOrImages | None,
    config: EvaluationConfig,
    world: World,
    device: str,
    progress: Progress | None = None,
) -> Evaluation:
    """Do the work of :func:`evaluate` among other processes; all return what process 0 has found.

    Args:
        generated: as for :func:`evaluate`, likewise ``reference``, ``device`` and ``progress``.
        reference: see there.
        config: what to measure.
        world: this process's place.
        device: see there.
        progress: see there.
    """
    _check(generated, reference, config)
    place = world.device(pick_device(device))
    network = world.rank0_first(lambda: open_extractor(config.extractor, config.weights_file, place))
    began = time.perf_counter()
    first = _side(generated, "generated", config, world, str(place))
    second = None
    if config.compares:
        second = _reference(reference, first, config, world, str(place))
    size = config.resize or _size([side for side in (first, second) if side is not None])
    warnings: list[str] = []
    task = _Task(config, size, network, world, progress, warnings)
    true, about_true = (None, None) if second is None else second.features(task)
    found, about = first.features(task)
    result = None
    if world.rank == 0:
        assert found is not None, "process 0 has all features"
        values = {metric: compute_metric(metric, found, true, config.subset) for metric in config.metrics}
        warnings += _few(config.metrics, found, true)
        result = Evaluation(
            values=values,
            names={metric: _name(metric, network) for metric in values},
            extractor={"name": network.name, "given": config.extractor, "sha256": network.identity},
            generated=about,
            reference=about_true,
            subset_size=config.subset,
            warnings=tuple(warnings),
            versions=sets.versions(),
            seconds=time.perf_counter() - began,
        )
    return world.broadcast(result)


@dataclass(frozen=True, slots=True)
class _Task:
    """What both sides need to get their features."""

    config: EvaluationConfig
    size: int
    network: Extractor
    world: World
    progress: Progress | None
    warnings: list[str]

    def fitted(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 images at the size at which all are compared."""
        if tuple(images.shape[-2:]) == (self.size, self.size):
            return images
        pictures = (Image.fromarray(x.permute(1, 2, 0).squeeze(-1).numpy()) for x in images)
        return torch.stack([torch.from_numpy(pixels(fit(x, (self.size, self.size)))) for x in pictures])


_About: TypeAlias = "tuple[Features | None, dict[str, Any]]"


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Images that a model draws."""

    generation: Generation

    def features(self, task: _Task) -> _About:
        """Each process draws its share; all features are on process 0."""
        drawing, world = self.generation, task.world
        share, plan = world.shard(drawing.n), drawing.plan
        counter = Counter(task.progress, "generating", drawing.n, steps=plan.evaluations, ranks=world.size)

        def parts() -> Iterator[Tensor]:
            for start in range(share.start, share.stop, drawing.batch):
                positions = range(start, min(start + drawing.batch, share.stop))
                yield task.fitted(drawing.draw(positions, counter))

        found = sets.gathered(collect(task.network, parts()), world)
        about = {
            "checkpoint": drawing.pipeline.origin,
            "step": drawing.pipeline.step,
            "count": drawing.n,
            "size": task.size,
            "steps": plan.evaluations,
            "sampler": plan.sampler,
            **plan.told,
            "seed": drawing.seed,
        }
        return found, about


@dataclass(frozen=True, slots=True)
class _Kept:
    """Images of a folder, zip file or data set."""

    source: ImageSource

    def features(self, task: _Task) -> _About:
        """Out of the cache, or computed by all processes."""
        data = self.source.open(task.size, task.world, task.progress)
        task.config.require(len(data))
        found, hit = sets.set_features(data, task.network, task.world, task.progress)
        return found, self.source.describe(data, task.config.resize is not None, hit, task.warnings)


@dataclass(frozen=True, slots=True)
class _InMemory:
    """(N, C, H, W) uint8 images."""

    images: Tensor
    name: str

    def features(self, task: _Task) -> _About:
        """Computed by all processes."""
        images = task.fitted(self.images)
        found = sets.tensor_features(images, self.name, task.network, task.world, task.progress)
        about = {
            "source": "tensor",
            "count": len(images),
            "size": task.size,
            "resized": task.config.resize is not None,
        }
        return found, about


_Side: TypeAlias = "_Drawn | _Kept | _InMemory"


def _side(
    images: ModelOrImages,
    role: Literal["generated", "reference"],
    config: EvaluationConfig,
    world: World,
    device: str,
) -> _Side:
    """One of both sides; all that can be wrong with it is found here."""
    if isinstance(images, Tensor):
        return _in_memory(images, role, config)
    if isinstance(images, str | os.PathLike) and not _is_model(images):
        listed = DataSettings()
        if role == "reference" and config.names is not None:
            listed = DataSettings(list=str(config.names), part=config.part)
        return _Kept(ImageSource(os.fspath(images), settings=listed))
    other = config.other if role == "generated" else None
    if isinstance(images, Pipeline):
        pipeline = images if other is None else images.with_other(other)
    else:
        pipeline = load(_path(images), device=device, other=other)
    count = sets.ENOUGH if config.n is None else config.n
    config.require(count)
    if count < world.size:
        raise UsageError(f"{world.size} processes need as many images, not {count}", hint="raise n (-n)")
    if not pipeline.generates:
        message = f"{pipeline.name} is a restoration model and cannot sample unconditionally"
        raise UsageError(message, hint="use ssdiff.evaluate_restoration (`ssdiff eval restore`)")
    plan = pipeline.plan(config.steps, config.sampler, config.eta)
    batch = config.batch or pipeline.sampling.batch
    first = 0 if role == "generated" else count
    return _Drawn(Generation(pipeline, plan, count, first, config.seed, batch, None))


def _in_memory(images: Tensor, role: str, config: EvaluationConfig) -> _InMemory:
    if images.ndim != 4:
        hint = "stack single images"
        raise UsageError(
            f"{role} has the shape {tuple(images.shape)}, needed is (N, 1 or 3, H, W)", hint=hint
        )
    given(from_uint8(images[:1]) if images.dtype == torch.uint8 else images, name=role)
    config.require(len(images))
    return _InMemory(to_uint8(images).cpu(), role)


def _path(images: Found | str | os.PathLike[str]) -> Path:
    return images.path if isinstance(images, Found) else Path(images)


def _reference(
    images: ModelOrImages | None, generated: _Side, config: EvaluationConfig, world: World, device: str
) -> _Side:
    """The reference asked for, or what the model was trained on."""
    if images is not None:
        return _side(images, "reference", config, world, device)
    assert isinstance(generated, _Drawn), "without a model the reference is given"
    return _Kept(sets.training_data(generated.generation.pipeline))


def _is_model(images: ModelOrImages) -> bool:
    """Whether images are to be drawn; what is no model is a set of images."""
    if isinstance(images, Pipeline | Found):
        return True
    if isinstance(images, Tensor):
        return False
    path = Path(images)
    return runs.is_run(path) or (path / "manifest.json").is_file() or path.suffix == ".safetensors"


def _check(generated: ModelOrImages, reference: ModelOrImages | None, config: EvaluationConfig) -> None:
    """Refuse what does not go together, before anything is read."""
    for name, images in (("generated", generated), ("reference", reference)):
        known = isinstance(images, Pipeline | Found | Tensor | str | os.PathLike)
        if not known and not (name == "reference" and images is None):
            hint = "give a model, a folder, a zip file, the name of a data set or a tensor"
            raise UsageError(f"{name} is of type {type(images).__name__}", hint=hint)
    if reference is not None and not config.compares:
        raise UsageError("is compares with nothing", hint="leave the reference out")
    if "is" in config.metrics and config.extractor != INCEPTION:
        raise UsageError("is needs the logits of a classifier", hint="use the extractor inception")
    drawn = any(images is not None and _is_model(images) for images in (generated, reference))
    if not drawn:
        what = "a tensor" if isinstance(generated, Tensor) else generated
        for name in ("n", "steps", "sampler", "eta", "other"):
            if getattr(config, name) is not None:
                raise UsageError(f"{name} is for a model's images, not for {what}", hint="leave it out")
    if config.part is not None and config.names is None:
        raise UsageError("a part is chosen by a list of images", hint="give the list, too: --data-list FILE")
    if config.names is not None and (
        reference is None or isinstance(reference, Tensor) or _is_model(reference)
    ):
        message = "a list of images is for a reference that is a folder or a zip file"
        raise UsageError(message, hint="give one (--reference PATH), or leave the list out")
    if reference is None and config.compares and not _is_model(generated):
        hint = "give a reference (--reference FOLDER or NAME)"
        raise UsageError("there is nothing to compare with", hint=hint)


def _size(sides: list[_Side]) -> int:
    """Pixels a side at which both sides are compared."""
    known: dict[str, tuple[int, int]] = {}
    for side in sides:
        if isinstance(side, _Drawn):
            drawing = side.generation
            height, width = drawing.pipeline.process.states[0].size
            known["the reference model's" if drawing.first else "the model's"] = (width, height)
        elif isinstance(side, _InMemory):
            known[side.name] = (side.images.shape[-1], side.images.shape[-2])
    return sets.common_size([side.source for side in sides if isinstance(side, _Kept)], known)


def _few(metrics: tuple[str, ...], found: Features, true: Features | None) -> list[str]:
    count, warnings = min(len(side.pool) for side in (found, true) if side is not None), []
    if "fid" in metrics and count < sets.ENOUGH:
        warnings.append(f"{count} images: Frechet distances fall with the number, compare only equal ones")
    if "fid" in metrics and count <= found.pool.shape[1]:
        warnings.append(
            f"{count} images for {found.pool.shape[1]} features: the covariance is rank-deficient"
        )
    return warnings


def _name(metric: str, network: Extractor) -> str:
    if metric in _LETTERS:
        return network.label(_LETTERS[metric])
    return _NAMES[metric] if network.name == INCEPTION else f"{_NAMES[metric]} ({network.name})"


def _origin(about: Mapping[str, Any]) -> str:
    return str(about.get("source") or about.get("checkpoint"))
