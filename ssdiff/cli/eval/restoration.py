"""`ssdiff eval restore`: the table of the Cold Diffusion paper."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Quiet,
    Seed,
    Terminal,
    is_main_process,
    memory_for,
    positive,
)
from ssdiff.cli.eval import sets
from ssdiff.cli.eval.options import Batch, Checkpoint, Out, WeightsFile, publish
from ssdiff.cli.eval.pairs import Paired, Simulated, open_images
from ssdiff.cli.sample import load_pipeline
from ssdiff.errors import DataError
from ssdiff.evaluation.image_quality import Row, quality_table

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.distributed import World
    from ssdiff.evaluation.features import Extractor, Features
    from ssdiff.restoration import Trained

_Images = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="Clean held-out images: a folder, .zip or the name of a set. With --truth: degraded ones.",
    ),
]
_Truth = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Folder or .zip of the clean images, of the names of IMAGES, which then are not degraded world.",
    ),
]
_Count = Annotated[int | None, typer.Option("-n", "--count", help="The first images. Default: all.")]
_Timestep = Annotated[int | None, typer.Option(help="Timestep, 1..T. Default: T.")]
_Steps = Annotated[int | None, typer.Option(help="Sampling steps. Default: the preset's, at most T.")]
_Extractor = Annotated[
    str | None,
    typer.Option(
        metavar="inception|module:Class", help="Adds the Frechet distance to the clean images. Default: none."
    ),
]


@dataclass(frozen=True, slots=True)
class _Question:
    """What was asked for; see the options of the command."""

    images: str
    truth: str | None
    ckpt: Path | None
    n: int | None
    t: int | None
    steps: int | None
    extractor: str | None
    weights: Path | None
    batch: int | None
    seed: int


def restore(
    images: _Images,
    truth: _Truth = None,
    ckpt: Checkpoint = None,
    n: _Count = None,
    t: _Timestep = None,
    steps: _Steps = None,
    extractor: _Extractor = None,
    weights_file: WeightsFile = None,
    batch: Batch = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Degrade held-out images, restore them by every sampler, and compare: PSNR, SSIM, RMSE, distance.

    With --truth the images are degraded already, and are compared with the clean ones of their names.
    """
    from ssdiff.distributed import join_world
    from ssdiff.files import check_output

    most, size = (None if v is None else positive(v, name) for name, v in (("-n", n), ("--batch", batch)))
    if out is not None:
        check_output(out, overwrite, (".json",))
    question = _Question(images, truth, ckpt, most, t, steps, extractor, weights_file, size, seed)
    main = is_main_process()
    terminal = Terminal(quiet or not main, json and main)
    with join_world(device) as world:
        result = _answer(question, world, device, terminal)
        if result is not None:
            text = quality_table(result["rows"], result["count"], result["distance"])
            publish(result, text, out, overwrite, terminal)
        world.barrier()


def _answer(question: _Question, world: World, device: str, terminal: Terminal) -> dict[str, Any] | None:
    """The result on process 0; None on the others."""
    from ssdiff.devices import pick_device
    from ssdiff.evaluation.features import open_extractor
    from ssdiff.restoration import Options, Trained

    place, name, began = world.device(pick_device(device)), question.extractor, time.perf_counter()
    network = world.rank0_first(lambda: open_extractor(name, question.weights, place) if name else None)
    pipeline = load_pipeline(question.ckpt, "ema", str(place), "auto", terminal)
    method = Trained(pipeline, question.t, Options(steps=question.steps, seed=question.seed))
    # A wrong number of steps is found before any image is read.
    plans = {name: pipeline.plan(question.steps, name, t=question.t) for name in method.samplers}
    data = open_images(question.images, question.truth, pipeline.required_preset(), method, world, terminal)
    count = min(question.n or len(data), len(data))
    if count < world.size:
        raise DataError(f"{count} images for {world.size} processes", hint="start fewer processes")
    batch = question.batch or pipeline.sampling.batch
    rows = _measure(method, data, count, batch, network, world, terminal)
    if rows is None:
        return None
    warnings: list[str] = []
    about = data.described(warnings)
    if network is not None and count < sets.ENOUGH:
        warnings.append(f"{count} images: compare Frechet distances of equal numbers only")
    best = method.samplers[0]
    return {
        "metric": "restore",
        "name": f"PSNR of {best}",
        "value": rows[best]["psnr"],
        "rows": rows,
        "distance": network.label("F") if network else None,
        "extractor": {"name": network.name, "given": name, "sha256": network.identity} if network else None,
        "checkpoint": pipeline.origin,
        "step": pipeline.step,
        "t": plans[best].timesteps[0],
        "steps": {name: plan.evaluations for name, plan in plans.items()},
        "seed": question.seed,
        "count": count,
        **about,
        "warnings": warnings,
        "versions": sets.versions(),
        "seconds": round(time.perf_counter() - began, 3),
    }


def _measure(
    method: Trained,
    data: Simulated | Paired,
    count: int,
    batch: int,
    network: Extractor | None,
    world: World,
    terminal: Terminal,
) -> dict[str, Row] | None:
    """Means over the first ``count`` images by row, on process 0; each process restores its share."""
    import torch

    from ssdiff.evaluation.distances import collect, measure
    from ssdiff.evaluation.image_quality import compare
    from ssdiff.images import to_uint8

    scores: dict[str, list[Tensor]] = {}
    seen: dict[str, list[Features]] = {}
    share = world.shard(count)
    with terminal.progress("img") as bar:
        task = bar.add_task("restoring", total=count, rate="-", note="")
        for start in range(share.start, share.stop, batch):
            numbers = torch.arange(start, min(start + batch, share.stop))
            with memory_for(f"{len(numbers)} images at once", "lower --batch"):
                clean, degraded = data.batch(method, numbers)
                results = dict(_restored(method, degraded, numbers))
            for name, x in results.items():
                scores.setdefault(name, []).append(torch.stack(compare(clean, x), dim=1))
            if network is not None:
                for name, x in {"clean": clean, **results}.items():
                    seen.setdefault(name, []).append(collect(network, iter([to_uint8(x)])))
            bar.update(task, completed=min((int(numbers[-1]) + 1 - share.start) * world.size, count))
    rows: dict[str, Row] = {}
    for name, parts in scores.items():
        whole = world.gather(torch.cat(parts))
        if whole is not None:
            means = [value if math.isfinite(value) else None for value in whole.mean(0).tolist()]
            rows[name] = dict(zip(("psnr", "ssim", "rmse"), means, strict=True))
    found = {name: sets.gathered(_joined(parts), world) for name, parts in seen.items()}
    for name, row in rows.items():
        if (features := found.get(name)) is not None:
            row["distance"] = measure("fid", features, found["clean"])["distance"]
    return rows or None


def _joined(parts: list[Features]) -> Features:
    import torch

    from ssdiff.evaluation.features import Features

    return Features(torch.cat([part.pool for part in parts]), None)


def _restored(method: Trained, degraded: Tensor, numbers: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Degraded images, and what each sampler makes of them; (B, C, R, R)."""
    yield "degraded", method.baseline(degraded).float().cpu().clamp(-1, 1)
    for sampler in method.samplers:
        yield sampler, method.restore(degraded, numbers, sampler)
