"""Blurs by any kernel, of pictures of any size."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.operators.base import Constants, Operator, Size


class Convolution(Operator):
    """Convolution of a picture that is continued periodically, by FFT [docs/math.md, equation (87)].

    Its singular values are the magnitudes of the kernel's frequency response, so that restoration has its
    inverse in closed form. The middle of the kernel stays where it is: a kernel of 2 k + 1 pixels takes k
    neighbours to each side.

    Args:
        size: (H, W) of the pictures.
        kernel: (h, w), each odd and at most H and W.

    Raises:
        ProcessError: the kernel does not fit.
    """

    def __init__(self, size: Size, kernel: Tensor) -> None:
        height, width = kernel.shape
        if height % 2 == 0 or width % 2 == 0 or height > size[0] or width > size[1]:
            raise ProcessError(
                f"a kernel of {width} x {height} pixels must have odd sides, for pictures of "
                f"{size[1]} x {size[0]} no larger than these"
            )
        self.in_size = self.out_size = size
        whole = torch.zeros(size, dtype=torch.float64)
        whole[:height, :width] = kernel.double()
        centred = whole.roll((-(height // 2), -(width // 2)), (0, 1))
        response = torch.fft.rfft2(centred)
        self._response = Constants(real=response.real, imaginary=response.imag)

    def apply(self, x: Tensor) -> Tensor:
        """Blur (B, C, H, W) to the same shape; half precision is computed in float32."""
        return self._multiply(x, self._gains(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the kernel turned around: (B, C, H, W) to the same shape."""
        return self._multiply(y, self._gains(y).conj())

    def norm(self) -> float:
        """Return the largest magnitude of the frequency response."""
        return float(self._magnitudes().max())

    def inverse(self, y: Tensor, rho: float, least: float) -> Tensor:
        """Return A^T (A A^T + rho)^+ y; what would be amplified by more than 1 / (least ||A||) is left out.

        Args:
            y: (B, C, H, W).
            rho: 0 or more.
            least: as a share of the norm.
        """
        gains, magnitude = self._gains(y), self._magnitudes()
        kept = magnitude / (magnitude.square() + rho) * (least * magnitude.max()) <= 1
        power = (magnitude.square() + rho).clamp(min=torch.finfo(torch.float64).tiny)
        return self._multiply(y, gains.conj() * (kept / power).to(gains.real))

    def _magnitudes(self) -> Tensor:
        return torch.hypot(self._response["real"], self._response["imaginary"])

    def _gains(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype.itemsize < 4 else x
        parts = self._response.like(wide)
        return torch.complex(parts["real"], parts["imaginary"])

    def _multiply(self, x: Tensor, gains: Tensor) -> Tensor:
        assert self.in_size is not None, "known from the start"
        wide = x.float() if x.dtype.itemsize < 4 else x
        blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(wide) * gains, s=self.in_size)
        return blurred.to(x.dtype)
