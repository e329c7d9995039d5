"""Networks by size: what each runs and holds, sharing and branching, weights of the network for all sizes."""

import copy

import pytest
import torch

from ssdiff.build import build_model, build_process, outline_model, place_model
from ssdiff.config.load import load_preset
from ssdiff.errors import CheckpointError, PresetError
from ssdiff.evaluation.flops import path_costs
from ssdiff.models.branched_unet import BranchedUNet, branched_weights, separate_networks
from ssdiff.models.flexi_unet import FlexiUNet
from ssdiff.weights.released import convert_released

SIDES = (32, 16, 8, 4)
PATHS = [(32, 32), (16, 32), (16, 16), (8, 16), (8, 8), (4, 8), (4, 4)]


def whole(**more):
    torch.manual_seed(0)
    settings = {
        "size": 32,
        "width": 8,
        "multipliers": (1, 2, 2, 3),
        "blocks": 1,
        "attention": (8,),
        "heads": 2,
    }
    network = FlexiUNet(**settings, **more)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network.eval()


def run(network, now, then, **more):
    torch.manual_seed(now + then)
    return network(torch.randn(2, 3, now, now), torch.tensor([3, 7]), then, **more)


@pytest.mark.parametrize("own", [1, 2, 3])
def test_a_branched_network_begins_as_the_one_for_all_sizes(own):
    network = whole()
    branched = BranchedUNet(network, own).eval()
    assert len(branched.parts()) == own + 1
    for path in PATHS:
        assert torch.equal(run(branched, *path), run(network, *path)), path


@pytest.mark.parametrize("own", [1, 2, 3])
def test_a_path_trains_the_network_of_its_input_and_every_weight_that_the_one_for_all_sizes_would(own):
    network = whole()
    branched = BranchedUNet(network, own)
    used = {name: set() for name in range(own + 1)}
    for now, then in PATHS:
        for model in (network, branched):
            model.zero_grad(set_to_none=True)
            run(model, now, then).square().sum().backward()
        expected = min(SIDES.index(now), own)
        trained = {name for name, weight in branched.named_parameters() if weight.grad is not None}
        plain = {name for name, weight in network.named_parameters() if weight.grad is not None}
        assert trained == {f"networks.{expected}.{name}" for name in plain}
        used[expected] |= plain
    for number, part in enumerate(branched.parts()):
        held = {name for name, _ in part.named_parameters()}
        # The last block of a decoder is part of a published network, which leaves before it.
        unused = {name for name in held - used[number] if ".decoder." not in name}
        assert not unused, f"network {number} holds what it never runs"
    assert not any("enter" in name or "leave" in name for name, _ in branched.parts()[0].named_parameters())


def test_a_path_costs_what_it_did():
    sets = {"process.levels": 3, "process.snr_preserving": 1.0, "model.width": 32}
    plain = load_preset("celeba64", sets)
    own = load_preset("celeba64", sets | {"model.own": 2})
    one, other = (path_costs(outline_model(preset), build_process(preset), 3) for preset in (plain, own))
    assert [(c.path, c.flops, c.activation_bytes, c.parameters) for c in one] == [
        (c.path, c.flops, c.activation_bytes, c.parameters) for c in other
    ]


def test_parts_of_pictures_choose_the_network_of_their_own_size():
    branched = BranchedUNet(whole(), 1)
    with torch.no_grad():
        for weight in branched.parts()[0].parameters():
            weight.zero_()
    told = run(branched, 32, 32, native=(16, 16))
    assert not torch.equal(told, run(branched, 32, 32)), "a tile of 32 px of an image of 16 px is no image"
    assert torch.equal(told, branched.parts()[1](*_inputs(32, 32), native=(16, 16)))


def _inputs(now, then):
    torch.manual_seed(now + then)
    return torch.randn(2, 3, now, now), torch.tensor([3, 7]), then


def test_shared_weights_are_one_set_until_they_branch():
    network = whole()
    model = BranchedUNet(network, 2)
    size = sum(weight.numel() for weight in network.parameters())
    model.share_weights()
    assert sum(weight.numel() for weight in model.parameters()) == size
    average = copy.deepcopy(model)
    assert sum(weight.numel() for weight in average.parameters()) == size, "a copy shares, too"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.branch()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for weight in separate_networks(model)[0].parameters():
            weight.add_(1)
    assert torch.equal(run(model, 8, 8), run(network, 8, 8)), "another network's weights are its own"
    assert not torch.equal(run(model, 32, 32), run(network, 32, 32))


def test_weights_for_all_sizes_become_those_of_each():
    network = whole()
    model, other = BranchedUNet(whole(), 2), BranchedUNet(network, 2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    model.load_state_dict(branched_weights(network.state_dict(), iter(model.state_dict())))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert branched_weights(model.state_dict(), iter(model.state_dict())).keys() == model.state_dict().keys()


def test_a_preset_makes_one_and_older_presets_none():
    sets = {"process.levels": 3, "model.width": 32}
    assert isinstance(build_model(load_preset("celeba64", sets)), FlexiUNet)
    model = build_model(load_preset("celeba64", sets | {"model.own": 1}))
    assert isinstance(model, BranchedUNet) and separate_networks(model) == model.parts()
    placed = place_model(model, torch.device("cpu"))
    assert placed.parts()[0].stem.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "sets", "said"),
    [
        ("celeba64", {"process.levels": 2, "model.own": 2}, "must be below 2"),
        (
            "celeba64",
            {"process.levels": 1, "model.own": 1},
            "model.own: 1 sizes with weights of their own leave none of 1",
        ),
        ("celeba64", {"process.levels": 2, "process.factor": 1.5, "model.own": 1}, "process.factor = 2"),
        ("cold-blur-cifar10", {"model.own": 1}, "takes no own; leave it at 0"),
        ("celeba64", {"training.own_after": 0.5}, "nothing branches with model.own = 0"),
        ("cold-blur-cifar10", {"training.own_after": 0.5}, "nothing branches with model.own = 0"),
    ],
)
def test_settings_that_leave_nothing_to_share_are_refused(name, sets, said):
    with pytest.raises(PresetError, match=said):
        load_preset(name, sets)


def test_an_import_into_several_networks_is_refused():
    preset = load_preset("celeba64", {"process.levels": 2, "model.own": 1})
    with pytest.raises(CheckpointError, match="are of one network for all sizes") as caught:
        convert_released({"input_blocks.0.0.weight": torch.zeros(1)}, preset, None)
    assert "--set model.own=0" in caught.value.hint


def test_the_compiler_traces_every_path_before_and_after_the_branching():
    model = BranchedUNet(whole(), 1)
    model.share_weights()
    compiled = torch.compile(model, backend="eager", dynamic=False, fullgraph=True)
    for _ in range(2):
        for path in ((32, 32), (16, 32), (16, 16)):
            assert torch.equal(run(compiled, *path), run(model, *path))
        model.branch()
        with torch.no_grad():
            for weight in model.parts()[0].parameters():
                weight.mul_(1.5)
