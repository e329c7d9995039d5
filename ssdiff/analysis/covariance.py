"""Mean and covariance of images, entropies and Frechet distances of normal distributions; float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdiff.errors import DataError

_RANK_TOLERANCE = 1e-12  # relative to the largest eigenvalue
LOG_2_PI_E = math.log(2 * math.pi * math.e)


@dataclass(frozen=True, slots=True)
class Moments:
    """First two moments of images with d pixels.

    Attributes:
        mean: (d,).
        factor: (d, k) with orthogonal columns, factor @ factor.T the covariance; k is its rank.
    """

    mean: Tensor
    factor: Tensor

    @property
    def pixels(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def eigenvalues(self) -> Tensor:
        """(k,) the positive ones of the covariance."""
        return self.factor.square().sum(0)

    @property
    def total(self) -> float:
        """The trace of the covariance."""
        return float(self.factor.square().sum())


def moments(images: Tensor) -> Moments:
    """Mean and covariance of grey images.

    Args:
        images: (N, 1, H, W), N at least 2, not all equal.

    Raises:
        DataError: there are fewer, or they do not differ.
    """
    if len(images) < 2:
        raise DataError(f"a covariance needs at least 2 images, not {len(images)}")
    flat = images.double().flatten(1)  # (N, d)
    mean = flat.mean(0)
    centred = (flat - mean) / math.sqrt(len(flat) - 1)
    values, vectors = torch.linalg.eigh(centred.mT @ centred)
    kept = values > _RANK_TOLERANCE * values[-1]
    if not bool(kept.any()) or float(values[-1]) < 1e-12:
        raise DataError("the images are all equal and have no covariance", hint="use others")
    return Moments(mean, vectors[:, kept] * values[kept].sqrt())


def normal_entropy(sigma: Tensor) -> Tensor:
    """Differential entropy of independent normal numbers, nats: sum of log(2 pi e sigma^2) / 2.

    Args:
        sigma: (...) standard deviations, positive.
    """
    return (LOG_2_PI_E / 2 + sigma.double().log()).sum()


def information(whitened: Tensor) -> float:
    """I(x; y) in nats of y = A x + noise, all normal: log det(I + W W^T) / 2.

    Args:
        whitened: (k, e) W: columns of the covariance factor of x, under A, divided by the noise.
    """
    small = whitened if whitened.shape[0] <= whitened.shape[1] else whitened.mT
    gram = small @ small.mT
    gram.diagonal().add_(1.0)
    return float(torch.linalg.cholesky(gram).diagonal().log().sum())


def root_sum(covariance: Tensor, factor: Tensor) -> float:
    """tr (B^{1/2} A B^{1/2})^{1/2} of covariances A and B = F F^T.

    Args:
        covariance: (e, e) A, positive definite.
        factor: (e, k) F.
    """
    if factor.shape[1] > len(covariance):
        root = torch.linalg.cholesky(covariance)
        product = root.mT @ factor
        product = product @ product.mT
    else:
        product = factor.mT @ covariance @ factor
    return float(torch.linalg.eigvalsh((product + product.mT) / 2).clamp_min(0).sqrt().sum())


def frechet(means: Tensor, trace_a: float, trace_b: float, roots: float) -> float:
    """Squared Frechet (2-Wasserstein) distance of normal distributions [Dowson & Landau 1982].

    |m_a - m_b|^2 + tr A + tr B - 2 tr (A^{1/2} B A^{1/2})^{1/2}

    Args:
        means: (d,) m_a - m_b.
        trace_a: tr A.
        trace_b: tr B.
        roots: the last trace, from :func:`root_sum`.
    """
    return max(0.0, float(means.square().sum()) + trace_a + trace_b - 2 * roots)


def frechet_of_samples(a: Tensor, b: Tensor) -> float:
    """The same between the moments of two samples of as many images, without any d x d matrix.

    Args:
        a: (N, d).
        b: (N, d).
    """
    means = a.mean(0) - b.mean(0)
    scale = 1 / math.sqrt(len(a) - 1)
    a, b = scale * (a - a.mean(0)), scale * (b - b.mean(0))
    # tr (A^{1/2} B A^{1/2})^{1/2} is the sum of the singular values of the product of the factors.
    roots = float(torch.linalg.svdvals(a @ b.mT).sum())
    return frechet(means, float(a.square().sum()), float(b.square().sum()), roots)
