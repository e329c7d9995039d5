"""Learned uncertainty: what a loss is expected to be at its noise level, by which it is divided."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from ssdiff.devices import to_device
from ssdiff.distributed import World

BINS = 64
"""Intervals of the log-SNR, about: more where a pair of sizes begins, fewer where few draws fall."""

_RAREST = 1 / 512  # a bin is widened until it has this share of the draws
_KEPT = 0.99  # of what a bin knows, from one step to the next
_LEAST = 1e-8  # of the mean loss, below which a bin's is not believed
_ELSEWHERE = 1e6  # added to the distance of bins of other sizes: they are asked last


class Uncertainty:
    """Running mean m_b of the loss in bins b over the log-SNR, and the weights sum_b p_b m_b / m_b.

    Minimising E[L_t / exp(u) + u] over u(lambda) has the closed form exp(u) = E[L | lambda]
    [Kendall et al. 2018], which here is a table instead of the network of [Karras et al. 2024]; see
    docs/math.md, section 9. The table knows sums of losses and their numbers, both fading by 1 % a step as
    long as they weigh more than one image, so m_b is exact however few there were. A bin that nothing is
    known of takes the nearest of its pair of sizes, then of all; before the first step all weights are 1.
    With p_b, the share of the draws in a bin, the mean of all weighted losses is that of the losses, so that
    gradients are as long as without, and ``training.grad_clip_norm`` means what it meant.

    Args:
        log_snr: (K,) of every timestep that is drawn, those of a pair of sizes in order.
        pairs: (K,) number of its pair of sizes.
        probability: (K,) of the draw; sums to 1.
        device: of the losses.

    Attributes:
        bins: (K,) bin of every place, on the CPU.
    """

    def __init__(self, log_snr: Tensor, pairs: Tensor, probability: Tensor, device: torch.device) -> None:
        self.bins = assign_bins(log_snr, pairs, probability)
        count = int(self.bins.max()) + 1
        share = torch.zeros(count, dtype=torch.float64).index_add_(0, self.bins, probability.double())
        sizes = torch.bincount(self.bins, minlength=count)
        centre = torch.zeros(count, dtype=torch.float64).index_add_(0, self.bins, log_snr.double()) / sizes
        pair = torch.zeros(count, dtype=torch.int64).index_copy_(0, self.bins, pairs)
        distance = (centre - centre[:, None]).abs() + _ELSEWHERE * (pair != pair[:, None])
        self._share = (share / share.sum()).float().to(device)
        self._distance = distance.float().to(device)
        self._numbers = torch.arange(count, device=device)
        self._known = torch.zeros(count, 2, device=device)  # sum of losses, and their number
        self._fresh = torch.zeros_like(self._known)  # of the step that is being taken
        self._weights = torch.ones(count, device=device)

    def weights(self, places: Tensor) -> Tensor:
        """Return the weight of each loss, (B,), as the steps before have found it.

        Args:
            places: (B,) numbers in 0..K-1, on the CPU.
        """
        return self._weights[to_device(self.bins[places], self._weights.device)]

    @torch.no_grad()
    def add(self, places: Tensor, losses: Tensor) -> None:
        """Add (B,) unweighted losses to what :meth:`step` will make known."""
        bins = to_device(self.bins[places], self._weights.device)
        inside = (bins[:, None] == self._numbers).to(losses.dtype)  # sums in one order on every device
        self._fresh[:, 0] += (inside * losses.detach()[:, None]).sum(0)
        self._fresh[:, 1] += inside.sum(0)

    @torch.no_grad()
    def step(self, world: World) -> None:
        """Let the table learn from the losses since the last step, of all processes."""
        if world.size > 1:
            dist.all_reduce(self._fresh)
        kept = torch.maximum(torch.full_like(self._known[:, 1], _KEPT), 1 / self._known[:, 1].clamp_min(1.0))
        self._known = self._known * kept[:, None] + self._fresh
        self._fresh.zero_()
        self._weigh()

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint, between two steps."""
        return {"known": self._known, "bins": self.bins}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor] | None) -> bool:
        """Continue from the tensors of :meth:`state`; whether they are of the same bins.

        Without them, or with those of other settings, the table begins anew.
        """
        known, bins = (None if tensors is None else tensors.get(name) for name in ("known", "bins"))
        if known is None or bins is None or known.shape != self._known.shape:
            return False
        if bins.shape != self.bins.shape or not torch.equal(bins.cpu(), self.bins):
            return False
        self._known.copy_(known)
        self._weigh()
        return True

    def _weigh(self) -> None:
        """Weights from what is known; no number of it reaches the host."""
        losses, numbers = self._known.unbind(1)
        source = self._distance.masked_fill(numbers == 0, float("inf")).argmin(1)
        mean = (losses / numbers.clamp_min(1e-30))[source]
        overall = (self._share * mean).sum()
        weights = overall / mean.clamp_min(_LEAST * overall).clamp_min(1e-30)
        self._weights = torch.where(numbers.sum() > 0, weights, torch.ones_like(weights))


def assign_bins(log_snr: Tensor, pairs: Tensor, probability: Tensor) -> Tensor:
    """Return the (K,) number of the bin of every place.

    A bin holds neighbours of one pair of sizes. It ends when it covers 1/64 of the range of the log-SNR and
    has 1/512 of the draws; the last of a pair, if it has fewer, joins the one before.

    Args:
        log_snr: (K,), non-increasing within a pair of sizes.
        pairs: (K,) number of the pair of sizes, equal ones side by side.
        probability: (K,) of the draw.
    """
    levels, before = log_snr.tolist(), [0.0, *probability.cumsum(0).tolist()]
    wide = (max(levels) - min(levels)) / BINS

    def drawn(first: int, end: int) -> bool:
        return bool(before[end] - before[first] >= _RAREST)

    starts = []
    for _, group in itertools.groupby(range(len(levels)), key=pairs.tolist().__getitem__):
        places = list(group)
        begun = [places[0]]
        for place in places[1:]:
            if levels[begun[-1]] - levels[place] >= wide and drawn(begun[-1], place):
                begun.append(place)
        if len(begun) > 1 and not drawn(begun[-1], places[-1] + 1):
            begun.pop()
        starts += begun
    return torch.bucketize(torch.arange(len(levels)), torch.tensor(starts), right=True) - 1
