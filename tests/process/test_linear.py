"""Linear processes: posteriors of every structure against dense matrices, marginals of every eta, faults."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ssdiff import degrade, register_degradation
from ssdiff.build import build_process
from ssdiff.config.load import load_preset, parse_preset, presets
from ssdiff.errors import PresetError, ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.operators.base import Operator
from ssdiff.operators.decomposition import singular_system
from ssdiff.operators.filters import Filter, cosines
from ssdiff.operators.pixelwise import ChannelMix, Mask
from ssdiff.operators.separable import Separable
from ssdiff.pipeline import Pipeline
from ssdiff.process.degradations.base import LinearDegradation
from ssdiff.process.degradations.registry import build_degradation
from ssdiff.process.gaussian import from_schedule
from ssdiff.process.linear import LinearProcess
from ssdiff.process.stages import Stage, staged
from ssdiff.schedules import noise
from ssdiff.training.losses import gaussian_loss

T, SIZE = 12, (6, 8)
NU = noise.linear(T)


class Smear(Operator):
    """Each row of pixels is a mean over pixels to its left, in a circle: nothing that ssdiff knows."""

    def __init__(self, pixels):
        self.pixels = pixels

    def apply(self, x):
        for _ in range(self.pixels):
            x = (3 * x + x.roll(1, -1)) / 4
        return x

    def adjoint(self, y):
        for _ in range(self.pixels):
            y = (3 * y + y.roll(-1, -1)) / 4
        return y


def stages(*given):
    return staged(SIZE, T, [Stage(kind, first, last, options) for kind, first, last, options in given])


def grey(t):
    return torch.lerp(
        torch.eye(3, dtype=torch.float64), torch.full((3, 3), 1 / 3, dtype=torch.float64), t / T
    )


def shade(t):
    return torch.linspace(1, 1 - t / T, SIZE[1]).expand(SIZE)


BLUR, HALVE = ("blur", 0, 6, {"std": (1.5, 0.7)}), ("resize", 6, 7, {"size": [3, 8]})
CHAINS = {
    "blur then resize": stages(BLUR, HALVE),
    "anisotropic resizes": stages(("resize", 3, 4, {"size": [6, 4]}), ("resize", 8, 9, {"size": [3, 4]})),
    "bilinear": stages(("resize", 3, 4, {"size": [3, 4], "filter": "bilinear"})),
    "dct cut": stages(("dct-cut", 0, T, {"keep": 0.3})),
    "dct cut then resize": stages(("dct-cut", 0, 6, {"keep": 0.3}), HALVE),
    "mask": LinearDegradation(SIZE, T, lambda t: Mask(shade(t))),
    "mask of each colour": LinearDegradation(
        SIZE, T, lambda t: Mask(torch.stack([shade(t), shade(3), shade(2)]))
    ),
    "colours": LinearDegradation(SIZE, T, lambda t: ChannelMix(grey(t))),
    "colours of stages": stages(("desaturate", 0, 8, {}), ("blur", 2, T, {"std": 2.0})),
    "colours, blur, mask": LinearDegradation(
        SIZE,
        T,
        lambda t: Mask(shade(t)) @ ChannelMix(grey(t)) @ Separable(matrices.heat(6, 1), matrices.heat(8, 1)),
    ),
    "registry": stages(("dct-blur", 0, T, {"max_std": 2.0})),
    "mask then blur": stages(("mask", 0, 5, {"bumps": 4, "kernel_std": 0.5}), ("blur", 5, T, {"std": 1.0})),
    "negative": LinearDegradation(
        SIZE, T, lambda t: Filter(cosines(SIZE), torch.full(SIZE, (-0.9) ** t, dtype=torch.float64))
    ),
    "own": LinearDegradation(SIZE, T, between=lambda s, t: Smear(t - s)),
}
NO_CLOSED_FORM = {"dct cut then resize", "mask then blur", "own"}
PROCESSES = {name: LinearProcess(chain, NU) for name, chain in CHAINS.items()}
chains = pytest.mark.parametrize("name", CHAINS)


def dense(operator, size):
    """(n, m) matrix of an operator on images of three channels, column by column."""
    eye = torch.eye(3 * size[0] * size[1], dtype=torch.float64).reshape(-1, 3, *size)
    return operator.apply(eye).flatten(1).mT


def moments(process, x_t, x0_s, t, s, eta):
    """Mean, and covariance by the root of every unit vector."""
    posterior = process.posterior(x_t, x0_s, t, s, eta)
    eye = torch.eye(x0_s[0].numel(), dtype=torch.float64).reshape(-1, *x0_s.shape[1:])
    root = posterior.root(eye).flatten(1)
    return posterior.mean.flatten(), root.mT @ root


def drawn(process, t, s, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(1, 3, *SIZE, generator=generator, dtype=torch.float64)
    x_t = torch.randn(1, 3, *process.states[t].size, generator=generator, dtype=torch.float64)
    return x0, process.resize(x0, 0, s), x_t


@chains
@settings(max_examples=4, deadline=None)
@given(
    pair=st.tuples(st.integers(1, T), st.integers(1, T)).filter(lambda p: p[0] != p[1]),
    seed=st.integers(0, 99),
)
def test_the_posterior_is_that_of_dense_matrices(name, pair, seed):
    process, (s, t) = PROCESSES[name], sorted(pair)
    x0, x0_s, x_t = drawn(process, t, s, seed)
    now, then = process.states[t], process.states[s]
    part, whole = dense(CHAINS[name].between(s, t), then.size), dense(CHAINS[name].operator(s), SIZE)
    m, mu = part * (now.signal / then.signal), then.signal * (whole @ x0.flatten())
    gain = (then.sigma / now.sigma) ** 2 * m.mT
    mean, covariance = moments(process, x_t, x0_s, t, s, 1.0)
    assert_close(mean, mu + gain @ (x_t.flatten() - m @ mu), atol=1e-10, rtol=0)
    eye = torch.eye(len(mu), dtype=torch.float64)
    assert_close(covariance, then.sigma**2 * (eye - gain @ m), atol=1e-10, rtol=0)


@chains
@settings(max_examples=4, deadline=None)
@given(
    pair=st.tuples(st.integers(1, T), st.integers(1, T)).filter(lambda p: p[0] != p[1]),
    eta=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
)
def test_every_eta_keeps_the_marginal(name, pair, eta):
    """With the true x_0, x_s has the mean a_s M_s x_0 and the covariance sigma_s^2 I, by closed form."""
    process, (s, t) = PROCESSES[name], sorted(pair)
    x0, x0_s, _ = drawn(process, t, s)
    now, then = process.states[t], process.states[s]
    middle = now.signal * process.degrade(x0, t)
    mean, fresh = moments(process, middle, x0_s, t, s, eta)
    assert_close(mean, then.signal * process.degrade(x0, s).flatten(), atol=1e-10, rtol=0)
    units = torch.eye(middle.numel(), dtype=torch.float64).reshape(-1, *middle.shape[1:])
    kept = (
        process.posterior(middle + units, x0_s.expand(len(units), -1, -1, -1), t, s, eta).mean.flatten(1)
        - mean
    )
    covariance = fresh + now.sigma**2 * kept.mT @ kept
    assert_close(covariance, then.sigma**2 * torch.eye(len(mean), dtype=torch.float64), atol=1e-9, rtol=0)


@chains
def test_structure_is_found(name):
    process = PROCESSES[name]
    closed = all(process._system(s, t) is not None for s in range(1, T) for t in range(s + 1, T + 1))
    assert closed == (name not in NO_CLOSED_FORM)


@pytest.mark.parametrize(
    ("name", "eta"),
    [
        *itertools.product(["blur then resize", "colours"], [0.0, 0.5, 1.0]),
        ("mask then blur", 0.5),
        ("own", 1.0),
    ],
)
def test_samples_have_the_marginals(name, eta):
    """By simulation: from draws of x_T, through the steps of a sampler with the true x_0."""
    process, n = PROCESSES[name], 1000
    generator = torch.Generator().manual_seed(3)
    x0 = torch.rand(1, 3, *SIZE, generator=generator) * 2 - 1
    x = process.marginal(x0, T, torch.randn(n, 3, *process.states[T].size, generator=generator))
    for t, s in ((T, 8), (8, 4), (4, 1)):
        noise_s = torch.randn(n, 3, *process.states[s].size, generator=generator)
        x = process.posterior(x, process.resize(x0, 0, s).expand(n, -1, -1, -1), t, s, eta).sample(noise_s)
    state = process.states[1]
    error = (x.mean(0) - state.signal * process.degrade(x0, 1)[0]).abs().max()
    assert float(error) < 5 * state.sigma / math.sqrt(n)
    assert_close(float(x.var(0).mean()), state.sigma**2, rtol=0.03, atol=0)


def test_a_resize_alone_is_the_process_of_the_paper():
    sizes = [(8, 8)] * 5 + [(4, 4)] * 7
    ours = LinearProcess(staged((8, 8), T, [Stage("resize", 5, 6, {"size": 4, "filter": "bilinear"})]), NU)
    paper = from_schedule(NU, sizes, (8, 8))
    x0 = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert ours.states == paper.states and ours.levels() == paper.levels()
    assert_close(ours.log_noise(), paper.log_noise())
    for t, s, eta in ((12, 3, 1.0), (12, 7, 0.5), (5, 2, 0.0), (6, 5, 0.0)):
        eps = torch.randn(2, 3, *ours.states[t].size, dtype=torch.float64)
        assert_close(ours.marginal(x0, t, eps), paper.marginal(x0, t, eps))
        assert_close(ours.target(x0, t), paper.target(x0, t))
        found, wanted = (
            process.posterior(eps, process.resize(x0, 0, s), t, s, eta) for process in (ours, paper)
        )
        fresh = torch.randn(2, 3, *ours.states[s].size, dtype=torch.float64)
        assert_close(found.sample(fresh), wanted.sample(fresh))


@chains
def test_a_batch_of_timesteps_is_one_by_one(name):
    process, x0 = PROCESSES[name], torch.randn(4, 3, *SIZE)
    for state in {state.size: state for state in process.states[1:]}.values():
        group = [t for t in range(1, T + 1) if process.states[t].size == state.size]
        t = torch.tensor([group[0], group[-1], group[len(group) // 2], group[-1]])
        eps = torch.randn(4, 3, *state.size)
        alone = [process.marginal(x0[i : i + 1], int(t[i]), eps[i : i + 1]) for i in range(4)]
        assert_close(process.marginal(x0, t, eps), torch.cat(alone))
        inside = t[t > group[0]]
        if len(inside):
            several = len(inside)
            seen = process.noised(process.target(x0[:several], inside), inside, eps[:several])
            assert_close(seen, process.marginal(x0[:several], inside, eps[:several]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("match", [0.0, 0.5, 1.0])
def test_snr_preserving_noise_has_transitions(match):
    process = LinearProcess(CHAINS["anisotropic resizes"], NU, snr_preserving=match, final_snr=0.01)
    before, after = process.states[3], process.states[4]
    ratio = (after.sigma / after.signal) / (before.sigma / before.signal)
    assert_close(ratio, float(NU[3] / NU[2]) * 0.5 ** (match / 2), rtol=1e-9, atol=0)
    assert process.states[T].snr < 0.0100001
    assert bool((process.log_noise().diff() > -1e-12).all())


class Half(torch.nn.Module):
    """What a network may be: it sees squares, and halves them."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, index, resolution, labels=None):
        self.seen.append((tuple(x.shape[-2:]), resolution))
        x = torch.nn.functional.interpolate(x, (resolution, resolution))
        return self.weight * x


