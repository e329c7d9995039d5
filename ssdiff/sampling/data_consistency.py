"""Restoration by a model that never saw the degradation: its predictions made to agree with a measurement.

Of y = A x_0 + n the model supplies what A cannot see and what the noise hides: the null-space projection of
[DDNM, section 3], and with noise its regularised form, x + A^T (A A^T + rho)^+ (y - A x), by the singular
values of A [DDRM] and across resolution transitions. How sure a prediction is, rho, is the model of [PiGDM,
section 3]; its guidance through the network is not taken. See docs/math.md, section 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator, Size
from ssdiff.operators.factored import Factored
from ssdiff.operators.inverse import check_inverse, regularised_inverse
from ssdiff.operators.resizing import is_large
from ssdiff.operators.separable import Separable
from ssdiff.process.base import Process
from ssdiff.sampling.walk import Predict

Enlarge: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Measurement:
    """What is known of the clean images: y = A x_0 + n, n ~ N(0, noise_std^2 I).

    Attributes:
        operator: A, of a kind that :func:`ssdiff.operators.inverse.regularised_inverse` takes; it acts on
            images of the process's full size.
        y: (B, C', h, w), or (1, C', h, w) for the same of all images; 0 where a mask hides.
        noise_std: standard deviation of n, 0 or more, in units of the [-1, 1] image; 0 trusts y entirely.
        process: the one that the model was trained for.

    Raises:
        ProcessError: for a negative noise_std, an operator without an inverse, or sizes that do not fit.
    """

    operator: Operator
    y: Tensor
    noise_std: float
    process: Process

    def __post_init__(self) -> None:
        if not 0 <= self.noise_std < math.inf:
            raise ProcessError(f"noise_std must be a number of 0 or more, not {self.noise_std}")
        full = self.process.states[0].size
        if self.operator.in_size not in (None, full):
            raise ProcessError(
                f"the operator takes images of {self.operator.in_size} pixels, the process has {full}"
            )
        wanted = self.operator.out_size or full
        if self.y.ndim != 4 or tuple(self.y.shape[-2:]) != wanted:
            raise ProcessError(
                f"the measurement must be (B, C, {wanted[0]}, {wanted[1]}), not {tuple(self.y.shape)}"
            )
        check_inverse(self.operator)  # which must not wait for the first step

    @cached_property
    def first_guess(self) -> Tensor:
        """Clean images from y alone, (B, C, H, W): A^+ y, or A^T (A A^T + noise_std^2)^-1 y with noise.

        The mean of a white prior of variance 1 given y.
        """
        return regularised_inverse(self.operator, self.y, self.noise_std**2)

    def start(self, noise: Tensor, t: int) -> Tensor:
        """Return x_t of the first guess, so that sampling can begin at any timestep, as in [SDEdit].

        x_t = a_t R_t A^T (A A^T + noise_std^2)^+ y + sigma_t noise [docs/math.md, equation (41)].

        Args:
            noise: (B, C, h_t, w_t) standard normal.
            t: timestep, 1..T; the higher, the less remains of the guess.
        """
        guess = self.first_guess.to(noise).expand(len(noise), -1, -1, -1)
        return self.process.marginal(guess, t, noise)

    def correct(self, clean: Tensor, t: int) -> Tensor:
        """Return a prediction from x_t made to agree with y; what y does not tell is left as it is.

        x + A^T (A A^T + rho)^+ (y - A x) at full size: the mean of x_0 ~ N(x, r^2 I) given y, with
        rho = noise_std^2 / r^2 and r^2 = sigma_t^2 / (a_t^2 + sigma_t^2) [docs/math.md, equations (38) and
        (39)]. A reduced z = R x stands for the image w nearest to its bilinear enlargement among those that R
        reduces to z, and becomes z + R A^T (A A^T + rho)^+ (y - A w) [docs/math.md, equation (40)]. Where R
        and A are resizes of one chain, in whatever order, all that y tells of R x_0 is exact then; a reduced
        pixel that a mask hides in part becomes the average of known pixels and of the prediction.

        Args:
            clean: (B, C, h, w), the prediction, of any size that the process has.
            t: timestep, 1..T, that it was predicted from.

        Raises:
            ProcessError: for a size that the process does not have.
        """
        wide = clean.float() if clean.dtype.itemsize < 4 else clean
        reduce = self._reducer((clean.shape[-2], clean.shape[-1]))
        image = _enlarged(wide, *reduce) if reduce else wide
        missing = self.y.to(image) - self.operator.apply(image)  # y - A w
        # z' = z + R A^T (A A^T + rho)^+ (y - A w); R = 1 and w = z at full size
        change = regularised_inverse(self.operator, missing, self._rho(t))
        return (wide + (reduce[0].apply(change) if reduce else change)).to(clean.dtype)

    def _rho(self, t: int) -> float:
        """Return rho_t = noise_std^2 / r_t^2 = noise_std^2 (1 + snr_t) [docs/math.md, equation (39)]."""
        return self.noise_std**2 * (1 + self.process.states[t].snr) if self.noise_std else 0.0

    def _reducer(self, size: Size) -> tuple[Factored, Enlarge] | None:
        """Return R from full size to ``size`` and a bilinear enlargement, None where that is full."""
        if size == self.process.states[0].size:
            return None
        if size not in self._resizes:
            raise ProcessError(f"a prediction of {size} pixels has a size that no timestep has")
        return self._resizes[size]

    @cached_property
    def _resizes(self) -> dict[Size, tuple[Factored, Enlarge]]:
        """R from full size to each smaller one, and a bilinear enlargement from there."""
        full = self.process.states[0].size
        smaller = {state.size for state in self.process.states} - {full}
        return {size: (self.process.reduction(size), _enlargement(size, full)) for size in smaller}


def predict_consistent(predict: Predict, measurement: Measurement) -> Predict:
    """Return a denoiser for a sampler's walk whose predictions agree with a measurement.

    Args:
        predict: the model's, (x_t, t) to the clean image at the size of timestep t - 1.
        measurement: what is known.
    """

    def consistent(x_t: Tensor, t: int) -> Tensor:
        return measurement.correct(predict(x_t, t), t)

    return consistent


def _enlarged(z: Tensor, reduce: Factored, enlarge: Enlarge) -> Tensor:
    """Return w = E z + R^+ (z - R E z), the image nearest to the enlarged z among those that reduce to z.

    Not R^+ z, the smallest of those: at the borders that of a constant 1 falls to 0.65 after three halvings
    [docs/math.md, equation (40)].
    """
    image = enlarge(z)
    return image + reduce.pseudo_inverse(z - reduce.apply(image))


def _enlargement(size: Size, full: Size) -> Enlarge:
    """Bilinear, the same with and without matrices."""
    if is_large(full):
        return partial(F.interpolate, size=full, mode="bilinear", align_corners=False)
    return Separable(*map(matrices.resize, size, full)).apply
