"""A whole preset, and the rules that tie its fields together."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from ssdiff.config.base import Strict
from ssdiff.config.process import LogSnrTransitions, ProcessSettings, process_problems
from ssdiff.config.sections import (
    OPTIONS,
    AdmOptions,
    DataSettings,
    ModelSettings,
    SamplingSettings,
    TrainingSettings,
)
from ssdiff.errors import PresetError, ProcessError, did_you_mean
from ssdiff.models.registry import ADM_UNET, FLEXI_UNET, NETWORKS, OTHER_UNETS, arguments
from ssdiff.process.prediction import PREDICTIONS
from ssdiff.sampling.registry import SAMPLERS, samplers_of_kind
from ssdiff.schedules.respacing import Steps, kept_timesteps

_LEAST_WIDTH = 4  # of an embedding of timesteps that has two frequencies
_BEGIN = ("noise", "animorph")  # degradations that leave at T what was mixed in
_BARE = re.compile(r"[A-Za-z0-9_-]+")


SUMMARY_LENGTH = 300
_LINE: Any = {
    "max_length": SUMMARY_LENGTH,
    "pattern": r"^[^\x00-\x1f\x7f]*$",
    "description": f"one line of at most {SUMMARY_LENGTH} letters",
}


class Preset(Strict):
    """A whole run: data, process, model, training and sampling.

    ``published`` are figures of a paper for exactly these settings and ``data.source``, ``base`` the shipped
    preset that the settings come from, ``trained_on`` the data set that a run was given instead of
    ``data.source``. :mod:`ssdiff.config.provenance` says what becomes of the first when settings change.
    """

    name: str = Field(
        max_length=100, pattern=r"^\w[\w .+-]*$", description="up to 100 letters, digits, spaces, . + - _"
    )
    summary: str = Field("", **_LINE)
    published: str = Field("", **_LINE)
    base: str = Field("", **_LINE)
    trained_on: str = Field("", **_LINE)
    plugins: tuple[str, ...] = Field(
        (), strict=False, description="Python files with parts of one's own; reading the preset runs them"
    )
    data: DataSettings = DataSettings()
    process: ProcessSettings = ProcessSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    sampling: SamplingSettings = SamplingSettings()

    @property
    def about(self) -> str:
        """The summary, and published figures if these settings have some."""
        return " ".join(filter(None, (self.summary, f"(published: {self.published})" * bool(self.published))))

    @property
    def title(self) -> str:
        """What people read above figures: the name, and what there is about it."""
        return f"{self.name}: {self.about}" if self.about else self.name

    @property
    def model_resolutions(self) -> tuple[int, ...]:
        """Pixels a side of every level of the U-Net, largest first."""
        return tuple(self.data.size >> level for level in range(len(self.model.multipliers)))

    @property
    def generates(self) -> bool:
        """Whether a model draws images: it ends in noise, a colour or a second set, or has a fitted start."""
        cold = self.process.degradation
        drawn = cold is None or cold.kind in _BEGIN or cold.ends_in_colour
        return drawn or self.sampling.terminal_prior is not None

    def to_toml(self, *, unset: bool = False) -> str:
        """Return every field as TOML; loading that text gives an equal preset.

        Args:
            unset: tell in comments of settings of data and sampling without a value, which TOML cannot say.
        """
        values = self.model_dump(exclude_none=True)
        for name in ("plugins", "published", "trained_on"):
            if not values[name]:
                del values[name]
        if (kind := self.model.kind) in OTHER_UNETS:  # most fields are not its own
            taken = ("kind", "options", *OTHER_UNETS[kind])
            values["model"] = {name: value for name, value in values["model"].items() if name in taken}
        elif kind != FLEXI_UNET:
            values["model"] = self.model.model_dump(exclude_none=True, exclude_defaults=True)
        lines = [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
        for section, fields in values.items():
            if isinstance(fields, dict):
                lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in fields.items())]
                if unset and section in ("data", "sampling"):
                    known = type(getattr(self, section)).model_fields.items()
                    lines += [
                        f"# {key} is unset: {one.description}" for key, one in known if key not in fields
                    ]
        return "\n".join(lines) + "\n"

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = (
            _names_of_no_text(self)
            or _kind_problems(self)
            or (
                _data_problems(self.data)
                + process_problems(self.process)
                + _sampling_and_training_problems(self)
            )
        )
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _names_of_no_text(preset: Preset) -> list[str]:
    """Settings with bytes that are no UTF-8, as names of files may have; a preset is a file of text."""
    try:
        preset.model_dump_json()
    except ValueError:
        values = preset.model_dump(exclude_none=True)
        sections = {name: part for name, part in values.items() if isinstance(part, dict)}
        fields = [
            f"{name}.{key}" for name, part in sections.items() for key, item in part.items() if _odd(item)
        ]
        fields += [name for name, item in values.items() if _odd(item)]
        return [f"{field}: a name of bytes that are no text; rename the file or folder" for field in fields]
    return []


def _odd(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON strings are TOML basic strings, but for one control character that JSON lets through.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _toml(key)


def _kind_problems(preset: Preset) -> list[str]:
    """What is wrong with the network: rules that are the Flexi-UNet's, or the signature of another one."""
    model = preset.model
    if model.kind not in NETWORKS.names():
        return [f"model.kind: unknown network {model.kind!r}; {NETWORKS.suggest(model.kind)}"]
    if model.kind == FLEXI_UNET:
        options = (
            [] if model.options is None else ["model.options: network 'flexi-unet' has none; leave them out"]
        )
        return _size_problems(preset) or options + _unet_problems(preset)
    try:
        model_arguments(preset)
    except PresetError as error:
        return [str(error)]
    if model.kind not in OTHER_UNETS:
        return []
    return _size_problems(preset) or _option_problems(model) or _unet_problems(preset)


