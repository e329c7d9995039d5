"""Image files that work is done on, one by one, and where each result goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ssdiff.arguments import as_path
from ssdiff.data.listing import is_image
from ssdiff.data.sources import FolderSource
from ssdiff.errors import SsdiffError, UsageError
from ssdiff.files import check_output
from ssdiff.images import SAVE_SUFFIXES
from ssdiff.images.read import IMAGE_SUFFIXES


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


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is to be done, and what need not be.

    Attributes:
        files: images without a result, numbered among all of them.
        kept: results that are there already and stay.
        left_out: images that are results of others, from a call before this one.
    """

    files: list[ImageFile]
    kept: list[Path]
    left_out: list[str]

    @property
    def notes(self) -> list[str]:
        """What a person wants to know of it, one line each."""
        count, whole = len(self.kept), len(self.kept) + len(self.files)
        kept = f"{count} of {whole} results are there already, and stay"
        left_out = f"left out {len(self.left_out)} images that are results of others here"
        return [kept] * bool(self.kept) + [left_out] * bool(self.left_out)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON says of results that stay."""
        return {"kept": [str(path) for path in self.kept]}


def plan_outputs(
    sources: Sequence[tuple[str, PurePosixPath]],
    out: str | None,
    ending: str,
    overwrite: bool,
    skip_existing: bool = False,
) -> Outputs:
    """Decide and check every output before anything is computed.

    Args:
        sources: from :func:`expand`.
        out: a file for one image, or a folder: it ends in a slash, exists, or has no ending. None: the
            current folder.
        ending: of the names in a folder: NAME-ending; NAME has the ending of its file where another image of
            that name lies beside it, as a.webp beside a.png.
        overwrite: whether files there may be replaced. An image that is itself such a file, the result of
            another one, is then left out.
        skip_existing: likewise, but images whose result is there already are not done again; the others keep
            their numbers, by which a random degradation draws.

    Raises:
        UsageError: an ending that is not supported, two images that would become one file, or both ways to
            treat a file that is there.
        OutputError: something is there already.
    """
    if overwrite and skip_existing:
        raise UsageError("--overwrite and --skip-existing do not go together", hint="give one of them")
    path = as_path("out", out or ".")
    folder = path.is_dir() or not path.suffix or (out is not None and out.endswith(("/", "\\")))
    if not folder and len(sources) > 1:
        if path.suffix.lower() in SAVE_SUFFIXES:
            raise UsageError(
                f"--out {out} is one file, for {len(sources)} images", hint="name a folder: --out DIR/"
            )
        folder = True

    named = _distinct_names([source for source, _ in sources])

    def target_of(source: str, name: PurePosixPath) -> Path:
        return path / name.parent / f"{named[source]}-{ending}" if folder else path

    left_out: list[str] = []
    if folder and (overwrite or skip_existing):
        results = {os.path.abspath(target_of(source, name)) for source, name in sources}
        left_out = [source for source, _ in sources if os.path.abspath(source) in results]
        sources = [(source, name) for source, name in sources if source not in set(left_out)]
    taken: dict[Path, str] = {}
    for source, name in sources:
        target = target_of(source, name)
        if target in taken:
            raise UsageError(
                f"{taken[target]} and {source} would both become {target}",
                hint="do them one after the other, into different folders",
            )
        taken[target] = source
    kept = {target for target in taken if skip_existing and target.is_file()}
    files = []
    for number, (target, (source, name)) in enumerate(zip(taken, sources, strict=True)):
        checked = check_output(target, overwrite or target in kept, SAVE_SUFFIXES)
        if target not in kept:
            files.append(ImageFile(source, number, checked, name))
    return Outputs(files, sorted(kept), left_out)


def _distinct_names(sources: Sequence[str]) -> dict[str, str]:
    """What to call the result of each image: its name without ending, as far as that tells it from the others
    in its folder."""
    beside: dict[Path, dict[str, list[str]]] = {}
    names = {}
    for path in map(Path, sources):
        if path.parent not in beside:
            beside[path.parent] = _by_stem(path.parent)
        first = min(beside[path.parent].get(path.stem, [path.name]), key=_order)
        names[str(path)] = path.stem if path.name == first else path.name
    return {source: names[str(Path(source))] for source in sources}


def _by_stem(folder: Path) -> dict[str, list[str]]:
    """Names of the images of a folder by what they are without their ending."""
    found: dict[str, list[str]] = {}
    try:
        for name in os.listdir(folder):
            if is_image(name):
                found.setdefault(Path(name).stem, []).append(name)
    except OSError:  # what is wrong with it shows when the image is read
        pass
    return found


def _order(name: str) -> tuple[int, str]:
    ending = Path(name).suffix.lower()
    return (IMAGE_SUFFIXES.index(ending) if ending in IMAGE_SUFFIXES else len(IMAGE_SUFFIXES), name)
