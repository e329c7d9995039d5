"""Frechet distance of sampling chains in closed form: what a schedule and its steps lose, without a network.

For Gaussian data with covariance S the MMSE denoiser is linear, so a whole chain of sampling steps is, and
the covariance C_t of what it has drawn at t is known [docs/math.md, section 11]. With R_t the resize to the
size of t and S_t = R_t S R_t^T, a step of the eta family from t to s is

    E[X_s | x_t] = G x_t,    G = a_t R_s S R_t^T (a_t^2 S_t + sigma_t^2 I)^{-1}          equation (42)
    x_s = a_s G x_t + B (x_t - a_t R_{s:t} G x_t) + C(eta)^{1/2} eps

with B and C(eta) the gain and the covariance of the process's posterior, so that

    C_T = sigma_T^2 I,    C_s = F C_t F^T + C(eta),    F = a_s G + B (I - a_t R_{s:t} G)    equation (43)

and the squared distance, relative to the total variance of the data, is equation (45)

    (tr S + tr C_0 - 2 tr (S^{1/2} C_0 S^{1/2})^{1/2}) / tr S

Means play no part, for the MMSE denoiser keeps them.
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
from ssdiff.operators.resizing import ResizeMatrix
from ssdiff.process.base import State
from ssdiff.process.eta import Gains, gains
from ssdiff.process.gaussian import GaussianProcess


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
            :mod:`ssdiff.priors.image_spectrum`.
    """
    top = states[timesteps[0]]
    variance = torch.full_like(data.spectra[top.resolution], top.sigma**2)  # C_T
    for t, s in itertools.pairwise(timesteps):
        now, then = states[t], states[s]
        spectrum, fine = data.spectra[now.resolution], data.spectra[then.resolution]
        resize = _diagonal(data.resize, then.resolution, now.resolution)  # R_{s:t}
        kept = slice(0, now.resolution)
        # Equation (46): each coefficient by itself, so G, B, C(eta) and F are numbers.
        denoiser = now.signal * resize * fine[kept, kept] / (now.signal**2 * spectrum + now.sigma**2)
        step = _gains(resize, now, then, eta)
        factor = then.signal * denoiser + step.gain * (1 - now.signal * resize * denoiser)
        before, variance = variance, torch.full_like(fine, then.sigma**2)  # new ones
        if renoise and now.size != then.size and s > 0:
            variance += then.signal**2 * fine
        variance[kept, kept] = factor.square() * before + step.spread.square()  # F^2 C_t + C(eta)
    truth = data.spectra[data.side]
    # tr S + tr C_0 - 2 tr (S C_0)^{1/2}, both diagonal
    return float((truth.sqrt() - variance.sqrt()).square().sum()) / data.total


@dataclass(frozen=True, slots=True)
class _Level:
    """S_t = U diag(values) U^T at one resolution: (n,), U (n, n), and R_t (n, R^2)."""

    values: Tensor
    vectors: Tensor
    resize: Tensor


class ExactChains:
    """The distance with the true covariance: dense matrices of R^2 x R^2, for up to 64 px.

    Within a resolution G, B, C(eta) and F are diagonal in the eigenbasis of S_t, so C_t is kept in that basis
    and a step multiplies it elementwise, equation (44); only resolution transitions take dense products.

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
        covariance = top.sigma**2 * torch.eye(top.resolution**2, dtype=torch.float64)  # C_T
        for t, s in itertools.pairwise(timesteps):
            now, then = process.states[t], process.states[s]
            if now.size == then.size:
                values = self._level(process, t).values
                denoiser = now.signal * values / (now.signal**2 * values + now.sigma**2)  # G
                step = _gains(torch.ones((), dtype=torch.float64), now, then, eta)
                factor = then.signal * denoiser + step.gain * (1 - now.signal * denoiser)  # F
                covariance = factor[:, None] * factor * covariance  # F C_t F^T
                covariance.diagonal().add_(step.spread.square())  # + C(eta)
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
        """C_s after a step to a finer resolution, by the process's own posterior."""
        now, then = process.states[t], process.states[s]
        level, finer = self._level(process, t), self._level(process, s)
        inverse = level.vectors / (now.signal**2 * level.values + now.sigma**2)
        cross = finer.resize @ (self._covariance @ level.resize.mT)  # R_s S R_t^T
        denoiser = now.signal * cross @ inverse @ level.vectors.mT  # G
        coarse, fine = len(level.values), len(finer.values)
        # The posterior is linear in x_t and x_0: on unit vectors, with G of them for x_0, its mean is F.
        x_t = torch.eye(coarse, dtype=torch.float64).reshape(coarse, 1, *now.size)
        x_0 = denoiser.mT.reshape(coarse, 1, *then.size)
        posterior = process.posterior(x_t, x_0, t, s, eta)
        factor = finer.vectors.mT @ posterior.mean.reshape(coarse, fine).mT @ level.vectors
        noise = torch.eye(fine, dtype=torch.float64).reshape(fine, 1, *then.size)
        spread = finer.vectors.mT @ posterior.root(noise).reshape(fine, fine).mT  # C(eta)^{1/2}
        return factor @ covariance @ factor.mT + spread @ spread.mT

    def _high_frequencies(self, process: GaussianProcess, t: int, s: int) -> Tensor:
        """a_s^2 P S_s P^T in the eigenbasis of s, with P = I - R_{s:t}^+ R_{s:t}: what renoising adds."""
        finer, count = self._level(process, s), process.states[s].resolution ** 2
        pixels = torch.eye(count, dtype=torch.float64).reshape(count, 1, *process.states[s].size)
        lost = finer.vectors.mT @ process.high_frequencies(pixels, s, t).reshape(count, count) @ finer.vectors
        return process.states[s].signal ** 2 * (lost * finer.values) @ lost.mT


def _gains(resize: Tensor, now: State, then: State, eta: float) -> Gains:
    """B and C(eta)^{1/2} of a step from ``now`` down to ``then``; the clean image is taken as predicted."""
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
