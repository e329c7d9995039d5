"""Scale-space analysis of noisy processes, and `ssdiff eval scale-space`."""

import csv
import math
from itertools import pairwise

import pytest
import torch

from ssdiff import images
from ssdiff.analysis.covariance import frechet, frechet_of_samples, information, normal_entropy, root_sum
from ssdiff.analysis.data_moments import gaussian_data
from ssdiff.analysis.scale_space import ScaleSpace, scale_space
from ssdiff.analysis.scale_space_curves import NoisyCurves, timesteps, variance_exploding
from ssdiff.analysis.scale_space_properties import Check, check_process, ordered, semigroup_deviation
from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import DataError, OutputError, PresetError, UsageError
from ssdiff.operators import matrices
from ssdiff.process.base import State
from ssdiff.process.gaussian import GaussianProcess

SIDE = 8
D = SIDE * SIDE
PRESETS = ("ddpm-celeba64", "blurring-celeba64", "blurdiff-church64", "celeba64", "celeba64-matched")


def process_of(name):
    return build_process(load_preset(name, {"data.channels": 1}), (SIDE, SIDE))


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 1, SIDE, SIDE, dtype=torch.float64, generator=generator)
    blur = matrices.gaussian_blur(SIDE, 1.0)
    return (0.1 + blur @ noise @ blur.mT).clamp(-1, 1)


@pytest.fixture(scope="module")
def data(pictures):
    return gaussian_data(pictures)


def spd(seed, n=6):
    x = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x @ x.mT + 0.1 * torch.eye(n, dtype=torch.float64)


def sqrtm(a):
    values, vectors = torch.linalg.eigh(a)
    return vectors * values.clamp_min(0).sqrt() @ vectors.mT


def test_moments_are_mean_and_covariance(pictures, data):
    flat = pictures.flatten(1)
    torch.testing.assert_close(data.factor @ data.factor.mT, torch.cov(flat.mT))
    torch.testing.assert_close(data.mean, flat.mean(0))
    assert data.total == pytest.approx(float(flat.var(0).sum()))
    assert gaussian_data(pictures[:5]).factor.shape == (D, 4)  # the rank


@pytest.mark.parametrize(("count", "words"), [(1, "at least 2 images"), (4, "all equal")])
def test_moments_need_images_that_differ(count, words):
    with pytest.raises(DataError, match=words):
        gaussian_data(torch.full((count, 1, 4, 4), 0.5))


def test_entropy_of_known_normal_distributions():
    assert float(normal_entropy(torch.ones(3))) == pytest.approx(3 * 1.4189385332046727)
    sigma = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    known = torch.distributions.MultivariateNormal(torch.zeros(3).double(), torch.diag(sigma**2))
    assert float(normal_entropy(sigma)) == pytest.approx(float(known.entropy()))


def test_information_is_the_difference_of_entropies():
    a = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eye, zero = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    marginal = torch.distributions.MultivariateNormal(zero, a.mT @ a + eye).entropy()
    conditional = torch.distributions.MultivariateNormal(zero, eye).entropy()
    assert information(a) == pytest.approx(float(marginal - conditional))
    assert information(a.mT) == pytest.approx(information(a))


def test_frechet_against_the_textbook():
    a, b, means = spd(1), spd(2), torch.arange(6.0).double()
    root = sqrtm(a)
    roots = sqrtm(root @ b @ root).trace()
    expected = float(means @ means + a.trace() + b.trace() - 2 * roots)
    factor = torch.linalg.cholesky(b)
    wide = torch.cat([factor, torch.zeros(6, 2, dtype=torch.float64)], dim=1)
    for f in (factor, wide):
        found = frechet(means, float(a.trace()), float(b.trace()), root_sum(a, f))
        assert found == pytest.approx(expected)