@pytest.mark.parametrize("name", ["anisotropic resizes", "own", "colours of stages"])
def test_it_trains_samples_and_restores(name):
    process, network = PROCESSES[name], Half()
    x0 = torch.rand(3, 3, *SIZE) * 2 - 1
    for t in (1, 4, 9, T):
        state = process.states[t]
        loss = gaussian_loss(network, process, x0, torch.tensor([t] * 3), torch.randn(3, 3, *state.size))
        assert loss.shape == (3,) and bool(loss.isfinite().all())
    assert all(height == width for (height, width), _ in network.seen)
    pipe = Pipeline(process, network)
    for sampler in process.samplers():
        if sampler == "direct":
            continue
        whole = pipe.sample(3, steps=5, sampler=sampler, seed=2)
        assert whole.shape == (3, 3, *SIZE) and bool(whole.isfinite().all())
        assert_close(pipe.sample(1, steps=5, sampler=sampler, seed=2, first=2), whole[2:], atol=1e-5, rtol=0)
        assert pipe.restore(pipe.degrade(x0, T), sampler=sampler).shape == x0.shape
    with pytest.raises(UsageError, match="loses nothing else"):
        Pipeline(process, network, predict="eps")


def test_a_network_sees_the_pixels_of_a_narrow_image_repeated():
    process = PROCESSES["anisotropic resizes"]
    x = torch.arange(24.0).reshape(1, 1, 6, 4)
    seen = process.network_input(x, 4)
    assert seen.shape == (1, 1, 6, 6)
    assert torch.equal(seen[..., [0, 1, 3, 4]], x) and torch.equal(seen[..., 2], x[..., 1])
    assert_close(process.network_output(torch.ones(1, 1, 6, 6), 5), torch.ones(1, 1, 6, 4))
    tall = PROCESSES["blur then resize"].states[7]
    assert tall.size == (3, 8) and tall.resolution == 8


