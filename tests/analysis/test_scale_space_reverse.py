"""The reverse process of a model beside its forward process: networks that are perfect, wrong and trained."""

import json
import math

import pytest
import torch
from torch import nn

import ssdiff
from ssdiff.analysis.covariance import LOG_2_PI_E, entropy_of_blocks
from ssdiff.analysis.scale_space_moments import BYTE_VARIANCE, SampleMoments
from ssdiff.analysis.scale_space_reverse import (
    AS_FORWARD,
    ENDS_AT_DATA,
    IN_DISTRIBUTION,
    OTHER_STEPS,
    RESTARTED,
)
from ssdiff.build import build_process
from ssdiff.config.load import load_preset
from ssdiff.pipeline import Pipeline
from ssdiff.process.base import State
from ssdiff.process.gaussian import GaussianProcess

SIDE, T, SPREAD = 8, 40, 0.3


class Best(nn.Module):
    """E[x_0 | x_t] of data N(0, SPREAD^2) pixel by pixel, times a factor that is 1 for the best."""

    def __init__(self, process, factor=1.0):
        super().__init__()
        ratios = [s.signal * SPREAD**2 / (s.signal**2 * SPREAD**2 + s.sigma**2) for s in process.states[1:]]
        self.gains, self.factor = torch.tensor(ratios), factor

    def forward(self, x, index, resolution, labels=None):
        """The posterior mean."""
        return self.factor * self.gains[index][:, None, None, None] * x


class Still(nn.Module):
    """Gives back what it sees."""

    def forward(self, x, t):
        """The image."""
        return x


def noise_process():
    angles = [math.pi / 2 * t / (T + 1) for t in range(T + 1)]
    states = [State((SIDE, SIDE), math.cos(a), math.sin(a)) for a in angles]
    return GaussianProcess(states)


def pipeline(factor=1.0):
    process = noise_process()
    made = Pipeline(process, Best(process, factor), channels=1, name="best")
    made.sampling = made.sampling.model_copy(update={"clip_denoised": False, "steps": T})
    return made


