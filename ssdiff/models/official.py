"""Names and shapes of the authors' released weights, and how they map to ours.

Two layouts are read: the Flexi-UNet of [SSD] and the UNet of guided-diffusion, of which it is an extension;
blur diffusion has the latter's, too. The latter's weights go into an ADM U-Net, or into a Flexi-UNet whose
decoder is whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ssdiff.errors import CheckpointError
from ssdiff.models.adm_unet import AdmUNet
from ssdiff.models.blocks import Attention, Block, ResBlock
from ssdiff.models.flexi_unet import FlexiUNet

_RESIDUAL = {
    "in_layers.0": "norm_in",
    "in_layers.2": "conv_in",
    "emb_layers.1": "modulation",
    "out_layers.0": "norm_out",
    "out_layers.3": "conv_out",
    "skip_connection": "shortcut",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "project"}
_WRAPPERS = ("module.", "_orig_mod.")
_MARK = "input_blocks.0.0.weight"
_ADAPTERS = ("adapters_in.", "adapters_out.")
TABLES = ("sqrt_alphas_cumprod", "sqrt_1m_alphas_cumprod")
_OURS = ("levels.0.", "encoder.0.", "head_norm.")
_OF_A_SIZE = re.compile(r"^networks\.\d+\.")  # of a network for some sizes alone
_NAMED = 3  # names in a message
_OTHER_PRESET = "give the preset that the weights were trained with"


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has the authors' layout."""
    return any(_strip(name) == _MARK for name in state)


