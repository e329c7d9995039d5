"""How often training visits each timestep, and each pair of sizes.

The draw of batches and the counting of FLOPs both ask here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssdiff.config import TrainingSettings
from ssdiff.errors import ProcessError
from ssdiff.operators.base import Size
from ssdiff.process.base import Process
from ssdiff.schedules.resolution import batch_shares

SizePair = tuple[Size, Size]
"""Image sizes at t and at t - 1."""

_LEAST = 0.01  # of the batches that a size would have, were timesteps alike: with fewer it learns nothing
_FLAT = 1e-6  # difference of log-SNRs that is none


def coarse_log_snr(process: Process) -> Tensor:
    """Return (T,) float64 log-SNR lambda_t of the content that every size has [docs/math.md, equation (24)].

    At full size, and everywhere with SNR-preserving noise, log(a^2 / sigma^2) of the process of one size.
    """
    return -2 * process.log_noise()


def log_snr_masses(log_snr: Tensor, mean: float, std: float) -> Tensor:
    """Return (T,) float64 probabilities of the timesteps nearest to a normal draw of the log-SNR.

    P(t) = Phi((h_{t-1} - mean) / std) - Phi((h_t - mean) / std), where h_t is midway between lambda_t and
    lambda_{t+1}, h_0 infinite and h_T minus infinite: the density times the width of a narrow interval; the
    tails beyond lambda_1 and lambda_T are theirs. See docs/math.md, section 9.

    Args:
        log_snr: (T,) non-increasing lambda_t of t = 1..T.
        mean: of the normal density.
        std: of the normal density, above 0.

    Raises:
        ProcessError: the log-SNR is the same at all timesteps.
    """
    log_snr = log_snr.double()
    if len(log_snr) > 1 and float(log_snr[0] - log_snr[-1]) < _FLAT:
        raise ProcessError(
            "training.timesteps = 'log_snr': the log-SNR of this process is the same at every timestep",
            hint="leave training.timesteps = 'uniform'",
        )
    borders = torch.nn.functional.pad((log_snr[1:] + log_snr[:-1]) / 2, (1, 1))
    borders[0], borders[-1] = float("inf"), float("-inf")
    place = (borders - mean) / std
    # By the smaller tails of the two: far above the mean a difference of larger ones is nothing but rounding.
    upper = torch.special.ndtr(-place[1:]) - torch.special.ndtr(-place[:-1])
    lower = torch.special.ndtr(place[:-1]) - torch.special.ndtr(place[1:])
    return torch.where(place[1:] > 0, upper, lower)


def timestep_masses(process: Process, settings: TrainingSettings) -> Tensor | None:
    """Return (T,) probabilities of t = 1..T before transitions get their share; None where all are alike.

    Raises:
        ProcessError: as :func:`log_snr_masses`.
    """
    if settings.timesteps == "uniform":
        return None
    return log_snr_masses(coarse_log_snr(process), settings.log_snr_mean, settings.log_snr_std)


def pairs_of_sizes(sizes: Sequence[Size]) -> dict[SizePair, list[int]]:
    """Return the timesteps of each pair (size at t, size at t - 1), in order.

    Args:
        sizes: image size of t = 0..T.
    """
    groups: dict[SizePair, list[int]] = {}
    for t in range(1, len(sizes)):
        groups.setdefault((sizes[t], sizes[t - 1]), []).append(t)
    return groups


def pair_shares(
    sizes: Sequence[Size],
    transition_share: float = 0.0,
    masses: Tensor | None = None,
    transitions: bool = True,
) -> dict[SizePair, float]:
    """Return the share of the training batches of each pair of sizes [docs/math.md, equation (35)].

    Args:
        sizes: image size of t = 0..T.
        transition_share: least share of each resolution transition.
        masses: (T,) probabilities of t = 1..T; None is uniform.
        transitions: whether resolution transitions have any.

    Raises:
        ProcessError: as :func:`ssdiff.schedules.resolution.batch_shares`; or a pair has hardly any, or a size
            has nothing but transitions, which have none.
    """
    groups = pairs_of_sizes(sizes)
    if not transitions:
        groups = {pair: members for pair, members in groups.items() if pair[0] == pair[1]}
        for size in dict.fromkeys(sizes[1:]):
            if (size, size) not in groups:
                raise ProcessError(
                    f"training.transitions = false leaves no timestep to learn {max(size)} px by: its only "
                    "one is a transition",
                    hint="raise process.T, move the transitions apart, or set training.transitions to true",
                )
    alike = batch_shares({pair: len(members) for pair, members in groups.items()}, transition_share)
    if masses is None:
        return alike
    weights = {pair: float(masses[members[0] - 1 : members[-1]].sum()) for pair, members in groups.items()}
    shares = batch_shares(weights, transition_share)
    for (now, then), share in shares.items():
        if share < _LEAST * alike[now, then]:
            raise ProcessError(
                f"training.timesteps = 'log_snr' leaves {max(now)} -> {max(then)} px {share:.1g} of the "
                f"batches, 'uniform' {alike[now, then]:.1g}",
                hint="raise training.log_snr_std, or move training.log_snr_mean",
            )
    return shares


def training_shares(process: Process, settings: TrainingSettings) -> dict[SizePair, float]:
    """Return the share of the batches that a training with these settings gives each pair of sizes.

    Raises:
        ProcessError: as :func:`log_snr_masses` and :func:`pair_shares`.
    """
    sizes = [state.size for state in process.states]
    masses = timestep_masses(process, settings)
    return pair_shares(sizes, settings.transition_share, masses, settings.transitions)
