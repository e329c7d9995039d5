"""The fields of ``[data]``, ``[model]``, ``[training]`` and ``[sampling]``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field

from ssdiff.config.base import MOST, Positive, Strict
from ssdiff.errors import UsageError
from ssdiff.models.registry import ADM_UNET, CONVNEXT_UNET, FLEXI_UNET
from ssdiff.schedules.respacing import Crossing, Steps, parse_steps

# TOML has no null, so an empty string is how a preset undoes a source that it inherits.
Source = Annotated[str | None, BeforeValidator(lambda value: None if value == "" else value)]


def _steps(value: object) -> Steps:
    """Sampling steps, in one of their forms."""
    try:
        steps = parse_steps(value)
    except UsageError as error:
        raise ValueError(f"sampling.steps: {str(error).removeprefix('steps ')}") from None
    if isinstance(steps, int) and steps < 1:
        raise ValueError(f"sampling.steps: must be a whole number >= 1, not {steps}")
    return steps


SamplingSteps = Annotated[Steps, BeforeValidator(_steps)]
Scalar = bool | int | float | str
Scale = Annotated[float, Field(gt=0.01, le=1)]
_AT_ONCE = 1_000_000  # images; more is a slip, and takes the machine down before PyTorch can refuse it
Momentum = Annotated[float, Field(ge=0, lt=1)]


class DataSettings(Strict):
    """What the images are."""

    size: int = Field(64, ge=2, le=4096, description="pixels a side at full resolution")
    channels: Literal[1, 3] = Field(3, description="1 is grey, 3 is RGB")
    source: Source = Field(None, description="data set used when --data is not given, empty for none")
    other: Source = Field(None, description="second data set, that animorphosis turns images into")
    list: Source = Field(None, description="file of the names of the images in source that count, one a line")
    part: int | None = Field(
        None, ge=0, description="of a list whose lines end in a number: the lines with this one count"
    )
    classes_from: Literal["folder", "prefix"] = Field(
        "folder", description="what of a file's name is its class; prefix: before the first underscore"
    )
    resize: Literal["antialias", "official", "bilinear", "stretch", "none"] = Field(
        "antialias",
        description="antialias: the central square by Lanczos; official: box halvings, then bicubic [SSD]; "
        "bilinear; stretch: bilinear to a square of any shape [CD]; none: cut from the middle as it is",
    )
    margin: float = Field(
        1.0, ge=1, le=4, description="images are kept this much larger than size, for crops"
    )
    padding: int = Field(0, ge=0, le=4096, description="black pixels around an image, for random crops")
    crop: Literal["middle", "random"] = Field(
        "middle", description="which size pixels a side of the larger image training sees"
    )
    patches: bool = Field(
        False,
        description="keep pictures whole, at their own resolution; training sees size x size patches, "
        "drawn at random",
    )
    scales: tuple[Scale, Scale] = Field(
        (1.0, 1.0),
        strict=False,
        description="of patches: least and largest factor by which pictures are reduced, antialiased, drawn "
        "anew for each patch",
    )
    flip: bool = Field(True, description="mirror half of the training images, left to right")
    max_pixels: int = Field(100_000_000, ge=1, description="largest image that is decoded")
    background: float = Field(1.0, ge=0, le=1, description="grey behind transparent pixels, 1 is white")
    corrupt: Literal["error", "skip"] = Field("error", description="what to do with an unreadable file")
    convert: Literal["some", "all", "none"] = Field(
        "some",
        description="images of other channels that training begins with: all, none, or some but not all",
    )

    @property
    def unlisted(self) -> Self:
        """The same for another set than ``source``, of whose files neither list nor classes speak."""
        return self.model_copy(update={"list": None, "part": None, "classes_from": "folder"})


class ModelOptions(Strict):
    """Options of a network that are no fields of ``[model]``, by their names in its builder."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar | list[Scalar]] = Field(init=False)

    @property
    def values(self) -> dict[str, Scalar | list[Scalar]]:
        """All of them."""
        return dict(self.__pydantic_extra__)