@pytest.fixture(scope="module")
def data():
    noise = torch.randn(400, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return (SPREAD * noise).clamp(-1, 1)


def checks_of(found):
    return {check.law: check for check in found.checks if check.process == "best model, reverse"}


@pytest.fixture(scope="module")
def best(data):
    return ssdiff.scale_space(data, model=pipeline(), points=9, n=100)


def test_a_perfect_network_reverses_the_forward_process(best):
    """The distributions, the entropies and the semigroup, as [GS] has it."""
    checks = checks_of(best)
    assert not best.surprises, [check.law for check in best.surprises]
    for law in (AS_FORWARD, ENDS_AT_DATA, RESTARTED, IN_DISTRIBUTION):
        assert checks[law].passed and checks[law].expected, law
    values = {(p.process, p.quantity, p.t): p.value for p in best.curves}
    for (process, quantity, t), value in values.items():
        if process == "best model, reverse" and quantity in ("variance", "sample-entropy"):
            other = values["best model, forward samples", quantity, t]
            # The last step returns the mean given x_1, which varies less.
            assert value == pytest.approx(other, abs=0.05 if t else 0.15), (quantity, t)
    # Pixels are independent, so that frequencies are: the estimates agree with the closed form.
    exact = {p.t: p.value for p in best.curves if p.quantity == "marginal-entropy"}
    for t in sorted(exact.keys() & {t for _, quantity, t in values if quantity == "sample-entropy"}):
        assert values["best model, reverse", "sample-entropy", t] == pytest.approx(exact[t], abs=0.05)
    assert len(exact) > 5


def test_the_record_says_how(best):
    told = best.to_dict()
    assert told["reverse"]["samples"] == 100 and told["reverse"]["steps"] == T
    assert told["reverse"]["sampler"] == "ancestral" and told["reverse"]["begins"] == "terminal prior"
    assert (told["size"], told["channels"]) == (SIDE, 1)
    assert list(best.films) == ["best model", "best model, reverse"]
    assert all(len(film.frames) == 8 for film in best.films.values())


def test_a_network_that_shrinks_its_predictions_is_found(data):
    found = ssdiff.scale_space(data, model=pipeline(0.6), points=5, n=60)
    against = {check.law for check in found.surprises}
    assert {AS_FORWARD, ENDS_AT_DATA} <= against


def test_deterministic_steps_join_and_two_sets_of_steps_agree(data):
    found = ssdiff.scale_space(data, model=pipeline(), points=3, n=20, sampler="ddim", eta=0.0, steps=20)
    checks = checks_of(found)
    assert checks[RESTARTED].deviation == 0 and checks[OTHER_STEPS].passed
    assert 0 < checks[OTHER_STEPS].deviation < 0.2
    assert IN_DISTRIBUTION not in checks  # there is no fresh noise
    coarse = ssdiff.scale_space(data, model=pipeline(), points=3, n=20, sampler="ddim", eta=0.0, steps=5)
    assert checks_of(coarse)[OTHER_STEPS].deviation > checks[OTHER_STEPS].deviation


def test_a_solver_with_a_memory_is_not_expected_to_restart(data):
    checks = checks_of(ssdiff.scale_space(data, model=pipeline(), points=3, n=20, sampler="dpm++", steps=8))
    assert checks[RESTARTED].expected is None and checks[RESTARTED].deviation > 0


def test_noise_that_is_drawn_anew_is_not_expected_to_be_reversed(data):
    """The states of heat dissipation are no chain [IHDM]."""
    process = build_process(load_preset("ihdm-cifar10", {"data.channels": 1}), (SIDE, SIDE))
    made = Pipeline(process, Still(), channels=1, name="best")
    checks = checks_of(ssdiff.scale_space(data, model=made, points=3, n=20, steps=6))
    assert checks[AS_FORWARD].expected is None and checks[RESTARTED].passed


def test_a_batch_changes_nothing(data):
    one, two = (
        ssdiff.scale_space(data, model=pipeline(), points=3, n=20, steps=6, batch=b).curves for b in (20, 7)
    )
    assert [p.value for p in one] == pytest.approx([p.value for p in two], rel=1e-5, abs=1e-7)


def test_the_entropy_of_samples_has_no_bias():
    """Few samples of three channels: the plain determinant would be 0.35 nats too small."""
    generator, mix = torch.Generator().manual_seed(1), torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [0.2, 0.3, 1]])
    x = torch.randn(12, 40, 40, 3, generator=generator, dtype=torch.float64) @ mix.double().mT
    centred = x - x.mean(0)
    covariance = torch.einsum("bijc,bijd->ijcd", centred, centred) / 11
    truth = 1600 * (3 * LOG_2_PI_E / 2 + float(mix.logdet()))
    assert entropy_of_blocks(covariance, 12, 1e-12) / 1600 == pytest.approx(truth / 1600, abs=0.03)
    plain = (covariance.logdet() / 2 + 3 * LOG_2_PI_E / 2).mean()
    assert truth / 1600 - float(plain) > 0.3


def test_images_that_do_not_vary_have_the_entropy_of_bytes():
    moments = SampleMoments((4, 4))
    moments.add(torch.zeros(200, 1, 4, 4))
    values = moments.values()
    bytes_alone = (LOG_2_PI_E + math.log(BYTE_VARIANCE)) / 2
    assert values["sample-entropy"] == pytest.approx(bytes_alone, abs=0.01)
    assert values["variance"] == values["mean-structure"] == 0


def test_the_structure_of_a_mean_image_is_not_that_of_its_noise():
    generator = torch.Generator().manual_seed(2)
    wave = 0.2 * torch.cos(math.pi * torch.arange(16) / 8).expand(1, 16, 16)
    for mean, expected in ((torch.zeros(1, 16, 16), 0.0), (wave, 0.2 / math.sqrt(2))):
        moments = SampleMoments((16, 16))
        # Brightness of an image is common to its pixels and no structure.
        brightness = 2 * torch.randn(400, 1, 1, 1, generator=generator)
        moments.add(mean + brightness + 0.5 * torch.randn(400, 1, 16, 16, generator=generator))
        assert moments.values()["mean-structure"] == pytest.approx(expected, abs=0.012)


QUICK = ("--images", 32, "--points", 3, "--count", 8, "--device", "cpu")


