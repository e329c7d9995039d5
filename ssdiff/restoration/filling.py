"""Missing pixels filled without a model: what plug and play begins with, and what it learns of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_REACH, _STD, _WITHOUT = 4, 0.6, 0.1  # pixels, pixels, and the weight of no correction at all, found by trial
_STEPS = 60  # of conjugate gradients; holes of a few pixels take half of them
_ENOUGH = 1e-4  # of the first residual


def fill_smoothly(y: Tensor, known: Tensor) -> Tensor:
    """Fill missing pixels so that the picture bends least: a biharmonic surface through the known ones.

    Minimises the sum of squares of the five-point Laplacian over the missing pixels, by conjugate gradients
    from means of the known pixels around [docs/math.md, section 17].

    Args:
        y: (B, C, H, W).
        known: (H, W), 1 where it is known and 0 where not.
    """
    mask = known.to(y)[None, None]
    x = torch.where(mask > 0, y, _coarse_to_fine(y * mask, mask))
    missing = (mask == 0).to(y)
    residual = -_bend(x) * missing
    direction, size = residual, _square(residual)
    first = size
    for _ in range(_STEPS):
        if bool((size <= _ENOUGH**2 * first).all()):
            break
        image = _bend(direction) * missing
        step = size / (direction * image).sum((1, 2, 3), keepdim=True).clamp(min=1e-30)
        x, residual = x + step * direction, residual - step * image
        before, size = size, _square(residual)
        direction = residual + size / before.clamp(min=1e-30) * direction
    return x


def passed_on(change: Tensor, known: Tensor) -> Tensor:
    """Give missing pixels their part of what is corrected in the known ones around.

    The errors of a prediction at neighbouring pixels have much in common: c + (1 - m) (g * c) / (g * m +
    1/10), with a Gaussian g of 1 in the middle, the mean of missing errors given the known ones if those of
    pixels far apart are independent [docs/math.md, equation (86)].

    Args:
        change: (B, C, H, W), 0 where a pixel is missing.
        known: (H, W) or smaller at the lower and the right border, 1 where it is known and 0 where not.
    """
    height, width = change.shape[-2:]
    wide = F.pad(known.to(change), (0, width - known.shape[-1], 0, height - known.shape[-2]))[None, None]
    weight = _weighted(wide) + _WITHOUT
    parts = [_weighted(part) / weight for part in change.flatten(0, 1)[:, None, None]]
    return change + (1 - wide) * torch.cat(parts).view_as(change)


def _weighted(x: Tensor) -> Tensor:
    """(1, 1, H, W) sums with the weights of a Gaussian that is 1 in the middle."""
    line = torch.exp(-(torch.arange(-_REACH, _REACH + 1).to(x) / _STD).square() / 2)
    down = F.conv2d(x, line.view(1, 1, -1, 1), padding=(_REACH, 0))
    return F.conv2d(down, line.view(1, 1, 1, -1), padding=(0, _REACH))


def _coarse_to_fine(total: Tensor, weight: Tensor) -> Tensor:
    """Weighted means of 2 x 2 pixels on all levels of a pyramid; what a level lacks comes from the next."""
    mean = total / weight.clamp(min=1e-6)
    if bool((weight > 0).all()) or max(total.shape[-2:]) == 1:
        return mean
    halves = [F.avg_pool2d(part, 2, ceil_mode=True, count_include_pad=False) for part in (total, weight)]
    coarse = _coarse_to_fine(*halves)
    smooth = F.interpolate(coarse, size=total.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weight > 0, mean, smooth)


def _bend(x: Tensor) -> Tensor:
    """Half the gradient of the energy: the Laplacian, which is symmetric, twice."""
    return _laplacian(_laplacian(x))


def _laplacian(x: Tensor) -> Tensor:
    """The five-point Laplacian of a picture that goes on flatly."""
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
    return across + wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1] - 4 * x


def _square(x: Tensor) -> Tensor:
    return x.square().sum((1, 2, 3), keepdim=True)
