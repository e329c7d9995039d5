"""What a preset may claim of itself: summary and published figures belong to exactly one set of settings.

A figure of a paper is true of the settings and the data set that gave it. So whatever changes one of them, an
override, a file that builds on the preset, or another data set, takes the figures away, and the summary says
from which preset the settings are and what was changed. This module decides it for every preset that is
loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssdiff.arguments import as_path
from ssdiff.config.preset import SUMMARY_LENGTH, Preset
from ssdiff.errors import readable
from ssdiff.sampling.registry import SAMPLERS

_NAMED = 6  # fields, in a summary
# Settings that leave the result what it is: speed, memory, and what a run records.
_INCIDENTAL = frozenset(
    {
        *(
            "data.background",
            "data.convert",
            "data.corrupt",
            "data.max_pixels",
            "model.activation_checkpointing",
            "sampling.batch",
        ),
        *(f"training.{name}" for name in ("precision", "compile", "cuda_graphs", "seed", "checkpoint_every")),
        *(f"training.{name}" for name in ("max_checkpoints", "sample_every", "sample_count")),
        *(f"training.{name}" for name in ("sample_steps", "log_every")),
    }
)


def changed_fields(origin: Preset, preset: Preset) -> list[str]:
    """List the fields, as ``section.field``, in which presets differ and on which results depend.

    The data set that a run was given is no field: it is ``trained_on``.
    """
    left, right = dict(_fields(origin)), dict(_fields(preset))
    return [
        path
        for path in dict.fromkeys((*left, *right))
        if path not in _INCIDENTAL and left.get(path) != right.get(path)
    ]


def settle(preset: Preset, origin: Preset, *, inherits: bool) -> Preset:
    """Return the preset with a summary and published figures that are true of it.

    Args:
        preset: as it was read or changed.
        origin: the preset that its settings come from, as it ships, or as it was before the change.
        inherits: whether the claims of ``origin`` are those of the preset as long as nothing is changed.
    """
    changed, other = changed_fields(origin, preset), preset.trained_on
    if changed or other:
        told = _told(origin.name, changed, other)
        own = preset.summary if _is_own(preset, origin) else told
        return preset.model_copy(update={"summary": own, "published": ""})
    if not inherits:
        return preset
    own = preset.summary if _is_own(preset, origin) else origin.summary
    return preset.model_copy(update={"summary": own, "published": origin.published})


def with_data_set(preset: Preset, source: str | Path | None) -> Preset:
    """Return the preset with the name of the data set that a run was given, if its own is another one."""
    own = preset.data.source
    same = source is None or (own is not None and _place(source) == _place(own))
    return preset.model_copy(update={"trained_on": "" if same else readable(Path(str(source)).name)[:_NAME]})


_NAME = 100  # letters of a data set


def _place(source: str | Path) -> str:
    return str(as_path("data", source).absolute())


def _is_own(preset: Preset, origin: Preset) -> bool:
    """Whether the summary is the word of a user, about a preset with a name of the user's."""
    if preset.name == origin.name or preset.summary in ("", origin.summary):
        return False
    return not preset.summary.startswith((f"changed from {origin.name}:", f"settings of {origin.name} on "))


def _told(name: str, changed: list[str], other: str) -> str:
    if not changed:
        return f"settings of {name} on {other}"
    parts = changed[:_NAMED] + ([f"{len(changed) - _NAMED} more"] if len(changed) > _NAMED else [])
    parts += [f"data set {other}"] if other else []
    text = f"changed from {name}: {', '.join(parts)}"
    return text if len(text) <= SUMMARY_LENGTH else f"{text[: SUMMARY_LENGTH - 3]}..."


def _fields(preset: Preset) -> Iterator[tuple[str, Any]]:
    values = preset.model_dump()
    if values["sampling"]["eta"] is None:  # that of the sampler
        values["sampling"]["eta"] = SAMPLERS.get(preset.sampling.sampler).eta
    for section, fields in values.items():
        if isinstance(fields, Mapping):
            yield from ((f"{section}.{name}", value) for name, value in fields.items())
