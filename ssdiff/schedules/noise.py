"""Noise schedules: nu_t = sigma_t / a_t for t = 1..T, float64, increasing.

A process needs only nu, the noise relative to the signal: a = 1 / sqrt(1 + nu^2), sigma = nu a. The
full-resolution log-SNR of a timestep is -2 log nu.

Torch is imported by the functions, not here, because presets are checked against their signatures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ssdiff.errors import PresetError, UsageError
from ssdiff.registry import Registry, options_of

if TYPE_CHECKING:
    from torch import Tensor

Schedule: TypeAlias = "Callable[..., Tensor]"
_Schedule = TypeVar("_Schedule", bound="Schedule")

_TYPES = (bool, int, float, str)
_rules: dict[Schedule, Callable[..., str | None]] = {}


def schedule_options(name: str, schedule: Schedule) -> dict[str, tuple[Any, Any]]:
    """Return the options of a schedule: type, with its range, and default (``...`` where it has none).

    Raises:
        UsageError: the signature is not (T, **options), or an option has no type that a preset can hold.
    """
    if not isinstance(schedule, FunctionType):
        raise UsageError(f"noise schedule {name!r} is no function", hint="write def mine(T, *, option=1.0)")
    found = {}
    for option in options_of(name, schedule, ("T",)):
        given: Any = option.annotation
        if given is option.empty:
            given = type(option.default)
        try:
            holder, names = SimpleNamespace(__annotations__={option.name: given}), schedule.__globals__
            kind = get_type_hints(holder, names, include_extras=True)[option.name]
        except NameError:
            kind = None
        plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if plain not in _TYPES or option.name.startswith("_") or option.name in ("kind", *dir(BaseModel)):
            raise UsageError(
                f"noise schedule {name!r}: {option.name} cannot be an option of a preset",
                hint="name it like a word and annotate it as float, int, bool or str",
            )
        found[option.name] = (kind, ... if option.default is option.empty else option.default)
    return found


NOISE_SCHEDULES: Registry[Schedule] = Registry("noise schedule", check=schedule_options)
"""Name to schedule(T, **options)."""


def register_noise_schedule(
    name: str, *, rule: Callable[..., str | None] | None = None
) -> Callable[[_Schedule], _Schedule]:
    """Return a decorator that makes a noise schedule known as ``name``, for ``process.noise`` in a preset.

    The schedule is a function of T and options; it returns nu_t = sigma_t / a_t for t = 1..T as a tensor
    (T,), positive, finite and strictly increasing. Options are float, int, bool or str, by their annotation
    or default; ``Annotated[float, pydantic.Field(gt=0)]`` gives one a range.

    Args:
        name: in small letters, digits and hyphens.
        rule: gets all options; returns what does not go together, beginning with the name of an option, or
            None.

    Raises:
        UsageError: the name is taken, or the signature is another one.

    Example:
        >>> import ssdiff, torch
        >>> @ssdiff.register_noise_schedule("power")
        ... def power(T, *, exponent=3.0):
        ...     return 100 * (torch.arange(1, T + 1, dtype=torch.float64) / T) ** exponent
    """

    decorate = NOISE_SCHEDULES.register(name)

    def add(schedule: _Schedule) -> _Schedule:
        decorate(schedule)
        if rule is not None:
            _rules[schedule] = rule
        return schedule

    return add


def problem(name: str, options: Mapping[str, Any]) -> str | None:
    """Return what does not go together in the options of a schedule, by the rule it was registered with."""
    rule = _rules.get(NOISE_SCHEDULES.get(name))
    return rule(**options) if rule else None


def nu_of(T: int, schedule: str | Mapping[str, Any]) -> Tensor:
    """Return nu (T,) of a schedule as an option of a degradation names it, float64 on the CPU.

    Args:
        T: timesteps.
        schedule: a name, or a table of ``kind`` and options as ``process.noise`` of a preset has it.

    Raises:
        UsageError: no such schedule, or options that it has not or that are out of range.

    >>> round(float(nu_of(200, "cosine")[99]), 3)
    1.012
    """
    given = dict(schedule) if isinstance(schedule, Mapping) else {"kind": schedule}
    name = given.pop("kind", "linear")
    if not isinstance(name, str):
        raise UsageError(f"schedule: no noise schedule is called {name!r}", hint="give a name, e.g. 'cosine'")
    known = schedule_options(name, NOISE_SCHEDULES.get(name))
    for option, value in given.items():
        if option not in known:
            own = ", ".join(known) or "none"
            raise UsageError(f"noise schedule {name!r} has no option {option!r}", hint=f"it has: {own}")
        try:
            TypeAdapter(known[option][0]).validate_python(value, strict=True)
        except ValidationError:
            raise UsageError(f"noise schedule {name!r}: {option} cannot be {value!r}") from None
    if missing := [option for option, (_, value) in known.items() if value is ... and option not in given]:
        raise UsageError(f"noise schedule {name!r} needs {missing[0]}")
    options = {option: value for option, (_, value) in known.items()} | given
    if at_odds := problem(name, options):
        raise UsageError(f"noise schedule {name!r}: {at_odds}")
    return build_noise(name, T, options)


def build_noise(name: str, T: int, options: Mapping[str, Any]) -> Tensor:
    """Return nu (T,) of a schedule, float64 on the CPU.

    Raises:
        PresetError: it is not a tensor of T numbers that are positive, finite and increasing.
    """
    import torch

    nu: object = NOISE_SCHEDULES.get(name)(T, **options)
    hint = "a noise schedule is T positive numbers sigma_t / a_t that increase"
    if not isinstance(nu, torch.Tensor) or tuple(nu.shape) != (T,):
        found = f"a tensor {tuple(nu.shape)}" if isinstance(nu, torch.Tensor) else type(nu).__name__
        raise PresetError(f"process.noise: {name!r} gives {found}, not a tensor ({T},)", hint=hint)
    nu = nu.detach().to("cpu", torch.float64)
    for wrong, what in ((~nu.isfinite(), "is not finite"), (nu <= 0, "is not positive")):
        if bool(wrong.any()):
            where = int(wrong.nonzero()[0]) + 1
            raise PresetError(f"process.noise: {name!r} {what} at t = {where}", hint=hint)
    if bool((falls := nu.diff() <= 0).any()):
        where = int(falls.nonzero()[0]) + 2
        raise PresetError(f"process.noise: {name!r} does not increase at t = {where}", hint=hint)
    return nu


def from_alpha_bar(alpha_bar: Tensor) -> Tensor:
    """Return nu from the cumulative products abar_t = a_t^2 of DDPM."""
    return ((1 - alpha_bar) / alpha_bar).sqrt()


Beta = Annotated[float, Field(gt=0, lt=1)]
Growth = Annotated[float, Field(gt=0, le=100)]
LogSnr = Annotated[float, Field(ge=-60, le=60)]


def _ends(beta_start: float, beta_end: float) -> str | None:
    return f"beta_end: {beta_end:g} is below beta_start {beta_start:g}" if beta_end < beta_start else None


@register_noise_schedule("linear", rule=_ends)
def linear(T: int, beta_start: Beta = 1e-4, beta_end: Beta = 0.02) -> Tensor:
    """Return (T,) noise levels nu, the variances beta_t on a line whose ends are scaled by 1000 / T [Ho et
    al. 2020, section 4]."""
    import torch

    scale = 1000 / T
    beta = torch.linspace(scale * beta_start, scale * beta_end, T, dtype=torch.float64).clamp(max=0.999)
    return from_alpha_bar(torch.cumprod(1 - beta, dim=0))


@register_noise_schedule("scaled_linear", rule=_ends)
def scaled_linear(T: int, beta_start: Beta = 0.00085, beta_end: Beta = 0.012) -> Tensor:
    """Return (T,) noise levels nu, the square roots of the variances beta_t on a line whose ends are scaled
    as those of `linear` [Rombach et al. 2022]."""
    import torch

    first, last = (math.sqrt(1000 / T * beta) for beta in (beta_start, beta_end))
    beta = torch.linspace(first, last, T, dtype=torch.float64).square().clamp(max=0.999)
    return from_alpha_bar(torch.cumprod(1 - beta, dim=0))


@register_noise_schedule("cosine")
def cosine(T: int, offset: Beta = 0.008) -> Tensor:
    """Return (T,) noise levels nu, abar_t a squared cosine, betas below 0.999 [Nichol & Dhariwal 2021,
    section 3.2].

    The schedule of cold diffusion with noise and of animorphosis, too [CD, sections 5.1 and 5.2;
    docs/math.md, equation (51)].
    """
    import torch

    t = torch.arange(T + 1, dtype=torch.float64) / T
    curve = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    beta = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    return from_alpha_bar(torch.cumprod(1 - beta, dim=0))


@register_noise_schedule("exp")
def exponential(T: int, growth: Growth = 5.0) -> Tensor:
    """Return (T,) noise levels nu, abar_t = g(1) g(t - 1), g(k) = 1 - (e^(c k / T) - 1) / (e^c - 1) with c =
    ``growth``: slow at first, as the code of [BD] offers it [docs/math.md, section 13]."""
    import torch

    k = torch.arange(T, dtype=torch.float64)
    curve = 1 - torch.expm1(growth * k / T) / math.expm1(growth)
    first = 1 - math.expm1(growth / T) / math.expm1(growth)
    return from_alpha_bar(max(first, 1e-3) * curve)


def _falls(first: float, last: float) -> str | None:
    return f"last: {last:g} must be below first, {first:g}" if last >= first else None


@register_noise_schedule("log_snr", rule=_falls)
def log_snr(T: int, first: LogSnr = 9.2, last: LogSnr = -12.0) -> Tensor:
    """Return (T,) noise levels nu, the log-SNR on a line from ``first`` at t = 1 to ``last`` at t = T [Kingma
    et al. 2021]."""
    import torch

    return torch.exp(-torch.linspace(first, last, T, dtype=torch.float64) / 2)


def _bends(first: float, bend: float, last: float, share: float) -> str | None:
    return (
        None if first > bend > last else f"bend: {bend:g} must lie between first {first:g} and last {last:g}"
    )


@register_noise_schedule("bent_log_snr", rule=_bends)
def bent_log_snr(
    T: int, first: LogSnr = 8.4, bend: LogSnr = 1.3, last: LogSnr = -12.0, share: Beta = 0.6
) -> Tensor:
    """Return (T,) noise levels nu, the log-SNR on two lines: from ``first`` to ``bend`` in a ``share`` of the
    timesteps, then to ``last``.

    Timesteps are drawn uniformly in training, so the share is what a denoiser learns of faint noise, which
    restoration needs most; by default stds of 2 to 66 of 255.
    """
    import torch

    turn = min(max(round(share * T), 1), T - 1)
    faint = torch.linspace(first, bend, turn + 1, dtype=torch.float64)[:-1]
    return torch.exp(-torch.cat([faint, torch.linspace(bend, last, T - turn, dtype=torch.float64)]) / 2)


def snr_preserving(nu: Tensor, gain: Tensor, match: float, final_snr: float) -> Tensor:
    """Return SNR-preserving noise nu_t g_t^m: what shrinks the image shrinks the noise.

    See docs/math.md, equations (19) to (22).

    Args:
        nu: (T,) schedule of the full-resolution process.
        gain: (T,) g_t = ||R_{1:t}||_2, 1 at full resolution, decreasing.
        match: m in [0, 1]; 0 is the published process, 1 keeps the SNR of the coarse content.
        final_snr: where the last state keeps a larger SNR than this, the noise at the smallest resolution is
            raised along t, log-linearly from the last resolution transition on, to end at it.

    Returns:
        (T,) matched schedule; ``nu`` itself for m = 0.
    """
    import torch

    if match == 0:
        return nu
    result = nu * gain**match
    excess = math.log(result[-1] ** -2 / final_snr) / 2
    if excess > 0:
        tail = gain == gain[-1]
        ramp = torch.linspace(0, excess, int(tail.sum()) + 1, dtype=torch.float64)[1:]
        result[tail] *= ramp.exp()
    return result
