"""The fields of ``[process]``: kind, noise, resolution, and what belongs to one kind only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    TypeAdapter,
    create_model,
    model_validator,
)

from ssdiff.config.base import Positive, Strict
from ssdiff.errors import did_you_mean
from ssdiff.process.prediction import PREDICTIONS
from ssdiff.schedules.noise import NOISE_SCHEDULES, problem, schedule_options


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


class LogSnrTransitions(Strict):
    """Changes where the full-resolution process passes given values of log(a^2 / sigma^2)."""

    kind: Literal["log_snr"] = "log_snr"
    at: tuple[float, ...] = Field(strict=False, description="levels - 1 values, strictly decreasing")


class ExplicitTransitions(Strict):
    """Changes at given timesteps: state t is the first of its resolution."""

    kind: Literal["explicit"] = "explicit"
    transitions: tuple[Positive, ...] = Field(
        strict=False, description="levels - 1 values, strictly increasing, 2..T"
    )


Resolution = Annotated[
    ConvexDecay | Equal | SigmoidLike | TanhLike | LogSnrTransitions | ExplicitTransitions,
    Field(discriminator="kind", description="when the resolution transitions come"),
]


class NoiseSettings(Strict):
    """A noise schedule by its name, with the options that its function has."""

    kind: str

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the kind."""
        return self.model_dump(exclude={"kind"})


def noise_kinds() -> dict[str, type[NoiseSettings]]:
    """Return the settings of every noise schedule that is registered, by its name."""
    return {name: _noise_model(name, NOISE_SCHEDULES.get(name)) for name in NOISE_SCHEDULES.names()}


@lru_cache
def _noise_model(name: str, schedule: Callable[..., Any]) -> type[NoiseSettings]:
    fields = {"kind": (Literal[name], name), **schedule_options(name, schedule)}
    made: Any = create_model(f"{name}_noise", __base__=NoiseSettings, **cast(Any, fields))
    return cast(type[NoiseSettings], made)


@lru_cache
def _noise_union(kinds: tuple[type[NoiseSettings], ...]) -> TypeAdapter[NoiseSettings]:
    return TypeAdapter(cast(Any, Annotated[Union[kinds], Field(discriminator="kind")]))  # noqa: UP007


def _noise(value: object) -> NoiseSettings:
    """The settings of a noise schedule; which ones there are is known only now."""
    if isinstance(value, NoiseSettings):
        return value
    return _noise_union(tuple(noise_kinds().values())).validate_python(value)


Noise = Annotated[SerializeAsAny[NoiseSettings], BeforeValidator(_noise)]


class BlurringSettings(Strict):
    """Blurring diffusion: DCT coefficients fade with their frequency [BDM, section 4]."""

    sigma_max: float = Field(20.0, gt=0, description="blur at T, pixels")
    floor: float = Field(0.001, gt=0, lt=1, description="share of every frequency that is never lost")


class HeatSettings(Strict):
    """Inverse heat dissipation [IHDM, sections 2 and 3]."""

    sigma_min: float = Field(0.5, gt=0, description="blur at t = 1, pixels; rises geometrically")
    sigma_max: float = Field(24.0, gt=0, description="blur at T, pixels")
    noise: float = Field(
        0.02, gt=0, description="std of the noise in training; published: 0.01 for images in [0, 1]"
    )
    sampling_noise: float = Field(
        0.025, ge=0, description="std of the noise in sampling; published: 0.0125 for images in [0, 1]"
    )


class BlurNoiseSettings(Strict):
    """Blur diffusion: coloured noise, frequencies at different speeds [BD, section 3]."""

    rate: Literal["linear", "quadratic", "cubic", "quartic", "log", "triangular"] = Field(
        "quartic", description="how the blur of a step grows with t"
    )
    kernel_std: float = Field(0.4, gt=0, description="of the blur whose powers are taken, pixels")
    sigma_min: float = Field(0.0, ge=0, description="std of the blur of the first step, pixels")
    sigma_max: float = Field(0.15, gt=0, description="std of the blur of the last step, pixels")
    interleaved: bool = Field(
        False, description="order of the factors as in the published code, not the paper"
    )
    unit_range: bool = Field(
        False, description="noise of std 1 for images in [0, 1], as published, not [-1, 1]"
    )
    former_rates: bool = Field(
        False, description="rates of ssdiff 0.1 and 0.2, with which a run of then goes on"
    )


