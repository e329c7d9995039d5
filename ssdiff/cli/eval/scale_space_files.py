"""What `ssdiff eval scale-space` leaves: tables, curves, film strips, and the report."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from ssdiff.cli.common import Terminal

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.analysis.scale_space_curves import Point
    from ssdiff.analysis.scale_space_properties import Check
    from ssdiff.reporting.plots import Panel


@dataclass(frozen=True, slots=True)
class Findings:
    """What was measured.

    Attributes:
        points: of all curves.
        checks: of all properties.
        strips: (3, height, width) picture of each image filter.
    """

    points: list[Point] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    strips: dict[str, Tensor] = field(default_factory=dict)


def write(findings: Findings, files: dict[str, Path], overwrite: bool) -> None:
    """Write every file, each whole or not at all."""
    from ssdiff import images
    from ssdiff.reporting.plots import save_panels

    rows = [
        (point.process, f"{point.t:.10g}", f"{point.time:.6f}", point.quantity, f"{point.value:.10g}")
        for point in findings.points
    ]
    _write_csv(files["curves.csv"], ("process", "t", "time", "quantity", "value"), rows, overwrite)
    table = [
        (
            check.process,
            check.law,
            f"{check.deviation:.4g}",
            f"{check.tolerance:.4g}",
            _verdict(check),
            check.note,
        )
        for check in findings.checks
    ]
    header = ("process", "property", "deviation", "tolerance", "result", "note")
    _write_csv(files["properties.csv"], header, table, overwrite)
    save_panels(files["scale-space.png"], _panels(findings.points), overwrite=overwrite)
    for name, strip in findings.strips.items():
        images.save_image(strip.float(), files[f"{name}.png"], overwrite)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], overwrite: bool) -> None:
    from ssdiff.files import write_atomic

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode(), overwrite)


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


def _panels(points: Sequence[Point]) -> list[Panel]:
    """One for each quantity that some process has.

    Every other process is dashed, because several run together for long: SSD and DDPM up to a resolution
    transition.
    """
    from ssdiff.reporting.plots import Curve, Panel

    series: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        series.setdefault((point.quantity, point.process), []).append(point)
    places = {name: place for place, name in enumerate(dict.fromkeys(point.process for point in points))}

    def curves(quantity: str, log: bool, dashed: bool | None = None) -> list[Curve]:
        found = []
        for process, place in places.items():
            line = [p for p in series.get((quantity, process), []) if p.value > 0 or not log]
            if line:
                dash = bool(place % 2) if dashed is None else dashed
                found.append(Curve(process, [p.time for p in line], [p.value for p in line], dash))
        return found

    panels = []
    for title, unit, quantity, log in _PANELS:
        if quantity == "signal-dominated":
            drawn = curves(quantity, log, dashed=False) + curves("area", log, dashed=True)
        else:
            drawn = curves(quantity, log)
        if drawn:
            panels.append(Panel(title, "t / T", unit, drawn, log_y=log))
    return panels


def _verdict(check: Check) -> str:
    return "pass" if check.passed else "fail"


def report(checks: Sequence[Check], settings: dict[str, object], terminal: Terminal) -> None:
    """Print the table of properties."""
    width = max(len(check.process) for check in checks)
    wide = max(len(check.law) for check in checks)
    lines = [f"{'process':{width}}  {'property':{wide}}  deviation  tolerance"]
    lines += [
        f"{check.process:{width}}  {check.law:{wide}}  {check.deviation:9.2g}  {check.tolerance:9.2g}  "
        f"{_verdict(check)}  {check.note}".rstrip()
        for check in checks
    ]
    passed = sum(check.passed for check in checks)
    lines.append(
        f"{settings['out']}: {passed} of {len(checks)} properties hold; {settings['images']} images, "
        f"{settings['size']} px, {settings['seconds']} s"
    )
    table = [
        {
            "process": check.process,
            "property": check.law,
            "deviation": check.deviation if math.isfinite(check.deviation) else None,
            "tolerance": check.tolerance,
            "passed": check.passed,
            "note": check.note,
        }
        for check in checks
    ]
    terminal.result("\n".join(lines), settings | {"properties": table})
