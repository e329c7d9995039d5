"""Line plots as PNG files, all in one style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from ssdiff.files import write_atomic

_PANEL = (5.2, 3.6)  # inches
_DPI = 150
_HANDLE, _LETTER = 0.6, 0.085  # inches of a legend: about those of a line with its margins, and of a letter
_ACROSS = 3  # panels in a row, at most
_FRAME, _NAME, _TITLE = 1.0, 2.0, 0.3  # inches of a picture in a film, of its name and of a title
_MARGIN = 0.1  # inches around films


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot.

    Attributes:
        label: in the legend.
        x: positions.
        y: values, as many; NaN leaves a gap.
        dashed: draw it dashed.
        markers: mark every point, for few points.
        errors: half the lengths of the error bars, as many; none where omitted.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    markers: bool = False
    errors: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes.

    Attributes:
        title: above it.
        x_label: with the unit.
        y_label: with the unit.
        curves: lines, in the order of the legend.
        log_x: logarithmic positions.
        log_y: logarithmic values.
    """

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log_x: bool = False
    log_y: bool = False


def save_panels(path: Path, panels: Sequence[Panel], *, overwrite: bool = False) -> None:
    """Write the file of :func:`draw_panels`.

    Args:
        path: ends in .png.
        panels: at least one.
        overwrite: whether a file there may be replaced.

    Raises:
        OutputError: something is there already.
        ResourceError: the folder cannot be written or the disk is full.
    """
    write_atomic(path, draw_panels(panels), overwrite)


def draw_panels(panels: Sequence[Panel]) -> bytes:
    """Draw the panels side by side, three in a row, as one PNG file.

    A label that several panels share has one colour and marker, and stands once in the legend below them.

    Args:
        panels: at least one.
    """
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(_PANEL[0] * across, _PANEL[1] * down), layout="constrained")
    styles = _styles(panels)
    named: dict[str, Any] = {}
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(down, across, place + 1)
        for curve in panel.curves:
            colour, marker = styles[curve.label]
            [line] = axes.plot(
                curve.x,
                curve.y,
                color=colour,
                linestyle="--" if curve.dashed else "-",
                marker=marker if curve.markers else None,
                markersize=3.5,
                linewidth=1.5,
            )
            if curve.errors is not None:
                axes.errorbar(
                    curve.x, curve.y, curve.errors, fmt="none", ecolor=colour, elinewidth=1, capsize=2
                )
            named.setdefault(curve.label, line)
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.set_xscale("log" if panel.log_x else "linear")
        axes.set_yscale("log" if panel.log_y else "linear")
        for axis in (axes.xaxis, axes.yaxis):
            _label_plainly(axis)
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    columns = int(_PANEL[0] * across / (_HANDLE + _LETTER * max(map(len, named), default=1))) or 1
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()


def draw_films(rows: Sequence[tuple[str, Any]], titles: Sequence[str]) -> bytes:
    """Draw film strips in named rows under titled columns, as one PNG file.

    Args:
        rows: name of each, and its strip: (h, w, 3) bytes, as many pictures side by side as titles.
        titles: of the columns.
    """
    from matplotlib.figure import Figure

    size = (_NAME + _FRAME * len(titles), _TITLE + _FRAME * len(rows))
    figure = Figure(figsize=size)
    figure.subplots_adjust(left=_NAME / size[0], hspace=0.05)
    for place, (name, strip) in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, place + 1)
        axes.imshow(strip, interpolation="nearest")
        axes.spines[:].set_visible(False)
        axes.set(xticks=[], yticks=[])
        if place == 0:
            width = strip.shape[1] / len(titles)
            axes.set_xticks([(k + 0.5) * width for k in range(len(titles))], titles, fontsize=9)
            axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", parse_math=False)
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=_MARGIN)
    return stream.getvalue()


def _label_plainly(axis: Any) -> None:
    """A logarithmic axis of less than two decades has numbers between its powers of ten, none as a power."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    low, high = axis.get_view_interval()
    if axis.get_scale() == "log" and high < 100 * low:
        axis.set_major_formatter(Plain())
        axis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def _styles(panels: Sequence[Panel]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each label; colour-blind readers can tell the colours apart."""
    markers = "os^Dv"
    cycle = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#a6761d")
    labels = dict.fromkeys(curve.label for panel in panels for curve in panel.curves)
    rounds = (divmod(place, len(cycle)) for place in range(len(labels)))
    return {
        label: (cycle[k], markers[n % len(markers)]) for label, (n, k) in zip(labels, rounds, strict=True)
    }
