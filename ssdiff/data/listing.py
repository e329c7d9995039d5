"""Which files of a folder or an archive are its images, and what is to be said of the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssdiff.errors import DataError
from ssdiff.images.read import IMAGE_SUFFIXES

EDM_LABELS = "dataset.json"
"""File at the root of a set of the EDM and StyleGAN tools, with the class of every image."""

# What systems and storage devices lay beside the files of people.
_ASIDE = frozenset(
    (
        *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin"),
        *("system volume information", "lost+found", "thumbs.db"),
    )
)
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))
_TRAIN = ("train", "training")
# Pictures, as people see them, in formats that are not read here.
_FOREIGN = frozenset(
    (
        *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".tga", ".exr", ".hdr"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".ico", ".pcx", ".dds"),
    )
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The images among the files of a set.

    Attributes:
        names: of the images, sorted, with their folders.
        notes: what was left out that people may miss, one line each.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def pick_images(found: Iterable[str], *, splits: bool = True) -> Chosen:
    """Choose the images of a set by the names of its files.

    Hidden files, and what storage devices keep beside people's files (``@eaDir``, ``__MACOSX``), are none. If
    all images lie in folders named as splits (``train``, ``val``, ``test``) and one of them is for training,
    only that one counts: the others are no classes, and not to be trained on.

    Args:
        found: names of files, folders separated by ``/``.
        splits: whether splits are told apart.
    """
    seen = [name for name in found if not _is_aside(name)]
    names = sorted(name for name in seen if name.lower().endswith(IMAGE_SUFFIXES))
    endings = Counter(ending for name in seen if (ending := _ending(name)) in _FOREIGN)
    notes = []
    if endings:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        notes.append(f"left out {endings.total()} files that are not read here ({kinds}): convert them first")
    if splits:
        names, more = _training_split(names)
        notes += more
    return Chosen(tuple(names), tuple(notes))


def is_image(name: str) -> bool:
    """Return whether a file is taken for an image by its name, with its folders."""
    return not _is_aside(name) and name.lower().endswith(IMAGE_SUFFIXES)


def edm_classes(text: bytes, members: Sequence[str], where: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return class names and labels that a ``dataset.json`` gives; no names where it has no labels.

    Args:
        text: its contents: ``{"labels": [["00000/img00000000.png", 6], ...]}``, or null for none.
        members: names of the images.
        where: the set, for messages.

    Raises:
        DataError: it is damaged, or has no label for an image.
    """
    try:
        listed = json.loads(text)["labels"]
        labels = {} if listed is None else {str(name): int(label) for name, label in listed}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: {EDM_LABELS} is damaged: {error}", path=where) from None
    if not labels:
        return (), np.empty(0, np.int64)
    if missing := [name for name in members if name not in labels]:
        raise DataError(f"{where}: {EDM_LABELS} has no label for {missing[0]}", path=where)
    numbers, positions = np.unique([labels[name] for name in members], return_inverse=True)
    return tuple(map(str, numbers.tolist())), positions.astype(np.int64)


def _is_aside(name: str) -> bool:
    return any(part.startswith(".") or part.lower() in _ASIDE for part in name.split("/"))


def _ending(name: str) -> str:
    file = name.rpartition("/")[2]
    return f".{file.rpartition('.')[2].lower()}" if "." in file else ""


def _training_split(names: Sequence[str]) -> tuple[list[str], list[str]]:
    folders = Counter(name.partition("/")[0] if "/" in name else "" for name in names)
    train = next((name for name in folders if name.lower() in _TRAIN), None)
    if train is None or len(folders) < 2 or any(name.lower() not in _SPLITS for name in folders):
        return list(names), []
    others = ", ".join(
        f"{name}/ ({count} images)" for name, count in sorted(folders.items()) if name != train
    )
    note = f"took {train}/ alone, because the folders are splits; left out {others}: name one by its own path"
    return [name for name in names if name.startswith(f"{train}/")], [note]