def _option_problems(model: ModelSettings) -> list[str]:
    """Options of a network of ssdiff that are out of range; their names were checked."""
    if model.options is None or model.kind not in OPTIONS:
        return []
    try:
        OPTIONS[model.kind].model_validate(model.options.values)
    except ValidationError as error:
        return [
            f"model.options.{fault['loc'][0]}: must be {_allowed(fault['msg'])}, not {fault['input']!r}"
            for fault in error.errors(include_url=False)
        ]
    return []


def _allowed(message: str) -> str:
    return message.removeprefix("Input should be ").replace("a valid boolean", "true or false")


def model_arguments(preset: Preset) -> dict[str, Any]:
    """Return what the builder of the preset's network is called with.

    Raises:
        PresetError: options are unknown or missing, or settings are not the network's.
    """
    fields = {name: getattr(preset.model, name) for name in ModelSettings.model_fields}
    kind, options = fields.pop("kind"), fields.pop("options")
    defaults = {name: ModelSettings.model_fields[name].default for name in fields}
    if kind == FLEXI_UNET:
        del fields["own"], defaults["own"]  # several networks of the same arguments
    given = {"size": preset.data.size, "channels": preset.data.channels, **fields}
    return arguments(kind, given, options.values if options else {}, defaults)


def _data_problems(data: DataSettings) -> list[str]:
    """Crops without room, and what chooses among nothing."""
    problems = []
    if data.part is not None and data.list is None:
        problems.append("data.part: is for a list of images; give data.list (--data-list FILE), too")
    if data.patches:
        return problems + _patch_problems(data)
    if data.scales != (1, 1):
        problems.append("data.scales: are those of patches; set data.patches = true, too")
    if data.crop == "random" and data.margin == 1 and not data.padding:
        problems.append(
            "data.crop: 'random' needs room around the crop; set data.margin, e.g. 1.12, or data.padding"
        )
    if data.crop == "middle" and data.padding:
        problems.append("data.padding: is for data.crop = 'random'; the middle never reaches it")
    return problems


def _patch_problems(data: DataSettings) -> list[str]:
    """What does not go together with patches of whole pictures."""
    problems = []
    if data.crop != "random":
        problems.append('data.patches: are drawn at random; set data.crop = "random", too')
    if data.scales[0] > data.scales[1]:
        problems.append(f"data.scales: {list(data.scales)} is no range; give the least factor first")
    for name, default in (("resize", "antialias"), ("margin", 1), ("padding", 0)):
        if getattr(data, name) != default:
            problems.append(f"data.{name}: is not for patches of whole pictures; leave it out")
    return problems


def _size_problems(preset: Preset) -> list[str]:
    size, levels, depth = preset.data.size, preset.process.levels, len(preset.model.multipliers)
    flexi, halving = preset.model.kind == FLEXI_UNET, preset.process.factor == 2
    if flexi and halving and levels > depth:
        return [
            f"process.levels: {levels} levels need as many model.multipliers, not {depth}; "
            "use fewer levels or more multipliers"
        ]
    # Of the Flexi-UNet only its own depth counts: smaller images enter further down, and levels of another
    # factor are rounded to sizes that it can halve. The others run as a whole at every resolution.
    unit = 2 ** (depth - 1 + (levels - 1 if halving and not flexi else 0))
    if size % unit == 0:
        return []
    below = size // unit * unit
    valid = ", ".join(str(n) for n in (below, below + unit) if 0 < n <= 4096)
    return [
        f"data.size: {size} cannot be halved {unit.bit_length() - 1} times ({levels} process.levels, {depth} "
        f"model.multipliers); it must be a multiple of {unit}, nearest: {valid}"
    ]


