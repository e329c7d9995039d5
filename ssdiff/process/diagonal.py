"""Gaussian processes that are diagonal in a fixed basis: frequencies lose signal at different speeds.

x_t = U (a_t * U^T x_0 + sigma_t * eps), with one signal and one noise value for each coefficient: blurring
diffusion, blur diffusion and heat dissipation [docs/math.md, equation (57)]. The posterior is that of
:mod:`ssdiff.process.gaussian`, coefficient by coefficient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssdiff.devices import to_device
from ssdiff.errors import ProcessError
from ssdiff.operators.base import Constants, Size
from ssdiff.process.base import Posterior, Process, State, Timestep
from ssdiff.process.eta import gains
from ssdiff.process.spectra import Spectrum

_SLACK = 1e-9  # relative rounding that the check of a transition forgives
_CHECKED = 16  # transitions at once


class DiagonalProcess(Process):
    """A chain of states of one size with exact marginals and posteriors between any two of them.

    With an orthonormal basis U and coefficients k [docs/math.md, equation (57)]:

        x_t = U (a_tk (U^T x_0)_k + sigma_tk eps_k)_k
        x_s = U (mu_sk + b_k (U^T x_t - m_k mu_s)_k + c_k eps_k)_k,  mu_s = a_s U^T x_0, m_k = a_tk / a_sk

    with b and c of the eta family [docs/math.md, equations (9) to (13)].

    References:
        Hoogeboom, Salimans, "Blurring Diffusion Models", 2022, arXiv 2209.05557 [BDM]; Rissanen, Heinonen,
        Solin, "Generative Modelling with Inverse Heat Dissipation", 2022, arXiv 2206.13397 [IHDM]; Lee,
        Chung, Kim, Ye, "Progressive Deblurring of Diffusion Models for Coarse-to-Fine Image Synthesis", 2022,
        arXiv 2207.11192 [BD].

    Shapes:
        x_0 and x_t are (B, C, H, W); x_0 is in [-1, 1], noise in units of it.

    Args:
        spectrum: basis, signal and noise.
        sampling_noise: standard deviation of fresh noise in units of the spectrum's, for processes whose
            noise is independent [IHDM, section 3: 1.25].
        least_signal: coefficients with less signal than this are not divided by it when the clean image is
            computed from the noise, but tend to zero; :meth:`sharpen` gives zero.
        checked: False leaves out the check of every transition, for states alone, at the size of photographs.

    Raises:
        ProcessError: a transition would need negative variance; names the pair of states.
    """

    def __init__(
        self,
        spectrum: Spectrum,
        *,
        sampling_noise: float = 1.0,
        least_signal: float = 0.01,
        checked: bool = True,
    ) -> None:
        self.spectrum = spectrum
        self._sampling_noise, self._least = sampling_noise, least_signal
        scales, sigmas = spectrum.scale.tolist(), spectrum.sigma.tolist()
        self.states = tuple(State(spectrum.size, a, c) for a, c in zip(scales, sigmas, strict=True))
        self._bases = Constants(rows=spectrum.rows, columns=spectrum.columns)
        self._ratios = Constants(snr=(spectrum.scale / spectrum.sigma).square())
        if checked and not spectrum.independent:
            self._check_transitions()

    @property
    def size(self) -> Size:
        """(H, W) of the images."""
        return self.spectrum.size

    @property
    def coloured(self) -> bool:  # type: ignore[override]
        """Whether signal and noise share the variance of each coefficient."""
        return self.spectrum.coloured

    def network_input(self, x_t: Tensor, t: Timestep) -> Tensor:
        """Return x_t of the image in [0, 1] where the spectrum is of such: (x_t + A_t 1) / 2, A_t the signal.

        Where u_t = A_t u + n / 2 belongs to u = (x + 1) / 2, x_t = 2 u_t - A_t 1 belongs to x [docs/math.md,
        equation (60)].
        """
        return (x_t + self._white(t, x_t)) / 2 if self.spectrum.unit_range else x_t

    def _white(self, t: Timestep, like: Tensor) -> Tensor:
        """A_t 1, the signal of a white image."""
        signal, _ = self.coefficients(t, like)
        return self.synthesis(signal * self.analysis(like.new_ones(self.size)))

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t): signal of each coefficient relative to that of the best kept one; no noise.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: one timestep, or (B,) timesteps.
            images: (B,) image numbers; they do not matter.
        """
        signal, _ = self.coefficients(t, x0)
        scale = self.spectrum.scale[self._index(t)].to(x0)[:, None, None, None]
        return self.synthesis(signal / scale * self.analysis(x0))

    def marginal(self, x0: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return x_t from (B, C, H, W) clean images and standard normal noise (white, in pixels)."""
        signal, sigma = self.coefficients(t, x0)
        return self.synthesis(signal * self.analysis(x0) + sigma * self.analysis(noise))

    def scale(self, degraded: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return a_t degraded + U (sigma_t * U^T noise), a_t of the coefficient that is degraded least."""
        scale = self.spectrum.scale[self._index(t)].to(degraded)[:, None, None, None]
        _, sigma = self.coefficients(t, degraded)
        return scale * degraded + self.synthesis(sigma * self.analysis(noise))

    def pure_noise(self, t: int, noise: Tensor) -> Tensor:
        """Return U (sigma_t * U^T noise), coloured where sigma_t is."""
        _, sigma = self.coefficients(t, noise)
        return self.synthesis(sigma * self.analysis(noise))

    def clean_from_noise(self, x_t: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return x_0 from x_t and its white noise; coefficients of hardly any signal tend to zero."""
        signal, sigma = self.coefficients(t, x_t)
        kept = self.analysis(x_t) - sigma * self.analysis(noise)
        return self.synthesis(signal * kept / (signal.square() + self._least**2))

    def snr(self, t: Tensor) -> Tensor:
        """Return (a_t / sigma_t)^2 of the best kept coefficient, (B,) float32 on the device of ``t``."""
        return self._ratios.like(torch.empty(0, device=t.device))["snr"][t]

    def posterior(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, eta: float = 1.0) -> Posterior:
        """Return p(x_s | x_t, x_0), or its less random relatives.

        The step of docs/math.md, equation (12), coefficient by coefficient with m = a_t / a_s.

        Args:
            x_t: (B, C, H, W).
            x0_s: (B, C, H, W) clean image or prediction, about [-1, 1].
            t: timestep of ``x_t``.
            s: timestep wanted, 0 <= s < t; 0 returns ``x0_s``.
            eta: 1 is the exact posterior, 0 keeps every known noise component. Where the noise of timesteps
                is independent, 1 draws all noise anew [IHDM] and 0 is Algorithm 2 of cold diffusion.

        Raises:
            ProcessError: if s, t or eta is out of range, or a size is not the process's.
        """
        self._check_step(t, s, eta)
        for name, x in (("x_t", x_t), ("x0_s", x0_s)):
            if tuple(x.shape[-2:]) != self.size:
                raise ProcessError(f"{name} is {tuple(x.shape[-2:])} pixels, not {self.size}")
        if s == 0:
            return Posterior(x0_s, lambda noise: torch.zeros_like(noise))
        (a_t, a_s), (c_t, c_s) = self.spectrum.coefficients(torch.tensor([t, s]))
        step = gains(_ratio(a_t, a_s), c_s, c_t, eta, self.spectrum.independent)
        factor = self._sampling_noise if self.spectrum.independent else 1.0
        gain, spread = step.gain.to(x_t), (factor * step.spread).to(x_t)
        clean = self.analysis(x0_s)
        residual = self.analysis(x_t) - a_t.to(x_t) * clean
        mean = self.synthesis(a_s.to(x_t) * clean + gain * residual)
        return Posterior(mean, lambda noise: self.synthesis(spread * self.analysis(noise)))

    def sharpen(self, degraded: Tensor, t: Timestep) -> Tensor:
        """Return x_0 of D(x_0, t); coefficients of hardly any signal are zero, so D gives back the others."""
        signal, _ = self.coefficients(t, degraded)
        relative = signal / self.spectrum.scale[self._index(t)].to(degraded)[:, None, None, None]
        kept = self.analysis(degraded)
        return self.synthesis(torch.where(relative >= self._least, kept / relative, 0.0))

    def unsharp(self, x_t: Tensor, noise: Tensor, t: int, s: int, fresh: Tensor | None) -> Tensor:
        """Return x_s by the step of blur diffusion's authors, unsharp masking and score [BD, equation 19].

        In the eigenbasis, with the image in the range in which noise has std 1 and beta = B_t / B_s,

            u_s = u_t + (1 - sqrt(beta)) u_t - (1 - beta) eps / sqrt(1 - B_t) + sqrt(1 - beta) z

        [docs/math.md, section 13]. It is an Euler step, made for s = t - 1.

        Args:
            x_t: (B, C, H, W).
            noise: (B, C, H, W) prediction of the white noise in ``x_t``.
            t: timestep of ``x_t``.
            s: timestep wanted, 0 <= s < t.
            fresh: (B, C, H, W) standard normal noise; None leaves it out, as published at t = 1 and 2.

        Raises:
            ProcessError: if signal and noise do not share the variance of a coefficient.
        """
        if not self.coloured:
            return super().unsharp(x_t, noise, t, s, fresh)
        self._check_step(t, s, 0.0)
        signal, _ = self.spectrum.coefficients(torch.tensor([s, t]))
        ratio, spread = _ratio(signal[1:], signal[:1]), torch.sqrt(1 - signal[1:].square())
        lost = 1 - ratio.square()
        u = (2 - ratio).to(x_t) * self.analysis(self.network_input(x_t, t))
        u = u - (lost / spread).to(x_t) * self.analysis(noise)
        if fresh is not None:
            u = u + lost.clamp_min(0).sqrt().to(x_t) * self.analysis(fresh)
        x = self.synthesis(u)
        return 2 * x - self._white(s, x_t) if self.spectrum.unit_range else x

    def log_noise(self) -> Tensor:
        """Return (T,) log(sigma_t / a_t) of the best kept coefficient."""
        return (self.spectrum.sigma[1:] / self.spectrum.scale[1:]).log()

    def coefficients(self, t: Timestep, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return signal and noise as (B, C, H, W), or (1, C, H, W) for one timestep; 1 broadcasts."""
        signal, sigma = self.spectrum.coefficients(self._index(t))
        return to_device(signal.to(like.dtype), like.device), to_device(sigma.to(like.dtype), like.device)

    def noise_deviations(self, t: int) -> Tensor:
        """Return (H, W) standard deviations of the coefficients' noise, those of the first channel."""
        return self.spectrum.coefficients(torch.tensor([t])).sigma[0, 0].expand(self.size)

    def pixel_deviations(self, t: int) -> Tensor:
        """Return (H, W) standard deviations of the noise of x_t, pixel by pixel."""
        rows, columns = self.spectrum.rows.square(), self.spectrum.columns.square()
        return (rows.mT @ self.noise_deviations(t).square() @ columns).sqrt()

    def analysis(self, x: Tensor) -> Tensor:
        """Return coefficients U^T x of pixels, (..., H, W)."""
        bases = self._bases.like(x)
        return bases["rows"] @ x @ bases["columns"].mT

    def synthesis(self, coefficients: Tensor) -> Tensor:
        """Return pixels U c of coefficients, (..., H, W)."""
        bases = self._bases.like(coefficients)
        return bases["rows"].mT @ coefficients @ bases["columns"]

    def _index(self, t: Timestep) -> Tensor:
        index = torch.tensor([t]) if isinstance(t, int) else t.cpu()
        if not 0 <= int(index.min()) <= int(index.max()) <= self.T:
            raise ProcessError(f"timestep {t} is outside 0..{self.T}")
        return index

    def _check_transitions(self) -> None:
        for first in range(1, self.T, _CHECKED):
            signal, sigma = self.spectrum.coefficients(torch.arange(first, min(first + _CHECKED, self.T) + 1))
            shrinks = sigma[1:] * signal[:-1] < sigma[:-1] * signal[1:] * (1 - _SLACK)
            if bool(shrinks.any()):
                s = first + int(shrinks.flatten(1).any(1).nonzero()[0])
                raise ProcessError(
                    f"no transition from timestep {s} to {s + 1}: some coefficient's noise would have to "
                    "shrink",
                    hint="use a noise schedule that rises faster",
                )


def _ratio(a_t: Tensor, a_s: Tensor) -> Tensor:
    """a_t / a_s; 0 for coefficients of which float64 has nothing left at s."""
    return torch.where(a_s > 0, a_t / a_s, 0.0)
