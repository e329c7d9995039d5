"""The networks of cold diffusion: golden outputs, published sizes, formats, what they refuse."""

import inspect

import pytest
import torch
from golden import golden, named_weights, normal
from torch.testing import assert_close

from ssdiff.errors import CheckpointError, ProcessError
from ssdiff.models import official_cold
from ssdiff.models.blocks import ShrinkByConvolution
from ssdiff.models.convnext_unet import ConvNextUNet, LinearAttention
from ssdiff.models.ddpm_unet import DdpmUNet
from ssdiff.models.registry import NETWORKS, OTHER_UNETS

CONVNEXT, DDPM = golden("convnext_unet"), golden("ddpm_unet")
RELEASED = golden("convnext_checkpoints")


def convnext(case):
    return ConvNextUNet(
        channels=case["channels"],
        width=case["dim"],
        multipliers=case["dim_mults"],
        residual=case["residual"],
        time_embedding=case["time_embedding"],
    )


def ddpm(case):
    return DdpmUNet(
        size=case["resolution"],
        channels=case["in_channels"],
        width=case["ch"],
        multipliers=case["ch_mult"],
        blocks=case["num_res_blocks"],
        attention=case["attn_resolutions"],
    )


def small(kind, **options):
    torch.manual_seed(0)
    if kind is DdpmUNet:
        options = {"size": 16, "attention": (8,), "blocks": 1, **options}
    return kind(**{"width": 16, "multipliers": (1, 2), **options})


@pytest.mark.parametrize(
    ("group", "build", "name"),
    [(group, build, name) for group, build in ((CONVNEXT, convnext), (DDPM, ddpm)) for name in group.arrays],
)
def test_published_outputs(group, build, name):
    entry = group.meta["arrays"][name]
    case = group.meta["cases"][entry["case"]]
    model = build(case).eval()
    file = official_cold.read_layout(named_weights(case["keys"]))
    model.load_state_dict(official_cold.convert_cold(file, model))
    x = normal(int(entry["x"].split()[1]), entry["input_shape"])
    with torch.no_grad():
        y = model(x, torch.tensor([entry["index"]]), x.shape[-1])
    group.check(name, y, atol=1e-4)


@pytest.mark.parametrize("folder", RELEASED.meta["folders"])
def test_layouts_of_the_released_files(folder):
    """Every name of every folder is a weight or a known table, at full size."""
    layout = RELEASED.meta["folders"][folder]
    state = released(layout)
    assert len(state) == layout["all_entries"]
    file = official_cold.read_layout(state)
    with torch.device("meta"):
        model = ConvNextUNet()
    assert file.kind == "convnext-unet" and not file.others
    assert len(file.weights) == layout["network_entries"]
    assert len(file.buffers) == layout["all_entries"] - layout["network_entries"]
    assert file.settings == {"data.channels": 3, "model.width": 64, "model.multipliers": (1, 2, 4, 8)}
    converted = official_cold.convert_cold(file, model)
    assert {n: v.shape for n, v in converted.items()} == {n: v.shape for n, v in model.state_dict().items()}


def released(layout):
    """A file of a folder by its layout, on the meta device."""
    shapes = {layout["prefix"] + name: shape for name, shape in RELEASED.meta["network_keys"].items()}
    others = {name: shape for name, shape in layout["other_entries"].items() if "..." not in name}
    if any("gaussian_kernels" in name for name in others):
        others = {f"module.gaussian_kernels.{i}.weight": [3, 1, 27, 27] for i in range(layout["T"])}
    return {name: torch.empty(shape, device="meta") for name, shape in (shapes | others).items()}


def test_layout_of_the_cifar10_network():
    keys = DDPM.meta["full_size_keys"]["keys"]
    state = {f"module.defade_fn.{name}": torch.empty(shape, device="meta") for name, shape in keys.items()}
    file = official_cold.read_layout(state)
    with torch.device("meta"):
        model = DdpmUNet(size=32)
    assert file.settings == {
        "data.channels": 3,
        "model.width": 128,
        "model.multipliers": (1, 2, 2, 2),
        "model.blocks": 2,
    }
    assert official_cold.convert_cold(file, model).keys() == model.state_dict().keys()


def test_queries_keys_and_values_keep_their_places():
    case = DDPM.meta["cases"]["one_channel"]
    state, model = named_weights(case["keys"]), ddpm(case)
    converted = official_cold.convert_cold(official_cold.read_layout(state), model)
    parts = converted["middle.parts.1.qkv.weight"].chunk(3)
    for part, name in zip(parts, "qkv", strict=True):
        assert torch.equal(part, state[f"mid.attn_1.{name}.weight"])


def test_weights_of_other_shapes_and_names_are_refused():
    case = CONVNEXT.meta["cases"]["rgb_two"]
    state, model = named_weights(case["keys"]), convnext(case)

    def refusal(**changes):
        changed = {**state, **{name.replace("__", "."): value for name, value in changes.items()}}
        with pytest.raises(CheckpointError) as caught:
            official_cold.convert_cold(
                official_cold.read_layout({n: v for n, v in changed.items() if v is not None}), model
            )
        return str(caught.value)

    assert "1 missing, e.g. time_mlp.1.bias" in refusal(time_mlp__1__bias=None)
    assert "1 left over, e.g. ups.7.weight" in refusal(ups__7__weight=torch.zeros(1))
    assert "final_conv.1.weight is (3, 9, 1, 1), the preset needs (3, 16, 1, 1)" in refusal(
        final_conv__1__weight=torch.zeros(3, 9, 1, 1)
    )
    assert official_cold.read_layout({f"evil.{name}": value for name, value in state.items()}) is None


