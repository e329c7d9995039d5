"""Write one HTML file about a run: settings, loss, samples, trajectory, cost, distances."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdiff import checkpoints, images, runs
from ssdiff.arguments import as_path, require_whole
from ssdiff.config import Preset
from ssdiff.devices import pick_device
from ssdiff.errors import CheckpointError
from ssdiff.evaluation.cost import cost
from ssdiff.files import check_output, write_atomic
from ssdiff.generation import Generation
from ssdiff.operators.base import Size
from ssdiff.pipeline import Pipeline
from ssdiff.progress import Counter, Progress
from ssdiff.reporting import scale_space, sections
from ssdiff.reporting.html import Block, Section, Strip, Text, magnified, page
from ssdiff.sampling.plan import Plan
from ssdiff.schedules.respacing import Steps
from ssdiff.weights.load import load
from ssdiff.weights.single_file import newest_checkpoint

_SECONDS = 20.0  # of measuring
_FILMED = 3  # images of the trajectory
_FRAMES = 7  # states of the trajectory; those at which a resolution begins come besides
_WIDE = 96  # CSS pixels of an image, about
_MOST_COLUMNS = 16  # of a grid with a class a column


@dataclass(frozen=True, slots=True)
class RunReport:
    """A report that was written.

    Attributes:
        path: of the file.
        bytes: its size.
        run: the run folder.
        step: of the checkpoint that was used.
        samples: images drawn for it; 0 of a model that cannot sample unconditionally.
        damaged_lines: of the run's log, left out.
        results: of evaluations that it shows.
        unread: files in the run's folder eval that hold no result.
        seconds: that it took.
    """

    path: Path
    bytes: int
    run: Path
    step: int | None
    samples: int
    damaged_lines: int
    results: int
    unread: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as `ssdiff eval report --json` prints them."""
        return {
            "out": str(self.path),
            "bytes": self.bytes,
            "run": str(self.run),
            "step": self.step,
            "samples": self.samples,
            "damaged_lines": self.damaged_lines,
            "results": self.results,
            "unread": list(self.unread),
            "seconds": round(self.seconds, 3),
        }


