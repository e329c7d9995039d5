"""The work of `ssdiff eval fid` and its like: images, features, a distance, and where it all came from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ssdiff.cli.common import Terminal, memory_for
from ssdiff.cli.sample import load_pipeline
from ssdiff.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.data import ImageSet
    from ssdiff.distributed import World
    from ssdiff.metrics.features import Extractor, Features
    from ssdiff.pipeline import Pipeline

_T = TypeVar("_T")
_COUNT = 10_000  # images, below which FIDs depend on the number
_SUBSET = 1000  # images in a subset of kid
_PART = 64
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_NAMES = {"prc": "precision and recall", "is": "inception score", "mind": "MIND"}


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked for; see the options of the command."""

    metric: str
    images: str | None
    ckpt: Path | None
    reference: str | None
    n: int | None
    sampling: tuple[int | None, str | None, float | None]
    extractor: str
    weights: Path | None
    resize: int | None
    subset: int | None
    batch: int | None
    out: Path | None
    seed: int
    overwrite: bool


def answer(question: Question, here: World, device: str, terminal: Terminal) -> None:
    """Measure, and report on process 0."""
    from ssdiff.devices import pick_device
    from ssdiff.images import check_output
    from ssdiff.metrics.distances import measure
    from ssdiff.metrics.features import open_extractor

    if question.out is not None and here.rank == 0:
        check_output(question.out, question.overwrite, (".json",))
    place = here.device(pick_device(device))
    extractor = open_extractor(question.extractor, question.weights, place)
    began = time.perf_counter()
    warnings: list[str] = []
    pipeline = None
    if question.images is None:
        pipeline = load_pipeline(question.ckpt, "ema", str(place), "auto", terminal)
    size = _size(question, pipeline)
    true, about_true = None, None
    if question.metric != "is":
        source = question.reference or _training_source(question.ckpt, pipeline)
        true, about_true = _of_set(source, size, question.resize, extractor, here, terminal, warnings)
    if pipeline is not None:
        found, about = _of_model(question, pipeline, extractor, here, terminal)
    else:
        assert question.images is not None, "images or a model"
        found, about = _of_set(question.images, size, question.resize, extractor, here, terminal, warnings)
    if here.rank == 0:
        assert found is not None, "process 0 has all features"
        values = measure(question.metric, found, true, question.subset or _SUBSET)
        warnings += _few(question.metric, found)
        seconds = time.perf_counter() - began
        _report(question, extractor, values, about, about_true, warnings, seconds, terminal)
    here.wait()


def _size(question: Question, pipeline: Pipeline | None) -> int:
    """Pixels a side at which both sides are compared.

    Raises:
        DataError: images of several sizes, or of another one than the reference.
    """
    if question.resize is not None:
        return question.resize
    sizes: dict[str, set[tuple[int, int]]] = {}
    if pipeline is not None:
        side = pipeline.preset.data.size
        sizes["the model's"] = {(side, side)}
    for source in (question.images, question.reference):
        if source is not None:
            found = _native_sizes(source)
            if found:
                sizes[source] = found
    every = set().union(*sizes.values())
    if len(every) > 1 or any(width != height for width, height in every):
        shown = "; ".join(f"{name}: {_sizes(found)}" for name, found in sizes.items())
        raise DataError(
            f"images of unequal sizes cannot be compared ({shown})",
            hint="give --resize N to cut to the middle and fit all to N pixels",
        )
    if not every:
        raise UsageError("the size of the images is not known", hint="give --resize N")
    return every.pop()[0]


def _sizes(found: set[tuple[int, int]]) -> str:
    first = sorted(found)[:3]
    return ", ".join(f"{w} x {h}" for w, h in first) + (" and more" if len(found) > len(first) else "")


def _native_sizes(source: str) -> set[tuple[int, int]]:
    """(width, height) of the files of a folder or archive; none for a name, whose images are fitted."""
    from PIL import Image

    from ssdiff.data import DATA_NAMES
    from ssdiff.data.opening import find_files

    if source in DATA_NAMES:
        return set()
    files = find_files(source)
    if files is None:
        return set()
    sizes: set[tuple[int, int]] = set()
    try:
        for index in range(len(files)):
            with files.open(index) as stream, Image.open(stream) as image:
                sizes.add(image.size)
    except OSError as error:
        raise DataError(f"cannot read {files.members[index]} of {source}: {error}", path=source) from None
    finally:
        files.close()
    return sizes


def _training_source(ckpt: Path | None, pipeline: Pipeline | None) -> str:
    """What the model was trained on."""
    from ssdiff import checkpoints, rundir, storage

    assert pipeline is not None, "without a model the reference is given"
    run = ckpt or rundir.newest_run()
    if run is not None and rundir.is_run(run):
        meta = checkpoints.load(storage.newest_checkpoint(run), ()).meta
        if meta.get("source"):
            return str(meta["source"])
    source = pipeline.preset.data.source
    if source is None:
        raise UsageError("the model does not say what it was trained on", hint="give --reference")
    return source


