"""The ADM U-Net: sizes, labels, options, recomputed activations; outputs are in test_guided_unet and
weights/test_foreign."""

import pytest
import torch
from golden import named_weights, normal

from ssdiff.config.load import load_preset
from ssdiff.errors import PresetError, ProcessError
from ssdiff.models.adm_unet import AdmUNet

SMALL = {"size": 16, "width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (8,), "heads": 2}


def small(**options):
    torch.manual_seed(0)
    model = AdmUNet(**SMALL | options)
    state = named_weights({name: tuple(value.shape) for name, value in model.state_dict().items()})
    model.load_state_dict(state)
    return model


def test_sizes_and_labels():
    model, index = small(classes=3), torch.tensor([3, 7])
    labels = torch.tensor([0, 3])
    with torch.no_grad():
        for side in (2, 12, 20):
            assert model(torch.randn(2, 3, side, side), index, side, labels).shape == (2, 3, side, side)
        assert model(torch.randn(2, 3, 8, 8), index, 16, labels).shape == (2, 3, 16, 16)
    for size, wanted, given, words in (
        (16, 8, labels, "same or a larger"),
        (9, 9, labels, "multiple of 2"),
        (8, 8, None, "needs labels"),
    ):
        with pytest.raises(ProcessError, match=words):
            model(torch.randn(2, 3, size, size), index, wanted, given)
    with pytest.raises(ProcessError, match="takes no labels"):
        small()(torch.randn(2, 3, 8, 8), index, 8, labels)


OPTIONS = {
    "timestep_width": 8,
    "sines_first": True,
    "freq_shift": 1,
    "groups": 8,
    "eps": 0.1,
    "middle_attention": "plain",
    "decoder_attention": (),
    "resblock_down": (16,),
    "resblock_up": (8,),
    "pad_after": True,
    "first_index": 1,
    "attention_order": "qkv-first",
    "head_channels": 4,
    "scale_shift_norm": False,
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_counts(name):
    x, index = normal(0, (2, 3, 16, 16)), torch.tensor([2, 900])
    with torch.no_grad():
        plain, changed = (small(**options)(x, index, 16) for options in ({}, {name: OPTIONS[name]}))
    assert plain.shape == changed.shape and float((plain - changed).abs().max()) > 1e-4


def test_recomputed_activations_give_the_same_gradient():
    x, index, found = normal(0, (2, 3, 16, 16)), torch.tensor([2, 900]), []
    for recompute in (False, True):
        model = small(activation_checkpointing=recompute)
        model(x, index, 16).square().sum().backward()
        found.append({name: weight.grad for name, weight in model.named_parameters()})
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 7}, "model.options.groups: 7 does not divide the 128 channels"),
        ({"eps": 0}, "model.options.eps: must be greater than 0, not 0"),
        ({"resblock_up": [5]}, "model.options.resblock_up: 5 is not a resolution"),
        ({"sines_first": 1}, "model.options.sines_first: must be true or false, not 1"),
        ({"middle_attention": "some"}, "model.options.middle_attention: must be 'normed'"),
        ({"timestep_width": 2}, "model.options.timestep_width: must be 4 or more"),
        ({"nope": 3}, "model.options.nope: network 'adm-unet' has no such option"),
    ],
)
def test_bad_options_are_one_line(options, words):
    with pytest.raises(PresetError) as caught:
        load_preset("adm-ffhq256", {"model.options": options})
    assert words in str(caught.value) and "\n" not in str(caught.value)
