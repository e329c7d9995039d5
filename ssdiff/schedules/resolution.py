"""Resolution schedules: which level (0 is the full resolution) each timestep t = 1..T has, and respacing.

A schedule is an int64 tensor (T,), non-decreasing, of levels. The decays take tau = (t - 1) / (T - 1).
Facts of the decays: the official code of [SSD]; golden tables in the tests.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ssdiff.errors import ProcessError
from ssdiff.schedules.respacing import Crossing, Steps, kept_timesteps

Pair = TypeVar("Pair", bound=tuple[Hashable, Hashable])


def level_sizes(size: int, levels: int, factor: float = 2.0, coarsest: int = 1) -> tuple[int, ...]:
    """Return the pixels a side of each level, largest first: ``size`` divided by ``factor`` again and again.

    Args:
        size: full resolution, pixels a side.
        levels: how many.
        factor: ratio of neighbouring levels, above 1.
        coarsest: divisor of the smallest U-Net level relative to the full size, e.g. 8 for four U-Net
            levels. A level between size / 2^k and size / 2^(k+1) is rounded to a multiple of coarsest / 2^k,
            so that the network can halve it all the way down; the official rule for factors other than 2.

    Raises:
        ProcessError: if two levels coincide or one vanishes.
    """
    sizes: list[int] = []
    exact = float(size)
    for _ in range(levels):
        octave = max(k for k in range(coarsest.bit_length()) if k == 0 or exact <= size / 2**k)
        unit = max(1, coarsest >> octave)
        down, up = round(exact) // unit * unit, -(-round(exact) // unit) * unit
        sizes.append(down if round(exact) - down <= unit / 2 else up)
        exact = float(round(exact / factor))
    if min(sizes) < 1 or len(set(sizes)) < levels:
        raise ProcessError(
            f"{levels} levels of factor {factor:g} do not fit into {size} pixels: they would be {sizes}",
            hint="lower process.levels or raise process.factor",
        )
    return tuple(sizes)


def _tau(steps: int) -> Tensor:
    return torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)


def _quantise(position: Tensor, levels: int) -> Tensor:
    index: Tensor = (position * levels).long().clamp(max=levels - 1)
    return index


def convex_decay(steps: int, levels: int, gamma: float = 0.5) -> Tensor:
    """Return levels at position 1 - (1 - tau)^gamma; the papers' models use 0.5, 1 gives equal shares.

    See docs/math.md, equation (17).
    """
    return _quantise(1 - (1 - _tau(steps)) ** gamma, levels)


def equal(steps: int, levels: int) -> Tensor:
    """Return levels of the same number of steps each."""
    return _quantise(_tau(steps), levels)


def _smooth(x: Tensor, gamma: float) -> Tensor:
    """Odd, increasing map of [-1/2, 1/2] onto itself: a smoothstep of the signed power."""
    step = x.sign() * x.abs() ** gamma + 0.5
    rise = 3 * step**2 - 2 * step**3 - 0.5
    low = 0.5 - 0.5**gamma
    result: Tensor = -0.5 * rise / (3 * low**2 - 2 * low**3 - 0.5)
    return result


def _smooth_inverse(y: Tensor, gamma: float) -> Tensor:
    """Inverse of :func:`_smooth` by bisection, to the last bit of float64."""
    low, high = torch.full_like(y, -0.5), torch.full_like(y, 0.5)
    for _ in range(60):
        middle = (low + high) / 2
        below = _smooth(middle, gamma) < y
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def tanh_like(steps: int, levels: int, gamma: float = 2.0) -> Tensor:
    """Return levels with short stays at both ends, long ones in the middle."""
    return _mirrored(_smooth(_tau(steps) - 0.5, gamma) + 0.5, levels)


def sigmoid_like(steps: int, levels: int, gamma: float = 2.0) -> Tensor:
    """Return levels with long stays at both ends: the inverse curve of :func:`tanh_like`."""
    return _mirrored(_smooth_inverse(_tau(steps) - 0.5, gamma) + 0.5, levels)


def _mirrored(curve: Tensor, levels: int) -> Tensor:
    """The official code counts these two decays from the coarse end."""
    return levels - 1 - _quantise(1 - curve, levels)


def explicit(steps: int, changes: Sequence[int]) -> Tensor:
    """Return levels of which k + 1 begins at timestep ``changes[k]``, in 1..T, increasing."""
    if list(changes) != sorted(set(changes)) or (changes and not 1 < changes[0] <= changes[-1] <= steps):
        raise ProcessError(f"resolution transitions must increase within 2..{steps}, not {list(changes)}")
    timesteps = torch.arange(1, steps + 1)
    return torch.bucketize(timesteps, torch.tensor(list(changes), dtype=torch.int64), right=True)


def by_log_snr(nu: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Return levels of which k + 1 begins where the log-SNR -2 log nu falls below ``thresholds[k]``.

    That of the full-resolution process [docs/math.md, equation (18)].
    """
    log_snr = -2 * nu.log()
    return (log_snr[:, None] < torch.tensor(list(thresholds), dtype=torch.float64)).sum(dim=1)


