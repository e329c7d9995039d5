"""Sections of a run's report, read from its folder: state, loss, cost, distances, settings."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from ssdiff import __version__
from ssdiff.config import Preset
from ssdiff.config.load import load_preset, presets
from ssdiff.display import human_seconds
from ssdiff.errors import DataError
from ssdiff.evaluation.cost import Cost
from ssdiff.files import MOST, read_input
from ssdiff.images import read_image
from ssdiff.pipeline import Pipeline
from ssdiff.reporting.html import Block, Section, Strip, Table, Text, magnified, plot
from ssdiff.reporting.plots import Curve, Panel
from ssdiff.runs import RunFolder

Record = dict[str, Any]

_DEEP = 3  # levels of a result's JSON that are looked through
_SIDE = re.compile(r"[0-9]{1,5}")
_GRID = re.compile(r"step-(\d+)\.png")


def read_records(folder: RunFolder) -> tuple[list[Record], int]:
    """Read the metrics log, and count its lines of no use: damaged, or without a step.

    Args:
        folder: of the run.
    """
    text = folder.metrics.read_bytes() if folder.metrics.is_file() else b""
    lines = sum(1 for line in text.splitlines() if line.strip())
    records = [record for record in folder.read_metrics() if _number(record.get("step")) is not None]
    return records, lines - len(records)


def read_results(folder: Path) -> tuple[list[Record], list[str]]:
    """Read results of evaluations, objects with ``name`` and ``value``, and the names of files without any.

    Args:
        folder: with ``*.json`` files; may be absent.
    """
    results: list[Record] = []
    unread: list[str] = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            found = list(_results(json.loads(read_input(path, MOST)), _DEEP))
        except (OSError, ValueError, RecursionError):
            found = []
        results += [{"file": path.name, **result} for result in found]
        if not found:
            unread.append(path.name)
    return results, unread


def about(
    folder: RunFolder, pipeline: Pipeline, meta: Mapping[str, object], records: Sequence[Record], weights: str
) -> Section:
    """Say the state and the origin of a run."""
    preset, status = pipeline.required_preset(), folder.read_status() or {}
    steps = preset.training.steps
    count = sum(weight.numel() for weight in pipeline.model.parameters())
    spent = [number for record in records if (number := _number(record.get("seconds"))) is not None]
    rates = [number for record in records if (number := _number(record.get("images_per_second"))) is not None]
    seen = _number(records[-1].get("images")) if records else None
    reason = f": {status['reason']}" if status.get("reason") else ""
    rows = [
        ("State", f"{status.get('state', 'unknown')}{reason}"),
        ("Step", f"{pipeline.step} of {steps}, {weights} weights"),
        ("Parameters", f"{count / 1e6:.2f} M"),
        ("Training data", Path(str(meta.get("source") or "unknown")).name),
        ("Data fingerprint", str(meta.get("data") or "unknown")),
        ("Images seen", "unknown" if seen is None else f"{seen:,.0f}"),
        ("Time recorded", human_seconds(sum(spent)) if spent else "unknown"),
        ("Training speed", f"{median(rates):.3g} images/s, median" if rates else "unknown"),
        ("Processes", str(meta.get("world") or "unknown")),
        ("PyTorch", str(meta.get("torch") or "unknown")),
        ("Last change", str(status.get("time", "unknown"))),
        ("Report", f"ssdiff {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
    ]
    if pipeline.class_names:
        rows.insert(3, ("Classes", ", ".join(pipeline.class_names)))
    return Section("Run", [Table("State and origin", ("", "Value"), rows)])


def curves(records: Sequence[Record], damaged: int) -> Section:
    """Plot the loss in all and by resolution, the norm of the gradient and the speed along the training."""
    blocks: list[Block] = []
    if damaged:
        blocks.append(Text(f"{damaged} damaged lines of metrics.jsonl were skipped."))
    series = _series(records)
    if not records or not series:
        return Section("Loss", [*blocks, Text("The run has recorded no loss yet.")])
    steps = [float(record["step"]) for record in records]
    known = {name: [y for y in values if not math.isnan(y)] for name, values in series.items()}
    blocks += [
        Strip(
            [
                plot(panel, f"{panel.title} over {len(records)} records up to step {steps[-1]:.0f}")
                for panel in _panels(steps, series, records)
            ]
        ),
        Text("Means between records. The loss is weighted as in training; total: mean over the batches."),
        Table(
            "Loss",
            ("", "First", "Lowest", "Last"),
            [(name, f"{ys[0]:.4g}", f"{min(ys):.4g}", f"{ys[-1]:.4g}") for name, ys in known.items() if ys],
            (1, 2, 3),
        ),
    ]
    return Section("Loss", blocks)


def costs(found: Cost) -> Section:
    """Say what `ssdiff eval cost` says."""
    headings, rows = found.table()
    lines = [Text(line) for line in [*found.summary(), found.machine()] if line]
    table = Table("One image through the network", headings, rows, range(1, len(headings)))
    return Section("Cost", [table, *lines])


def distances(results: Sequence[Record], unread: Sequence[str]) -> Section:
    """List results of evaluations, each with what it was measured on."""
    blocks: list[Block] = []
    if results:
        rows = [(_show(r["name"]), _show(r["value"]), _show(r["file"])) for r in results]
        blocks.append(Table("Results of evaluations", ("", "Value", "File"), rows, (1,)))
    else:
        blocks.append(
            Text(
                "None yet. Results that `ssdiff eval` writes into the folder eval of the run with --out "
                "appear here."
            )
        )
    for result in results:
        more = {key: value for key, value in result.items() if key not in ("name", "value")}
        title = f"How {_show(result['name'])} of {result['file']} was measured"
        blocks.append(Table(title, ("", "Value"), list(_flat(more)), folded=True))
    if unread:
        blocks.append(Text(f"Without a result that could be read: {', '.join(unread)}."))
    return Section("Distances and image quality", blocks)


def settings(preset: Preset) -> Section:
    """List every setting, what it means, and where it differs from the preset of that name."""
    own = tomllib.loads(preset.to_toml())
    shipped = tomllib.loads(load_preset(preset.name).to_toml()) if preset.name in presets() else None
    rows = []
    for section, fields in own.items():
        if not isinstance(fields, dict):
            continue
        meaning = getattr(preset, section).__class__.model_fields
        for key, value in fields.items():
            before = shipped[section].get(key, "") if shipped else value
            differs = "" if before == value else f"{_show(before) or 'not set'}"
            rows.append((f"{section}.{key}", _show(value), differs, meaning[key].description or ""))
    changed = sum(bool(row[2]) for row in rows)
    told = (
        f"{changed} settings differ from the preset {preset.name} that ships with ssdiff."
        if shipped
        else f"{preset.name} is no preset that ships with ssdiff."
    )
    table = Table("Resolved settings", ("Setting", "Value", "Shipped preset", "Meaning"), rows)
    return Section("Settings", [Text(told), table])


def last_grid(folder: RunFolder, preset: Preset) -> list[Block]:
    """Show the newest grid that the training drew, or say why there is none."""
    found = [(int(m[1]), path) for path in folder.samples.glob("*.png") if (m := _GRID.fullmatch(path.name))]
    if not found:
        return [Text("The training has drawn no grid yet.")]
    step, path = max(found)
    try:
        image = read_image(path)
    except DataError as error:
        return [Text(f"The grid of step {step} cannot be read: {error}")]
    zoom = 2 if image.shape[-1] < 500 else 1
    rows = "." if preset.generates else ", in rows clean, degraded, restored."
    caption = f"Drawn while training, at step {step}{rows}"
    return [magnified(image, zoom, f"Grid of the training at step {step}", caption)]


def _series(records: Sequence[Record]) -> dict[str, list[float]]:
    """Losses by name, as many as records; NaN where one has none, or none that a log scale can show."""
    result: dict[str, list[float]] = {}
    for place, record in enumerate(records):
        by_side = record.get("loss_by_resolution")
        pairs = by_side.items() if isinstance(by_side, dict) else ()
        by_name = {f"{side} px": loss for side, loss in pairs if _SIDE.fullmatch(side)}
        named = {"total": record.get("loss"), **by_name}
        for name, value in named.items():
            number = _number(value)
            if number is not None and number > 0:
                result.setdefault(name, [math.nan] * len(records))[place] = number
    sides = result.keys() - {"total"}
    if len(sides) == 1 and "total" in result:
        del result[sides.pop()]  # the same curve again
    return result


def _panels(
    steps: Sequence[float], series: Mapping[str, Sequence[float]], records: Sequence[Record]
) -> list[Panel]:
    few = len(steps) < 30
    losses = [Curve(name, steps, ys, dashed=name == "total", markers=few) for name, ys in series.items()]
    panels = [Panel("Loss", "step", "weighted loss", losses, log_y=True)]
    for key, title in (("grad_norm", "Norm of the gradient"), ("images_per_second", "Training speed")):
        numbers = [_number(record.get(key)) for record in records]
        ys = [math.nan if number is None or number <= 0 else number for number in numbers]
        if not all(map(math.isnan, ys)):
            label = "norm" if key == "grad_norm" else "images/s"
            curve = Curve(label, steps, ys, markers=few)
            panels.append(Panel(title, "step", label, [curve], log_y=key == "grad_norm"))
    return panels


def _results(content: object, depth: int) -> Iterator[Record]:
    if isinstance(content, dict) and "name" in content and "value" in content:
        yield content
    elif depth and isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from _results(inner, depth - 1)


def _flat(content: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, dict) and before.count(".") < _DEEP:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", _show(value)


def _number(value: object) -> float | None:
    """A finite number that is no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return None
    return float(value) if math.isfinite(value) else None


def _show(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value)