def is_plain(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict of the authors' layout is a plain UNet's, as guided-diffusion has it."""
    return recognise(state) and not any(_strip(name).startswith(_ADAPTERS) for name in state)


def split_tables(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of a plain UNet, and the tables of its process that deepinv keeps beside them, by
    their names without prefixes."""
    weights = {name: value for name, value in state.items() if _strip(name) not in TABLES}
    return weights, {_strip(name): value for name, value in state.items() if name not in weights}


def convert_weights(
    state: Mapping[str, Tensor], model: FlexiUNet | AdmUNet, *, averaged_adapters: bool = False
) -> dict[str, Tensor]:
    """Return the authors' weights under our names.

    Args:
        state: their state dict; prefixes of wrappers are dropped.
        model: what it is for; its structure is read, its weights are not (they may be on the meta device).
        averaged_adapters: of :func:`differing_adapters` take the averaged value; otherwise the one that the
            authors' loader takes, that of the later name.

    Returns:
        A state dict for ``model``. The row of 'no class', which the authors' models lack, is zero: the
        embedding then is that of the timestep alone. So are the adapters of a model with ``full_decoder``
        that takes the weights of a plain UNet, which has none: it works at full resolution only.

    Raises:
        CheckpointError: weights missing, left over or of another shape; names some of them.
    """
    found = {_strip(name): value for name, value in state.items()}
    if not recognise(state):
        raise unknown_layout(found)
    refuse_relatives(found)
    wanted, table = model.state_dict(), list(_table(model))
    if _match_decoder(found, table, isinstance(model, AdmUNet) or model.full_decoder):
        for ours, theirs in table:
            if theirs.startswith(_ADAPTERS):
                found[theirs] = torch.zeros(wanted[ours].shape)
    check_names([theirs for _, theirs in table], found)
    stored: dict[str, list[str]] = {}
    for ours, theirs in table:
        fit_weight(found[theirs], wanted[ours], theirs)
        stored.setdefault(ours, []).append(theirs)
    converted: dict[str, Tensor] = {}
    for ours, names in stored.items():
        name = _as_registered(names)[0 if averaged_adapters else -1]
        converted[ours] = fit_weight(found[name], wanted[ours], name)
    return converted


def differing_adapters(state: Mapping[str, Tensor], model: FlexiUNet) -> list[tuple[str, str]]:
    """Return (first, later) names of weights of adapters that are one module and have two values in a file.

    The authors' saver writes the averaged weights by the names of parameters, of which a shared module has
    the first alone; under the later name stays the raw value, and it is the one that their loader leaves.

    Args:
        state: weights that :func:`convert_weights` takes.
        model: what they are for.
    """
    found = {_strip(name): value for name, value in state.items()}
    stored: dict[str, list[str]] = {}
    for ours, theirs in _table(model):
        stored.setdefault(ours, []).append(theirs)
    pairs = [(_as_registered(names)[0], _as_registered(names)[-1]) for names in stored.values()]
    return [
        (first, later)
        for first, later in pairs
        if first in found and later in found and not torch.equal(found[first], found[later])
    ]


def _as_registered(names: Sequence[str]) -> list[str]:
    """Names of one adapter as the authors' network has them: of entrances from the largest size on, of exits
    from the smallest."""
    if len(names) == 1:
        return list(names)
    return sorted(
        names, key=lambda name: int(name.split(".")[1]), reverse=names[0].startswith("adapters_in.")
    )


def refuse_relatives(state: Mapping[str, Tensor]) -> None:
    """Refuse what guided-diffusion makes of the same blocks and ssdiff has no use for.

    Args:
        state: in its layout.

    Raises:
        CheckpointError: the weights are of its classifier, or of its super-resolution.
    """
    found = {_strip(name): value for name, value in state.items()}
    if not any(name.startswith("output_blocks.") for name in found):
        raise CheckpointError(
            "the weights are of guided-diffusion's classifier, which ssdiff does not guide by",
            hint="import the diffusion model; with classes it takes --guidance, free of a classifier",
        )
    stem = found[_MARK]
    if stem.ndim == 4 and stem.shape[1] in (2, 6):
        raise CheckpointError(
            f"the weights are of guided-diffusion's super-resolution: {stem.shape[1]} input channels, a "
            "smaller image beside the noisy one, which no network of ssdiff takes",
            hint="import the diffusion model of the small images",
        )


def unknown_layout(names: Collection[str]) -> CheckpointError:
    """Return the error for weights that are none of those that can be imported, with what they look like."""
    some = ", ".join(sorted(names)[:_NAMED])
    if any(_OF_A_SIZE.sub("", name).startswith(_OURS) for name in names):
        return CheckpointError(
            f"not the layout of released weights but that of ssdiff, e.g. {some}",
            hint="use the run or model itself: ssdiff sample --ckpt, ssdiff restore --ckpt, ssdiff export",
        )
    return CheckpointError(
        f"not the layout of any weights that can be imported: {len(names)} names, e.g. {some}",
        hint="known are Flexi-UNet, guided-diffusion, diffusers' UNet2DModel, and cold diffusion's ConvNeXt "
        "and DDPM U-Nets",
    )


def check_names(needed: Collection[str], found: Collection[str]) -> None:
    """Refuse weights that are not those of a model, by their names.

    Args:
        needed: what the model has, in its order.
        found: what the file has.

    Raises:
        CheckpointError: some are missing or left over; names a few of each.
    """
    missing = [name for name in needed if name not in found]
    extra = sorted(set(found) - set(needed))
    parts = [
        f"{len(names)} {word}, e.g. {', '.join(names[:_NAMED])}"
        for word, names in (("missing", missing), ("left over", extra))
        if names
    ]
    if parts:
        raise CheckpointError(
            f"the weights are of another architecture: {'; '.join(parts)}",
            hint=_OTHER_PRESET,
        )


def wrong_shape(name: str, found: Sequence[int], needed: Sequence[int]) -> CheckpointError:
    """Return the error for a weight that is not of the model's shape."""
    message = f"the weight {name} is {tuple(found)}, the preset needs {tuple(needed)}"
    return CheckpointError(message, hint=_OTHER_PRESET)


def _match_decoder(found: Mapping[str, Tensor], table: Sequence[tuple[str, str]], full: bool) -> bool:
    """Whether these are a plain UNet's; refuses them where the model would not run the last block, and the
    Flexi-UNet's where it would: that block was never trained."""
    if not any(theirs.startswith(_ADAPTERS) for _, theirs in table):
        return False  # one number of channels at all levels: the layouts do not differ
    plain = not any(name.startswith(_ADAPTERS) for name in found)
    if plain == full:
        return plain
    kind = "a plain UNet, without adapters" if plain else "a Flexi-UNet, which leaves out the last block"
    raise CheckpointError(
        f"the weights are of {kind}", hint=f"give the preset model.full_decoder = {str(plain).lower()}"
    )


def fit_weight(value: Tensor, like: Tensor, name: str, label: str = "label_emb.weight") -> Tensor:
    """Return a weight in the shape of ours: one-dimensional convolutions and matrices are convolutions of one
    pixel here, and a table of classes gets a row of zeros for 'no class' where it has none.

    Args:
        value: as the file has it.
        like: of our shape; only that is read.
        name: the file's.
        label: the file's name of the table of classes.

    Raises:
        CheckpointError: it is of another shape, or no real numbers.
    """
    if not value.is_floating_point():
        raise CheckpointError(f"the weight {name} holds {value.dtype}, not real numbers")
    if name == label and value.shape == (like.shape[0] - 1, like.shape[1]):
        value = torch.cat([value, torch.zeros_like(value[:1])])
    if value.numel() != like.numel() or value.shape[:2] != like.shape[:2]:
        raise wrong_shape(name, value.shape, like.shape)
    return value.reshape(like.shape)


def _strip(name: str) -> str:
    while name.startswith(_WRAPPERS):  # in any order, one around the other
        name = name.partition(".")[2]
    return name


def _table(model: FlexiUNet | AdmUNet) -> Iterator[tuple[str, str]]:
    """Pairs (our name, their name) of every weight."""
    wanted = set(model.state_dict())
    for ours, theirs in _modules(model):
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in wanted:
                yield f"{ours}.{kind}", f"{theirs}.{kind}"


def _modules(model: FlexiUNet | AdmUNet) -> Iterator[tuple[str, str]]:
    yield from (("time.0", "time_embed.0"), ("time.2", "time_embed.2"), ("label", "label_emb"))
    yield from (("stem", "input_blocks.0.0"), ("head_norm", "out.0"), ("head", "out.2"))
    number = 1
    for k, level in enumerate(model.levels):
        if isinstance(model, FlexiUNet):
            yield f"enter.{level.channels_in}", f"adapters_in.{model.sizes[k]}"
            yield f"leave.{level.channels_out}", f"adapters_out.{model.sizes[k]}"
        for j, block in enumerate(_blocks(level.encoder)):
            yield from _parts(block, f"levels.{k}.encoder.{j}", f"input_blocks.{number}")
            number += 1
        if k < len(model.levels) - 1:
            ours, theirs = f"levels.{k}.down", f"input_blocks.{number}.0"
            residual = isinstance(level.down, ResBlock)
            yield from _named(ours, theirs, _RESIDUAL) if residual else [(ours, f"{theirs}.op")]
            number += 1
    yield from _parts(model.middle, "middle", "middle_block")
    number = 0
    for k in reversed(range(len(model.levels))):
        blocks = _blocks(model.levels[k].decoder)
        for j, block in enumerate(blocks):
            yield from _parts(block, f"levels.{k}.decoder.{j}", f"output_blocks.{number}")
            if k and j == len(blocks) - 1:
                ours, theirs = f"levels.{k}.up", f"output_blocks.{number}.{len(block.parts)}"
                residual = isinstance(model.levels[k].up, ResBlock)
                yield from _named(ours, theirs, _RESIDUAL if residual else {"conv": "conv"})
            number += 1


def _parts(block: Block, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for i, part in enumerate(block.parts):
        assert isinstance(part, ResBlock | Attention), "a block holds nothing else"
        names = _RESIDUAL if isinstance(part, ResBlock) else _ATTENTION
        yield from _named(f"{ours}.parts.{i}", f"{theirs}.{i}", names)


def _named(ours: str, theirs: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of modules below a pair of modules, of a table from their names to ours."""
    return ((f"{ours}.{our_part}", f"{theirs}.{their_part}") for their_part, our_part in names.items())


def _blocks(modules: object) -> list[Block]:
    assert isinstance(modules, nn.ModuleList), "a level's blocks"
    return [block for block in modules if isinstance(block, Block)]