def batch_shares(counts: Mapping[Pair, float], transition_share: float = 0.0) -> dict[Pair, float]:
    """Return the share of the training batches of each pair (size at t, size at t - 1).

    See docs/math.md, equation (35).

    [SSD, section 4] gives a pair the share of its timesteps. A resolution transition has a single one, so
    with
    T = 1000 the layers that only a change needs would learn from one batch in a thousand.

    Args:
        counts: timesteps of each pair, or what their probabilities add up to.
        transition_share: least share of each change; what it takes, the other pairs give in proportion.

    Raises:
        ProcessError: the changes would leave nothing for the rest.
    """
    total = sum(counts.values())
    raised = {
        pair: transition_share
        for pair, count in counts.items()
        if pair[0] != pair[1] and count < transition_share * total
    }
    rest = sum(count for pair, count in counts.items() if pair not in raised)
    left = 1 - sum(raised.values())
    if raised and (left <= 0 or not rest):
        raise ProcessError(
            f"{len(raised)} resolution transitions with {transition_share:g} of the batches each leave "
            "none for others",
            hint="lower training.transition_share",
        )
    return {pair: raised.get(pair, left * count / (rest or 1)) for pair, count in counts.items()}


def respace(
    levels: Tensor, steps: Steps, coordinate: Tensor | None = None, crossing: Crossing = "step"
) -> list[int]:
    """Return the timesteps of a chain of ``steps`` steps, T down to 0, every transition kept.

    Args:
        levels: (T,) level of each timestep.
        steps: wanted steps, as :func:`ssdiff.schedules.respacing.kept_timesteps` takes them; a change of
            level that falls between two of them adds one, so 250 of 1000 with three changes gives up to 253.
        coordinate: (T,) non-decreasing, along which the steps are even between one change of level and the
            next; even in t itself, changes in between, where omitted. With it steps are a number.
        crossing: see :func:`with_transitions`; of steps even in t, and their number is the same.

    Returns:
        Decreasing timesteps; the last is 0. The first is T, but where a list or a stride ends before it.

    Raises:
        ProcessError: if there are not so many timesteps.
    """
    if coordinate is None:
        return with_transitions(levels, kept_timesteps(len(levels), steps), crossing)
    if not isinstance(steps, int):
        raise ProcessError(
            f"steps {steps} are even in t, this sampler's in the logarithm of the noise",
            hint="give their number, or another sampler",
        )
    if not 1 <= steps <= len(levels):
        raise ProcessError(f"steps must be between 1 and {len(levels)}, not {steps}")
    return with_transitions(levels, _even_between(coordinate, steps, _transitions(levels)).tolist())


def with_transitions(levels: Tensor, kept: Iterable[int], crossing: Crossing = "step") -> list[int]:
    """Return a chain down to 0 of timesteps and the first timestep of each coarser level.

    So two neighbours t > s satisfy level(s) == level(t - 1). What a finer state gains at a transition is all
    random, whatever s is; the closer s is to t, the more of it the network still sees and corrects. With the
    crossing ``"timestep"`` s is t - 1 there, in place of the nearest of the kept timesteps of the two levels:
    the highest and the lowest of the chain stay, and so does the last that a level has beside them, in which
    case s is what it would be otherwise.

    Args:
        levels: (T,) level of each timestep.
        kept: timesteps within 1..T.
        crossing: of a transition.
    """
    changes = _transitions(levels).tolist()
    chain = {*kept, *changes}
    if crossing == "timestep" and changes:
        of = [None, *levels.tolist()]
        free = chain - {*changes, *(t - 1 for t in changes), max(chain), min(chain)}
        for s in (t - 1 for t in changes if t - 1 not in chain):
            spare = Counter(of[t] for t in free)
            movable = [t for t in free if of[t] in (of[s], of[s + 1]) and spare[of[t]] > 1]
            if movable:
                nearest = min(movable, key=lambda t: (abs(t - s), t))
                free.remove(nearest)
                chain = chain - {nearest} | {s}
    return [*sorted(chain, reverse=True), 0]


def _transitions(levels: Tensor) -> Tensor:
    """The first timestep of each coarser level."""
    return (levels[1:] != levels[:-1]).nonzero().flatten() + 2


def _even_between(coordinate: Tensor, steps: int, changes: Tensor) -> Tensor:
    """Timesteps even along a (T,) coordinate from T to the last change, to the one before, ..., to
    1."""
    total = len(coordinate)
    lowest = 1 if steps > 1 else total
    ends = torch.cat([torch.tensor([lowest, total]), changes]).unique()
    spans = list(itertools.pairwise(ends[ends >= lowest].tolist()))
    lengths = [float(coordinate[high - 1] - coordinate[low - 1]) for low, high in spans]
    shares = _apportioned(steps - 1 + len(changes), lengths, [high - low for low, high in spans])
    parts = [
        _even_along(coordinate[low - 1 : high], share + 1) + low - 1
        for (low, high), share in zip(spans, shares, strict=True)
    ]
    return torch.cat([torch.tensor([total]), *parts])


def _apportioned(count: int, lengths: Sequence[float], most: Sequence[int]) -> list[int]:
    """Return whole numbers that add up to ``count``, from 1 to ``most``, in proportion to the lengths.

    By D'Hondt's method.
    """
    shares = [1] * len(lengths)
    for _ in range(min(count, sum(most)) - len(shares)):
        open_ = [i for i, share in enumerate(shares) if share < most[i]]
        shares[max(open_, key=lambda i: lengths[i] / shares[i])] += 1
    return shares


def _even_along(coordinate: Tensor, steps: int) -> Tensor:
    """(steps,) distinct timesteps, T and 1 among them, as even along a (T,) coordinate as can be."""
    total, order = len(coordinate), torch.arange(steps)
    wanted = torch.linspace(float(coordinate[-1]), float(coordinate[0]), steps, dtype=torch.float64).flip(0)
    middles = (coordinate[1:] + coordinate[:-1]) / 2
    nearest = torch.searchsorted(middles, wanted)
    nearest[-1] = total - 1
    distinct = (nearest - order).cummax(0).values + order
    return torch.minimum(distinct, total - steps + order) + 1
