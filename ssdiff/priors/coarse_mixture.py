"""Where generation begins if a process does not end in noise: a Gaussian mixture over coarse images.

Cold diffusion draws the mean colour, or a 2 x 2 image, from a mixture fitted to the training set [CD, section
5.2 and appendix].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssdiff import rng
from ssdiff.data import evenly
from ssdiff.errors import CheckpointError
from ssdiff.images import from_uint8
from ssdiff.operators import matrices
from ssdiff.operators.base import Size
from ssdiff.process.base import Process

Basis = Literal["blocks", "cosines"]
_FITTED, _PART = 20_000, 256  # images that a prior is fitted to, and how many at once
_ROUNDS = 100
_RIDGE = 1e-6  # variance added to each number, so that a constant one does no harm


@dataclass(frozen=True, slots=True)
class CoarseMixture:
    """Images that a few numbers describe, with a Gaussian mixture over these numbers.

    See docs/math.md, equation (56).

    Attributes:
        size: (H, W) of the images.
        channels: of the images.
        grid: numbers a side and channel.
        basis: ``blocks`` of one colour, or the lowest ``cosines`` (DCT-II).
        weights: (K,) float64, of the components; sum 1.
        means: (K, D), D = channels * grid^2.
        roots: (K, D, D) Cholesky factors of the covariances.
    """

    size: Size
    channels: int
    grid: int
    basis: Basis
    weights: Tensor
    means: Tensor
    roots: Tensor

    def draw(self, key: int, images: Tensor) -> Tensor:
        """Draw (B, C, H, W) float32 images, each a pure function of its number.

        Args:
            key: from :func:`ssdiff.rng.derive`.
            images: (B,) image numbers; sets the device.
        """
        device = images.device
        edges = self.weights.cumsum(0).float().to(device)
        which = torch.searchsorted(edges, rng.uniform(key, images, 0, ())).clamp(max=len(edges) - 1)
        unit = rng.normal(key, images, 1, (self.means.shape[1],))
        roots, means = self.roots.float().to(device)[which], self.means.float().to(device)[which]
        numbers = means + torch.einsum("bij,bj->bi", roots, unit)
        _, expand = _maps(self.size, self.grid, self.basis)
        coarse = numbers.reshape(-1, self.channels, self.grid, self.grid)
        return expand[0].to(coarse) @ coarse @ expand[1].to(coarse).mT

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers for a checkpoint."""
        return {
            "size": list(self.size),
            "channels": self.channels,
            "grid": self.grid,
            "basis": self.basis,
            "weights": self.weights.tolist(),
            "means": self.means.tolist(),
            "roots": self.roots.tolist(),
        }

    @classmethod
    def from_json(cls, values: Any) -> CoarseMixture:
        """Build it from what :meth:`to_json` returned.

        Raises:
            CheckpointError: if ``values`` is not what that gives.
        """
        try:
            size, channels, grid = (
                tuple(map(int, values["size"])),
                int(values["channels"]),
                int(values["grid"]),
            )
            tables = [
                torch.tensor(values[name], dtype=torch.float64) for name in ("weights", "means", "roots")
            ]
            basis = values["basis"]
        except (KeyError, OverflowError, RuntimeError, TypeError, ValueError):
            raise CheckpointError("the checkpoint's terminal prior is damaged") from None
        numbers = channels * grid**2
        shapes = [tuple(table.shape) for table in tables]
        count = shapes[0][0] if shapes[0] else 0
        expected = [(count,), (count, numbers), (count, numbers, numbers)]
        if len(size) != 2 or basis not in ("blocks", "cosines") or not count or shapes != expected:
            raise CheckpointError("the checkpoint's terminal prior is damaged")
        return cls((size[0], size[1]), channels, grid, basis, *tables)


def describe(images: Tensor, grid: int, basis: Basis) -> Tensor:
    """Return (B, D) float64 numbers of (B, C, H, W) images: block means, or the lowest DCT coefficients."""
    reduce, _ = _maps((images.shape[-2], images.shape[-1]), grid, basis)
    wide = images.double()
    return (reduce[0].to(wide) @ wide @ reduce[1].to(wide).mT).flatten(1).cpu()


