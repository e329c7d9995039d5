"""In which precision a run computes, and that it goes on in it."""

import os
import signal

import pytest
import torch
from test_resume import final, published, start, wait_for_progress
from trainers import TINY, trainer

import ssdiff
from ssdiff import devices
from ssdiff.config.load import load_preset
from ssdiff.errors import CheckpointError, EmulatedPrecision, Interrupted, UsageError
from ssdiff.evaluation import cost
from ssdiff.training import precision as deciding
from ssdiff.training.precision import LEAST_STEPS, choose_by_probe, probe, settle_precision
from ssdiff.weights.describe import describe_model

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BF16, FP32 = torch.bfloat16, torch.float32
AUTO, ASKED_BF16, ASKED_FP32 = (
    load_preset(TINY, {"training.steps": 1000, "training.precision": name})
    for name in ("auto", "bf16", "fp32")
)


def has_native(monkeypatch, native):
    for module in (devices, deciding):
        monkeypatch.setattr(module, "multiplies_bf16", lambda device: native)


@pytest.mark.parametrize(
    ("native", "device", "preset", "stored", "meta", "expected"),
    [
        (True, CPU, AUTO, None, {}, None),
        (True, CPU, load_preset(TINY, {"training.steps": LEAST_STEPS - 1}), None, {}, FP32),
        (False, CPU, AUTO, None, {}, FP32),
        (True, GPU, AUTO, None, {}, BF16),
        (False, GPU, AUTO, None, {}, FP32),
        # A run of before the precision was recorded.
        (True, CPU, AUTO, AUTO, {}, FP32),
        (True, GPU, AUTO, AUTO, {}, BF16),
        (True, CPU, AUTO, AUTO, {"precision": "bf16"}, BF16),
        (True, CPU, AUTO, AUTO, {"precision": "fp32"}, FP32),
        (True, GPU, AUTO, AUTO, {"precision": "fp32"}, FP32),
        (False, CPU, ASKED_BF16, AUTO, {"precision": "bf16"}, BF16),
        (False, CPU, ASKED_FP32, AUTO, {"precision": "bf16"}, FP32),
        (False, CPU, AUTO, ASKED_BF16, {"precision": "bf16"}, BF16),
        (False, CPU, AUTO, AUTO, {"precision": ["damaged"]}, FP32),
    ],
)
def test_what_is_settled_without_a_probe(monkeypatch, native, device, preset, stored, meta, expected):
    has_native(monkeypatch, native)
    assert settle_precision(preset, stored, meta, device).dtype == expected


@pytest.mark.parametrize("device", [CPU, GPU])
def test_what_auto_began_in_bf16_is_not_continued_where_that_is_emulated(monkeypatch, device):
    has_native(monkeypatch, False)
    with pytest.raises(CheckpointError, match="computes in bf16, as it began") as found:
        settle_precision(AUTO, AUTO, {"precision": "bf16"}, device)
    assert "--precision bf16" in found.value.hint and "--precision fp32" in found.value.hint


def test_a_change_of_precision_and_emulation_are_told(monkeypatch):
    has_native(monkeypatch, False)
    monkeypatch.setattr(deciding, "emulation_note", lambda: "slow")
    assert settle_precision(ASKED_BF16, None, {}, CPU).note == "slow"
    note = settle_precision(ASKED_FP32, AUTO, {"precision": "bf16"}, CPU).note
    assert note == "computes in fp32 from here on, began in bf16"
    assert settle_precision(ASKED_FP32, ASKED_FP32, {"precision": "fp32"}, CPU).note == ""


class Clock:
    """Time that passes while something is computed."""

    def __init__(self, seconds):
        self.now, self.seconds, self.computed = 0.0, seconds, []

    def __call__(self):
        return self.now

    def compute(self, dtype):
        self.computed.append(dtype)
        self.now += self.seconds[dtype].pop(0)


def test_the_quicker_passes_count_after_one_to_warm_up():
    clock = Clock({FP32: [50.0, 4.0, 3.0], BF16: [50.0, 2.0, 9.0]})
    assert probe(clock.compute, lambda: False, clock) == pytest.approx(1.5)
    assert clock.computed == [FP32, BF16] * 3


