"""A folder of numbered images: which are there and what they were made with, so that a stopped job goes on.

Beside the images lies a hidden file for each job, `.samples-FIRST-LAST.json`, with all that decides an image
but its number. An image is written whole or not at all: one that is there, and that such a file speaks for,
is finished.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ssdiff.errors import OutputError, ResourceError
from ssdiff.files import write_atomic

_IMAGE = re.compile(r"(\d{6,18})\.png")
_RECORD = re.compile(r"\.samples-(\d{6,18})-(\d{6,18})\.json")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_LARGEST_RECORD = 2**16  # bytes
_SHOWN = 40  # letters of a value, in a message

Recipe = Mapping[str, object]
"""What decides the images: names to plain values."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What a job has left: the images that it was to make, and with what."""

    path: Path
    numbers: range
    recipe: Recipe


def image_file(folder: Path, number: int) -> Path:
    """Return where image ``number`` of a folder is."""
    return folder / f"{number:06d}.png"


def check_image_folder(folder: Path, numbers: range, overwrite: bool) -> None:
    """Refuse a folder that cannot be filled, before anything is computed.

    Args:
        folder: need not be there.
        numbers: of the images.
        overwrite: whether images there may be replaced.

    Raises:
        OutputError: it is no folder, or has an image that no job says anything about.
        ResourceError: it cannot be written.
    """
    there = next(part for part in (folder, *folder.absolute().parents) if os.path.lexists(part))
    if not there.is_dir():
        hint = "end the name in .png, .gif or .npz, or choose another folder"
        raise OutputError(f"{there} is no folder", path=there, hint=hint)
    if not os.access(there, os.W_OK):
        raise ResourceError(f"cannot write in {there}", path=there, hint="choose another folder")
    if not overwrite:
        spoken_for = [record.numbers for record in _records(folder, numbers)]
        for number in sorted(_present(folder, numbers)):
            if not any(number in part for part in spoken_for):
                path = image_file(folder, number)
                raise OutputError(f"{path} exists", path=path, hint="use --overwrite or another folder")


def finished_images(folder: Path, numbers: range, recipe: Recipe) -> set[int]:
    """Return the numbers of images that a stopped job with the same recipe has finished.

    Args:
        folder: need not be there.
        numbers: of the images that are wanted.
        recipe: what they are made with.

    Raises:
        OutputError: some are there that were made with another one; says what differs.
    """
    check_image_folder(folder, numbers, overwrite=False)
    present = _present(folder, numbers)
    for record in _records(folder, numbers):
        theirs = [number for number in present if number in record.numbers]
        if theirs and (other := _differences(record.recipe, recipe)):
            raise OutputError(
                f"{folder} has images of another job: {other}",
                path=folder,
                hint="use its options to go on with it, another folder, or --overwrite to begin anew",
            )
    return present


def record_job(folder: Path, numbers: range, recipe: Recipe) -> None:
    """Write down what the images of a folder are made with, in place of what was said of them before.

    Args:
        folder: is created.
        numbers: of the images.
        recipe: what they are made with.

    Raises:
        ResourceError: it cannot be written.
    """
    kept = folder / f".samples-{numbers[0]:06d}-{numbers[-1]:06d}.json"
    write_atomic(kept, json.dumps(dict(recipe), indent=1, sort_keys=True).encode() + b"\n", overwrite=True)
    for record in _records(folder, numbers):
        if record.path != kept and record.numbers[0] in numbers and record.numbers[-1] in numbers:
            record.path.unlink(missing_ok=True)


def forget_jobs(folder: Path, numbers: range) -> bool:
    """Remove what was said of these images, before others replace them; whether some are there.

    A job that is killed while it replaces images leaves some of either kind, and nothing speaks for them.
    """
    for record in _records(folder, numbers):
        record.path.unlink(missing_ok=True)
    return bool(_present(folder, numbers))


def _present(folder: Path, numbers: range) -> set[int]:
    """Numbers of the images that are there. By the names in the folder: the numbers may be billions."""
    names = (_IMAGE.fullmatch(name) for name in _names(folder))
    found = {int(name[1]) for name in names if name and name[0] == image_file(folder, int(name[1])).name}
    return {number for number in found if number in numbers}


def _records(folder: Path, numbers: range) -> list[_Record]:
    """What jobs have left about any of these images."""
    found = []
    for name in _names(folder):
        match = _RECORD.fullmatch(name)
        if match is None:
            continue
        first, last = int(match[1]), int(match[2])
        if first > numbers[-1] or last < numbers[0]:
            continue
        with suppress(OSError, ValueError, RecursionError):  # a damaged one speaks for nothing
            path = folder / name
            if path.is_file() and path.stat().st_size <= _LARGEST_RECORD:
                recipe = json.loads(path.read_bytes())
                if isinstance(recipe, dict):
                    found.append(_Record(path, range(first, last + 1), recipe))
    return found


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _differences(theirs: Recipe, ours: Recipe) -> str:
    """What two jobs do not share, in words; nothing for the same images."""
    theirs, ours = dict(theirs), json.loads(json.dumps(dict(ours)))
    names = [name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)]
    told = [name for name in names if not _is_digest(ours.get(name))]
    if not told:
        return ", ".join(f"other {name}" for name in names)
    return ", ".join(f"{name} {_short(theirs.get(name))}, not {_short(ours.get(name))}" for name in told)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _short(value: object) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
