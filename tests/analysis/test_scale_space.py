"""Scale-space analysis of noisy processes, and `ssdiff eval scale-space`."""

import csv
import json
import math
from itertools import pairwise

import pytest
import torch

from ssdiff import images
from ssdiff.analysis.covariance import frechet, information, normal_entropy, root_sum
from ssdiff.analysis.data_moments import gaussian_data
from ssdiff.analysis.scale_space import ScaleSpace, check_scale_space_files, scale_space
from ssdiff.analysis.scale_space_curves import NoisyCurves, timesteps, variance_exploding
from ssdiff.analysis.scale_space_properties import Check, check_process, ordered, semigroup_deviation
from ssdiff.analysis.scale_space_theory import expected_of_noise
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
    top = process.states[process.T].size
    ends = torch.eye(math.prod(top), dtype=torch.float64).reshape(-1, 1, *top)
    last = process.pure_noise(process.T, ends).flatten(1)
    q = last @ last if top == size else (last @ last)[0, 0] * torch.eye(e, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal
    p, terminal = normal(a @ data.mean, covariance), normal(torch.zeros(e).double(), q)
    divergence = float(torch.distributions.kl_divergence(p, terminal)) / D
    assert found["terminal-relative-entropy"] == pytest.approx(divergence, rel=1e-6, abs=1e-12)
    mean, roots = a @ data.mean, sqrtm(sqrtm(q) @ covariance @ sqrtm(q)).trace()
    distance = float(mean @ mean + covariance.trace() + q.trace() - 2 * roots) / float(q.trace())
    assert found["terminal-frechet"] == pytest.approx(distance, rel=1e-4, abs=1e-9)
    assert found["mean-structure"] == pytest.approx(float(mean.std(correction=0)), abs=1e-12)
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


def checks_of(process, data, pictures, preset=None):
    curves = NoisyCurves("p", process, data, pictures)
    points = [point for t in timesteps(process, 9) for point in curves.at(t)]
    expected = expected_of_noise(process, preset)
    return {check.law: check for check in check_process("p", process, pictures[:20], points, expected)}


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
    checks = checks_of(process_of(name), data, pictures, load_preset(name))
    assert not [check.law for check in checks.values() if check.surprising]
    assert ALWAYS | HOLDS[name] <= {law for law, check in checks.items() if check.passed}
    changing = {"permutation of pixels", "average grey value, signal scale undone"} - HOLDS[name]
    assert NEVER | changing <= {law for law, check in checks.items() if not check.passed}


def test_variance_exploding_has_every_property(data, pictures):
    checks = checks_of(variance_exploding(SIDE), data, pictures).values()
    assert all(check.passed for check in checks) and not any(check.surprising for check in checks)


def test_at_a_change_of_size_entropy_leaves_with_the_dimensions(data, pictures):
    note = checks_of(process_of("celeba64"), data, pictures)["conditional entropy rises"].note
    jumps = [float(word) for word in note.split(" by ")[1].removesuffix(" nats").split(", ")]
    assert len(jumps) == 3 and all(jump < 0 for jump in jumps)


@pytest.mark.parametrize("name", ["blurdiff-church64", "blurdiff-bedroom64-log"])
def test_blur_diffusion_is_as_theory_expects(name, data, pictures):
    checks = checks_of(process_of(name), data, pictures, load_preset(name))
    assert checks["semigroup"].passed and not [c.law for c in checks.values() if c.surprising]


def test_noise_drawn_anew_is_no_chain(data, pictures):
    """Heat dissipation: the last timesteps know nothing of each other's noise [IHDM]."""
    checks = checks_of(process_of("ihdm-cifar10"), data, pictures, load_preset("ihdm-cifar10"))
    assert not checks["semigroup"].passed and checks["information on x_0 falls"].passed
    assert checks["semigroup"].expected is False and checks["ends in noise"].expected is False
    assert not [check.law for check in checks.values() if check.surprising]


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
    assert drifting["mirror image"].surprising and drifting["semigroup"].surprising
    kept = [State((SIDE, SIDE), 1.0, 0.0), *[State((SIDE, SIDE), 1.0, 0.1)] * 3]
    assert not checks_of(GaussianProcess(kept), data, pictures)["ends in noise"].passed


def test_too_short_a_process_has_no_semigroup_to_measure(data, pictures):
    check = checks_of(variance_exploding(SIDE, T=2), data, pictures)["semigroup"]
    assert not check.measured and check.verdict == "-" and "3 timesteps" in check.note


def test_ordered_measures_the_largest_wrong_step():
    assert ordered([1.0, 3.0, 2.5, 4.0], rising=True) == 0.5
    assert ordered([1.0, 3.0, 2.5, 4.0], rising=False) == 2.0
    assert ordered([1.0], rising=True) == 0
    assert not Check("p", "l", math.nan, 1.0).passed


@pytest.mark.parametrize(
    ("deviation", "expected", "words"),
    [
        (0.0, True, ("pass", "yes", False)),
        (2.0, True, ("fail", "yes", True)),
        (2.0, False, ("fail", "no", False)),
        (0.0, False, ("pass", "no", True)),
        (2.0, None, ("fail", "-", False)),
        (math.nan, True, ("-", "yes", False)),
    ],
)
def test_a_result_against_theory_stands_out(deviation, expected, words):
    check = Check("p", "l", deviation, 1.0, expected=expected)
    assert (check.verdict, check.expectation, check.surprising) == words


OPTIONS = ("--size", 8, "--images", 100, "--points", 4)
FIXED = {"curves.csv", "properties.csv", "scale-space.png", "film.png", "mean-images.png"}
FIXED |= {"scale-space.json", "report.html"}


def test_command(result, ssdiff, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("celeba64", "ve", "heat", "osmosis")  # the default ones run in tests/test_readme.py
    values = result("eval", "scale-space", *names, *OPTIONS, "--out", "o/")
    assert values["images"] == 100 and values["data"] == "shapes" and values["size"] == 8
    assert values["channels"] == 1 and values["covariance"] == "full" and values["reverse"] is None
    processes = {*names}
    assert {path.name for path in (tmp_path / "o").iterdir()} == FIXED | {f"{name}.png" for name in processes}
    assert {row["process"] for row in values["properties"]} == processes
    assert not [row for row in values["properties"] if row["unexpected"]]
    assert {row["expected"] for row in values["properties"]} == {True, False, None}
    with open("o/curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["process", "t", "time", "quantity", "value"]
    assert {row["process"] for row in rows} == processes
    assert all(math.isfinite(float(row["value"])) and 0 <= float(row["time"]) <= 1 for row in rows)
    with open("o/properties.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["result"] == "pass" for row in table] == [row["passed"] for row in values["properties"]]
    words = {True: "yes", False: "no", None: "-"}
    assert [row["expected"] for row in table] == [words[row["expected"]] for row in values["properties"]]
    assert images.read_image("o/osmosis.png").shape[-1] > 8 * 96 > images.read_image("o/heat.png").shape[-2]
    stored = json.loads((tmp_path / "o/scale-space.json").read_text())
    assert stored == {key: value for key, value in values.items() if key not in ("out", "files")}
    page = (tmp_path / "o/report.html").read_text()
    assert page.count("<img") == 3 + len(processes) and "as theory expects" in page
    code, _, err = ssdiff("eval", "scale-space", "ve", *OPTIONS, "--out", "o/")
    assert code == 2 and "--overwrite" in err
    arguments = ("eval", "scale-space", "ve", "osmosis", *OPTIONS, "--out", "o/", "--overwrite", "--seed", 1)
    code, out, err = ssdiff(*arguments)
    assert code == 0 and "19 of 21 properties hold, all as theory expects" in out and not err
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
        (("ve", "--steps", 5), "steps is for the reverse process of a model"),
        (("ve", "--count", 9), "n is for the reverse process of a model"),
        (("ve", "--device", "cpu"), "device is for a model or an extractor"),
        (("ve", "--weights-file", "w.pth"), "weights_file is for the extractor inception"),
        (("ve", "--channels", 2), "channels must be 1 or 3"),
        (("ve", "--covariance", "ful"), "did you mean full"),
        (("ve", "--size", 65, "--covariance", "full"), "at most 4096 values"),
        (("ve", "--extractor", "nothing"), "unknown extractor"),
        (("--points", 1), "points must be within 2..1000"),
        (("--size", 7), "size must be within 8..512"),
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
    code, _, err = ssdiff("eval", "scale-space", *arguments)  # none begins to measure
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
    assert list(found.strips) == ["mine", "ddpm", "heat"] and found.strips["heat"].shape[0] == 3
    assert found.to_dict()["properties"][0]["process"] == "mine"
    words = ["process", "property", "deviation", "tolerance", "holds", "expected"]
    assert found.table().splitlines()[0].split() == words
    assert not found.surprises and "all as theory expects" in str(found)


def test_an_analysis_shows_itself_in_a_notebook(measured):
    shown = measured[0]._repr_png_()
    assert isinstance(shown, bytes) and shown.startswith(b"\x89PNG")


def test_an_analysis_is_saved_once(measured, tmp_path):
    paths = measured[0].save(tmp_path / "o")
    assert {path.name for path in paths} == FIXED | {"mine.png", "ddpm.png", "heat.png"}
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
        ({"data": torch.zeros(4, 1, 1024, 1024)}, UsageError, "size must be within 8..512, not 1024"),
        ({"data": torch.zeros(9, 1, SIDE, SIDE)}, DataError, "all equal"),
        ({"data": torch.zeros(9, 1, 40, 40)}, DataError, "all equal"),
        ({"data": torch.zeros(4, 1, SIDE, SIDE)}, DataError, "at least 8 images, not 4"),
        ({"channels": 3}, UsageError, "data are grey, but 3 channels are measured"),
        ({"covariance": 3}, UsageError, "covariance"),
        ({"points": 1}, UsageError, "points must be within 2..1000, not 1"),
        ({"presets": "celeba46"}, PresetError, "did you mean celeba64"),
        ({"presets": []}, UsageError, "no process to measure"),
        ({"presets": [3]}, UsageError, "cannot be int"),
        ({"presets": {"big": variance_exploding(16, T=5)}}, UsageError, "16 x 16 px, but 8 px"),
        ({"presets": {"heat": "ve"}}, UsageError, "two processes are called heat"),
    ],
    ids=range(14),
)
def test_refusals_of_the_function(pictures, change, error, words):
    arguments = {"data": pictures[:20], "presets": "ve", "points": 2} | change
    with pytest.raises(error, match=words):
        scale_space(arguments.pop("data"), arguments.pop("presets"), **arguments)


COLOURED = ("ddpm-celeba64", "blurring-celeba64", "blurdiff-church64", "celeba64", "celeba64-matched")


def colours(pictures, count=200):
    """(count, 3, SIDE, SIDE) images whose channels depend on each other."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 3, SIDE, SIDE, dtype=torch.float64, generator=generator)
    return (0.6 * pictures[:count] + 0.2 * noise).clamp(-1, 1)


@pytest.mark.parametrize("name", COLOURED)
def test_colour_against_dense_matrices_of_all_channels(name, pictures):
    x = colours(pictures)
    process = build_process(load_preset(name, {"data.channels": 3}), (SIDE, SIDE))
    t = round(0.6 * process.T)
    size, d = process.states[t].size, 3 * D
    e = 3 * math.prod(size)
    eye = torch.eye(d, dtype=torch.float64).reshape(-1, 3, SIDE, SIDE)
    a = process.marginal(eye, t, torch.zeros(d, 3, *size).double()).flatten(1).mT
    small = torch.eye(e, dtype=torch.float64).reshape(-1, 3, *size)
    root = process.pure_noise(t, small).flatten(1)
    noise, s = root @ root, torch.cov(x.flatten(1).mT)
    covariance = a @ s @ a.mT + noise
    found = {p.quantity: p.value for p in NoisyCurves("p", process, gaussian_data(x), x).at(t)}
    constant = math.log(2 * math.pi * math.e)
    assert found["conditional-entropy"] == pytest.approx(float(noise.logdet() + e * constant) / 2 / d)
    assert found["information"] == pytest.approx(float(covariance.logdet() - noise.logdet()) / 2 / d)
    assert found["variance"] == pytest.approx(float(covariance.trace()) / e)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", COLOURED)
def test_frequencies_apart_bound_the_full_covariance(name, channels, pictures):
    """Exact for what is a trace; information from above and distances from below."""
    x = colours(pictures) if channels == 3 else pictures
    process = build_process(load_preset(name, {"data.channels": channels}), (SIDE, SIDE))
    full, apart = (NoisyCurves("p", process, data, x) for data in (gaussian_data(x), None))
    for t in (1, round(0.6 * process.T), process.T):
        exact, bound = ({p.quantity: p.value for p in curves.at(t)} for curves in (full, apart))
        for same in ("conditional-entropy", "variance", "mean", "mean-structure", "signal-dominated"):
            assert bound[same] == pytest.approx(exact[same], rel=1e-6, abs=1e-9), same
        assert exact["information"] <= bound["information"] * (1 + 1e-9) + 1e-12
        for least in ("frechet", "terminal-frechet", "terminal-relative-entropy"):
            assert bound[least] <= exact[least] * (1 + 1e-6) + 1e-9, least
        assert bound["information"] < 1.5 * exact["information"] + 1e-12  # data of DCT-like covariance: close


def test_frequencies_apart_are_exact_for_what_is_stationary(pictures):
    """Independent frequencies in truth: both ways agree."""
    generator = torch.Generator().manual_seed(2)
    basis, fade = matrices.dct(SIDE), torch.linspace(0.4, 0.05, SIDE, dtype=torch.float64)
    coefficients = torch.randn(30_000, 1, SIDE, SIDE, dtype=torch.float64, generator=generator)
    x = basis.mT @ (coefficients * fade * fade[:, None]) @ basis
    process = process_of("celeba64-matched")
    full, apart = (NoisyCurves("p", process, data, x) for data in (gaussian_data(x), None))
    for t in (100, 700):
        exact, bound = ({p.quantity: p.value for p in curves.at(t)} for curves in (full, apart))
        assert bound["information"] == pytest.approx(exact["information"], rel=2e-2)
        # Repeated pixels of a small image correlate frequencies.
        assert bound["frechet"] == pytest.approx(exact["frechet"], rel=2e-2 if t == 100 else 5e-2)


def test_large_images_in_colour(tmp_path):
    """Far above 64 px: nothing grows with the square of the pixels."""
    x = torch.rand(12, 3, 96, 96, generator=torch.Generator().manual_seed(3)) - 0.5
    found = scale_space(x, ["ve", "celeba64", "blurdiff-church64"], channels=3, points=2)
    assert found.covariance == "frequency" and (found.size, found.channels) == (96, 3)
    assert "upper bounds" in found.method and not found.surprises
    assert {p.process for p in found.curves if p.quantity == "information"} == {
        "ve",
        "celeba64",
        "blurdiff-church64",
    }


def test_too_few_images_for_a_full_covariance_are_told(pictures):
    found = scale_space(pictures[:20], "ve", points=2, covariance="full")
    assert len(found.warnings) == 1 and "rank" in found.warnings[0]
    assert not scale_space(pictures[:20], "ve", points=2, covariance="frequency").warnings


def test_features_of_a_network_over_t(pictures):
    found = scale_space(
        pictures[:40], ["ve", "heat", "celeba64"], points=5, extractor="tinynet:Tiny", device="cpu"
    )
    assert found.features == "FD-Tiny" and found.to_dict()["features"] == "FD-Tiny"
    for process in ("ve", "heat", "celeba64"):
        line = [p for p in found.curves if (p.process, p.quantity) == (process, "feature-distance")]
        assert line[0].value == 0 and line[-1].value > 0.01
        assert len(line) == len([p for p in found.curves if (p.process, p.quantity) == (process, "mean")])


def test_a_process_of_ones_own_is_compared_under_its_name(pictures, tmp_path):
    given = {"my / process": variance_exploding(SIDE, T=9), "my process": variance_exploding(SIDE, T=9)}
    found = scale_space(pictures[:20], given, points=2)
    names = {path.name for path in found.save(tmp_path / "o")}
    assert names == FIXED | {"my-process.png", "my-process-2.png"}
    planned = check_scale_space_files(tmp_path / "p", given)
    assert {path.name for path in planned} == names
