"""The planner: statistics, closed-form chains against simulation, the search, the command."""

import csv
import itertools
import math

import pytest
import torch
from conftest import TINY
from eightpixels import SIDES, by_area, ddpm, images, preset
from PIL import Image
from torch.testing import assert_close

import ssdiff
from ssdiff import rng
from ssdiff.analysis.data_moments import measure_moments
from ssdiff.analysis.sampler_error import ExactChains, spectral_distance
from ssdiff.analysis.schedule_plan import plan_schedule
from ssdiff.analysis.schedule_search import (
    Outcome,
    Search,
    Setting,
    chain_flops,
    chain_of,
    front,
    mean_step_flops,
)
from ssdiff.build import build_process, build_states
from ssdiff.config.load import load_preset
from ssdiff.errors import DataError, OutputError, PresetError, ProcessError, UsageError
from ssdiff.operators import matrices
from ssdiff.sampling.gaussian import eta_family
from ssdiff.sampling.walk import Walk

PATHS = {(8, 8): 100, (4, 8): 120, (4, 4): 30}


def test_statistics_are_those_of_the_whole_set():
    x = images()
    model = measure_moments(x.split(150), SIDES, covariance=True)
    flat = x.flatten(1)
    assert_close(model.covariance, torch.cov(flat.mT, correction=0))
    basis = matrices.dct(8)
    assert_close(model.spectra[8], (basis @ x @ basis.mT)[:, 0].var(0, correction=0))
    small = torch.nn.functional.interpolate(x, 4, mode="bilinear", antialias=True)
    basis = matrices.dct(4)
    assert_close(model.spectra[4], (basis @ small @ basis.mT)[:, 0].var(0, correction=0))
    assert model.total == pytest.approx(float(model.covariance.trace()))
    assert model.octaves == {
        8: pytest.approx(float(model.spectra[8].sum() - model.spectra[8][:4, :4].sum()) / 64)
    }


def test_colours_count_by_their_luma():
    colour = torch.rand(20, 3, 8, 8, dtype=torch.float64)
    luma = (colour * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(
        1, keepdim=True
    )
    ours, theirs = (measure_moments([x], SIDES, covariance=False) for x in (colour, luma))
    assert_close(ours.spectra[8], theirs.spectra[8])
    assert ours.covariance is None
    with pytest.raises(ProcessError, match="needs the covariance"):
        ExactChains(ours)


@pytest.mark.parametrize("x", [torch.zeros(1, 1, 8, 8), torch.zeros(5, 1, 8, 8)])
def test_nothing_to_measure(x):
    with pytest.raises(DataError, match=r"at least 2|all equal"):
        measure_moments([x], SIDES, covariance=False)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("make", [preset, by_area, ddpm])
def test_the_closed_form_is_what_the_sampler_does(make, eta):
    """The output of the real sampler with the linear MMSE denoiser, on many images of noise."""
    model = measure_moments([images(4000)], SIDES, covariance=True)
    process = build_process(make())
    states = process.states
    chain = chain_of(states, 6)
    covariance = model.covariance

    def resize(t):
        eye = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
        return process.degrade(eye, t).flatten(1).mT

    def predict(x, t):
        now, small, large = states[t], resize(t), resize(t - 1)
        own = now.signal**2 * small @ covariance @ small.mT
        own.diagonal().add_(now.sigma**2)
        weight = now.signal * torch.linalg.solve(own, small @ covariance @ large.mT).mT
        return (x.flatten(1) @ weight.mT).reshape(len(x), 1, *states[t - 1].size)

    numbers = torch.arange(20_000)

    def noise(t, shape):
        return rng.normal(5, numbers, t, shape).double()

    start = states[process.T].sigma * noise(process.T, (1, *states[process.T].size))
    *_, (_, x) = eta_family(Walk(process, predict, start, chain, noise, eta))
    found = torch.cov(x.flatten(1).mT)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    overlap = torch.linalg.eigvalsh(root @ found @ root).clamp_min(0).sqrt().sum()
    simulated = float(covariance.trace() + found.trace() - 2 * overlap) / model.total
    exact = ExactChains(model).distance(process, chain, eta)
    assert exact == pytest.approx(simulated, rel=0.1, abs=2e-3)
    assert exact > 1e-3


@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("make", "near"), [(ddpm, 0.02), (preset, 0.2), (by_area, 0.2)])
def test_the_approximation_is_near_for_stationary_data(make, near, steps, eta):
    process = build_process(make())
    model = measure_moments([images(50_000)], SIDES, covariance=True, resize=process.resize_matrix)
    exact = ExactChains(model).distance(process, chain := chain_of(process.states, steps), eta)
    assert spectral_distance(model, process.states, chain, eta) == pytest.approx(exact, rel=near)


