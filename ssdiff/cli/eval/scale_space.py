"""`ssdiff eval scale-space`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdiff.cli.common import Json, Overwrite, Quiet, Seed, Terminal, memory_for
from ssdiff.cli.eval.scale_space_files import Findings, report, write
from ssdiff.errors import OutputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.analysis.image_filters import Flow
    from ssdiff.analysis.scale_space_curves import Point
    from ssdiff.analysis.scale_space_properties import Check
    from ssdiff.process.base import Process

_VE, _FLOWS = "ve", ("heat", "osmosis")
_DEFAULT = (
    "ddpm-celeba64",
    _VE,
    "blurring-celeba64",
    "blurdiff-church64",
    "celeba64",
    "celeba64-matched",
    *_FLOWS,
)
_FOLLOWED = 128  # images that filters are run on
_SHOWN, _FRAMES, _HEIGHT = 4, 8, 96  # rows, columns and pixels of a film strip
_DARKEST = 0.02  # of an image that guides osmosis, which cannot be black

_Presets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PRESET ...]",
        help="Presets or TOML files of processes with noise; ve (variance exploding), heat and osmosis "
        f"besides. Default: {', '.join(_DEFAULT)}.",
    ),
]
_Data = Annotated[str, typer.Option(metavar="PATH|NAME", help="Folder, .zip or name; turned grey.")]
_Size = Annotated[int, typer.Option(help="Pixels a side, 8..64; the time grows with its sixth power.")]
_Images = Annotated[int, typer.Option(help="Images that the covariance is taken from, evenly from the set.")]
_Points = Annotated[
    int, typer.Option(help="Points of a curve, at least 2; resolution transitions are added.")
]
_Out = Annotated[Path, typer.Option(metavar="DIR/", help="Folder for tables and pictures.")]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Images that are measured."""

    source: str
    colour: Tensor  # (F, 3, n, n) a few, in [-1, 1]
    grey: Tensor  # (N, 1, n, n) all, in [-1, 1]