def _of_set(
    source: str,
    size: int,
    resize: int | None,
    extractor: Extractor,
    here: World,
    terminal: Terminal,
    warnings: list[str],
) -> tuple[Features, dict[str, Any]]:
    """Features of a data set, out of the cache if it has them."""
    import torch

    from ssdiff.data import open_data
    from ssdiff.data.prepared import cache_root
    from ssdiff.metrics.distances import cached, collect

    def read() -> tuple[Features, bool, ImageSet]:
        with terminal.progress("img") as bar:
            task = bar.add_task("preparing", total=None, rate="-", note="")
            data = open_data(
                source,
                size=size,
                channels=3,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
            bar.update(task, description="features", completed=0, total=len(data))

            def parts() -> Iterator[Tensor]:
                for start in range(0, len(data), _PART):
                    yield data.batch(torch.arange(start, min(start + _PART, len(data))))
                    bar.update(task, completed=min(start + _PART, len(data)))

            folder = cache_root() / "features"
            features, hit = cached(folder, data.fingerprint, extractor, lambda: collect(extractor, parts()))
        return features, hit, data

    features, hit, data = _first_alone(here, read)
    if _lossy(source):
        warnings.append(f"{source} holds JPEG files, whose artefacts count as differences")
    about = {
        "source": data.source,
        "count": len(data),
        "sha256": data.fingerprint,
        "size": size,
        "resized": resize is not None,
        "cached": hit,
    }
    return features, about


def _first_alone(here: World, read: Callable[[], _T]) -> _T:
    """Process 0 computes, the others then find its result in the cache."""
    results = []
    for turn in (0, 1):
        if (here.rank == 0) == (turn == 0):
            results.append(read())
        here.wait()
    return results[0]


def _lossy(source: str) -> bool:
    """Whether some of the files are JPEG."""
    from ssdiff.data import DATA_NAMES
    from ssdiff.data.opening import find_files

    files = None if source in DATA_NAMES else find_files(source)
    return files is not None and any(name.lower().endswith(_LOSSY) for name in files.members)


def _of_model(
    question: Question, pipeline: Pipeline, extractor: Extractor, here: World, terminal: Terminal
) -> tuple[Features | None, dict[str, Any]]:
    """Features of images that the model draws: each process its share, all of them on process 0."""
    from ssdiff.cli.drawing import Job
    from ssdiff.metrics.distances import collect
    from ssdiff.metrics.features import Features

    steps, sampler, eta = question.sampling
    plan = pipeline.plan(steps, sampler, eta)
    count = _COUNT if question.n is None else question.n
    batch = question.batch or pipeline.preset.sampling.batch
    job = Job(pipeline, plan, count, 0, question.seed, batch, None)
    if count < here.size:
        raise UsageError(f"{here.size} processes need as many images, not {count}", hint="raise -n")
    share = here.share(count)
    with terminal.progress("img") as bar:
        task = bar.add_task("generating", total=count, rate="-", note="")
        began, drawn = time.perf_counter(), 0

        def advance(images: int) -> None:
            nonlocal drawn
            drawn += images * here.size
            done = drawn / plan.evaluations
            bar.update(task, completed=done, rate=f"{done / (time.perf_counter() - began):.3g}")

        def parts() -> Iterator[Tensor]:
            for start in range(share.start, share.stop, batch):
                with memory_for(f"{batch} images at once", "lower --batch"):
                    yield _fitted(job.draw(range(start, min(start + batch, share.stop)), advance), question)

        own = collect(extractor, parts())
    pool = here.gather(own.pool)
    logits = None if own.logits is None else here.gather(own.logits)
    about = {
        "checkpoint": pipeline.origin,
        "step": pipeline.step,
        "count": count,
        "size": question.resize or pipeline.preset.data.size,
        "steps": plan.evaluations,
        "sampler": plan.sampler,
        "eta": plan.eta,
        "seed": question.seed,
    }
    return (None if pool is None else Features(pool, logits)), about


def _fitted(images: Tensor, question: Question) -> Tensor:
    """Generated images at the size that was asked for."""
    import torch
    from PIL import Image

    from ssdiff.images import fit
    from ssdiff.images.reading import pixels

    if question.resize is None or images.shape[-1] == question.resize:
        return images
    size = (question.resize, question.resize)
    pictures = (Image.fromarray(x.permute(1, 2, 0).squeeze(-1).numpy()) for x in images)
    return torch.stack([torch.from_numpy(pixels(fit(picture, size))) for picture in pictures])


def _few(metric: str, found: Features) -> list[str]:
    count, warnings = len(found.pool), []
    if metric == "fid" and count < _COUNT:
        warnings.append(f"{count} images: Frechet distances fall with the number, compare only equal ones")
    if metric == "fid" and count <= found.pool.shape[1]:
        warnings.append(
            f"{count} images for {found.pool.shape[1]} features: the covariance is rank-deficient"
        )
    return warnings


def _report(
    question: Question,
    extractor: Extractor,
    values: dict[str, float],
    about: dict[str, Any],
    reference: dict[str, Any] | None,
    warnings: list[str],
    seconds: float,
    terminal: Terminal,
) -> None:
    from importlib.metadata import version

    from ssdiff import __version__
    from ssdiff.images import write_atomic

    letter = {"fid": "F", "kid": "K"}.get(question.metric)
    name = extractor.label(letter) if letter else _NAMES[question.metric]
    if letter is None and extractor.name != "inception":
        name += f" ({extractor.name})"
    main = next(iter(values.values()))
    result = {
        "metric": question.metric,
        "name": name,
        "value": main,
        **values,
        "extractor": {"name": extractor.name, "sha256": extractor.identity},
        "images": about,
        "reference": reference,
        "subset_size": (question.subset or _SUBSET) if question.metric == "kid" else None,
        "warnings": warnings,
        "versions": {"ssdiff": __version__, **{pkg: version(pkg) for pkg in ("torch", "torch-fidelity")}},
        "seconds": round(seconds, 3),
    }
    for warning in warnings:
        terminal.say(f"warning: {warning}")
    if question.out is not None:
        write_atomic(question.out, json.dumps(result, indent=1).encode(), question.overwrite)
    against = f" against {reference['count']} of {reference['source']}" if reference else ""
    shown = ", ".join(f"{key} {value:.5g}" for key, value in values.items())
    terminal.result(f"{name}: {shown} ({about['count']} images{against})", result)
