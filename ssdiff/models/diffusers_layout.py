"""Names and shapes of the weights of diffusers' ``UNet2DModel``, and how they map to the ADM U-Net's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ssdiff.models.adm_unet import AdmUNet
from ssdiff.models.blocks import Attention, Block, ResBlock
from ssdiff.models.official import check_names, fit_weight

_MARKS = ("conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.norm1.weight")
_LABEL = "class_embedding.weight"
_RESIDUAL = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "modulation": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "project": "to_out.0"}
_SPLIT = ("to_q", "to_k", "to_v")
# Names of attention before diffusers 0.14, in files of then.
_FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ENDS = {
    "time.0": "time_embedding.linear_1",
    "time.2": "time_embedding.linear_2",
    "label": "class_embedding",
    "stem": "conv_in",
    "head_norm": "conv_norm_out",
    "head": "conv_out",
}


def recognise_diffusers(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has the layout of diffusers' ``UNet2DModel``."""
    return all(name in state for name in _MARKS)


def convert_diffusers(state: Mapping[str, Tensor], model: AdmUNet) -> dict[str, Tensor]:
    """Return the weights of a ``UNet2DModel`` under our names.

    Args:
        state: by diffusers' names, those of old files included.
        model: what they are for; its structure is read, its weights are not (they may be on the meta device).

    Returns:
        A state dict for ``model``. Where the classes have no row of 'no class', it is zero: the embedding
        then is that of the timestep alone.

    Raises:
        CheckpointError: weights missing, left over or of another shape; names some of them.
    """
    found = {_today(name): value for name, value in state.items()}
    wanted = model.state_dict()
    table = {
        f"{ours}.{kind}": [f"{name}.{kind}" for name in theirs]
        for ours, theirs in _modules(model)
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in wanted
    }
    check_names([name for names in table.values() for name in names], found)
    converted = {}
    for ours, names in table.items():
        like = wanted[ours]
        part = like[: like.shape[0] // len(names)]
        values = [fit_weight(found[name], part, name, _LABEL) for name in names]
        converted[ours] = values[0] if len(values) == 1 else torch.cat(values)
    return converted


def _today(name: str) -> str:
    before, _, last = name.rpartition(".")
    above, _, module = before.rpartition(".")
    return f"{above}.{_FORMER[module]}.{last}" if ".attentions." in name and module in _FORMER else name


def _modules(model: AdmUNet) -> Iterator[tuple[str, list[str]]]:
    """Pairs of our name of a module, and theirs of what its weights are made of."""
    yield from ((ours, [theirs]) for ours, theirs in _ENDS.items())
    depth = len(model.levels)
    for k, level in enumerate(model.levels):
        down, up = f"down_blocks.{k}", f"up_blocks.{depth - 1 - k}"
        for side, theirs in (("encoder", down), ("decoder", up)):
            blocks = getattr(level, side)
            for j, block in enumerate(blocks):
                yield from _parts(block, f"levels.{k}.{side}.{j}", theirs, j)
        for ours, theirs in (("down", f"{down}.downsamplers.0"), ("up", f"{up}.upsamplers.0")):
            module, place = getattr(level, ours), f"levels.{k}.{ours}"
            if isinstance(module, ResBlock):
                yield from _residual(place, theirs)
            elif isinstance(module, nn.Conv2d):
                yield place, [f"{theirs}.conv"]
            else:
                yield f"{place}.conv", [f"{theirs}.conv"]
    assert isinstance(model.middle, Block), "the block between encoder and decoder"
    for i, part in enumerate(model.middle.parts):
        if isinstance(part, Attention):
            yield from _attention(f"middle.parts.{i}", "mid_block.attentions.0")
        else:
            yield from _residual(f"middle.parts.{i}", f"mid_block.resnets.{int(i > 0)}")


def _parts(block: Block, ours: str, theirs: str, number: int) -> Iterator[tuple[str, list[str]]]:
    yield from _residual(f"{ours}.parts.0", f"{theirs}.resnets.{number}")
    if len(block.parts) > 1:
        yield from _attention(f"{ours}.parts.1", f"{theirs}.attentions.{number}")


def _residual(ours: str, theirs: str) -> Iterator[tuple[str, list[str]]]:
    return ((f"{ours}.{our}", [f"{theirs}.{their}"]) for our, their in _RESIDUAL.items())


def _attention(ours: str, theirs: str) -> Iterator[tuple[str, list[str]]]:
    yield f"{ours}.qkv", [f"{theirs}.{name}" for name in _SPLIT]
    yield from ((f"{ours}.{our}", [f"{theirs}.{their}"]) for our, their in _ATTENTION.items())
