"""Missing pixels filled without a model: what plug and play begins with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
