"""One-dimensional matrices, the halves of separable operators; float64, on the CPU.

A matrix A of shape (n_out, n_in) maps a row of n_in pixels to n_out pixels: y = A x.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import ProcessError

Padding = Literal["circular", "reflect", "zero"]
PADDINGS: dict[str, Padding] = {"circular": "circular", "reflect": "reflect", "zero": "zero"}


def resize(n_in: int, n_out: int) -> Tensor:
    """Return the (n_out, n_in) anti-aliased bilinear resize, the one of PyTorch's ``interpolate``."""
    eye = torch.eye(n_in, dtype=torch.float64)[None, None]
    columns = F.interpolate(eye, size=(n_in, n_out), mode="bilinear", align_corners=False, antialias=True)
    return columns[0, 0].mT.contiguous()


def bicubic(n_in: int, n_out: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the (n_out, n_in) bicubic resize without anti-aliasing, the one of PyTorch's ``interpolate``.

    Args:
        n_in: pixels in a row.
        n_out: pixels in the result.
        dtype: in which the weights are computed; the result is float64.
    """
    eye = torch.eye(n_in, dtype=dtype)[None, None]
    columns = F.interpolate(eye, size=(n_in, n_out), mode="bicubic", align_corners=False)
    return columns[0, 0].mT.double().contiguous()


def bilinear(n_in: int, n_out: int) -> Tensor:
    """Return the (n_out, n_in) bilinear resize without anti-aliasing, that of PyTorch's ``interpolate``."""
    eye = torch.eye(n_in, dtype=torch.float64)[None, None]
    columns = F.interpolate(eye, size=(n_in, n_out), mode="bilinear", align_corners=False)
    return columns[0, 0].mT.contiguous()


def window_mean(n_in: int, n_out: int) -> Tensor:
    """Return the (n_out, n_in) mean over whole pixels: all that an interval touches count alike ('area' of
    PyTorch's ``interpolate``)."""
    first = torch.arange(n_out) * n_in // n_out
    end = -(-(torch.arange(n_out) + 1) * n_in // n_out)
    pixel = torch.arange(n_in)
    inside = ((pixel >= first[:, None]) & (pixel < end[:, None])).double()
    return inside / inside.sum(1, keepdim=True)


def area(n_in: int, n_out: int) -> Tensor:
    """Return the (n_out, n_in) average over equal intervals; pixels that two intervals share count by their
    overlap."""
    edges = torch.arange(n_out + 1, dtype=torch.float64) * (n_in / n_out)
    pixel = torch.arange(n_in, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return overlap.clamp_min(0) * (n_out / n_in)


def blocks(n: int, count: int) -> Tensor:
    """Return the (n, n) replacement of each of ``count`` blocks of whole pixels, about equal, by its mean."""
    block = torch.arange(n) * count // n
    same = (block[:, None] == block).double()
    return same / same.sum(1, keepdim=True)


def nearest(n_in: int, n_out: int) -> Tensor:
    """Return the (n_out, n_in) nearest neighbour ('nearest-exact': pixel centres are aligned)."""
    source = ((torch.arange(n_out, dtype=torch.float64) + 0.5) * (n_in / n_out)).floor().long()
    return F.one_hot(source.clamp(max=n_in - 1), n_in).double()


def gaussian_blur(n: int, std: float, taps: int | None = None, padding: Padding = "reflect") -> Tensor:
    """Return the (n, n) convolution with a sampled, normalised Gaussian.

    Args:
        n: pixels in a row.
        std: standard deviation in pixels, above 0.
        taps: odd length of the kernel; by default it reaches 4 standard deviations, at most n - 1 pixels,
            each way.
        padding: what lies beyond the border: the row repeated, its mirror image without the edge pixel, or
            zeros.

    Raises:
        ProcessError: for an even kernel, a std that is not positive, or a kernel wider than the padding
            allows.
    """
    reach = min(max(1, math.ceil(4 * std)), n - 1) if taps is None else taps // 2
    if not std > 0 or (taps is not None and taps % 2 == 0):
        raise ProcessError(
            f"a Gaussian kernel needs std > 0 and an odd length, not std {std} and length {taps}"
        )
    if padding != "zero" and reach > n - (padding == "reflect"):
        raise ProcessError(
            f"a kernel of {2 * reach + 1} taps is too wide for {n} pixels with {padding} padding",
            hint="use a larger image or a smaller kernel",
        )
    offset = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offset.double() / std) ** 2)
    kernel = kernel / kernel.sum()
    target = torch.arange(n)[:, None] + offset  # (n, taps) pixel that each tap reads
    if padding == "circular":
        target = target % n
    elif padding == "reflect":
        target = (n - 1) - (target.abs() - (n - 1)).abs()
    inside = (target >= 0) & (target < n)
    matrix = torch.zeros(n, n, dtype=torch.float64)
    return matrix.scatter_add_(1, target.clamp(0, n - 1), kernel.expand(n, -1) * inside)


def dct(n: int) -> Tensor:
    """Return the (n, n) orthonormal DCT-II: row k is the cosine of frequency k, ``dct(n) @ x`` the
    coefficients."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi * k * (i + 0.5) / n) * math.sqrt(2.0 / n)
    basis[0] /= math.sqrt(2.0)
    return basis


def heat(n: int, std: float) -> Tensor:
    """Return the (n, n) heat equation with reflecting ends, run until it blurs by ``std`` pixels [IHDM,
    section 2]."""
    frequency = math.pi * torch.arange(n, dtype=torch.float64) / n
    basis = dct(n)
    return basis.mT @ (torch.exp(-0.5 * (frequency * std) ** 2)[:, None] * basis)
