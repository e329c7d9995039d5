"""Kernels of blurs: of a motion, and out of files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from ssdiff.arguments import as_path, require_number
from ssdiff.errors import DataError, UsageError
from ssdiff.files import read_input
from ssdiff.images.read import read_image

_LARGEST = 255  # pixels a side
_LONGEST = 2**24  # bytes of text
_FINE = 16  # points a pixel along a motion


def motion_kernel(length: float, angle: float) -> Tensor:
    """Return the blur of an even motion along a line, (h, w), both odd, of sum 1.

    Points are spread evenly over the line, each shared among the four pixels around it.

    Args:
        length: of the line, pixels; above 0, below 255.
        angle: degrees from the horizontal, counter-clockwise.

    Raises:
        UsageError: a number out of range.
    """
    require_number("length", length)
    require_number("angle", angle)
    if not 0 < length < _LARGEST or not math.isfinite(angle):
        raise UsageError(
            f"a motion must be longer than 0 and shorter than {_LARGEST} pixels, not {length}, "
            f"at an angle in degrees, not {angle}"
        )
    count = max(2, math.ceil(_FINE * length))
    along = (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5  # of the length
    x = along * length * math.cos(math.radians(angle))
    y = -along * length * math.sin(math.radians(angle))
    rows, columns = (_shares(part) for part in (y, x))  # (points, h), (points, w)
    return rows.mT @ columns / count


def _shares(places: Tensor) -> Tensor:
    """(points, n) what each point gives to the pixels -k..k of one axis, k as small as can be."""
    reach = math.ceil(float(places.abs().max()) - 1e-9)
    pixels = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return (1 - (places[:, None] - pixels).abs()).clamp(min=0)


def read_kernel(source: str | os.PathLike[str]) -> Tensor:
    """Return a kernel out of a file, scaled to sum 1: a picture, whose brightness counts, or rows of numbers.

    Args:
        source: a picture, or a text of numbers between spaces or commas, a row a line; sides are odd.

    Raises:
        DataError: it cannot be read, or is no kernel; says why.
    """
    path = as_path("kernel", source)
    kernel = _numbers(path) if path.suffix.lower() in (".txt", ".csv") else _brightness(path)
    try:
        return checked_kernel(kernel, str(path))
    except UsageError as error:
        raise DataError(str(error.args[0]), path=path, hint="give a small picture of the blur") from None


def checked_kernel(kernel: Tensor, name: str) -> Tensor:
    """Return a kernel scaled to sum 1.

    Args:
        kernel: (h, w).
        name: what to call it.

    Raises:
        UsageError: it is none; says why.
    """
    problem = None
    if kernel.ndim != 2:
        problem = f"has the shape {tuple(kernel.shape)}, not (h, w)"
    elif kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
        problem = f"has {kernel.shape[1]} x {kernel.shape[0]} pixels; odd sides would give it a middle"
    elif max(kernel.shape) > _LARGEST:
        problem = f"has {kernel.shape[1]} x {kernel.shape[0]} pixels, the most are {_LARGEST}"
    elif not bool(kernel.isfinite().all()):
        problem = "holds a number that is not finite"
    elif float(kernel.sum()) <= 0:
        problem = "sums up to nothing"
    if problem is not None:
        raise UsageError(f"{name} is no kernel: it {problem}")
    return kernel.double() / kernel.double().sum()


def _brightness(path: Path) -> Tensor:
    return (read_image(path, channels=1)[0].double() + 1) / 2


def _numbers(path: Path) -> Tensor:
    try:
        text = read_input(path, _LONGEST).decode()
        rows = [[float(word) for word in line.replace(",", " ").split()] for line in text.splitlines()]
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path} as a kernel: {said}", path=path) from error
    rows = [row for row in rows if row]
    if not rows or len({len(row) for row in rows}) != 1:
        raise DataError(f"{path} is no kernel: its lines have different lengths", path=path)
    return torch.tensor(rows, dtype=torch.float64)
