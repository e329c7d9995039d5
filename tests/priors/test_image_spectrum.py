"""Spectra of the training images: what transitions add by them, what steps give back, the commands."""

import itertools
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import CPU, TINY
from eightpixels import SIDES, by_area, ddpm, images, preset
from torch.testing import assert_close

import ssdiff as package
from ssdiff import checkpoints, rng
from ssdiff.analysis.data_moments import measure_moments
from ssdiff.analysis.sampler_error import ExactChains, spectral_distance
from ssdiff.analysis.schedule_search import chain_of
from ssdiff.build import build_process
from ssdiff.config import SamplingSettings
from ssdiff.config.load import load_preset, override
from ssdiff.errors import CheckpointError, PresetError, UsageError
from ssdiff.operators import matrices
from ssdiff.priors.image_spectrum import ImageSpectrum, changes, fit_spectrum
from ssdiff.sampling.gaussian import eta_family
from ssdiff.sampling.plan import plan_for
from ssdiff.sampling.walk import Walk


def change(process):
    """The last timestep of the first size."""
    return next(t for t in range(1, process.T) if process.states[t].size != process.states[t + 1].size)


def coloured(count, side=8):
    """Images whose channels have a known covariance in every ring, (N, 3, side, side)."""
    white = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)).double()
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, -0.3, 0.4]]).double()
    place = torch.arange(side).double()
    ring = (place[:, None].square() + place.square()).sqrt().round()
    basis, fade = matrices.dct(side), 0.5 / (1 + ring)
    mixed = torch.einsum("cd,bdij->bcij", mix, white) * fade
    return basis.mT @ mixed @ basis + 0.3, lambda k: mix @ mix.mT * (0.5 / (1 + k)) ** 2


def test_spectra_of_every_size_that_is_reached():
    process = build_process(by_area())
    assert changes(process) == {8: 0} and changes(build_process(ddpm())) == {}
    x, covariance = coloured(20_000)
    details = fit_spectrum(x.split(7000), process)
    assert set(details.rings) == {4, 8} and len(details.rings[8]) == round(math.hypot(7, 7)) + 1
    assert_close(details.mean, x.mean(0))
    for ring in range(11):
        assert_close(details.rings[8][ring], covariance(ring), atol=0, rtol=0.1)


def test_what_is_drawn_has_the_spectrum_and_nothing_that_the_small_image_tells():
    process = build_process(by_area())
    x, _ = coloured(20_000)
    s = change(process)
    details = fit_spectrum([x], process)
    drawn = details.draw(process, s + 1, s, rng.derive(0, "test"), torch.arange(20_000))
    assert drawn.shape == (20_000, 3, 8, 8) and drawn.dtype == torch.float32
    assert_close(process.resize(drawn, s, s + 1), torch.zeros(20_000, 3, 4, 4), atol=1e-6, rtol=0)
    lost = process.states[s].signal * process.high_frequencies(x, s, s + 1)
    ours, theirs = (torch.cov(part.flatten(1).mT.double()) for part in (drawn, lost))
    assert float((ours - theirs).norm() / theirs.norm()) < 0.12  # 0.08 is what so few images give
    colours = [torch.einsum("nchw,ndhw->cd", part.double(), part.double()) for part in (drawn, lost)]
    assert_close(*colours, atol=0, rtol=0.05)
    alone = details.draw(process, s + 1, s, rng.derive(0, "test"), torch.tensor([77]))
    assert_close(alone[0], drawn[77])


def late():
    """A resolution transition where details can be seen through the noise, many steps around it."""
    return build_process(preset(resize="area", T=200, resolution={"kind": "log_snr", "at": [2.0]}))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_details_vary_after_a_change_as_they_should(eta):
    """x_s after a change, by the linear MMSE denoiser, against the marginal at s."""
    process, x = late(), images(20_000)
    model = measure_moments([x], SIDES, covariance=True, resize=process.resize_matrix)
    details, states, t = fit_spectrum([x], process), process.states, change(process) + 1
    rows = matrices.area(8, 4)
    resize = torch.kron(rows, rows)
    own = states[t].signal ** 2 * resize @ model.covariance @ resize.mT
    own.diagonal().add_(states[t].sigma ** 2)
    weight = states[t].signal * torch.linalg.solve(own, resize @ model.covariance).mT
    numbers = torch.arange(len(x))

    def noise(timestep, shape):
        return rng.normal(5, numbers, timestep, shape).double()

    def after(added):
        start = process.marginal(x - x.mean(0), t, noise(t, (1, 4, 4)))

        def predict(x_t, _):
            return (x_t.flatten(1) @ weight.mT).reshape(-1, 1, 8, 8)

        walk = Walk(process, predict, start, (t, t - 1), noise, eta, renoise=added)
        *_, (_, state) = eta_family(walk)
        return float(process.high_frequencies(state, t - 1, t).var(0).sum())

    marginal = process.marginal(x, t - 1, noise(0, (1, 8, 8)))
    true = float(process.high_frequencies(marginal, t - 1, t).var(0).sum())
    without = after(None) - true
    added = after(lambda t, s: details.draw(process, t, s, 3, numbers).double()) - true
    assert abs(added) < 0.25 * abs(without) and without < 0


