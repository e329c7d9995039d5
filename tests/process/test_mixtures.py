"""Noise and animorphosis: whose noise schedule counts, where it is refused, what an older run keeps."""

import pytest
import torch
from conftest import CPU, TINY
from torch.testing import assert_close

import ssdiff as package
from ssdiff import build_process, load_preset
from ssdiff.config.load import parse_preset
from ssdiff.errors import PresetError, UsageError
from ssdiff.process.degradations.registry import build_degradation
from ssdiff.schedules import noise
from ssdiff.weights.load import find_preset

SMALL = {
    "data.size": 16,
    "model.width": 16,
    "model.multipliers": [1, 2],
    "sampling.steps": 5,
    "process.T": 20,
}
MIXED = ("cold-noise-celeba128", "cold-noise-afhq128", "cold-animorph-celeba128")


def signal(process, t):
    """a_t, by a white image that is mixed with black ones."""
    black = process.mixing(lambda numbers, shape: torch.zeros(len(numbers), *shape))
    return float(black.degrade(torch.ones(1, 3, 16, 16), t)[0, 0, 0, 0])


def a(kind, t, T=20, **options):
    return float((1 + noise.nu_of(T, {"kind": kind, **options})[t - 1].square()).rsqrt())


@pytest.mark.parametrize("name", MIXED)
def test_the_schedule_of_a_preset_counts(name):
    def at(t, **noise):
        return signal(
            build_process(load_preset(name, SMALL | ({"process.noise": noise} if noise else {}))), t
        )

    assert at(10) == pytest.approx(a("cosine", 10))
    assert at(10, kind="cosine", offset=0.1) == pytest.approx(a("cosine", 10, offset=0.1))
    assert at(10, kind="linear") == pytest.approx(a("linear", 10))
    assert abs(a("linear", 10) - a("cosine", 10)) > 0.2


def test_blur_noise_as_a_degradation_takes_a_schedule():
    x = torch.rand(1, 3, 8, 8)
    built = [
        build_degradation("blur-noise", (8, 8), 10, schedule=kind).degrade(x, 5)
        for kind in ("cosine", "linear")
    ]
    assert not torch.equal(*built)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cold-mask-cifar10", "degradation 'mask' mixes no noise in"),
        ("cold-blur-celeba128-gen", "degradation 'blur' mixes no noise in"),
        ("cold-snow-cifar10", "degradation 'snow' mixes no noise in"),
        ("ihdm-cifar10", "kind 'heat' has the one noise of process.heat"),
    ],
)
def test_a_schedule_that_a_kind_cannot_take_is_refused(ssdiff, tmp_path, name, message):
    with pytest.raises(PresetError, match=message):
        load_preset(name, {"process.noise": {"kind": "cosine"}})
    with pytest.raises(PresetError, match=message):
        load_preset(name, {"process.noise": {"kind": "linear", "beta_end": 0.03}})
    load_preset(name, {"process.noise": {"kind": "linear"}})  # what every stored preset says
    run = tmp_path / "run"
    code, _, err = ssdiff("train", "--preset", name, "--set", "process.noise.kind=cosine", "--out", run, *CPU)
    assert code == 2 and message in err and err.count("\n") == 1 and not run.exists()


def test_a_degradation_of_ones_own_takes_a_schedule_or_refuses_it():
    @package.register_degradation("own-plain")
    def plain(size, T):
        return build_degradation("noise", size, T)

    @package.register_degradation("own-mixing")
    def mixing(size, T, *, schedule="linear"):
        return build_degradation("noise", size, T, schedule=schedule)

    def built(name):
        sets = {"process.degradation": {"kind": name}, "process.noise": {"kind": "cosine"}}
        return build_process(load_preset("cold-noise-celeba128", SMALL | sets))

    with pytest.raises(PresetError, match="'own-plain' mixes no noise in"):
        built("own-plain")
    assert signal(built("own-mixing"), 10) == pytest.approx(a("cosine", 10))


def test_a_schedule_has_one_place_in_a_preset():
    with pytest.raises(PresetError, match=r"process\.degradation\.schedule: is process\.noise"):
        load_preset("cold-noise-celeba128", {"process.degradation.schedule": "linear"})


def test_an_older_run_keeps_linear_betas():
    """0.2.0 read process.noise of a cold or heat process and used linear betas all the same."""
    for name in ("cold-noise-celeba128", "cold-mask-cifar10", "ihdm-cifar10"):
        small = SMALL if name.startswith("cold-noise") else {}
        now = load_preset(name, small | {"process.noise": {"kind": "linear"}}).to_toml()
        stored = now.replace(
            'kind = "linear", beta_start = 0.0001, beta_end = 0.02', 'kind = "cosine", offset = 0.008'
        )
        assert stored != now
        old = "\n".join(
            line for line in stored.splitlines() if "start_noise" not in line and "input_bits" not in line
        )
        assert parse_preset(old).process.noise.kind == "linear"
        if name.startswith("cold-noise"):
            assert parse_preset(stored).process.noise.kind == "cosine"
            assert signal(build_process(parse_preset(old)), 10) == pytest.approx(a("linear", 10))
        else:
            with pytest.raises(PresetError, match=r"process\.noise"):
                parse_preset(stored)