class ConvNextOptions(Strict):
    """Options of the ConvNeXt U-Net."""

    time_embedding: bool = Field(True, description="the network is told the severity")


class AdmOptions(Strict):
    """Options of the ADM U-Net, by which networks of diffusers differ from guided-diffusion's."""

    timestep_width: int = Field(
        0, ge=0, le=4096, description="numbers that a timestep becomes before it is embedded; 0 is width"
    )
    sines_first: bool = Field(False, description="of a timestep's waves; false is cosines first")
    freq_shift: float = Field(0, ge=0, le=1, description="1 ends the frequencies at 1 / 10000")
    groups: int = Field(0, ge=0, le=4096, description="of the norms; 0 is 32")
    eps: float = Field(1e-5, gt=0, lt=1, description="of the norms, added to variances")
    middle_attention: Literal["normed", "plain", "none"] = Field(
        "normed", description="between encoder and decoder; plain has no norm"
    )
    decoder_attention: tuple[Positive, ...] | None = Field(
        None, strict=False, description="resolutions with attention in the decoder, if not attention's"
    )
    resblock_down: tuple[Positive, ...] | None = Field(
        None, strict=False, description="resolutions that residual blocks halve, if not by resblock_updown"
    )
    resblock_up: tuple[Positive, ...] | None = Field(
        None, strict=False, description="resolutions that residual blocks double, likewise"
    )
    pad_after: bool = Field(
        False, description="convolutions that halve have zeros below and on the right, not around"
    )


OPTIONS: dict[str, type[Strict]] = {CONVNEXT_UNET: ConvNextOptions, ADM_UNET: AdmOptions}
"""``model.options`` of the networks of ssdiff that have some."""


class ModelSettings(Strict):
    """The network: the Flexi-UNet, another one of ssdiff's, or one that a plugin registers."""

    kind: str = Field(
        FLEXI_UNET,
        description="flexi-unet, conv-unet, adm-unet, convnext-unet, ddpm-unet, or the name of a network of "
        "a plugin",
    )
    width: int = Field(128, ge=1, le=4096, description="channels at full resolution")
    multipliers: tuple[Positive, ...] = Field(
        (1, 2, 3, 4), strict=False, min_length=1, max_length=12, description="channels of each level / width"
    )
    blocks: int = Field(2, ge=1, le=64, description="residual blocks a level")
    attention: tuple[Positive, ...] = Field((16, 8), strict=False, description="resolutions with attention")
    heads: int = Field(4, ge=1, le=1024, description="attention heads")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability")
    classes: int = Field(0, ge=0, le=1_000_000, description="0 is unconditional")
    activation_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")
    residual: bool = Field(False, description="predict the difference from the input; one level only")
    full_decoder: bool = Field(False, description="run the last decoder block too, as guided-diffusion does")
    head_channels: int = Field(
        0, ge=0, le=4096, description="channels of an attention head, instead of heads; 0 is off"
    )
    attention_order: Literal["heads-first", "qkv-first"] = Field(
        "heads-first",
        description="how weights of attention are stored; qkv-first is guided-diffusion's new order",
    )
    resblock_updown: bool = Field(
        False, description="residual blocks change the resolution, not convolutions"
    )
    scale_shift_norm: bool = Field(
        True, description="the timestep scales and shifts a norm; false adds it before the norm"
    )
    learn_sigma: bool = Field(
        False, description="twice the output channels, as weights with a learned variance have; it is dropped"
    )
    first_index: Literal[0, 1] = Field(
        0, description="what the network is told at t = 1; 1 in blur diffusion"
    )
    own: int = Field(
        0,
        ge=0,
        le=11,
        description="so many of the largest sizes have weights of their own, the others share; 0 is one "
        "network for all, as published",
    )
    options: ModelOptions | None = Field(None, description="options of a network of another kind")