def _unet_problems(preset: Preset) -> list[str]:
    model, sizes = preset.model, preset.model_resolutions
    takes = OTHER_UNETS.get(model.kind, ("attention", "heads"))
    problems, beside = [], _adm_options(model).decoder_attention or ()
    unknown = [size for size in model.attention if size not in sizes]
    if unknown and "attention" in takes:
        names = ", ".join(map(str, sizes))
        problems.append(
            f"model.attention: {unknown[0]} is not a resolution of the U-Net; choose from {names}"
        )
    if model.kind == ADM_UNET:
        problems += _adm_problems(model, sizes)
    split, what = (model.head_channels, "head_channels") if model.head_channels else (model.heads, "heads")
    for size, multiplier in zip(sizes, model.multipliers, strict=True):
        attends = (
            size in (*model.attention, *beside) or size == sizes[-1]
        )  # between encoder and decoder it always does
        if "heads" in takes and attends and model.width * multiplier % split:
            problems.append(
                f"model.{what}: {split} does not divide the {model.width * multiplier} channels at "
                f"{size} px; choose a divisor"
            )
            break
    if model.kind != FLEXI_UNET and model.width < _LEAST_WIDTH:
        problems.append(f"model.width: must be {_LEAST_WIDTH} or more for {model.kind}, not {model.width}")
    problems += _own_problems(preset)
    if model.residual and preset.process.levels > 1:
        problems.append("model.residual: needs process.levels = 1, for input and output of one size")
    if model.residual and any(stage.kind == "resize" for stage in preset.process.stages or ()):
        problems.append("model.residual: needs input and output of one size; leave out stages that resize")
    return problems


def _own_problems(preset: Preset) -> list[str]:
    """Sizes with weights of their own where there are not so many."""
    own, process = preset.model.own, preset.process
    if not own:
        return []
    if process.kind != "ssd" or process.factor != 2:
        return ["model.own: is for kind 'ssd' and process.factor = 2; leave it 0"]
    if own >= process.levels:
        return [
            f"model.own: {own} sizes with weights of their own leave none of {process.levels} process.levels "
            f"to share; it must be below {process.levels}"
        ]
    return []


def _adm_options(model: ModelSettings) -> AdmOptions:
    """Options of the ADM U-Net; their defaults for other networks."""
    given = model.options is not None and model.kind == ADM_UNET
    return AdmOptions.model_validate(model.options.values) if given and model.options else AdmOptions()


def _adm_problems(model: ModelSettings, sizes: Sequence[int]) -> list[str]:
    """Options of the ADM U-Net that do not go with its levels."""
    options, problems = _adm_options(model), []
    for name in ("decoder_attention", "resblock_down", "resblock_up"):
        if unknown := [size for size in getattr(options, name) or () if size not in sizes]:
            names = ", ".join(map(str, sizes))
            problems.append(
                f"model.options.{name}: {unknown[0]} is not a resolution of the U-Net; choose from {names}"
            )
    if options.groups and (odd := [n for n in model.multipliers if model.width * n % options.groups]):
        problems.append(
            f"model.options.groups: {options.groups} does not divide the {model.width * odd[0]} channels of "
            "a level; choose a divisor"
        )
    if 0 < options.timestep_width < _LEAST_WIDTH:
        problems.append(f"model.options.timestep_width: must be {_LEAST_WIDTH} or more, or 0")
    return problems


def _sampler_problems(preset: Preset) -> list[str]:
    process, sampling = preset.process, preset.sampling
    cold = process.kind == "cold"
    choices = samplers_of_kind(process.kind, process.levels)
    if sampling.sampler not in choices:
        names = " or ".join((", ".join(map(repr, choices[:-1])), repr(choices[-1])))
        return [
            f"sampling.sampler: must be {names} for kind {process.kind!r}, not {sampling.sampler!r}; "
            f"{did_you_mean(sampling.sampler, choices)}"
        ]
    rule = SAMPLERS.get(sampling.sampler)
    if sampling.eta in (None, rule.eta) or (rule.takes_eta and not cold):
        return []
    able = [name for name in choices if SAMPLERS.get(name).takes_eta and not cold]
    only = f"set it for {', '.join(map(repr, able))} only" if able else "leave it out"
    return [f"sampling.eta: sampler {rule.name!r} has {rule.eta:g}; {only}"]


