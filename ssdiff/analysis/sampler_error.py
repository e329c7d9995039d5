"""Frechet distance of sampling chains in closed form [MATH.md, section 3].

For Gaussian data the MMSE denoiser is linear, so a whole chain of sampling steps is, and the covariance of
its
output is known without a network. Distances are squared and relative to the total variance of the data; means
play no part, for the MMSE denoiser keeps them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdiff.analysis.data_moments import DataModel
from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.process.base import State
from ssdiff.process.eta import Gains, gains
from ssdiff.process.gaussian import GaussianProcess, ResizeMatrix


def spectral_distance(
    data: DataModel,
    states: Sequence[State],
    timesteps: Sequence[int],
    eta: float,
    *,
    details: bool = False,
) -> float:
    """The distance under the approximation that DCT-II coefficients are independent at every resolution.

    Exact for stationary data up to what a resize folds back; costs O(R^2) a step, so 256 px is no burden.

    Args:
        data: with spectra of every resolution.
        states: of the process, t = 0..T, square.
        timesteps: the chain, T first, 0 last.
        eta: of every step.
        details: whether resolution transitions add details with the data's spectrum, see
            :mod:`ssdiff.priors.high_frequency`.
    """
    variance = torch.full_like(data.spectra[states[timesteps[0]].resolution], states[timesteps[0]].sigma ** 2)
    for t, s in itertools.pairwise(timesteps):
        now, then = states[t], states[s]
        spectrum, fine = data.spectra[now.resolution], data.spectra[then.resolution]
        resize = _diagonal(data.resize, then.resolution, now.resolution)
        kept = slice(0, now.resolution)
        common = fine[kept, kept]
        # E[X_s | x_t], coefficient by coefficient.
        guess = now.signal * resize * common / (now.signal**2 * spectrum + now.sigma**2)
        step = _gains(resize, now, then, eta)
        factor = then.signal * guess + step.gain * (1 - now.signal * resize * guess)
        before, variance = variance, torch.full_like(fine, then.sigma**2)
        if details and now.size != then.size and s > 0:
            variance += then.signal**2 * fine
        variance[kept, kept] = factor.square() * before + step.spread.square()
    truth = data.spectra[data.side]
    return float((truth.sqrt() - variance.sqrt()).square().sum()) / data.total


@dataclass(frozen=True, slots=True)
class _Level:
    """Eigenvalues (n,), eigenvectors (n, n) of the covariance at one resolution, and the resize (n, R^2)."""

    values: Tensor
    vectors: Tensor
    resize: Tensor


class ExactChains:
    """The distance with the true covariance: dense matrices of R^2 x R^2, for up to 64 px.

    Within a resolution a step multiplies the covariance elementwise in its eigenbasis; only changes of
    resolution take dense products.

    Args:
        data: with the covariance.

    Raises:
        ProcessError: if it has none.
    """

    def __init__(self, data: DataModel) -> None:
        if data.covariance is None:
            raise ProcessError("the exact distance needs the covariance of the data")
        self._side, self._covariance = data.side, data.covariance
        self._levels: dict[int, _Level] = {}

    def distance(
        self, process: GaussianProcess, timesteps: Sequence[int], eta: float, *, details: bool = False
    ) -> float:
        """As :func:`spectral_distance`.

        Args:
            process: of the data's size.
            timesteps: the chain, T first, 0 last.
            eta: of every step.
            details: likewise, with the data's covariance.
        """
        first = process.states[timesteps[0]]
        covariance = first.sigma**2 * torch.eye(first.resolution**2, dtype=torch.float64)
        for t, s in itertools.pairwise(timesteps):
            now, then = process.states[t], process.states[s]
            level = self._level(process, t)
            if now.size == then.size:
                guess = now.signal * level.values / (now.signal**2 * level.values + now.sigma**2)
                step = _gains(torch.ones((), dtype=torch.float64), now, then, eta)
                factor = then.signal * guess + step.gain * (1 - now.signal * guess)
                covariance = factor[:, None] * factor * covariance
                covariance.diagonal().add_(step.spread.square())
            else:
                covariance = self._change(process, covariance, t, s, eta)
                if details and s > 0:
                    covariance += self._details(process, t, s)
        values = self._level(process, 0).values
        root = values.sqrt()
        product = root[:, None] * covariance * root
        roots = torch.linalg.eigvalsh((product + product.mT) / 2).clamp_min(0).sqrt().sum()
        return float((values.sum() + covariance.diagonal().sum() - 2 * roots) / values.sum())

    def _level(self, process: GaussianProcess, t: int) -> _Level:
        side = process.states[t].resolution
        if side not in self._levels:
            n = self._side**2
            pixels = torch.eye(n, dtype=torch.float64).reshape(n, 1, self._side, self._side)
            resize = process.degrade(pixels, t).reshape(n, side**2).mT
            covariance = self._covariance if t == 0 else resize @ self._covariance @ resize.mT
            values, vectors = torch.linalg.eigh(covariance)
            self._levels[side] = _Level(values.clamp_min(0), vectors, resize)
        return self._levels[side]

    def _change(self, process: GaussianProcess, covariance: Tensor, t: int, s: int, eta: float) -> Tensor:
        """The covariance after a step to a finer resolution, by the process's own posterior."""
        now, then, level, finer = (
            process.states[t],
            process.states[s],
            self._level(process, t),
            self._level(process, s),
        )
        inverse = level.vectors / (now.signal**2 * level.values + now.sigma**2)
        cross = finer.resize @ (self._covariance @ level.resize.mT)
        guess = now.signal * cross @ inverse @ level.vectors.mT
        coarse, fine = len(level.values), len(finer.values)
        x_t = torch.eye(coarse, dtype=torch.float64).reshape(coarse, 1, *now.size)
        x_0 = guess.mT.reshape(coarse, 1, *then.size)
        posterior = process.posterior(x_t, x_0, t, s, eta)
        factor = finer.vectors.mT @ posterior.mean.reshape(coarse, fine).mT @ level.vectors
        noise = torch.eye(fine, dtype=torch.float64).reshape(fine, 1, *then.size)
        spread = finer.vectors.mT @ posterior.root(noise).reshape(fine, fine).mT
        return factor @ covariance @ factor.mT + spread @ spread.mT

    def _details(self, process: GaussianProcess, t: int, s: int) -> Tensor:
        """What added details contribute to the covariance, in the eigenbasis of the size of s."""
        finer, count = self._level(process, s), process.states[s].resolution ** 2
        pixels = torch.eye(count, dtype=torch.float64).reshape(count, 1, *process.states[s].size)
        lost = finer.vectors.mT @ process.high_frequencies(pixels, s, t).reshape(count, count) @ finer.vectors
        return process.states[s].signal ** 2 * (lost * finer.values) @ lost.mT


def _gains(resize: Tensor, now: State, then: State, eta: float) -> Gains:
    """Of a step from ``now`` down to ``then``; the clean image is taken as predicted."""
    if then.sigma == 0:
        return Gains(torch.zeros_like(resize), torch.zeros_like(resize))
    sigma_s, sigma_t = (torch.tensor(state.sigma, dtype=torch.float64) for state in (then, now))
    return gains(resize * (now.signal / then.signal), sigma_s, sigma_t, eta)


def _diagonal(matrix: ResizeMatrix, fine: int, coarse: int) -> Tensor:
    """(coarse, coarse) what a resize keeps of each DCT-II coefficient."""
    if fine == coarse:
        return torch.ones((), dtype=torch.float64)
    gain = (matrices.dct(coarse) @ matrix(fine, coarse) @ matrices.dct(fine).mT).diagonal()
    return torch.outer(gain, gain)
