"""Presets: TOML files with the settings of a run, read by name or by path; no torch.

A preset may build on another with ``extends = "NAME"`` (a shipped preset) or ``extends = "FILE.toml"`` (a
path seen from the file itself): tables are merged, other values replaced. Errors are one line that names
every wrong field, its allowed range and the nearest valid name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from functools import lru_cache, reduce
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ssdiff import plugins
from ssdiff.arguments import as_path, require_type
from ssdiff.config import Preset
from ssdiff.config.aliases import stored, today
from ssdiff.config.process import NoiseSettings, noise_kinds
from ssdiff.config.provenance import settle, with_data_set
from ssdiff.errors import PresetError, did_you_mean, nearest_names, one_line
from ssdiff.files import read_input
from ssdiff.models.registry import FLEXI_UNET
from ssdiff.registry import source_of

__all__ = [
    "Preset",
    "differences",
    "for_data_set",
    "load_preset",
    "make_preset",
    "override",
    "parse_override",
    "parse_preset",
    "presets",
    "read_preset",
    "shipped_preset",
]

# Tables whose `kind` decides which fields exist, with the kind that is meant when none is given.
_UNIONS: dict[tuple[str, ...], str] = {
    ("process", "resolution"): "convex_decay",
    ("process", "noise"): "linear",
    ("model",): FLEXI_UNET,
}
_KEPT: dict[tuple[str, ...], tuple[str, ...]] = {("model",): ("classes",)}  # fields that each kind has
_OF_A_RUN = "preset.toml"  # the file that ssdiff writes into a run
_ITS_OWN = ("name", "summary", "published", "trained_on")
# What a preset never has, and tomllib takes minutes and gigabytes for.
_LONGEST = 2**20  # letters
_DEEPEST = 40  # parts of a key
_DEEP_KEY = re.compile(rf"(?:[\w\"'-]+[ \t]*\.[ \t]*){{{_DEEPEST}}}")
_SHORT_NUMBER = re.compile(r"[+-]?(?:\.\d+|\d+\.)(?:[eE][+-]?\d+)?")  # which TOML wants a 0 for
_STEPS = 250  # of sampling, unless the preset says otherwise or T is smaller


def load_preset(name_or_path: str | Path, overrides: Mapping[str, object] | None = None) -> Preset:
    """Load the preset of a name or TOML file, with some fields replaced.

    Args:
        name_or_path: a name of :func:`presets`, or a path; a string is a path when it ends in ``.toml`` or
            holds a separator.
        overrides: new values by dotted field, ``{"model.width": 64}``, or by nested tables.

    Raises:
        PresetError: no such preset, not TOML, or fields that are unknown, out of range or at odds.
        UsageError: overrides that are no dictionary by field.
    """
    values = _resolve(name_or_path, ())
    where = f"preset {values['name']!r}"
    new = _found_from(Path(), today(_nest(overrides or {})))
    changed = _validate(_merge(values, new), where)
    if not new or changed.base or not changed.published:
        return changed
    return settle(changed, _validate(values, where), inherits=False)


def make_preset(
    values: Mapping[str, object], overrides: Mapping[str, object] | None = None, where: str = "preset"
) -> Preset:
    """Make the preset of values that no file holds, e.g. of a network that others trained.

    Args:
        values: of fields by section, as TOML would give them, with a name.
        overrides: as for `load_preset`; the values are checked with them.
        where: what to call the values in an error.

    Raises:
        PresetError: as `load_preset`.
    """
    new = _found_from(Path(), today(_nest(overrides or {})))
    return _validate(_merge(_nest(values), new), where)


def parse_preset(text: str, where: str = "preset", *, run_plugins: bool = False) -> Preset:
    """Parse the preset of a TOML text, for example one stored in a checkpoint; it must give a name.

    Args:
        text: TOML, as `Preset.to_toml` writes it; ``extends`` is not allowed, so no other file is read.
        where: what to call the text in an error.
        run_plugins: import the plugins that it names, for a run of one's own; they are left out otherwise.

    Raises:
        PresetError: as `load_preset`.
    """
    values = stored(today(_parse(text, where), warn=False))
    if not run_plugins:
        values.pop("plugins", None)
    return _validate(values, where)


def read_preset(path: Path, *, run_plugins: bool = False) -> Preset:
    """Return the preset that a run keeps in a file, as :func:`parse_preset` does of a text.

    Raises:
        PresetError: as `load_preset`.
    """
    return parse_preset(_read(path), str(path), run_plugins=run_plugins)


def override(preset: Preset, overrides: Mapping[str, object]) -> Preset:
    """Return the preset with some fields replaced and every rule checked again.

    Args:
        preset: left as it is.
        overrides: as for `load_preset`.

    Raises:
        PresetError: as `load_preset`.
    """
    values = preset.model_dump(exclude_none=True)
    new = _found_from(Path(), today(_nest(overrides)))
    changed = _validate(_merge(values, new), f"preset {preset.name!r}")
    return settle(changed, preset, inherits=False) if preset.published and not preset.base else changed


def for_data_set(preset: Preset, source: str | Path | None) -> Preset:
    """Return the preset as that of a run on a data set; without published figures if it is not its own.

    Args:
        preset: of the run.
        source: folder, zip file or name; None is the preset's own.
    """
    placed = with_data_set(preset, source)
    if (origin := _origin(placed.base)) is not None:
        return settle(placed, origin, inherits=True)
    return placed.model_copy(update={"published": ""}) if placed.trained_on else placed


def parse_override(text: str) -> tuple[str, object]:
    """Return field and value of ``section.field=value``, as given to ``--set``.

    The value is read as TOML (``3e-4``, ``true``, ``[16, 8]``, ``{ kind = "equal" }``); what is not TOML is a
    string, so that quotes are not needed.

    Raises:
        PresetError: no ``=`` or no field before it.
    """
    field, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not field:
        raise PresetError(f"{text!r} sets nothing", hint="write section.field=value, e.g. training.lr=3e-4")
    if _SHORT_NUMBER.fullmatch(value):
        return field, float(value)
    if value in ("True", "False"):  # as Python writes them
        return field, value == "True"
    try:
        parsed = _parse(f"value = {value}", field)
    except PresetError:
        return field, value
    return field, parsed["value"] if parsed.keys() == {"value"} else value


def presets() -> tuple[str, ...]:
    """Return the names of the shipped presets, sorted.

    >>> import ssdiff
    >>> "celeba64" in ssdiff.presets()
    True
    """
    files = [file.name for file in _folder().iterdir()]
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def shipped_preset(name: str) -> str:
    """Return the text of a shipped preset's file, with its comments and published numbers.

    Raises:
        PresetError: no such preset; names the nearest ones.
    """
    if name not in (names := presets()):
        hint = f"{did_you_mean(name, names)} (a file ends in .toml)"
        raise PresetError(f"unknown preset {name!r}", hint=hint)
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8")


def differences(a: Preset, b: Preset, sections: Collection[str] | None = None) -> list[str]:
    """List the fields in which two presets differ, as ``"model.width: 128 != 64"``; those that only b has
    come last.

    Args:
        a: left of ``!=``.
        b: right of ``!=``.
        sections: look only at these, e.g. ``("data", "process", "model")``; everything by default.
    """
    left, right = (dict(_flatten(preset.model_dump())) for preset in (a, b))
    return [
        f"{path}: {_show(left.get(path))} != {_show(right.get(path))}"
        for path in dict.fromkeys((*left, *right))
        if (sections is None or path.split(".")[0] in sections) and left.get(path) != right.get(path)
    ]


def _folder() -> Traversable:
    packaged = resources.files("ssdiff") / "_presets"
    # An editable installation has no copy in the package: the files lie beside it.
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "presets"


def _resolve(name_or_path: str | Path, seen: tuple[str, ...], base: Path | None = None) -> dict[str, Any]:
    """Values of a preset with everything it extends merged in; `seen` are the files on the way here."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        path = (base or Path()) / as_path("the preset", text)
        key, name, source = str(path.resolve()), path.stem, _read(path)
        base = path.parent
    else:
        key = name = text
        path, base, source = Path(f"{text}.toml"), None, shipped_preset(text)
    if key in seen:
        raise PresetError(f"presets extend each other: {' -> '.join((*seen, key))}", path=path)
    own = _found_from(base or Path(), today(_parse(source, str(path), path), where=str(path)))
    own = stored(own) if base is not None and path.name == _OF_A_RUN else own
    if base is None:
        own["base"] = name
    elif not own.keys() & {"extends", "base", "name"}:
        own["base"] = ""  # a file that is only called like a preset
    return {"name": name, **_extend(own, base, (*seen, key))}