def test_matched_noise_by_area_is_the_full_process_seen_at_a_smaller_size():
    """White noise stays white, so a change loses nothing that the smaller image tells."""
    process, full = build_process(by_area()), build_process(ddpm())
    change = next(t for t in range(1, 21) if process.states[t].size == (4, 4))
    for t in range(change, 19):  # the last ones are noisier, down to final_snr
        ours, theirs, rows = process.states[t], full.states[t], matrices.area(8, 4)
        covariance = theirs.sigma**2 * torch.kron(rows @ rows.mT, rows @ rows.mT) / theirs.signal**2
        assert_close(covariance, (ours.sigma / ours.signal) ** 2 * torch.eye(16, dtype=torch.float64))
    x = images(3)
    reduced = process.reduction((4, 4)).apply(x)
    assert_close(reduced, torch.nn.functional.avg_pool2d(x, 2))


def test_one_step_from_pure_noise_gives_the_mean_alone():
    """x_0 = E[x_0 | x_T] of hardly any signal: the distance is almost the whole variance."""
    model = measure_moments([images()], SIDES, covariance=True)
    process = build_process(ddpm())
    for value in (
        spectral_distance(model, process.states, [20, 0], 0.0),
        ExactChains(model).distance(process, [20, 0], 0.0),
    ):
        assert 0.9 < value < 1


def test_costs():
    states = build_states(preset())
    counts = [(b.resolution, a.resolution) for a, b in itertools.pairwise(states)]
    expected = sum(PATHS[path] for path in counts) / 20
    assert mean_step_flops(states, PATHS) == pytest.approx(expected)
    chain = chain_of(states, 20)
    assert chain == list(range(20, -1, -1))
    assert chain_flops(states, chain, PATHS) == pytest.approx(20 * expected)


def test_the_search_finds_the_best_affordable_schedule():
    model = measure_moments([images()], SIDES, covariance=False)
    settings = [Setting(5, 0.0), Setting(10, 1.0)]
    search = Search(
        model,
        lambda at: build_states(preset(resolution={"kind": "log_snr", "at": list(at)})),
        settings,
        PATHS,
    )
    told = []
    best = search.best(1, 80.0, told.append)
    assert best.flops <= 80 and told == sorted(told) and len(search.tried) > 10
    affordable = [outcome for outcome in search.tried if outcome.flops <= 80]
    assert best.distance == min(outcome.distance for outcome in affordable)
    logs = [
        math.log(spectral_distance(model, states, chain_of(states, one.steps), one.eta))
        for states in [build_states(preset(resolution={"kind": "log_snr", "at": list(best.at)}))]
        for one in settings
    ]
    assert best.distance == pytest.approx(math.exp(sum(logs) / 2))
    with pytest.raises(ProcessError, match="raise the budget"):
        search.best(1, 1.0)


@pytest.mark.parametrize("kind", [PresetError, ProcessError])
def test_thresholds_that_make_no_schedule_are_left_out(kind):
    def states(at):
        if at[0] < -1.5:
            raise kind("a transition is never reached")
        return build_states(preset(resolution={"kind": "log_snr", "at": list(at)}))

    search = Search(measure_moments([images()], SIDES, covariance=False), states, [Setting(5, 0.0)], PATHS)
    assert search.best(1, 120.0).at[0] >= -1.5
    assert all(outcome.at[0] >= -1.5 for outcome in search.tried)


def test_the_front_has_no_schedule_that_a_cheaper_one_beats():
    found = [Outcome((), distance, flops) for flops, distance in ((1, 9), (2, 4), (3, 6), (4, 2), (4, 3))]
    assert [(one.flops, one.distance) for one in front(found)] == [(1, 9), (2, 4), (4, 2)]


