"""Names and shapes of the weights that the authors of [CD] released, and how they map to ours.

A file holds a whole process: its network behind a prefix, ``module.denoise_fn.``, ``module.defade_fn.`` or
``denoise_fn.`` by folder of the release, and some tables of the process beside it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdiff.errors import CheckpointError
from ssdiff.models.convnext_unet import ConvNextUNet
from ssdiff.models.ddpm_unet import DdpmUNet
from ssdiff.models.official import check_names, wrong_shape
from ssdiff.models.registry import CONVNEXT_UNET, DDPM_UNET

_Rules = Sequence[tuple[str, str]]
_MARKS = {CONVNEXT_UNET: "downs.0.0.ds_conv.weight", DDPM_UNET: "temb.dense.0.weight"}
_PREFIX = re.compile(r"(?:(?:module|_orig_mod)\.)*(?:(?:denoise|defade)_fn\.)?")
_KERNEL = r"gaussian_kernels\.\d+\.weight"
_TABLES = "alphas_cumprod|sqrt_alphas_cumprod|sqrt_one_minus_alphas_cumprod|alphas|one_minus_alphas"
_BUFFER = re.compile(rf"(?:(?:module|_orig_mod)\.)*({_KERNEL}|{_TABLES})")

# From our name of a weight to theirs, one rule after the other.
_CONVNEXT_RULES: _Rules = (
    (r"^time\.0\b", "time_mlp.1"),
    (r"^time\.2\b", "time_mlp.3"),
    (r"^encoder\.(\d+)\.parts\b", r"downs.\1"),
    (r"^decoder\.(\d+)\.parts\b", r"ups.\1"),
    (r"^shrink\.(\d+)\b", r"downs.\1.3"),
    (r"^grow\.(\d+)\b", r"ups.\1.3"),
    (r"^middle\.parts\.0\b", "mid_block1"),
    (r"^middle\.parts\.1\b", "mid_attn"),
    (r"^middle\.parts\.2\b", "mid_block2"),
    (r"^tail\.parts\.0\b", "final_conv.0"),
    (r"^head\b", "final_conv.1"),
    (r"\.time\b", ".mlp.1"),
    (r"\.depthwise\b", ".ds_conv"),
    (r"\.expand\b", ".net.1"),
    (r"\.contract\b", ".net.3"),
    (r"\.shortcut\b", ".res_conv"),
    (r"\.qkv\b", ".fn.fn.to_qkv"),
    (r"\.project\b", ".fn.fn.to_out"),
    (r"^(mid_attn|(?:downs|ups)\.\d+\.2)\.norm\b", r"\1.fn.norm"),
    (r"(?<!fn)\.norm\b", ".net.0"),
    (r"(fn\.norm|net\.0)\.weight$", r"\1.g"),
    (r"(fn\.norm|net\.0)\.bias$", r"\1.b"),
)
_DDPM_RULES: _Rules = (
    (r"^time\.0\b", "temb.dense.0"),
    (r"^time\.2\b", "temb.dense.1"),
    (r"^stem\b", "conv_in"),
    (r"^head_norm\b", "norm_out"),
    (r"^head\b", "conv_out"),
    (r"^(down|up)\.(\d+)\.(\d+)\.parts\.0\b", r"\1.\2.block.\3"),
    (r"^(down|up)\.(\d+)\.(\d+)\.parts\.1\b", r"\1.\2.attn.\3"),
    (r"^middle\.parts\.0\b", "mid.block_1"),
    (r"^middle\.parts\.1\b", "mid.attn_1"),
    (r"^middle\.parts\.2\b", "mid.block_2"),
    (r"\.norm_in\b", ".norm1"),
    (r"\.conv_in\b", ".conv1"),
    (r"\.modulation\b", ".temb_proj"),
    (r"\.norm_out\b", ".norm2"),
    (r"\.conv_out\b", ".conv2"),
    (r"\.shortcut\b", ".nin_shortcut"),
    (r"\.project\b", ".proj_out"),
)


@dataclass(frozen=True, slots=True)
class ColdFile:
    """What a file of [CD] holds.

    Attributes:
        kind: of its network, as ``model.kind``.
        weights: of the network, by the authors' names without prefix.
        buffers: tables of the process, by their names without prefix.
        others: names that are neither.
        settings: of the network by their names in a preset, as far as weights show them.
    """

    kind: str
    weights: dict[str, Tensor]
    buffers: dict[str, Tensor]
    others: list[str]
    settings: dict[str, int | bool | tuple[int, ...]]


def read_layout(state: Mapping[str, Tensor]) -> ColdFile | None:
    """Return what a state dict in the layout of [CD] holds; None for another layout."""
    for kind, mark in _MARKS.items():
        for name in state:
            if name.endswith(mark) and _PREFIX.fullmatch(prefix := name.removesuffix(mark)):
                return _split(kind, prefix, state)
    return None


def _split(kind: str, prefix: str, state: Mapping[str, Tensor]) -> ColdFile:
    weights: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    others = []
    for name, value in state.items():
        if table := _BUFFER.fullmatch(name):
            buffers[table[1]] = value
        elif name.startswith(prefix):
            weights[name.removeprefix(prefix)] = value
        else:
            others.append(name)
    return ColdFile(kind, weights, buffers, others, _settings(kind, weights))


def convert_cold(file: ColdFile, model: ConvNextUNet | DdpmUNet) -> dict[str, Tensor]:
    """Return the authors' weights under our names.

    Args:
        file: of :func:`read_layout`.
        model: what it is for; its names and shapes are read, its weights are not.

    Raises:
        CheckpointError: weights missing, left over or of another shape; names some of them.
    """
    wanted = model.state_dict()
    table = {ours: _theirs(ours, model) for ours in wanted}
    check_names([name for names in table.values() for name in names], [*file.weights, *file.others])
    converted = {}
    for ours, theirs in table.items():
        like = wanted[ours]
        values = [file.weights[name] for name in theirs]
        part = (like.shape[0] // len(values), *like.shape[1:])
        for name, value in zip(theirs, values, strict=True):
            # Their norms have weights of (1, C, 1, 1).
            if not value.is_floating_point():
                raise CheckpointError(f"the weight {name} holds {value.dtype}, not real numbers")
            if value.shape != part and value.squeeze().shape != torch.Size(part):
                raise wrong_shape(name, value.shape, part)
        converted[ours] = torch.cat([value.reshape(part) for value in values])
    return converted


def _theirs(ours: str, model: ConvNextUNet | DdpmUNet) -> list[str]:
    """The authors' names of what one of our weights is made of."""
    if isinstance(model, ConvNextUNet):
        return [_apply(_CONVNEXT_RULES, ours)]
    deepest = len(model.decoder) - 1
    side = re.sub(r"^decoder\.(\d+)", lambda found: f"up.{deepest - int(found[1])}", ours)
    side = re.sub(r"^grow\.(\d+)", lambda found: f"up.{deepest - int(found[1])}.upsample", side)
    side = re.sub(r"^encoder\b", "down", side)
    name = _apply(_DDPM_RULES, re.sub(r"^shrink\.(\d+)", r"down.\1.downsample.conv", side))
    return [name.replace(".qkv.", f".{part}.") for part in "qkv"] if ".qkv." in name else [name]