@pytest.mark.parametrize("exact", [True, False])
def test_added_details_bring_the_chain_nearer_to_the_data(exact):
    process = late()
    model = measure_moments([images(20_000)], SIDES, covariance=True, resize=process.resize_matrix)
    chain = chain_of(process.states, 200)

    def distance(details):
        if exact:
            return ExactChains(model).distance(process, chain, 0.0, renoise=details)
        return spectral_distance(model, process.states, chain, 0.0, renoise=details)

    assert distance(True) < 0.95 * distance(False)


def test_only_a_change_of_size_asks_for_details():
    process = build_process(by_area())
    asked, s = [], change(process)

    def added(t, s):
        asked.append((t, s))
        return torch.zeros(2, 1, *process.states[s].size)

    def draw(timestep, shape):
        return torch.zeros(2, *shape)

    x = torch.zeros(2, 1, 4, 4)
    chain = chain_of(process.states, 10)

    def blank(x, t):
        return torch.zeros(2, 1, *process.states[t - 1].size)

    list(eta_family(Walk(process, blank, x, chain, draw, 1.0, renoise=added)))
    assert asked == [(s + 1, s)]
    asked.clear()
    white = Walk(process, lambda x, t: torch.ones(2, 1, 8, 8), x, (s + 1, 0), draw, 1.0, renoise=added)
    *_, (last, x) = eta_family(white)
    assert last == 0 and not asked and torch.equal(x, torch.ones(2, 1, 8, 8)), "x_0 is the prediction"


