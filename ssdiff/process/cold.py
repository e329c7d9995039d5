"""Cold processes: a degradation without noise of its own, reversed by a restoration network [CD]."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.process.base import Other, Posterior, Process, State, Timestep, degradation_streams
from ssdiff.process.degradations.base import Degradation, Mixture


class ColdProcess(Process):
    """A degradation without noise of its own: x_t = D(x_0, t), D(x, 0) = x.

    A network R restores, x_0 = R(x_t, t) about; samplers restore and degrade again, x_s = D(R(x_t, t), s), or
    add the difference that makes [docs/math.md, equations (48) to (50)]. Where noise or another image z is
    mixed in, x_t = a_t D(x_0, t) + sigma_t z, there is a posterior without spread as well.

    References:
        Bansal et al., "Cold Diffusion: Inverting Arbitrary Image Transforms Without Noise", 2022, arXiv
        2208.09392 [CD].

    Shapes:
        x_0 and x_t are (B, C, H, W) in [-1, 1], about.

    Args:
        degradation: keeps the size of an image.

    Attributes:
        states: of one size; signal 1 and sigma 0 throughout.

    Raises:
        ProcessError: if the degradation changes the size.
    """

    noisy = False

    def __init__(self, degradation: Degradation) -> None:
        self.degradation = degradation
        self.states = (State(degradation.size, 1.0, 0.0),) * (degradation.T + 1)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with noise or other images, which a step can estimate."""
        return isinstance(self.degradation, Mixture)

    @property
    def generates(self) -> bool:
        """Whether all that is left at T, or nearly, is what is mixed in, or a colour that can be drawn."""
        return self.mixes or bool(getattr(self.degradation, "generates", False))

    @property
    def morphs(self) -> bool:
        """Whether what is mixed in are images of a second set."""
        return isinstance(self.degradation, Mixture) and self.degradation.morphs

    def mixing(self, z: Tensor | Other) -> ColdProcess:
        """Return the same process with another z, as :meth:`ssdiff.process.base.Process.mixing`."""
        if not isinstance(self.degradation, Mixture):
            self._cannot("mix other images in", "leave them out")
        fixed = (lambda numbers, shape: z) if isinstance(z, Tensor) else z
        mixed = ColdProcess(self.degradation.mixing(fixed))
        mixed.squares = self.squares
        return mixed

    @property
    def has_posterior(self) -> bool:
        """Whether the noise that explains x_t can be estimated."""
        return self.mixes

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """Return D(x_0, t), as :meth:`ssdiff.process.degradations.base.Degradation.degrade`."""
        result = self.degradation.degrade(x0, t, images)
        if result.shape[-2:] != x0.shape[-2:]:
            raise ProcessError(
                f"a cold process keeps the size of an image, this degradation makes {tuple(x0.shape[-2:])} "
                f"into {tuple(result.shape[-2:])}",
                hint="for downsample set full_size = true",
            )
        return result

    def corrupt(self, x0: Tensor, t: int, images: Tensor, seed: int) -> Tensor:
        """Return D(x_0, t), random ones by image number and seed."""
        return self.degrade(x0, t, degradation_streams(images, seed))

    def from_degraded(self, degraded: Tensor, t: int, images: Tensor, seed: int) -> Tensor:
        """Return the images as they are."""
        return degraded

    def posterior(self, x_t: Tensor, x0_s: Tensor, t: int, s: int, eta: float = 0.0) -> Posterior:
        """Return D(x_0, s) with the noise (or other image) that explains x_t, a posterior without spread.

        x_s = a_s D(x_0, s) + (sigma_s / sigma_t) (x_t - a_t D(x_0, t)): 'estimated noise' [CD, section 5.1],
        the DDIM step of a mixture [docs/math.md, equation (51)].

        Args:
            x_t: (B, C, H, W).
            x0_s: (B, C, H, W) clean image or prediction.
            t: severity of ``x_t``.
            s: severity wanted, 0 <= s < t; 0 returns ``x0_s``.
            eta: 0; no noise is drawn anew.

        Raises:
            ProcessError: if nothing is mixed in that could be estimated, or s, t or eta is out of range.
        """
        if not isinstance(self.degradation, Mixture):
            raise ProcessError(
                "only noise and animorphosis have something to estimate", hint="use alg2, alg1 or direct"
            )
        self._check_step(t, s, eta)
        if eta:
            raise ProcessError(f"a cold process draws no fresh noise: eta is 0, not {eta}")
        mean = self.degradation.redegrade(x_t, x0_s, t, s) if s else x0_s
        return Posterior(mean, torch.zeros_like)

    def start(self, images: Tensor, seed: int, *, channels: int, t: int | None = None) -> Tensor:
        """Draw what is mixed into a grey image, or the colour that an image fades into, as
        :meth:`ssdiff.process.base.Process.start`.

        That is noise, or an image of the second set, by image number.

        Raises:
            ProcessError: if what is left at T cannot be drawn.
        """
        top = self.T if t is None else t
        if not self.generates:
            self._cannot("be sampled from nothing", "restore degraded images")
        if not self.mixes and top < self.T:
            raise ProcessError(
                f"something of an image is left at severity {top}, which cannot be drawn",
                hint=f"begin at {self.T}",
            )
        grey = torch.zeros(len(images), channels, *self.states[top].size, device=images.device)
        return self.degrade(grey, top, degradation_streams(images, seed))