@pytest.fixture
def plan(result, tmp_path):
    def call(*more):
        small = ("--preset", TINY, "--set", "process.snr_preserving=1.0")
        small += ("--set", 'process.resolution={kind="log_snr", at=[-1.0]}')
        return result("eval", "schedule", *small, "--images", 300, "--out", tmp_path / "plan", *more)

    return call


def test_the_command(plan, result, tmp_path):
    values = plan("--steps", "3,6", "--eta", "0,1", "--budget", 0.7, "--exact")
    names = [row["schedule"] for row in values["rows"]]
    assert names[0] == "DDPM" and names[1] == "published, 2 levels" and names[-1] == "matched, planned"
    full, planned = values["rows"][0], values["rows"][-1]
    assert planned["gflops_a_step"] <= 0.7 * full["gflops_a_step"]
    assert [(part["steps"], part["eta"]) for part in planned["settings"]] == [(3, 0), (3, 1), (6, 0), (6, 1)]
    assert all(part["exact_distance"] > 0 for row in values["rows"] for part in row["settings"])
    with open(tmp_path / "plan/schedule.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * len(names)
    assert float(lines[-1]["distance"]) == planned["settings"][-1]["distance"]
    assert Image.open(tmp_path / "plan/schedule.png").width > 500
    made = load_preset(tmp_path / "plan/planned.toml")
    assert list(made.process.resolution.at) == values["planned"] and made.process.snr_preserving == 1
    assert made.process.resize == "area"
    assert result("train", "--preset", tmp_path / "plan/planned.toml", "--dry-run", "--device", "cpu")


def test_bars_on_a_terminal(plan, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's word for one
    assert plan("--steps", 3, "--no-exact")["rows"]


def test_published_schedules_are_evaluated_by_their_own_resize(plan):
    """Whatever the preset's."""
    own, area = (
        plan("--steps", 3, "--overwrite", "--set", f"process.resize={name}") for name in ("bilinear", "area")
    )
    rows = [{row["schedule"]: row["settings"] for row in found["rows"]} for found in (own, area)]
    for name in ("DDPM", "published, 2 levels", "matched, planned"):
        assert rows[0][name] == rows[1][name]
    assert rows[0]["matched, tiny"] != rows[1]["matched, tiny"]


def test_added_details_count_but_are_not_planned_with(plan):
    """Random details are as good as true ones for Gaussian data: a plan with them would have nothing else."""
    without, added = (
        plan("--steps", 10, "--no-exact", "--overwrite", "--set", f"sampling.renoise={details}")
        for details in ("predicted", "spectral")
    )
    assert without["planned"] == added["planned"]
    for name in ("DDPM", "published, 2 levels"):
        assert [row for row in without["rows"] if row["schedule"] == name] == [
            row for row in added["rows"] if row["schedule"] == name
        ]
    ours = [values["rows"][-1]["settings"][0]["distance"] for values in (without, added)]
    assert ours[0] != ours[1]


def test_the_cost_of_training_counts_the_batches_that_are_drawn(plan):
    uniform, drawn = (
        plan("--steps", 3, "--no-exact", "--budget", 0.9, "--overwrite", *more)["rows"]
        for more in (
            ("--set", "training.transition_share=0.2"),
            ("--set", "training.timesteps=log_snr", "--set", "training.log_snr_mean=2"),
        )
    )
    for row in (uniform[0], drawn[0]):
        assert row["training_gflops"] == pytest.approx(row["gflops_a_step"]), "DDPM has one size"
    own = {"process.snr_preserving": 1.0, "process.resolution": {"kind": "log_snr", "at": [-1.0]}}
    sets = {"training.timesteps": "log_snr", "training.log_snr_mean": 2.0}
    for rows, more in ((uniform, {"training.transition_share": 0.2}), (drawn, sets)):
        cost = ssdiff.cost(load_preset(TINY, own | more), steps=3)
        [row] = [row for row in rows if row["schedule"] == "matched, tiny"]
        assert row["training_gflops"] == pytest.approx(cost.forward_flops / 1e9)
        assert row["training_gflops"] != pytest.approx(row["gflops_a_step"])


def test_a_schedule_that_leaves_a_size_without_batches_has_no_cost_of_training(plan):
    sets = ("--set", "training.timesteps=log_snr", "--set", "training.log_snr_mean=-2.5")
    values = plan(
        "--steps", 3, "--no-exact", "--budget", 1, "--overwrite", *sets, "--set", "training.log_snr_std=0.4"
    )
    published, planned = values["rows"][1], values["rows"][-1]
    assert published["training_gflops"] is None and planned["training_gflops"] > 0


def test_what_is_trained_and_moved_beyond_transitions_does_not_stop_a_plan(plan):
    sets = ("training.overlap_share=0.2", "sampling.lift=linear", "sampling.transitions=[-1.5]")
    more = [part for setting in sets for part in ("--set", setting)]
    plain = plan("--steps", 3, "--no-exact", "--budget", 0.8)["rows"]
    rows = plan("--steps", 3, "--no-exact", "--budget", 0.8, "--overwrite", *more)["rows"]
    assert [row["schedule"] for row in rows] == [row["schedule"] for row in plain]
    assert rows[0] == plain[0] and rows[1] == plain[1]


def test_a_plan_crosses_as_sampling_does_and_says_that_nothing_is_corrected(plan, ssdiff, tmp_path):
    crossed = ("--set", "sampling.crossing=timestep")
    plain = plan("--steps", 5, "--no-exact", "--budget", 0.8)["rows"]
    rows = plan("--steps", 5, "--no-exact", "--budget", 0.8, "--overwrite", *crossed)["rows"]
    assert rows[0] == plain[0] and rows[1] == plain[1], "DDPM and the published one"
    assert rows[2:] != plain[2:]
    more = ("--set", "sampling.correction=0.5", "--out", tmp_path / "other")
    code, out, err = ssdiff("eval", "schedule", "--preset", TINY, "--steps", 3, "--budget", 0.8, *more)
    assert code == 0 and "without sampling.correction" in out, err


def test_existing_files_stay(plan, ssdiff, tmp_path):
    plan("--steps", 3, "--no-exact")
    before = (tmp_path / "plan/schedule.csv").read_bytes()
    code, _, err = ssdiff("eval", "schedule", "--preset", TINY, "--steps", 3, "--out", tmp_path / "plan")
    assert code == 2 and "--overwrite" in err
    assert (tmp_path / "plan/schedule.csv").read_bytes() == before
    assert plan("--steps", 4, "--no-exact", "--overwrite")["rows"][0]["settings"][0]["exact_distance"] is None


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--preset", "ddpm-celeba64"), 2, "no resolution transitions to plan"),
        (("--preset", "cold-mask-cifar10"), 2, "no resolution transitions to plan"),
        (("--budget", 0), 2, "budget must be above 0 and at most 1"),
        (("--budget", 1.5), 2, "budget must be above 0 and at most 1"),
        (("--budget", 0.01), 2, "raise the budget"),
        (("--images", 1), 2, "images must be at least 2"),
        (("--steps", "0"), 2, "steps must be whole numbers within 1..1000"),
        (("--steps", "5,x"), 2, "--steps takes numbers between commas"),
        (("--eta", "1.5"), 2, "eta must be within 0..1"),
        (("--preset", "celeba128", "--exact"), 2, "the exact distance goes up to 64 px"),
        (("--data", "gone"), 3, "no data set"),
    ],
)
def test_refusals(ssdiff, tmp_path, options, code, message):
    out = tmp_path / "out"
    small = () if "--preset" in options or "--steps" in options else ("--preset", TINY, "--steps", 2)
    done, _, err = ssdiff("eval", "schedule", *small, *options, "--out", out)
    assert done == code and message in err
    assert not out.exists()