class Curved(Operator):
    def apply(self, x):
        return x.abs()

    def adjoint(self, y):
        return y


class Skew(Smear):
    def adjoint(self, y):
        return self.apply(y)


def own(operator, **more):
    return LinearDegradation(SIZE, T, between=lambda s, t: operator, **more)


def shown(t):
    """More and more pixels."""
    return (torch.arange(SIZE[1]) < t).double().expand(SIZE)


FAULTS = [
    (lambda: own(Curved()), "timestep 1 is not linear"),
    (lambda: own(Skew(1)), "timestep 1 has another adjoint"),
    (
        lambda: LinearDegradation(SIZE, T, lambda t: Smear(t)),
        "severity 2 does not follow from severity 1.*between",
    ),
    (
        lambda: LinearDegradation(SIZE, T, lambda t: Smear(t + 1), between=lambda s, t: Smear(t - s)),
        "do not fit",
    ),
    (
        lambda: LinearDegradation(SIZE, T, lambda t: Mask(shown(t))),
        "2 does not follow from severity 1: the later",
    ),
    (
        lambda: LinearDegradation(SIZE, T, lambda t: Separable(matrices.blocks(6, min(t, 5)), torch.eye(8))),
        "severity 2 does not follow from severity 1: the later shows",
    ),
    (
        lambda: LinearDegradation(SIZE, T, lambda t: Mask(torch.full(SIZE, 9.0**t))),
        "no transition from timestep 1 to 2",
    ),
    (lambda: LinearDegradation(SIZE, T, lambda t: Mask(torch.zeros(SIZE))), "nothing is left at timestep 1"),
    (
        lambda: LinearDegradation(SIZE, T, lambda t: ChannelMix(torch.ones(1, 3))),
        r"makes \(1, 6, 8\) of \(3, 6, 8\)",
    ),
    (lambda: LinearDegradation(SIZE, T, lambda t: Mask(torch.ones(8, 6))), "timestep 1"),
    (lambda: LinearDegradation(SIZE, T, lambda t: Separable(torch.ones(9, 6), torch.eye(8))), "cannot grow"),
]


