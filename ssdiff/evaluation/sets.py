"""Image sets that are compared: where they come from, their sizes, their features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from platform import python_version
from typing import Any

import torch
from torch import Tensor

from ssdiff import __version__, checkpoints, runs
from ssdiff.config import DataSettings
from ssdiff.data import ImageSet, holds_jpeg, native_sizes
from ssdiff.distributed import World
from ssdiff.errors import DataError, UsageError
from ssdiff.evaluation.distances import Cache, collect
from ssdiff.evaluation.features import Extractor, Features
from ssdiff.home import cache_root
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress, stage
from ssdiff.second_set import open_as
from ssdiff.weights import single_file

ENOUGH = 10_000
"""Images from which on Frechet distances hardly depend on the number."""

_PART = 64  # images through the extractor at once
_PACKAGES = ("torch", "torch-fidelity", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A set of images, and how they are read.

    Attributes:
        source: folder, archive or name.
        fingerprint: SHA-256 that the set had when a model was trained on it.
        settings: how they are cut and read, and which of the files count.
    """

    source: str
    fingerprint: str | None = None
    settings: DataSettings = field(default_factory=DataSettings)

    def open(self, size: int, world: World, progress: Progress | None, channels: int = 3) -> ImageSet:
        """Return the set at a size: process 0 prepares it, the others then find it."""

        wanted = self.settings.model_copy(update={"size": size, "channels": channels})
        return world.rank0_first(lambda: open_as(wanted, self.source, stage(progress, "preparing")))

    @property
    def sizes(self) -> set[tuple[int, int]]:
        """(width, height) of the images as they are; see :func:`ssdiff.data.native_sizes`."""
        return native_sizes(self.source, self.settings.list, self.settings.part)

    def describe(self, data: ImageSet, resized: bool, cached: bool, warnings: list[str]) -> dict[str, Any]:
        """Return what a result says about the set; add warnings of what makes numbers not comparable."""
        if holds_jpeg(self.source):
            warnings.append(f"{self.source} holds JPEG files, whose artefacts count as differences")
        if self.fingerprint not in (None, data.fingerprint) and not resized:
            warnings.append(f"{self.source} has changed since the model was trained on it")
        return {
            "source": data.source,
            "count": len(data),
            "sha256": data.fingerprint,
            "size": data.images.shape[-1],
            "resized": resized,
            "skipped": len(data.skipped),
            "cached": cached,
        }


def training_data(pipeline: Pipeline) -> ImageSource:
    """Return what a model was trained on, read as its training did.

    Raises:
        UsageError: it does not say.
    """
    path, settings = pipeline.path, pipeline.required_preset().data
    source, fingerprint = settings.source, None
    if path is not None and path.is_dir():  # a run or one of its checkpoints; a file has its preset alone
        folder = single_file.newest_checkpoint(path) if runs.is_run(path) else path
        meta = checkpoints.load(folder, ()).meta
        source = str(meta.get("source") or "") or source
        fingerprint = str(meta["data"]) if meta.get("data") and settings.channels == 3 else None
    if source is None:
        hint = "give a reference (--reference PATH or NAME)"
        raise UsageError("the model does not say what it was trained on", hint=hint)
    return ImageSource(source, fingerprint, settings)


def common_size(sources: Iterable[ImageSource], known: dict[str, tuple[int, int]]) -> int:
    """Return the pixels a side of all images.

    Args:
        sources: sets that are compared as they are.
        known: (width, height) of images that are drawn or in memory, by what to call them.

    Raises:
        DataError: several sizes, or images that are not square; says all of them.
        UsageError: nothing has a size of its own.
    """
    sizes = {name: {size} for name, size in known.items()}
    sizes |= {source.source: found for source in sources if (found := source.sizes)}
    every = set().union(*sizes.values())
    if len(every) > 1 or any(width != height for width, height in every):
        shown = "; ".join(
            f"{name}: {', '.join(f'{w} x {h}' for w, h in sorted(found))}" for name, found in sizes.items()
        )
        raise DataError(
            f"images of unequal sizes cannot be compared ({shown})",
            hint="give resize=N (--resize N) to cut to the middle and fit all to N pixels",
        )
    if not every:
        hint = "give resize=N (--resize N)"
        raise UsageError("the size of the images is not known", hint=hint)
    return every.pop()[0]


def set_features(
    data: ImageSet, extractor: Extractor, world: World, progress: Progress | None
) -> tuple[Features | None, bool]:
    """Return features on process 0 (None on the others), and whether the cache had them.

    What the cache has not is computed by all processes, each its share.

    Raises:
        DataError: fewer images than processes, or features that are not finite.
        ResourceError: the cache cannot be written.
    """
    cache = Cache(cache_root() / "features", data.fingerprint, extractor)
    kept = cache.find(len(data)) if world.rank == 0 else None
    if world.any(kept is not None):
        return kept, True

    def read(start: int, stop: int) -> Tensor:
        return data.batch(torch.arange(start, stop))

    parts = _parts(read, len(data), data.source, world, progress)
    found = gathered(collect(extractor, parts), world)
    if found is not None:
        cache.keep(found)
    return found, False


def tensor_features(
    images: Tensor, name: str, extractor: Extractor, world: World, progress: Progress | None
) -> Features | None:
    """Return features of (N, C, H, W) uint8 images on process 0; None on the others."""
    parts = _parts(lambda start, stop: images[start:stop], len(images), name, world, progress)
    return gathered(collect(extractor, parts), world)


def _parts(
    read: Callable[[int, int], Tensor], count: int, name: str, world: World, progress: Progress | None
) -> Iterator[Tensor]:
    """This process's share of images, some at a time.

    Raises:
        DataError: fewer images than processes.
    """
    if count < world.size:
        raise DataError(f"{count} images of {name} for {world.size} processes", hint="start fewer processes")
    share = world.shard(count)
    counter = Counter(progress, "features", count, ranks=world.size)
    for start in range(share.start, share.stop, _PART):
        stop = min(start + _PART, share.stop)
        yield read(start, stop)
        counter(stop - start)


def gathered(own: Features, world: World) -> Features | None:
    """Return the features of all processes on process 0, in their order; None on the others."""
    pool = world.gather(own.pool)
    logits = None if own.logits is None else world.gather(own.logits)
    return None if pool is None else Features(pool, logits)


def joined(parts: Sequence[Features]) -> Features:
    """Return the features of several batches as one, without logits."""
    return Features(torch.cat([part.pool for part in parts]), None)


def versions() -> dict[str, str]:
    """Return those of the software that a number depends on."""
    return {"ssdiff": __version__, "python": python_version(), **{name: version(name) for name in _PACKAGES}}
