"""`ssdiff info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdiff.cli.common import Json, Plugins, Terminal
from ssdiff.display import human_bytes
from ssdiff.errors import SsdiffError

if TYPE_CHECKING:
    from ssdiff.config import Preset


def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN|FILE",
            help="Run, checkpoint or exported model; default: the newest run, or the bundled model.",
        ),
    ] = None,
    plugin: Plugins = None,
    json: Json = False,
) -> None:
    """Show what a run or model is: settings, levels, checkpoints, state."""
    from ssdiff import runs
    from ssdiff.weights import single_file
    from ssdiff.weights.load import find_model

    source = find_model(path).path
    values: dict[str, Any] = {"path": str(source)}
    lines = [str(source)]
    if runs.is_run(source):
        _describe_run(runs.RunFolder(source), values, lines)
        from ssdiff.config.load import parse_preset

        text = (source / "preset.toml").read_text("utf-8")
        preset = parse_preset(text, f"the preset of {source}", run_plugins=True)
    else:
        stored = single_file.read(source)
        preset = stored.preset
        values |= {"step": stored.step, "class_names": list(stored.class_names), "origin": stored.origin}
        lines += [
            f"step {stored.step}",
            *([f"classes {', '.join(stored.class_names)}"] if stored.class_names else []),
        ]
        lines += [stored.origin]
    _describe_preset(preset, values, lines)
    Terminal(as_json=json).result("\n".join(lines), values)


def _describe_run(folder: Any, values: dict[str, Any], lines: list[str]) -> None:
    from ssdiff import checkpoints

    status = folder.read_status() or {}
    values["status"], values["killed"] = status, folder.was_killed()
    state = status.get("state", "unknown")
    reason = f": {status['reason']}" if status.get("reason") else ""
    lines.append(f"state {state}, step {status.get('step', 0)}{reason}")
    if values["killed"]:
        lines.append(f"its process is gone; go on with ssdiff train --resume {folder.path}")
    values["checkpoints"] = []
    for found in checkpoints.list_steps(folder.checkpoints):
        try:
            checkpoints.verify(found)
            verdict = "verified"
        except SsdiffError as error:
            verdict = f"damaged: {error}"
        size = sum(file.stat().st_size for file in found.iterdir() if file.is_file())
        values["checkpoints"].append({"name": found.name, "bytes": size, "verdict": verdict})
        lines.append(f"checkpoint {found.name}, {human_bytes(size)}, {verdict}")
    if not values["checkpoints"]:
        lines.append("no checkpoint yet")


def _describe_preset(preset: Preset, values: dict[str, Any], lines: list[str]) -> None:
    from ssdiff.build import build_process, outline_model

    count = sum(weight.numel() for weight in outline_model(preset).parameters())
    levels = [level.to_dict() for level in build_process(preset).levels()]
    values |= {"preset": preset.name, "summary": preset.summary, "parameters": count, "levels": levels}
    lines += [f"preset {preset.name}: {preset.summary}", f"{count / 1e6:.2f} M parameters"]
    lines += ["resolution   timesteps     log SNR"]
    for level in levels:
        first, last = level["log_snr"]
        noise = "no noise" if first is None else f"{first:6.2f} .. {last:.2f}"
        lines.append(f"{level['resolution']:10d}   {level['first']:4d}..{level['last']:<4d}   {noise}")
