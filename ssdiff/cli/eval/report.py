"""`ssdiff eval report`."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdiff.cli.common import (
    Device,
    Json,
    Overwrite,
    Precision,
    Quiet,
    Seed,
    Terminal,
    Weights,
)
from ssdiff.cli.eval.options import Steps
from ssdiff.display import human_bytes
from ssdiff.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from ssdiff.evaluation.cost import Cost
    from ssdiff.pipeline import Pipeline
    from ssdiff.reporting.html import Block, Section
    from ssdiff.runs import RunFolder
    from ssdiff.sampling.plan import Plan

_Run = Annotated[Path | None, typer.Argument(metavar="RUN", help="Run folder. Default: the newest run.")]
_Out = Annotated[Path, typer.Option(metavar="x.html", help="The report.")]
_Samples = Annotated[int, typer.Option(help="Images to draw; 0 shows the last grid of the training instead.")]
_Timing = Annotated[bool, typer.Option("--timing", help="Measure times for the table of costs, about 20 s.")]

_SECONDS = 20.0  # of measuring
_FILMED = 3  # images of the trajectory
_FRAMES = 7  # states of the trajectory; those at which a resolution begins come besides
_WIDE = 96  # CSS pixels of an image, about
_MOST_COLUMNS = 16  # of a grid with a class a column


@dataclass(frozen=True, slots=True)
class _Drawing:
    """How images are drawn."""

    n: int
    steps: int | None
    weights: str
    seed: int


def report(
    run: _Run = None,
    out: _Out = Path("report.html"),
    samples: _Samples = 16,
    steps: Steps = None,
    timing: _Timing = False,
    weights: Weights = "ema",
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One HTML file about a run: settings, loss, samples, trajectory, cost, distances. Needs no network.

    Distances are those that `ssdiff eval ... --out RUN/eval/NAME.json` has left in the run folder.
    """
    from ssdiff.cli.sample import load_pipeline
    from ssdiff.devices import pick_device
    from ssdiff.evaluation.cost import cost
    from ssdiff.files import check_output, write_atomic
    from ssdiff.reporting.html import page
    from ssdiff.weights.single_file import newest_checkpoint

    terminal, began = Terminal(quiet, json), time.perf_counter()
    if samples < 0:
        raise UsageError(f"--samples must be at least 0, not {samples}")
    check_output(out, overwrite, (".html", ".htm"))
    folder = _folder(run, terminal)
    checkpoint, place = newest_checkpoint(folder.path), pick_device(device)
    pipeline = load_pipeline(checkpoint, weights, str(place), precision, terminal)
    drawing = _Drawing(samples, steps, weights, seed)
    with terminal.progress_callback("path") as progress:
        spent = cost(
            pipeline,
            steps=steps,
            measure=timing,
            seconds=_SECONDS,
            device=str(place),
            precision=precision,
            progress=progress,
        )
    sections, counts = _sections(folder, checkpoint, pipeline, drawing, spent, terminal)
    preset = pipeline.required_preset()
    content = page(f"{folder.path.resolve().name}: {preset.name}", preset.summary, sections)
    write_atomic(out, content, overwrite)
    values = {
        "out": str(out),
        "bytes": len(content),
        "run": str(folder.path),
        "step": pipeline.step,
        "samples": samples if preset.generates else 0,
        **counts,
        "seconds": round(time.perf_counter() - began, 3),
    }
    terminal.result(f"{out}: {human_bytes(len(content))}, step {pipeline.step} of {folder.path}", values)


def _sections(
    folder: RunFolder,
    checkpoint: Path,
    pipeline: Pipeline,
    drawing: _Drawing,
    spent: Cost,
    terminal: Terminal,
) -> tuple[list[Section], dict[str, Any]]:
    """The report's parts, and how much of the run's files could be used."""
    from ssdiff import checkpoints
    from ssdiff.cli.eval import reporting

    plan = pipeline.plan(drawing.steps)
    meta = checkpoints.load(checkpoint, []).meta
    records, damaged = reporting.read_records(folder)
    results, unread = reporting.read_results(folder.path / "eval")
    sections = [
        reporting.about(folder, pipeline, meta, records, drawing.weights),
        *_pictures(pipeline, plan, drawing, folder, terminal),
        reporting.curves(records, damaged),
        reporting.costs(spent),
        reporting.distances(results, unread),
        reporting.settings(pipeline.required_preset()),
    ]
    return sections, {"damaged_lines": damaged, "results": len(results), "unread": unread}


