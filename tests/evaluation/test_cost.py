"""`ssdiff eval cost`: what is counted, what is measured, and where the settings come from."""

import gc
import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch._dynamo
from conftest import TINY

import ssdiff
from ssdiff.build import build_model, build_process
from ssdiff.config.load import load_preset
from ssdiff.errors import UsageError
from ssdiff.evaluation import flops, timing
from ssdiff.models.flexi_unet import FlexiUNet
from ssdiff.sampling.plan import make_plan

CPU = ("--device", "cpu")


def close(value, rel=1e-6):
    return pytest.approx(value, rel=rel)


def total(values, weight, *keys):
    """Sum over paths of a weight times a number further down."""
    result = 0.0
    for path in values["paths"]:
        number = path
        for key in keys:
            number = number[key]
        result += path[weight] * number
    return result


def test_averages_of_the_published_model(result):
    values = result("eval", "cost", "celeba64", "--no-timing")
    same = {p["in"][0]: p["gflops"] for p in values["paths"] if p["in"] == p["out"]}
    for side, published in {64: 56.7, 32: 34.4, 16: 16.3, 8: 5.0}.items():  # published [SSD, section 4]
        assert same[side] == pytest.approx(published, abs=0.06)
    assert total(values, "training_share", "gflops") == close(values["training"]["forward_gflops"])
    assert values["training"]["gflops"] == close(3 * 39.0, 1e-3)
    assert sum(p["training_share"] for p in values["paths"]) == close(1)
    assert sum(p["sampling_share"] for p in values["paths"]) == close(1)
    sampling = values["sampling"]
    assert sampling["steps"] == sum(p["sampling_steps"] for p in values["paths"]) == 252
    assert total(values, "sampling_steps", "gflops") == close(sampling["gflops_per_image"])
    assert sampling["gflops_per_step"] == close(sampling["gflops_per_image"] / 252)
    used = [p["parameters"] for p in values["paths"]]
    assert used == sorted(used, reverse=True) and used[0] < values["parameters"] == 92_256_131
    assert "batch" not in values and "ms_per_step" not in values["training"]


def test_guidance_doubles_a_step(result):
    plain, guided = (
        result("eval", "cost", TINY, "--no-timing", "--steps", 4, "--set", f"sampling.guidance={weight}")
        for weight in (1, 2)
    )
    assert guided["sampling"]["gflops_per_image"] == close(2 * plain["sampling"]["gflops_per_image"])
    assert guided["paths"] == plain["paths"]
    assert plain["sampling"]["steps"] == 5  # 4, and the resolution transition


def test_parameters_used_are_those_that_learn():
    """A weight is used on a path if and only if the loss of that path has a gradient for it."""
    preset = load_preset(TINY)
    model, process = build_model(preset), build_process(preset)
    for path in flops.path_costs(model, process, 3, preset.model.classes):
        model.zero_grad(set_to_none=True)
        x = torch.zeros(1, 3, path.resolution, path.resolution)
        zero = torch.zeros(1, dtype=torch.int64)
        model(x, zero, path.wanted, zero).sum().backward()
        learning = sum(weight.numel() for weight in model.parameters() if weight.grad is not None)
        assert path.parameters == learning


@pytest.fixture(scope="module")
def measured(tmp_path_factory, home):
    from ssdiff.cli import run

    out = tmp_path_factory.mktemp("cost") / "cost.json"
    sets = ("--set", "sampling.guidance=2")
    code = run(
        ["eval", "cost", str(TINY), "--batch", "2", "--seconds", "1", *sets, *CPU, "--out", str(out), "-q"]
    )
    assert code == 0
    return json.loads(out.read_bytes())


def test_utilisation_is_plausible(measured):
    assert measured["batch"] == 2 and measured["device"] == "cpu" and measured["precision"] == "fp32"
    assert measured["compiled"] is False
    assert measured["matrix_peak_tflops"] > 1e-4
    parts = [path[kind] for path in measured["paths"] for kind in ("training", "sampling")]
    for part in [*parts, measured["training"], measured["sampling"]]:
        assert 0 < part["utilisation"] < 1.2
    assert all(part["repeats"] >= 1 for part in parts)


