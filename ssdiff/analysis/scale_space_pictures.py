"""Pictures of a scale-space: film strips of a few images along t, and the mean image along t."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssdiff import images as pictures

FRAMES = 8
"""Columns of a film, from the clean image to the last state."""
ROWS = 4
"""Images of a film."""
_HEIGHT = 96  # pixels of a frame
_GAP = 4  # pixels between frames
_RESERVED = ("scale-space", "film", "mean-images")  # names of other pictures in the same folder


@dataclass
class Film:
    """States of a few images along a process, and the mean of all images.

    Attributes:
        frames: (ROWS or fewer, C, h, w) at each of FRAMES times, in [-1, 1]; sizes may differ.
        means: (C, h, w) likewise.
    """

    frames: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)

    def add(self, states: Tensor, mean: Tensor) -> None:
        """Add the states of one time; what is beyond the range of pixels is cut, as on a screen."""
        self.frames.append(states[:ROWS].float().clamp(-1, 1))
        self.means.append(mean.float().clamp(-1, 1))

    def strip(self) -> Tensor:
        """Return a (3, height, width) picture: images in rows, times in columns."""
        count = len(self.frames[0])
        rows = [
            pictures.film_strip(
                [frame[i].expand(3, -1, -1) for frame in self.frames],
                height=max(_HEIGHT, self.frames[0].shape[-1]),
            )
            for i in range(count)
        ]
        return pictures.grid(torch.stack(rows), columns=1)


def shares() -> list[float]:
    """Return positions along a process, 0..1, at which the frames are."""
    return [k / (FRAMES - 1) for k in range(FRAMES)]


def film_timesteps(T: int) -> list[int]:
    """Return the timesteps of the frames of a process with timesteps 0..T."""
    return [round(share * T) for share in shares()]


def draw_side_by_side(films: Mapping[str, Film], mean: bool) -> bytes:
    """Draw a row a process under the times that they share, as a PNG file.

    Args:
        films: by process.
        mean: the mean images instead of the first image.
    """
    from ssdiff.reporting.plots import draw_films

    rows = [
        (name, _strip(film.means if mean else [x[0] for x in film.frames])) for name, film in films.items()
    ]
    return draw_films(rows, [f"t / T = {share:.2f}" for share in shares()])


def file_stems(names: Iterable[str]) -> list[str]:
    """Return names of files for processes, which differ from each other and from the other pictures."""
    found: list[str] = []
    taken: set[str] = {*_RESERVED}
    for name in names:
        stem = plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.") or "process"
        number = 2
        while stem.lower() in taken:
            stem, number = f"{plain}-{number}", number + 1
        taken.add(stem.lower())
        found.append(stem)
    return found


def nearest_timesteps(timesteps: Sequence[int], T: int) -> list[int]:
    """Return those of some timesteps that are nearest to the frames."""
    return [min(timesteps, key=lambda t: abs(t - wanted)) for wanted in film_timesteps(T)]


def _strip(frames: Sequence[Tensor]) -> Any:
    """(h, w, 3) bytes of (C, h, w) frames side by side, each with a gap of its own."""
    side = max(_HEIGHT, frames[0].shape[-1])
    large = [pictures.upscale_nearest(pictures.to_uint8(x), side).expand(3, -1, -1) for x in frames]
    gap = torch.full((3, side, _GAP), 255, dtype=torch.uint8)
    return torch.cat([part for x in large for part in (x, gap)], dim=-1).permute(1, 2, 0).numpy()
