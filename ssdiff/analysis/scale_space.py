"""Compare forward processes as scale-spaces: their curves along t, and the properties that they have."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssdiff import images as pictures
from ssdiff.analysis.data_moments import gaussian_data
from ssdiff.analysis.image_filters import (
    Flow,
    HomogeneousDiffusion,
    Osmosis,
    diffusion_times,
    evolve,
    noise_guidance,
)
from ssdiff.analysis.input_images import choose_images
from ssdiff.analysis.scale_space_curves import (
    NoisyCurves,
    Point,
    flow_points,
    timesteps,
    variance_exploding,
)
from ssdiff.analysis.scale_space_properties import Check, check_flow, check_process
from ssdiff.arguments import require_whole
from ssdiff.build import build_process
from ssdiff.config import Preset
from ssdiff.config.load import load_preset, override
from ssdiff.errors import UsageError, memory_for
from ssdiff.files import check_outputs, write_atomic
from ssdiff.operators.colour import luma
from ssdiff.process.base import Process
from ssdiff.progress import Counter, Progress

if TYPE_CHECKING:
    from ssdiff.reporting.plots import Curve, Panel

VARIANCE_EXPLODING = "ve"
FILTERS = ("heat", "osmosis")
DEFAULT_PROCESSES = (
    "ddpm-celeba64",
    VARIANCE_EXPLODING,
    "blurring-celeba64",
    "blurdiff-church64",
    "celeba64",
    "celeba64-matched",
    *FILTERS,
)
"""What is compared unless something else is asked for."""

_SIZE, _LEAST_SIZE, _MOST_SIZE = 32, 8, 64  # pixels a side
_FOLLOWED = 128  # images that filters are run on
_SHOWN, _FRAMES, _HEIGHT = 4, 8, 96  # rows, columns and pixels of a film strip
_DARKEST = 0.02  # of an image that guides osmosis, which cannot be black

_PANELS = (  # title, unit, quantity, logarithmic
    ("Conditional entropy H(x_t | x_0)", "nats per pixel of the full grid", "conditional-entropy", False),
    ("Entropy of the marginal H(x_t)", "nats per pixel of the full grid", "marginal-entropy", False),
    ("Information I(x_0; x_t)", "nats per pixel of the full grid", "information", True),
    ("Frechet distance to the data", "share of the total variance", "frechet", True),
    ("Variance of a pixel", "squared grey, image in [-1, 1]", "variance", True),
    ("Mean", "grey, image in [-1, 1]", "mean", False),
    ("Signal-dominated pixels (area dashed)", "share of the full grid", "signal-dominated", False),
    ("Entropy of the image", "nats, log n for a flat image", "image-entropy", False),
    ("Relative entropy to the steady state", "nats", "relative-entropy", True),
)

Given = str | Path | Preset | Process
"""A process to compare: preset by name, file or object; a process; ``"ve"``, ``"heat"`` or ``"osmosis"``."""


@dataclass(frozen=True)
class ScaleSpace:
    """Curves and properties of forward processes.

    A notebook shows it as its plot.

    Attributes:
        curves: points of all curves, process by process.
        checks: how far each process is from each property.
        strips: image filter to (3, height, width), images in rows and diffusion times in columns, [-1, 1].
        data: where the images come from.
        images: that were measured.
        size: pixels a side.
        points: of a curve that were asked for.
        seed: of osmosis's noise.
        seconds: that the analysis took.
    """

    curves: tuple[Point, ...]
    checks: tuple[Check, ...]
    strips: Mapping[str, Tensor]
    data: str
    images: int
    size: int
    points: int
    seed: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it without curves as plain values, as `ssdiff eval scale-space --json` prints them."""
        return {
            "data": self.data,
            "images": self.images,
            "size": self.size,
            "points": self.points,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "properties": [
                {
                    "process": check.process,
                    "property": check.law,
                    "deviation": check.deviation if math.isfinite(check.deviation) else None,
                    "tolerance": check.tolerance,
                    "passed": check.passed,
                    "note": check.note,
                }
                for check in self.checks
            ],
        }

    def table(self) -> str:
        """Return a text: one line a process and property."""
        width = max(len(check.process) for check in self.checks)
        wide = max(len(check.law) for check in self.checks)
        lines = [f"{'process':{width}}  {'property':{wide}}  deviation  tolerance"]
        lines += [
            f"{check.process:{width}}  {check.law:{wide}}  {check.deviation:9.2g}  {check.tolerance:9.2g}  "
            f"{_verdict(check)}  {check.note}".rstrip()
            for check in self.checks
        ]
        return "\n".join(lines)

    def plot(self) -> bytes:
        """Draw a PNG file with a panel for each quantity that some process has."""
        from ssdiff.reporting.plots import draw_panels

        return draw_panels(self._panels())

    def save(self, folder: str | Path, overwrite: bool = False) -> list[Path]:
        """Write curves.csv, properties.csv, scale-space.png, and a film strip of each image filter.

        Args:
            folder: where; it is created.
            overwrite: whether files there may be replaced.

        Returns:
            Their paths.

        Raises:
            OutputError: one is there already.
            ResourceError: the folder cannot be written or the disk is full.
        """
        paths = check_scale_space_files(folder, self.strips, overwrite)
        curves, properties, plot, *strips = paths
        rows = [
            (point.process, f"{point.t:.10g}", f"{point.time:.6f}", point.quantity, f"{point.value:.10g}")
            for point in self.curves
        ]
        header: tuple[str, ...] = ("process", "t", "time", "quantity", "value")
        write_atomic(curves, _csv(header, rows), overwrite)
        table = [
            (
                check.process,
                check.law,
                f"{check.deviation:.4g}",
                f"{check.tolerance:.4g}",
                _verdict(check),
                check.note,
            )
            for check in self.checks
        ]
        header = ("process", "property", "deviation", "tolerance", "result", "note")
        write_atomic(properties, _csv(header, table), overwrite)
        write_atomic(plot, self.plot(), overwrite)
        for path, strip in zip(strips, self.strips.values(), strict=True):
            pictures.save_image(strip.float(), path, overwrite)
        return paths

    def _repr_png_(self) -> bytes:
        return self.plot()

    def _panels(self) -> list[Panel]:
        """Every other process is dashed, because several run together for long: SSD and DDPM, for one."""
        from ssdiff.reporting.plots import Panel

        panels = []
        for title, unit, quantity, log in _PANELS:
            if quantity == "signal-dominated":
                solid, dashed = self._lines(quantity, log, False), self._lines("area", log, True)
                drawn = solid + dashed
            else:
                drawn = self._lines(quantity, log)
            if drawn:
                panels.append(Panel(title, "t / T", unit, drawn, log_y=log))
        return panels

    def _lines(self, quantity: str, log: bool, dashed: bool | None = None) -> list[Curve]:
        from ssdiff.reporting.plots import Curve

        found = []
        for place, process in enumerate(dict.fromkeys(point.process for point in self.curves)):
            line = [
                point
                for point in self.curves
                if (point.process, point.quantity) == (process, quantity) and (point.value > 0 or not log)
            ]
            if line:
                dash = bool(place % 2) if dashed is None else dashed
                found.append(Curve(process, [p.time for p in line], [p.value for p in line], dash))
        return found


