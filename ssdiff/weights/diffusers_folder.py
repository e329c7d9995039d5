"""Folders in which diffusers keeps a ``UNet2DModel``: its settings, those of its scheduler, its weights.

The settings are JSON files, of which nothing is run; weights go through the guard of
:mod:`ssdiff.weights.untrusted`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ssdiff.errors import CheckpointError, one_line, printable
from ssdiff.files import read_input
from ssdiff.models.registry import ADM_UNET
from ssdiff.weights.untrusted import read_weights

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler_config.json", "model_index.json"
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_LONGEST = 2**24  # bytes of a JSON file
_NETWORK = "UNet2DModel"
_COARSEST = 8  # pixels a side of the last level, where nothing says a size
_ONLY: Mapping[str, tuple[object, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet", None),
    "upsample_type": ("conv", "resnet", None),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
}
_DEFAULTS: Mapping[str, Any] = {  # of UNet2DModel
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
_BLOCKS = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
_PREDICTS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_OTHER = "it cannot be imported; what can is in docs/networks.md"


@dataclass(frozen=True, slots=True)
class DiffusersFolder:
    """What a folder of diffusers says of its network.

    Attributes:
        path: of the folder that was given.
        network: its ``config.json``.
        scheduler: its ``scheduler_config.json``; None where there is none.
        config: path of the former, for messages.
    """

    path: Path
    network: Mapping[str, Any]
    scheduler: Mapping[str, Any] | None
    config: Path

    def weights(self, weights: str = "ema") -> dict[str, Tensor]:
        """Return the state dict, of a file or of several that an index names.

        Args:
            weights: as :func:`ssdiff.weights.untrusted.read_weights` takes it.

        Raises:
            CheckpointError: no weights are there, or not all of them; or as that function.
        """
        folder = self.config.parent
        for name in _WEIGHTS:
            if (folder / name).is_file():
                return read_weights(folder / name, weights)
            if (folder / f"{name}.index.json").is_file():
                return _shards(folder / f"{name}.index.json", weights)
        raise CheckpointError(
            f"no weights in {folder}: neither {_WEIGHTS[0]} nor {_WEIGHTS[1]} is there",
            path=folder,
            hint="download the folder with its weights; of other names, rename them",
        )


def read_folder(path: Path) -> DiffusersFolder:
    """Read the settings in a folder of diffusers, of a whole pipeline or of a network alone.

    Args:
        path: with ``unet/config.json`` and ``scheduler/scheduler_config.json``, or both files at its top; the
            latter may be missing.

    Raises:
        CheckpointError: no such files, not JSON, or a network of another class; names it.
    """
    index = path / INDEX
    if index.is_file():
        _check_pipeline(index)
    config = next((place for place in (path / "unet" / CONFIG, path / CONFIG) if place.is_file()), None)
    if config is None:
        raise CheckpointError(
            f"{path} is no folder of a network: it has neither unet/{CONFIG} nor {CONFIG}",
            path=path,
            hint="give a folder as diffusers' save_pretrained writes it, or a file of weights",
        )
    network = _read_json(config)
    if (kind := network.get("_class_name")) != _NETWORK:
        told = f"a {printable(str(kind))}" if kind else "of a class that it does not name"
        raise CheckpointError(
            f"the network in {config} is {told}, not a {_NETWORK}", path=config, hint=_OTHER
        )
    places = [
        path / "scheduler" / SCHEDULER,
        path / SCHEDULER,
        config.parent.parent / "scheduler" / SCHEDULER,
    ]
    scheduler = next((place for place in places if place.is_file()), None)
    return DiffusersFolder(path, network, None if scheduler is None else _read_json(scheduler), config)


def folder_settings(folder: DiffusersFolder, size: int | None = None) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a preset by section, and notes of what the folder does not say.

    Args:
        folder: of :func:`read_folder`.
        size: pixels a side of the images, where known better than by the folder.

    Raises:
        CheckpointError: a setting or a block that the ADM U-Net has not; names it.
    """
    config, where = {**_DEFAULTS, **folder.network}, folder.config
    _check_network(config, where)
    notes = []
    widths: Sequence[int] = config["block_out_channels"]
    depth, scale_shift = len(widths), config["resnet_time_scale_shift"] == "scale_shift"
    side = size or _side(config, where)
    if side is None:
        side = _COARSEST << (depth - 1)
        notes.append(
            f"the folder does not say the size of images: taken are {side} px; --set data.size changes it"
        )
    sizes = [side >> level for level in range(depth)]
    down, up = ([_plain(name) for name in config[key]] for key in _BLOCKS)
    up = up[::-1]  # finest first, like the levels
    width = math.gcd(*widths)
    groups = config["norm_num_groups"]
    normed = not scale_shift or config["attn_norm_num_groups"] is not None
    options: dict[str, Any] = {
        "timestep_width": widths[0],
        "sines_first": not config["flip_sin_to_cos"],
        "freq_shift": config["freq_shift"],
        "groups": groups,
        "eps": config["norm_eps"],
        "middle_attention": ("normed" if normed else "plain") if config["add_attention"] else "none",
        "decoder_attention": [n for n, kind in zip(sizes, up, strict=True) if kind.startswith("Attn")],
        "resblock_down": _changed(sizes[:-1], down[:-1], config["downsample_type"]),
        "resblock_up": _changed(sizes[1:], up[1:], config["upsample_type"]),
        "pad_after": config["downsample_padding"] == 0,
    }
    head = config["attention_head_dim"]
    model = {
        "kind": ADM_UNET,
        "width": width,
        "multipliers": [n // width for n in widths],
        "blocks": config["layers_per_block"],
        "attention": [n for n, kind in zip(sizes, down, strict=True) if kind.startswith("Attn")],
        "heads": 1,
        "head_channels": head or 0,
        "attention_order": "qkv-first",
        "dropout": config["dropout"],
        "classes": config["num_class_embeds"] or 0,
        "scale_shift_norm": scale_shift,
        "learn_sigma": config["out_channels"] == 2 * config["in_channels"],
        "options": options,
    }
    process, sampling, more = _process(folder)
    name = re.sub(r"[^\w .+-]", "-", folder.path.resolve().name)[:80].strip(" .-") or "diffusers"
    values = {
        "name": name if re.match(r"\w", name) else f"x{name}",
        "summary": f"UNet2DModel of diffusers, {side} px",
        "data": {"size": side, "channels": config["in_channels"]},
        "process": process,
        "model": model,
        "sampling": sampling,
    }
    return values, [*notes, *more]


def _changed(sizes: Sequence[int], kinds: Sequence[str], how: str | None) -> list[int]:
    """Where residual blocks change the size: in blocks made for it, and in those of attention if so said."""
    return [
        n
        for n, kind in zip(sizes, kinds, strict=True)
        if kind.startswith("Resnet") or (kind.startswith("Attn") and how == "resnet")
    ]


def _plain(kind: str) -> str:
    return kind.removeprefix("UNetRes")


def _side(config: Mapping[str, Any], where: Path) -> int | None:
    side = config["sample_size"]
    if isinstance(side, list) and len(side) == 2 and side[0] == side[1]:
        side = side[0]
    if side is None or (type(side) is int and side > 0):
        return side
    raise CheckpointError(
        f"{where}: sample_size {printable(str(side))} is no side of square images", path=where, hint=_OTHER
    )


def _check_network(config: Mapping[str, Any], where: Path) -> None:
    """Refuse settings that the ADM U-Net has not."""

    def refuse(name: str, told: str = "") -> CheckpointError:
        value = told or json.dumps(config[name])
        return CheckpointError(
            f"{where}: {name} {printable(value)} is not supported", path=where, hint=_OTHER
        )

    for name, known in _ONLY.items():
        if config[name] not in known or (type(config[name]) is bool) != (type(known[0]) is bool):
            raise refuse(name)
    for name in ("block_out_channels", *_BLOCKS):
        if not isinstance(config[name], list | tuple) or not config[name]:
            raise refuse(name)
    whole = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
    optional = ("attention_head_dim", "num_class_embeds", "attn_norm_num_groups", "time_embedding_dim")
    for name in (*whole, *(name for name in optional if config[name] is not None)):
        if type(config[name]) is not int or not 0 < config[name] < 2**31:
            raise refuse(name)
    for name in ("freq_shift", "norm_eps", "dropout"):
        if type(config[name]) not in (int, float):
            raise refuse(name)
    for name in ("flip_sin_to_cos", "add_attention"):
        if type(config[name]) is not bool:
            raise refuse(name)
    widths = config["block_out_channels"]
    if any(type(n) is not int or not 0 < n < 2**31 for n in widths):
        raise refuse("block_out_channels")
    for name, known_blocks in _BLOCKS.items():
        for kind in config[name]:
            if not isinstance(kind, str) or _plain(kind) not in known_blocks:
                raise refuse(name, f"of {kind}")
        if len(config[name]) != len(widths):
            raise refuse(name, f"of another number than block_out_channels ({len(widths)})")
    if config["time_embedding_dim"] not in (None, 4 * widths[0]):
        raise refuse("time_embedding_dim")
    if config["attn_norm_num_groups"] not in (None, config["norm_num_groups"]):
        raise refuse("attn_norm_num_groups")
    if config["in_channels"] not in (1, 3):
        raise refuse("in_channels", f"{config['in_channels']} (images have 1 or 3)")
    if config["out_channels"] not in (config["in_channels"], 2 * config["in_channels"]):
        raise refuse("out_channels")


def _process(folder: DiffusersFolder) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The process and the sampling that a scheduler means, and notes."""
    given = folder.scheduler
    if given is None:
        note = (
            "no scheduler_config.json: taken are T = 1000, linear betas from 0.0001 to 0.02 and a network "
            "that predicts noise; --set process.noise, process.predict and process.T change them"
        )
        return {"kind": "ddpm", "levels": 1, "T": 1000, "predict": "eps"}, {}, [note]
    kind = printable(str(given.get("_class_name", "its scheduler")))

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(
            f"{folder.path}: {kind} with {what} is not supported", path=folder.path, hint=_OTHER
        )

    steps = given.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 2 <= steps <= 100_000:
        raise refuse(f"num_train_timesteps {json.dumps(steps)}")
    if given.get("trained_betas") is not None:
        raise refuse("trained_betas")
    if given.get("rescale_betas_zero_snr"):
        raise refuse("rescale_betas_zero_snr")
    schedule = given.get("beta_schedule")
    if schedule not in _SCHEDULES:
        raise refuse("no beta_schedule" if schedule is None else f"beta_schedule {json.dumps(schedule)}")
    predicts = given.get("prediction_type", "epsilon")
    if predicts not in _PREDICTS:
        raise refuse(f"prediction_type {json.dumps(predicts)}")
    noise: dict[str, Any] = {"kind": _SCHEDULES[schedule]}
    if schedule != "squaredcos_cap_v2":  # ours scale the ends by 1000 / T
        for name, usual in (("beta_start", 1e-4), ("beta_end", 0.02)):
            value = given.get(name, usual)
            if type(value) not in (int, float) or not 0 < value < 1:
                raise refuse(f"{name} {json.dumps(value)}")
            noise[name] = value if steps == 1000 else value * steps / 1000
    sampling: dict[str, Any] = {"clip_denoised": given.get("clip_sample", True) is not False}
    if given.get("variance_type") == "fixed_large":
        sampling["variance"] = "fixed_large"
    notes = (
        ["thresholding of its scheduler is not used: images are clipped"] if given.get("thresholding") else []
    )
    return (
        {"kind": "ddpm", "levels": 1, "T": steps, "noise": noise, "predict": _PREDICTS[predicts]},
        sampling,
        notes,
    )


def _check_pipeline(index: Path) -> None:
    """Refuse a pipeline whose network is another one."""
    parts = _read_json(index)
    found = parts.get("unet")
    kind = found[1] if isinstance(found, list) and len(found) == 2 else None
    if kind == _NETWORK:
        return
    names = ", ".join(
        printable(f"{name} ({part[1]})")
        for name, part in parts.items()
        if isinstance(part, list) and len(part) == 2 and isinstance(part[1], str)
    )
    raise CheckpointError(
        f"{index.parent} is a {printable(str(parts.get('_class_name', 'pipeline')))} whose network is no "
        f"{_NETWORK}; it has {names[:300] or 'nothing'}",
        path=index,
        hint=_OTHER,
    )


def _shards(index: Path, weights: str) -> dict[str, Tensor]:
    """The state dict of several files."""
    table = _read_json(index).get("weight_map")
    files = set(table.values()) if isinstance(table, dict) else set()
    if not isinstance(table, dict) or not files or not all(map(_is_name, files)):
        raise CheckpointError(
            f"{index} has no weight_map of files beside it", path=index, hint="download it again"
        )
    state: dict[str, Tensor] = {}
    for file in sorted(files):
        state |= read_weights(index.parent / file, weights)
    if missing := sorted(table.keys() - state.keys()):
        raise CheckpointError(
            f"{index} names {len(missing)} weights that its files have not, e.g. {printable(missing[0])}",
            path=index,
            hint="download the folder again",
        )
    return state


def _is_name(file: object) -> bool:
    return isinstance(file, str) and bool(re.fullmatch(r"[\w.-]+\.(safetensors|bin)", file))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_input(path, _LONGEST).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {one_line(error)}", path=path) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is no table of settings", path=path)
    return found
