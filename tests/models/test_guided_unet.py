"""The U-Net of guided-diffusion and of blur diffusion: outputs of the published code, options, faults."""

import pytest
import torch
from golden import golden, named_weights, normal

from ssdiff.config.load import load_preset, parse_preset
from ssdiff.errors import CheckpointError, PresetError
from ssdiff.models import infer_config, official
from ssdiff.models.adm_unet import AdmUNet
from ssdiff.models.flexi_unet import FlexiUNet

ADM, BLUR = golden("adm_unet"), golden("blur_diffusion_unet")


def whole_output(model, x, index, side, labels=None):
    """What leaves the head, the variance that the model drops included."""
    seen = []
    hook = model.head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        kept = model(x, index, side, labels)
    hook.remove()
    assert torch.equal(kept, seen[0][:, : x.shape[1]])
    return seen[0]


def with_weights(case, kind=FlexiUNet, **options):
    """The network of a case, with the weights that its names give."""
    channels = case["in_channels"]
    if kind is FlexiUNet:
        options["full_decoder"] = True
    model = kind(
        size=case["image_size"],
        channels=channels,
        width=case["model_channels"],
        multipliers=case["channel_mult"],
        blocks=case["num_res_blocks"],
        attention=case["attention"],
        learn_sigma=case["out_channels"] == 2 * channels,
        **options,
    )
    model.load_state_dict(official.convert_weights(named_weights(case["keys"]), model))
    return model.eval()


def guided(case, kind):
    """The network of a case of guided-diffusion."""
    return with_weights(
        case,
        kind,
        heads=case.get("num_heads", 1),
        head_channels=case.get("num_head_channels", 0),
        attention_order="qkv-first" if case.get("use_new_attention_order") else "heads-first",
        resblock_updown=case.get("resblock_updown", False),
        scale_shift_norm=case["use_scale_shift_norm"],
        classes=case.get("num_classes", 0),
    )


@pytest.mark.parametrize("kind", [FlexiUNet, AdmUNet])
@pytest.mark.parametrize("name", ADM.meta["cases"])
def test_guided_diffusion(name, kind):
    model = guided(ADM.meta["cases"][name], kind)
    compared = 0
    for array, entry in ADM.meta["arrays"].items():
        if entry["case"] != name:
            continue
        x = normal(int(entry["x"].removeprefix("seed ")), entry["input_shape"])
        labels = None if entry["label"] is None else torch.tensor([entry["label"]])
        y = whole_output(model, x, torch.tensor([entry["index"]]), x.shape[-1], labels)
        ADM.check(array, y, atol=1e-4 if kind is FlexiUNet else 1e-5)
        compared += 1
    assert compared == sum(array.startswith(name) for array in ADM.arrays)


@pytest.mark.parametrize("name", BLUR.meta["cases"])
def test_blur_diffusion(name):
    case = BLUR.meta["cases"][name]
    model = with_weights(case, heads=case["heads"], first_index=1)
    compared = 0
    for array, entry in BLUR.meta["arrays"].items():
        if entry["case"] != name:
            continue
        x = normal(int(entry["x"].removeprefix("seed ")), entry["input_shape"])
        y = whole_output(model, x, torch.tensor([entry["t"] - 1]), x.shape[-1])
        BLUR.check(array, y[..., ::2, ::2] if "2nd" in entry["stored"] else y, atol=1e-4)
        compared += 1
    assert compared == sum(array.startswith(name) for array in BLUR.arrays)


def test_every_array_belongs_to_a_case():
    for group in (ADM, BLUR):
        assert {entry["case"] for entry in group.meta["arrays"].values()} == group.meta["cases"].keys()
        assert group.meta["arrays"].keys() == group.arrays.keys()


SEEN = {
    "updown_new": {
        "data.channels": 3,
        "model.width": 32,
        "model.multipliers": (1, 2, 2),
        "model.blocks": 1,
        "model.classes": 0,
        "model.attention": (16, 8),
        "model.resblock_updown": True,
        "model.scale_shift_norm": True,
        "model.learn_sigma": True,
    },
    "baseline_cond": {
        "data.channels": 3,
        "model.width": 32,
        "model.multipliers": (1, 2, 3, 4),
        "model.blocks": 2,
        "model.classes": 10,
        "model.attention": (16, 8),
        "model.resblock_updown": False,
        "model.scale_shift_norm": True,
        "model.learn_sigma": False,
    },
    "plain_additive": {
        "data.channels": 1,
        "model.width": 32,
        "model.multipliers": (1, 2),
        "model.blocks": 1,
        "model.classes": 0,
        "model.attention": (8,),
        "model.resblock_updown": False,
        "model.scale_shift_norm": False,
        "model.learn_sigma": False,
    },
}


