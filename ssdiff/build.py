"""From a preset to objects: the one place that maps names to classes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ssdiff.arguments import require_type
from ssdiff.config import (
    BlurNoiseSettings,
    BlurringSettings,
    ConvexDecay,
    Equal,
    ExplicitTransitions,
    HeatSettings,
    LogSnrTransitions,
    Preset,
    ProcessSettings,
    SigmoidLike,
    TanhLike,
)
from ssdiff.config.preset import model_arguments
from ssdiff.devices import memory_format
from ssdiff.errors import PresetError, ProcessError, SsdiffError, UsageError
from ssdiff.models.adapter import adapt
from ssdiff.models.adm_unet import AdmUNet
from ssdiff.models.branched_unet import BranchedUNet
from ssdiff.models.conv_unet import ConvUNet
from ssdiff.models.convnext_unet import ConvNextUNet
from ssdiff.models.ddpm_unet import DdpmUNet
from ssdiff.models.flexi_unet import FlexiUNet
from ssdiff.models.registry import BUILTIN, FLEXI_UNET, NETWORKS
from ssdiff.operators import matrices
from ssdiff.operators.base import Size
from ssdiff.operators.resizing import ResizeMatrix, is_large, resize_step
from ssdiff.process.base import Other, Process, State
from ssdiff.process.cold import ColdProcess
from ssdiff.process.degradations.base import (
    Degradation,
    FixedNoise,
    LinearDegradation,
    Mixture,
    random_noise,
)
from ssdiff.process.degradations.lengths import lengths_of
from ssdiff.process.degradations.registry import build_degradation, degradation_options
from ssdiff.process.degradations.resize import resize_process
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.gaussian import GaussianProcess, variance_preserving
from ssdiff.process.linear import LinearProcess
from ssdiff.process.spectra import BlurNoise, Blurring, Heat
from ssdiff.process.stages import Stage, staged
from ssdiff.schedules import noise, resolution

RESIZES: dict[str, ResizeMatrix] = {"bilinear": matrices.resize, "area": matrices.area}
_OURS = (FlexiUNet, BranchedUNet, ConvNextUNet, DdpmUNet, ConvUNet, AdmUNet)
_LOAD = "load one: ssdiff.load_preset(name)"


def build_model(preset: Preset) -> nn.Module:
    """Return the network of a preset, freshly initialised from torch's global generator, on the CPU.

    Returns:
        A network that is called as model(x, index, resolution, labels), see
        :func:`ssdiff.models.adapter.adapt`.

    Raises:
        PresetError: options are unknown or missing.
        UsageError: the builder gives no network, or one that cannot be called; or the preset is none.
    """
    require_type("preset", preset, Preset, _LOAD)
    kind = preset.model.kind
    network: object = NETWORKS.get(kind)(**model_arguments(preset))
    if not isinstance(network, nn.Module) or not any(weight.requires_grad for weight in network.parameters()):
        what = "no weights to train" if isinstance(network, nn.Module) else type(network).__name__
        raise UsageError(f"the builder of network {kind!r} gives {what}", hint="return a torch.nn.Module")
    if isinstance(network, FlexiUNet) and preset.model.own:
        return BranchedUNet(network, preset.model.own)
    return adapt(network)


def outline_model(preset: Preset) -> nn.Module:
    """Return the network of a preset to be counted, not used: without weights where it can be made so.

    A network that fails on the meta device, because it computes with its weights or makes tensors on a device
    of its own choice, is made on the CPU. Torch's global generator stays as it was.

    Raises:
        UsageError: as :func:`build_model`.
    """
    if preset.model.kind in BUILTIN:
        with _Unfilled(), torch.device("meta"):
            return build_model(preset)
    with torch.random.fork_rng(devices=[]):
        try:
            with _Unfilled(), torch.device("meta"):
                outline = build_model(preset)
            _run_small(outline, preset, torch.device("meta"))
        except SsdiffError:
            raise
        except Exception:  # whatever a network does that this device cannot
            return build_model(preset)
    return outline


class _Unfilled(TorchFunctionMode):
    """Leaves new weights as they are: random numbers for weights without values make PyTorch import its
    compiler, which takes longer than to draw 64 small images."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, unless it draws what a tensor begins with."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def check_network(preset: Preset, process: Process) -> None:
    """Run a network once along each path, before anything is written, unless the preset's rules do.

    Raises:
        UsageError: it does not give images of the resolution that is wanted.
    """
    if preset.model.kind == FLEXI_UNET and preset.process.kind != "linear":
        return  # its rules are the preset's
    outline = outline_model(preset)
    device = next(outline.parameters()).device
    sides = [state.resolution for state in process.states]
    for now, then in dict.fromkeys((sides[t], sides[t - 1]) for t in range(1, len(sides))):
        _run_small(outline, preset, device, now, then)