@pytest.fixture(scope="module")
def planned():
    """A plan for a tensor of images, and what its progress told."""
    told = []
    made = plan_schedule(
        images(60, 16).float().clamp(-1, 1),
        small_preset(),
        steps=(3,),
        eta=[0.0],
        budget=0.8,
        progress=lambda *what: told.append(what),
    )
    return made, told


def small_preset():
    resolution = {"kind": "log_snr", "at": [-1.0]}
    return load_preset(TINY, {"process.snr_preserving": 1.0, "process.resolution": resolution})


def test_the_function_plans_for_a_tensor(planned):
    made, told = planned
    assert [row.name for row in made.rows] == [
        "DDPM",
        "published, 2 levels",
        "matched, tiny",
        "matched, planned",
    ]
    assert made.preset.name == "tiny-planned" and made.preset.process.resolution.at == made.planned.at
    assert made.planned.flops <= 0.8 * made.rows[0].flops
    assert made.rows[0].sampled[0].exact_distance is not None  # 16 px
    assert made.images == 60 and list(made.octave_variances) == [16]
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["statistics", "searching", "comparing"]
    assert told[-1] == ("comparing", 4, 4)
    lines = made.table().splitlines()
    assert lines[2].split()[0] == "schedule" and lines[-1].startswith("planned: ")


