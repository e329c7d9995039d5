"""Training losses: of processes with Gaussian noise, and of cold ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ssdiff import rng
from ssdiff.config import TrainingSettings
from ssdiff.devices import to_device
from ssdiff.process.base import Process
from ssdiff.process.prediction import prediction

Network = Callable[[Tensor, Tensor, int, Tensor | None], Tensor]


def gaussian_loss(
    network: Network,
    process: Process,
    x0: Tensor,
    t: Tensor,
    noise: Tensor,
    labels: Tensor | None = None,
    *,
    predict: str = "x0",
    min_snr_gamma: float = 5.0,
    snr_floor: float = 0.0,
    size_power: float = 0.0,
    kind: str = "l2",
) -> Tensor:
    """Return the weighted squared error of each image [Hang et al. 2023; docs/math.md, equation (34)].

    L_t = w_t mean (x^ - R_{t-1} x_0)^2, w_t = SNR_t cut to [snr_floor, min_snr_gamma], times (r_t / R)^p with
    p = size_power. Other predictions than the clean image have weights that make the same loss.

    Args:
        network: (x_t, t - 1, resolution wanted, labels) to a prediction; x_t by
            ``process.network_input``.
        process: the forward process.
        x0: (B, C, H, W) clean images in [-1, 1].
        t: (B,) timesteps on the CPU, all with one size now and one size next.
        noise: (B, C, h_t, w_t) standard normal.
        labels: (B,) classes.
        predict: what the output stands for, a name of :mod:`ssdiff.process.prediction`.
        min_snr_gamma: largest weight.
        snr_floor: least weight; above 0 it makes a short training learn the coarse layout sooner.
        size_power: of the side of x_t as a share of the full one, by which the weight is multiplied. Matched
            noise has the higher SNR the smaller the image; 2 gives coarse content the weight that it has in a
            process of one size.
        kind: ``l2`` or ``l1``.

    Returns:
        (B,) losses, float32.
    """
    first = int(t[0])  # all have its size
    now = math.sqrt(math.prod(process.states[first].size)) / math.sqrt(math.prod(process.states[0].size))
    wanted = process.states[first - 1].resolution
    meant, clean = prediction(predict), process.target(x0, t)
    x_t, target = process.noised(clean, t, noise), meant.target(process, clean, noise, t)
    given, t = process.network_input(x_t, t), to_device(t, x0.device)
    output = process.network_output(network(given, t - 1, wanted, labels).float(), first)
    snr = process.snr(t)
    weight = snr.clamp(snr_floor, min_snr_gamma) * math.pow(now, size_power)  # w_t (r_t / R)^p
    return meant.weight(weight, snr) * _distance(output, target, kind)


def cold_loss(
    network: Network,
    process: Process,
    x0: Tensor,
    t: Tensor,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    kind: str = "l1",
    bits: int = 0,
) -> Tensor:
    """Return the loss ||R(D(x_0, t), t) - x_0|| of each image [CD, section 3.1; docs/math.md, equation (48)].

    Args:
        network: (x_t, t - 1, resolution wanted, labels) to a clean image.
        process: the degradation.
        x0: (B, C, H, W) clean images in [-1, 1].
        t: (B,) timesteps on the CPU.
        images: (B,) numbers by which a random degradation draws.
        labels: (B,) classes.
        kind: ``l1`` or ``l2``.
        bits: of the degraded images that the network sees, as :func:`cut_to_bits`; 0 leaves them as they are.

    Returns:
        (B,) losses, float32.
    """
    x_t = process.degrade(x0, t, images)
    if bits:
        x_t = cut_to_bits(x_t, bits)
    output = network(x_t, to_device(t, x0.device) - 1, process.states[0].resolution, labels).float()
    return _distance(output, x0, kind)


def cut_to_bits(x: Tensor, bits: int) -> Tensor:
    """Return pixels in [-1, 1] cut, not rounded, to 2^bits levels [docs/math.md, equation (48)].

    floor((2^bits - 1) (x + 1) / 2) / (2^bits - 1) * 2 - 1, as published training of generation by blur does
    with 8 bits to what its network sees [CD].

    Args:
        x: any shape; what lies outside [-1, 1] is cut at the ends.
        bits: 1 or more.
    """
    levels = float((1 << bits) - 1)
    return ((x.clamp(-1, 1) + 1) * 0.5 * levels).floor() / levels * 2 - 1


@dataclass(frozen=True, slots=True)
class Visit:
    """Where a micro-batch is in the run; randomness is a function of it.

    Attributes:
        positions: (B,) positions in the global batch.
        counter: number of the micro-batch since the start.
        visits: (B,) images seen before each one, over all processes.
    """

    positions: Tensor
    counter: int
    visits: Tensor


Objective = Callable[[Network, Tensor, Tensor, Visit, Tensor | None], Tensor]
"""(network, x0, t, visit, labels) to (B,) losses."""


def objective(process: Process, settings: TrainingSettings, predict: str) -> Objective:
    """Return the loss that belongs to a process, with its randomness."""
    if not process.noisy:

        def of_cold(network: Network, x0: Tensor, t: Tensor, visit: Visit, labels: Tensor | None) -> Tensor:
            return cold_loss(
                network, process, x0, t, visit.visits, labels, kind=settings.loss, bits=settings.input_bits
            )

        return of_cold
    key = rng.derive(settings.seed, "train/noise")

    def of_noisy(network: Network, x0: Tensor, t: Tensor, visit: Visit, labels: Tensor | None) -> Tensor:
        shape = (x0.shape[1], *process.states[int(t[0])].size)
        noise = rng.normal(key, to_device(visit.positions, x0.device), visit.counter, shape)
        return gaussian_loss(
            network,
            process,
            x0,
            t,
            noise,
            labels,
            predict=predict,
            min_snr_gamma=settings.min_snr_gamma,
            snr_floor=settings.snr_floor,
            size_power=settings.size_power,
            kind=settings.loss,
        )

    return of_noisy


def _distance(output: Tensor, target: Tensor, kind: str) -> Tensor:
    """(B,) mean absolute or squared error."""
    error = output - target
    return (error.abs() if kind == "l1" else error.square()).mean(dim=(1, 2, 3))