def test_frechet_of_samples_is_that_of_their_gaussian_data(pictures):
    x, y = pictures[:100].flatten(1), (0.5 * pictures[100:] + 0.2).flatten(1)
    a, b = torch.cov(x.mT), torch.cov(y.mT)
    roots = sqrtm(sqrtm(a) @ b @ sqrtm(a)).trace()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * roots
    assert frechet_of_samples(x, y) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_curves_against_dense_matrices(name, share, pictures, data):
    """Every closed form again, from the covariance of x_t that the process's own marginals give."""
    process = process_of(name)
    t = max(1, round(share * process.T))
    size = process.states[t].size
    e = math.prod(size)
    eye = torch.eye(D, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE)
    small = torch.eye(e, dtype=torch.float64).reshape(-1, 1, *size)
    a = process.marginal(eye, t, torch.zeros(D, 1, *size).double()).flatten(1).mT
    root = process.marginal(torch.zeros(e, 1, SIDE, SIDE).double(), t, small).flatten(1)
    noise, s = root.mT @ root, torch.cov(pictures.flatten(1).mT)
    covariance = a @ s @ a.mT + noise
    repeat = SIDE // size[0]
    lift = torch.kron(*[torch.eye(size[0]).double().repeat_interleave(repeat, 0)] * 2)
    seen, means = lift @ covariance @ lift.mT, lift @ a @ data.mean - data.mean
    roots = sqrtm(sqrtm(s) @ seen @ sqrtm(s)).trace()
    eps = torch.randn(200, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    signal = process.marginal(pictures, t, torch.zeros_like(eps))
    dominated = (signal.abs() > (process.marginal(torch.zeros_like(pictures), t, eps)).abs()).double().mean()

    found = {p.quantity: p.value for p in NoisyCurves(name, process, data, pictures).at(t)}
    constant = math.log(2 * math.pi * math.e)
    assert found["conditional-entropy"] == pytest.approx(float(noise.logdet() + e * constant) / 2 / D)
    assert found["marginal-entropy"] == pytest.approx(float(covariance.logdet() + e * constant) / 2 / D)
    assert found["information"] == pytest.approx(
        float(covariance.logdet() - noise.logdet()) / 2 / D, rel=1e-6, abs=1e-13
    )
    assert found["variance"] == pytest.approx(float(covariance.trace()) / e)
    assert found["mean"] == pytest.approx(float((a @ data.mean).mean()))
    distance = float(means @ means + s.trace() + seen.trace() - 2 * roots) / float(s.trace())
    assert found["frechet"] == pytest.approx(distance, rel=1e-6)
    assert found["area"] == e / D
    assert found["signal-dominated"] == pytest.approx(float(dominated) * e / D, abs=0.02)


def test_the_clean_end_of_the_curves(data, pictures):
    found = {p.quantity: p.value for p in NoisyCurves("x", process_of("celeba64"), data, pictures).at(0)}
    assert found["frechet"] == 0 and found["area"] == found["signal-dominated"] == 1
    assert "conditional-entropy" not in found  # minus infinity


def test_timesteps_show_both_sides_of_a_change():
    process = process_of("celeba64")
    chosen = timesteps(process, 5)
    assert {0, 250, 500, 750, 1000} <= set(chosen)
    for s, t in pairwise(chosen):
        assert process.states[s].size == process.states[t].size or t == s + 1
    with pytest.raises(UsageError, match="at least 2 points"):
        timesteps(process, 1)


def test_variance_exploding_keeps_the_signal():
    process = variance_exploding(4, T=10, first=0.1, last=10.0)
    assert {state.signal for state in process.states} == {1.0}
    assert process.states[1].sigma == pytest.approx(0.1) and process.states[10].sigma == pytest.approx(10)


def checks_of(process, data, pictures):
    curves = NoisyCurves("p", process, data, pictures)
    points = [point for t in timesteps(process, 9) for point in curves.at(t)]
    return {check.law: check for check in check_process("p", process, pictures[:20], points)}


HOLDS = {
    "ddpm-celeba64": {"permutation of pixels", "average grey value, signal scale undone"},
    "blurring-celeba64": {"average grey value, signal scale undone"},
    "celeba64": set(),
}
ALWAYS = {"semigroup", "rotation by 90 degrees", "mirror image", "conditional entropy rises"}
ALWAYS |= {"information on x_0 falls", "ends in noise"}
NEVER = {"average grey value"}


@pytest.mark.parametrize("name", HOLDS)
def test_properties_of_presets(name, data, pictures):
    checks = checks_of(process_of(name), data, pictures)
    assert ALWAYS | HOLDS[name] <= {law for law, check in checks.items() if check.passed}
    changing = {"permutation of pixels", "average grey value, signal scale undone"} - HOLDS[name]
    assert NEVER | changing <= {law for law, check in checks.items() if not check.passed}


def test_variance_exploding_has_every_property(data, pictures):
    assert all(check.passed for check in checks_of(variance_exploding(SIDE), data, pictures).values())


def test_at_a_change_of_size_entropy_leaves_with_the_dimensions(data, pictures):
    note = checks_of(process_of("celeba64"), data, pictures)["conditional entropy rises"].note
    jumps = [float(word) for word in note.split(" by ")[1].removesuffix(" nats").split(", ")]
    assert len(jumps) == 3 and all(jump < 0 for jump in jumps)


def test_noise_drawn_anew_is_no_chain(data, pictures):
    """Heat dissipation: the last timesteps know nothing of each other's noise [IHDM]."""
    checks = checks_of(process_of("ihdm-cifar10"), data, pictures)
    assert not checks["semigroup"].passed and checks["information on x_0 falls"].passed


class Forgetful(GaussianProcess):
    """Posteriors that are not those of its marginals."""

    def posterior(self, x_t, x0_s, t, s, eta=1.0):
        return super().posterior(x_t, x0_s, t, s, 0.5)


class Drifting(GaussianProcess):
    """A signal that slides sideways, further and further, but comes back."""

    def marginal(self, x0, t, noise):
        return super().marginal(x0.roll(int(t) % 5, -1), t, noise)


def test_checks_find_broken_processes(data, pictures):
    states = variance_exploding(SIDE, T=20).states
    assert semigroup_deviation(GaussianProcess(states), 4, 10, 18) < 1e-10
    assert semigroup_deviation(Forgetful(states), 4, 10, 18) > 0.01
    drifting = checks_of(Drifting(states), data, pictures)
    assert not drifting["mirror image"].passed and not drifting["semigroup"].passed
    kept = [State((SIDE, SIDE), 1.0, 0.0), *[State((SIDE, SIDE), 1.0, 0.1)] * 3]
    assert not checks_of(GaussianProcess(kept), data, pictures)["ends in noise"].passed


def test_too_short_a_process_has_no_semigroup_to_measure(data, pictures):
    check = checks_of(variance_exploding(SIDE, T=2), data, pictures)["semigroup"]
    assert not check.passed and "3 timesteps" in check.note


def test_ordered_measures_the_largest_wrong_step():
    assert ordered([1.0, 3.0, 2.5, 4.0], rising=True) == 0.5
    assert ordered([1.0, 3.0, 2.5, 4.0], rising=False) == 2.0
    assert ordered([1.0], rising=True) == 0
    assert not Check("p", "l", math.nan, 1.0).passed


OPTIONS = ("--size", 8, "--images", 100, "--points", 4)


def test_command(result, ssdiff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = result("eval", "scale-space", *OPTIONS, "--out", "o/")
    assert values["images"] == 100 and values["data"] == "shapes" and values["size"] == 8
    names = {"curves.csv", "properties.csv", "scale-space.png", "heat.png", "osmosis.png"}
    assert {path.name for path in (tmp_path / "o").iterdir()} == names
    processes = {*PRESETS, "ve", "heat", "osmosis"}
    assert {row["process"] for row in values["properties"]} == processes
    with open("o/curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["process", "t", "time", "quantity", "value"]
    assert {row["process"] for row in rows} == processes
    assert all(math.isfinite(float(row["value"])) and 0 <= float(row["time"]) <= 1 for row in rows)
    with open("o/properties.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["result"] == "pass" for row in table] == [row["passed"] for row in values["properties"]]
    assert images.read_image("o/osmosis.png").shape[-1] > 8 * 96 > images.read_image("o/heat.png").shape[-2]
    code, _, err = ssdiff("eval", "scale-space", "ve", *OPTIONS, "--out", "o/")
    assert code == 2 and "--overwrite" in err
    arguments = ("eval", "scale-space", "ve", "osmosis", *OPTIONS, "--out", "o/", "--overwrite", "--seed", 1)
    code, out, err = ssdiff(*arguments)
    assert code == 0 and "17 of 18 properties hold" in out and not err
    with open("o/curves.csv", newline="") as file:
        again = list(csv.DictReader(file))
    assert [row for row in again if row["process"] == "ve"] == [row for row in rows if row["process"] == "ve"]
    assert [row for row in again if row["process"] == "osmosis"] != [
        row for row in rows if row["process"] == "osmosis"
    ]  # another seed is other noise


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("celeba46",), "did you mean celeba64"),
        (("cold-mask-mnist",), "cold process"),
        (("--points", 1), "points must be within 2..1000"),
        (("--size", 7), "size must be within 8..64"),
        (("--images", 1), "images must be within"),
        (("--out", "taken"), "no folder"),
        (("celeba64", "again/celeba64.toml"), "two processes are called celeba64"),
    ],
    ids=str,
)
def test_usage_errors(ssdiff, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "celeba64.toml").write_text('extends = "celeba64"\n')
    code, _, err = ssdiff("eval", "scale-space", *arguments)
    assert code == 2 and words in err and err.count("\n") == 1
    assert not (tmp_path / "scale-space").exists()


def test_a_missing_data_set(ssdiff, tmp_path):
    code, _, err = ssdiff("eval", "scale-space", "ve", "--data", "shapse", "--out", tmp_path / "o")
    assert code == 3 and "did you mean shapes" in err


@pytest.fixture(scope="module")
def measured(pictures):
    """An analysis of a tensor, and what its progress told."""
    told = []
    given = {"mine": variance_exploding(SIDE, T=50), "ddpm": load_preset("ddpm-celeba64"), "heat": "heat"}
    found = scale_space(pictures, given, images=50, points=4, progress=lambda *what: told.append(what))
    return found, told


def test_the_function_measures_a_tensor(measured):
    found, told = measured
    assert isinstance(found, ScaleSpace) and (found.data, found.images, found.size) == ("tensor", 50, SIDE)
    assert list(dict.fromkeys(point.process for point in found.curves)) == ["mine", "ddpm", "heat"]
    assert {stage for stage, _, _ in told} == {"measuring"} and told[-1][1:] == (12, 12)
    assert list(found.strips) == ["heat"] and found.strips["heat"].shape[0] == 3
    assert found.to_dict()["properties"][0]["process"] == "mine"
    assert found.table().splitlines()[0].split() == ["process", "property", "deviation", "tolerance"]


def test_an_analysis_shows_itself_in_a_notebook(measured):
    shown = measured[0]._repr_png_()
    assert isinstance(shown, bytes) and shown.startswith(b"\x89PNG")


def test_an_analysis_is_saved_once(measured, tmp_path):
    paths = measured[0].save(tmp_path / "o")
    assert [path.name for path in paths] == ["curves.csv", "properties.csv", "scale-space.png", "heat.png"]
    assert all(path.stat().st_size for path in paths)
    with pytest.raises(OutputError, match="exists"):
        measured[0].save(tmp_path / "o")


def test_one_process_may_stand_alone(pictures):
    alone, listed = (scale_space(pictures[:20], given, points=2).curves for given in ("ve", ["ve", "ve"]))
    assert alone == listed


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"data": torch.zeros(4, SIDE, SIDE)}, UsageError, r"data must be a tensor \(N, C, R, R\)"),
        ({"size": 16}, UsageError, "images of 8 px, but 16 px are asked for"),
        ({"data": torch.zeros(4, 1, 128, 128)}, UsageError, "size must be within 8..64, not 128"),
        ({"data": torch.zeros(4, 1, SIDE, SIDE)}, DataError, "all equal"),
        ({"points": 1}, UsageError, "points must be within 2..1000, not 1"),
        ({"presets": "celeba46"}, PresetError, "did you mean celeba64"),
        ({"presets": "cold-mask-mnist"}, UsageError, "cold process"),
        ({"presets": []}, UsageError, "no process to measure"),
        ({"presets": [3]}, UsageError, "cannot be int"),
        ({"presets": {"big": variance_exploding(16, T=5)}}, UsageError, "16 x 16 px, but 8 px"),
        ({"presets": {"heat": "ve"}}, UsageError, "two processes are called heat"),
    ],
    ids=range(11),
)
def test_refusals_of_the_function(pictures, change, error, words):
    arguments = {"data": pictures[:20], "presets": "ve", "points": 2} | change
    with pytest.raises(error, match=words):
        scale_space(arguments.pop("data"), arguments.pop("presets"), **arguments)