def test_times_add_up(measured):
    training, sampling = measured["training"], measured["sampling"]
    assert total(measured, "training_share", "training", "ms") == close(training["ms_per_step"])
    assert total(measured, "sampling_steps", "sampling", "ms") == close(1e3 * sampling["seconds_per_batch"])
    assert sampling["ms_per_step"] == close(1e3 * sampling["seconds_per_batch"] / sampling["steps"])
    peak = 1e3 * measured["matrix_peak_tflops"]  # GFLOP/s
    for path in measured["paths"]:
        for kind, passes in (("training", 3), ("sampling", 2)):
            rates = path[kind]
            assert rates["images_per_second"] == close(2e3 / rates["ms"])
            done = passes * path["gflops"] * rates["images_per_second"]
            assert rates["utilisation"] == close(done / peak)
    assert training["images_per_second"] == close(2e3 / training["ms_per_step"])
    assert sampling["utilisation"] == close(
        sampling["gflops_per_image"] * sampling["images_per_second"] / peak
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "process.kind": "cold",
            "process.levels": 1,
            "process.snr_preserving": 0.0,
            "process.degradation": {"kind": "animorph"},
            "sampling.sampler": "alg2",
        },
    ],
    ids=["ssd", "animorphosis"],
)
def test_each_path_is_taken_as_in_real_work(monkeypatch, changes):
    """Training with gradients, at a batch; sampling without; both along every path and no other."""
    seen = {True: set(), False: set()}
    forward = FlexiUNet.forward

    def spy(self, x, index, resolution, labels=None):
        assert len(x) == len(index) == 3
        seen[self.training and torch.is_grad_enabled()].add((x.shape[-1], resolution))
        return forward(self, x, index, resolution, labels)

    monkeypatch.setattr(FlexiUNet, "forward", spy)
    preset = load_preset(TINY, changes)
    process, told = build_process(preset), []
    plan = make_plan(preset, process)
    done = timing.measure_costs(
        preset, plan, torch.device("cpu"), torch.float32, 3, 0.01, lambda: told.append(1)
    )
    paths = set(flops.paths_of(process))
    assert seen == {True: paths, False: paths}
    assert set(done.training) == set(done.sampling) == paths and len(told) == 2 * len(paths)