@pytest.mark.parametrize("name", SEEN)
def test_settings_are_read_off_the_weights(name):
    case = ADM.meta["cases"][name]
    state = {f"module.{key}": torch.zeros(shape) for key, shape in case["keys"].items()}
    assert infer_config.outline(state, case["image_size"]) == SEEN[name]
    assert "model.attention" not in infer_config.outline(state)


def test_wider_levels_of_updown_are_told_apart():
    model = FlexiUNet(
        size=32, width=8, multipliers=(1, 3, 2), blocks=3, resblock_updown=True, full_decoder=True
    )
    state = {their: torch.zeros(model.state_dict()[our].shape) for our, their in official._table(model)}
    found = infer_config.outline(state, 32)
    assert found["model.blocks"] == 3 and found["model.multipliers"] == (1, 3, 2)
    assert found["model.resblock_updown"] and found["model.attention"] == (16, 8)


def test_full_size_of_blur_diffusion():
    with torch.device("meta"):
        model = FlexiUNet(size=64, blocks=3, full_decoder=True, first_index=1)
    ours = {
        their: list(model.state_dict()[our].shape)
        for our, their in official._table(model)
        if not their.startswith("adapters")
    }
    published = BLUR.meta["full_size_keys"]
    assert ours.keys() == published.keys()
    for name, shape in published.items():
        assert ours[name][:2] == shape[:2] and torch.Size(ours[name]).numel() == torch.Size(shape).numel(), (
            name
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {k: v for k, v in state.items() if "output_blocks" not in k}, "classifier"),
        (lambda state: state | {"input_blocks.0.0.weight": torch.zeros(32, 6, 3, 3)}, "super-resolution"),
    ],
)
def test_relatives_are_refused_by_name(change, words):
    case = ADM.meta["cases"]["baseline_cond"]
    model = FlexiUNet(size=32, width=32, classes=10, full_decoder=True)
    state = {key: torch.zeros(shape) for key, shape in case["keys"].items()}
    official.convert_weights(state, model)
    with pytest.raises(CheckpointError, match=words):
        official.convert_weights(change(state), model)


OPTIONS = {
    "head_channels": 8,
    "attention_order": "qkv-first",
    "resblock_updown": True,
    "scale_shift_norm": False,
    "learn_sigma": True,
    "first_index": 1,
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_goes_with_the_levels(name):
    """Each changes the output at each pair of sizes, and blocks in the middle learn."""
    options = {"size": 16, "width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "heads": 2}
    outputs = []
    for given in ({}, {name: OPTIONS[name]}):
        torch.manual_seed(0)
        model = FlexiUNet(**(options | given))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                weight.copy_(named_weights({key: tuple(weight.shape)})[key])
        index, large = torch.tensor([0, 9]), normal(0, (2, 3, 16, 16))
        pairs = [model(large, index, 16), model(large[..., ::2, ::2], index, 16)]
        assert [tuple(y.shape) for y in pairs] == 2 * [(2, 3, 16, 16)]
        sum(y.square().sum() for y in pairs).backward()
        assert model.middle.parts[0].modulation.weight.grad.any()
        outputs.append(pairs)
    for plain, changed in zip(*outputs, strict=True):
        assert name == "learn_sigma" or not torch.equal(plain, changed)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ({"model.head_channels": 48}, "model.head_channels: 48 does not divide the 128 channels at 64 px"),
        (
            {"model.heads": 3, "model.attention": []},
            "model.heads: 3 does not divide the 512 channels at 8 px",
        ),
        ({"model.attention_order": "new"}, "model.attention_order"),
        ({"model.first_index": 2}, "model.first_index"),
    ],
)
def test_bad_options_are_one_line(sets, words):
    with pytest.raises(PresetError, match=words) as caught:
        load_preset("celeba64", sets | ({"model.attention": [64]} if "head_channels" in words else {}))
    assert "\n" not in str(caught.value)


def test_options_survive_a_stored_preset():
    stored = load_preset("celeba64", {f"model.{name}": value for name, value in OPTIONS.items()})
    assert parse_preset(stored.to_toml()) == stored
    old = "\n".join(
        line for line in load_preset("celeba64").to_toml().splitlines() if line.split(" ")[0] not in OPTIONS
    )
    assert parse_preset(old) == load_preset("celeba64")