def _steps_problems(total: int, steps: Steps) -> list[str]:
    if isinstance(steps, int):
        wrong = steps > total
        return [f"sampling.steps: must be 1..{total} (process.T), not {steps}"] if wrong else []
    try:
        kept_timesteps(total, steps)
    except ProcessError as error:
        return [f"sampling.steps: {str(error).removeprefix('steps ')}"]
    return []


def _lift_problems(preset: Preset) -> list[str]:
    """A linear map where no size doubles, or transitions at which no network was trained."""
    process, sampling, training = preset.process, preset.sampling, preset.training
    linear = sampling.lift == "linear"
    if linear and (process.kind != "ssd" or process.levels == 1 or process.factor != 2):
        return [
            "sampling.lift: 'linear' is for kind 'ssd' with a resolution transition and process.factor = 2; "
            "leave it 'network'"
        ]
    if sampling.transitions is None:
        return []
    if process.kind != "ssd" or not isinstance(process.resolution, LogSnrTransitions):
        return ["sampling.transitions: needs process.resolution.kind = 'log_snr'; leave it out"]
    found, trained = sampling.transitions, process.resolution.at
    if found == trained:
        return []
    if len(found) != len(trained) or found[1:] != trained[1:]:
        return [
            f"sampling.transitions: only the first of {list(trained)} can move, not {list(found)}: the other "
            "sizes were trained up to theirs"
        ]
    least = training.overlap_log_snr if training.overlap_share else trained[0]
    if not least <= found[0] <= trained[0]:
        return [
            f"sampling.transitions: the full size was trained from {trained[0]:g} down to {least:g}, not at "
            f"{found[0]:g}; training.overlap_share and overlap_log_snr extend that"
        ]
    if len(found) > 1 and found[0] <= found[1]:
        return [f"sampling.transitions: must be strictly decreasing, not {list(found)}"]
    return (
        []
        if linear
        else [
            "sampling.transitions: needs sampling.lift = 'linear', because a transition's layers know one "
            "timestep alone"
        ]
    )


def _correction_problems(preset: Preset) -> list[str]:
    """Variance given back where nothing says how much, or beside noise of another variance."""
    process, sampling = preset.process, preset.sampling
    if not sampling.correction:
        return []
    if process.kind not in ("ddpm", "ssd"):
        return [f"sampling.correction: is for kinds 'ddpm' and 'ssd', not {process.kind!r}; leave it 0"]
    if sampling.variance != "posterior":
        return ["sampling.correction: needs sampling.variance = 'posterior'; leave it 0"]
    return []


def _interval_problems(preset: Preset) -> list[str]:
    """An interval of noise levels for guidance where there is no noise or no interval; without guidance it
    does nothing, so that a preset may extend one that has it."""
    interval = preset.sampling.guidance_interval
    if interval is None:
        return []
    if preset.process.kind == "cold":
        return ["sampling.guidance_interval: kind 'cold' has no noise that log-SNRs tell of; leave it out"]
    low, high = interval
    return [] if low < high else [f"sampling.guidance_interval: must increase, not {list(interval)}"]


def _overlap_problems(preset: Preset) -> list[str]:
    """Noisier batches of the full size where it has no transition, or none that are noisier."""
    training, process = preset.training, preset.process
    if not training.overlap_share:
        usual = TrainingSettings.model_fields["overlap_log_snr"].default
        if training.overlap_log_snr == usual:
            return []
        return ["training.overlap_log_snr: is of the share training.overlap_share, which is 0; set it, too"]
    if process.kind != "ssd" or process.levels == 1:
        return ["training.overlap_share: is for kind 'ssd' with a resolution transition; leave it 0"]
    if not isinstance(process.resolution, LogSnrTransitions):
        return ["training.overlap_share: needs process.resolution.kind = 'log_snr'"]
    if process.resolution.at and training.overlap_log_snr >= process.resolution.at[0]:
        return [
            f"training.overlap_log_snr: must be below the first transition, {process.resolution.at[0]:g}, "
            f"not {training.overlap_log_snr:g}"
        ]
    return []


def _untrained_problems(preset: Preset) -> list[str]:
    """Transitions without batches that would be drawn by their layers, or have a share of the batches."""
    if preset.training.transitions:
        return []
    if preset.sampling.lift != "linear":
        return [
            "training.transitions: false trains no layers for a change of resolution, so sampling.lift must "
            f"be 'linear', not {preset.sampling.lift!r}"
        ]
    if preset.training.transition_share:
        return ["training.transition_share: training.transitions = false leaves none; set it to 0"]
    return []