def fit_prior(data: np.ndarray, process: Process, grid: int, basis: Basis, components: int) -> CoarseMixture:
    """Fit a terminal prior to the most degraded images of a set.

    Args:
        data: (N, C, S, S) uint8; up to 20,000 images are used, evenly from the whole.
        process: degrades.
        grid: as in :func:`describe`.
        basis: as in :func:`describe`.
        components: Gaussians, at most N.
    """
    chosen = evenly(len(data), _FITTED)
    numbers = torch.cat(
        [
            describe(process.degrade(from_uint8(torch.tensor(data[part])), process.T), grid, basis)
            for part in np.array_split(chosen, -(-len(chosen) // _PART))
        ]
    )
    return fit_mixture(numbers, process.states[0].size, data.shape[1], grid, basis, components)


def fit_mixture(
    numbers: Tensor, size: Size, channels: int, grid: int, basis: Basis, components: int
) -> CoarseMixture:
    """Fit by expectation maximisation, to the maximum likelihood, from a start that depends on the numbers
    alone.

    Args:
        numbers: (N, D) from :func:`describe`.
        size: (H, W) of the images.
        channels: of the images.
        grid: as in :func:`describe`.
        basis: as in :func:`describe`.
        components: Gaussians, at most N.
    """
    count = min(components, len(numbers))
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    order = numbers.sum(1).argsort()
    means = numbers[order[torch.linspace(0, len(order) - 1, 2 * count + 1).round().long()[1::2]]]
    spread = _covariance(numbers, torch.ones(len(numbers), 1, dtype=torch.float64))[1]
    covariances = spread.repeat(count, 1, 1)
    likelihood = -math.inf
    for _ in range(_ROUNDS if count > 1 else 1):
        if count > 1:
            joint = _log_density(numbers, means, torch.linalg.cholesky(covariances)) + weights.log()
            total = joint.logsumexp(1, keepdim=True)
            shares = (joint - total).exp()
        else:
            total, shares = torch.zeros(1, dtype=torch.float64), torch.ones(len(numbers), 1).double()
        means, covariances = _covariance(numbers, shares)
        weights = shares.mean(0)
        previous, likelihood = likelihood, float(total.mean())
        if likelihood - previous < 1e-6:
            break
    return CoarseMixture(size, channels, grid, basis, weights, means, torch.linalg.cholesky(covariances))


def _covariance(numbers: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """(K, D) means and (K, D, D) covariances of (N, D) numbers that belong to components by (N, K) shares."""
    mass = shares.sum(0).clamp_min(1e-12)
    means = shares.mT @ numbers / mass[:, None]
    squares = torch.einsum("nk,ni,nj->kij", shares, numbers, numbers) / mass[:, None, None]
    ridge = _RIDGE * torch.eye(numbers.shape[1], dtype=torch.float64)
    return means, squares - means[:, :, None] * means[:, None, :] + ridge


def _log_density(numbers: Tensor, means: Tensor, roots: Tensor) -> Tensor:
    """(N, K) log densities."""
    centred = (numbers[:, None] - means).permute(1, 2, 0)  # (K, D, N)
    white = torch.linalg.solve_triangular(roots, centred, upper=False)
    volume = roots.diagonal(dim1=-2, dim2=-1).log().sum(1) + 0.5 * numbers.shape[1] * math.log(2 * math.pi)
    density: Tensor = (-0.5 * white.square().sum(1) - volume[:, None]).mT
    return density


def _maps(size: Size, grid: int, basis: Basis) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices for rows and columns that reduce an image to its numbers, and that expand them."""
    if basis == "cosines":
        lowest = [matrices.dct(n)[:grid] for n in size]
        return lowest, [table.mT for table in lowest]
    return [matrices.area(n, grid) for n in size], [matrices.nearest(grid, n) for n in size]
