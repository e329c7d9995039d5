"""Noise and resolution schedules."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff.errors import ProcessError
from ssdiff.schedules import noise, resolution

GOLDEN = json.loads((Path(__file__).parents[1] / "assets" / "resolution_schedules.json").read_text())
DECAYS = {
    "ConvexDecay": resolution.convex_decay,
    "SigmoidLikeDecay": resolution.sigmoid_like,
    "TanhLikeDecay": resolution.tanh_like,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_decays_are_the_official_ones(name):
    size, levels, decay = name.split("_", 2)
    size, levels = int(size.removesuffix("px")), int(levels.removesuffix("L"))
    if decay == "equal":
        table = resolution.equal(1000, levels)
    else:
        kind, gamma = decay.split("_")
        table = DECAYS[kind](1000, levels, float(gamma))
    sizes = torch.tensor(resolution.level_sizes(size, levels))[table].tolist()
    changes = [[i, sizes[i]] for i in range(1, 1000) if sizes[i] != sizes[i - 1]]
    assert {"first": sizes[0], "changes": changes} == GOLDEN[name]


def test_respacing_keeps_changes():
    levels = resolution.convex_decay(1000, 4)
    chain = resolution.respace(levels, 250)
    assert len(chain) - 1 == 252  # the official count [docs/math.md, section 5]
    assert chain[0] == 1000 and chain[-1] == 0
    assert {439, 751, 938} <= set(chain)
    assert resolution.respace(levels, 1000) == list(range(1000, -1, -1))


@settings(max_examples=50, deadline=None)
@given(st.integers(5, 300), st.integers(1, 5), st.floats(0.2, 3), st.data())
def test_respaced_neighbours_agree_on_the_resolution(total, levels, gamma, data):
    table = resolution.convex_decay(total, levels, gamma)
    steps = data.draw(st.integers(1, total))
    jumps = data.draw(st.lists(st.floats(0, 5), min_size=total, max_size=total))
    level, changes = [0, *table.tolist()], len(set(table.tolist())) - 1
    for coordinate in (None, torch.tensor(jumps, dtype=torch.float64).cumsum(0)):
        chain = resolution.respace(table, steps, coordinate)
        assert chain[0] == total and chain[-1] == 0 and chain == sorted(set(chain), reverse=True)
        assert all(level[s] == level[t - 1] for t, s in itertools.pairwise(chain))
        assert len(chain) - 1 <= steps + changes
    assert len(chain) - 1 >= min(steps + changes - (steps == 1 and level[-1] != level[-2]), total)


def test_a_crossing_of_one_timestep_takes_the_place_of_the_nearest_step():
    levels = torch.tensor([0] * 456 + [1] * 544)
    chain = resolution.respace(levels, 5)
    assert chain == [1000, 750, 501, 457, 251, 1, 0]
    assert resolution.respace(levels, 5, crossing="timestep") == [1000, 750, 457, 456, 251, 1, 0]
    # The ends stay, and a step of its own for each level; what is there already is left as it is.
    assert resolution.respace(levels, 4, crossing="timestep") == [1000, 667, 457, 334, 1, 0]
    assert resolution.respace(levels, 2, crossing="timestep") == [1000, 457, 1, 0]
    assert resolution.with_transitions(levels, {1000, 456, 1}, "timestep") == [1000, 457, 456, 1, 0]
    even = resolution.respace(levels, 11, torch.arange(1000, dtype=torch.float64), "timestep")
    assert even == resolution.respace(levels, 11, torch.arange(1000, dtype=torch.float64))
    # Of two that are as near the earlier in the process goes.
    levels = torch.tensor([0] * 50 + [1] * 50)
    kept = {100, 80, 55, 45, 20, 1}
    assert resolution.with_transitions(levels, kept, "timestep") == [100, 80, 55, 51, 50, 20, 1, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(5, 300), st.integers(2, 5), st.floats(0.2, 3), st.data())
def test_every_transition_is_crossed_by_one_timestep_where_steps_can_be_spared(total, levels, gamma, data):
    table = resolution.convex_decay(total, levels, gamma)
    steps = data.draw(st.integers(1, total))
    level = [0, *table.tolist()]
    plain, chain = (resolution.respace(table, steps, crossing=how) for how in ("step", "timestep"))
    assert len(chain) == len(plain) and (chain[0], *chain[-2:]) == (plain[0], *plain[-2:])
    assert chain == sorted(set(chain), reverse=True)
    changes = {t for t in range(2, total + 1) if level[t] != level[t - 1]}
    spare = {k: len([t for t in set(plain[1:-2]) - changes if level[t] == k]) for k in set(level)}
    left = {k: len([t for t in set(chain[1:-2]) - changes if level[t] == k]) for k in set(level)}
    for k, count in spare.items():
        assert left[k] >= min(count, 1), "a level keeps a step of its own"
    if all(count >= 3 for count in spare.values()):
        assert all(t - s == 1 for t, s in itertools.pairwise(chain) if level[s] != level[t])


def test_steps_are_even_between_changes():
    levels = torch.tensor([0] * 400 + [1] * 601)
    chain = resolution.respace(levels, 10, torch.arange(1001, dtype=torch.float64))
    assert chain == [*range(1001, 0, -100), 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 200), st.data())
def test_spacing_along_a_coordinate(total, data):
    steps = data.draw(st.integers(1, total))
    jumps = data.draw(st.lists(st.floats(0, 5), min_size=total, max_size=total))
    coordinate = torch.tensor(jumps, dtype=torch.float64).cumsum(0)
    chain = resolution.respace(torch.zeros(total, dtype=torch.int64), steps, coordinate)
    assert len(chain) == steps + 1 and chain[0] == total and chain[-1] == 0
    assert chain == sorted(set(chain), reverse=True)


def test_spacing_along_log_noise_is_even():
    nu = noise.log_snr(1001)
    chain = resolution.respace(torch.zeros(1001, dtype=torch.int64), 11, nu.log())
    assert chain == [*range(1001, 0, -100), 0]


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_respacing_out_of_range(steps):
    with pytest.raises(ProcessError, match="between 1 and 10"):
        resolution.respace(resolution.equal(10, 2), steps)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((64, 4, 2.0, 8), (64, 32, 16, 8)),
        ((256, 6, 2.0, 32), (256, 128, 64, 32, 16, 8)),
        ((64, 5, 2**0.5, 8), (64, 48, 32, 24, 16)),  # the official rounding of factor 1.414
        ((32, 3, 1.5, 4), (32, 20, 14)),
    ],
)
def test_level_sizes(arguments, expected):
    assert resolution.level_sizes(*arguments) == expected


def test_levels_that_do_not_fit():
    with pytest.raises(ProcessError, match="do not fit"):
        resolution.level_sizes(8, 6)


def test_explicit_and_log_snr_changes():
    assert resolution.explicit(10, [4, 8]).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    for bad in ([8, 4], [4, 4], [1], [11]):
        with pytest.raises(ProcessError, match="must increase"):
            resolution.explicit(10, bad)
    nu = noise.log_snr(101, 5, -5)
    table = resolution.by_log_snr(nu, [2.05, -3.05])
    assert table.tolist() == [0] * 30 + [1] * 51 + [2] * 20


@pytest.mark.parametrize("nu", [noise.linear(1000), noise.linear(100), noise.cosine(1000), noise.log_snr(50)])
def test_noise_increases(nu):
    assert nu.dtype == torch.float64 and (nu.diff() > 0).all() and nu[0] > 0


def test_linear_is_ddpm():
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    assert_close(1 / (1 + noise.linear(1000) ** 2), torch.cumprod(1 - beta, 0))


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(2, 5))
def test_matched_noise(match, levels):
    nu, table = noise.linear(200), resolution.equal(200, levels)
    gain = torch.tensor([2.0**-k for k in range(levels)], dtype=torch.float64)[table]
    result = noise.snr_preserving(nu, gain, match, 1e-3)
    assert result[-1] ** -2 <= 1e-3 * (1 + 1e-9)
    untouched = table < levels - 1
    assert_close(result[untouched], (nu * gain**match)[untouched])
    assert (result[1:] >= result[:-1] * gain[1:] / gain[:-1] * (1 - 1e-12)).all()


def test_no_matching_is_the_published_schedule():
    nu = noise.linear(100)
    assert noise.snr_preserving(nu, torch.ones(100), 0.0, 1e-9) is nu