def test_spectra_survive_a_checkpoint():
    process = build_process(by_area())
    details = fit_spectrum([coloured(50)[0]], process)
    again = ImageSpectrum.from_json(details.to_json())
    where = (process, change(process) + 1, change(process), 3, torch.arange(5))
    assert torch.equal(again.draw(*where), details.draw(*where))
    good = details.to_json()["8"]
    damaged = ([], "x", {"8": good[1:]}, {"0": good}, {"eight": good}, {"8": [row[0] for row in good]})
    lopsided = [[[1.0, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]] * 11
    tables = ["x", lopsided, *([[[value] * 3] * 3] * 11 for value in (math.nan, 1e300, -1.0, 10**400))]
    for values in (*damaged, *({"8": table} for table in tables)):
        with pytest.raises(CheckpointError, match="damaged"):
            ImageSpectrum.from_json(values)


@pytest.mark.parametrize("rings", [{}, {"4": 5, "8": 11}, {"8": 11}])
def test_spectra_of_another_model_are_refused(rings):
    """No size, a size that no change leads to, other channels."""
    values = {side: [[[1.0]]] * count for side, count in rings.items()}
    with pytest.raises(CheckpointError, match=r"not those of 3 channels at \[8\] pixels"):
        ImageSpectrum.from_json(values).check(build_process(by_area()), 3)


def test_a_single_image_has_no_variance():
    process = build_process(by_area())
    s = change(process)
    drawn = fit_spectrum([images(1)], process).draw(process, s + 1, s, 3, torch.arange(2))
    assert_close(drawn, torch.zeros(2, 1, 8, 8), atol=1e-6, rtol=0)


def test_presets():
    assert load_preset("celeba64").sampling.renoise == "none"
    for name in ("blurdiff-church64", "ddpm-celeba64", "cold-blur-cifar10"):
        with pytest.raises(PresetError, match="never changes resolution"):
            load_preset(name, {"sampling.renoise": "spectral"})


def test_trained_drawn_and_exported(run_folder, result, ssdiff, tmp_path):
    """The same weights as without, other images; an exported model draws the same ones."""
    run, model = tmp_path / "run", tmp_path / "model.safetensors"
    asked = ("--set", "sampling.renoise=spectral")
    result("train", "--preset", TINY, "--out", run, *asked, *CPU)
    result("export", run, "--out", model)

    def drawn(ckpt, *options):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        result("sample", "--ckpt", ckpt, "-n", 3, "--out", out, *options, *CPU)
        return np.load(out)["arr_0"]

    without, spectral = drawn(run_folder), drawn(run)
    assert not np.array_equal(without, spectral) and np.array_equal(spectral, drawn(model))
    assert np.array_equal(drawn(run, "--set", "sampling.renoise=none"), without)
    assert np.array_equal(drawn(run, "--batch", 1), spectral)
    out = tmp_path / "no.npz"
    code, _, err = ssdiff("sample", "--ckpt", run_folder, "--out", out, *asked, *CPU)
    assert code == 2 and "spectra that are taken in training" in err and not out.exists()

    finished = tmp_path / "finished"
    shutil.copytree(run_folder, finished)
    result("train", "--resume", finished, *asked, *CPU)
    assert np.array_equal(drawn(finished), spectral), "a finished run gets its spectra"


def test_a_correction_is_trained_drawn_exported_and_given_to_what_was_finished(
    run_folder, result, ssdiff, tmp_path
):
    """With spectra of transitions alone, too, as older runs have them."""
    old, model = tmp_path / "old", tmp_path / "model.safetensors"
    ddim, asked = ("--sampler", "ddim"), ("--set", "sampling.correction=0.5")

    def drawn(ckpt, *options):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        result("sample", "--ckpt", ckpt, "-n", 3, "--out", out, *options, *CPU)
        return np.load(out)["arr_0"]

    shutil.copytree(run_folder, old)
    code, _, err = ssdiff("sample", "--ckpt", old, "--out", tmp_path / "no.npz", *asked, *CPU)
    assert code == 2 and "--set sampling.correction=0.5, or set it to 0" in err
    result("train", "--resume", old, "--set", "sampling.renoise=spectral", *CPU)
    for folder in (checkpoints.list_steps(old / "checkpoints")[-1],):
        meta = json.loads((folder / "meta.json").read_text())
        assert set(meta["details"]) == {"16", "8", "mean"}
    pipeline = package.load(old)
    pipeline.spectrum = ImageSpectrum({16: pipeline.spectrum.rings[16]})
    pipeline.spectrum.check(pipeline.process, 3)
    pipeline.preset = override(pipeline.preset, {"sampling.correction": 0.5})
    with pytest.raises(UsageError, match="taken in training"):
        pipeline.sample(1)
    result("export", old, "--out", model)
    for options in (ddim, ()):
        without, corrected = drawn(old, *options), drawn(old, *options, *asked)
        assert not np.array_equal(without, corrected)
        assert np.array_equal(corrected, drawn(model, *options, *asked))
        assert np.array_equal(corrected, drawn(old, *options, *asked, "--batch", 1))
    solver = ("--sampler", "dpm++")
    assert np.array_equal(drawn(old, *solver), drawn(old, *solver, *asked)), "its steps lose next to nothing"
    plain = drawn(old, *solver, "--set", "sampling.renoise=none")
    assert np.array_equal(plain, drawn(run_folder, *solver, *asked)), "nor need they spectra"


@pytest.mark.parametrize("levels", [1, 2])
def test_a_finished_run_is_drawn_by_settings_of_sampling_that_it_is_resumed_with(
    levels, result, ssdiff, tmp_path
):
    """Of one size, too, whose spectra are for corrections alone; exported files and reports follow."""
    run, model = tmp_path / "run", tmp_path / "model.safetensors"
    sets = ("--set", f"process.levels={levels}", "--set", "process.snr_preserving=0.0")
    result("train", "--preset", TINY, "--out", run, *sets, *CPU)
    drawn = [self_drawn(result, run, tmp_path)]
    for share in (0.5, 0.9, 0.9):
        result("train", "--resume", run, "--set", f"sampling.correction={share}", *CPU)
        drawn.append(self_drawn(result, run, tmp_path))
        asked = ("--set", f"sampling.correction={share}")
        assert np.array_equal(drawn[-1], self_drawn(result, run, tmp_path, *asked))
    assert [np.array_equal(a, b) for a, b in itertools.pairwise(drawn)] == [False, False, True]
    result("export", run, "--out", model)
    assert np.array_equal(drawn[-1], self_drawn(result, model, tmp_path))
    assert np.array_equal(drawn[0], self_drawn(result, model, tmp_path, "--set", "sampling.correction=0.0"))
    folder = tmp_path / "many"
    many = ("sample", "--ckpt", run, "-n", 2, "--out", folder, "--sampler")
    assert result(*many, "ddim", *CPU)["correction"] == 0.9
    code, _, err = ssdiff(*many, "ddim", "--set", "sampling.correction=0.0", *CPU)
    assert code == 2 and "correction 0.9, not none" in err
    folder = tmp_path / "solved"
    many = ("sample", "--ckpt", run, "-n", 2, "--out", folder, "--sampler")
    assert "correction" not in result(*many, "dpm++", *CPU)
    assert result(*many, "dpm++", "--set", "sampling.correction=0.0", *CPU)["kept"] == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda details: 5,
        lambda details: None,
        lambda details: "mean",
        lambda details: {**details, "mean": [[[5.0]]]},
        lambda details: {side: rings for side, rings in details.items() if side != "8"},
    ],
)
def test_spectra_that_are_damaged_are_refused_and_taken_again_by_resuming(
    change, run_folder, result, ssdiff, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    result("train", "--resume", run, "--set", "sampling.correction=0.5", *CPU)
    whole = self_drawn(result, run, tmp_path)
    folder = checkpoints.latest(run / "checkpoints")[0].path
    loaded = checkpoints.load(folder)
    meta = loaded.meta | {"details": change(loaded.meta["details"])}
    shutil.rmtree(folder)
    checkpoints.save(run / "checkpoints", 12, loaded.tensors, meta, keep=100)
    code, _, err = ssdiff("sample", "--ckpt", run, "-n", 1, "--out", tmp_path / "no.npz", *CPU)
    assert code == (2 if meta["details"] is None else 4) and "spectra" in err
    result("train", "--resume", run, *CPU)
    assert np.array_equal(whole, self_drawn(result, run, tmp_path))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ihdm-cifar10", {}),
        ("blurdiff-church64", {}),
        ("ddpm-celeba64", {"sampler": "ancestral", "variance": "fixed_large"}),
    ],
)
def test_corrections_of_other_processes_are_refused_without_a_preset_as_well(name, more):
    process = build_process(load_preset(name, {"process.T": 20, "sampling.steps": 5}))
    asked = SamplingSettings(**{"steps": 5, "correction": 1.0, "sampler": "ancestral"} | more)
    with pytest.raises(UsageError, match="is for plain and scale-space diffusion"):
        plan_for(process, asked)


