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


def entropy_of_blocks(covariance: Tensor, count: int, noise: float) -> float:
    """Estimate the entropy of a normal distribution from sample covariances at independent places, in nats.

        H = sum_k log det(2 pi e (S_k + noise I)) / 2

    The logarithm of a sample's determinant is too small on average; by how much is known for normal samples,
    sum_i psi((n - i + 1) / 2) + C log(2 / n) with n = count - 1, and undone [docs/math.md, equation (78)].

    Args:
        covariance: (h, w, C, C) S_k without bias, of ``count`` vectors.
        count: more than C.
        noise: variance that is added, positive.
    """
    channels = covariance.shape[-1]
    known = covariance + noise * torch.eye(channels, dtype=covariance.dtype)
    halves = torch.linalg.cholesky(known).diagonal(dim1=-2, dim2=-1).log().sum(-1)  # log det / 2
    n = count - 1
    psi = torch.digamma((n - torch.arange(channels, dtype=torch.float64)) / 2).sum()
    bias = float(psi) + channels * math.log(2 / n)
    return float((halves + (channels * LOG_2_PI_E - bias) / 2).sum())


def information_of_blocks(covariance: Tensor, noise: Tensor) -> float:
    """Compute the mutual information of y = x + noise and x, normal and independent from place to place.

        I(x; y) = sum_k log det(I + D_k^{-1/2} S_k D_k^{-1/2}) / 2

    Args:
        covariance: (h, w, C, C) S_k of x.
        noise: (h, w, C) diagonals of D_k, positive.
    """
    scale = noise.rsqrt()
    gram = scale[..., :, None] * covariance * scale[..., None, :]
    gram = gram + torch.eye(gram.shape[-1], dtype=gram.dtype)
    return float(torch.linalg.cholesky(gram).diagonal(dim1=-2, dim2=-1).log().sum())


def root_sum_of_blocks(a: Tensor, b: Tensor) -> float:
    """Compute the sum over places of tr (A^{1/2} B A^{1/2})^{1/2}.

    Args:
        a: (h, w, C, C) covariances.
        b: likewise.
    """
    if a.shape[-1] == 1:
        return float((a * b).clamp_min(0).sqrt().sum())
    values, vectors = torch.linalg.eigh(a)
    root = (
        vectors * values.clamp_min(0).sqrt()[..., None, :]
    )  # A = F F^T, and F^T B F has the same eigenvalues
    return float(torch.linalg.eigvalsh(root.mT @ b @ root).clamp_min(0).sqrt().sum())