def scale_space(
    presets: _Presets = None,
    data: _Data = "shapes",
    size: _Size = 32,
    images: _Images = 4000,
    points: _Points = 33,
    out: _Out = Path("scale-space"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Curves and properties of forward processes as scale-spaces, exact for the data's mean and covariance.

    Writes curves.csv, properties.csv, scale-space.png, and film strips of heat and osmosis. Needs no model.
    """
    terminal = Terminal(quiet, json)
    for name, value, least, most in (
        ("--size", size, 8, 64),
        ("--images", images, 2, 10**6),
        ("--points", points, 2, 1000),
    ):
        if not least <= value <= most:
            raise UsageError(f"{name} must be within {least}..{most}, not {value}")
    names = list(dict.fromkeys(presets or _DEFAULT))
    processes = _processes([name for name in names if name not in _FLOWS], size)
    flows = [name for name in _FLOWS if name in names]
    files = _files(out, flows, overwrite)
    began = time.perf_counter()
    with memory_for(f"{images} images of {size} px", "lower --images or --size"):
        chosen = _open(data, size, images, terminal)
        findings = _measure(processes, flows, chosen, points, seed, terminal)
    write(findings, files, overwrite)
    seconds = round(time.perf_counter() - began, 3)
    settings = {
        "out": str(out),
        "files": [str(path) for path in files.values()],
        "data": chosen.source,
        "images": len(chosen.grey),
        "size": size,
        "points": points,
        "seed": seed,
        "seconds": seconds,
    }
    report(findings.checks, settings, terminal)


def _processes(names: list[str], size: int) -> dict[str, Process]:
    """Name and process of each preset, for grey images of a size.

    Raises:
        UsageError: one does not exist, is cold, or does not fit the size; or two have one name.
    """
    from ssdiff.analysis.scale_space_curves import variance_exploding
    from ssdiff.build import build_process
    from ssdiff.config.load import load_preset

    processes: dict[str, Process] = {}
    for name in names:
        if name == _VE:
            processes[name] = variance_exploding(size)
            continue
        preset = load_preset(name, {"data.channels": 1})
        label, process = preset.name, build_process(preset, (size, size))
        if not process.noisy:
            raise UsageError(
                f"{label} is a cold process, whose states have no density", hint="choose one with noise"
            )
        if label in (*processes, _VE, *_FLOWS):
            raise UsageError(f"two processes are called {label}", hint="give one of the presets another name")
        processes[label] = process
    return processes


def _files(out: Path, flows: list[str], overwrite: bool) -> dict[str, Path]:
    """Path of each output; an existing one is found before the work."""
    from ssdiff.files import check_output

    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is no folder", path=out, hint="name a folder")
    names = ["curves.csv", "properties.csv", "scale-space.png", *(f"{flow}.png" for flow in flows)]
    return {name: check_output(out / name, overwrite) for name in names}


def _open(source: str, size: int, count: int, terminal: Terminal) -> _Chosen:
    """Images spread evenly over a data set."""
    import numpy as np
    import torch

    from ssdiff import images
    from ssdiff.data import evenly, open_data
    from ssdiff.operators.colour import luma

    with terminal.preparing() as show:
        prepared = open_data(source, size=size, channels=3, progress=show)
    numbers = evenly(len(prepared), count)
    colour = images.from_uint8(torch.from_numpy(np.asarray(prepared.images[numbers])))
    few = colour[:: max(1, len(colour) // _SHOWN)][:_SHOWN].clone()
    return _Chosen(prepared.source, few, luma(colour))


def _measure(
    processes: dict[str, Process],
    flows: list[str],
    chosen: _Chosen,
    count: int,
    seed: int,
    terminal: Terminal,
) -> Findings:
    from ssdiff.analysis.data_moments import gaussian_data
    from ssdiff.analysis.scale_space_curves import NoisyCurves, timesteps
    from ssdiff.analysis.scale_space_properties import check_process

    data, followed = (
        gaussian_data(chosen.grey),
        chosen.grey[:: max(1, len(chosen.grey) // _FOLLOWED)][:_FOLLOWED],
    )
    findings = Findings()
    walks = {name: timesteps(process, count) for name, process in processes.items()}
    with terminal.progress("points") as bar:
        task = bar.add_task("", total=sum(map(len, walks.values())) + len(flows) * count, rate="-", note="")
        began = time.perf_counter()

        def advance(name: str, points: list[Point]) -> None:
            findings.points.extend(points)
            done = bar.tasks[0].completed + 1
            rate = f"{done / (time.perf_counter() - began):.3g}"
            bar.update(task, completed=done, description=name, rate=rate)

        for name, process in processes.items():
            curves, before = NoisyCurves(name, process, data, followed), len(findings.points)
            for t in walks[name]:
                advance(name, curves.at(t))
            findings.checks.extend(check_process(name, process, followed, findings.points[before:]))
        for name in flows:
            findings.checks.extend(_follow(name, followed, count, seed, advance))
            findings.strips[name] = _strip(name, chosen.colour, seed)
    return findings


def _follow(
    name: str, grey: Tensor, count: int, seed: int, advance: Callable[[str, list[Point]], None]
) -> list[Check]:
    """Curves and properties of an image filter."""
    from ssdiff.analysis.image_filters import diffusion_times, evolve, noise_guidance
    from ssdiff.analysis.scale_space_curves import flow_points
    from ssdiff.analysis.scale_space_properties import check_flow

    start = (grey.double() + 1) / 2
    flow = _flow(name, noise_guidance(len(start), 1, start.shape[-1], seed))
    at, states, steady = diffusion_times(start.shape[-1], count), [], flow.steady(start)
    for place, u in enumerate(evolve(flow, start, at)):
        states.append(u)
        advance(name, flow_points(name, u, start, steady, at[place], place / (count - 1)))
    return check_flow(name, flow, at, states, exact=name == "heat")


def _flow(name: str, guidance: Tensor) -> Flow:
    """Heat, or osmosis towards guidance images."""
    from ssdiff.analysis.image_filters import HomogeneousDiffusion, Osmosis

    if name == "osmosis":
        return Osmosis(guidance)
    return HomogeneousDiffusion((guidance.shape[-2], guidance.shape[-1]))


def _strip(name: str, colour: Tensor, seed: int) -> Tensor:
    """(3, height, width) images in rows, diffusion times in columns."""
    import torch

    from ssdiff import images
    from ssdiff.analysis.image_filters import diffusion_times, evolve, noise_guidance

    start = (colour.double() + 1) / 2
    guidance = noise_guidance(len(start), 3, start.shape[-1], seed)
    if len(start) > 1:  # every other image goes towards its neighbour instead of noise
        guidance[1::2] = start.roll(-1, 0)[1::2].clamp_min(_DARKEST)
    flow = _flow(name, guidance)
    frames = [2 * u - 1 for u in evolve(flow, start, diffusion_times(start.shape[-1], _FRAMES))]
    rows = [images.film_strip([frame[i] for frame in frames], height=_HEIGHT) for i in range(len(start))]
    return images.grid(torch.stack(rows), columns=1)