def self_drawn(result, ckpt, folder, *options):
    """Images of a model's own settings."""
    out = folder / f"{len(list(folder.iterdir()))}.npz"
    result("sample", "--ckpt", ckpt, "-n", 3, "--out", out, "--sampler", "ddim", *options, *CPU)
    return np.load(out)["arr_0"]


@pytest.mark.parametrize(
    ("name", "sets", "said"),
    [
        ("ihdm-cifar10", {}, "is for kinds 'ddpm' and 'ssd', not 'heat'"),
        ("cold-blur-cifar10", {}, "is for kinds 'ddpm' and 'ssd', not 'cold'"),
        ("ddpm-celeba64", {"sampling.variance": "fixed_large"}, "needs sampling.variance = 'posterior'"),
        ("celeba64", {"sampling.correction": 1.5}, ">= 0 and <= 1, not 1.5"),
    ],
)
def test_a_correction_where_it_means_nothing_is_refused(name, sets, said):
    with pytest.raises(PresetError, match=re.escape(said)):
        load_preset(name, {"sampling.correction": 0.5} | sets)


def test_what_asks_for_no_details_needs_no_spectra(run_folder):
    """Chains without a change above 0, and restorations that know the details."""
    pipeline = package.load(run_folder, device="cpu")
    pipeline.preset = override(pipeline.preset, {"sampling.renoise": "spectral"})
    plan, numbers = pipeline.plan(), torch.arange(2)
    with pytest.raises(UsageError, match="taken in training"):
        list(pipeline.walk(numbers, plan))
    s = change(pipeline.process)
    x = torch.zeros(2, 3, *pipeline.process.states[s].size)
    assert pipeline.restore(x, s, steps=2).shape == (2, 3, 16, 16)
    refined = [list(pipeline.walk(numbers, plan, refine=lambda predict: predict))[-1][1]]
    pipeline.spectrum = fit_spectrum([torch.randn(50, 3, 16, 16)], pipeline.process)
    refined.append(list(pipeline.walk(numbers, plan, refine=lambda predict: predict))[-1][1])
    assert torch.equal(*refined)