def _emphasis_problems(preset: Preset) -> list[str]:
    """Draws and weights by a log-SNR that a process has not, or of a draw that is not made."""
    training, kind, problems = preset.training, preset.process.kind, []
    if training.timesteps == "log_snr" and kind in ("cold", "heat"):
        lacks = "has no noise" if kind == "cold" else "has the same log-SNR at every timestep"
        problems.append(
            f"training.timesteps: 'log_snr' is for processes whose noise grows, kind {kind!r} {lacks}; "
            "leave it 'uniform'"
        )
    elif training.timesteps != "log_snr":
        problems += [
            f"training.{name}: is of training.timesteps = 'log_snr'; set that, too, or leave it out"
            for name in ("log_snr_mean", "log_snr_std")
            if getattr(training, name) != TrainingSettings.model_fields[name].default
        ]
    if training.uncertainty and kind == "cold":
        problems.append(
            "training.uncertainty: is for processes with noise, not for kind 'cold'; leave it out"
        )
    elif training.uncertainty and training.size_power:
        problems.append(
            f"training.size_power: {training.size_power:g} has no effect with training.uncertainty, which "
            "weighs each size by its own loss; set it to 0"
        )
    return problems


def _sampling_and_training_problems(preset: Preset) -> list[str]:
    process, sampling, problems = preset.process, preset.sampling, []
    problems += _steps_problems(process.T, sampling.steps) + _sampler_problems(preset)
    ancestral = sampling.sampler in SAMPLERS.names() and SAMPLERS.get(sampling.sampler).name == "ancestral"
    if sampling.variance != "posterior" and (
        process.kind not in ("ddpm", "ssd") or process.levels > 1 or not ancestral
    ):
        problems.append(
            f"sampling.variance: {sampling.variance!r} is for one level of kind 'ddpm' or 'ssd' and sampler "
            "'ancestral'; leave it 'posterior'"
        )
    cold = process.degradation
    if cold is not None and cold.fades_into_colour and sampling.terminal_prior is not None:
        problems.append(
            "sampling.terminal_prior: a mask with fill = 'colour' begins at the colour of each image; "
            "leave it out"
        )
    known = process.predict in PREDICTIONS.names()
    if sampling.clip_denoised and known and not PREDICTIONS.get(process.predict).clips:
        problems.append(
            f"sampling.clip_denoised: images that predict {process.predict!r} means leave [-1, 1]; "
            "set it to false"
        )
    if sampling.renoise == "spectral" and process.kind == "linear":
        problems.append("sampling.renoise: is for kind 'ssd'; leave it 'none'")
    elif sampling.renoise == "spectral" and process.levels == 1:
        problems.append("sampling.renoise: one level never changes resolution; leave it 'none'")
    problems += _lift_problems(preset)
    problems += _correction_problems(preset)
    if sampling.crossing != "step" and (process.kind != "ssd" or process.levels == 1):
        problems.append(
            f"sampling.crossing: {sampling.crossing!r} is for kind 'ssd' with a resolution transition; "
            "leave it 'step'"
        )
    if sampling.guidance != 1 and not preset.model.classes:
        problems.append("sampling.guidance: needs model.classes > 0; without classes it must be 1")
    problems += _interval_problems(preset)
    cold = process.degradation
    if sampling.start_noise and (cold is None or cold.kind not in _BEGIN):
        problems.append(
            "sampling.start_noise: is for degradations noise and animorph; leave it out, or set "
            "sampling.terminal_prior.noise"
        )
    if preset.training.input_bits and process.kind != "cold":
        problems.append(f"training.input_bits: is for kind 'cold', not for {process.kind!r}; leave it out")
    if (share := preset.training.transition_share) * (changes := process.levels - 1) >= 1:
        problems.append(
            f"training.transition_share: {share:g} for each of {changes} transitions leaves no batches for "
            f"the rest; it must be below {1 / changes:.3g}"
        )
    if preset.training.own_after and not preset.model.own:
        problems.append(
            "training.own_after: nothing branches with model.own = 0; set model.own, or leave it out"
        )
    problems += _overlap_problems(preset) + _emphasis_problems(preset) + _untrained_problems(preset)
    if preset.training.lr_schedule == "constant" and preset.training.lr_decay_share != 1:
        problems.append("training.lr_decay_share: nothing falls with training.lr_schedule = 'constant'")
    return problems