def test_a_probe_of_what_is_far_slower_ends_at_once():
    clock = Clock({FP32: [1.0], BF16: [30.0]})
    assert probe(clock.compute, lambda: False, clock) == pytest.approx(1 / 30)


def test_a_probe_stops_between_passes():
    computed = []
    with pytest.raises(Interrupted, match="choosing the precision"):
        choose_by_probe(computed.append, lambda: len(computed) == 3)
    assert len(computed) == 3


@pytest.mark.parametrize(("gain", "name"), [(1.3, "bf16"), (1.2, "bf16"), (1.19, "fp32"), (0.1, "fp32")])
def test_bf16_is_chosen_where_it_pays(monkeypatch, gain, name):
    monkeypatch.setattr(deciding, "probe", lambda compute, stop: gain)
    assert choose_by_probe(lambda dtype: None, lambda: False)[0] == name


@pytest.mark.parametrize("error", [RuntimeError("no such primitive"), MemoryError()])
def test_a_probe_that_fails_leaves_fp32_and_says_so(error):
    def compute(dtype):
        if dtype == BF16:
            raise error

    name, note = choose_by_probe(compute, lambda: False)
    assert name == "fp32" and note.startswith("computes in fp32: the probe of bf16 failed")


def test_a_rehearsal_leaves_nothing_behind():
    one, other = trainer(), trainer()
    state = torch.get_rng_state()
    for dtype in (FP32, BF16):
        one.rehearse(dtype)
    assert torch.equal(torch.get_rng_state(), state)
    assert one.precision == FP32 and all(weight.grad is None for weight in one.model.parameters())
    for own in (one, other):
        own.advance()
    assert all(torch.equal(a, b) for a, b in zip(one._weights, other._weights, strict=True))
    assert one.averages() == other.averages()


def test_a_rehearsal_leaves_statistics_of_layers_as_they_were():
    one = trainer()
    one.model.register_buffer("seen", torch.zeros(1))
    one.model.register_forward_pre_hook(lambda module, inputs: module.seen.add_(1) and None)
    one.rehearse(FP32)
    assert float(one.model.seen) == 0


def test_a_rehearsal_is_of_the_largest_size_and_precision_asked_for():
    one, seen = trainer(), []
    one.model.register_forward_pre_hook(
        lambda module, inputs: seen.append((inputs[0].shape[-1], torch.is_autocast_enabled("cpu")))
    )
    for dtype in (FP32, BF16):
        one.rehearse(dtype)
    assert seen == [(16, False), (16, True)]


QUICK = {"training.steps": 4, "training.checkpoint_every": 2, "training.sample_count": 1}


def run(out, **more):
    events = []
    settings = QUICK | {f"training.{key}": more.pop(key) for key in ("steps", "precision") if key in more}
    begun = any((out / "checkpoints").glob("step-*"))
    source = {"resume": out} if begun else {"preset": TINY, "out": out, "resume": "auto"}
    ssdiff.train(**source, overrides=settings, device="cpu", on_event=events.append, **more)
    return [event.text for event in events if event.kind == "note"], final(out)


@pytest.fixture
def native(monkeypatch):
    """A processor that multiplies bf16 natively, on which the probe finds it twice as fast."""
    has_native(monkeypatch, True)
    monkeypatch.setattr(deciding, "LEAST_STEPS", 1)
    monkeypatch.setattr(deciding, "probe", lambda compute, stop: 2.0)


def test_a_run_goes_on_as_a_probe_found_bit_for_bit_without_another(native, monkeypatch, tmp_path):
    notes, straight = run(tmp_path / "straight")
    assert "computes in bf16: bf16 takes 0.50 of the time of fp32 for a step here" in notes
    run(tmp_path / "resumed", steps=2)
    monkeypatch.setattr(deciding, "probe", None)  # it would fail
    _, resumed = run(tmp_path / "resumed")
    assert straight.meta["precision"] == resumed.meta["precision"] == "bf16"
    for kind, part in straight.tensors.items():
        assert all(torch.equal(value, resumed.tensors[kind][name]) for name, value in part.items())
    found = describe_model(tmp_path / "straight")
    assert found.to_dict()["precision"] == "bf16" and "trains in bf16" in str(found)
    plain = final_of_fp32(tmp_path)
    assert not torch.equal(*(next(iter(one.tensors["weights"].values())) for one in (plain, straight)))


