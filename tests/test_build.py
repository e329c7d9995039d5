"""From presets to objects: every shipped preset builds, costs what was published, and holds together."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close

from ssdiff import build_model, build_process, load_preset
from ssdiff.build import preset_level_sizes
from ssdiff.config.load import presets
from ssdiff.devices import autocast, pick_device, pick_precision
from ssdiff.errors import PresetError, ResourceError
from ssdiff.evaluation import flops


def outline(preset):
    with torch.device("meta"):
        return build_model(preset)


@pytest.mark.parametrize("name", presets())
def test_every_preset_builds(name):
    preset = load_preset(name)
    process, model = build_process(preset), outline(preset)
    assert process.T == preset.process.T
    assert process.states[0].resolution == preset.data.size
    levels = len({state.resolution for state in process.states})
    assert preset.process.kind == "linear" or levels == preset.process.levels  # stages say how many
    smallest = process.states[-1]
    if preset.process.kind in ("cold", "heat"):
        assert smallest.sigma == process.states[1].sigma < 0.1
    else:
        assert smallest.snr < (1.001e-3 if preset.process.snr_preserving else 1e-2), "the last state is noise"
    x = torch.zeros(1, preset.data.channels, *smallest.size, device="meta")
    labels = torch.zeros(1, dtype=torch.int64, device="meta") if preset.model.classes else None
    assert model(x, torch.zeros(1, device="meta"), smallest.resolution, labels).shape == x.shape


@pytest.mark.parametrize(
    ("name", "gflops"),
    [
        ("ddpm-celeba64", 60.6),  # the paper's 56.7 leave out the last block
        ("celeba64-2l", 51.2),
        ("celeba64", 39.0),
        ("celeba256-3l", 318.1),
        ("celeba256", 210.4),
    ],
)
def test_published_costs_of_a_step(name, gflops):
    preset = load_preset(name)
    costs = flops.path_costs(outline(preset), build_process(preset), 3)
    assert sum(path.share for path in costs) == pytest.approx(1)
    assert flops.mean_flops(costs) / 1e9 == pytest.approx(gflops, abs=0.11)


def test_matched_noise_keeps_the_snr_of_coarse_content():
    """At a change, (a/sigma)^2 falls only by what the norm of the resize takes from the noise."""
    published, matched = (
        build_process(load_preset("celeba64")),
        build_process(load_preset("celeba64-matched")),
    )
    for process, factor in ((published, 1.0), (matched, 4.0)):
        for t in range(2, 1001):
            before, now = process.states[t - 1], process.states[t]
            if before.size != now.size:
                assert now.snr / before.snr == pytest.approx(factor, rel=0.1)


def test_factors_other_than_two():
    preset = load_preset("celeba64", {"process.factor": 2**0.5, "process.levels": 5})
    assert preset_level_sizes(preset) == (64, 48, 32, 24, 16)
    model, process = outline(preset), build_process(preset)
    for path in flops.path_costs(model, process, 3):
        x = torch.zeros(1, 3, path.resolution, path.resolution, device="meta")
        assert model(x, torch.zeros(1, device="meta"), path.wanted).shape[-1] == path.wanted


def test_a_process_for_another_size():
    preset = load_preset("celeba64")
    wide = build_process(preset, (48, 96))
    assert [state.size for state in wide.states][::300] == [(48, 96), (48, 96), (24, 48), (12, 24)]
    square = build_process(preset)
    assert_close([s.sigma for s in wide.states], [s.sigma for s in square.states])


def test_a_change_that_is_never_reached():
    with pytest.raises(PresetError, match="never reached"):
        build_process(load_preset("shapes32", {"process.resolution.at": [0.0, -50.0]}))


def test_cost_in_flops_and_memory():
    preset = load_preset("shapes32")
    model, process = build_model(preset), build_process(preset)
    costs = flops.path_costs(model, process, 3, classes=8)
    parameters = sum(weight.numel() for weight in model.parameters())
    assert flops.training_bytes(model, costs, 4) > 20 * parameters
    assert flops.training_flops(costs) == pytest.approx(3 * flops.mean_flops(costs))


@pytest.mark.parametrize("kernel", [None, SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_costs_do_not_depend_on_the_kernel_of_attention(kernel):
    preset = load_preset("shapes32", {"model.multipliers": [1, 3, 6]})
    process = build_process(preset)
    with sdpa_kernel(kernel) if kernel else nullcontext():
        full = flops.path_costs(build_model(preset), process, 3, classes=8)
    assert full == flops.path_costs(outline(preset), process, 3, classes=8)
    assert (full[0].path, full[0].flops, full[0].activation_bytes) == ((32, 32), 359_413_760, 5_388_328)


class AttentionAlone(torch.nn.Module):
    """One head over the pixels, the colours as channels."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, index, resolution, labels=None):
        q, k, v = ((self.weight * x).flatten(2).mT[:, None] for _ in range(3))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, value=v)
        return mixed.mT.reshape(x.shape)


def test_cost_of_attention_by_hand():
    (cost, *_) = flops.path_costs(AttentionAlone(), build_process(load_preset("ihdm-cifar10")), 3)
    pixels, channels = 32 * 32, 3
    assert cost.flops == 2 * (2 * pixels**2 * channels), "queries by keys, and weights by values"
    image, attention = pixels * channels, pixels * (4 * channels + 1)
    assert cost.activation_bytes == 4 * (image + attention)


def test_devices():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "cuda:x", ""):
        with pytest.raises(ResourceError, match="usable here: "):
            pick_device(name)
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) == torch.float32
    assert pick_precision("bf16", cpu) == torch.bfloat16
    x = torch.ones(2, 2)
    with autocast(cpu, torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
    with autocast(cpu, torch.float32):
        assert (x @ x).dtype == torch.float32


@pytest.mark.parametrize(
    "resolution",
    [
        {"kind": "equal"},
        {"kind": "sigmoid_like", "gamma": 3.0},
        {"kind": "tanh_like"},
        {"kind": "explicit", "changes": [300, 500, 900]},
    ],
    ids=lambda rule: rule["kind"],
)
@pytest.mark.parametrize(
    "noise", [{"kind": "cosine"}, {"kind": "log_snr", "first": 8.0}], ids=lambda rule: rule["kind"]
)
def test_every_schedule_builds(resolution, noise):
    process = build_process(
        load_preset("celeba64", {"process.resolution": resolution, "process.noise": noise})
    )
    sizes = [state.resolution for state in process.states]
    changes = [t for t in range(1, 1001) if sizes[t] != sizes[t - 1]]
    assert sizes[0] == 64 and sizes[-1] == 8 and len(changes) == 3
    if resolution["kind"] == "explicit":
        assert changes == resolution["changes"]
    if noise["kind"] == "log_snr":
        assert process.states[1].snr == pytest.approx(math.exp(8.0))


def test_partial_matching_lies_between():
    processes = [
        build_process(load_preset("celeba64", {"process.snr_preserving": m})) for m in (0.0, 0.5, 1.0)
    ]
    at_the_middle = [process.states[800].sigma / process.states[800].signal for process in processes]
    assert at_the_middle == sorted(at_the_middle, reverse=True) and len(set(at_the_middle)) == 3
