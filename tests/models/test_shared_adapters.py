"""The authors' 256 px files, in which shared adapters have two values: both published outputs."""

import pytest
import torch
from golden import golden, named_weights, normal
from torch.testing import assert_close

from ssdiff.models import official
from ssdiff.models.flexi_unet import FlexiUNet

GOLDEN = golden("flexi_256_shared_adapters")
KINDS = {"y_last": False, "y_first": True}


def network():
    settings = GOLDEN.meta["preset"]
    multipliers = tuple(map(int, settings["channel_mult"].split(",")))
    return FlexiUNet(size=settings["size"], width=settings["width"], multipliers=multipliers)


@pytest.mark.parametrize("kind", KINDS)
def test_published_outputs(kind):
    model = network().eval()
    state = named_weights(GOLDEN.meta["keys"])
    model.load_state_dict(official.convert_weights(state, model, averaged_adapters=KINDS[kind]))
    entries = {name: entry for name, entry in GOLDEN.meta["arrays"].items() if name.startswith(f"{kind}_")}
    for name, entry in entries.items():
        x = normal(int(entry["x"].removeprefix("seed ")), entry["input_shape"])
        with torch.no_grad():
            y = model(x, torch.tensor([entry["i"]]), entry["rs"])
        step = y.shape[-1] // entry["shape"][-1]
        GOLDEN.check(name, y[..., ::step, ::step], atol=1e-4)
    assert len(entries) == 7


def test_every_array_is_one_of_both():
    assert {name.rpartition("_")[0] for name in GOLDEN.arrays} == KINDS.keys()
    assert GOLDEN.meta["arrays"].keys() == GOLDEN.arrays.keys()


@pytest.mark.parametrize("order", [list, reversed, sorted])
def test_which_name_comes_later_does_not_depend_on_the_file(order):
    """A .safetensors file sorts its names; the authors' loader goes by the order of their modules."""
    with torch.device("meta"):
        model = network()
    state = named_weights(GOLDEN.meta["keys"])
    pairs = {(a, b) for a, b in GOLDEN.meta["shared_adapters"]}
    shuffled = {name: state[name] for name in order(list(state))}
    found = official.differing_adapters(shuffled, model)
    assert {(a.rpartition(".")[0], b.rpartition(".")[0]) for a, b in found} == pairs
    assert {first for first, _ in found} == GOLDEN.meta["differing"].keys()
    later, first = (official.convert_weights(shuffled, model, averaged_adapters=one) for one in (False, True))
    for a, b in found:
        ours = next(our for our, their in official._table(model) if their == b)
        assert_close(later[ours].flatten(), state[b].flatten(), rtol=0, atol=0)
        assert_close(first[ours].flatten(), state[a].flatten(), rtol=0, atol=0)
    same = {name: value for name, value in later.items() if torch.equal(value, first[name])}
    assert len(later) - len(same) == len(found)


def test_adapters_of_one_value_are_no_matter():
    with torch.device("meta"):
        model = network()
    state = named_weights(GOLDEN.meta["keys"])
    for first, later in official.differing_adapters(state, model):
        state[first] = state[later]
    assert official.differing_adapters(state, model) == []