def _apply(rules: _Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _settings(kind: str, weights: Mapping[str, Tensor]) -> dict[str, int | bool | tuple[int, ...]]:
    shapes = {name: tuple(value.shape) for name, value in weights.items()}

    def rows(name: str) -> int:
        return (shapes.get(name) or (0,))[0]

    first = "downs.{}.1.ds_conv.weight" if kind == CONVNEXT_UNET else "down.{}.block.0.conv1.weight"
    widths = [n for n in map(rows, map(first.format, range(len(shapes)))) if n]
    head = "final_conv.1.weight" if kind == CONVNEXT_UNET else "conv_out.weight"
    width = (
        rows("time_mlp.3.weight") or (widths or [0])[0] if kind == CONVNEXT_UNET else rows("conv_in.weight")
    )
    found: dict[str, int | bool | tuple[int, ...]] = {"data.channels": rows(head), "model.width": width}
    if width and widths and not any(n % width for n in widths):
        found["model.multipliers"] = tuple(n // width for n in widths)
    if kind == DDPM_UNET:
        blocks = itertools.takewhile(rows, (f"down.0.block.{j}.conv1.weight" for j in itertools.count()))
        found["model.blocks"] = len(list(blocks))
    elif "time_mlp.1.weight" not in shapes:
        found["model.options.time_embedding"] = False
    return found
