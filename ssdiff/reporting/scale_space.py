"""Sections of a report about scale-spaces, read from the folder that an analysis wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ssdiff.files import MOST, read_input
from ssdiff.reporting.html import Block, Picture, Section, Table, Text

RECORD = "scale-space.json"
"""The file that an analysis leaves in its folder, with all that is said of it here."""
_PICTURES = (
    ("scale-space.png", "Curves along t"),
    ("film.png", "The first image along each process, at the same shares of its time"),
    ("mean-images.png", "The mean of all images along each process: the structure that is left"),
)
_WIDE = 1040  # CSS pixels of a picture


def find_scale_spaces(folder: Path) -> list[Path]:
    """Return the folders of analyses inside a folder."""
    return sorted(path.parent for path in folder.glob(f"*/{RECORD}")) if folder.is_dir() else []


def sections(folder: Path, title: str = "Scale-space") -> list[Section]:
    """Return what an analysis found: checks, those against theory first, curves and pictures.

    Args:
        folder: that it wrote.
        title: of the first section.
    """
    try:
        return _sections(folder, json.loads(read_input(folder / RECORD, MOST)), title)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return [Section(title, [Text(f"{folder.name} holds no analysis that can be read.")])]


def _sections(folder: Path, record: Mapping[str, Any], title: str) -> list[Section]:
    """The sections of a record; whatever is wrong with it raises."""
    checks = list(record["properties"])
    rows = [_row(check) for check in checks]
    strange = [row for row, check in zip(rows, checks, strict=True) if check["unexpected"]]
    headings = ("Process", "Property", "Deviation", "Tolerance", "Holds", "Expected", "Note")
    blocks: list[Block] = [Text(_about(record))]
    blocks += [Text(f"Warning: {warning}.") for warning in record["warnings"]]
    if strange:
        blocks.append(Table("Against what theory expects", headings, strange, (2, 3)))
    else:
        blocks.append(Text("Every property is as theory expects, where it promises anything."))
    blocks.append(Table("All properties", headings, rows, (2, 3), folded=True))
    shown = [
        *_PICTURES,
        *(
            (Path(file).name, f"{name}: images in rows, t in columns")
            for name, file in record["strips"].items()
        ),
    ]
    found = [_picture(folder / name, caption) for name, caption in shown]
    pictures = [picture for picture in found if picture is not None]
    return [Section(title, blocks), Section(f"{title}: curves and pictures", pictures)]


def _about(record: Mapping[str, Any]) -> str:
    told, reverse = "", record.get("reverse")
    if isinstance(reverse, dict):
        how = f"{reverse['samples']} images in {reverse['steps']} steps of {reverse['sampler']}"
        told = f" The reverse process of {reverse['model']}: {how}, beginning at {reverse['begins']}."
    return (
        f"{record['images']} images of {record['data']}, {record['size']} px, {record['channels']} channels; "
        f"{record['method']}.{told}"
    )


def _row(check: Mapping[str, Any]) -> Sequence[str]:
    deviation = check["deviation"]
    result = "-" if check["passed"] is None else "yes" if check["passed"] else "no"
    expected = {True: "yes", False: "no"}.get(check["expected"], "-")
    return (
        str(check["process"]),
        str(check["property"]),
        "-" if deviation is None else f"{deviation:.2g}",
        f"{check['tolerance']:.2g}",
        result,
        expected,
        str(check["note"]),
    )


def _picture(path: Path, caption: str) -> Picture | None:
    """A picture of the folder, no wider than the page; None if it is missing or no picture."""
    try:
        content = path.read_bytes()
        image = Image.open(BytesIO(content), formats=("PNG",))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    width, height = image.size
    shown = min(width, _WIDE)
    return Picture(content, (shown, height * shown // width), caption, caption, plot=True)