def test_a_plan_shows_itself_in_a_notebook(planned):
    shown, picture = planned[0]._repr_html_(), planned[0].plot()
    assert isinstance(shown, str) and shown.count("<table") == 1 and "matched, planned" in shown
    assert shown.count("data:image/png;base64,") == 2  # one eta, and the search
    assert isinstance(picture, bytes) and picture.startswith(b"\x89PNG")


def test_a_plan_is_saved_once(planned, tmp_path):
    paths = planned[0].save(tmp_path / "new" / "plan")
    assert [path.name for path in paths] == ["schedule.csv", "schedule.png", "planned.toml"]
    assert load_preset(paths[2]).process.resolution == planned[0].preset.process.resolution
    with pytest.raises(OutputError, match="exists"):
        planned[0].save(tmp_path / "new" / "plan")
    assert planned[0].save(tmp_path / "new" / "plan", overwrite=True) == paths


NAMED = "shapes"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(5, 16, 16), TINY), UsageError, r"data must be a tensor \(N, C, R, R\)"),
        ((torch.zeros(5, 2, 16, 16), TINY), UsageError, r"C 1 or 3, not \(5, 2, 16, 16\)"),
        ((torch.zeros(5, 1, 32, 32), TINY), UsageError, "images of 32 px, but 16 px are asked for"),
        ((torch.zeros(5, 1, 16, 16, dtype=torch.uint8), TINY), UsageError, "x / 127.5 - 1"),
        ((torch.full((5, 1, 16, 16), 2.0), TINY), DataError, r"must lie in \[-1, 1\], not 2..2"),
        ((torch.full((5, 1, 16, 16), math.nan), TINY), DataError, "not finite"),
        ((torch.zeros(5, 1, 16, 16), TINY), DataError, "all equal"),
        ((torch.rand(1, 1, 16, 16), TINY), DataError, "at least 2 images"),
        ((3, TINY), UsageError, "data cannot be int"),
        ((None, "celeba64-2l", {"images": 1}), UsageError, "images must be at least 2"),
        ((NAMED, "celeba46"), PresetError, "did you mean celeba64"),
        ((NAMED, "cold-mask-cifar10"), UsageError, "no resolution transitions to plan"),
        ((NAMED, TINY, {"steps": [2], "budget": math.nan}), UsageError, "budget must be a number, not nan"),
        ((NAMED, TINY, {"steps": ()}), UsageError, "steps must be a list"),
        ((NAMED, TINY, {"steps": 3}), UsageError, "steps must be a list"),
        ((NAMED, TINY, {"steps": [2.5]}), UsageError, "steps must be whole numbers within 1..20, not 2.5"),
        ((NAMED, TINY, {"steps": [math.inf]}), UsageError, "steps must be whole numbers"),
        ((NAMED, TINY, {"steps": [2], "eta": ["x"]}), UsageError, "eta must be within 0..1"),
    ],
    ids=range(18),
)
def test_refusals_of_the_function(arguments, error, words):
    data, preset, options = (*arguments, {"steps": [2], "budget": 0.9})[:3]
    with pytest.raises(error, match=words):
        plan_schedule(data, preset, **options)