def _run_small(
    network: nn.Module, preset: Preset, device: torch.device, now: int | None = None, then: int | None = None
) -> None:
    """One call with two images; its result must have the size that is wanted."""
    side, wanted = now or preset.data.size, then or preset.data.size
    x = torch.zeros(2, preset.data.channels, side, side, device=device)
    index = torch.arange(2, device=device)
    labels = torch.tensor([0, preset.model.classes], device=device) if preset.model.classes else None
    with torch.no_grad():
        output = network.eval()(x, index, wanted, labels)
    shape = (2, preset.data.channels, wanted, wanted)
    if tuple(getattr(output, "shape", ())) != shape:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(f"network {preset.model.kind!r} gives {found}, not {shape}", hint="mend its forward")


def place_model(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, those of ssdiff in the memory layout that suits their convolutions."""
    network.to(device)
    if isinstance(network, _OURS):
        network.to(memory_format=memory_format(device))
    return network


def build_degradation_of(
    preset: Preset, size: Size, *, noisy: bool = False, seed: int = 0, other: Other | None = None
) -> Degradation:
    """Return what a preset's process does to images of any size, photographs too.

    Args:
        preset: gives the process.
        size: (H, W) of the images.
        noisy: x_t with the process's signal scale and noise, not D(x_0, t); no part in a cold process.
        seed: of noise and of a degradation's random parts.
        other: what animorphosis turns images into.

    Raises:
        PresetError: as :func:`build_process`.
        ProcessError: if the process cannot be had at this size.
    """
    match preset.process.kind:
        case "ssd" | "ddpm":
            gaussian = GaussianProcess(build_states(preset), RESIZES[preset.process.resize])
            return resize_process(gaussian, size, noisy=noisy, seed=seed)
        case "cold":
            return _degradation(preset, size, other, seed)
        case "linear":
            clean = _staged(preset, size)
            if not noisy:
                return clean
            states = build_process(preset).states
            ends = ([state.signal for state in states], [state.sigma for state in states])
            return Mixture(clean, *ends, random_noise(seed))
        case _:
            process = _diagonal(preset, size, checked=False)
            return FixedNoise(process, size, random_noise(seed)) if noisy else process


def build_process(
    preset: Preset, size: Size | None = None, *, other: Other | None = None, in_pixels: bool = False
) -> Process:
    """Build the forward process of a preset.

    Args:
        preset: gives kind, schedule, levels and noise.
        size: (height, width) of the clean image; the preset's square by default. Another size keeps the
            preset's noise, the ratios of its levels and, for blurring and heat, the blur relative to it.
        other: what animorphosis turns images into.
        in_pixels: lengths stay those of the preset's own size, in pixels, instead: what a network sees that
            is run on tiles of that size. A process of kind linear cannot be had so.

    Raises:
        PresetError: if a level is never used, or a degradation is unknown or has wrong options.
        UsageError: if the preset is none.
        ProcessError: if the levels do not fit or a transition would need negative variance.
    """
    require_type("preset", preset, Preset, _LOAD)
    side = preset.data.size
    full = size or (side, side)
    meant = (side, side) if in_pixels else full
    match preset.process.kind:
        case "ssd" | "ddpm":
            return GaussianProcess(build_states(preset, full), RESIZES[preset.process.resize])
        case "cold":
            return ColdProcess(_degradation(preset, full, other, preset.training.seed, meant))
        case "linear" if in_pixels:
            raise ProcessError(
                f"{preset.name}, a process of kind linear, is for images of {side} x {side} pixels",
                hint="crop and resize them",
            )
        case "linear":
            settings = preset.process
            return LinearProcess(
                _staged(preset, full),
                _noise(settings),
                channels=preset.data.channels,
                snr_preserving=settings.snr_preserving,
                final_snr=settings.final_snr,
            )
        case _:
            return _diagonal(preset, full, checked=not in_pixels, meant=min(meant))


def build_full_size(preset: Preset) -> GaussianProcess:
    """Build the process of kind ssd as it is without resolution transitions: DDPM with the same noise.

    At the full size its states are those of the preset's process, whatever that does to noise at smaller
    sizes.
    """
    nu, full = _noise(preset.process), (preset.data.size, preset.data.size)
    return GaussianProcess(variance_preserving(nu, [full] * len(nu), full), RESIZES[preset.process.resize])


def build_sampling_process(
    preset: Preset, size: Size | None = None, *, other: Other | None = None, in_pixels: bool = False
) -> Process:
    """Build the process that a trained model samples by: its own, but for ``sampling.transitions``.

    Args:
        preset: of the model.
        size: as for :func:`build_process`.
        other: likewise.
        in_pixels: likewise.

    Raises:
        ProcessError: with those, a size would have other noise than it was trained with, or a size has no
            timestep left.
    """
    process = build_process(preset, size, other=other, in_pixels=in_pixels)
    at = preset.sampling.transitions
    if at is None:
        return process
    resolution = LogSnrTransitions(at=at)
    settings = preset.process.model_copy(update={"resolution": resolution})
    moved = build_process(preset.model_copy(update={"process": settings}), size, in_pixels=in_pixels)
    full = process.states[0].size
    for now, trained in zip(moved.states, process.states, strict=True):
        if now.size == trained.size != full and now != trained:
            raise ProcessError(
                f"sampling.transitions: the noise at {now.resolution} px would not be what was trained, "
                "because process.final_snr raises it from the last transition on",
                hint="leave the last transition where it is",
            )
    return moved


def _diagonal(preset: Preset, size: Size, *, checked: bool, meant: int | None = None) -> DiagonalProcess:
    settings, relative = preset.process, (meant or min(size)) / preset.data.size
    if settings.kind == "blurring":
        blurring = settings.blurring or BlurringSettings()
        fade = Blurring(size, _noise(settings), blurring.sigma_max * relative, blurring.floor)
        return DiagonalProcess(fade, checked=checked)
    if settings.kind == "heat":
        heat = settings.heat or HeatSettings()
        ends = (heat.sigma_min * relative, heat.sigma_max * relative)
        dissipation = Heat(size, settings.T, *ends, heat.noise)
        return DiagonalProcess(dissipation, sampling_noise=heat.sampling_noise / heat.noise)
    values = (settings.blur_noise or BlurNoiseSettings()).model_dump()
    values["interleaved"] = preset.data.channels if values["interleaved"] else 0
    return DiagonalProcess(BlurNoise(size, _noise(settings), **values), checked=checked)


def _degradation(
    preset: Preset, size: Size, other: Other | None, seed: int, meant: Size | None = None
) -> Degradation:
    settings = preset.process
    assert settings.degradation is not None, "presets are validated"
    options: dict[str, object] = {**settings.degradation.options}
    kind = settings.degradation.kind
    if meant is not None and meant != size:
        options = lengths_of(kind, meant, options) | options
    if kind == "animorph":
        options["other"] = other or _unknown_other
    try:
        if settings.chooses_noise:
            if "schedule" not in degradation_options(kind):
                raise PresetError(
                    f"process.noise: degradation {kind!r} mixes no noise in",
                    hint=f"leave process.noise = {settings.noise.kind!r} out",
                )
            options["schedule"] = settings.noise.model_dump()
        return build_degradation(kind, size, settings.T, seed=seed, **options)
    except (PresetError, ProcessError):
        raise
    except UsageError as error:
        raise PresetError(f"process.degradation: {error}") from None


def _staged(preset: Preset, size: Size) -> LinearDegradation:
    settings, side = preset.process, preset.data.size
    assert settings.stages is not None, "presets are validated"
    stages = [Stage(stage.kind, *stage.timesteps(settings.T), stage.options) for stage in settings.stages]
    try:
        return staged(size, settings.T, stages, meant=(side, side), channels=preset.data.channels)
    except UsageError as error:
        raise PresetError(f"process.stages: {error}") from None


def _unknown_other(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    raise UsageError(
        "animorphosis needs its second set, which is not known here",
        hint="name it: --with FOLDER or NAME (other=... from Python)",
    )


def build_states(preset: Preset, size: Size | None = None) -> list[State]:
    """Return the states of a preset of kind ssd or ddpm alone: no operators, so that many schedules can be
    tried.

    Args:
        preset: as for :func:`build_process`.
        size: likewise.

    Raises:
        PresetError: if a level is never used.
    """
    side = preset.data.size
    full = size or (side, side)
    sides = preset_level_sizes(preset)
    scaled = [(max(1, round(full[0] * n / side)), max(1, round(full[1] * n / side))) for n in sides]
    settings = preset.process
    nu = _noise(settings)
    level = _levels(settings, nu)
    if len(set(level.tolist())) < settings.levels:
        raise PresetError(
            f"process.resolution: {settings.levels} levels, but only {sorted(set(level.tolist()))} are used; "
            "a transition is never reached, or two fall together",
            hint=f"the full-resolution log-SNR runs from {-2 * nu[0].log():.1f} to {-2 * nu[-1].log():.1f}",
        )
    gains = _gains(scaled, RESIZES[settings.resize])
    nu = noise.snr_preserving(nu, gains[level], settings.snr_preserving, settings.final_snr)
    return variance_preserving(nu, [scaled[k] for k in level.tolist()], scaled[0])


def preset_level_sizes(preset: Preset) -> tuple[int, ...]:
    """Return the pixels a side of each level of the process, largest first."""
    halvings = len(preset.model.multipliers) - 1 if preset.model.kind == FLEXI_UNET else 0
    return resolution.level_sizes(preset.data.size, preset.process.levels, preset.process.factor, 2**halvings)


def _noise(settings: ProcessSettings) -> Tensor:
    return noise.build_noise(settings.noise.kind, settings.T, settings.noise.options)


def _levels(settings: ProcessSettings, nu: Tensor) -> Tensor:
    """(T,) level of each timestep."""
    steps, levels = settings.T, settings.levels
    match settings.resolution:
        case ConvexDecay(gamma=gamma):
            return resolution.convex_decay(steps, levels, gamma)
        case Equal():
            return resolution.equal(steps, levels)
        case SigmoidLike(gamma=gamma):
            return resolution.sigmoid_like(steps, levels, gamma)
        case TanhLike(gamma=gamma):
            return resolution.tanh_like(steps, levels, gamma)
        case LogSnrTransitions(at=thresholds):
            return resolution.by_log_snr(nu, thresholds)
        case ExplicitTransitions(transitions=transitions):
            return resolution.explicit(steps, transitions)


def _gains(sizes: Sequence[Size], resize: ResizeMatrix) -> Tensor:
    """(levels,) product of ||R||_2 over the resolution transitions down to each level."""
    norms, large = [1.0], is_large(sizes[0])
    for (h_in, w_in), (h_out, w_out) in itertools.pairwise(sizes):
        if large:
            norms.append(norms[-1] * resize_step((h_in, w_in), (h_out, w_out), resize, large=True).norm())
            continue
        rows, columns = resize(h_in, h_out), resize(w_in, w_out)
        norm = torch.linalg.matrix_norm(rows, 2) * torch.linalg.matrix_norm(columns, 2)
        norms.append(norms[-1] * float(norm))
    return torch.tensor(norms, dtype=torch.float64)
