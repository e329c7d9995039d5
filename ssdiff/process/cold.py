"""Cold processes: a degradation without noise of its own, reversed by a restoration network [CD]."""

from __future__ import annotations

from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.process.degradations.base import Degradation, Mixture
from ssdiff.process.gaussian import State, Timestep


class ColdProcess:
    """x_t = D(x_0, t).

    Args:
        degradation: keeps the size of an image.

    Attributes:
        states: of one size; signal 1 and sigma 0 throughout.

    Raises:
        ProcessError: if the degradation changes the size.
    """

    def __init__(self, degradation: Degradation) -> None:
        self.degradation = degradation
        self.states = (State(degradation.size, 1.0, 0.0),) * (degradation.T + 1)

    @property
    def T(self) -> int:
        """The highest severity."""
        return self.degradation.T

    def degrade(self, x0: Tensor, t: Timestep, images: Tensor | None = None) -> Tensor:
        """D(x_0, t), as :meth:`ssdiff.process.degradations.base.Degradation.degrade`."""
        result = self.degradation.degrade(x0, t, images)
        if result.shape[-2:] != x0.shape[-2:]:
            raise ProcessError(
                f"a cold process keeps the size of an image, this degradation makes {tuple(x0.shape[-2:])} "
                f"into {tuple(result.shape[-2:])}",
                hint="for downsample set full_size = true",
            )
        return result

    def redegrade(self, x_t: Tensor, clean: Tensor, t: int, s: int) -> Tensor:
        """D(clean, s) with the noise (or other image) that explains x_t [CD, section 5.1, estimated noise].

        Raises:
            ProcessError: if nothing is mixed in that could be estimated.
        """
        if not isinstance(self.degradation, Mixture):
            raise ProcessError(
                "only noise and animorphosis have something to estimate", hint="use alg2, alg1 or direct"
            )
        return self.degradation.redegrade(x_t, clean, t, s)