def _found_from(folder: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The values with absolute paths of plugins and of a list of images, relative ones seen from a folder."""
    data = values.get("data")
    if isinstance(data, dict) and isinstance(listed := data.get("list"), str | Path) and str(listed):
        values = {**values, "data": {**data, "list": str((folder / as_path("data.list", listed)).absolute())}}
    given = values.get("plugins")
    if isinstance(given, str | Path):
        given = [given]
    if not isinstance(given, list | tuple) or not all(isinstance(plugin, str | Path) for plugin in given):
        return values
    found = [
        str((folder / as_path("plugins", plugin)).absolute()) if plugins.is_file(plugin) else str(plugin)
        for plugin in given
    ]
    return {**values, "plugins": found}


def _extend(values: dict[str, Any], base: Path | None, seen: tuple[str, ...]) -> dict[str, Any]:
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str) or not parent:
        raise PresetError(f"extends: must be the name or file of a preset, not {parent!r}")
    inherited = _resolve(parent, seen, base)
    # What says of a file what it is, or of a run what it did, is not handed on.
    return _merge({key: value for key, value in inherited.items() if key not in _ITS_OWN}, values)


def _read(path: Path) -> str:
    try:
        return read_input(path, 4 * _LONGEST, pipes=True).decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        near = nearest_names(path.stem, presets(), 1)
        hint = f"did you mean the preset {near[0]}?" if near else "give the name of a preset or a TOML file"
        raise PresetError(f"no preset file {path}", path=path, hint=hint) from None
    except UnicodeDecodeError as error:
        raise PresetError(f"{path} is not UTF-8 text (byte {error.start})", path=path) from None
    except OSError as error:
        raise PresetError(f"cannot read preset file {path}: {error.strerror}", path=path) from None


def _parse(text: str, where: str, path: Path | None = None) -> dict[str, Any]:
    if len(text) > _LONGEST or _DEEP_KEY.search(text):
        what = "is too long" if len(text) > _LONGEST else "has a key of too many parts"
        raise PresetError(f"{where} {what} for a preset", path=path)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits, too
        raise PresetError(f"{where} is not TOML: {one_line(error)}", path=path) from None


def _nest(overrides: Mapping[str, object], depth: int = 0) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``; later entries win. No setting is as deep as _DEEPEST."""
    nested: dict[str, Any] = {}
    require_type("overrides", overrides, Mapping, 'give a dictionary, {"training.steps": 20}')
    for field, value in overrides.items():
        require_type(f"the field {field!r}", field, str, 'give its dotted name, "training.steps"')
        parts = depth + 1 + field.count(".")
        if parts > _DEEPEST:
            raise PresetError(f"{one_line(field)} has too many parts for a setting")
        inner: Any = _nest(value, parts) if isinstance(value, Mapping) else value
        for part in reversed(field.split(".")):
            inner = {part: inner}
        # A path outside the preset: parts of one override belong together whatever their kind.
        nested = _merge(nested, inner, ("overrides",))
    return nested


def _merge(old: dict[str, Any], new: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """`new` over `old`, table by table; a union's table of a new kind replaces the old one."""
    merged = dict(old)
    for key, value in new.items():
        here = (*path, key)
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if _other_kind(before, value, here):
                before = {field: before[field] for field in _KEPT.get(here, ()) if field in before}
            merged[key] = _merge(before, value, here)
        elif here == ("plugins",) and isinstance(before, list | tuple) and isinstance(value, list):
            merged[key] = list(dict.fromkeys((*before, *value)))  # each file needs its own
        else:
            merged[key] = value
    return merged


def _other_kind(before: dict[str, Any], value: dict[str, Any], path: tuple[str, ...]) -> bool:
    kind = before.get("kind", _UNIONS.get(path))
    by_kind = path in _UNIONS or path == ("process", "degradation")
    return by_kind and value.get("kind", kind) != kind


def _validate(values: dict[str, Any], where: str) -> Preset:
    """The preset of values, with a summary and published figures that are true of it."""
    if "base" not in values and isinstance(name := values.get("name"), str) and name in presets():
        values = {**values, "base": name}  # stored before presets said what they are made of
    preset = _check(values, where)
    origin = _origin(preset.base)
    return preset if origin is None else settle(preset, origin, inherits=True)


@lru_cache
def _origin(name: str) -> Preset | None:
    """A preset as it ships, with its claims; None if there is none of the name."""
    return _check(_resolve(name, ()), f"preset {name!r}") if name in presets() else None


def _check(values: dict[str, Any], where: str) -> Preset:
    values, gone = _with_plugins(values, where)
    try:
        preset = Preset.model_validate(_complete(values))
    except ValidationError as error:
        problems = "; ".join(map(_explain, error.errors(include_url=False)))
        lost = f"; its plugin {gone[0]} is not there" if gone else ""
        raise PresetError(f"{where}: {problems}{lost}") from None
    used = [source for source in _sources(preset) if source not in preset.plugins]
    return preset.model_copy(update={"plugins": (*preset.plugins, *used)}) if used else preset


def _with_plugins(values: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Import the plugins of a preset; the values with those that are there, and files that are not.

    A file that was moved may have been given by its new place before: only without any plugin is it an error
    here.
    """
    named = values.get("plugins")
    if not isinstance(named, list | tuple) or not all(isinstance(plugin, str) for plugin in named):
        return values, []
    there, gone = plugins.load_all(named)
    if gone and not plugins.any_loaded():
        raise PresetError(
            f"{where}: its plugin {gone[0]} is not there", path=gone[0], hint="give it with --plugin FILE.py"
        )
    return {**values, "plugins": there}, gone


def _sources(preset: Preset) -> list[str]:
    """The plugins that the preset's parts came from."""
    process = preset.process
    used = {
        "network": preset.model.kind,
        "noise schedule": process.noise.kind,
        "prediction": process.predict,
        "sampler": preset.sampling.sampler,
    }
    if process.degradation is not None:
        used["degradation"] = process.degradation.kind
    parts = [*used.items(), *(("degradation", stage.kind) for stage in process.stages or ())]
    return list(dict.fromkeys(source for noun, name in parts if (source := source_of(noun, name))))


def _complete(values: dict[str, Any]) -> dict[str, Any]:
    """The values with those defaults that depend on other values."""
    defaults: dict[str, Any] = {}
    process = values.get("process")
    if isinstance(process, dict):
        if type(steps := process.get("T")) is int and 0 < steps < _STEPS:
            defaults["sampling"] = {"steps": steps}
        unions = {path[1]: kind for path, kind in _UNIONS.items() if path[:1] == ("process",)}
        given = {name: kind for name, kind in unions.items() if isinstance(process.get(name), dict)}
        defaults["process"] = {key: {"kind": process[key].get("kind", kind)} for key, kind in given.items()}
    return _merge(defaults, values)


def _explain(error: ErrorDetails) -> str:
    """One wrong field in words: where it is, what is allowed, what was found."""
    path, field, siblings = _locate(error["loc"])
    kind, found, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return f"{path}: must be given"
    if kind == "extra_forbidden":
        table, _, name = path.rpartition(".")
        hint = did_you_mean(name, siblings, prefix=f"{table}." if table else "", most=1)
        return f"{path}: unknown field; {hint}"
    if kind in ("union_tag_invalid", "literal_error"):
        choices = str(context.get("expected_tags") or context.get("expected"))
        found, path = context.get("tag", found), f"{path}.kind" if "tag" in context else path
        options = [item.strip(" '") for item in choices.replace(" or ", ", ").split(",")]
        near = nearest_names(str(found), options, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if path == "process.noise.kind":
            hint += " (or give its plugin with --plugin FILE.py)"
        return f"{path}: must be {choices}, not {_show(found)}{hint}"
    allowed = _allowed(kind, field) or error["msg"].removeprefix("Input should be ")
    return f"{path}: must be {allowed}, not {_show(found)}"


def _locate(location: tuple[int | str, ...]) -> tuple[str, FieldInfo | None, list[str]]:
    """A pydantic location as dotted path, its field (None inside a list) and the valid names there."""
    path, field, siblings = "", None, []
    model: Any = Preset
    for part in location:
        if isinstance(part, int):
            path, field, model = f"{path}[{part}]", None, None
        elif isinstance(model, dict):
            model = model.get(part)
        else:
            fields = model.model_fields if model is not None else {}
            # A key may hold anything; an error is one line all the same.
            name = part if part.isprintable() else repr(part)
            path, field, siblings = f"{path}.{name}" if path else name, fields.get(part), list(fields)
            model = _inside(field)
    return path, field, siblings


def _inside(field: FieldInfo | None) -> Any:
    """The model of a table's field, or the models by kind of a union's."""
    if field is None:
        return None
    if field.annotation is NoiseSettings:
        return noise_kinds()
    if field.discriminator:
        variants = get_args(field.annotation)
        return {variant.model_fields["kind"].default: variant for variant in variants}
    for annotation in (field.annotation, *get_args(field.annotation)):
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None


def _allowed(kind: str, field: FieldInfo | None) -> str:
    """What a field takes, in words; empty where pydantic's own words serve."""
    if kind.startswith("model_"):
        return "a table"
    if kind == "tuple_type":
        return "a list"
    if kind in ("string_pattern_mismatch", "string_too_long") and field is not None and field.description:
        return field.description
    if field is None or field.annotation not in (int, float):
        return ""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{sign} {bound}" if isinstance(bound, int) else f"{sign} {bound:g}"
        for item in field.metadata
        for name, sign in signs.items()
        if (bound := getattr(item, name, None)) is not None
    ]
    noun = "a whole number" if field.annotation is int else "a finite number"
    return " ".join((noun, " and ".join(bounds))).strip()


def _flatten(values: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    items = [
        _flatten(value, f"{path}{key}.") if isinstance(value, dict) else [(f"{path}{key}", value)]
        for key, value in values.items()
    ]
    return reduce(list.__add__, items, [])


def _show(value: object) -> str:
    text = "unset" if value is None else repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