def test_command_on_a_trained_run(result, ssdiff, run_folder, tmp_path):
    """Two sizes and classes; the run's own data; beside another process."""
    out = run_folder / "eval" / "space"
    arguments = ("eval", "scale-space", "ve", "--ckpt", run_folder, *QUICK, "--extractor", "tinynet:Tiny")
    values = result(*arguments, "--out", out)
    assert values["data"] == "shapes" and (values["size"], values["channels"]) == (16, 3)
    assert values["reverse"]["classes"] == 8 and values["reverse"]["samples"] == 8
    assert values["features"] == "FD-Tiny" and values["covariance"] == "full"
    assert {row["process"] for row in values["properties"]} == {"tiny model", "ve", "tiny model, reverse"}
    names = {path.name for path in out.iterdir()}
    assert {"tiny-model.png", "tiny-model-reverse.png", "ve.png", "film.png", "report.html"} <= names
    curves = (out / "curves.csv").read_text()
    for process in ("tiny model", '"tiny model, reverse"', '"tiny model, forward samples"'):
        assert any(line.startswith(process) and "feature-distance" in line for line in curves.splitlines())
    code, _, err = ssdiff(*arguments, "--out", out)
    assert code == 2 and "--overwrite" in err
    # The run's report shows it; a folder that is damaged is told.
    (run_folder / "eval" / "bad").mkdir()
    (run_folder / "eval" / "bad" / "scale-space.json").write_text('{"properties": 3}')
    report = tmp_path / "report.html"
    code, _, err = ssdiff("eval", "report", run_folder, "--samples", 0, "--out", report, "--device", "cpu")
    page = report.read_text()
    assert code == 0, err
    assert "Scale-space space: curves and pictures" in page and "bad holds no analysis" in page


def test_a_restoration_model_begins_at_degraded_images(cold_folder):
    found = ssdiff.scale_space(model=cold_folder, images=20, points=3, n=8, device="cpu")
    assert found.reverse["begins"] == "degraded images of the data"
    errors = {p.t: p.value for p in found.curves if p.quantity == "restored-error"}
    assert errors[4] == 0 and errors[0] > 0  # at T they are the degraded images themselves
    by_law = {check.law: check for check in found.checks}
    assert by_law["D(x, 0) = x"].passed and by_law[RESTARTED].passed
    assert by_law[AS_FORWARD].expected is None
    assert not any(p.quantity == "information" for p in found.curves)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--size", 32), 2, "has size 16, not 32"),
        (("--channels", 1), 2, "has channels 3, not 1"),
        (("--count", 4), 2, "n must be at least 8"),
        (("--count", 20), 3, "two sets of as many, but there are 32 images"),
        (("--steps", 50), 2, "steps"),
        (("--sampler", "alg2"), 2, "alg2"),
        (("--data", "shapse"), 3, "did you mean shapes"),
    ],
    ids=str,
)
def test_faults_of_a_model(ssdiff, run_folder, tmp_path, more, code, words):
    arguments = ("eval", "scale-space", "--ckpt", run_folder, "--images", 32, "--points", 2)
    found, _, err = ssdiff(*arguments, *more, "--out", tmp_path / "o")
    assert found == code and words in err and err.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_model_that_is_missing(ssdiff, tmp_path):
    arguments = ("eval", "scale-space", "--ckpt", tmp_path / "none", "--out", tmp_path / "o")
    code, _, err = ssdiff(*arguments)
    assert code == 4 and err.count("\n") == 1 and not (tmp_path / "o").exists()


def test_data_that_do_not_fit_the_model(data):
    preset = load_preset("shapes32")
    colour = Pipeline(build_process(preset), Best(noise_process()), name="colour")
    with pytest.raises(ssdiff.errors.UsageError, match="grey, but 3 channels"):
        ssdiff.scale_space(torch.zeros(20, 1, 32, 32), model=colour)
    with pytest.raises(ssdiff.errors.UsageError, match="images of 8 px, but 32 px"):
        ssdiff.scale_space(data.expand(-1, 3, -1, -1), model=colour)
    with pytest.raises(ssdiff.errors.UsageError, match="does not say what it was trained on"):
        ssdiff.scale_space(model=colour)


def test_json_is_plain(best):
    assert json.loads(json.dumps(best.to_dict())) == best.to_dict()
