"""Image files that work is done on, one by one, and where each result goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ssdiff.arguments import as_path
from ssdiff.data.sources import FolderSource
from ssdiff.errors import SsdiffError, UsageError
from ssdiff.files import check_output
from ssdiff.images import SAVE_SUFFIXES


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image: what the user calls it, its number, where the result goes."""

    source: str
    number: int
    target: Path
    name: PurePosixPath  # under the folder that was given, or the file's own


@dataclass(frozen=True, slots=True)
class FailedFile:
    """One image that could not be used, and why."""

    file: ImageFile
    error: SsdiffError

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of it."""
        return {"image": self.file.source, "error": str(self.error), "code": self.error.code}


def expand(arguments: Sequence[str]) -> list[tuple[str, PurePosixPath]]:
    """Return the path of every image, and its name under an output folder, which keeps sub-folders.

    Args:
        arguments: files, and folders that are searched with their sub-folders.

    Raises:
        DataError: a folder without images.
    """
    found = []
    for argument in arguments:
        path = as_path("image", argument)
        if path.is_dir():
            found += [(str(path / name), PurePosixPath(name)) for name in FolderSource(path).members]
        else:
            found.append((str(path), PurePosixPath(path.name)))
    return found


def plan_outputs(
    sources: Sequence[tuple[str, PurePosixPath]], out: str | None, ending: str, overwrite: bool
) -> list[ImageFile]:
    """Decide and check every output before anything is computed.

    Args:
        sources: from :func:`expand`.
        out: a file for one image, or a folder: it ends in a slash, exists, or has no ending. None: the
            current folder.
        ending: of the names in a folder: NAME-ending.
        overwrite: whether files there may be replaced.

    Raises:
        UsageError: an ending that is not supported, or two images that would become one file.
        OutputError: something is there already.
    """
    path = as_path("out", out or ".")
    folder = path.is_dir() or not path.suffix or (out is not None and out.endswith(("/", "\\")))
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
    pairs = zip(targets, sources, strict=True)
    return [ImageFile(source, number, target, name) for number, (target, (source, name)) in enumerate(pairs)]
