"""What the output of a network stands for: the clean image, the noise, the velocity, or an own target.

To add one, write a :class:`Prediction` and give it a name with :func:`register_prediction`, here or in a
plugin; the name is then what ``process.predict`` in a preset and ``Pipeline(predict=...)`` take. No torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from ssdiff.errors import UsageError
from ssdiff.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.process.base import Process, Timestep


class Prediction(ABC):
    """A training target, its weight, and the clean image that an output means.

    Attributes:
        of_noise: whether the target holds noise, so that the process must have some, and one size throughout:
            noise has no meaning at a finer grid.
        kinds: of process in a preset that it is for; all that have what it needs where empty.
        clips: whether the clean image that is meant may be cut to [-1, 1].
    """

    of_noise: bool = True
    kinds: tuple[str, ...] = ()
    clips: bool = True

    @abstractmethod
    def target(self, process: Process, clean: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return what the network learns to put out for x_t.

        Args:
            process: adds the noise.
            clean: (B, C, H, W) clean image, of ``process.target``.
            noise: (B, C, h_t, w_t) standard normal noise in x_t.
            t: one timestep, or (B,) timesteps of one size.
        """

    @abstractmethod
    def weight(self, weight: Tensor, snr: Tensor) -> Tensor:
        """Return the weight of the squared error of the output, from that of the clean image.

        Args:
            weight: (B,) weights of the squared error of the clean image.
            snr: (B,) (a_t / sigma_t)^2.
        """

    def noise(self, process: Process, x_t: Tensor, output: Tensor, t: Timestep) -> Tensor:
        """Return the noise that an output for x_t means."""
        return process.noise_from_clean(x_t, self.clean(process, x_t, output, t), t)

    @abstractmethod
    def clean(self, process: Process, x_t: Tensor, output: Tensor, t: Timestep) -> Tensor:
        """Return the clean image that an output for x_t means, the inverse of :meth:`target`."""


_Prediction = TypeVar("_Prediction", bound=type[Prediction])


def _check(name: str, part: Any) -> None:
    """Refuse what is no complete subclass of Prediction."""
    fits = isinstance(part, type) and issubclass(part, Prediction)
    missing = sorted(part.__abstractmethods__) if fits else []
    if not fits or missing:
        raise UsageError(
            f"prediction {name!r} has no {', '.join(missing)}" if fits else f"prediction {name!r} is none",
            hint="derive it from ssdiff.process.prediction.Prediction; write target, weight and clean",
        )


PREDICTIONS: Registry[type[Prediction]] = Registry("prediction", check=_check)
"""Name to class."""


def register_prediction(name: str) -> Any:
    """Return a decorator that makes a :class:`Prediction` known as ``name``.

    Args:
        name: in small letters, digits and hyphens.

    Raises:
        UsageError: the name is taken, or the class is no Prediction.

    Example:
        >>> import ssdiff
        >>> from ssdiff.process.prediction import Prediction
        >>> @ssdiff.register_prediction("score")
        ... class Score(Prediction):
        ...     def target(self, process, clean, noise, t):
        ...         return -noise
        ...     def weight(self, weight, snr):
        ...         return weight / snr
        ...     def clean(self, process, x_t, output, t):
        ...         return process.clean_from_noise(x_t, -output, t)
    """
    return PREDICTIONS.register(name)


def prediction(name: str) -> Prediction:
    """Return the prediction of a name.

    Raises:
        UsageError: there is none.
    """
    return PREDICTIONS.get(name)()