def check_scale_space_files(
    folder: str | Path, filters: Iterable[str], overwrite: bool = False
) -> list[Path]:
    """Return the paths that :meth:`ScaleSpace.save` will write, if it may; see :func:`check_outputs`.

    Args:
        folder: where.
        filters: the image filters among the processes.
        overwrite: whether files there may be replaced.
    """
    names = ["curves.csv", "properties.csv", "scale-space.png", *(f"{name}.png" for name in filters)]
    return check_outputs(folder, names, overwrite)


def scale_space(
    data: str | Path | Tensor,
    presets: Iterable[Given] | Mapping[str, Given] | Given | None = None,
    *,
    size: int | None = None,
    images: int = 4000,
    points: int = 33,
    seed: int = 0,
    progress: Progress | None = None,
) -> ScaleSpace:
    """Measure forward processes as scale-spaces, exactly for the mean and covariance of the data.

    Entropies, information, variance and distance to the data along t, and whether each process has a
    scale-space's properties [GS; docs/math.md, section 14]. Needs no trained model.

    Args:
        data: folder, zip file or name; or images (N, C, R, R) in [-1, 1], C 1 or 3. Colours become grey.
        presets: processes with noise to compare, as presets by name, file or object, or as processes for grey
            images of the size; ``"ve"`` (variance exploding), ``"heat"`` and ``"osmosis"`` besides. A mapping
            names them. None: DEFAULT_PROCESSES.
        size: pixels a side, 8..64; the time grows with its sixth power. None: that of a tensor, 32 otherwise.
        images: that the covariance is taken from, evenly from the set.
        points: of a curve, 2..1000; resolution transitions are added.
        seed: of osmosis's noise.
        progress: is told of the stages preparing and measuring.

    Raises:
        PresetError: a preset does not exist, or does not hold together.
        UsageError: a process has no noise or another size; two have one name; an argument is out of range.
        DataError: the data cannot be used.
        ResourceError: memory ran out.

    >>> import torch, ssdiff
    >>> x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    >>> found = ssdiff.scale_space(x, ["ve"], points=5)
    >>> all(check.passed for check in found.checks)
    True
    """
    began = time.perf_counter()
    if size is None:
        size = data.shape[-1] if isinstance(data, Tensor) and data.ndim == 4 else _SIZE
    for name, value, least, most in (
        ("size", size, _LEAST_SIZE, _MOST_SIZE),
        ("images", images, 2, 10**6),
        ("points", points, 2, 1000),
    ):
        require_whole(name, value)
        if not least <= value <= most:
            raise UsageError(f"{name} must be within {least}..{most}, not {value}")
    processes, filters = _processes(_named(presets), size)
    with memory_for(f"{images} images of {size} px", "use fewer or smaller images"):
        chosen = choose_images(data, images, size, 3, progress=progress)
        colour = torch.cat(list(chosen.batches()))
        grey = luma(colour)
        followed = grey[:: max(1, len(grey) // _FOLLOWED)][:_FOLLOWED]
        walks = {name: timesteps(process, points) for name, process in processes.items()}
        total = sum(map(len, walks.values())) + len(filters) * points
        told, moments = Counter(progress, "measuring", total), gaussian_data(grey)
        curves: list[Point] = []
        checks: list[Check] = []
        for name, process in processes.items():
            measured, before = NoisyCurves(name, process, moments, followed), len(curves)
            for t in walks[name]:
                curves += measured.at(t)
                told()
            checks += check_process(name, process, followed, curves[before:])
        few = colour[:: max(1, len(colour) // _SHOWN)][:_SHOWN].expand(-1, 3, -1, -1)
        strips = {}
        for name in filters:
            checks += _follow(name, followed, points, seed, curves, told)
            strips[name] = _strip(name, few, seed)
    seconds = time.perf_counter() - began
    return ScaleSpace(
        tuple(curves), tuple(checks), strips, chosen.source, len(grey), size, points, seed, seconds
    )


def _named(presets: Iterable[Given] | Mapping[str, Given] | Given | None) -> list[tuple[str | None, Given]]:
    """What is asked for, each with the name it is given."""
    if presets is None:
        return [(None, name) for name in DEFAULT_PROCESSES]
    if isinstance(presets, Mapping):
        return list(presets.items())
    if isinstance(presets, str | Path | Preset) or not isinstance(presets, Iterable):
        return [(None, presets)]
    return [(None, given) for given in presets]


def _processes(
    presets: Sequence[tuple[str | None, Given]], size: int
) -> tuple[dict[str, Process], list[str]]:
    """Name and process of each, for grey images of a size; and the image filters among them."""
    processes: dict[str, Process] = {}
    filters, seen = set[str](), set[str | Path]()
    for name, given in presets:
        if isinstance(given, str | Path) and name is None:
            if given in seen:
                continue
            seen.add(given)
        if isinstance(given, str) and given in FILTERS:
            filters.add(given)
            continue
        label, process = _process(name, given, size)
        if not process.noisy:
            raise UsageError(
                f"{label} is a cold process, whose states have no density", hint="choose one with noise"
            )
        if process.states[0].size != (size, size):
            height, width = process.states[0].size
            raise UsageError(
                f"{label} is a process for images of {height} x {width} px, but {size} px are measured",
                hint="build it for that size, or measure at its own",
            )
        if label in (*processes, *FILTERS):
            raise UsageError(f"two processes are called {label}", hint="give one of them another name")
        processes[label] = process
    if not processes and not filters:
        raise UsageError("there is no process to measure", hint=f"name one, e.g. {DEFAULT_PROCESSES[0]}")
    return processes, [name for name in FILTERS if name in filters]


def _process(name: str | None, given: Given, size: int) -> tuple[str, Process]:
    """A process with its name, or with the one it has by itself."""
    if given == VARIANCE_EXPLODING:
        return name or VARIANCE_EXPLODING, variance_exploding(size)
    if isinstance(given, str | Path | Preset):
        grey = {"data.channels": 1}
        preset = override(given, grey) if isinstance(given, Preset) else load_preset(given, grey)
        return name or preset.name, build_process(preset, (size, size))
    if not hasattr(given, "marginal"):
        raise UsageError(
            f"a process to measure cannot be {type(given).__name__}",
            hint="give a preset by name, file or object, a process, ve, heat or osmosis",
        )
    return name or type(given).__name__, given


def _follow(
    name: str, grey: Tensor, count: int, seed: int, curves: list[Point], told: Counter
) -> list[Check]:
    """Properties of an image filter; its points are added to the curves."""
    start = (grey.double() + 1) / 2
    flow = _flow(name, noise_guidance(len(start), 1, start.shape[-1], seed))
    at, states, steady = diffusion_times(start.shape[-1], count), [], flow.steady(start)
    for place, u in enumerate(evolve(flow, start, at)):
        states.append(u)
        curves += flow_points(name, u, start, steady, at[place], place / (count - 1))
        told()
    return check_flow(name, flow, at, states, exact=name == "heat")


def _flow(name: str, guidance: Tensor) -> Flow:
    """Heat, or osmosis towards guidance images."""
    if name == "osmosis":
        return Osmosis(guidance)
    return HomogeneousDiffusion((guidance.shape[-2], guidance.shape[-1]))


def _strip(name: str, colour: Tensor, seed: int) -> Tensor:
    """(3, height, width) images in rows, diffusion times in columns."""
    start = (colour.double() + 1) / 2
    guidance = noise_guidance(len(start), 3, start.shape[-1], seed)
    if len(start) > 1:  # every other image goes towards its neighbour instead of noise
        guidance[1::2] = start.roll(-1, 0)[1::2].clamp_min(_DARKEST)
    flow = _flow(name, guidance)
    frames = [2 * u - 1 for u in evolve(flow, start, diffusion_times(start.shape[-1], _FRAMES))]
    rows = [pictures.film_strip([frame[i] for frame in frames], height=_HEIGHT) for i in range(len(start))]
    return pictures.grid(torch.stack(rows), columns=1)


def _verdict(check: Check) -> str:
    return "pass" if check.passed else "fail"


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(rows)
    return text.getvalue().encode()