def test_pictures_of_another_size_are_restored_without_spectra(run_folder):
    """Also across a transition: spectra are of the model's own size."""
    pipeline = package.load(run_folder, device="cpu")
    pipeline.preset = override(pipeline.preset, {"sampling.renoise": "spectral", "sampling.correction": 0.5})
    pipeline.spectrum = fit_spectrum([torch.randn(50, 3, 16, 16)], pipeline.process)
    large, top = pipeline.at_size((24, 40)), pipeline.process.T
    x = torch.randn(1, 3, *large.process.states[top].size)
    assert large.restore(x, top, "ddim", steps=5).shape == (1, 3, 24, 40)


def test_details_have_random_numbers_of_their_own(run_folder, monkeypatch):
    pipeline = package.load(run_folder, device="cpu")
    pipeline.preset = override(pipeline.preset, {"sampling.renoise": "spectral"})
    pipeline.spectrum = fit_spectrum([torch.randn(50, 3, 16, 16)], pipeline.process)
    keys = []
    normal = rng.normal
    monkeypatch.setattr(
        rng,
        "normal",
        lambda key, images, step, shape: (keys.append(key), normal(key, images, step, shape))[1],
    )
    list(pipeline.walk(torch.arange(2), pipeline.plan(), seed=7))
    assert set(keys) == {rng.derive(7, "sample"), rng.derive(7, "sample/details")}
    assert keys.count(rng.derive(7, "sample/details")) == 1


def test_matched_presets_have_a_spectrum_for_each_change():
    """Of two, four and six levels."""
    for name in ("celeba64-2l-matched", "celeba64-matched", "celeba256-matched"):
        preset = load_preset(name)
        assert preset.sampling.renoise == "spectral"
        sizes = [state.resolution for state in build_process(preset).states]
        reached = {a for a, b in itertools.pairwise(sizes) if a != b}
        assert set(changes(build_process(preset))) == reached


def gaussian(count, mean=0.2):
    """Images of 8 px and three channels with a known spectrum in every ring, and a mean that is not even."""
    x, _ = coloured(count)
    return x - 0.3 + mean * torch.linspace(-1, 1, 8).double()


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("levels", [1, 2])
def test_a_corrected_chain_draws_images_of_the_right_variance(eta, levels):
    """Few steps at the smallest size, by the best denoiser of Gaussian data."""
    count, where = 1500, {"kind": "ddpm", "levels": 1, "snr_preserving": 0.0}
    if levels == 2:
        where = {"resize": "area", "resolution": {"kind": "log_snr", "at": [6.0]}}
    process = build_process(preset(T=100, **({"resolution": {"kind": "convex_decay"}} | where)))
    x, number = gaussian(count), torch.arange(count)
    spectrum, side = fit_spectrum([gaussian(6000)], process), process.states[-1].resolution
    chain = [t for t in chain_of(process.states, 50) if t > 0 and process.states[t].resolution == side]
    begin, end = process.states[chain[0]], process.states[chain[-1]]
    table, rings = spectrum._tables[side], spectrum.rings[side]
    place = torch.arange(side).double()
    ring = (place[:, None].square() + place.square()).sqrt().round().long()

    def spread(x):
        return table["dct"] @ x @ table["dct"].mT

    def predict(x, t):
        state = process.states[t]
        own = state.signal**2 * rings + state.sigma**2 * torch.eye(3).double()
        weight = (state.signal * torch.linalg.solve(own, rings)).mT[ring]
        best = torch.einsum("ijcd,bdij->bcij", weight, spread(x - state.signal * table["mean"]))
        return table["mean"] + table["dct"].mT @ best @ table["dct"]

    def noise(timestep, shape):
        return rng.normal(11, number, timestep, shape).double()

    def drawn(share):
        def correct(x, t, s):
            return spectrum.correct(process, x, t, s, eta, share)

        x_t = process.marginal(x, chain[0], noise(chain[0], (3, *begin.size)))
        *_, (_, x_s) = eta_family(Walk(process, predict, x_t, chain, noise, eta, correct=correct))
        return x_s - end.signal * table["mean"]

    wanted = end.signal**2 * torch.einsum("kcc->k", rings)[ring] / 3 + end.sigma**2
    plain, half, exact = (spread(drawn(share)).square().mean((0, 1)) for share in (0.0, 0.5, 1.0))
    assert_close(exact, wanted, rtol=0.15, atol=0)
    assert float((plain / wanted).min()) < 0.85
    assert bool((plain < half).all()) and bool((half < exact).all())
    assert_close(drawn(1.0).mean(0), torch.zeros(3, side, side).double(), atol=0.05, rtol=0)
