"""`ssdiff presets list` and `ssdiff presets show`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdiff.cli.common import Terminal, parse_sets
from ssdiff.cli.options import OUTPUT, Json, Plugins, Sets, option
from ssdiff.errors import UsageError

app = typer.Typer(help="The settings that ship with ssdiff.", no_args_is_help=True)

_Source = Annotated[
    bool, option(OUTPUT, "--source", help="The file as shipped, with its comments and published numbers.")
]


@app.command("list")
def list_presets(json: Json = False) -> None:
    """List the names, with one line about each."""
    from ssdiff.config.load import load_preset, presets

    summaries = {name: load_preset(name).about for name in presets()}
    width = max(map(len, summaries))
    lines = [f"{name:{width}}  {summary}" for name, summary in summaries.items()]
    Terminal(as_json=json).result("\n".join(lines), {"presets": summaries})


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE.toml", help="Preset by name or file.")],
    set_: Sets = None,
    plugin: Plugins = None,
    source: _Source = False,
    json: Json = False,
) -> None:
    """Show every setting of a preset, as TOML."""
    from ssdiff.config.load import load_preset, shipped_preset

    if source:
        if set_:
            raise UsageError("--set changes settings, --source shows a file as it is", hint="leave one out")
        text = shipped_preset(name)
        Terminal(as_json=json).result(text.rstrip("\n"), {"name": name, "source": text})
        return
    preset = load_preset(name, parse_sets(set_))
    Terminal(as_json=json).result(preset.to_toml(unset=True).rstrip("\n"), preset.model_dump(mode="json"))
