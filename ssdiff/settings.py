"""The fields of a preset, their ranges and the rules that tie them together; no torch.

Every model is frozen, refuses unknown fields and takes finite numbers only. `ssdiff.presets` reads TOML
files into these models and words the errors.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# TOML has no null, so an empty string is how a preset undoes a source that it inherits.
Source = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]
Positive = Annotated[int, Field(ge=1, strict=True)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """Base of all settings: immutable, no unknown field, no silent conversion, finite numbers only."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


class DataSettings(Strict):
    """What the images are."""

    size: int = Field(64, ge=2, le=4096, description="pixels a side at full resolution")
    channels: Literal[1, 3] = Field(3, description="1 is grey, 3 is RGB")
    source: Source = Field(None, description="data set used when --data is not given, empty for none")
    flip: bool = Field(True, description="mirror half of the training images, left to right")
    background: float = Field(1.0, ge=0, le=1, description="grey behind transparent pixels, 1 is white")
    corrupt: Literal["error", "skip"] = Field("error", description="what to do with an unreadable file")


class ConvexDecay(Strict):
    """Level min(int((1 - (1 - tau)^gamma) n), n - 1) at tau = (t - 1) / (T - 1) [SSD, section 4]."""

    kind: Literal["convex_decay"] = "convex_decay"
    gamma: float = Field(0.5, gt=0, description="1 gives equal shares, below 1 stays longer at full size")


class Equal(Strict):
    """Every resolution for the same number of steps [SSD, section 4]."""

    kind: Literal["equal"] = "equal"


class SigmoidLike(Strict):
    """Long at the largest and the smallest resolution, quick in between [SSD, section 4]."""

    kind: Literal["sigmoid_like"] = "sigmoid_like"
    gamma: float = Field(2.0, gt=0, description="1 gives equal shares, more exaggerates")


class TanhLike(Strict):
    """Quick at the largest and the smallest resolution, long in between [SSD, section 4]."""

    kind: Literal["tanh_like"] = "tanh_like"
    gamma: float = Field(2.0, gt=0, description="1 gives equal shares, more exaggerates")


class LogSnrChanges(Strict):
    """Changes where the full-resolution process passes given values of log(a^2 / sigma^2)."""

    kind: Literal["log_snr"] = "log_snr"
    at: tuple[float, ...] = Field(strict=False, description="levels - 1 values, strictly decreasing")


class ExplicitChanges(Strict):
    """Changes at given severities: state t is the first of its resolution."""

    kind: Literal["explicit"] = "explicit"
    changes: tuple[Positive, ...] = Field(
        strict=False, description="levels - 1 values, strictly increasing, 2..T"
    )


Resolution = Annotated[
    ConvexDecay | Equal | SigmoidLike | TanhLike | LogSnrChanges | ExplicitChanges,
    Field(discriminator="kind", description="when the resolution changes"),
]


class LinearNoise(Strict):
    """Linear betas, scaled by 1000 / T (Ho et al., 2020)."""

    kind: Literal["linear"] = "linear"
    beta_start: float = Field(1e-4, gt=0, lt=1, description="first beta at T = 1000")
    beta_end: float = Field(0.02, gt=0, lt=1, description="last beta at T = 1000")


class CosineNoise(Strict):
    """Squared cosine of the severity (Nichol & Dhariwal, 2021)."""

    kind: Literal["cosine"] = "cosine"
    offset: float = Field(0.008, gt=0, lt=1, description="keeps the first betas away from zero")


class LogSnrNoise(Strict):
    """log(a^2 / sigma^2) linear in t."""

    kind: Literal["log_snr"] = "log_snr"
    first: float = Field(9.2, ge=-60, le=60, description="log SNR at t = 1")
    last: float = Field(-12.0, ge=-60, le=60, description="log SNR at t = T, below first")


Noise = Annotated[
    LinearNoise | CosineNoise | LogSnrNoise,
    Field(discriminator="kind", description="signal and noise of the full-resolution process"),
]


