"""Entropies, information and Frechet distances of normal distributions, from covariances; float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG_2_PI_E = math.log(2 * math.pi * math.e)


def normal_entropy(sigma: Tensor) -> Tensor:
    """Compute the differential entropy of independent normal numbers, in nats.

        H = sum_i log(2 pi e sigma_i^2) / 2

    Args:
        sigma: (...) standard deviations, positive.
    """
    return (LOG_2_PI_E / 2 + sigma.double().log()).sum()


def information(whitened: Tensor) -> float:
    """Compute the mutual information of y = A x + noise and x, both normal, in nats.

        I(x; y) = H(y) - H(y | x) = log det(I + W W^T) / 2,    W = Q^{-1/2} A F

    with Q the covariance of the noise and F F^T that of x.

    Args:
        whitened: (k, e) W^T: the columns of F under A, divided by the noise's standard deviations.
    """
    small = whitened if whitened.shape[0] <= whitened.shape[1] else whitened.mT
    gram = small @ small.mT  # det(I + W W^T) = det(I + W^T W): the smaller one does
    gram.diagonal().add_(1.0)
    return float(torch.linalg.cholesky(gram).diagonal().log().sum())  # log det(L L^T) / 2


def trace_of_root(product: Tensor) -> float:
    """Compute tr P^{1/2} of a positive semidefinite (n, n) matrix: the sum of its eigenvalues' roots."""
    return float(torch.linalg.eigvalsh((product + product.mT) / 2).clamp_min(0).sqrt().sum())


def root_sum(covariance: Tensor, factor: Tensor) -> float:
    """Compute tr (B^{1/2} A B^{1/2})^{1/2} of covariances A and B = F F^T.

    B^{1/2} A B^{1/2} has the positive eigenvalues of F^T A F, and of L^T B L where A = L L^T.

    Args:
        covariance: (e, e) A, positive definite.
        factor: (e, k) F.
    """
    if factor.shape[1] > len(covariance):
        root = torch.linalg.cholesky(covariance)
        half = root.mT @ factor
        return trace_of_root(half @ half.mT)
    return trace_of_root(factor.mT @ covariance @ factor)


def frechet(means: Tensor, trace_a: float, trace_b: float, roots: float) -> float:
    """Compute the squared Frechet (2-Wasserstein) distance of normal distributions [Dowson & Landau 1982].

        |m_a - m_b|^2 + tr A + tr B - 2 tr (A^{1/2} B A^{1/2})^{1/2}

    Args:
        means: (d,) m_a - m_b.
        trace_a: tr A.
        trace_b: tr B.
        roots: the last trace, from :func:`root_sum` or :func:`trace_of_root`.
    """
    return max(0.0, float(means.square().sum()) + trace_a + trace_b - 2 * roots)


def frechet_of_samples(a: Tensor, b: Tensor) -> float:
    """Compute :func:`frechet` between the moments of two samples of as many images, without a d x d matrix.

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