def test_a_run_of_an_older_version_is_read_so(tmp_path, result):
    preset = load_preset("cold-mask-cifar10", SMALL)
    text = preset.to_toml().replace(
        'kind = "linear", beta_start = 0.0001, beta_end = 0.02', 'kind = "cosine", offset = 0.008'
    )
    (tmp_path / "preset.toml").write_text("\n".join(x for x in text.splitlines() if "start_noise" not in x))
    assert find_preset(tmp_path).process.noise.kind == "linear"
    assert find_preset(tmp_path, {"training.steps": 7}).training.steps == 7
    assert "cold-mask" in str(result("info", tmp_path))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("cosin", "unknown noise schedule 'cosin'"),
        ({"kind": "cosine", "ofset": 1}, "has no option 'ofset'; it has: offset"),
        ({"kind": "cosine", "offset": 7.0}, "offset cannot be 7.0"),
        ({"kind": "linear", "beta_start": 0.5, "beta_end": 0.1}, "beta_end: 0.1 is below beta_start"),
        (3, "no noise schedule is called 3"),
    ],
)
def test_a_wrong_schedule_of_an_operator(schedule, message):
    with pytest.raises(UsageError, match=message):
        build_degradation("noise", (8, 8), 10, schedule=schedule)


def test_degrade_takes_the_schedule(ssdiff, result, tmp_path):
    x = torch.rand(3, 8, 8)
    cosine = package.degrade(x, "noise", 100, T=200, schedule="cosine")
    named = package.degrade(x, "noise", 100, T=200, schedule={"kind": "cosine", "offset": 0.008})
    assert torch.equal(cosine, named)
    plain = package.degrade(x, "noise", 100, T=200)
    assert_close(plain, package.degrade(x, "noise", 100, T=200, schedule="linear"), atol=0, rtol=0)
    assert not torch.allclose(cosine, plain, atol=0.1)
    from PIL import Image

    Image.new("RGB", (12, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (12, 8), "white").save(tmp_path / "b.png")
    files = (
        "degrade",
        tmp_path / "a.png",
        "--op",
        "animorph",
        "--with",
        tmp_path / "b.png",
        "--T",
        200,
        "--t",
        100,
    )
    found = [
        result(*files, *sets, "--out", tmp_path / f"{i}.png")["images"][0]["psnr"]
        for i, sets in enumerate(((), ("--set", "schedule=cosine")))
    ]
    assert found[1] > found[0]  # linear betas have gone further at T / 2
    code, _, err = ssdiff(*files, "--set", "schedule=nosuch", "--out", tmp_path / "no.png")
    assert code == 2 and "nosuch" in err and not (tmp_path / "no.png").exists()


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        ("cold-mask-cifar10", "sampling.start_noise", "is for degradations noise and animorph"),
        ("celeba64", "sampling.start_noise", "is for degradations noise and animorph"),
        ("celeba64", "training.input_bits", "is for kind 'cold'"),
    ],
)
def test_fields_of_cold_processes_are_refused_elsewhere(name, field, message):
    with pytest.raises(PresetError, match=message):
        load_preset(name, {field: 1})


def test_given_noise_is_what_is_mixed_in(run_cold_noise):
    """At T the image is the noise, as published 'fixed noise' begins; below T only the estimate can know."""
    pipe = run_cold_noise
    x = torch.randn(2, 3, 16, 16)
    found = package.restore(x, pipe)
    assert found.sampler == "alg2"
    assert_close(found.images, pipe.restore(x, at_start=True))
    assert not torch.equal(found.images, pipe.restore(x))
    below = package.restore(x, pipe, t=3)
    assert below.sampler == "ddim"
    assert_close(below.images, pipe.restore(x, 3, "ddim"))
    with pytest.raises(UsageError, match="known at t = 6 only, not at 3"):
        package.restore(x, pipe, t=3, sampler="alg1")
    assert package.restore(x.clamp(-1, 1), pipe, t=3, sampler="alg1", degrade=True).sampler == "alg1"


@pytest.fixture(scope="module")
def run_cold_noise():
    sets = {"process.kind": "cold", "process.T": 6, "process.levels": 1, "process.snr_preserving": 0.0}
    sets |= {"process.degradation": {"kind": "noise"}, "process.noise": {"kind": "cosine"}}
    sets |= {"model.classes": 0, "sampling.sampler": "alg2", "sampling.clip_denoised": False}
    preset = load_preset(TINY, sets)

    class Half(torch.nn.Module):
        def forward(self, x, t):
            return x.roll(1, -1) / 2

    return package.Pipeline(build_process(preset), Half(), preset=preset)


def test_starts_at_an_intermediate_t(run_cold_noise):
    pipe = run_cold_noise
    for t in (6, 2):
        plan = pipe.plan(t=t)
        assert plan.timesteps[0] == t
        top, x = next(iter(pipe.walk(torch.arange(2), plan)))
        assert top == t and x.std() < 1.2 * (1 - a("cosine", t, 6) ** 2) ** 0.5
    assert torch.equal(pipe.sample(2, t=6), pipe.sample(2))
    assert not torch.equal(pipe.sample(2, t=2), pipe.sample(2))
    with pytest.raises(UsageError, match=r"timestep 7 is outside 1\.\.6"):
        pipe.sample(2, t=7)