class TrainingSettings(Strict):
    """The optimiser and its loop."""

    batch: int = Field(64, ge=1, le=_AT_ONCE, description="images per process and micro-batch")
    grad_accum_steps: int = Field(
        1, ge=1, le=_AT_ONCE, description="micro-batches a step, spread evenly over the resolutions"
    )
    lr: float = Field(1e-4, gt=0, le=10, description="learning rate of AdamW")
    betas: tuple[Momentum, Momentum] = Field((0.9, 0.999), strict=False, description="moments of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW, which without it is Adam")
    warmup: int = Field(0, ge=0, le=MOST, description="steps in which lr rises from 0")
    lr_schedule: Literal["constant", "cosine", "linear"] = Field(
        "constant", description="lr after the warm-up"
    )
    lr_decay_share: float = Field(
        1.0, gt=0, le=1, description="the last share of the steps after the warm-up, in which lr falls"
    )
    grad_clip_norm: float = Field(1.0, ge=0, description="largest norm of the gradient, 0 is off")
    ema: float = Field(
        0.9999,
        ge=0,
        lt=1,
        description="decay of the averaged weights; n / (n + 9) at the n-th average while that is less and "
        "ema_start is 0",
    )
    ema_every: int = Field(1, ge=1, le=MOST, description="steps from one average of the weights to the next")
    ema_start: int = Field(
        0, ge=0, le=MOST, description="first steps, in which the averaged weights are the weights themselves"
    )
    loss: Literal["l2", "l1"] = Field("l2", description="squared or absolute error")
    input_bits: int = Field(
        0,
        ge=0,
        le=16,
        description="of a cold process: the network sees degraded images cut to so many bits in training, "
        "0 is off, 8 as published for generation by blur",
    )
    min_snr_gamma: float = Field(5.0, gt=0, description="cap of the loss weight a^2 / sigma^2")
    snr_floor: float = Field(0.0, ge=0, description="least loss weight, for the noisiest timesteps")
    size_power: float = Field(
        0.0,
        ge=0,
        le=4,
        description="smaller images weigh less by this power of their side; -matched: 2",
    )
    own_after: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the steps after which the sizes of model.own get weights of their own; they "
        "share until then",
    )
    overlap_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the batches of the full size that are noisier than its transition, down to "
        "overlap_log_snr, so that sampling may change resolution later",
    )
    overlap_log_snr: float = Field(
        -2.5, description="least full-resolution log(a^2 / sigma^2) of these batches"
    )
    transition_share: float = Field(
        0.0, ge=0, lt=1, description="least share of the batches for each resolution transition"
    )
    transitions: bool = Field(
        True,
        description="train the resolution transitions; false, for sampling.lift = linear alone, gives their "
        "batches to the sizes",
    )
    timesteps: Literal["uniform", "log_snr"] = Field(
        "uniform",
        description="how timesteps are drawn: all alike, as published, or by a normal density of their "
        "full-resolution log(a^2 / sigma^2)",
    )
    log_snr_mean: float = Field(0.5, ge=-50, le=50, description="of that density")
    log_snr_std: float = Field(3.0, gt=0, le=100, description="of that density")
    uncertainty: bool = Field(
        False,
        description="divide each loss by its running mean at the same noise and size, so that all count "
        "alike; instead of size_power",
    )
    label_dropout: float = Field(0.1, ge=0, le=1, description="share of labels hidden, for guidance")
    steps: int = Field(1_000_000, ge=1, le=MOST, description="steps of the optimiser")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="auto is bf16 where the hardware multiplies it natively, on a CPU if a probe of a few "
        "steps shows that it pays; the run remembers what it took",
    )
    compile: bool = Field(
        False,
        description="compile the network for each pair of resolutions: minutes at the start, for long runs "
        "on a GPU; a run resumed with another choice goes on, but not bit for bit",
    )
    cuda_graphs: bool = Field(
        True,
        description="replay a Flexi-UNet as CUDA graphs for micro-batches so small that the host cannot keep "
        "a GPU busy: sooner, for some of its memory, the same up to rounding",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, batches and noise")
    checkpoint_every: int = Field(5_000, ge=1, le=MOST, description="steps between checkpoints")
    max_checkpoints: int = Field(3, ge=1, le=MOST, description="checkpoints kept, newest first")
    sample_every: int = Field(
        10_000, ge=0, le=MOST, description="steps between sample grids, 0 is only at the end"
    )
    sample_count: int = Field(64, ge=1, le=_AT_ONCE, description="images of a sample grid")
    sample_steps: int = Field(50, ge=1, le=MOST, description="sampling steps of a sample grid, at most T")
    log_every: int = Field(50, ge=1, le=MOST, description="steps between lines of metrics.jsonl")


class TerminalPriorSettings(Strict):
    """Where generation begins if a process does not end in noise: a mixture fitted to the training set."""

    grid: int = Field(1, ge=1, le=8, description="numbers a side that describe the most degraded image")
    basis: Literal["blocks", "cosines"] = Field("blocks", description="what the numbers are factors of")
    components: int = Field(1, ge=1, le=64, description="Gaussians in the mixture")
    noise: float = Field(0.0, ge=0, description="std added to each pixel: 'broken symmetry', 0 is 'perfect'")


class SamplingSettings(Strict):
    """How images are drawn."""

    steps: SamplingSteps = Field(
        250,
        description="a number, at most T, or '10,15,20' timesteps of equal sections, or 'ddim50'; "
        "every resolution transition is kept besides",
    )
    sampler: str = Field("ancestral", description="the rule of a step; alg1, alg2 and direct for kind cold")
    eta: float | None = Field(None, ge=0, le=1, description="share of fresh noise of ddim; unset is 0")
    variance: Literal["posterior", "fixed_large"] = Field(
        "posterior",
        description="of an ancestral step's noise: the posterior's, or the transition's, which is larger; "
        "for one level of kind ddpm or ssd",
    )
    batch: int = Field(64, ge=1, le=_AT_ONCE, description="images drawn at once")
    guidance: float = Field(1.0, ge=0, description="classifier-free guidance, 1 is off")
    guidance_interval: tuple[float, float] | None = Field(
        None,
        strict=False,
        description="least and largest log-SNR at which guidance counts, twice the work there alone; unset, "
        "or [-99, 99], is everywhere; not for kind cold",
    )
    clip_denoised: bool = Field(True, description="keep predicted images within [-1, 1]")
    start_noise: float = Field(
        0.0,
        ge=0,
        description="std added to the first state of a cold process that begins at noise or at an image of "
        "the second set; D(x, t) does not see it",
    )
    renoise: Literal["none", "spectral"] = Field(
        "none",
        description="high-frequency renoising at a resolution transition: none, or random details with the "
        "power spectrum of the training set",
    )
    correction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share that each step gives back of the variance that it loses, for Gaussian data with "
        "the power spectrum of the training set, at the model's own size; by ancestral and ddim (dpm++ loses "
        "little); for kinds ddpm and ssd",
    )
    lift: Literal["network", "linear"] = Field(
        "network",
        description="how the larger image of a resolution transition is predicted: network, by its layers "
        "for that step; linear, at the small size, then by the best linear map of the training images",
    )
    crossing: Crossing = Field(
        "step",
        description="what a resolution transition is crossed by: step, as any other; timestep, a single one, "
        "for which the nearest step is moved, if there is one to spare: the larger size sees more of what it "
        "gains; dpm++ takes steps alone",
    )
    transitions: tuple[float, ...] | None = Field(
        None,
        strict=False,
        description="log-SNRs at which sampling changes resolution, if not process.resolution.at; the first "
        "may be as late as training.overlap_log_snr, with lift = linear",
    )
    terminal_prior: TerminalPriorSettings | None = Field(
        None, description="fitted start, for kinds cold and heat"
    )
