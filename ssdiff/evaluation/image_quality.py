"""How near a restored image is to the true one: PSNR, SSIM and RMSE of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import DataError

Row = dict[str, float | None]
"""Measures by name; a psnr of None is infinite."""

_RANGE = 2.0  # of pixels in [-1, 1]
_TAPS, _STD = 11, 1.5  # of the window [Wang et al. 2004, section III.C]
_K = (0.01, 0.03)
_LARGE = 2**22  # pixels above which images are compared in bands


class ImageQuality(NamedTuple):
    """(B,) float64 each.

    Attributes:
        psnr: decibels; infinite for equal images.
        ssim: at most 1.
        rmse: of pixels in 0..1.
    """

    psnr: Tensor
    ssim: Tensor
    rmse: Tensor


def compare(x: Tensor, y: Tensor) -> ImageQuality:
    """Compare (B, C, H, W) images in [-1, 1], image by image; what lies outside is clipped.

    Raises:
        DataError: the shapes differ.
    """
    if x.shape != y.shape:
        raise DataError(f"images of shape {tuple(x.shape[1:])} cannot be compared with {tuple(y.shape[1:])}")
    if x.shape[-2] * x.shape[-1] > _LARGE and min(x.shape[-2:]) > _TAPS:
        return _compare_in_bands(x, y)
    x, y = (z.double().clamp(-1, 1) for z in (x, y))
    return ImageQuality(psnr(x, y), ssim(x, y), (x - y).square().mean(dim=(1, 2, 3)).sqrt() / _RANGE)


def _compare_in_bands(x: Tensor, y: Tensor) -> ImageQuality:
    """As :func:`compare`, of large images: in float64 they would take many times their memory."""
    height, width = x.shape[-2:]
    step, windows = max(_TAPS, _LARGE // width), height - _TAPS + 1
    square, similar = (torch.zeros(len(x), dtype=torch.float64, device=x.device) for _ in range(2))
    for first in range(0, windows, step):
        # The windows that begin in the band; its pixels, with the last band all that are left.
        end = min(first + step, windows)
        a, b = (z[..., first : end + _TAPS - 1, :].double().clamp(-1, 1) for z in (x, y))
        similar += ssim(a, b) * (end - first)
        own = height - first if end == windows else end - first
        square += (a[..., :own, :] - b[..., :own, :]).square().sum((1, 2, 3))
    mean = square / (x.shape[1] * height * width)
    return ImageQuality(10 * torch.log10(_RANGE**2 / mean), similar / windows, mean.sqrt() / _RANGE)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return (B,) decibels between (B, C, H, W) images in [-1, 1]; infinite for equal ones."""
    return 10 * torch.log10(_RANGE**2 / (x - y).square().mean(dim=(1, 2, 3)))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return (B,) structural similarity, mean over pixels and channels [Wang et al. 2004].

    A Gaussian window of 11 px, std 1.5 (smaller for smaller images), only where it lies within the image.

    Args:
        x: (B, C, H, W) in [-1, 1].
        y: likewise.
    """
    taps = min(_TAPS, *x.shape[-2:])
    offset = torch.arange(taps, dtype=x.dtype, device=x.device) - (taps - 1) / 2
    window = torch.exp(-0.5 * (offset / _STD).square())
    window = window / window.sum()

    def local(z: Tensor) -> Tensor:
        planes = z.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(planes, window[None, None, :, None]), window[None, None, None, :])

    x, y = (z * 0.5 + 0.5 for z in (x, y))  # it is defined for pixels that are not negative
    c1, c2 = (k**2 for k in _K)
    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x.square(), local(y * y) - mean_y.square()
    covariance = local(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).flatten(1).mean(1).view(len(x), -1).mean(1)


def mean_rows(rows: Sequence[Mapping[str, Row]]) -> dict[str, Row]:
    """Return the mean over images of each measure of each method; None as soon as one is.

    Args:
        rows: for each image, measures by method.
    """
    result: dict[str, Row] = {}
    for name in rows[0] if rows else ():
        result[name] = {}
        for key in rows[0][name]:
            values = [row[name][key] for row in rows]
            known = [value for value in values if value is not None]
            result[name][key] = sum(known) / len(known) if len(known) == len(values) else None
    return result


def quality_table(rows: Mapping[str, Row], count: int, distance: str | None = None) -> str:
    """Return PSNR, SSIM and RMSE for people, a line a method.

    Args:
        rows: by method.
        count: images that they are means of.
        distance: name of that of the rows, if they have one.
    """
    width = max(12, *(len(name) + 1 for name in rows))  # a sampler of one's own may have a long name
    heading = f"{'':{width}}{'PSNR':>8}{'SSIM':>8}{'RMSE':>8}"
    lines = [heading + (f"  {distance}" if distance else "") + f"   mean of {count} images"]
    for name, row in rows.items():
        psnr = "equal" if row["psnr"] is None else format(row["psnr"], ".2f")
        line = f"{name:{width}}{psnr:>8}{row['ssim']:8.3f}{row['rmse']:8.4f}"
        lines.append(line + (f"  {row['distance']:.4g}" if "distance" in row else ""))
    return "\n".join(lines)
