"""The training loss of Gaussian processes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ssdiff.process.gaussian import GaussianProcess

Network = Callable[[Tensor, Tensor, int, Tensor | None], Tensor]


def gaussian_loss(
    network: Network,
    process: GaussianProcess,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    predict: str = "x0",
    min_snr: float = 5.0,
    snr_floor: float = 0.0,
) -> Tensor:
    """Min-SNR-weighted squared error of each image [Hang et al. 2023; SSD, section 4].

    The target is the clean image at the size of t - 1, its weight SNR_t cut to [snr_floor, min_snr]; or the
    noise, with that weight divided by SNR_t, which is the same loss where both are defined.

    Args:
        network: (x_t, t - 1, resolution wanted, labels) to a prediction.
        process: the forward process.
        x0: (B, C, H, W) clean images in [-1, 1].
        t: (B,) severities on the CPU, all with one size now and one size next.
        noise: (B, C, h_t, w_t) standard normal.
        labels: (B,) classes.
        predict: ``x0`` or ``eps``.
        min_snr: largest weight.
        snr_floor: least weight; above 0 it makes a short training learn the coarse layout sooner.

    Returns:
        (B,) losses, float32.
    """
    now, then = int(t[0]), int(t[0]) - 1
    t = t.to(x0.device)
    target = process.degrade(x0, then)
    x_t = process.scale(process.resize(target, then, now), t, noise)
    output = network(x_t, t - 1, process.states[then].resolution, labels).float()
    snr = process.snr(t)
    weight = snr.clamp(snr_floor, min_snr)
    if predict == "eps":
        target, weight = noise, weight / snr
    return weight * (output - target).square().mean(dim=(1, 2, 3))
