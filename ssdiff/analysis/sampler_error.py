"""Frechet distance of sampling chains in closed form: what a schedule and its steps cost, without a network.

For Gaussian data the MMSE denoiser is linear, so a whole chain of sampling steps is, and the covariance of
its output is known. Let X_s = R_s x_0 be the clean image at the size of timestep s, S_s its covariance and
S_{s,t} that of X_s with X_t. A step of the eta family from t to s is then

    E[X_s | x_t] = W x_t,    W = a_t S_{s,t} (a_t^2 S_t + sigma_t^2 I)^{-1}                  MMSE denoiser
    x_s = a_s W x_t + B (x_t - a_t R_{s:t} W x_t) + C^{1/2} eps = F x_t + C^{1/2} eps

with the gain B and the covariance C of the process's posterior, so that the covariance V of the chain follows

    V_T = sigma_T^2 I,    V_s = F V_t F^T + C,    F = a_s W + B (I - a_t R_{s:t} W)

and the distance is (tr S + tr V_0 - 2 tr (S^{1/2} V_0 S^{1/2})^{1/2}) / tr S: squared, relative to the total
variance of the data. Means play no part, for the MMSE denoiser keeps them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdiff.analysis.covariance import frechet, trace_of_root
from ssdiff.analysis.data_moments import DataMoments
from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.process.base import State
from ssdiff.process.eta import Gains, gains
from ssdiff.process.gaussian import GaussianProcess, ResizeMatrix


def spectral_distance(
    data: DataMoments,
    states: Sequence[State],
    timesteps: Sequence[int],
    eta: float,
    *,
    renoise: bool = False,
) -> float:
    """Compute the distance with DCT-II coefficients that are taken for independent at every resolution.

    Exact for stationary data up to what a resize folds back; costs O(R^2) a step, so 256 px is no burden.

    Args:
        data: with spectra of every resolution.
        states: of the process, t = 0..T, square.
        timesteps: the chain, T first, 0 last.
        eta: of every step.
        renoise: whether resolution transitions add high frequencies with the data's spectrum, see
            :mod:`ssdiff.priors.high_frequency`.
    """
    top = states[timesteps[0]]
    variance = torch.full_like(data.spectra[top.resolution], top.sigma**2)  # V_T
    for t, s in itertools.pairwise(timesteps):
        now, then = states[t], states[s]
        spectrum, fine = data.spectra[now.resolution], data.spectra[then.resolution]
        resize = _diagonal(data.resize, then.resolution, now.resolution)  # R_{s:t}
        kept = slice(0, now.resolution)
        # Each coefficient by itself: S_{s,t} = R_{s:t} S_s, and W, B, C, F are numbers.
        denoiser = now.signal * resize * fine[kept, kept] / (now.signal**2 * spectrum + now.sigma**2)
        step = _gains(resize, now, then, eta)
        factor = then.signal * denoiser + step.gain * (1 - now.signal * resize * denoiser)
        before, variance = variance, torch.full_like(fine, then.sigma**2)  # C of what t has not seen
        if renoise and now.size != then.size and s > 0:
            variance += then.signal**2 * fine
        variance[kept, kept] = factor.square() * before + step.spread.square()  # V_s = F^2 V_t + C
    truth = data.spectra[data.side]
    # tr S + tr V - 2 tr (S V)^{1/2} of diagonal matrices
    return float((truth.sqrt() - variance.sqrt()).square().sum()) / data.total


@dataclass(frozen=True, slots=True)
class _Level:
    """S_t = U diag(values) U^T at one resolution: (n,), U (n, n), and R_t (n, R^2)."""

    values: Tensor
    vectors: Tensor
    resize: Tensor


class ExactChains:
    """The distance with the true covariance: dense matrices of R^2 x R^2, for up to 64 px.

    Within a resolution W, B, C and F are diagonal in the eigenbasis U of S_t, so V is kept in that basis and
    a step multiplies it elementwise; only resolution transitions take dense products.

    Args:
        data: with the covariance.

    Raises:
        ProcessError: if it has none.
    """

    def __init__(self, data: DataMoments) -> None:
        if data.covariance is None:
            raise ProcessError("the exact distance needs the covariance of the data")
        self._side, self._covariance = data.side, data.covariance
        self._levels: dict[int, _Level] = {}

    def distance(
        self, process: GaussianProcess, timesteps: Sequence[int], eta: float, *, renoise: bool = False
    ) -> float:
        """Compute the distance, as :func:`spectral_distance`.

        Args:
            process: of the data's size.
            timesteps: the chain, T first, 0 last.
            eta: of every step.
            renoise: likewise, with the data's covariance.
        """
        top = process.states[timesteps[0]]
        covariance = top.sigma**2 * torch.eye(top.resolution**2, dtype=torch.float64)  # V_T
        for t, s in itertools.pairwise(timesteps):
            now, then = process.states[t], process.states[s]
            if now.size == then.size:
                values = self._level(process, t).values
                denoiser = now.signal * values / (now.signal**2 * values + now.sigma**2)  # W
                step = _gains(torch.ones((), dtype=torch.float64), now, then, eta)
                factor = then.signal * denoiser + step.gain * (1 - now.signal * denoiser)  # F
                covariance = factor[:, None] * factor * covariance  # F V F^T
                covariance.diagonal().add_(step.spread.square())  # + C
            else:
                covariance = self._transition(process, covariance, t, s, eta)
                if renoise and s > 0:
                    covariance += self._high_frequencies(process, t, s)
        values = self._level(process, 0).values
        root = values.sqrt()
        roots = trace_of_root(root[:, None] * covariance * root)  # S is diagonal in its own basis
        total = float(values.sum())
        return frechet(values.new_zeros(1), total, float(covariance.diagonal().sum()), roots) / total

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

    def _transition(self, process: GaussianProcess, covariance: Tensor, t: int, s: int, eta: float) -> Tensor:
        """V_s after a step to a finer resolution, by the process's own posterior."""
        now, then = process.states[t], process.states[s]
        level, finer = self._level(process, t), self._level(process, s)
        inverse = level.vectors / (now.signal**2 * level.values + now.sigma**2)
        cross = finer.resize @ (self._covariance @ level.resize.mT)  # S_{s,t}
        denoiser = now.signal * cross @ inverse @ level.vectors.mT  # W
        coarse, fine = len(level.values), len(finer.values)
        # The posterior is linear in x_t and x_0: on unit vectors, with W of them for x_0, its mean is F.
        x_t = torch.eye(coarse, dtype=torch.float64).reshape(coarse, 1, *now.size)
        x_0 = denoiser.mT.reshape(coarse, 1, *then.size)
        posterior = process.posterior(x_t, x_0, t, s, eta)
        factor = finer.vectors.mT @ posterior.mean.reshape(coarse, fine).mT @ level.vectors
        noise = torch.eye(fine, dtype=torch.float64).reshape(fine, 1, *then.size)
        spread = finer.vectors.mT @ posterior.root(noise).reshape(fine, fine).mT  # C^{1/2}
        return factor @ covariance @ factor.mT + spread @ spread.mT

    def _high_frequencies(self, process: GaussianProcess, t: int, s: int) -> Tensor:
        """a_s^2 P S_s P^T in the eigenbasis of s, with P = I - R_{s:t}^+ R_{s:t}: what renoising adds."""
        finer, count = self._level(process, s), process.states[s].resolution ** 2
        pixels = torch.eye(count, dtype=torch.float64).reshape(count, 1, *process.states[s].size)
        lost = finer.vectors.mT @ process.high_frequencies(pixels, s, t).reshape(count, count) @ finer.vectors
        return process.states[s].signal ** 2 * (lost * finer.values) @ lost.mT


def _gains(resize: Tensor, now: State, then: State, eta: float) -> Gains:
    """B and C^{1/2} of a step from ``now`` down to ``then``; the clean image is taken as predicted."""
    if then.sigma == 0:
        return Gains(torch.zeros_like(resize), torch.zeros_like(resize))
    sigma_s, sigma_t = (torch.tensor(state.sigma, dtype=torch.float64) for state in (then, now))
    return gains(resize * (now.signal / then.signal), sigma_s, sigma_t, eta)


def _diagonal(matrix: ResizeMatrix, fine: int, coarse: int) -> Tensor:
    """(coarse, coarse) what a resize keeps of each DCT-II coefficient: its diagonal in that basis."""
    if fine == coarse:
        return torch.ones((), dtype=torch.float64)
    gain = (matrices.dct(coarse) @ matrix(fine, coarse) @ matrices.dct(fine).mT).diagonal()
    return torch.outer(gain, gain)
