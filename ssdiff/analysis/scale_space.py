"""Compare processes as scale-spaces: their curves along t, the properties that they have, pictures."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssdiff import images as pictures
from ssdiff import rng
from ssdiff.analysis import scale_space_theory as theory
from ssdiff.analysis.data_moments import GaussianData, check_variance, gaussian_data
from ssdiff.analysis.image_filters import (
    Flow,
    HomogeneousDiffusion,
    Osmosis,
    diffusion_times,
    evolve,
    noise_guidance,
)
from ssdiff.analysis.input_images import InputImages, choose_images
from ssdiff.analysis.scale_space_cold import ColdCurves, check_cold
from ssdiff.analysis.scale_space_curves import (
    FlowCurves,
    NoisyCurves,
    Point,
    parts,
    timesteps,
    variance_exploding,
)
from ssdiff.analysis.scale_space_features import FeatureDistance, draw_state
from ssdiff.analysis.scale_space_moments import BlockMoments
from ssdiff.analysis.scale_space_pictures import (
    ROWS,
    Film,
    draw_side_by_side,
    file_stems,
    film_timesteps,
    nearest_timesteps,
    shares,
)
from ssdiff.analysis.scale_space_properties import Check, check_flow, check_process
from ssdiff.analysis.scale_space_reverse import ReverseAnalysis, ReverseOptions
from ssdiff.arguments import as_path, require_type, require_whole
from ssdiff.build import build_process
from ssdiff.config import DataSettings, Preset
from ssdiff.config.load import load_preset, override
from ssdiff.devices import pick_device
from ssdiff.errors import DataError, UsageError, did_you_mean, memory_for
from ssdiff.evaluation.features import open_extractor
from ssdiff.evaluation.sets import training_data
from ssdiff.files import check_outputs, write_atomic
from ssdiff.operators.colour import luma
from ssdiff.pipeline import Pipeline
from ssdiff.process.base import Process
from ssdiff.progress import Counter, Progress
from ssdiff.reporting.html import page
from ssdiff.reporting.scale_space import RECORD, sections
from ssdiff.schedules.respacing import Steps
from ssdiff.weights.load import Found, find_preset, load

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
"""What is compared unless something else, or a model, is asked for."""
COVARIANCES = ("auto", "full", "frequency")
"""How the closed forms see the covariance of the data."""

_SIZE, _LEAST_SIZE, _MOST_SIZE = 32, 8, 512  # pixels a side
_FULL, _MOST_FULL = 1024, 4096  # values of an image with full covariances unless asked otherwise, and at all
_IMAGES, _LEAST_IMAGES, _VALUES = 4000, 8, 2**22  # images at most and at least, and values of them all
_CHECKED = 128  # images that properties are checked on
_DATA = "shapes"
_DARKEST = 0.02  # of an image that guides osmosis, which cannot be black

_METHODS = {
    "full": "closed forms with the full covariance of the data",
    "frequency": "closed forms with covariances of the channels frequency by frequency: entropies and "
    "information are upper bounds, distances lower bounds",
}

_PANELS = (  # title, unit, quantity, logarithmic
    ("Conditional entropy H(x_t | x_0)", "nats per value of the full grid", "conditional-entropy", False),
    ("Entropy of the marginal H(x_t)", "nats per value of the full grid", "marginal-entropy", False),
    ("Entropy of samples, frequencies apart", "nats per value of the full grid", "sample-entropy", False),
    ("Information I(x_0; x_t)", "nats per value of the full grid", "information", True),
    ("Frechet distance to the data", "share of the total variance", "frechet", True),
    ("Distance of samples to the data", "share of the total variance", "sample-frechet", True),
    ("Distance of features to the data", "{label}", "feature-distance", True),
    ("Reverse to forward process", "share of the variance at t", "reverse-to-forward", True),
    ("Error of restored states", "root mean square, [-1, 1]", "restored-error", False),
    (
        "Relative entropy to the terminal Gaussian",
        "nats per value of the full grid",
        "terminal-relative-entropy",
        True,
    ),
    ("Frechet distance to the terminal Gaussian", "share of its variance", "terminal-frechet", True),
    ("Variance of a pixel", "squared grey, image in [-1, 1]", "variance", True),
    ("Mean", "grey, image in [-1, 1]", "mean", False),
    ("Structure of the mean image", "standard deviation over pixels", "mean-structure", False),
    ("Signal-dominated pixels (area dashed)", "share of the full grid", "signal-dominated", False),
    ("Entropy of the image", "nats, log n for a flat image", "image-entropy", False),
    ("Relative entropy to the steady state", "nats", "relative-entropy", True),
)

Given = str | Path | Preset | Process
"""A process to compare: preset by name, file or object; a process; ``"ve"``, ``"heat"`` or ``"osmosis"``."""
Model = Pipeline | Found | str | Path
"""A trained model: pipeline, run, checkpoint or model file."""


@dataclass(frozen=True)
class ScaleSpace:
    """Curves, properties and pictures of processes.

    A notebook shows it as its plot.

    Attributes:
        curves: points of all curves, process by process.
        checks: how far each process is from each property, and whether theory expects it.
        strips: process to (3, height, width), images in rows and times in columns, [-1, 1].
        films: process to the states and mean images that the pictures are made of.
        data: where the images come from.
        images: that were measured, the same for every curve.
        size: pixels a side.
        channels: of the images.
        covariance: ``full`` or ``frequency``.
        points: of a curve that were asked for.
        seed: of all noise.
        seconds: that the analysis took.
        reverse: how the reverse process of a model was drawn; None without a model.
        features: what the distance of features is called; None without an extractor.
        warnings: what makes the numbers worse.
    """

    curves: tuple[Point, ...]
    checks: tuple[Check, ...]
    strips: Mapping[str, Tensor]
    films: Mapping[str, Film]
    data: str
    images: int
    size: int
    channels: int
    covariance: str
    points: int
    seed: int
    seconds: float
    reverse: Mapping[str, Any] | None = None
    features: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """How the covariance of the data was seen, in words."""
        return _METHODS[self.covariance]

    @property
    def surprises(self) -> tuple[Check, ...]:
        """The checks whose result is not what theory expects."""
        return tuple(check for check in self.checks if check.surprising)

    def to_dict(self) -> dict[str, Any]:
        """Return it without curves as plain values, as `ssdiff eval scale-space --json` prints them."""
        return {
            "data": self.data,
            "images": self.images,
            "size": self.size,
            "channels": self.channels,
            "covariance": self.covariance,
            "method": self.method,
            "points": self.points,
            "seed": self.seed,
            "features": self.features,
            "reverse": None if self.reverse is None else dict(self.reverse),
            "warnings": list(self.warnings),
            "seconds": round(self.seconds, 3),
            "strips": {name: f"{stem}.png" for name, stem in self._stems().items()},
            "properties": [
                {
                    "process": check.process,
                    "property": check.law,
                    "deviation": check.deviation if math.isfinite(check.deviation) else None,
                    "tolerance": check.tolerance,
                    "passed": check.passed if check.measured else None,
                    "expected": check.expected,
                    "unexpected": check.surprising,
                    "note": check.note,
                }
                for check in self.checks
            ],
        }

    def table(self) -> str:
        """Return a text: one line a process and property, with a ! where theory expects the opposite."""
        width = max(len(check.process) for check in self.checks)
        wide = max(len(check.law) for check in self.checks)
        lines = [f"  {'process':{width}}  {'property':{wide}}  deviation  tolerance  holds  expected"]
        lines += [
            f"{'!' if check.surprising else ' '} {check.process:{width}}  {check.law:{wide}}  "
            f"{_number(check.deviation):>9}  {_number(check.tolerance):>9}  {check.verdict:5}  "
            f"{check.expectation:8}  {check.note}".rstrip()
            for check in self.checks
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return one line for people."""
        passed, strange = sum(check.passed for check in self.checks), len(self.surprises)
        against = f"{strange} against theory (!)" if strange else "all as theory expects"
        return (
            f"{passed} of {len(self.checks)} properties hold, {against}; {self.images} images, "
            f"{self.size} px, {self.covariance} covariances, {self.seconds:.3f} s"
        )

    def plot(self) -> bytes:
        """Draw a PNG file with a panel for each quantity that some process has."""
        from ssdiff.reporting.plots import draw_panels

        return draw_panels(self._panels())

    def plot_film(self, mean: bool = False) -> bytes:
        """Draw a PNG file with all processes side by side, a row each, at the same shares of their time.

        Args:
            mean: of the mean of all images instead of the first image.
        """
        return draw_side_by_side(self.films, mean)

    def save(self, folder: str | Path, overwrite: bool = False) -> list[Path]:
        """Write tables, curves, pictures and a report into a folder.

        curves.csv, properties.csv, scale-space.png (curves), film.png and mean-images.png (all processes side
        by side), scale-space.json, report.html, and a film strip of each process.

        Args:
            folder: where; it is created.
            overwrite: whether files there may be replaced.

        Returns:
            Their paths.

        Raises:
            OutputError: one is there already.
            ResourceError: the folder cannot be written or the disk is full.
        """
        paths = check_outputs(folder, _files(self.strips), overwrite)
        curves, properties, plot, film, means, record, report, *strips = paths
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
                check.verdict,
                check.expectation,
                check.note,
            )
            for check in self.checks
        ]
        header = ("process", "property", "deviation", "tolerance", "result", "expected", "note")
        write_atomic(properties, _csv(header, table), overwrite)
        write_atomic(plot, self.plot(), overwrite)
        write_atomic(film, self.plot_film(), overwrite)
        write_atomic(means, self.plot_film(mean=True), overwrite)
        write_atomic(record, json.dumps(self.to_dict(), indent=1).encode() + b"\n", overwrite)
        for path, strip in zip(strips, self.strips.values(), strict=True):
            pictures.save_image(strip.float(), path, overwrite)
        names = ", ".join(self.films)
        write_atomic(report, page("Scale-spaces", names, sections(as_path("out", folder))), overwrite)
        return paths

    def _repr_png_(self) -> bytes:
        return self.plot()

    def _stems(self) -> dict[str, str]:
        return dict(zip(self.strips, file_stems(self.strips), strict=True))

    def _panels(self) -> list[Panel]:
        """Every other process is dashed, because several run together for long: SSD and DDPM, for one."""
        from ssdiff.reporting.plots import Panel

        panels = []
        for title, unit, quantity, log in _PANELS:
            if quantity == "signal-dominated":
                solid, dashed = self._lines(quantity, log, False), self._lines("area", log, True)
                drawn = solid + dashed if solid else []
            else:
                drawn = self._lines(quantity, log)
            if drawn:
                label = unit.format(label=self.features)
                panels.append(Panel(title, "t / T", label, drawn, log_y=log))
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
    folder: str | Path,
    presets: Iterable[Given] | Mapping[str, Given] | Given | None = None,
    model: Model | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Return the paths that :meth:`ScaleSpace.save` will write, if it may; see :func:`check_outputs`.

    Args:
        folder: where.
        presets: as for :func:`scale_space`.
        model: likewise.
        overwrite: whether files there may be replaced.

    Raises:
        OutputError: one is there already.
        PresetError: a preset does not exist.
        CheckpointError: the model cannot be read.
    """
    given = _named(presets, model is not None)
    filters = [name for name in FILTERS if any(one == name for _, one in given)]
    names = [_label(name, one) for name, one in given if not (isinstance(one, str) and one in FILTERS)]
    if model is not None:
        forward, reverse = _model_names(_preset_name(model))
        return check_outputs(folder, _files([forward, *names, *filters, reverse]), overwrite)
    return check_outputs(folder, _files([*names, *filters]), overwrite)


def scale_space(
    data: str | Path | Tensor | None = None,
    presets: Iterable[Given] | Mapping[str, Given] | Given | None = None,
    *,
    model: Model | None = None,
    size: int | None = None,
    channels: int | None = None,
    images: int | None = None,
    covariance: str = "auto",
    points: int = 33,
    extractor: str | None = None,
    weights_file: str | os.PathLike[str] | None = None,
    n: int | None = None,
    steps: Steps | None = None,
    sampler: str | None = None,
    eta: float | None = None,
    batch: int | None = None,
    seed: int = 0,
    names: str | os.PathLike[str] | None = None,
    part: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> ScaleSpace:
    """Measure processes as scale-spaces, and a trained model's reverse process beside its forward process.

    Entropies, information, variance, distances to the data and to the terminal Gaussian along t, in closed
    form for the mean and covariance of the data, and whether each process has a scale-space's properties
    and theory expects it [GS; docs/math.md, section 14]. All curves are of the same images.

    Args:
        data: folder, zip file or name; or images (N, C, R, R) in [-1, 1], C 1 or 3. None: the model's
            training data, drawn shapes without a model.
        presets: processes to compare, as presets by name, file or object, or as processes for images of the
            size and channels; cold ones too; ``"ve"`` (variance exploding), ``"heat"`` and ``"osmosis"``
            besides. A mapping names them. None: DEFAULT_PROCESSES, none beside a model.
        model: adds a model's forward process and its reverse: pipeline, run, checkpoint or model file.
        size: pixels a side, 8..512. None: that of the model or of a tensor, 32 otherwise.
        channels: 1 (colours become grey) or 3. None: the model's, 1 otherwise.
        images: that are measured, evenly from the set, at least 8. None: 4000, and fewer of large ones.
        covariance: ``full`` for exact closed forms, up to 4096 values (pixels and channels) of an image;
            ``frequency`` for covariances of channels at each frequency, of any size; ``auto`` for full up to
            1024 values.
        points: of a curve, 2..1000; resolution transitions are added.
        extractor: adds distances of features over t: ``inception`` or ``module:Class``.
        weights_file: Inception's weights, for work offline.
        n: images of the reverse process, at least 8 and at most half of ``images``; 64 where omitted.
        steps: of sampling, likewise ``sampler`` and ``eta``; the model's preset's where omitted.
        sampler: name, see :func:`ssdiff.samplers`.
        eta: share of fresh noise of ddim, 0..1.
        batch: images of the model at once; the preset's where omitted.
        seed: of all noise.
        names: text file with the names of those images of the data that count, one a line, for a folder or a
            zip file; ``part`` chooses the lines that end in this number, as in CelebA's partition.
        part: see there.
        device: of the model and of the extractor, see :func:`ssdiff.devices.pick_device`.
        progress: is told of the stages preparing, measuring and sampling.

    Raises:
        PresetError: a preset does not exist, or does not hold together.
        UsageError: a process has another size; two have one name; an argument is out of range, or is for a
            model or an extractor where there is none.
        DataError: the data cannot be used, or there are too few.
        CheckpointError: the model or Inception's weights cannot be read.
        ResourceError: the device is absent, memory ran out, or Inception's weights cannot be had.

    >>> import torch, ssdiff
    >>> x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    >>> found = ssdiff.scale_space(x, ["ve"], points=5)
    >>> found.surprises
    ()
    """
    began = time.perf_counter()
    options = ReverseOptions(n, steps, sampler, eta, batch)
    _check_options(options, model, extractor, weights_file, device)
    _check_numbers(size, channels, images, points, covariance, n, batch)
    listed = _listed(data, names, part)
    pipeline = _pipeline(model, device)
    side, planes = _format(data, pipeline, size, channels)
    values = planes * side * side
    count = max(min(_IMAGES, _VALUES // values), 256) if images is None else images
    method = ("full" if values <= _FULL else "frequency") if covariance == "auto" else covariance
    if method == "full" and values > _MOST_FULL:
        raise UsageError(
            f"full covariances are for images of at most {_MOST_FULL} values, not {values}",
            hint="measure smaller images, or with covariance = 'frequency' (--covariance frequency)",
        )
    noisy, filters = _processes(_named(presets, pipeline is not None), side, planes)
    if pipeline is not None:
        label = _model_names(pipeline.name)[0]
        if label in noisy:
            raise UsageError(f"two processes are called {label}", hint="give one of them another name")
        noisy = {label: _Named(pipeline.process, pipeline.preset), **noisy}
    place = pick_device(device) if extractor is not None else None
    network = None
    if extractor is not None and place is not None:
        weights = None if weights_file is None else as_path("weights_file", weights_file)
        network = open_extractor(extractor, weights, place)
    with memory_for(f"{count} images of {side} px", "use fewer or smaller images"):
        chosen = _choose(data, listed, pipeline, count, side, planes, progress)
        x = torch.cat(list(chosen.batches()))
        if planes == 1 and x.shape[1] == 3:
            x = luma(x)
        if len(x) < _LEAST_IMAGES:
            raise DataError(
                f"scale-spaces are measured on at least {_LEAST_IMAGES} images, not {len(x)}",
                hint="use more images",
            )
        reverse = None
        if pipeline is not None:
            reverse = ReverseAnalysis(_model_names(pipeline.name)[0], pipeline, x, options, points, seed)
        features = None if network is None else FeatureDistance(network, x, seed)
        work = _Work(x, _data_moments(x, method), features, points, seed, progress)
        work.measure(noisy, filters)
        about = None
        if pipeline is not None and reverse is not None:
            told = Counter(progress, "sampling", reverse.work)
            about = work.add_reverse(pipeline, reverse, told)
    warnings = []
    if method == "full" and len(x) <= values:
        warnings.append(
            f"the covariance of {len(x)} images has a rank below {values}: information is too small, use "
            "more images or the covariance frequency"
        )
    films = work.films
    return ScaleSpace(
        curves=tuple(work.curves),
        checks=tuple(work.checks),
        strips={name: film.strip() for name, film in films.items()},
        films=films,
        data=chosen.source,
        images=len(x),
        size=side,
        channels=planes,
        covariance=method,
        points=points,
        seed=seed,
        seconds=time.perf_counter() - began,
        reverse=about,
        features=None if features is None else features.label,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _Named:
    """A process, with the preset that it was built from where there is one."""

    process: Process
    preset: Preset | None


@dataclass
class _Work:
    """What is measured, and on what."""

    images: Tensor
    moments: GaussianData | None
    features: FeatureDistance | None
    points: int
    seed: int
    progress: Progress | None
    curves: list[Point] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    films: dict[str, Film] = field(default_factory=dict)

    def measure(self, processes: Mapping[str, _Named], filters: Sequence[str]) -> None:
        """Measure processes and filters one after the other."""
        walks = {name: timesteps(given.process, self.points) for name, given in processes.items()}
        told = Counter(self.progress, "measuring", sum(map(len, walks.values())) + len(filters) * self.points)
        for name, given in processes.items():
            self._process(name, given, walks[name], told)
        for name in filters:
            self._filter(name, told)

    def add_reverse(
        self, pipeline: Pipeline, reverse: ReverseAnalysis, told: Callable[[int], None]
    ) -> dict[str, Any]:
        """Measure the reverse process of a model; return how."""
        found = reverse.measure(told, self.features)
        self.curves += found.points
        self.checks += found.checks
        film, T = Film(), pipeline.process.T
        for t in nearest_timesteps(sorted(found.states), T):
            film.add(found.states[t], found.means[t])
        self.films[_model_names(pipeline.name)[1]] = film
        return {"model": pipeline.origin or pipeline.name, "step": pipeline.step, **found.about}

    @property
    def _some(self) -> Tensor:
        """Images that properties are checked on, evenly."""
        return self.images[:: max(1, len(self.images) // _CHECKED)][:_CHECKED]

    def _process(self, name: str, given: _Named, walk: Sequence[int], told: Callable[[], None]) -> None:
        process, before = given.process, len(self.curves)
        curves: NoisyCurves | ColdCurves
        if process.noisy:
            curves = NoisyCurves(name, process, self.moments, self.images)
        else:
            curves = ColdCurves(name, process, self.images)
        for t in walk:
            self.curves += curves.at(t)
            if self.features is not None:
                states = self.features.states(process, t)
                self.curves.append(self.features.point(name, t, t / process.T, states))
            told()
        if process.noisy:
            expected = theory.expected_of_noise(process, given.preset)
            self.checks += check_process(name, process, self._some, self.curves[before:], expected)
        else:
            expected = theory.expected_of_cold(given.preset, self.images.shape[1])
            self.checks += check_cold(name, process, self._some, expected)
        film, key, numbers = Film(), rng.derive(self.seed, "scale-space/noise"), self._shown
        for t in film_timesteps(process.T):
            film.add(draw_state(process, self.images[numbers], t, numbers, key), curves.mean_image(t))
        self.films[name] = film

    @property
    def _shown(self) -> Tensor:
        """Numbers of the images in films, evenly."""
        count = len(self.images)
        return torch.arange(min(ROWS, count)) * max(1, count // ROWS)

    def _filter(self, name: str, told: Callable[[], None]) -> None:
        """Run an image filter on all images; its points, checks and film are added."""
        start = (self.images.double() + 1) / 2
        count, channels, side = start.shape[:3]
        guidance = noise_guidance(count, channels, side, self.seed)
        flows = [_flow(name, part) for part in parts(guidance)]
        begin = parts(start)
        steady = torch.cat([flow.steady(part) for flow, part in zip(flows, begin, strict=True)])
        measured = FlowCurves(name, start, steady, self.moments)
        at, some = diffusion_times(side, self.points), min(_CHECKED, len(begin[0]))
        states, means = list[Tensor](), list[Tensor]()
        walks = [evolve(flow, part, at) for flow, part in zip(flows, begin, strict=True)]
        for place, u in enumerate(zip(*walks, strict=True)):
            states.append(u[0][:some])
            time_share = place / (self.points - 1)
            whole = torch.cat(u)
            means.append((2 * whole.mean(0) - 1).float())
            self.curves += measured.at(whole, at[place], time_share)
            if self.features is not None:
                grey = ((2 * part - 1).float() for part in u)
                self.curves.append(self.features.point(name, at[place], time_share, grey))
            told()
        self.checks += check_flow(name, flows[0].first(some), at, states, exact=name == "heat")
        self.films[name] = self._filmed(name, start, guidance, means)

    def _filmed(self, name: str, start: Tensor, guidance: Tensor, means: Sequence[Tensor]) -> Film:
        """The film of a filter; means of all images are those at the nearest times of the curves."""
        numbers, side = self._shown, start.shape[-1]
        few, wanted = start[numbers], guidance[numbers].clone()
        if (
            name == "osmosis" and len(few) > 1
        ):  # every other image goes towards its neighbour instead of noise
            wanted[1::2] = few.roll(-1, 0)[1::2].clamp_min(_DARKEST)
        film = Film()
        frames = evolve(_flow(name, wanted), few, diffusion_times(side, len(shares())))
        for share, frame in zip(shares(), frames, strict=True):
            film.add(2 * frame - 1, means[round(share * (len(means) - 1))])
        return film


def _check_options(
    options: ReverseOptions,
    model: Model | None,
    extractor: str | None,
    weights_file: str | os.PathLike[str] | None,
    device: str,
) -> None:
    """Refuse what would have no effect."""
    if model is None:
        for name in ("n", "steps", "sampler", "eta", "batch"):
            if getattr(options, name) is not None:
                raise UsageError(
                    f"{name} is for the reverse process of a model", hint="give one (--ckpt), or leave it out"
                )
    if extractor is None and weights_file is not None:
        raise UsageError(
            "weights_file is for the extractor inception", hint="give --extractor inception, or leave it out"
        )
    if model is None and extractor is None and device != "auto":
        raise UsageError(
            "device is for a model or an extractor, closed forms are computed on the CPU",
            hint="leave it out (--device)",
        )


def _check_numbers(
    size: int | None,
    channels: int | None,
    images: int | None,
    points: int,
    covariance: str,
    n: int | None,
    batch: int | None,
) -> None:
    """Refuse numbers that make no sense."""
    for name, value, least, most in (
        ("size", size, _LEAST_SIZE, _MOST_SIZE),
        ("images", images, _LEAST_IMAGES, 10**6),
        ("points", points, 2, 1000),
    ):
        if value is None:
            continue
        require_whole(name, value)
        if not least <= value <= most:
            raise UsageError(f"{name} must be within {least}..{most}, not {value}")
    if channels is not None:
        require_whole("channels", channels)
        if channels not in (1, 3):
            raise UsageError(f"channels must be 1 or 3, not {channels}")
    require_type("covariance", covariance, str, f"choose from {', '.join(COVARIANCES)}")
    if covariance not in COVARIANCES:
        raise UsageError(f"unknown covariance {covariance!r}", hint=did_you_mean(covariance, COVARIANCES))
    for name, value in (("n", n), ("batch", batch)):
        if value is not None:
            require_whole(name, value, 1)


def _pipeline(model: Model | None, device: str) -> Pipeline | None:
    if model is None or isinstance(model, Pipeline):
        return model
    path = model.path if isinstance(model, Found) else as_path("the model", model)
    return load(path, device=str(pick_device(device)))


def _format(
    data: str | Path | Tensor | None, pipeline: Pipeline | None, size: int | None, channels: int | None
) -> tuple[int, int]:
    """Pixels a side and channels of all processes; a model has its own."""
    if pipeline is None:
        tensor = isinstance(data, Tensor) and data.ndim == 4
        side = (
            (int(data.shape[-1]) if isinstance(data, Tensor) and tensor else _SIZE) if size is None else size
        )
        _check_numbers(side, None, None, 2, "auto", None, None)
        return side, channels or 1
    height, width = pipeline.process.states[0].size
    if height != width or pipeline.channels not in (1, 3):
        raise UsageError(
            f"{pipeline.name} is for images of {height} x {width} px and {pipeline.channels} channels; "
            "scale-spaces are measured on square ones of 1 or 3"
        )
    for name, given, own in (("size", size, height), ("channels", channels, pipeline.channels)):
        if given not in (None, own):
            raise UsageError(
                f"{pipeline.name} has {name} {own}, not {given}", hint=f"leave out {name} (--{name})"
            )
    return height, pipeline.channels


def _listed(
    data: str | Path | Tensor | None, names: str | os.PathLike[str] | None, part: int | None
) -> DataSettings:
    """Which files of the data count."""
    if names is None:
        if part is not None:
            raise UsageError("a part is chosen by a list of images", hint="give it, too: --data-list FILE")
        return DataSettings()
    if not isinstance(data, str | Path):
        raise UsageError(
            "a list of images is for data that are a folder or a zip file",
            hint="give one (--data PATH), or leave the list out",
        )
    return DataSettings(list=str(as_path("names", names)), part=part)


def _choose(
    data: str | Path | Tensor | None,
    listed: DataSettings,
    pipeline: Pipeline | None,
    count: int,
    side: int,
    planes: int,
    progress: Progress | None,
) -> InputImages:
    """Images of the data, or of what the model was trained on."""
    if isinstance(data, Tensor) and data.ndim == 4 and planes == 3 and data.shape[1] == 1:
        raise UsageError("data are grey, but 3 channels are measured", hint="give images in colour")
    if data is not None or pipeline is None:
        read = 3 if pipeline is None else planes
        source = _DATA if data is None else data
        return choose_images(source, count, side, read, settings=listed, progress=progress)
    try:
        own = training_data(pipeline)
    except UsageError:
        raise UsageError(
            f"{pipeline.name} does not say what it was trained on", hint="give data (--data PATH or NAME)"
        ) from None
    return choose_images(
        own.source,
        count,
        side,
        planes,
        settings=own.settings,
        progress=progress,
    )


def _data_moments(images: Tensor, method: str) -> GaussianData | None:
    """Moments for full covariances, None for those frequency by frequency."""
    if method == "full":
        return gaussian_data(images)
    moments = BlockMoments()
    for part in parts(images):
        moments.add(part)
    check_variance(moments.total)
    return None


def _model_names(name: str) -> list[str]:
    """Names of the forward and the reverse process of a model."""
    return [f"{name} model", f"{name} model, reverse"]


def _preset_name(model: Model) -> str:
    if isinstance(model, Pipeline):
        return model.name
    path = model.path if isinstance(model, Found) else as_path("the model", model)
    return find_preset(path).name


def _named(
    presets: Iterable[Given] | Mapping[str, Given] | Given | None, beside_a_model: bool
) -> list[tuple[str | None, Given]]:
    """What is asked for, each with the name it is given."""
    if presets is None:
        return [] if beside_a_model else [(None, name) for name in DEFAULT_PROCESSES]
    if isinstance(presets, Mapping):
        found: list[tuple[str | None, Given]] = list(presets.items())
    elif isinstance(presets, str | Path | Preset) or not isinstance(presets, Iterable):
        found = [(None, presets)]
    else:
        found = [(None, given) for given in presets]
    if not found and not beside_a_model:
        raise UsageError("there is no process to measure", hint=f"name one, e.g. {DEFAULT_PROCESSES[0]}")
    seen = set[str | Path]()
    unique = []
    for name, given in found:
        if isinstance(given, str | Path) and name is None:
            if given in seen:
                continue
            seen.add(given)
        unique.append((name, given))
    return unique


def _processes(
    presets: Sequence[tuple[str | None, Given]], size: int, channels: int
) -> tuple[dict[str, _Named], list[str]]:
    """Name and process of each, for images of a size and channels; and the image filters among them."""
    processes: dict[str, _Named] = {}
    filters = set[str]()
    for name, given in presets:
        if isinstance(given, str) and given in FILTERS:
            filters.add(given)
            continue
        label, built = _process(name, given, size, channels)
        if built.process.states[0].size != (size, size):
            height, width = built.process.states[0].size
            raise UsageError(
                f"{label} is a process for images of {height} x {width} px, but {size} px are measured",
                hint="build it for that size, or measure at its own",
            )
        if label in (*processes, *FILTERS):
            raise UsageError(f"two processes are called {label}", hint="give one of them another name")
        processes[label] = built
    return processes, [name for name in FILTERS if name in filters]


def _process(name: str | None, given: Given, size: int, channels: int) -> tuple[str, _Named]:
    """A process with its name, or with the one it has by itself."""
    if given == VARIANCE_EXPLODING:
        return name or VARIANCE_EXPLODING, _Named(variance_exploding(size), None)
    if isinstance(given, str | Path | Preset):
        planes = {"data.channels": channels}
        preset = override(given, planes) if isinstance(given, Preset) else load_preset(given, planes)
        return name or preset.name, _Named(build_process(preset, (size, size)), preset)
    if not hasattr(given, "degrade"):
        raise UsageError(
            f"a process to measure cannot be {type(given).__name__}",
            hint="give a preset by name, file or object, a process, ve, heat or osmosis",
        )
    return name or type(given).__name__, _Named(given, None)


def _label(name: str | None, given: Given) -> str:
    """The name of a process, before it is built."""
    if name is not None or given == VARIANCE_EXPLODING:
        return name or VARIANCE_EXPLODING
    if isinstance(given, Preset):
        return given.name
    return load_preset(given).name if isinstance(given, str | Path) else type(given).__name__


def _flow(name: str, guidance: Tensor) -> Flow:
    """Heat, or osmosis towards guidance images."""
    if name == "osmosis":
        return Osmosis(guidance)
    return HomogeneousDiffusion((guidance.shape[-2], guidance.shape[-1]))


def _files(names: Iterable[str]) -> list[str]:
    """Names of all files for processes of these names."""
    fixed = ["curves.csv", "properties.csv", "scale-space.png", "film.png", "mean-images.png", RECORD]
    return [*fixed, "report.html", *(f"{stem}.png" for stem in file_stems(names))]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(rows)
    return text.getvalue().encode()