def _folder(run: Path | None, terminal: Terminal) -> RunFolder:
    """The run asked for, or the newest one.

    Raises:
        CheckpointError: it is none.
    """
    from ssdiff import runs
    from ssdiff.weights.load import find_model

    found = find_model(run)
    path = found.path
    if found.chosen == "bundled":
        raise CheckpointError("there is no run yet", hint="train one with `ssdiff train`, or name a folder")
    if not runs.is_run(path):
        what = "is no run folder: it has no preset.toml" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {what}", path=path, hint="name a folder that `ssdiff train` wrote")
    if found.chosen == "newest":
        terminal.say(f"using the newest run, {path}")
    return runs.RunFolder(path)


def _pictures(
    pipeline: Pipeline, plan: Plan, drawing: _Drawing, folder: RunFolder, terminal: Terminal
) -> list[Section]:
    """Samples and trajectory; of a model that cannot invent images, what its training drew last."""
    from ssdiff.cli.eval import reporting
    from ssdiff.reporting.html import Section, Text

    if pipeline.generates and drawing.n:
        return _drawn(pipeline, plan, drawing, terminal)
    blocks: list[Block] = []
    if not pipeline.generates:
        blocks.append(
            Text(
                "The model is a restoration model and cannot sample unconditionally, so there are no samples "
                "and no trajectory here. "
                "`ssdiff restore IMAGES --degrade --compare` shows restorations of images of your choice."
            )
        )
    return [Section("Pictures", [*blocks, *reporting.last_grid(folder, pipeline.required_preset())])]


def _drawn(pipeline: Pipeline, plan: Plan, drawing: _Drawing, terminal: Terminal) -> list[Section]:
    """Draw images once, and keep the states that the film shows."""
    from ssdiff import images
    from ssdiff.generation import Generation
    from ssdiff.reporting.html import Section, Strip, Text, pixels

    states, preset = pipeline.process.states, pipeline.required_preset()
    job = Generation(pipeline, plan, drawing.n, 0, drawing.seed, preset.sampling.batch, None)
    walked = plan.timesteps if plan.sampler != "direct" else [plan.timesteps[0], 0]
    shown = _shown(walked, [state.resolution for state in states])
    with terminal.progress("step") as bar:
        batches = -(-drawing.n // preset.sampling.batch)
        task = bar.add_task("sampling", total=plan.evaluations * batches, rate="-", note="")
        film = list(job.states(range(drawing.n), lambda _: bar.advance(task), shown))
    drawn, zoom = film[-1][1], max(1, round(_WIDE / states[0].resolution))
    classes = preset.model.classes
    columns = classes if 1 < classes <= min(_MOST_COLUMNS, drawing.n) else None
    how = (
        f"{plan.evaluations} steps of {plan.sampler}, eta {plan.eta:g}, guidance {plan.guidance:g}, seed "
        f"{drawing.seed}, {drawing.weights} weights."
    )
    frames = [
        pixels(
            images.grid(x[:_FILMED], 1),
            zoom,
            f"{min(_FILMED, drawing.n)} images at timestep {t}, {x.shape[-1]} pixels a side",
            f"t = {t}, {x.shape[-1]} px",
        )
        for t, x in film
    ]
    grid = pixels(
        images.grid(drawn, columns),
        zoom,
        f"{drawing.n} samples of {preset.name}",
        f"{drawing.n} samples: {how}",
    )
    walk = f"The first {len(drawn[:_FILMED])} samples on their way, each state as large as it is; one scale."
    return [Section("Samples", [grid]), Section("Trajectory", [Text(walk), Strip(frames)])]


def _shown(timesteps: list[int], sides: list[int]) -> set[int]:
    """TimestepSampler for a film: evenly from the chain, both ends, and each at which a resolution begins."""
    last = len(timesteps) - 1
    even = {timesteps[round(i * last / (_FRAMES - 1))] for i in range(_FRAMES)}
    return even | {s for t, s in itertools.pairwise(timesteps) if sides[s] != sides[t]}
