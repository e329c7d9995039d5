"""The work of `ssdiff eval fid` and its like: images, features, a distance, and where it all came from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdiff.cli.common import Terminal, memory_for
from ssdiff.cli.eval import sets
from ssdiff.cli.eval.options import publish
from ssdiff.cli.sample import load_pipeline
from ssdiff.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.distributed import World
    from ssdiff.evaluation.features import Extractor, Features
    from ssdiff.generation import Generation

_SUBSET = 1000  # images in a subset of kid
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


def answer(question: Question, world: World, device: str, terminal: Terminal) -> None:
    """Measure, and report on process 0."""
    from ssdiff.devices import pick_device
    from ssdiff.evaluation.distances import measure
    from ssdiff.evaluation.features import open_extractor
    from ssdiff.files import check_output

    if question.out is not None:
        check_output(question.out, question.overwrite, (".json",))
    place = world.device(pick_device(device))
    extractor = world.rank0_first(lambda: open_extractor(question.extractor, question.weights, place))
    began = time.perf_counter()
    drawing = None if question.images else _draw(question, str(place), world, terminal)
    size = _size(question, drawing)
    warnings: list[str] = []
    true, about_true = None, None
    if question.metric != "is":
        choice = _reference(question, drawing)
        true, about_true = _judged(question, choice, size, extractor, world, terminal, warnings)
    if drawing is not None:
        found, about = _of_model(question, drawing, extractor, world, terminal)
    else:
        choice = sets.Choice(str(question.images))
        found, about = _judged(question, choice, size, extractor, world, terminal, warnings)
    if world.rank == 0:
        assert found is not None, "process 0 has all features"
        values = measure(question.metric, found, true, question.subset or _SUBSET)
        warnings += _few(question.metric, found, true)
        seconds = time.perf_counter() - began
        _report(question, extractor, values, about, about_true, warnings, seconds, terminal)
    world.barrier()


def _draw(question: Question, device: str, world: World, terminal: Terminal) -> Generation:
    """What the model is going to draw; all that can be wrong with it is found here.

    Raises:
        DataError: too few images for the metric.
        UsageError: too few for the processes, or a model that only restores.
    """
    from ssdiff.evaluation.distances import require
    from ssdiff.generation import Generation

    pipeline = load_pipeline(question.ckpt, "ema", device, "auto", terminal)
    count = sets.ENOUGH if question.n is None else question.n
    require(question.metric, count, question.subset or _SUBSET)
    if count < world.size:
        raise UsageError(f"{world.size} processes need as many images, not {count}", hint="raise -n")
    if not pipeline.generates:
        message = f"{pipeline.name} is a restoration model and cannot sample unconditionally"
        raise UsageError(message, hint="use `ssdiff eval restore`")
    plan = pipeline.plan(*question.sampling)
    batch = question.batch or pipeline.sampling.batch
    return Generation(pipeline, plan, count, 0, question.seed, batch, None)


def _size(question: Question, drawing: Generation | None) -> int:
    """Pixels a side at which both sides are compared."""
    if question.resize is not None:
        return question.resize
    model = drawing.pipeline.process.states[0].resolution if drawing else None
    return sets.common_size([s for s in (question.images, question.reference) if s is not None], model)


def _reference(question: Question, drawing: Generation | None) -> sets.Choice:
    """The set asked for, or what the model was trained on."""
    if question.reference is not None:
        return sets.Choice(question.reference)
    assert drawing is not None, "without a model the reference is given"
    return sets.trained_on(question.ckpt, drawing.pipeline)


def _judged(
    question: Question,
    choice: sets.Choice,
    size: int,
    extractor: Extractor,
    world: World,
    terminal: Terminal,
    warnings: list[str],
) -> tuple[Features | None, dict[str, Any]]:
    """Features of a set, and what the result says about it."""
    from ssdiff.evaluation.distances import require

    data = sets.open_set(choice, size, world, terminal)
    require(question.metric, len(data), question.subset or _SUBSET)
    features, hit = sets.of_set(data, extractor, world, terminal)
    return features, sets.described(choice, data, question.resize is not None, hit, warnings)


def _of_model(
    question: Question, job: Generation, extractor: Extractor, world: World, terminal: Terminal
) -> tuple[Features | None, dict[str, Any]]:
    """Features of images that the model draws: each process its share, all of them on process 0."""
    from ssdiff.evaluation.distances import collect

    pipeline, plan, batch = job.pipeline, job.plan, job.batch
    share = world.shard(job.n)
    with terminal.progress("img") as bar:
        task = bar.add_task("generating", total=job.n, rate="-", note="")
        began, drawn = time.perf_counter(), 0

        def advance(images: int) -> None:
            nonlocal drawn
            drawn += images * world.size
            done = drawn / plan.evaluations
            bar.update(task, completed=done, rate=f"{done / (time.perf_counter() - began):.3g}")

        def parts() -> Iterator[Tensor]:
            for start in range(share.start, share.stop, batch):
                with memory_for(f"{batch} images at once", "lower --batch"):
                    yield _fitted(job.draw(range(start, min(start + batch, share.stop)), advance), question)

        found = sets.gathered(collect(extractor, parts()), world)
    about = {
        "checkpoint": pipeline.origin,
        "step": pipeline.step,
        "count": job.n,
        "size": question.resize or pipeline.process.states[0].resolution,
        "steps": plan.evaluations,
        "sampler": plan.sampler,
        "eta": plan.eta,
        "guidance": plan.guidance,
        "seed": question.seed,
    }
    return found, about


def _fitted(images: Tensor, question: Question) -> Tensor:
    """Generated images at the size that was asked for."""
    import torch
    from PIL import Image

    from ssdiff.images import fit
    from ssdiff.images.read import pixels

    if question.resize is None or images.shape[-1] == question.resize:
        return images
    size = (question.resize, question.resize)
    pictures = (Image.fromarray(x.permute(1, 2, 0).squeeze(-1).numpy()) for x in images)
    return torch.stack([torch.from_numpy(pixels(fit(picture, size))) for picture in pictures])


def _few(metric: str, found: Features, true: Features | None) -> list[str]:
    count, warnings = min(len(side.pool) for side in (found, true) if side is not None), []
    if metric == "fid" and count < sets.ENOUGH:
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
        "extractor": {"name": extractor.name, "given": question.extractor, "sha256": extractor.identity},
        "images": about,
        "reference": reference,
        "subset_size": (question.subset or _SUBSET) if question.metric == "kid" else None,
        "warnings": warnings,
        "versions": sets.versions(),
        "seconds": round(seconds, 3),
    }
    against = f" against {reference['count']} of {reference['source']}" if reference else ""
    shown = ", ".join(f"{key} {value:.5g}" for key, value in values.items())
    text = f"{name}: {shown} ({about['count']} images{against})"
    publish(result, text, question.out, question.overwrite, terminal)
