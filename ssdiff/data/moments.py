"""First and second moments of vectors that come in batches: the one place where they are added up."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMoments:
    """Add up the mean and the covariance of vectors at each of h x w places, in one pass and in float64.

        mean = sum_n x_n / N,    covariance = sum_n x_n x_n^T / N - mean mean^T

    The vectors are what stands along the second dimension: the channels of a coefficient (C, h, w), or with
    (d, 1, 1) all pixels of an image.

    Attributes:
        count: N, vectors seen so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum, self._products = torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Add (B, C, h, w) float64: B vectors of C numbers at each place."""
        self.count += len(x)
        self._products = self._products + torch.einsum("bcij,bdij->ijcd", x, x)
        self._sum = self._sum + x.sum(0).permute(1, 2, 0)

    def mean(self) -> Tensor:
        """Return (h, w, C) of what was added."""
        return self._sum / self.count

    def covariance(self, correction: int = 0) -> Tensor:
        """Return (h, w, C, C) of what was added.

        Args:
            correction: 0 divides by N; 1 by N - 1, without bias, for N of at least 2.
        """
        mean = self.mean()
        covariance = self._products / self.count - mean[..., :, None] * mean[..., None, :]
        return covariance * (self.count / (self.count - correction)) if correction else covariance