@pytest.mark.parametrize(("make", "message"), FAULTS)
def test_what_is_refused(make, message):
    with pytest.raises(ProcessError, match=message) as caught:
        LinearProcess(make(), NU)
    assert "\n" not in str(caught.value)


def test_what_is_not_linear_is_no_linear_process():
    with pytest.raises(UsageError, match="needs a LinearDegradation, not a "):
        LinearProcess(build_degradation("snow", SIZE, T), NU)
    with pytest.raises(UsageError, match=r"give operator\(t\), or between\(s, t\)"):
        LinearDegradation(SIZE, T)
    with pytest.raises(ProcessError, match="nu has shape"):
        LinearProcess(CHAINS["mask"], NU[1:])


def test_a_late_fault_names_its_timestep():
    chain = LinearDegradation(SIZE, T, between=lambda s, t: Curved() if t == 9 and s == 8 else Smear(t - s))
    with pytest.raises(ProcessError, match="timestep 9 is not linear"):
        LinearProcess(chain, NU)


STAGES = [
    ([("blurr", 0, 6, {})], "stage 1 .blurr.: unknown kind; did you mean blur"),
    ([("blur", 0, 6, {})], "needs std"),
    ([("blur", 0, 6, {"std": -1})], "positive pixels"),
    ([("blur", 0, 6, {"std": [1, 2, 3]})], "a list of two"),
    ([("blur", 0, 6, {"sdt": 1})], "no option 'sdt'; its options are: std"),
    ([("resize", 0, 6, {"size": 4})], "happens at once"),
    ([("resize", 5, 6, {"size": 12})], "only shrinks"),
    ([("resize", 5, 6, {"size": 2.5})], "whole pixels"),
    ([("resize", 5, 6, {"size": 2, "filter": "are"})], "did you mean area"),
    ([("dct-cut", 0, 6, {"keep": 2})], "below 1.41"),
    ([("snow", 0, 6, {})], "is not linear"),
    ([("mask", 0, 6, {"centre": "random"})], "another operator for each image"),
    (
        [("blur", 0, 8, {"std": 1.0}), ("mask", 4, 12, {})],
        "overlap, and it matters which is first; let mask begin",
    ),
    ([("blur", 0, 8, {"std": 1.0}), ("resize", 4, 5, {"size": 3})], "let resize begin where blur ends"),
]


@pytest.mark.parametrize(("given", "message"), STAGES)
def test_stages_that_are_refused(given, message):
    with pytest.raises(UsageError, match=message) as caught:
        stages(*given)
    assert "\n" not in str(caught.value)


