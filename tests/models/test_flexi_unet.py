"""The Flexi-UNet: golden outputs, published sizes and costs, routing."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from ssdiff.errors import CheckpointError, ProcessError
from ssdiff.models import official
from ssdiff.models.blocks import norm
from ssdiff.models.flexi_unet import FlexiUNet

DATA = Path(__file__).parents[1] / "assets"
GOLDEN = ["flexi_32px_3L_w32", "flexi_64px_4L_w32"]
OFFICIAL = {64: ((1, 2, 3, 4), 92.26), 128: ((1, 1, 2, 3, 4), 95.23), 256: ((1, 1, 2, 2, 4, 4), 124.25)}


def official_weights(keys):
    """The rule of the golden files: each weight is drawn from a generator seeded by its name."""
    result = {}
    for name, shape in keys.items():
        a = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) > 1:
            w = a / np.sqrt(np.prod(shape[1:]))
        else:
            w = 1 + 0.1 * a if name.endswith("weight") else 0.1 * a
        result[name] = torch.from_numpy(w.astype(np.float32))
    return result


def golden_model(name):
    info = json.loads((DATA / f"{name}.json").read_text())
    multipliers = [int(c) for c in info["channel_mult"].split(",")]
    model = FlexiUNet(size=info["image_size"], width=info["num_channels"], multipliers=multipliers)
    return info, model, official_weights(info["keys"])


def random_model(**options):
    """A small model without zero convolutions, so that every part shows in the output."""
    torch.manual_seed(0)
    settings = {"size": 32, "width": 16, "multipliers": (1, 2, 2), "blocks": 1, "attention": (8,), "heads": 2}
    model = FlexiUNet(**(settings | options))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


class PlainUNet:
    """The UNet of guided-diffusion written down again, straight from a state dict of its names."""

    def __init__(self, state, heads):
        self.state, self.heads = state, heads

    def conv(self, name, x, stride=1):
        weight = self.state[f"{name}.weight"]
        weight = weight[..., None] if weight.dim() == 3 else weight
        return F.conv2d(x, weight, self.state[f"{name}.bias"], stride, weight.shape[-1] // 2)

    def norm(self, name, x):
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def linear(self, name, x):
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def residual(self, name, x, emb):
        h = self.conv(f"{name}.in_layers.2", F.silu(self.norm(f"{name}.in_layers.0", x)))
        scale, shift = self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None].chunk(2, 1)
        h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        h = self.conv(f"{name}.out_layers.3", F.silu(h))
        shortcut = f"{name}.skip_connection"
        return h + (self.conv(shortcut, x) if f"{shortcut}.weight" in self.state else x)

    def attend(self, name, x):
        b, c, h, w = x.shape
        qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm", x)).view(b, self.heads, -1, h * w)
        q, k, v = qkv.chunk(3, 2)
        scores = torch.einsum("bncs,bnct->bnst", q, k) / (c / self.heads) ** 0.5
        mixed = torch.einsum("bnst,bnct->bncs", scores.softmax(-1), v)
        return x + self.conv(f"{name}.proj_out", mixed.reshape(b, c, h, w))

    def run(self, block, x, emb):
        for part in sorted({name.split(".")[len(block.split("."))] for name in self.under(block)}):
            name = f"{block}.{part}"
            if f"{name}.in_layers.0.weight" in self.state:
                x = self.residual(name, x, emb)
            elif f"{name}.qkv.weight" in self.state:
                x = self.attend(name, x)
            elif f"{name}.op.weight" in self.state:
                x = self.conv(f"{name}.op", x, stride=2)
            elif f"{name}.conv.weight" in self.state:
                x = self.conv(f"{name}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3))
            else:
                x = self.conv(name, x)
        return x

    def under(self, block):
        return [name for name in self.state if name.startswith(f"{block}.")]

    def count(self, list_name):
        return 1 + max(int(name.split(".")[1]) for name in self.under(list_name))

    def __call__(self, x, index):
        width = self.state["time_embed.0.weight"].shape[1]
        angle = index[:, None] * 10_000.0 ** (-torch.arange(width // 2) / (width // 2))
        emb = self.linear("time_embed.0", torch.cat([angle.cos(), angle.sin()], 1))
        emb = self.linear("time_embed.2", F.silu(emb))
        skips = []
        for n in range(self.count("input_blocks")):
            x = self.run(f"input_blocks.{n}", x, emb)
            skips.append(x)
        x = self.run("middle_block", x, emb)
        for n in range(self.count("output_blocks")):
            x = self.run(f"output_blocks.{n}", torch.cat([x, skips.pop()], 1), emb)
        return self.conv("out.2", F.silu(self.norm("out.0", x)))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_outputs(name):
    info, model, state = golden_model(name)
    model.load_state_dict(official.convert_weights(state, model))
    golden = np.load(DATA / f"{name}.npz")
    for case in info["cases"]:
        shape = (case["batch"], 3, case["r_t"], case["r_t"])
        x = torch.from_numpy(
            np.random.RandomState(case["input_seed"]).standard_normal(shape).astype(np.float32)
        )
        with torch.no_grad():
            y = model(x, torch.full((case["batch"],), case["t"]), case["r_s"])
        assert_close(y, torch.from_numpy(golden[f"y_{case['t']}"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", OFFICIAL)
def test_published_sizes(size):
    multipliers, millions = OFFICIAL[size]
    with torch.device("meta"):
        model = FlexiUNet(size=size, multipliers=multipliers)
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("size", "side", "gflops"),
    [(64, 64, 56.7), (64, 32, 34.4), (64, 16, 16.3), (64, 8, 5.0), (256, 256, 435.5)],
)
def test_published_costs(size, side, gflops):
    with torch.device("meta"):
        model = FlexiUNet(size=size, multipliers=OFFICIAL[size][0])
        x, index = torch.zeros(1, 3, side, side), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        model(x, index, side)
    assert round(counter.get_total_flops() / 1e9, 1) == gflops


def test_only_the_needed_blocks_run():
    model = random_model()
    model(torch.randn(1, 3, 8, 8), torch.zeros(1), 8).sum().backward()
    used = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert any(name.startswith("levels.2.encoder") for name in used)
    assert not any(name.startswith(("levels.0", "levels.1", "levels.2.up")) for name in used)
    model(torch.randn(1, 3, 8, 8), torch.zeros(1), 16).sum().backward()
    used = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert any(name.startswith("levels.1.decoder") for name in used)
    assert not any(name.startswith(("levels.0", "levels.1.encoder")) for name in used)


@pytest.mark.parametrize(
    ("side", "wanted"),
    [
        (32, 32),
        (16, 16),
        (8, 8),
        (16, 32),
        (8, 16),
        (8, 32),
        (24, 32),
        (12, 24),
        (24, 24),
        (16, 24),
        (20, 32),
        (12, 12),
        (4, 4),
        (4, 16),
        (36, 36),
        (16, 48),
    ],
)
def test_sizes_between_and_beyond_the_levels(side, wanted):
    with torch.no_grad():
        y = random_model()(torch.randn(2, 3, side, side), torch.tensor([3, 4]), wanted)
    assert y.shape == (2, 3, wanted, wanted) and y.isfinite().all()


@pytest.mark.parametrize(
    ("side", "wanted", "message"),
    [
        (16, 8, "same or a larger"),
        (30, 30, "multiple of 4"),
        (9, 9, "multiple of 2"),
        (8, 13, "13 pixels .* multiple of 2"),
    ],
)
def test_sizes_that_do_not_work(side, wanted, message):
    with pytest.raises(ProcessError, match=message):
        random_model()(torch.randn(1, 3, side, side), torch.zeros(1), wanted)


def test_checkpointing_changes_memory_only():
    x, index = torch.randn(2, 3, 16, 16), torch.tensor([1, 900])
    gradients = []
    for activation_checkpointing in (False, True):
        model = random_model(activation_checkpointing=activation_checkpointing)
        model(x, index, 32).square().sum().backward()
        gradients.append({n: w.grad for n, w in model.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradient, gradients[1][name])


def test_memory_format_and_mixed_precision():
    model, x = random_model(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        plain = model(x, torch.tensor([1, 2]), 32)
        last = model.to(memory_format=torch.channels_last)
        assert_close(
            last(x.contiguous(memory_format=torch.channels_last), torch.tensor([1, 2]), 32),
            plain,
            atol=1e-4,
            rtol=1e-4,
        )
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x, torch.tensor([1, 2]), 32)
    assert_close(low.float(), plain, atol=0.1, rtol=0.1)


def test_classes():
    model = random_model(classes=5)
    x, index = torch.randn(1, 3, 8, 8).expand(6, -1, -1, -1), torch.full((6,), 7)
    with torch.no_grad():
        y = model(x, index, 8, torch.arange(6))
    assert len({tuple(image.flatten()[:4].tolist()) for image in y}) == 6
    with pytest.raises(ProcessError, match="needs labels"):
        model(x, index, 8)
    with pytest.raises(ProcessError, match="has no classes"):
        random_model()(x, index, 8, torch.arange(6))


def test_compiles_without_breaks():
    model, x, index = random_model(), torch.randn(1, 3, 8, 8), torch.tensor([5])
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x, index, 16), model(x, index, 16))


def test_full_decoder_is_the_plain_unet():
    info, _, state = golden_model(GOLDEN[0])
    plain = {name: value for name, value in state.items() if not name.startswith("adapters")}
    model = FlexiUNet(size=32, width=32, multipliers=(1, 2, 4), full_decoder=True)
    model.load_state_dict(official.convert_weights(plain, model))
    x, index = torch.randn(2, 3, 32, 32), torch.tensor([0.0, 700.0])
    y = model(x, index, 32)
    assert_close(y, PlainUNet(plain, info["num_heads"])(x, index), atol=1e-4, rtol=0)
    y.sum().backward()
    unused = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is None}
    assert unused == {"enter", "leave"}


@pytest.mark.parametrize("full", [True, False])
def test_weights_for_the_other_decoder_are_refused(full):
    _, _, state = golden_model(GOLDEN[0])
    if not full:
        state = {name: value for name, value in state.items() if not name.startswith("adapters")}
    model = FlexiUNet(size=32, width=32, multipliers=(1, 2, 4), full_decoder=full)
    with pytest.raises(CheckpointError, match=f"model.full_decoder = {str(not full).lower()}"):
        official.convert_weights(state, model)


def test_groups():
    assert [norm(n).num_groups for n in (4, 8, 16, 24, 32, 48, 64, 96, 128, 384)] == [
        1,
        2,
        4,
        6,
        32,
        12,
        32,
        32,
        32,
        32,
    ]


def test_importing_wrapped_and_conditional_weights():
    _, model, state = golden_model(GOLDEN[0])
    wrapped = {f"_orig_mod.module.{name}": value for name, value in state.items()}
    assert official.recognise(wrapped) and not official.recognise(model.state_dict())
    plain = official.convert_weights(state, model)
    assert all(
        torch.equal(value, plain[name]) for name, value in official.convert_weights(wrapped, model).items()
    )
    conditional = FlexiUNet(size=32, width=32, multipliers=(1, 2, 4), classes=10)
    labels = torch.randn(10, 128)
    converted = official.convert_weights(state | {"label_emb.weight": labels}, conditional)
    assert torch.equal(converted["label.weight"][:10], labels) and not converted["label.weight"][10].any()


def test_levels_with_as_many_channels_share_an_adapter():
    model = random_model()
    weights = model.state_dict()
    theirs = {their: weights[our] for our, their in official._table(model)}
    assert theirs["adapters_out.16.weight"] is theirs["adapters_out.8.weight"]
    assert weights.keys() == official.convert_weights(theirs, model).keys()
    assert official.differing_adapters(theirs, model) == []


def test_models_of_one_width_need_no_adapters():
    for full in (False, True):
        model = random_model(multipliers=(1, 1, 1), full_decoder=full)
        theirs = {their: model.state_dict()[our] for our, their in official._table(model)}
        assert official.convert_weights(theirs, model).keys() == model.state_dict().keys()


def test_importing_other_weights_is_refused():
    _, model, state = golden_model(GOLDEN[0])
    with pytest.raises(CheckpointError, match="not the layout"):
        official.convert_weights(model.state_dict(), model)
    short = {name: value for name, value in state.items() if not name.startswith("time_embed")}
    with pytest.raises(
        CheckpointError, match=r"4 missing, e.g. time_embed.0.weight, time_embed.0.bias, time_embed.2.weight;"
    ):
        official.convert_weights(short, model)
    with pytest.raises(CheckpointError, match="1 left over"):
        official.convert_weights(state | {"extra": torch.zeros(1)}, model)
    with pytest.raises(
        CheckpointError, match=r"out.2.weight is \(5, 32, 3, 3\), the preset needs \(3, 32, 3, 3\)"
    ):
        official.convert_weights(state | {"out.2.weight": torch.zeros(5, 32, 3, 3)}, model)
