"""The network of photographs: any size, and the same on a part as on the whole."""

import pytest
import torch
from torch.testing import assert_close

from ssdiff.errors import ProcessError
from ssdiff.models.conv_unet import ConvUNet


def network(seed=0, **options):
    torch.manual_seed(seed)
    model = ConvUNet(**{"width": 8, "multipliers": (1, 2), "blocks": 1, **options}).eval()
    for weight in model.parameters():  # what begins at zero, too
        torch.nn.init.normal_(weight, std=0.1)
    return model


@pytest.mark.parametrize("size", [(16, 16), (15, 22), (1, 1), (37, 8)])
def test_any_size(size):
    x = torch.randn(2, 3, *size)
    model = network()
    assert model(x, torch.tensor([3, 70]), max(size)).shape == x.shape
    assert model(x, torch.tensor([3, 70]), (2 * size[0], 2 * size[1])).shape == (
        2,
        3,
        2 * size[0],
        2 * size[1],
    )


def test_far_pixels_and_the_size_do_not_matter():
    """A part of a picture becomes what it becomes in the whole, away from the cut."""
    model, index = network(), torch.tensor([5])
    x = torch.randn(1, 3, 96, 128)
    whole, part = model(x, index, 128), model(x[..., 8:88, 24:104], index, 80)
    assert_close(part[..., 36:-36, 36:-36], whole[..., 44:52, 60:68])
    assert float((part[..., :2, :2] - whole[..., 8:10, 24:26]).abs().max()) > 1e-6


def test_sizes_that_cannot_be_halved_are_continued_by_their_border():
    model, index = network(), torch.tensor([5])
    x = torch.randn(1, 3, 13, 18)
    longer = torch.nn.functional.pad(x, (0, 2, 0, 3), mode="replicate")
    assert_close(model(x, index, 18), model(longer, index, 20)[..., :13, :18])


def test_the_timestep_matters_and_a_fresh_network_gives_nothing():
    x = torch.randn(1, 3, 16, 16)
    model = network()
    assert not torch.allclose(model(x, torch.tensor([5]), 16), model(x, torch.tensor([50]), 16))
    torch.manual_seed(0)
    fresh = ConvUNet(width=8, multipliers=(1, 2), blocks=1)
    assert float(fresh(x, torch.tensor([5]), 16).abs().max()) == 0
    with_residual = ConvUNet(width=8, multipliers=(1, 2), blocks=1, residual=True)
    assert torch.equal(with_residual(x, torch.tensor([5]), 16), x)


def test_activation_checkpointing_changes_nothing():
    x, index = torch.randn(1, 3, 16, 16), torch.tensor([5])
    gradients = []
    for recompute in (False, True):
        model = network(activation_checkpointing=recompute)
        model(x, index, 16).square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other)


def test_what_is_refused():
    x, index = torch.zeros(1, 3, 16, 16), torch.tensor([5])
    with pytest.raises(ProcessError, match="same or a larger"):
        network()(x, index, 8)
    with pytest.raises(ProcessError, match="takes no labels"):
        network()(x, index, 16, torch.tensor([1]))
