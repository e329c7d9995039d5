"""Image sets that `ssdiff eval` compares: where they come from, their sizes, their features."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdiff.cli.common import Terminal
from ssdiff.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.data import ImageSet
    from ssdiff.data.cache import Corrupt
    from ssdiff.distributed import World
    from ssdiff.evaluation.features import Extractor, Features
    from ssdiff.pipeline import Pipeline

_PART = 64
ENOUGH = 10_000
"""Images from which on Frechet distances hardly depend on the number."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A set of images, and how they are read.

    Attributes:
        source: folder, archive or name.
        fingerprint: SHA-256 that the set had when a model was trained on it.
        background: grey behind transparent pixels, 0..1.
        corrupt: what to do with unreadable files.
    """

    source: str
    fingerprint: str | None = None
    background: float = 1.0
    corrupt: Corrupt = "error"


def trained_on(ckpt: Path | None, pipeline: Pipeline) -> Choice:
    """What the model was trained on, read as its training did.

    Raises:
        UsageError: it does not say.
    """
    from ssdiff import checkpoints, runs
    from ssdiff.weights import single_file
    from ssdiff.weights.load import find_model

    path, settings = find_model(ckpt).path, pipeline.required_preset().data
    source, fingerprint = settings.source, None
    if path.is_dir():  # a run or one of its checkpoints; a file has its preset alone
        folder = single_file.newest_checkpoint(path) if runs.is_run(path) else path
        meta = checkpoints.load(folder, ()).meta
        source = str(meta.get("source") or "") or source
        fingerprint = str(meta["data"]) if meta.get("data") and settings.channels == 3 else None
    if source is None:
        raise UsageError("the model does not say what it was trained on", hint="give --reference")
    return Choice(source, fingerprint, settings.background, settings.corrupt)


def common_size(sources: list[str], model: int | None) -> int:
    """Pixels a side of all images.

    Args:
        sources: sets that are compared as they are.
        model: pixels a side of what a model draws, if one does.

    Raises:
        DataError: several sizes, or images that are not square; says all of them.
        UsageError: nothing has a size of its own.
    """
    from ssdiff.data import native_sizes

    sizes = {"the model's": {(model, model)}} if model else {}
    sizes |= {source: found for source in sources if (found := native_sizes(source))}
    every = set().union(*sizes.values())
    if len(every) > 1 or any(width != height for width, height in every):
        shown = "; ".join(
            f"{name}: {', '.join(f'{w} x {h}' for w, h in sorted(found))}" for name, found in sizes.items()
        )
        raise DataError(
            f"images of unequal sizes cannot be compared ({shown})",
            hint="give --resize N to cut to the middle and fit all to N pixels",
        )
    if not every:
        raise UsageError("the size of the images is not known", hint="give --resize N")
    return every.pop()[0]


def open_set(choice: Choice, size: int, world: World, terminal: Terminal, channels: int = 3) -> ImageSet:
    """The set at a size: process 0 prepares it, the others then find it."""
    from ssdiff.data import open_data

    def read() -> ImageSet:
        with terminal.preparing() as show:
            return open_data(
                choice.source,
                size=size,
                channels=channels,
                background=choice.background,
                corrupt=choice.corrupt,
                progress=show,
            )

    return world.rank0_first(read)


def of_set(
    data: ImageSet, extractor: Extractor, world: World, terminal: Terminal
) -> tuple[Features | None, bool]:
    """Features on process 0, and whether the cache had them; otherwise each process computes its share."""
    import torch

    from ssdiff.data import cache_root
    from ssdiff.evaluation.distances import Cache, collect

    cache = Cache(cache_root() / "features", data.fingerprint, extractor)
    kept = cache.find(len(data)) if world.rank == 0 else None
    if world.any(kept is not None):
        return kept, True
    if len(data) < world.size:
        raise DataError(
            f"{len(data)} images of {data.source} for {world.size} processes", hint="start fewer processes"
        )
    share, began = world.shard(len(data)), time.perf_counter()
    with terminal.progress("img") as bar:
        task = bar.add_task("features", total=len(data), rate="-", note="")

        def parts() -> Iterator[Tensor]:
            for start in range(share.start, share.stop, _PART):
                stop = min(start + _PART, share.stop)
                yield data.batch(torch.arange(start, stop))
                done = (stop - share.start) * world.size
                rate = f"{done / (time.perf_counter() - began):.3g}"
                bar.update(task, completed=min(done, len(data)), rate=rate)

        found = gathered(collect(extractor, parts()), world)
    if found is not None:
        cache.keep(found)
    return found, False


def gathered(own: Features, world: World) -> Features | None:
    """The features of all processes on process 0, in their order; None on the others."""
    from ssdiff.evaluation.features import Features

    pool = world.gather(own.pool)
    logits = None if own.logits is None else world.gather(own.logits)
    return None if pool is None else Features(pool, logits)


def described(
    choice: Choice, data: ImageSet, resized: bool, cached: bool, warnings: list[str]
) -> dict[str, Any]:
    """What a result says about a set; adds warnings of what makes numbers worse or not comparable."""
    from ssdiff.data import holds_jpeg

    if holds_jpeg(choice.source):
        warnings.append(f"{choice.source} holds JPEG files, whose artefacts count as differences")
    if choice.fingerprint not in (None, data.fingerprint) and not resized:
        warnings.append(f"{choice.source} has changed since the model was trained on it")
    return {
        "source": data.source,
        "count": len(data),
        "sha256": data.fingerprint,
        "size": data.images.shape[-1],
        "resized": resized,
        "skipped": len(data.skipped),
        "cached": cached,
    }


def versions() -> dict[str, str]:
    """Of the software that a number depends on."""
    from importlib.metadata import version
    from platform import python_version

    from ssdiff import __version__

    packages = ("torch", "torch-fidelity", "numpy", "pillow")
    return {"ssdiff": __version__, "python": python_version(), **{name: version(name) for name in packages}}
