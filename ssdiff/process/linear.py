"""The generalised linear process: noise and any linear loss of information, with posteriors by structure.

This is the first claim of [SSD, section 3]: x_t = a_t M_t x_0 + sigma_t eps for a linear M_t of one's own, of
which :mod:`ssdiff.process.gaussian` (M_t a resize) is one case. Formulas are those of docs/math.md, section
15; numbers in comments are of its equations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from ssdiff.devices import to_device
from ssdiff.errors import ProcessError, SsdiffError, UsageError, one_line
from ssdiff.operators.algebra import Kronecker, aligned, simplify
from ssdiff.operators.base import Composed, Constants, Operator, Scale, Size
from ssdiff.operators.decomposition import SingularSystem, singular_system
from ssdiff.operators.fft import Blocks, Mirrored
from ssdiff.operators.filters import Filter
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable
from ssdiff.operators.square_root import square_root
from ssdiff.operators.stacked import Stacked
from ssdiff.process.base import Posterior, Process, Timestep
from ssdiff.process.degradations.base import LinearDegradation
from ssdiff.process.gaussian import variance_preserving
from ssdiff.schedules.noise import snr_preserving as matched

_SLACK = 1e-9  # relative rounding that the check of a transition forgives
_LINEAR = 1e-5  # relative error that a probe forgives, for operators that compute in float32
_NULL = 1e-12  # relative, below which a singular value counts as zero
_UPPER = 1 + 1e-6  # makes an upper bound of a norm by power iteration
_SURE = 0.98  # theta that an eta below 1 asks of a polynomial at most: 58 products instead of 2000
_HELD = 64  # operators of the steps of a sampler that are kept, at least
_STACKED = 2**25  # numbers of operators that are kept, stacked or not
_OWN = (Scale, Separable, Mask, ChannelMix, Filter, Kronecker, Mirrored, Blocks)


class LinearProcess(Process):
    """A chain of states x_t = a_t M_t x_0 + sigma_t eps, for any linear M_t that loses more and more.

    With M = M_{s:t}, M_t = M_{s:t} M_s [docs/math.md, equations (1) to (5), (70) to (74)]:

        x_t = (a_t / a_s) M x_s + eta,  eta ~ N(0, sigma_t^2 I - sigma_s^2 (a_t / a_s)^2 M M^T)
        E[x_s | x_t, x_0] = mu_s + (sigma_s^2 / sigma_t^2) (a_t / a_s) M^T (x_t - (a_t / a_s) M mu_s)

    and its relatives of every eta. Where M is separable, diagonal in a fixed basis (a mask, a filter), a
    mixture of channels, or a product of a mixture and one of the others, its singular values give the
    posterior up to rounding. Otherwise the mean is exact, and C^{1/2} eps is a Chebyshev polynomial of
    M^T M with a proven relative error of 1e-6 in float32, 1e-12 in float64.

    A network predicts the clean image at the size of t - 1: M_u x_0, u the first timestep of that size, of
    which all states of this size are functions. At full size that is x_0 itself.

    References:
        Mukhopadhyay, Udhayanan, Shrivastava, "Scale Space Diffusion", 2026, arXiv 2603.08709 [SSD],
        section 3.

    Shapes:
        x_0 is (B, C, H, W) in [-1, 1], x_t (B, C, h_t, w_t), not square if M_t makes it so; noise is in units
        of the [-1, 1] image.

    Args:
        degradation: M_t: gives ``size``, ``T``, ``operator(t)`` and ``between(s, t)``. Any linear one of the
            registry, stages one after the other (:func:`ssdiff.process.stages.staged`), or an own
            ``LinearDegradation(size, T, operator)``.
        nu: (T,) noise relative to the signal, sigma_t / a_t, of a process that only adds noise.
        channels: of the images.
        snr_preserving: 0 keeps ``nu`` where M_t shrinks the content, 1 keeps the SNR of what is left
            [docs/math.md, equation (19)].
        final_snr: with the latter: SNR that the last state is below.

    Raises:
        UsageError: ``degradation`` is none.
        ProcessError: an operator is not linear, or its adjoint or its quotients do not fit; M_t is no
            function of M_s; the image grows or its channels change; or a transition would need negative
            variance: sigma_t >= sigma_s (a_t / a_s) ||M|| is required [docs/math.md, equation (3)]. It names
            the timesteps.

    Example:
        >>> import torch
        >>> from ssdiff.operators.pixelwise import Mask
        >>> from ssdiff.process.degradations.base import LinearDegradation
        >>> from ssdiff.process.linear import LinearProcess
        >>> from ssdiff.schedules import noise
        >>> shade = lambda t: torch.linspace(1, 1 - t / 60, 8).expand(8, 8)
        >>> process = LinearProcess(LinearDegradation((8, 8), 50, lambda t: Mask(shade(t))), noise.linear(50))
        >>> process.degrade(torch.ones(1, 3, 8, 8), 30)[0, 0, 0, -1]
        tensor(0.5000)
    """

    invertible = False
    refreshes = True

    def __init__(
        self,
        degradation: LinearDegradation,
        nu: Tensor,
        *,
        channels: int = 3,
        snr_preserving: float = 0.0,
        final_snr: float = 1e-3,
    ) -> None:
        if not isinstance(degradation, LinearDegradation):
            raise UsageError(
                f"a linear process needs a LinearDegradation, not a {type(degradation).__name__}",
                hint="give LinearDegradation(size, T, operator), or one of the registry that is linear",
            )
        self.degradation, self.channels = degradation, channels
        if nu.shape != (degradation.T,) or not bool((nu > 0).all()):
            raise ProcessError(
                f"nu has shape {tuple(nu.shape)} for {degradation.T} timesteps, or is not positive",
                hint="give sigma_t / a_t of t = 1..T, as ssdiff.schedules.noise.linear(T) does",
            )
        held = max(_HELD, _STACKED // (degradation.size[0] ** 2 + degradation.size[1] ** 2))
        self._between = lru_cache(maxsize=held)(self._simplified)
        self._system = lru_cache(maxsize=_HELD)(self._decomposed)
        self._norm = lru_cache(maxsize=_HELD)(self._bounded)
        self._steps: dict[tuple[int, int, float], Constants] = {}
        self._stacks: dict[tuple[int, int, int], Stacked | None] = {}
        norms = torch.tensor(list(self._checked()), dtype=torch.float64)
        self._gain = norms.cumprod(0)
        sizes = [self._size(t) for t in range(1, degradation.T + 1)]
        if snr_preserving:
            nu = matched(nu.double(), self._gain, snr_preserving, final_snr)
        self.states = tuple(variance_preserving(nu, sizes, degradation.size))
        self._tables = Constants(
            signal=torch.tensor([s.signal for s in self.states], dtype=torch.float64),
            sigma=torch.tensor([s.sigma for s in self.states], dtype=torch.float64),
        )
        self._check_transitions(norms.tolist())
        all_sizes = [state.size for state in self.states]
        self._first = [all_sizes.index(size) for size in all_sizes]  # u: no size comes back
        self._last = [self.T - all_sizes[::-1].index(size) for size in all_sizes]

    def operator(self, t: int) -> Operator:
        """Return M_t, simplified."""
        return self._between(0, self._one(t))

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return M_t x_0, without noise and signal scale.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: one timestep, or (B,) timesteps of one size.
            images: (B,) image numbers; they do not matter.
        """
        return self._carried(x0, 0, t)

    def marginal(self, x0: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return x_t = a_t M_t x_0 + sigma_t noise [docs/math.md, equation (1)].

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            t: one timestep, or (B,) timesteps of one size.
            noise: (B, C, h_t, w_t) standard normal.
        """
        return self.scale(self.degrade(x0, t), t, noise)

    def scale(self, degraded: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return a_t degraded + sigma_t noise, for images that are degraded already."""
        return self._lookup("signal", t, degraded) * degraded + self._lookup("sigma", t, degraded) * noise

    def pure_noise(self, t: int, noise: Tensor) -> Tensor:
        """Return sigma_t noise, (B, C, h_t, w_t)."""
        return self.states[t].sigma * noise

    def target(self, x0: Tensor, t: Timestep) -> Tensor:
        """Return what a network learns to predict from x_t: M_u x_0, u the first timestep of t - 1's size.

        See docs/math.md, equation (75).

        Args:
            x0: (B, C, H, W).
            t: one timestep, or (B,) timesteps with one size now and one size next.
        """
        return self._carried(x0, 0, self._first[self._one(t) - 1])

    def noised(self, target: Tensor, t: Timestep, noise: Tensor) -> Tensor:
        """Return x_t = a_t M_{u:t} target + sigma_t noise, of images as from :meth:`target`."""
        return self.scale(self._carried(target, self._first[self._one(t) - 1], t), t, noise)

    def snr(self, t: Tensor) -> Tensor:
        """Return (a_t / sigma_t)^2 of (B,) timesteps, float32, on the device of ``t``."""
        tables = self._tables.like(torch.empty(0, device=t.device))
        return (tables["signal"][t] / tables["sigma"][t]).square()

    def log_noise(self) -> Tensor:
        """Return (T,) log(sigma_t / a_t) - log g_t, g_t the product of the norms of M_{i-1:i} up to t.

        It never falls, as :meth:`ssdiff.process.gaussian.GaussianProcess.log_noise`.
        """
        nu = self._tables["sigma"][1:] / self._tables["signal"][1:]
        return nu.log() - self._gain.log()

    def resize(self, x: Tensor, s: int, t: int) -> Tensor:
        """Return M_{u:v} x for the first timesteps u and v of the sizes of s and t: clean images of one size
        as those of another, as in :meth:`target`."""
        return self._between(self._first[s], self._first[t]).apply(x)

    def lift(self, x: Tensor, s: int, t: int) -> Tensor:
        """Return M^T x / ||M||^2 with M of :meth:`resize`: (B, C, h_t, w_t) to (B, C, h_s, w_s)."""
        u, v = self._first[s], self._first[t]
        return x if u == v else self._between(u, v).adjoint(x) / self._norm(u, v) ** 2

    def posterior(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, eta: float = 1.0) -> Posterior:
        """Return p(x_s | x_t, x_0), or its less random relatives: the eta family.

        x_s = mu_s + B (x_t - M mu_s) + C^{1/2} eps [docs/math.md, equations (9) to (12)] in the singular
        basis of M, where that is known in closed form. Otherwise B is a multiple of M^T, so that for eta < 1
        the noise is kept in proportion to the singular values [docs/math.md, equation (72)]. Every eta keeps
        the marginals.

        Args:
            x_t: (B, C, h_t, w_t).
            x0_s: (B, C, h_s, w_s), the clean image (or prediction) at the size of s, as from :meth:`target`.
            t: timestep of ``x_t``.
            s: timestep wanted, 0 <= s < t; 0 returns ``x0_s`` without noise.
            eta: 1 is the exact posterior; 0 keeps the known noise and draws fresh noise for what M loses.

        Raises:
            ProcessError: if s, t or eta is out of range, or a size does not fit its timestep.
        """
        self._check_step(t, s, eta)
        for name, x, state in (("x_t", x_t, self.states[t]), ("x0_s", x0_s, self.states[s])):
            if tuple(x.shape[-2:]) != state.size:
                raise ProcessError(f"{name} is {tuple(x.shape[-2:])} pixels, its timestep has {state.size}")
        if s == 0:
            return Posterior(x0_s, torch.zeros_like)
        mu = self.states[s].signal * self._between(self._first[s], s).apply(x0_s)
        system, sigma = self._system(s, t), self.states[s].sigma
        if system is None:
            return self._by_polynomial(x_t, mu, t, s, eta)
        step = self._spectral_step(system, t, s, eta).like(x_t)
        residual = system.to_left(x_t) - step["singular"] * system.to_right(mu)  # U^T (x_t - M mu_s)
        # (12); C^{1/2} is sigma_s on the null space, so it is sigma_s I and what differs on the range.
        return Posterior(
            mu + system.from_right(step["gain"] * residual),
            lambda noise: sigma * noise + system.from_right(step["excess"] * system.to_right(noise)),
        )

    def _by_polynomial(self, x_t: Tensor, mu: Tensor, t: int, s: int, eta: float) -> Posterior:
        """B = lambda M^T, C = sigma_s^2 (I - theta M^T M / ||M||^2) [docs/math.md, equations (72), (73)]."""
        part, bound = self._between(s, t), self._norm(s, t)
        sigma_s, sigma_t = self.states[s].sigma, self.states[t].sigma
        ratio = self.states[t].signal / self.states[s].signal
        exact = min(1.0, (sigma_s * ratio * bound / sigma_t) ** 2)
        theta = exact if eta == 1 else min(1 - eta**2 * (1 - exact), max(exact, _SURE))
        kept = math.sqrt(theta) * sigma_s / (sigma_t * bound)  # lambda times the ratio of the signals
        residual = x_t - ratio * part.apply(mu)
        return Posterior(
            mu + kept * part.adjoint(residual),
            lambda noise: sigma_s * square_root(part, bound, theta, noise),
        )

    def _spectral_step(self, system: SingularSystem, t: int, s: int, eta: float) -> Constants:
        """m_k, b_k and c_k - sigma_s, see docs/math.md, equations (10) and (11); where m_k is 0, b is too."""
        key = (t, s, eta)
        if key not in self._steps:
            sigma_s, sigma_t = self._tables["sigma"][s], self._tables["sigma"][t]
            m = system.values * (self._tables["signal"][t] / self._tables["signal"][s])
            # b and c as of eta.gains, without the difference there, which cancels where m is small.
            share = (sigma_s * m / sigma_t).square().clamp_max(1)
            gain = sigma_s / sigma_t * (1 - eta**2 + eta**2 * share).sqrt()
            spread = eta * sigma_s * (1 - share).sqrt()
            null = m <= _NULL * (m.max() if m.numel() else m.new_zeros(()))
            gain, excess = torch.where(null, 0.0, gain), torch.where(null, 0.0, spread - sigma_s)
            self._steps[key] = Constants(singular=m, gain=gain, excess=excess)
        return self._steps[key]

    def _simplified(self, s: int, t: int) -> Operator:
        return simplify(self.degradation.between(s, t))

    def _decomposed(self, s: int, t: int) -> SingularSystem | None:
        return singular_system(self._between(s, t))

    def _bounded(self, s: int, t: int) -> float:
        """At least ||M_{s:t}||, and hardly more."""
        return self._norm_of(self._between(s, t), self._size(s)) * _UPPER

    def _norm_of(self, operator: Operator, size: Size) -> float:
        known = isinstance(operator, _OWN) or type(operator).norm is not Operator.norm
        return operator.norm() if known else Composed(operator, _Sized(size, self.channels)).norm()

    def _carried(self, x: Tensor, s: int, t: Timestep) -> Tensor:
        """M_{s:t} x, for one timestep or one an image."""
        if isinstance(t, int):
            return self._between(s, self._one(t)).apply(x)
        first = self._one(t)
        low, high = max(s, self._first[first]), self._last[first]
        stack = self._stack(s, low, high)
        if stack is not None:
            return stack.apply(x, t - low)
        distinct, place = t.unique(return_inverse=True)
        result = None
        for i, timestep in enumerate(distinct.tolist()):
            here = to_device((place == i).nonzero().flatten(), x.device)
            part = self._between(s, timestep).apply(x[here])
            result = x.new_zeros(len(x), *part.shape[1:]) if result is None else result
            result = result.index_copy(0, here, part)
        assert result is not None, "a batch has images"
        return result

    def _stack(self, s: int, low: int, high: int) -> Stacked | None:
        """M_{s:t} for t = low..high as stacked matrices; None where they do not stack, or are too large."""
        key = (s, low, high)
        if key not in self._stacks:
            size, parts = self._size(s), None
            if (high - low + 1) * (size[0] ** 2 + size[1] ** 2) <= _STACKED:
                parts = aligned([self.degradation.between(s, t) for t in range(low, high + 1)])
            try:
                self._stacks[key] = Stacked(parts) if parts else None
            except ProcessError:
                self._stacks[key] = None
        return self._stacks[key]

    def _one(self, t: Timestep) -> int:
        timestep = t if isinstance(t, int) else int(t[0])
        if not 0 <= timestep <= self.degradation.T:
            raise ProcessError(f"timestep {timestep} is outside 0..{self.degradation.T}")
        return timestep

    def _lookup(self, name: str, t: Timestep, like: Tensor) -> Tensor | float:
        if isinstance(t, int):
            return float(self._tables[name][t])
        table = self._tables.like(like)[name]
        return table[to_device(t, table.device)][:, None, None, None]

    # What is checked when a process is built.

    def _size(self, t: int) -> Size:
        return (self.degradation.operator(t).out_size if t else None) or self.degradation.size

    def _checked(self) -> Iterator[float]:
        """||M_{t-1:t}|| for t = 1..T, each operator checked on the way."""
        size, generator = self.degradation.size, torch.Generator().manual_seed(0)
        tried: set[object] = set()
        for t in range(1, self.degradation.T + 1):
            step, now = self._simplified(t - 1, t), self._size(t)
            if now[0] > size[0] or now[1] > size[1]:
                raise ProcessError(
                    f"an image cannot grow along a process: {size} pixels are followed by {now} at timestep "
                    f"{t}",
                )
            if not isinstance(step, _OWN):
                self._probe(step, t, size, now, generator)
            kind = (type(step), step.in_size, step.out_size, step.in_channels, size, now)
            if kind not in tried:
                tried.add(kind)
                self._try_shape(step, t, size, now)
            norm = self._norm_of(step, size)
            if not 0 < norm < math.inf:
                raise ProcessError(
                    f"nothing is left at timestep {t}: its operator has the norm {norm:g}",
                    hint="leave a little, the noise hides the rest",
                )
            yield norm
            size = now

    def _try_shape(self, step: Operator, t: int, size: Size, now: Size) -> None:
        x = torch.zeros(1, self.channels, *size, dtype=torch.float64)
        try:
            shape = tuple(step.apply(x).shape)
        except ProcessError as error:
            raise ProcessError(f"timestep {t}: {error}") from None
        except RuntimeError as error:  # of torch, about shapes
            raise ProcessError(f"the operator of timestep {t} does not fit: {one_line(error)}") from None
        if shape != (1, self.channels, *now):
            raise ProcessError(
                f"the operator of timestep {t} makes {shape[1:]} of {tuple(x.shape[1:])}, not "
                f"{(self.channels, *now)}",
                hint="keep the channels, and say another size by its out_size",
            )

    def _probe(self, step: Operator, t: int, size: Size, now: Size, generator: torch.Generator) -> None:
        """Refuse an operator that is not linear, or does not fit its adjoint or M_t, by random images."""

        def draw(shape: Size) -> Tensor:
            whole = (1, self.channels, *shape)
            return torch.randn(whole, generator=generator, dtype=torch.float64)

        x, y, x0 = draw(size), draw(size), draw(self.degradation.size)
        try:
            once, again = step.apply(x), step.apply(y)
            mixed = step.apply(2 * x - 3 * y)
            carried = step.apply(self.degradation.operator(t - 1).apply(x0))
            whole = self.degradation.operator(t).apply(x0)
            z = draw((once.shape[-2], once.shape[-1]))
            back = step.adjoint(z)
        except SsdiffError:
            raise
        except Exception as error:
            what = one_line(f"{type(error).__name__}: {error}")
            raise ProcessError(f"the operator of timestep {t} fails on {tuple(x.shape)}: {what}") from None
        if _differ(mixed, 2 * once - 3 * again):
            raise ProcessError(
                f"the operator of timestep {t} is not linear: of 2 x - 3 y it does not make 2 A x - 3 A y",
                hint="a process of kind linear needs linear operators; use kind cold for others",
            )
        left, right = float((once * z).sum()), float((x * back).sum())
        if abs(left - right) > _LINEAR * float(once.norm() * z.norm()):
            raise ProcessError(
                f"the operator of timestep {t} has another adjoint than its own: <A x, z> = {left:.5g}, "
                f"<x, A^T z> = {right:.5g}"
            )
        if _differ(carried, whole):
            raise ProcessError(
                f"the operators do not fit: from timestep {t - 1} to {t} does not lead to M_{t}",
                hint="between(s, t) after operator(s) must be operator(t)",
            )

    def _check_transitions(self, norms: list[float]) -> None:
        for t, norm in enumerate(norms[1:], 2):
            before, state = self.states[t - 1], self.states[t]
            floor = before.sigma * norm * state.signal / before.signal
            if state.sigma < floor * (1 - _SLACK):
                raise ProcessError(
                    f"no transition from timestep {t - 1} to {t}: sigma_t = {state.sigma:.4g} is below "
                    f"sigma_s * ||M|| = {floor:.4g}",
                    hint="use noise that rises faster, or operators that amplify nothing",
                )


class _Sized(Scale):
    """The identity of images of one size, by which a power iteration knows where to begin."""

    def __init__(self, size: Size, channels: int) -> None:
        super().__init__()
        self.in_size = self.out_size = size
        self.in_channels = channels


def _differ(a: Tensor, b: Tensor) -> bool:
    return a.shape != b.shape or not float((a - b).norm()) <= _LINEAR * float(b.norm() + 1e-30)