def test_the_compiler_has_done_its_work_before_the_clock_starts(monkeypatch):
    """Graphs are only traced here; generating code for them would take minutes."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    graphs, time_step = [], timing.time_step

    def spy(*given):
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        timing = time_step(*given)
        graphs.append((before, torch._dynamo.utils.counters["stats"]["unique_graphs"]))
        return timing

    monkeypatch.setattr(timing, "time_step", spy)
    preset = load_preset(TINY, {"training.compile": True})
    process = build_process(preset)
    plan = make_plan(preset, process)
    timing.measure_costs(preset, plan, torch.device("cpu"), torch.float32, 2, 0.01, lambda: None)
    sampling, training = graphs[:-3], graphs[-3:]
    assert len(flops.paths_of(process)) == len(sampling) == 3
    assert training[0][0] >= sampling[-1][1] + 3
    assert {after for _, after in graphs[3:]} == {training[0][0]}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_memory_is_that_of_the_largest_moment():
    def measured():
        gc.collect()  # what others have left must not be freed meanwhile
        memory = timing._Memory(torch.device("cpu"))
        large = torch.ones(64, 1 << 20)
        with_it = memory.peak() / large.nbytes
        assert large.sum() == 64 << 20
        del large
        after = memory.peak()
        memory.restart()
        return with_it > 0.9 and after > 200e6 and memory.peak() < 100e6

    # A system that takes pages back from idle processes may do so at any moment.
    assert any(measured() for _ in range(5))


def test_the_peak_is_that_of_the_fastest_product(monkeypatch):
    times = iter([0.001, 0.005, 0.04, 0.03, 0.02, 0.05])
    clock = iter(range(10))
    monkeypatch.setattr(timing, "_product", lambda side, device, dtype: next(times))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    peak = timing.matrix_peak(torch.device("cpu"), torch.float32, 4)
    assert peak == close(2 * 2048**3 / 0.02)  # 512 and 1024 were too short to time
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_batch_shrinks_to_fit_the_time():
    costs = [flops.PathCost(8, 8, 1.0, 1_000_000, 0, 0)]
    # Two passes of 1 + 3 MFLOP an image, at 0.3 of the peak.
    for seconds, batch in ((100.0, 64), (64.0, 64), (63.0, 32), (4.0, 4), (0.1, 1)):
        assert timing.affordable_batch(costs, 8e6 / 0.3, seconds, 64) == batch


def test_default_is_the_bundled_model(ssdiff, monkeypatch, tmp_path):
    monkeypatch.setenv("SSDIFF_HOME", str(tmp_path))
    code, out, err = ssdiff("eval", "cost", "--no-timing")
    assert code == 0 and "no run yet" in err
    assert "2.15 M parameters" in out and "32 ->   32" in out and "10 steps" in out


def test_sources(result, run_folder, tmp_path):
    wider = ("--no-timing", "--set", "model.width=32")
    checkpoint = max((run_folder / "checkpoints").iterdir())
    of_preset, of_run, of_checkpoint = (
        result("eval", "cost", source, *wider) for source in (TINY, run_folder, checkpoint)
    )
    assert of_run == of_preset == of_checkpoint
    assert of_run["parameters"] > 3 * sum(map(torch.numel, build_model(load_preset(TINY)).parameters()))


def test_what_is_returned_prints_and_shows_itself(result):
    preset = load_preset(TINY)
    found = ssdiff.cost(preset, steps=3)
    assert found.to_dict() == result("eval", "cost", TINY, "--steps", 3, "--no-timing")
    assert (
        found.measured is None
        and found.sampling_flops == 1e9 * found.to_dict()["sampling"]["gflops_per_image"]
    )
    assert str(found).startswith("tiny: ") and "GFLOPs" in str(found)
    assert found._repr_html_().count("<tr>") == 1 + len(found.paths)
    stages = []
    timed = ssdiff.cost(
        preset,
        steps=3,
        batch=1,
        measure=True,
        seconds=0.1,
        device="cpu",
        progress=lambda *told: stages.append(told),
    )
    assert timed.measured.batch == 1 and timed.measured.device == "cpu"
    assert {stage for stage, *_ in stages} == {"measuring"} and stages[-1][1] == stages[-1][2]
    assert timed._repr_html_().count("<th>") == 11 and "measured on cpu" in str(timed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 0}, "above 0"),
        ({"batch": 0}, "at least 1"),
        ({"precision": "fp8", "measure": True}, "choose auto, fp32 or bf16"),
        ({"steps": 21}, "20"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(UsageError, match=message):
        ssdiff.cost(load_preset(TINY), device="cpu", **changes)


def test_faults(ssdiff, tmp_path):
    taken = tmp_path / "cost.json"
    taken.write_text("mine")
    for arguments, expected, word in (
        ((tmp_path / "nothing",), 4, "no run or model"),
        ((tmp_path,), 4, "manifest"),
        (("celeba65",), 2, "celeba64"),
        ((TINY, "--out", taken), 2, "--overwrite"),
        ((TINY, "--out", tmp_path / "cost.txt"), 2, ".json"),
        ((TINY, "--seconds", "0"), 2, "seconds to measure must be above 0"),
        ((TINY, "--batch", "0"), 2, "batch must be at least 1"),
        ((TINY, "--steps", "21"), 2, "20"),
        ((TINY, "--precision", "fp8"), 2, "bf16"),
        ((TINY, "--set", "model.widht=3"), 2, "model.width"),
    ):
        code, out, err = ssdiff("eval", "cost", *arguments, *CPU)
        assert (code, out) == (expected, "") and word in err, arguments
    assert taken.read_text() == "mine"