class ProcessSettings(Strict):
    """The forward process."""

    kind: Literal["ssd", "ddpm"] = Field("ssd", description="ddpm is ssd with one level")
    T: int = Field(1000, ge=1, le=100_000, description="number of severities")
    levels: int = Field(1, ge=1, le=12, description="number of resolutions, the full one included")
    factor: float = Field(2.0, gt=1, le=64, description="ratio of neighbouring resolutions")
    resolution: Resolution = ConvexDecay()
    noise: Noise = LinearNoise()
    match: float = Field(0.0, ge=0, le=1, description="0 keeps sigma at a change [SSD], 1 is lossless")
    final_snr: float = Field(1e-3, gt=0, lt=1, description="matched noise: SNR that the last state is below")
    predict: Literal["x0", "eps"] = Field("x0", description="what the network predicts")


class ModelSettings(Strict):
    """The Flexi-UNet."""

    width: int = Field(128, ge=1, le=4096, description="channels at full resolution")
    multipliers: tuple[Positive, ...] = Field(
        (1, 2, 3, 4), strict=False, min_length=1, max_length=12, description="channels of each level / width"
    )
    blocks: int = Field(2, ge=1, le=64, description="residual blocks a level")
    attention: tuple[Positive, ...] = Field((16, 8), strict=False, description="resolutions with attention")
    heads: int = Field(4, ge=1, le=1024, description="attention heads")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability")
    classes: int = Field(0, ge=0, le=1_000_000, description="0 is unconditional")
    checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    full_decoder: bool = Field(False, description="run the last decoder block too, as guided-diffusion does")


class TrainingSettings(Strict):
    """The optimiser and its loop."""

    batch: int = Field(64, ge=1, description="images per process and micro-batch")
    accumulate: int = Field(1, ge=1, description="micro-batches a step")
    lr: float = Field(1e-4, gt=0, le=10, description="learning rate of AdamW")
    betas: tuple[Momentum, Momentum] = Field((0.9, 0.999), strict=False, description="moments of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    warmup: int = Field(0, ge=0, description="steps in which lr rises from 0")
    decay: Literal["constant", "cosine", "linear"] = Field("constant", description="lr after the warm-up")
    clip: float = Field(1.0, ge=0, description="largest norm of the gradient, 0 is off")
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights")
    min_snr: float = Field(5.0, gt=0, description="cap of the loss weight a^2 / sigma^2")
    snr_floor: float = Field(0.0, ge=0, description="least loss weight, for the noisiest severities")
    label_dropout: float = Field(0.1, ge=0, le=1, description="share of labels hidden, for guidance")
    steps: int = Field(1_000_000, ge=1, description="steps of the optimiser")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto is bf16 where it is fast")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, batches and noise")
    checkpoint_every: int = Field(5_000, ge=1, description="steps between checkpoints")
    keep: int = Field(3, ge=1, description="checkpoints kept, newest first")
    sample_every: int = Field(10_000, ge=0, description="steps between sample grids, 0 is only at the end")
    sample_count: int = Field(64, ge=1, description="images of a sample grid")
    sample_steps: int = Field(50, ge=1, description="sampling steps of a sample grid, at most T")
    log_every: int = Field(50, ge=1, description="steps between lines of metrics.jsonl")


class SamplingSettings(Strict):
    """How images are drawn."""

    steps: int = Field(250, ge=1, description="at most T; every change of resolution is kept")
    sampler: Literal["ancestral", "ddim", "dpm++"] = Field("ancestral", description="the rule of a step")
    eta: float | None = Field(None, ge=0, le=1, description="share of fresh noise of ddim; unset is 0")
    batch: int = Field(64, ge=1, description="images drawn at once")
    guidance: float = Field(1.0, ge=0, description="classifier-free guidance, 1 is off")
    clip: bool = Field(True, description="keep predicted images within [-1, 1]")


