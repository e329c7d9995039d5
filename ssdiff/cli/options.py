"""The options of commands, each written once, and the panels that group them in every help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssdiff.sampling.registry import sampler_help
from ssdiff.schedules.respacing import parse_steps

INPUT, MODEL, DEGRADATION, TRAINING = "Input", "Model", "Degradation", "Training"
SAMPLING, MEASUREMENT, OUTPUT, MACHINE = "Sampling", "Measurement", "Output", "Machine"
PANELS = (INPUT, MODEL, DEGRADATION, TRAINING, SAMPLING, MEASUREMENT, OUTPUT, MACHINE)
"""In the order in which a command takes its options."""


def option(panel: str, *names: str, **about: Any) -> Any:
    """Return an option of a panel.

    Args:
        panel: one of PANELS.
        names: as typed, where they are not those of the parameter.
        about: ``help``, ``metavar`` and what else ``typer.Option`` takes; a text as ``show_default`` says
            what happens where the option is left out.
    """
    return typer.Option(*names, rich_help_panel=panel, **about)


def _load_plugins(context: typer.Context, files: list[Path] | None) -> list[Path] | None:
    """Import plugins while options are read, so that every option and preset may name their parts."""
    if files and not context.resilient_parsing:
        from ssdiff.plugins import load_plugin

        for file in files:
            load_plugin(file)
    return files


_SET = {"metavar": "PATH|NAME", "help": "Folder, .zip, or a data set's name."}
PRESET = {"metavar": "NAME|FILE.toml", "help": "Preset by name or file; see `ssdiff presets list`."}
_SAMPLER = {"help": f"The rule of a step. {sampler_help()}"}
_EXTRACTOR = {"metavar": "inception|module:Class", "help": "Network whose features are compared."}
_COUNT = {"help": "Images to draw."}
_AS_PRESET = {"show_default": "the preset's"}

_TIMESTEP = {"help": "Timestep, or severity of a cold degradation: 0 is the clean image, T the last."}

# Input
Data = Annotated[str | None, option(INPUT, **_SET, **_AS_PRESET)]
FittedData = Annotated[str | None, option(INPUT, **_SET, show_default="none")]
DataList = Annotated[
    Path | None,
    option(
        INPUT,
        "--data-list",
        metavar="FILE",
        help="Names of the images that count, one a line, for a folder or .zip.",
        show_default="all",
    ),
]
DataPart = Annotated[
    int | None,
    option(
        INPUT,
        "--data-part",
        min=0,
        help="Of a list whose lines end in a number, as CelebA's partition: the lines with this one.",
        show_default="every line is a name",
    ),
]
DataName = Annotated[str, option(INPUT, **_SET)]
Size = Annotated[int, option(INPUT, help="Pixels a side.")]
Images = Annotated[int, option(INPUT, help="Images to look at, evenly from the set.")]
MaxPixels = Annotated[int | None, option(INPUT, help="Largest image that is decoded.")]

With = Annotated[
    str | None,
    option(
        INPUT,
        "--with",
        metavar="PATH|NAME",
        help="Second data set, for animorphosis.",
        show_default="the run's, or the preset's",
    ),
]

# Model
Checkpoint = Annotated[
    Path | None,
    option(
        MODEL,
        metavar="RUN|FILE",
        help="Run, checkpoint or model.",
        show_default="the newest run, or the bundled model",
    ),
]
Preset = Annotated[str | None, option(MODEL, **PRESET)]
PresetName = Annotated[str, option(MODEL, **PRESET)]
Sets = Annotated[
    list[str] | None,
    option(MODEL, "--set", metavar="a.b=c", help="Change a setting of the preset; repeatable."),
]
Weights = Annotated[str, option(MODEL, help="ema (averaged) or raw.")]
Plugins = Annotated[
    list[Path] | None,
    option(
        MODEL,
        "--plugin",
        metavar="FILE.py",
        callback=_load_plugins,
        help="Networks, degradations, samplers or schedules of your own. Runs the file's code; repeatable.",
    ),
]

# Degradation
Timestep = Annotated[int | None, option(DEGRADATION, **_TIMESTEP)]
LastTimestep = Annotated[int | None, option(DEGRADATION, **_TIMESTEP, show_default="T")]

# Sampling
Count = Annotated[int, option(SAMPLING, "-n", "--count", **_COUNT)]
EvaluatedCount = Annotated[int | None, option(SAMPLING, "-n", "--count", **_COUNT, show_default="10000")]
Steps = Annotated[
    str | None,
    option(
        SAMPLING,
        metavar="N|A,B,...|ddimN",
        parser=parse_steps,
        help="Sampling steps, 1..T, evenly in t; or a list, e.g. 10,15,20 timesteps of each third from the "
        "clean end on; or ddim50, a whole stride. Every resolution transition is kept besides.",
        show_default="the preset's, at most T",
    ),
]
Sampler = Annotated[str | None, option(SAMPLING, **_SAMPLER, **_AS_PRESET)]
BestSampler = Annotated[str | None, option(SAMPLING, **_SAMPLER, show_default="the best")]
Eta = Annotated[
    float | None, option(SAMPLING, help="Share of fresh noise of ddim, 0..1.", show_default="the preset's")
]
Class = Annotated[
    list[str] | None,
    option(
        SAMPLING, "--class", metavar="C[,C...]", help="Class by name or number; several are used in turn."
    ),
]
Guidance = Annotated[
    float | None, option(SAMPLING, help="Weight of the class, 1 is plain.", show_default="the preset's")
]
Beginning = Annotated[
    int | None, option(SAMPLING, help="Timestep at which sampling begins.", show_default="T")
]
Seed = Annotated[int, option(SAMPLING, help="Decides every random number.")]

# Measurement
Extractor = Annotated[str, option(MEASUREMENT, **_EXTRACTOR)]
OptionalExtractor = Annotated[
    str | None, option(MEASUREMENT, **_EXTRACTOR, show_default="none, and no Frechet distance")
]
WeightsFile = Annotated[
    Path | None, option(MEASUREMENT, help="File of Inception's weights, for work offline.")
]

# Output
ModelFile = Annotated[Path, option(OUTPUT, "--out", metavar="x.safetensors", help="The model to write.")]
ResultFile = Annotated[
    Path | None,
    option(OUTPUT, "--out", metavar="x.json", help="Write the result, for `eval report` too."),
]
Overwrite = Annotated[bool, option(OUTPUT, "--overwrite", help="Replace outputs that exist.")]
SkipExisting = Annotated[
    bool,
    option(OUTPUT, "--skip-existing", help="Keep results that are there, and do what is missing."),
]
Json = Annotated[bool, option(OUTPUT, "--json", help="Print the result as one JSON object on stdout.")]
Quiet = Annotated[bool, option(OUTPUT, "--quiet", "-q", help="No messages, no progress; errors only.")]

# Machine
Batch = Annotated[
    int | None,
    option(MACHINE, help="Images at once: changes the memory, not the result.", show_default="the preset's"),
]
Device = Annotated[str, option(MACHINE, help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[
    str,
    option(
        MACHINE,
        help="auto, fp32 or bf16. auto is bf16 where the hardware multiplies it natively, on a CPU for "
        "networks of at least 20 M parameters.",
    ),
]
