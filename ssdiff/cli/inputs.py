"""Image files that a command takes, and where each result goes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ssdiff.errors import DataError, PartialFailure, SsdiffError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.process.degradations.base import Other


@dataclass(frozen=True, slots=True)
class Job:
    """One image: what the user calls it, its number, where the result goes."""

    source: str
    number: int
    target: Path


def expand(arguments: list[str]) -> list[tuple[str, PurePosixPath]]:
    """Path of every image and its name under the output folder, which keeps sub-folders of a folder."""
    from ssdiff.data.sources import FolderSource

    found = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            found += [(str(path / name), PurePosixPath(name)) for name in FolderSource(path).members]
        else:
            found.append((str(path), PurePosixPath(path.name)))
    return found


def plan_outputs(
    sources: list[tuple[str, PurePosixPath]], out: str | None, ending: str, overwrite: bool
) -> list[Job]:
    """Decide and check every output before anything is computed."""
    from ssdiff.files import check_output
    from ssdiff.images import SAVE_SUFFIXES

    path = Path(out or ".").expanduser()
    folder = path.is_dir() or (out is not None and out.endswith(("/", "\\")))
    if not folder and len(sources) > 1:
        if path.suffix.lower() in SAVE_SUFFIXES:
            raise UsageError(
                f"--out {out} is one file, for {len(sources)} images", hint="name a folder: --out DIR/"
            )
        folder = True
    taken: dict[Path, str] = {}
    for source, name in sources:
        target = path / name.parent / f"{name.stem}-{ending}" if folder else path
        if target in taken:
            raise UsageError(
                f"{taken[target]} and {source} would both become {target}",
                hint="do them one after the other, into different folders",
            )
        taken[target] = source
    targets = [check_output(target, overwrite, SAVE_SUFFIXES) for target in taken]
    pairs = zip(targets, taken.values(), strict=True)
    return [Job(source, number, target) for number, (target, source) in enumerate(pairs)]


def failures(failed: Sequence[tuple[Job, SsdiffError]]) -> list[dict[str, Any]]:
    """What JSON says of images that failed."""
    return [{"image": job.source, "error": str(cause), "code": cause.code} for job, cause in failed]


def raise_failures(failed: Sequence[tuple[Job, SsdiffError]], done: int) -> None:
    """Name the images that failed on stderr, after the result.

    Args:
        failed: each with what was wrong.
        done: how many did not fail.

    Raises:
        DataError: all failed.
        PartialFailure: some did.
    """
    for job, cause in failed:
        about = "" if job.source in str(cause) else f"{job.source}: "
        print(f"ssdiff: error: {about}{cause}", file=sys.stderr)
    if failed:
        message = f"{len(failed)} of {done + len(failed)} images failed, each named above"
        raise PartialFailure(message) if done else DataError(message)


def partners(argument: str, max_pixels: int) -> Other:
    """Images of a file or folder by number, from the first again after the last, each cut and resized to
    what is asked for.

    Raises:
        DataError: a folder without images, or (when drawn) a file that is none.
    """
    import torch

    from ssdiff import images

    sources = [source for source, _ in expand([argument])]

    @lru_cache(maxsize=1)
    def read(source: str, shape: tuple[int, ...]) -> Tensor:
        channels, *size = shape
        fitting = (size[0], size[1])
        return images.read_image(source, channels=channels, max_pixels=max_pixels, size=fitting)

    def draw(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        chosen = [sources[number % len(sources)] for number in numbers.tolist()]
        return torch.stack([read(source, shape) for source in chosen])

    return draw