def report(
    run: str | Path | None,
    out: str | Path,
    *,
    samples: int = 16,
    steps: Steps | None = None,
    timing: bool = False,
    weights: str = "ema",
    precision: str = "auto",
    seed: int = 0,
    other: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write one HTML file about a run that needs nothing else: no network, no script, no other file.

    Distances are those that evaluations have left as ``RUN/eval/*.json``, scale-spaces those in
    ``RUN/eval/*/``.

    Args:
        run: run folder; None takes the newest run.
        out: the file, ending in .html.
        samples: images to draw; 0 shows the last grid of the training instead.
        steps: of sampling; None leaves them to the preset.
        timing: whether to measure times for the table of costs, about 20 s.
        weights: ``ema`` (averaged) or ``raw``.
        precision: ``auto``, ``fp32`` or ``bf16`` for the network.
        seed: of the samples.
        other: second set of a model of animorphosis, if it is no longer where the run was trained with it.
        device: see :func:`ssdiff.devices.pick_device`.
        overwrite: whether the file may be replaced.
        progress: is told of the stages measuring and sampling.

    Returns:
        The path of the file.

    Raises:
        CheckpointError: the run is none, or has no checkpoint that can be used.
        UsageError: an argument is out of range, or the file's ending is not .html.
        OutputError: the file is there already.
        ResourceError: the device is not there, memory ran out, or the file cannot be written.
    """
    return write_report(
        run,
        out,
        samples=samples,
        steps=steps,
        timing=timing,
        weights=weights,
        precision=precision,
        seed=seed,
        other=other,
        device=device,
        overwrite=overwrite,
        progress=progress,
    ).path


def write_report(
    run: str | Path | None,
    out: str | Path,
    *,
    samples: int = 16,
    steps: Steps | None = None,
    timing: bool = False,
    weights: str = "ema",
    precision: str = "auto",
    seed: int = 0,
    other: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunReport:
    """Do what :func:`report` does, and return what the file holds."""
    began = time.perf_counter()
    require_whole("samples", samples, 0)
    path = check_output(out, overwrite, (".html", ".htm"))
    folder = find_run(run)
    checkpoint, place = newest_checkpoint(folder.path), str(pick_device(device))
    pipeline = load(checkpoint, weights=weights, device=place, precision=precision, other=other)
    preset, plan = pipeline.required_preset(), pipeline.plan(steps)
    spent = cost(
        pipeline,
        steps=steps,
        measure=timing,
        seconds=_SECONDS,
        device=place,
        precision=precision,
        progress=progress,
    )
    records, damaged = sections.read_records(folder)
    results, unread = sections.read_results(folder.path / "eval")
    meta = checkpoints.load(checkpoint, []).meta
    drawn = samples if preset.generates else 0
    parts = [
        sections.about(folder, pipeline, meta, records, weights),
        *(_drawn(pipeline, plan, drawn, seed, weights, progress) if drawn else [_last_grid(folder, preset)]),
        sections.curves(records, damaged),
        sections.costs(spent),
        sections.distances(results, unread),
        *_scale_spaces(folder.path / "eval"),
        sections.settings(preset),
    ]
    content = page(f"{folder.path.resolve().name}: {preset.name}", preset.about, parts)
    write_atomic(path, content, overwrite)
    seconds = time.perf_counter() - began
    return RunReport(
        path,
        len(content),
        folder.path,
        pipeline.step,
        drawn,
        damaged,
        len(results),
        tuple(unread),
        seconds,
    )


def find_run(run: str | Path | None = None) -> runs.RunFolder:
    """Find a run folder, the newest if none is named.

    Raises:
        CheckpointError: there is none, or what is named is none.
    """
    path = runs.newest_run() if run is None else as_path("run", run)
    if path is None:
        raise CheckpointError("there is no run yet", hint="train one with `ssdiff train`, or name a folder")
    if not runs.is_run(path):
        what = "is no run folder: it has no preset.toml" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}", path=path, hint="name a folder that `ssdiff train` wrote")
    return runs.RunFolder(path)


def _scale_spaces(folder: Path) -> list[Section]:
    """What `ssdiff eval scale-space --out RUN/eval/NAME/` has left."""
    return [
        section
        for found in scale_space.find_scale_spaces(folder)
        for section in scale_space.sections(found, f"Scale-space {found.name}")
    ]


def _last_grid(folder: runs.RunFolder, preset: Preset) -> Section:
    """What the training drew last, for a report without samples."""
    blocks: list[Block] = []
    if not preset.generates:
        blocks.append(
            Text(
                "The model is a restoration model and cannot sample unconditionally, so there are no samples "
                "and no trajectory here. "
                "`ssdiff restore IMAGES --degrade --compare` shows restorations of images of your choice."
            )
        )
    return Section("Pictures", [*blocks, *sections.last_grid(folder, preset)])


def _drawn(
    pipeline: Pipeline, plan: Plan, n: int, seed: int, weights: str, progress: Progress | None
) -> list[Section]:
    """Draw images once, and keep the states that the film shows."""
    states, preset = pipeline.process.states, pipeline.required_preset()
    work = Generation(pipeline, plan, n, 0, seed, preset.sampling.batch, None)
    walked = plan.timesteps if plan.sampler != "direct" else [plan.timesteps[0], 0]
    shown = _spread(walked, [state.size for state in states])
    film = list(work.states(range(n), Counter(progress, "sampling", n, steps=plan.evaluations), shown))
    drawn, zoom = film[-1][1], max(1, round(_WIDE / states[0].resolution))
    classes = preset.model.classes
    columns = classes if 1 < classes <= min(_MOST_COLUMNS, n) else None
    how = (
        f"{plan.evaluations} steps of {plan.sampler}, eta {plan.eta:g}, guidance {plan.guidance:g}"
        f"{plan.guidance_place}, seed {seed}, {weights} weights."
    )
    frames = [
        magnified(
            images.grid(x[:_FILMED], 1),
            zoom,
            f"{min(_FILMED, n)} images at timestep {t}, {x.shape[-1]} pixels a side",
            f"t = {t}, {x.shape[-1]} px",
        )
        for t, x in film
    ]
    title = f"{n} samples of {preset.name}"
    grid = magnified(images.grid(drawn, columns), zoom, title, f"{n} samples: {how}")
    walk = f"The first {len(drawn[:_FILMED])} samples on their way, each state as large as it is; one scale."
    return [Section("Samples", [grid]), Section("Trajectory", [Text(walk), Strip(frames)])]


def _spread(timesteps: Sequence[int], sizes: Sequence[Size]) -> set[int]:
    """Timesteps for a film: evenly from the chain, both ends, and each at which a resolution begins."""
    last = len(timesteps) - 1
    even = {timesteps[round(i * last / (_FRAMES - 1))] for i in range(_FRAMES)}
    return even | {s for t, s in itertools.pairwise(timesteps) if sizes[s] != sizes[t]}
