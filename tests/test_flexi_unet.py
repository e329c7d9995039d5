"""The Flexi-UNet: golden outputs, published sizes and costs, routing."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from ssdiff.errors import CheckpointError, ProcessError
from ssdiff.models import official
from ssdiff.models.blocks import norm
from ssdiff.models.flexi_unet import FlexiUNet

DATA = Path(__file__).parent / "data"
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


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_outputs(name):
    info, model, state = golden_model(name)
    model.load_state_dict(official.convert(state, model))
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
    ],
)
def test_sizes_between_the_levels(side, wanted):
    with torch.no_grad():
        y = random_model()(torch.randn(2, 3, side, side), torch.tensor([3, 4]), wanted)
    assert y.shape == (2, 3, wanted, wanted) and y.isfinite().all()


@pytest.mark.parametrize(
    ("side", "wanted", "message"),
    [
        (16, 8, "same or a larger"),
        (32, 64, "same or a larger"),
        (30, 30, "multiple of 4"),
        (9, 9, "multiple of 2"),
    ],
)
def test_sizes_that_do_not_work(side, wanted, message):
    with pytest.raises(ProcessError, match=message):
        random_model()(torch.randn(1, 3, side, side), torch.zeros(1), wanted)


def test_checkpointing_changes_memory_only():
    x, index = torch.randn(2, 3, 16, 16), torch.tensor([1, 900])
    gradients = []
    for checkpointing in (False, True):
        model = random_model(checkpointing=checkpointing)
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


def test_full_decoder_is_the_plain_unet():
    model = random_model(full_decoder=True)
    model(torch.randn(1, 3, 32, 32), torch.zeros(1), 32).sum().backward()
    unused = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is None}
    assert unused <= {"enter", "leave"}


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
    wrapped = {f"module.{name}": value for name, value in state.items()}
    assert official.recognise(wrapped) and not official.recognise(model.state_dict())
    plain = official.convert(state, model)
    assert all(torch.equal(value, plain[name]) for name, value in official.convert(wrapped, model).items())
    conditional = FlexiUNet(size=32, width=32, multipliers=(1, 2, 4), classes=10)
    labels = torch.randn(10, 128)
    converted = official.convert(state | {"label_emb.weight": labels}, conditional)
    assert torch.equal(converted["label.weight"][:10], labels) and not converted["label.weight"][10].any()


def test_importing_other_weights_is_refused():
    _, model, state = golden_model(GOLDEN[0])
    with pytest.raises(CheckpointError, match="not the layout"):
        official.convert(model.state_dict(), model)
    short = dict(list(state.items())[:-1])
    with pytest.raises(CheckpointError, match="1 missing"):
        official.convert(short, model)
    with pytest.raises(CheckpointError, match="1 left over"):
        official.convert(state | {"extra": torch.zeros(1)}, model)
    with pytest.raises(
        CheckpointError, match=r"out.2.weight is \(5, 32, 3, 3\), the preset needs \(3, 32, 3, 3\)"
    ):
        official.convert(state | {"out.2.weight": torch.zeros(5, 32, 3, 3)}, model)
