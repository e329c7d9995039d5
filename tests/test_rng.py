"""Counter-based random numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff import rng

KEY = rng.derive(0, "test")


@pytest.mark.parametrize(
    ("word", "key", "expected"),
    [
        (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
@pytest.mark.parametrize("few", [0, rng._FEW], ids=["tensors", "arrays"])
def test_known_answers_of_philox(word, key, expected, few, monkeypatch):
    monkeypatch.setattr(rng, "_FEW", few)
    stream = torch.tensor([-1 if word else 0])
    assert rng._block_words(key, stream, word, word, word + 1).flatten().tolist() == list(expected)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(-(2**63), 2**63 - 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
)
def test_arrays_and_tensors_give_the_same_words(first, count, step, key):
    streams = torch.arange(first, first + count)
    arrays = rng._few_words(key, streams.numpy(), step, 3, 8)
    few, rng._FEW = rng._FEW, 0
    try:
        assert torch.equal(rng._block_words(key, streams, step, 3, 8), torch.from_numpy(arrays))
    finally:
        rng._FEW = few


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 30, 77]))
def test_a_stream_is_the_same_in_any_batch(first, count, step, length):
    batch = rng.normal(KEY, torch.arange(first, first + count), step, (length,))
    alone = rng.normal(KEY, torch.tensor([first + count - 1]), step, (length,))
    assert torch.equal(batch[-1:], alone)


def test_prefix_does_not_depend_on_the_size():
    streams = torch.arange(3)
    assert torch.equal(rng.integers(KEY, streams, 1, 0, 1000), rng.integers(KEY, streams, 1, 0, 1000))
    assert not torch.equal(rng.normal(KEY, streams, 1, (8,)), rng.normal(KEY, streams, 2, (8,)))
    assert not torch.equal(
        rng.normal(KEY, streams, 1, (8,)), rng.normal(rng.derive(1, "test"), streams, 1, (8,))
    )


def test_moments():
    x = rng.normal(KEY, torch.arange(64), 0, (3, 64, 64), torch.float64)
    moments = torch.stack([x.mean(), x.square().mean(), x.pow(3).mean(), x.pow(4).mean()])
    assert_close(moments, torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64), atol=0.02, rtol=0)
    columns = x.flatten(1)
    assert torch.corrcoef(columns).fill_diagonal_(0).abs().max() < 0.05


def test_uniform_and_integers_stay_in_range():
    streams = torch.arange(100_000)
    unit = rng.uniform(KEY, streams, 0, (1,))
    assert unit.min() > 0 and unit.max() <= 1 and abs(unit.mean() - 0.5) < 0.01
    drawn = rng.integers(KEY, streams, 0, -3, 4)
    assert drawn.min() == -3 and drawn.max() == 3
    assert torch.bincount(drawn + 3).min() > 13_500


def test_many_numbers_are_drawn_in_parts(monkeypatch):
    streams = torch.tensor([3, 8])
    whole = rng.normal(5, streams, 7, (3, 40, 41))
    monkeypatch.setattr(rng, "_BLOCKS", 100)
    assert torch.equal(rng.normal(5, streams, 7, (3, 40, 41)), whole)