def test_arguments_are_those_that_presets_are_checked_with():
    for kind, arguments in OTHER_UNETS.items():
        assert set(inspect.signature(NETWORKS.get(kind)).parameters) == set(arguments), kind


@pytest.mark.parametrize("kind", [ConvNextUNet, DdpmUNet])
def test_sizes_and_labels(kind):
    model, index = small(kind), torch.tensor([3, 7])
    with torch.no_grad():
        for side in (2, 12, 20):
            assert model(torch.randn(2, 3, side, side), index, side).shape == (2, 3, side, side)
        assert model(torch.randn(2, 3, 8, 8), index, 16).shape == (2, 3, 16, 16)
    for shape, wanted, message in (
        ((2, 3, 16, 16), 8, "same or a larger"),
        ((2, 3, 8, 16), 16, "square"),
        ((2, 3, 9, 9), 9, "multiple of 2"),
    ):
        with pytest.raises(ProcessError, match=message):
            model(torch.zeros(shape), index, wanted)
    with pytest.raises(ProcessError, match="takes no labels"):
        model(torch.zeros(2, 3, 8, 8), index, 8, index)


@pytest.mark.parametrize("kind", [ConvNextUNet, DdpmUNet])
def test_the_timestep_and_the_input_count(kind):
    plain, added = small(kind).eval(), small(kind, residual=True).eval()
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        early, late = (plain(x, torch.tensor([t]), 16) for t in (0, 99))
        assert not torch.allclose(early, late, atol=1e-4)
        assert_close(added(x, torch.tensor([0]), 16), early + x)
        if kind is ConvNextUNet:
            blind = small(kind, time_embedding=False)
            assert torch.equal(blind(x, torch.tensor([0]), 16), blind(x, torch.tensor([99]), 16))


@pytest.mark.parametrize("kind", [ConvNextUNet, DdpmUNet])
def test_memory_format_precision_and_checkpointing_change_no_result(kind):
    model, x, index = small(kind), torch.randn(2, 3, 16, 16), torch.tensor([1, 150])
    plain = model(x, index, 16)
    plain.square().mean().backward()
    wanted = {name: weight.grad for name, weight in model.named_parameters()}
    again = small(kind, activation_checkpointing=True).to(memory_format=torch.channels_last)
    output = again(x.contiguous(memory_format=torch.channels_last), index, 16)
    assert_close(output, plain, atol=1e-5, rtol=1e-4)
    output.square().mean().backward()
    scale = max(float(gradient.abs().max()) for gradient in wanted.values())
    for name, weight in again.named_parameters():
        assert_close(weight.grad, wanted[name], atol=1e-4 * scale, rtol=1e-3, msg=name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model(x, index, 16).float()
    assert (low - plain).abs().max() < 0.05 * plain.abs().max()


def test_dropout_is_in_the_residual_blocks():
    model, x, index = small(DdpmUNet, dropout=0.5), torch.randn(1, 3, 16, 16), torch.tensor([4])
    with torch.no_grad():
        assert not torch.equal(model(x, index, 16), model(x, index, 16))
        model.eval()
        assert torch.equal(model(x, index, 16), model(x, index, 16))


@pytest.mark.parametrize("kind", [ConvNextUNet, DdpmUNet])
def test_compiles_without_breaks(kind):
    """Channels last as in training, gradients too; without the code generator, which takes minutes."""
    model, index = small(kind).to(memory_format=torch.channels_last), torch.tensor([5])
    x = torch.randn(1, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    results = []
    for network in (model, compiled):
        model.zero_grad()
        output = network(x, index, 8)
        output.square().mean().backward()
        results.append((output.detach(), [weight.grad.clone() for weight in model.parameters()]))
    (plain, wanted), (output, found) = results
    assert_close(output, plain, atol=1e-5, rtol=1e-4)
    scale = max(float(gradient.abs().max()) for gradient in wanted)
    for gradient, other in zip(wanted, found, strict=True):
        assert_close(other, gradient, atol=1e-4 * scale, rtol=1e-3)


def test_linear_attention_is_a_sum_over_pixels():
    torch.manual_seed(0)
    attention, x = LinearAttention(8), torch.randn(1, 8, 3, 3)
    with torch.no_grad():
        q, k, v = attention.qkv(attention.norm(x)).reshape(3, 4, 32, 9)
        shares = (k - k.amax(-1, keepdim=True)).exp()
        shares = shares / shares.sum(-1, keepdim=True)
        mixed = torch.einsum("hdp,hen,hdn->hep", q, v, shares) / 32**0.5
        wanted = x + attention.project(mixed.reshape(1, 128, 3, 3))
        assert_close(attention(x, None), wanted, atol=1e-5, rtol=0)


def test_zeros_stand_below_and_on_the_right():
    halve = ShrinkByConvolution(1)
    with torch.no_grad():
        halve.weight.fill_(1.0)
        halve.bias.zero_()
        assert_close(halve(torch.ones(1, 1, 4, 4))[0, 0], torch.tensor([[9.0, 6.0], [6.0, 4.0]]))