class Preset(Strict):
    """A whole run: data, process, model, training and sampling."""

    name: str = Field(
        max_length=100, pattern=r"^\w[\w .+-]*$", description="up to 100 letters, digits, spaces, . + - _"
    )
    summary: str = Field(
        "", max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$", description="one line of at most 300 letters"
    )
    data: DataSettings = DataSettings()
    process: ProcessSettings = ProcessSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    sampling: SamplingSettings = SamplingSettings()

    @property
    def model_resolutions(self) -> tuple[int, ...]:
        """Pixels a side of every level of the U-Net, largest first."""
        return tuple(self.data.size >> level for level in range(len(self.model.multipliers)))

    def to_toml(self) -> str:
        """Every field as TOML; loading that text gives an equal preset."""
        values = self.model_dump(exclude_none=True)
        lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
        for section, fields in values.items():
            if isinstance(fields, dict):
                lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in fields.items())]
        return "\n".join(lines) + "\n"

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = _size_problems(self) or (_model_problems(self) + _process_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON strings are TOML basic strings, but for one control character that JSON lets through.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def _size_problems(preset: Preset) -> list[str]:
    size, levels, depth = preset.data.size, preset.process.levels, len(preset.model.multipliers)
    if preset.process.factor == 2 and levels > depth:
        return [
            f"process.levels: {levels} levels need as many model.multipliers, not {depth}; "
            "use fewer levels or more multipliers"
        ]
    # Levels of another factor are rounded to sizes that the U-Net can halve, so only its own depth counts.
    unit = 2 ** (depth - 1)
    if size % unit == 0:
        return []
    below = size // unit * unit
    valid = ", ".join(str(n) for n in (below, below + unit) if 0 < n <= 4096)
    return [
        f"data.size: {size} cannot be halved {depth - 1} times ({levels} process.levels, {depth} "
        f"model.multipliers); it must be a multiple of {unit}, nearest: {valid}"
    ]


def _model_problems(preset: Preset) -> list[str]:
    model, sizes = preset.model, preset.model_resolutions
    problems = []
    if unknown := [size for size in model.attention if size not in sizes]:
        names = ", ".join(map(str, sizes))
        problems.append(
            f"model.attention: {unknown[0]} is not a resolution of the U-Net; choose from {names}"
        )
    for size, multiplier in zip(sizes, model.multipliers, strict=True):
        if size in model.attention and model.width * multiplier % model.heads:
            problems.append(
                f"model.heads: {model.heads} does not divide the {model.width * multiplier} channels at "
                f"{size} px; choose a divisor"
            )
            break
    return problems


def _process_problems(preset: Preset) -> list[str]:
    process, problems = preset.process, []
    if process.kind == "ddpm" and process.levels != 1:
        problems.append(
            f"process.levels: kind 'ddpm' has 1 level, not {process.levels}; set levels = 1 or kind = 'ssd'"
        )
    if process.levels > process.T:
        problems.append(f"process.levels: {process.levels} levels need T of at least that, not {process.T}")
    if process.predict == "eps" and process.levels > 1:
        problems.append(
            f"process.predict: 'eps' needs levels = 1, not {process.levels}, because noise has no meaning at "
            "a finer grid; use 'x0'"
        )
    problems += _change_problems(process)
    noise = process.noise
    if isinstance(noise, LinearNoise) and noise.beta_end < noise.beta_start:
        problems.append(
            f"process.noise.beta_end: {noise.beta_end:g} is below beta_start {noise.beta_start:g}"
        )
    if isinstance(noise, LogSnrNoise) and noise.last >= noise.first:
        problems.append(f"process.noise.last: {noise.last:g} must be below first, {noise.first:g}")
    if preset.sampling.steps > process.T:
        problems.append(f"sampling.steps: must be 1..{process.T} (process.T), not {preset.sampling.steps}")
    own = {"ancestral": 1.0, "dpm++": 0.0}.get(preset.sampling.sampler, preset.sampling.eta)
    if preset.sampling.eta not in (None, own):
        problems.append(
            f"sampling.eta: sampler {preset.sampling.sampler!r} has {own:g}; set it for 'ddim' only"
        )
    if preset.sampling.guidance != 1 and not preset.model.classes:
        problems.append("sampling.guidance: needs model.classes > 0; without classes it must be 1")
    return problems


def _change_problems(process: ProcessSettings) -> list[str]:
    schedule, wanted = process.resolution, process.levels - 1
    if isinstance(schedule, LogSnrChanges):
        field, values, order = "at", schedule.at, "decreasing"
        ordered = all(a > b for a, b in pairwise(values))
    elif isinstance(schedule, ExplicitChanges):
        field, values, order = "changes", schedule.changes, f"increasing within 2..{process.T}"
        ordered = all(a < b for a, b in pairwise((1, *values, process.T + 1)))
    else:
        return []
    path = f"process.resolution.{field}"
    if len(values) != wanted:
        return [f"{path}: process.levels = {process.levels} needs {wanted} values, not {len(values)}"]
    return [] if ordered else [f"{path}: must be strictly {order}, not {list(values)}"]
