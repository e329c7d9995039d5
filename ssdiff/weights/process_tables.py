"""Tables of a process that files carry beside a network, those of [CD] and deepinv: compared with those of a
preset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ssdiff.build import build_process, build_states
from ssdiff.config import Preset
from ssdiff.errors import CheckpointError
from ssdiff.operators import matrices
from ssdiff.process.base import Process
from ssdiff.process.degradations.blur import STDS, blur

_KERNEL = "gaussian_kernels."
_CLOSE = 1e-4  # of numbers within [0, 1] that were computed in float32
_MIXED = ("noise", "animorph")


def kinds_with(tables: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """Return which degradations may have such tables; None where there is none to tell by."""
    if any(name.startswith(_KERNEL) for name in tables):
        return ("blur",)
    if "alphas_cumprod" in tables:
        return _MIXED
    return ("mask",) if "alphas" in tables else None


def severities_of(tables: Mapping[str, Tensor]) -> int:
    """Return T as the tables have it, 0 where there is none."""
    kernels = sum(name.startswith(_KERNEL) for name in tables)
    return kernels or max((len(value) for value in tables.values() if value.dim()), default=0)


def check_tables(tables: Mapping[str, Tensor], preset: Preset) -> list[str]:
    """Compare a file's tables with those of a preset's process.

    Args:
        tables: by their names without prefix, :attr:`ssdiff.models.official_cold.ColdFile.buffers`.
        preset: of a cold process.

    Returns:
        What was found, for people: that they agree, or that there was nothing to compare.

    Raises:
        CheckpointError: they contradict the preset; says which, where and by how much.
    """
    degradation = preset.process.degradation
    own = "no degradation" if degradation is None else f"degradation {degradation.kind!r}"
    if (kinds := kinds_with(tables)) is None:
        return [f"the file does not say what it restores; {preset.name} says {own}, T = {preset.process.T}"]
    if degradation is None or degradation.kind not in kinds:
        what = " or ".join(map(repr, kinds))
        raise _contradicts(preset, f"tables of a process of degradation {what}", own)
    for name, value in tables.items():
        if not value.is_floating_point() or not value.dim():
            raise CheckpointError(f"the table {name} is no list of real numbers, it is damaged")
    if (found := severities_of(tables)) != preset.process.T:
        raise _contradicts(preset, f"T = {found}", f"T = {preset.process.T}")
    if kinds == ("blur",):
        _check_kernels(tables, preset)
        return [f"its {found} blur kernels are those of {preset.name}"]
    _check_shares(tables, preset)
    return [f"its tables {', '.join(tables)} are those of {preset.name}"]


def check_signals(tables: Mapping[str, Tensor], preset: Preset) -> None:
    """Compare signals a_t and noise levels sigma_t in a file with those of a preset's process of noise.

    Args:
        tables: ``sqrt_alphas_cumprod`` and ``sqrt_1m_alphas_cumprod``, or none.
        preset: of a process of kind ddpm or ssd.

    Raises:
        CheckpointError: they contradict the preset; says which, where and by how much.
    """
    if not tables:
        return
    states = build_states(preset)[1:]
    for name, value in tables.items():
        if value.dim() != 1 or len(value) != len(states) or not value.is_floating_point():
            raise _contradicts(preset, f"{name} of {tuple(value.shape)}", f"T = {len(states)}")
        own = torch.tensor([state.sigma if "1m" in name else state.signal for state in states])
        difference = (value.double() - own.double()).abs().nan_to_num(1.0)
        if float(difference.max()) > _CLOSE:
            where = int(difference.argmax()) + 1
            found = f"other {name}, off by {float(difference.max()):.2g} at t = {where}"
            raise _contradicts(preset, found, f"process.noise = {preset.process.noise.kind!r}")


def _contradicts(preset: Preset, found: str, own: str) -> CheckpointError:
    return CheckpointError(
        f"the file has {found}, {preset.name} has {own}",
        hint="give the preset that the weights were trained with",
    )


def _check_kernels(tables: Mapping[str, Tensor], preset: Preset) -> None:
    assert preset.process.degradation is not None, "a blur"
    defaults = {name: option.default for name, option in inspect.signature(blur).parameters.items()}
    options = {**defaults, **preset.process.degradation.options}
    taps, first, growth = options["kernel"], options["first"], options["growth"]
    if taps is None:
        raise _contradicts(
            preset, "kernels one after the other", "one blur, without process.degradation.kernel"
        )
    for i in range(preset.process.T):
        name = f"{_KERNEL}{i}.weight"
        if (value := tables.get(name)) is None:
            raise _contradicts(preset, f"no {name}", f"T = {preset.process.T}")
        if value.shape[-2:] != (taps, taps):
            raise _contradicts(preset, f"kernels of {tuple(value.shape)}", f"kernel = {taps}")
        std = STDS[options["std"]](i, first, growth)
        row = matrices.gaussian_blur(taps, std, taps, "zero")[taps // 2]
        difference = float((value.double() - torch.outer(row, row)).abs().max() / row.max() ** 2)
        if not difference <= _CLOSE:
            raise _contradicts(
                preset, f"another {name}, off by {difference:.2g} of its peak", f"std {std:.4g}"
            )


def _check_shares(tables: Mapping[str, Tensor], preset: Preset) -> None:
    """Shares of x_0 in D(x_0, t), read off the process itself: how far D(1, t) and D(0, t) are apart."""
    process = build_process(preset, other=lambda images, shape: torch.zeros(len(images), *shape))
    side, T = preset.data.size, preset.process.T
    for name, value in tables.items():
        if value.dim() > 1 and tuple(value.shape[-2:]) != (side, side):
            raise _contradicts(preset, f"{name} of {tuple(value.shape)}", f"data.size = {side}")
        if len(value) != T:
            raise _contradicts(preset, f"{len(value)} entries of {name}", f"T = {T}")
    worst: dict[str, tuple[float, int]] = dict.fromkeys(tables, (0.0, 0))
    for t in range(1, T + 1):
        share = _share(process, t, side)
        for name, value in tables.items():
            wanted = _TABLES[name](share)
            entry = value[t - 1].double()
            difference = float((entry - (wanted if entry.dim() else wanted.mean())).abs().max())
            worst[name] = max(worst[name], (difference if difference == difference else 1.0, t))
    for name, (difference, t) in worst.items():
        if difference > _CLOSE:
            found = f"other {name}, off by {difference:.2g} at t = {t}"
            raise _contradicts(preset, found, "its own schedule")


_TABLES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "alphas_cumprod": lambda share: share**2,
    "sqrt_alphas_cumprod": lambda share: share,
    "sqrt_one_minus_alphas_cumprod": lambda share: (1 - share**2).clamp(min=0).sqrt(),
    "alphas": lambda share: share,
    "one_minus_alphas": lambda share: 1 - share,
}


def _share(process: Process, t: int, side: int) -> Tensor:
    """(H, W) of float64."""
    number = torch.zeros(1, dtype=torch.int64)
    one, zero = (
        process.degrade(torch.full((1, 3, side, side), value, dtype=torch.float64), t, number)
        for value in (1.0, 0.0)
    )
    return (one - zero)[0, 0]
