"""`ssdiff eval restore`: the table of the Cold Diffusion paper."""

from __future__ import annotations

import json as json_
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdiff.cli.common import Device, Json, Overwrite, Quiet, Seed, Terminal, memory_for, positive
from ssdiff.cli.sample import load_pipeline

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.metrics.features import Extractor
    from ssdiff.restoration import Trained

_Images = Annotated[
    str, typer.Argument(metavar="IMAGES", help="Clean held-out images: a folder, .zip or the name of a set.")
]
_Checkpoint = Annotated[
    Path | None, typer.Option(metavar="RUN|FILE", help="Model. Default: the newest run, or the bundled one.")
]
_Count = Annotated[int | None, typer.Option("-n", "--count", help="The first images. Default: all.")]
_Severity = Annotated[int | None, typer.Option(help="Severity, 1..T. Default: T.")]
_Steps = Annotated[int | None, typer.Option(help="Sampling steps. Default: the preset's, at most T.")]
_Extractor = Annotated[
    str | None,
    typer.Option(
        metavar="inception|module:Class", help="Adds the Frechet distance to the clean images. Default: none."
    ),
]
_Weights = Annotated[Path | None, typer.Option(help="File of Inception's weights, for work offline.")]
_Batch = Annotated[int | None, typer.Option(help="Images at once. Default: the preset's.")]
_Out = Annotated[Path | None, typer.Option(metavar="x.json", help="Write the result, for `eval report` too.")]


def restore(
    images: _Images,
    ckpt: _Checkpoint = None,
    n: _Count = None,
    t: _Severity = None,
    steps: _Steps = None,
    extractor: _Extractor = None,
    weights_file: _Weights = None,
    batch: _Batch = None,
    out: _Out = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Degrade held-out images, restore them by every sampler, and compare: PSNR, SSIM, RMSE, distance."""
    from ssdiff.devices import pick_device
    from ssdiff.images import check_output
    from ssdiff.metrics.features import open_extractor
    from ssdiff.restoration import Options, Trained

    terminal = Terminal(quiet, json)
    most, size = (None if v is None else positive(v, name) for name, v in (("-n", n), ("--batch", batch)))
    if out is not None:
        check_output(out, overwrite, (".json",))
    place = pick_device(device)
    network = open_extractor(extractor, weights_file, place) if extractor else None
    pipeline = load_pipeline(ckpt, "ema", str(place), "auto", terminal)
    method = Trained(pipeline, t, Options(steps=steps, seed=seed))
    began = time.perf_counter()
    size = size or pipeline.preset.sampling.batch
    rows, count, about = _measure(method, pipeline.preset.data.size, images, most, size, network, terminal)
    result = {
        "metric": "restore",
        "name": f"PSNR of {method.samplers[0]}",
        "value": rows[method.samplers[0]]["psnr"],
        "rows": rows,
        "distance": network.label("F") if network else None,
        "checkpoint": pipeline.origin,
        "step": pipeline.step,
        "t": pipeline.plan(t=t).severities[0],
        "steps": steps,
        "seed": seed,
        "count": count,
        "images": about,
        "seconds": round(time.perf_counter() - began, 3),
    }
    _report(result, out, overwrite, terminal)


def _report(result: dict[str, Any], out: Path | None, overwrite: bool, terminal: Terminal) -> None:
    from ssdiff.images import write_atomic

    if out is not None:
        write_atomic(out, json_.dumps(result, indent=1).encode(), overwrite)
    terminal.result(_table(result["rows"], result["count"], result["distance"]), result)


def _measure(
    method: Trained,
    side: int,
    source: str,
    most: int | None,
    size: int,
    network: Extractor | None,
    terminal: Terminal,
) -> tuple[dict[str, dict[str, float]], int, dict[str, Any]]:
    """Means over the images by row, how many there were, and which."""
    import torch

    from ssdiff.data import open_data
    from ssdiff.images import from_uint8, to_uint8
    from ssdiff.metrics.distances import collect, measure
    from ssdiff.metrics.likeness import compare

    data = open_data(source, size=side, channels=method.channels)
    count = min(most or len(data), len(data))
    scores: dict[str, list[Tensor]] = {}
    seen: dict[str, list[Tensor]] = {"clean": []}
    with terminal.progress("img") as bar:
        task = bar.add_task("restoring", total=count, rate="-", note="")
        for start in range(0, count, size):
            numbers = torch.arange(start, min(start + size, count))
            clean = from_uint8(data.batch(numbers))
            with memory_for(f"{len(numbers)} images at once", "lower --batch"):
                results = dict(_restored(method, clean, numbers))
            seen["clean"].append(to_uint8(clean))
            for name, x in results.items():
                scores.setdefault(name, []).append(torch.stack(compare(clean, x)))
                seen.setdefault(name, []).append(to_uint8(x))
            bar.update(task, completed=int(numbers[-1]) + 1)
    rows = {}
    for name, parts in scores.items():
        means = torch.cat(parts, dim=1).mean(1).tolist()
        rows[name] = dict(zip(("psnr", "ssim", "rmse"), means, strict=True))
    if network is not None:
        features = {name: collect(network, iter(parts)) for name, parts in seen.items()}
        for name, row in rows.items():
            row["distance"] = measure("fid", features[name], features["clean"])["distance"]
    return rows, count, {"source": data.source, "sha256": data.fingerprint}


def _restored(method: Trained, clean: Tensor, numbers: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Degraded images, and what each sampler makes of them; (B, C, R, R)."""
    degraded = method.degrade(clean, numbers)
    yield "degraded", method.look(degraded).float().cpu().clamp(-1, 1)
    for sampler in method.samplers:
        yield sampler, method.restore(degraded, numbers, sampler)


def _table(rows: dict[str, dict[str, float]], count: int, distance: object) -> str:
    heading = f"{'':12}{'PSNR':>8}{'SSIM':>8}{'RMSE':>8}"
    lines = [heading + (f"  {distance}" if distance else "") + f"   mean of {count} images"]
    for name, row in rows.items():
        line = f"{name:12}{row['psnr']:8.2f}{row['ssim']:8.3f}{row['rmse']:8.4f}"
        lines.append(line + (f"  {row['distance']:.4g}" if "distance" in row else ""))
    return "\n".join(lines)