class DegradationSettings(Strict):
    """D(x, t) of cold diffusion: its name in the registry of degradations, and that one's options."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, bool | int | float | str] = Field(init=False)

    kind: str = Field(description="e.g. blur, mask, downsample, snow, desaturate, noise, animorph")

    @property
    def options(self) -> dict[str, bool | int | float | str]:
        """Everything but the kind."""
        return dict(self.__pydantic_extra__)

    @property
    def fades_into_colour(self) -> bool:
        """Whether images become one constant colour each, which is drawn by image number."""
        return self.kind == "mask" and self.options.get("fill") == "colour"

    @property
    def ends_in_colour(self) -> bool:
        """Whether that colour is all that is left at T, so that sampling can begin at one."""
        return self.fades_into_colour and self.options.get("reverse") is True


_OWN_TABLES = {"heat": "heat", "blur-noise": "blur_noise"}  # kind to the table that always exists
_OWN_OPTIONS: Mapping[str, Mapping[str, object]] = {  # of a degradation, that are always told
    "blur-noise": {"unit_range": True},
    "snow": {"motion": "axis"},
}
# Of the degradations of ssdiff, which a preset is checked against without torch; others say so when they
# are built.
_MIXED = ("noise", "animorph", "blur-noise")
_UNMIXED = ("blur", "dct-blur", "desaturate", "downsample", "mask", "pixelate", "snow")


StageOption = bool | int | float | str


class StageSettings(Strict):
    """A stage of a linear process: what happens, when, and its options.

    ``at`` is the moment of what happens at once, ``from`` and ``to`` are the ends of what grows, all as
    shares of T; from the beginning to the end where none is given.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, StageOption | list[StageOption]] = Field(init=False)

    kind: str = Field(description="blur, resize, dct-cut, or a linear degradation, e.g. desaturate or mask")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the kind and the times."""
        return {key: value for key, value in self.__pydantic_extra__.items() if key not in _TIMES}

    @property
    def times(self) -> dict[str, Any]:
        """Those of ``at``, ``from`` and ``to`` that are given."""
        return {key: self.__pydantic_extra__[key] for key in _TIMES if key in self.__pydantic_extra__}

    def timesteps(self, T: int) -> tuple[int, int]:
        """Return the timestep after which the stage begins, and the one at which it is complete.

        Args:
            T: timesteps of the process.
        """
        times = self.times
        if "at" in times:
            last = max(1, round(times["at"] * T))
            return last - 1, last
        return round(times.get("from", 0.0) * T), round(times.get("to", 1.0) * T)


_TIMES = ("at", "from", "to")


class ProcessSettings(Strict):
    """The forward process."""

    kind: Literal["ssd", "ddpm", "blurring", "heat", "blur-noise", "cold", "linear"] = Field(
        "ssd", description="ddpm is ssd with one level, linear is what stages say"
    )
    T: int = Field(1000, ge=1, le=100_000, description="number of timesteps")
    levels: int = Field(1, ge=1, le=12, description="number of resolutions, the full one included")
    factor: float = Field(2.0, gt=1, le=64, description="ratio of neighbouring resolutions")
    resolution: Resolution = ConvexDecay()
    noise: Noise = Field(
        default_factory=lambda: _noise({"kind": "linear"}),
        description="signal and noise of the full-resolution process; of kind cold for noise and animorph",
    )
    snr_preserving: float = Field(
        0.0, ge=0, le=1, description="0 keeps sigma at a transition [SSD], 1 the SNR of what is left"
    )
    final_snr: float = Field(
        1e-3, gt=0, lt=1, description="with SNR-preserving noise: SNR that the last state is below"
    )
    predict: str = Field("x0", description="what the network predicts: x0, eps, v; difference for kind heat")
    resize: Literal["bilinear", "area"] = Field(
        "bilinear", description="filter of a resolution transition; area leaves white noise white"
    )
    blurring: BlurringSettings | None = Field(None, description="for kind blurring")
    heat: HeatSettings | None = Field(None, description="for kind heat")
    blur_noise: BlurNoiseSettings | None = Field(None, description="for kind blur-noise")
    degradation: DegradationSettings | None = Field(None, description="for kind cold")
    stages: tuple[StageSettings, ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        description="for kind linear: what happens to images, in the order of time",
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: object) -> object:
        """A run keeps the defaults of its own time, so they are stored with it."""
        if not isinstance(values, dict):
            return values
        kind, degradation = values.get("kind"), values.get("degradation")
        table = _OWN_TABLES.get(kind) if isinstance(kind, str) else None
        if table is not None and values.get(table) is None:
            return {**values, table: {}}
        if kind == "cold" and isinstance(degradation, dict) and isinstance(degradation.get("kind"), str):
            return {**values, "degradation": {**_OWN_OPTIONS.get(degradation["kind"], {}), **degradation}}
        return values

    @property
    def chooses_noise(self) -> bool:
        """Whether the noise schedule is another one than the default."""
        return self.noise != _noise({"kind": "linear"})


def process_problems(process: ProcessSettings) -> list[str]:
    """List what does not go together within the section, one line each."""
    kind, problems = process.kind, []
    if kind != "ssd" and process.levels != 1:
        problems.append(
            f"process.levels: kind {kind!r} has 1 level, not {process.levels}; set levels = 1 or kind = 'ssd'"
        )
    if process.levels > process.T:
        problems.append(f"process.levels: {process.levels} levels need T of at least that, not {process.T}")
    problems += _prediction_problems(process)
    problems += _table_problems(process) + _change_problems(process)
    problems += _schedule_problems(process)
    if at_odds := problem(process.noise.kind, process.noise.options):
        problems.append(f"process.noise.{at_odds}")
    return problems


def _schedule_problems(process: ProcessSettings) -> list[str]:
    """A noise schedule where nothing is mixed in."""
    cold = process.degradation
    leave = f"leave process.noise = {process.noise.kind!r} out"
    if process.kind == "heat" and process.chooses_noise:
        return [f"process.noise: kind 'heat' has the one noise of process.heat at every t; {leave}"]
    if process.kind != "cold" or cold is None:
        return []
    if cold.kind in _UNMIXED and process.chooses_noise:
        return [f"process.noise: degradation {cold.kind!r} mixes no noise in; {leave}"]
    if cold.kind in _MIXED and "schedule" in cold.options:
        return ["process.degradation.schedule: is process.noise in a preset; set that"]
    return []


def _prediction_problems(process: ProcessSettings) -> list[str]:
    """An unknown prediction, or noise to predict where there is none."""
    name, known = process.predict, PREDICTIONS.names()
    if name not in known:
        names = " or ".join((", ".join(map(repr, known[:-1])), repr(known[-1])))
        return [f"process.predict: must be {names}, not {name!r}; {did_you_mean(name, known)}"]
    meant = PREDICTIONS.get(name)
    if meant.kinds and process.kind not in meant.kinds:
        kinds = " or ".join(map(repr, meant.kinds))
        return [f"process.predict: {name!r} is for kind {kinds}, not {process.kind!r}; use 'x0'"]
    if not meant.of_noise:
        return []
    problems = []
    if process.levels > 1:
        problems.append(
            f"process.predict: {name!r} needs levels = 1, not {process.levels}, because noise has no meaning "
            "at a finer grid; use 'x0'"
        )
    if process.kind in ("heat", "cold"):
        problems.append(f"process.predict: kind {process.kind!r} has hardly any noise to predict; use 'x0'")
    if process.kind == "linear":
        problems.append(
            f"process.predict: of {name!r} no clean image follows where its stages lose something; use 'x0'"
        )
    return problems


def _table_problems(process: ProcessSettings) -> list[str]:
    """Tables of other kinds, a cold process without a degradation, blurs that shrink."""
    tables = {"cold": "degradation", "blur-noise": "blur_noise", "linear": "stages"}
    own = tables.get(process.kind, process.kind)
    problems = [
        f"process.{name}: is for another kind than {process.kind!r}; leave it out"
        for name in ("blurring", "heat", "blur_noise", "degradation", "stages")
        if name != own and getattr(process, name) is not None
    ]
    if process.kind == "cold" and process.degradation is None:
        problems.append("process.degradation: kind 'cold' needs one, e.g. { kind = 'mask' }")
    if process.kind == "linear":
        problems += _stage_problems(process)
    for name in ("heat", "blur_noise"):
        table = getattr(process, name)
        if table is not None and table.sigma_max < table.sigma_min:
            problems.append(f"process.{name}.sigma_max: {table.sigma_max:g} is below sigma_min")
    return problems


def _stage_problems(process: ProcessSettings) -> list[str]:
    """Stages that are missing, at no time, or not in order."""
    if process.stages is None:
        example = '[{ kind = "blur", to = 0.5, std = 2.0 }]'
        return [f"process.stages: kind 'linear' needs some, e.g. {example}"]
    unused = {name: ProcessSettings.model_fields[name].default for name in ("factor", "resolution", "resize")}
    problems = [
        f"process.{name}: is for kind 'ssd'; stages say it here, leave it out"
        for name, default in unused.items()
        if getattr(process, name) != default
    ]
    before = 0
    for number, stage in enumerate(process.stages):
        path, times = f"process.stages[{number}]", stage.times
        wrong = [
            key
            for key, value in times.items()
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1
        ]
        if wrong:
            problems.append(f"{path}.{wrong[0]}: must be a share of T, 0..1, not {times[wrong[0]]!r}")
            continue
        if "at" in times and len(times) > 1:
            problems.append(f"{path}.at: is for what happens at once; leave out from and to, or at")
            continue
        first, last = stage.timesteps(process.T)
        if first >= last:
            problems.append(f"{path}: has no timestep between from and to (T = {process.T}); set them apart")
        if first < before:
            problems.append(f"{path}: begins before the stage above; give stages in the order of time")
        before = first
    return problems


def _change_problems(process: ProcessSettings) -> list[str]:
    schedule, wanted = process.resolution, process.levels - 1
    if isinstance(schedule, LogSnrTransitions):
        field, values, order = "at", schedule.at, "decreasing"
        ordered = all(a > b for a, b in pairwise(values))
    elif isinstance(schedule, ExplicitTransitions):
        field, values, order = "transitions", schedule.transitions, f"increasing within 2..{process.T}"
        ordered = all(a < b for a, b in pairwise((1, *values, process.T + 1)))
    else:
        return []
    path = f"process.resolution.{field}"
    if len(values) != wanted:
        return [f"{path}: process.levels = {process.levels} needs {wanted} values, not {len(values)}"]
    return [] if ordered else [f"{path}: must be strictly {order}, not {list(values)}"]