def final_of_fp32(tmp_path):
    return run(tmp_path / "fp32", precision="fp32")[1]


def test_another_machine_is_refused_until_asked_and_the_run_stays(native, monkeypatch, tmp_path):
    out = tmp_path / "run"
    run(out, steps=2)
    has_native(monkeypatch, False)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="this processor does not multiply natively"):
        run(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    notes, after = run(out, steps=3, precision="bf16")
    assert after.meta["precision"] == "bf16" and any("emulates it" in note for note in notes)
    notes, after = run(out, precision="fp32")
    assert after.meta["precision"] == "fp32"
    assert "computes in fp32 from here on, began in bf16" in notes


def test_a_run_that_is_stopped_while_it_probes_can_be_started_again(native, monkeypatch, tmp_path):
    out = tmp_path / "run"
    monkeypatch.setattr(deciding, "probe", lambda compute, stop: probe(compute, lambda: True))
    with pytest.raises(Interrupted, match="choosing the precision"):
        run(out, steps=1)
    assert (out / "status.json").read_text().count('"interrupted"') == 1
    monkeypatch.setattr(deciding, "probe", lambda compute, stop: 1.0)
    assert run(out, steps=1)[1].meta["precision"] == "fp32"


def test_a_kill_leaves_the_uninterrupted_result_in_bf16(tmp_path):
    _, straight = run(tmp_path / "straight", steps=3, precision="bf16")
    out = tmp_path / "killed"
    less = ("--set", "training.steps=3", "--set", "training.sample_count=1", "--precision", "bf16")
    process = start(out, *less)
    wait_for_progress(process, out, [])
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert published(out)
    _, resumed = run(out, steps=3)
    assert resumed.step == 3 and resumed.meta["precision"] == "bf16"
    for kind, part in straight.tensors.items():
        assert all(torch.equal(value, resumed.tensors[kind][name]) for name, value in part.items())


@pytest.mark.parametrize(
    ("native", "parameters", "expected"),
    [(True, 92_000_000, BF16), (True, 2_000_000, FP32), (True, 0, FP32), (False, 92_000_000, FP32)],
)
def test_auto_draws_in_bf16_with_large_networks_on_processors_that_multiply_it(
    monkeypatch, native, parameters, expected
):
    has_native(monkeypatch, native)
    assert devices.pick_precision("auto", CPU, parameters) == expected


def test_a_pipeline_is_loaded_in_what_its_size_asks_for(monkeypatch):
    assert ssdiff.load("shapes32", device="cpu").precision == FP32
    has_native(monkeypatch, True)
    assert ssdiff.load("shapes32", device="cpu").precision == FP32
    monkeypatch.setattr(devices, "LARGE_NETWORK", 1_000_000)
    assert ssdiff.load("shapes32", device="cpu").precision == BF16
    assert ssdiff.load("shapes32", device="cpu", precision="fp32").precision == FP32


def test_emulated_bf16_works_and_is_warned_of(monkeypatch):
    has_native(monkeypatch, False)
    with pytest.warns(EmulatedPrecision, match="emulates it: .* times as long as in fp32"):
        assert devices.pick_precision("bf16", CPU) == BF16
    with pytest.raises(UsageError, match="unknown precision"):
        devices.pick_precision("fp8", CPU)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "bf16"])
def test_what_a_processor_says_of_itself(monkeypatch, name):
    for found, expected in (({name: True}, True), ({name: False, "avx512_f": True}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert devices.multiplies_bf16(CPU) is expected
    assert not devices.multiplies_bf16(torch.device("mps"))


def test_older_pytorch_is_asked_in_another_way(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not devices.multiplies_bf16(CPU)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert devices.multiplies_bf16(CPU)


def test_a_dry_run_measures_what_the_run_would_take(native, monkeypatch):
    monkeypatch.setattr(cost, "_DRY_RUN_SECONDS", 0.1)
    expected = cost.dry_run(load_preset(TINY), "cpu")
    assert expected.to_dict()["precision"] == "bf16" and "precision      bf16: computes in bf16" in str(
        expected
    )
