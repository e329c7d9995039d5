"""What a training run makes of its data before the first step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssdiff.arguments import as_path
from ssdiff.config import Preset
from ssdiff.data import DATA_NAMES, ImageSet, evenly
from ssdiff.distributed import World
from ssdiff.errors import PresetError, UsageError
from ssdiff.images import from_uint8
from ssdiff.priors import image_spectrum
from ssdiff.priors.coarse_mixture import CoarseMixture, fit_prior
from ssdiff.priors.image_spectrum import ImageSpectrum
from ssdiff.priors.linear_lift import LinearLift, fit_lift
from ssdiff.process.base import Process
from ssdiff.second_set import open_as

_MEASURED, _PART, _PIXELS = 2_000, 256, 2**21  # images whose spectra are taken; images and pixels at once
_FITTED = 10_000  # images that linear maps are fitted to


def prepare_on_rank0(
    source: str | Path | None,
    preset: Preset,
    world: World,
    progress: Callable[[int, int], None],
    option: str = "--data",
    *,
    goes_on: bool = False,
) -> ImageSet:
    """Return a prepared data set: process 0 prepares it, the others then find it.

    Args:
        source: folder, archive or name.
        preset: says size, channels and what to do with files that are not as they should be.
        here: this process's place.
        progress: told of images done and in all.
        option: what names the source on the command line.
        goes_on: a run that goes on takes what it took, whatever its channels.

    Raises:
        UsageError: no source is given.
        DataError: it cannot be used.
    """
    if source is None:
        message = f"the preset {preset.name!r} names no data set for {option}"
        raise UsageError(message, hint=f"give {option} FOLDER or NAME")
    settings = preset.data if option == "--data" else preset.data.unlisted
    convert = "all" if goes_on else settings.convert
    return world.rank0_first(lambda: open_as(settings, source, progress, convert=convert))


def check_labels(data: ImageSet, preset: Preset) -> None:
    """Refuse a conditional model without labels, or with too few classes.

    Raises:
        PresetError: names both numbers.
    """
    classes = preset.model.classes
    if classes and data.labels is None:
        raise PresetError(f"model.classes = {classes} needs labels, {data.source} has none")
    if classes and data.labels is not None and int(data.labels.max()) >= classes:
        found = int(data.labels.max()) + 1
        raise PresetError(f"{data.source} has {found} classes, the preset model.classes = {classes}")


def untrained_classes(data: ImageSet, preset: Preset) -> list[str]:
    """Return a note if the model has more classes than the data."""
    classes, found = preset.model.classes, len(data.class_names)
    if data.labels is None or classes <= found:
        return []
    return [f"model.classes = {classes}, the data have {found}: the others are never trained"]


def fit_start(preset: Preset, process: Process, data: np.ndarray) -> CoarseMixture | None:
    """Fit the terminal prior to the most degraded training images; None if it is noise.

    Args:
        preset: says whether and how.
        process: degrades.
        data: (N, C, S, S) uint8; up to 20,000 images are used, evenly from the whole.
    """
    settings = preset.sampling.terminal_prior
    if settings is None:
        return None
    return fit_prior(data, process, settings.grid, settings.basis, settings.components)


def fit_details(preset: Preset, process: Process, data: np.ndarray) -> ImageSpectrum | None:
    """Measure the spectra of what resolution transitions add and steps give back; None where neither does.

    Args:
        preset: says whether.
        process: reduces.
        data: (N, C, S, S) uint8; up to 2,000 images are used, evenly from the whole.
    """
    if preset.sampling.renoise == "none" and not preset.sampling.correction:
        return None
    chosen = evenly(len(data), _MEASURED)
    part = min(_PART, -(-_PIXELS // preset.data.size**2))
    parts = np.array_split(chosen, -(-len(chosen) // part))
    return image_spectrum.fit_spectrum((_pixels(data[part]) for part in parts), process)


def fit_linear_lift(preset: Preset, process: Process, data: np.ndarray) -> LinearLift | None:
    """Fit the maps by which a resolution transition enlarges predictions; None where its layers do.

    Args:
        preset: says which.
        process: reduces.
        data: (N, C, S, S) uint8; up to 10,000 images are used, evenly from the whole.
    """
    if preset.sampling.lift == "network":
        return None
    chosen = evenly(len(data), _FITTED)
    part = min(_PART, -(-_PIXELS // preset.data.size**2))
    return fit_lift(
        (_pixels(data[part]) for part in np.array_split(chosen, -(-len(chosen) // part))), process
    )


def _pixels(data: np.ndarray) -> Tensor:
    return from_uint8(torch.tensor(data))


def portable_source(source: str | Path | None) -> str | None:
    """Return a data set as a checkpoint keeps it: a name, or a path that holds from any folder."""
    if source is None or (isinstance(source, str) and source in DATA_NAMES):
        return source if source is None else str(source)
    return str(as_path("data", source).absolute())