@register_prediction("x0")
class CleanImage(Prediction):
    """The clean image at the size of t - 1 [SSD, section 4; docs/math.md, equation (31)]."""

    of_noise = False

    def target(self, process: Process, clean: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return R_{t-1} x_0, as it is given."""
        return clean

    def weight(self, weight: Tensor, snr: Tensor) -> Tensor:
        """Return w_t."""
        return weight

    def clean(self, process: Process, x_t: Tensor, output: Tensor, t: Timestep) -> Tensor:
        """Return the output."""
        return output


@register_prediction("eps")
class Noise(Prediction):
    """The noise [Ho et al. 2020; docs/math.md, equation (32)]."""

    def target(self, process: Process, clean: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return eps."""
        return noise

    def weight(self, weight: Tensor, snr: Tensor) -> Tensor:
        """Return w_t / SNR_t: x^ - x_0 = -(sigma_t / a_t) (eps^ - eps)."""
        return weight / snr

    def noise(self, process: Process, x_t: Tensor, output: Tensor, t: Timestep) -> Tensor:
        """Return the output."""
        return output

    def clean(self, process: Process, x_t: Tensor, output: Tensor, t: Timestep) -> Tensor:
        """Return x^ = (x_t - sigma_t eps^) / a_t."""
        return process.clean_from_noise(x_t, output, t)


@register_prediction("difference")
class Difference(Prediction):
    """The way from x_t to the image one timestep down [IHDM, section 3; docs/math.md, section 13].

    An output is made for steps of one timestep, D(x_0, t - 1) = x_t + output; longer ones sharpen it.
    """

    of_noise = False  # it asks for no solution for the noise
    kinds = ("heat",)
    clips = False

    def target(self, process: Process, clean: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return D(x_0, t - 1) - x_t."""
        return process.degrade(clean, t - 1) - process.marginal(clean, t, noise)

    def weight(self, weight: Tensor, snr: Tensor) -> Tensor:
        """Return w_t, the same at every timestep because the SNR is."""
        return weight

    def clean(self, process: Process, x_t: Tensor, output: Tensor, t: Timestep) -> Tensor:
        """Return the image whose D(., t - 1) is x_t + output, without frequencies that are gone."""
        return process.sharpen(x_t + output, t - 1)


@register_prediction("v")
class Velocity(Prediction):
    """The velocity v = a_t eps - sigma_t x_0 [Salimans & Ho 2022; docs/math.md, equation (33)].

    Coefficient by coefficient where frequencies have signals and noise of their own.
    """

    def target(self, process: Process, clean: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return v = a_t eps - sigma_t x_0."""
        a, sigma = process.coefficients(t, clean)
        return process.synthesis(a * process.analysis(noise) - sigma * process.analysis(clean))

    def weight(self, weight: Tensor, snr: Tensor) -> Tensor:
        """Return w_t / (SNR_t + 1): x^ - x_0 = -sigma_t (v^ - v) where a_t^2 + sigma_t^2 = 1."""
        return weight / (snr + 1)

    def clean(self, process: Process, x_t: Tensor, output: Tensor, t: Timestep) -> Tensor:
        """Return x^ = (a_t x_t - sigma_t v^) / (a_t^2 + sigma_t^2), of which the divisor is mostly 1."""
        a, sigma = process.coefficients(t, x_t)
        kept = a * process.analysis(x_t) - sigma * process.analysis(output)
        return process.synthesis(kept / (a**2 + sigma**2))


@register_prediction("preconditioned")
class Preconditioned(Prediction):
    """The clean image as a mixture of input and output, also where the size changes [EDM, equation (7)].

    x^ = a_t L x_t - sigma_t F with the network's output F, whose variance is about 1 at all noise levels: the
    skip of EDM for states that preserve the variance and images of variance 1. L is the lift of docs/math.md,
    equation (26), to the size of t - 1; where the size stays L = 1, and F is the velocity of equation (33)
    [docs/math.md, equation (82)].
    """

    of_noise = False  # noise is never asked for at the finer grid
    kinds = ("ddpm", "ssd")

    def target(self, process: Process, clean: Tensor, noise: Tensor, t: Timestep) -> Tensor:
        """Return F = (a_t L x_t - R_{t-1} x_0) / sigma_t."""
        a, sigma = process.coefficients(t, clean)
        return (a * _lifted(process, process.noised(clean, t, noise), t) - clean) / sigma

    def weight(self, weight: Tensor, snr: Tensor) -> Tensor:
        """Return w_t sigma_t^2 = w_t / (SNR_t + 1): x^ - x_0 = -sigma_t (F^ - F)."""
        return weight / (snr + 1)

    def clean(self, process: Process, x_t: Tensor, output: Tensor, t: Timestep) -> Tensor:
        """Return x^ = a_t L x_t - sigma_t F."""
        a, sigma = process.coefficients(t, x_t)
        return a * _lifted(process, x_t, t) - sigma * output


def _lifted(process: Process, x_t: Tensor, t: Timestep) -> Tensor:
    """L x_t, at the size of t - 1; the (B,) timesteps of a tensor have one size now and one next."""
    now = t if isinstance(t, int) else int(t[0])
    return process.lift(x_t, now - 1, now)