def test_stages_are_the_product_of_their_parts():
    chain = stages(BLUR, HALVE, ("desaturate", 7, T, {}))
    x = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    blurred = Filter(
        cosines(SIZE),
        (
            torch.exp(-0.5 * (math.pi * torch.arange(6) / 6 * 1.5).double() ** 2),
            torch.exp(-0.5 * (math.pi * torch.arange(8) / 8 * 0.7).double() ** 2),
        ),
    )
    halved = Separable(matrices.area(6, 3), torch.eye(8)).apply(blurred.apply(x))
    assert_close(chain.degrade(x, 7), halved)
    assert_close(chain.degrade(x, T), build_degradation("desaturate", (3, 8), 5).degrade(halved, 5))
    assert_close(chain.degrade(x, 3), chain.between(1, 3).apply(chain.degrade(x, 1)))
    assert singular_system(chain.between(0, T)) is not None


def preset(*stages, **more):
    process = {"kind": "linear", "stages": list(stages), "T": 20, **more}
    common = {"levels": 1, "resolution": {"kind": "convex_decay"}}
    layers = {"training.transitions": True, "sampling.lift": "network"}
    return load_preset("shapes32", {"process": common | process, "sampling.steps": 5, **layers})


PRESETS = [
    ([], {}, "stages"),
    ([{"kind": "blur", "from": 0.5, "to": 0.4, "std": 1.0}], {}, r"stages\[0\]: has no timestep between"),
    (
        [{"kind": "blur", "at": 0.5, "to": 0.6, "std": 1.0}],
        {},
        r"stages\[0\].at: is for what happens at once",
    ),
    ([{"kind": "blur", "to": 1.5, "std": 1.0}], {}, r"stages\[0\].to: must be a share of T, 0..1, not 1.5"),
    ([{"kind": "blur", "to": "x", "std": 1.0}], {}, r"stages\[0\].to: must be a share"),
    ([{"from": 0.5}], {}, r"stages\[0\].kind: must be given"),
    (
        [{"kind": "resize", "at": 0.6, "size": 8}, {"kind": "desaturate", "to": 0.5}],
        {},
        r"stages\[1\]: begins before the stage above",
    ),
    ([{"kind": "desaturate"}], {"predict": "eps"}, "process.predict: of 'eps' no clean image follows"),
    ([{"kind": "desaturate"}], {"resize": "area"}, "process.resize: is for kind 'ssd'"),
    ([{"kind": "desaturate"}], {"kind": "ddpm"}, "process.stages: is for another kind than 'ddpm'"),
]


@pytest.mark.parametrize(("stages", "more", "message"), PRESETS)
def test_presets_that_are_refused(stages, more, message):
    with pytest.raises(PresetError, match=message) as caught:
        preset(*stages, **more)
    assert caught.value.code == 2 and "\n" not in str(caught.value)


def test_a_fault_of_a_stage_is_one_of_the_preset():
    with pytest.raises(PresetError, match=r"process\.stages: stage 1 .blur.: needs std"):
        build_process(preset({"kind": "blur"}))


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith("linear-")])
def test_a_shipped_process_has_its_states(name):
    process = build_process(load_preset(name, {"process.T": 40, "sampling.steps": 10}))
    assert process.states[-1].snr < 1.01e-3 and process.states[-1].size == (8, 8)
    assert process.states[0].size == (32, 32) and "ancestral" in process.samplers()
    narrow = [state for state in process.states if state.size[0] != state.size[1]]
    assert bool(narrow) == (name == "linear-wide-to-square32")


def test_a_registered_degradation_is_a_stage():
    @register_degradation("bleach-out")
    def bleach(size, T, *, least=0.1):
        return LinearDegradation(size, T, lambda t: Mask(torch.full(size, least ** (t / T))))

    settings = preset({"kind": "bleach-out", "to": 0.5, "least": 0.5})
    assert_close(build_process(settings).degrade(torch.ones(1, 3, 32, 32), 20).mean(), torch.tensor(0.5))
    assert parse_preset(settings.to_toml()) == settings


def test_photographs_are_degraded_in_proportion():
    chosen = preset({"kind": "blur", "to": 0.4, "std": 2.0}, {"kind": "resize", "at": 0.5, "size": [32, 16]})
    photograph = torch.rand(1, 3, 96, 64)
    result = degrade(photograph, preset=chosen, t=20)
    assert result.shape == (1, 3, 96, 32)
    wide = build_process(chosen, (96, 64))
    assert_close(result, wide.degrade(photograph, 20), atol=1e-5, rtol=1e-5)
    assert degrade(photograph, preset=chosen, t=20, noise=True).std() > 0.9
