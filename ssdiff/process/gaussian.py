"""The linear Gaussian process: noise and resolution transitions, with exact posteriors [SSD, section 3].

Formulas are those of docs/math.md, sections 2 to 4; numbers in comments are of its equations. DDPM is the
case in which the resolution never changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ssdiff.devices import to_device
from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.base import Constants, Size
from ssdiff.operators.factored import Factored
from ssdiff.operators.resizing import ResizeMatrix, follow, is_large, resize_step
from ssdiff.process.base import Posterior, Process, State, Timestep
from ssdiff.process.eta import Gains, gains

_SLACK = 1e-9  # relative rounding that the check of a transition forgives


class GaussianProcess(Process):
    """A chain of states with exact marginals, transitions and posteriors between any two of them.

    With R_t the cumulative resize and M = M_{s:t} = (a_t / a_s) R_{s:t} [docs/math.md, equations (1) to (5)]:

        x_t = a_t R_t x_0 + sigma_t eps
        x_t = M x_s + eta,  eta ~ N(0, sigma_t^2 I - sigma_s^2 M M^T)
        E[x_s | x_t, x_0] = mu_s + (sigma_s^2 / sigma_t^2) M^T (x_t - M mu_s),  mu_s = a_s R_s x_0
        Cov[x_s | x_t, x_0] = sigma_s^2 I - (sigma_s^4 / sigma_t^2) M^T M

    References:
        Mukhopadhyay, Udhayanan, Shrivastava, "Scale Space Diffusion", 2026, arXiv 2603.08709 [SSD]; at one
        size Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, arXiv 2006.11239
        [Ho et al. 2020].

    Shapes:
        x_0 is (B, C, H, W) in [-1, 1], x_t (B, C, h_t, w_t); noise is in units of the [-1, 1] image.

    Args:
        states: timestep 0 (clean: signal 1, sigma 0) to T.
        resize: (n_in, n_out) to the 1-D matrix of one resolution transition; kept as ``resize_matrix``.

    Raises:
        ProcessError: if state 0 is not clean, a size grows with t, or a transition would need negative
            variance: sigma_t >= sigma_s ||M_{s:t}|| is required [docs/math.md, equation (3)]. It names the
            pair of states.

    Example:
        >>> from ssdiff.process.gaussian import GaussianProcess, State
        >>> states = [State((8, 8), 1.0, 0.0), State((8, 8), 0.9, 0.4), State((4, 4), 0.4, 0.9)]
        >>> process = GaussianProcess(states)
        >>> process.posterior(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), t=2, s=1).mean.shape
        torch.Size([1, 3, 8, 8])
    """

    isotropic = True

    def __init__(self, states: Sequence[State], resize: ResizeMatrix = matrices.resize) -> None:
        if len(states) < 2 or states[0].signal != 1 or states[0].sigma != 0:
            raise ProcessError(
                "a process starts at a clean state (signal 1, sigma 0) and has at least one more"
            )
        self.states, self.resize_matrix = tuple(states), resize
        self._tables = Constants(
            signal=torch.tensor([s.signal for s in states], dtype=torch.float64),
            sigma=torch.tensor([s.sigma for s in states], dtype=torch.float64),
        )
        self._resizes = _cumulative_resizes([s.size for s in states], resize)
        self._steps: dict[tuple[int, int, float], Constants] = {}
        for t in range(2, len(states)):
            self._check_transition(t - 1, t)

    def resize(self, x: Tensor, s: int, t: int) -> Tensor:
        """Return R_{s:t} x: (B, C, h_s, w_s) to (B, C, h_t, w_t), no signal scale."""
        operator = self._resize(s, t)
        return operator.apply(x) if operator else x

    def reduction(self, size: Size) -> Factored:
        """Return R from full size to a smaller one of the process.

        Raises:
            ProcessError: no timestep has that size.
        """
        found = self._resizes.get((self.states[0].size, size))
        if found is None:
            raise ProcessError(f"no timestep has {size} pixels by a resolution transition")
        return found

    def lift(self, x: Tensor, s: int, t: int) -> Tensor:
        """Return R_{s:t}^T x / ||R_{s:t}||^2: (B, C, h_t, w_t) to (B, C, h_s, w_s).

        It carries a trend over a transition [docs/math.md, equation (26)]: R_{s:t}^+ x where areas are
        averaged, elsewhere without what a pseudo-inverse amplifies.
        """
        operator = self._resize(s, t)
        return operator.adjoint(x) / operator.norm() ** 2 if operator else x

    def high_frequencies(self, x: Tensor, s: int, t: int) -> Tensor:
        """Return x - R_{s:t}^+ R_{s:t} x: the details of (B, C, h_s, w_s) images that are not seen at the
        size of t."""
        operator = self._resize(s, t)
        return x - operator.pseudo_inverse(operator.apply(x)) if operator else torch.zeros_like(x)

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t) = R_t x_0, without noise and signal scale.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: one timestep, or (B,) timesteps of one size.
            images: (B,) image numbers; they do not matter.
        """
        return self.resize(x0, 0, self._one_size(t))

    def marginal(self, x0: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return x_t = a_t R_t x_0 + sigma_t noise [docs/math.md, equation (1)].

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: one timestep, or (B,) timesteps of one size.
            noise: (B, C, h_t, w_t) standard normal.
        """
        return self.scale(self.degrade(x0, t), t, noise)

    def scale(self, degraded: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return a_t degraded + sigma_t noise, for images that are already at the size of t."""
        signal, sigma = self.coefficients(t, degraded)
        return signal * degraded + sigma * noise

    def coefficients(self, t: Timestep, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return a_t and sigma_t: numbers for one timestep, (B, 1, 1, 1) for several."""
        return self._lookup("signal", t, like), self._lookup("sigma", t, like)

    def target(self, x0: Tensor, t: Timestep) -> Tensor:
        """Return what a network learns to predict from x_t: R_{t-1} x_0, clean at the size of t - 1.

        See docs/math.md, equation (31), and [SSD, section 4].

        Args:
            x0: (B, C, H, W).
            t: one timestep, or (B,) timesteps with one size now and one size next.
        """
        return self.resize(x0, 0, self._one_size(t) - 1)

    def noised(self, target: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return x_t of images that are already at the size of t - 1, as from :meth:`target`."""
        now = self._one_size(t)
        return self.scale(self.resize(target, now - 1, now), t, noise)

    def pure_noise(self, t: int, noise: Tensor) -> Tensor:
        """Return sigma_t noise, (B, C, h_t, w_t)."""
        return self.states[t].sigma * noise

    def clean_from_noise(self, x_t: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return R_t x_0 from x_t and its noise: (x_t - sigma_t noise) / a_t."""
        return (x_t - self._lookup("sigma", t, x_t) * noise) / self._lookup("signal", t, x_t)

    def snr(self, t: Tensor) -> Tensor:
        """Return (a_t / sigma_t)^2 of (B,) timesteps, float32, on the device of ``t``."""
        like = torch.empty(0, device=t.device)
        signal, sigma = (self._tables.like(like)[name][t] for name in ("signal", "sigma"))
        return (signal / sigma).square()

    def posterior(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, eta: float = 1.0) -> Posterior:
        """Return p(x_s | x_t, x_0), or its less random relatives: the eta family.

        x_s = mu_s + B (x_t - M mu_s) + C^{1/2} eps with mu_s = a_s x0_s, B = V diag(b) U^T and
        C^{1/2} = V diag(c) V^T in the singular basis of M; on the null space of M, that is in the dimensions
        that a larger size adds, b = 0 and c = sigma_s [docs/math.md, equations (9) to (12)].

        Args:
            x_t: (B, C, h_t, w_t).
            x0_s: (B, C, h_s, w_s) clean image (or prediction) at the size of s, unscaled, about [-1, 1].
            t: timestep of ``x_t``.
            s: timestep wanted, 0 <= s < t; 0 returns ``x0_s`` without noise.
            eta: 1 is the exact posterior; 0 keeps every known noise component and draws fresh noise only for
                the dimensions that the larger size adds (DDIM at equal size). Every eta keeps the marginals.

        Raises:
            ProcessError: if s, t or eta is out of range, or a size does not fit its timestep.
        """
        self._check_step(t, s, eta)
        for name, x, state in (("x_t", x_t, self.states[t]), ("x0_s", x0_s, self.states[s])):
            if tuple(x.shape[-2:]) != state.size:
                raise ProcessError(f"{name} is {tuple(x.shape[-2:])} pixels, its timestep has {state.size}")
        resize, mu = self._resize(s, t), self.states[s].signal * x0_s
        if resize is None:
            gain, spread = map(float, self._gains(torch.ones((), dtype=torch.float64), t, s, eta))
            ratio = self.states[t].signal / self.states[s].signal  # M = ratio I: (12) without a basis
            return Posterior(mu + gain * (x_t - ratio * mu), lambda noise: spread * noise)
        step, sigma = self._spectral_step(resize, t, s, eta).like(x_t), self.states[s].sigma
        residual = resize.to_left(x_t) - step["singular"] * resize.to_right(mu)  # U^T (x_t - M mu_s)
        # (12); C^{1/2} is sigma_s on the null space, so it is sigma_s I and what differs on the range.
        return Posterior(
            mu + resize.from_right(step["gain"] * residual),
            lambda noise: sigma * noise + resize.from_right(step["excess"] * resize.to_right(noise)),
        )

    def transition_deviation(self, t: int, s: int) -> float:
        """Return sqrt(sigma_t^2 - (a_t / a_s)^2 sigma_s^2), the noise of x_t given x_s, s < t, of one size.

        Raises:
            ProcessError: if the sizes differ, or s and t are out of range.
        """
        self._check_step(t, s, 1.0)
        if self._resize(s, t) is not None:
            self._cannot("say the noise of a transition in one number", "take the variance of the posterior")
        signal, variance = self._tables["signal"], self._tables["sigma"].square()
        return float((variance[t] - (signal[t] / signal[s]).square() * variance[s]).clamp_min(0).sqrt())

    def log_noise(self) -> Tensor:
        """Return (T,) log(sigma_t / a_t) - log ||R_t||: how noisy the content is that every size has.

        It never falls, and is what log(sigma / a) would be at full size, so it knows no jump where
        SNR-preserving noise changes size [docs/math.md, equation (24)].
        """
        nu = (self._tables["sigma"][1:] / self._tables["signal"][1:]).log()
        norms = {
            size: self.reduction(size).norm()
            for size in {state.size for state in self.states[1:]} - {self.states[0].size}
        }
        gain = [norms.get(state.size, 1.0) for state in self.states[1:]]
        return nu - torch.tensor(gain, dtype=torch.float64).log()

    def _gains(self, factor: Tensor, t: int, s: int, eta: float) -> Gains:
        """b and c of the eta family for the (singular) values of the resize alone."""
        sigma_s, sigma_t = self._tables["sigma"][s], self._tables["sigma"][t]
        return gains(factor * (self.states[t].signal / self.states[s].signal), sigma_s, sigma_t, eta)

    def _spectral_step(self, resize: Factored, t: int, s: int, eta: float) -> Constants:
        """m_k, b_k and c_k - sigma_s on the range of M^T; on its null space b = 0 and c = sigma_s."""
        key = (t, s, eta)
        if key not in self._steps:
            m = resize.singular_values * (self.states[t].signal / self.states[s].signal)
            gain, spread = self._gains(resize.singular_values, t, s, eta)
            self._steps[key] = Constants(singular=m, gain=gain, excess=spread - self.states[s].sigma)
        return self._steps[key]

    def _resize(self, s: int, t: int) -> Factored | None:
        """R_{s:t}, None where the size stays."""
        return self._resizes.get((self.states[s].size, self.states[t].size))

    def _one_size(self, t: Timestep) -> int:
        if isinstance(t, int):
            if not 0 <= t <= self.T:
                raise ProcessError(f"timestep {t} is outside 0..{self.T}")
            return t
        return int(t[0])

    def _lookup(self, name: str, t: Timestep, like: Tensor) -> Tensor | float:
        if isinstance(t, int):
            return float(self._tables[name][t])
        table = self._tables.like(like)[name]
        return table[to_device(t, table.device)][:, None, None, None]

    def _check_transition(self, s: int, t: int) -> None:
        state_s, state_t, resize = self.states[s], self.states[t], self._resize(s, t)
        norm = (resize.norm() if resize else 1.0) * state_t.signal / state_s.signal
        floor = state_s.sigma * norm
        if state_t.sigma < floor * (1 - _SLACK):
            raise ProcessError(
                f"no transition from timestep {s} to {t}: sigma_t = {state_t.sigma:.4g} is below "
                f"sigma_s * ||M|| = {floor:.4g}",
                hint="raise the noise at the later timestep or lower process.snr_preserving",
            )


def from_schedule(
    nu: Tensor, sizes: Sequence[Size], full: Size, resize: ResizeMatrix = matrices.resize
) -> GaussianProcess:
    """Return the process of :func:`variance_preserving` states.

    Args:
        nu: as there.
        sizes: as there.
        full: as there.
        resize: as in :class:`GaussianProcess`.
    """
    return GaussianProcess(variance_preserving(nu, sizes, full), resize)


def variance_preserving(nu: Tensor, sizes: Sequence[Size], full: Size) -> list[State]:
    """Return states with noise-to-signal ratios ``nu`` at t = 1..T: a = 1 / sqrt(1 + nu^2), sigma = nu a.

    See docs/math.md, equation (6).

    Args:
        nu: (T,) sigma_t / a_t.
        sizes: T pairs (height, width).
        full: (height, width) of the clean image.
    """
    signal = (1 + nu.double().square()).rsqrt()
    sigma = signal * nu
    noisy = [State(size, a, c) for size, a, c in zip(sizes, signal.tolist(), sigma.tolist(), strict=True)]
    return [State(full, 1.0, 0.0), *noisy]


def _cumulative_resizes(sizes: Sequence[Size], resize: ResizeMatrix) -> dict[tuple[Size, Size], Factored]:
    """R_{s:t} for every pair of sizes in the chain: the product of the single changes between them."""
    for before, after in itertools.pairwise(sizes):
        if after[0] > before[0] or after[1] > before[1]:
            raise ProcessError(
                f"an image cannot grow along a process: {before} pixels are followed by {after}"
            )
    chain, large = list(dict.fromkeys(sizes)), is_large(sizes[0])
    result: dict[tuple[Size, Size], Factored] = {}
    for i, before in enumerate(chain):
        total: Factored | None = None
        for inner, outer in zip(chain[i:], chain[i + 1 :], strict=False):
            step = resize_step(inner, outer, resize, large=large)
            result[before, outer] = total = step if total is None else follow(total, step)
    return result
