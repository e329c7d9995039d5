"""Winograd's filtering and 1x1 products against PyTorch's convolution, and where each is used."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ssdiff import build_model, load_preset
from ssdiff.models import convolution
from ssdiff.models.convolution import Conv2d


def made(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def winograd(x, weight, bias):
    return convolution._Winograd.apply(x, weight, bias)


@settings(deadline=None, max_examples=20)
@given(
    count=st.integers(1, 4),
    channels=st.integers(1, 5),
    out=st.integers(1, 5),
    height=st.sampled_from([2, 4, 10]),
    width=st.sampled_from([2, 6, 8]),
    numbers=st.sampled_from([1, 7, 40, 1 << 17]),
    biased=st.booleans(),
    last=st.booleans(),
)
def test_filtering_and_its_gradients_are_the_convolutions(
    count, channels, out, height, width, numbers, biased, last
):
    """However images and filters are cut into parts."""
    x, weight = made(count, channels, height, width), made(out, channels, 3, 3, seed=1)
    if last:
        x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    bias = made(out, seed=2) if biased else None
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias) if tensor is not None]
    back = made(count, out, height, width, seed=3)
    kept = convolution._NUMBERS
    convolution._NUMBERS = numbers
    try:
        result = winograd(x, weight, bias)
        found = torch.autograd.grad(result, inputs, back)
    finally:
        convolution._NUMBERS = kept
    wanted = F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(result, wanted, atol=1e-12, rtol=1e-12)
    for a, b in zip(found, torch.autograd.grad(wanted, inputs, back), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_needs_no_gradient_gets_none(frozen):
    inputs = [made(2, 3, 4, 4), made(5, 3, 3, 3, seed=1), made(5, seed=2)]
    needed = [tensor.requires_grad_() for place, tensor in enumerate(inputs) if place != frozen]
    found = torch.autograd.grad(winograd(*inputs).square().sum(), needed)
    wanted = torch.autograd.grad(F.conv2d(*inputs, padding=1).square().sum(), needed)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def test_in_fp32_it_rounds_no_worse_than_the_convolution():
    x, weight = made(4, 256, 8, 8), made(128, 256, 3, 3, seed=1) / 48
    exact = F.conv2d(x, weight, padding=1)
    ours, theirs = (
        (f(x.float(), weight.float()).double() - exact).square().mean().sqrt()
        for f in (lambda a, b: winograd(a, b, None), lambda a, b: F.conv2d(a, b, padding=1))
    )
    assert ours < 2 * theirs + 1e-7


@pytest.fixture
def calls(monkeypatch):
    """Shapes that were filtered."""
    found, apply = [], convolution._Winograd.apply

    class Counted:
        @staticmethod
        def apply(x, weight, bias):
            found.append((tuple(x.shape), len(weight)))
            return apply(x, weight, bias)

    monkeypatch.setattr(convolution, "_Winograd", Counted)
    return found


def layer(*more, **options):
    return Conv2d(128, 128, *more, **options).to(memory_format=torch.channels_last)


def test_training_takes_it_and_drawing_does_not(calls):
    conv, x = layer(3, padding=1), made(2, 128, 4, 4, dtype=torch.float32)
    plain = F.conv2d(x, conv.weight, conv.bias, padding=1)
    trained = conv(x)
    assert len(calls) == 1 and not torch.equal(trained, plain)
    torch.testing.assert_close(trained, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(conv.eval()(x), plain)
    with torch.no_grad():
        assert torch.equal(conv.train()(x), plain)
    with torch.autocast("cpu", torch.bfloat16):
        conv(x)
    assert len(calls) == 1


def test_what_tiles_do_not_cover_is_left_to_pytorch(calls):
    x = made(1, 128, 5, 4, dtype=torch.float32)
    for conv, given_x in (
        (layer(3, padding=1), x),
        (layer(3, padding=1, stride=2), x[..., :4, :]),
        (layer(3, padding=1, groups=2), x[..., :4, :]),
        (layer(3, padding=1, padding_mode="reflect"), x[..., :4, :]),
        (Conv2d(128, 8, 3, padding=1), x[..., :4, :]),
        (layer(1, stride=2), x),
        (Conv2d(128, 100, 1), x),
    ):
        assert torch.equal(conv(given_x), torch.nn.Conv2d.forward(conv, given_x))
    assert calls == []


def test_one_by_one_is_a_product(calls):
    conv, x = Conv2d(128, 130, 1), made(2, 128, 4, 3, dtype=torch.float32)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias), atol=1e-5, rtol=1e-5)
    assert conv(x).is_contiguous(memory_format=torch.channels_last) and calls == []
    found = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    wanted = torch.autograd.grad(F.conv2d(x, conv.weight, conv.bias).square().sum(), conv.weight)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_largest_networks_are_trained_by_it(calls):
    """A published network, with fewer levels: all of its 3x3 convolutions but stem, head and halvings."""
    small = {"process.levels": 2, "model.multipliers": [1, 2], "model.blocks": 1, "data.size": 16}
    model = build_model(load_preset("celeba64", small | {"model.attention": [8]}))
    model = model.to(memory_format=torch.channels_last).train()
    x = made(1, 3, 16, 16, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    model(x, torch.tensor([3]), 16).square().mean().backward()
    layers = [m for m in model.modules() if isinstance(m, Conv2d) and m.kernel_size == (3, 3)]
    assert len(calls) == len([m for m in layers if m.weight.grad is not None]) > 10
    laid = [
        m.weight.grad.is_contiguous(memory_format=torch.channels_last)
        for m in layers
        if m.weight.grad is not None
    ]
    assert all(laid)
