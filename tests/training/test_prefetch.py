"""Batches that a thread makes ahead are those that would have been made."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_patches import noise, pictures
from trainers import IMAGES, LABELS, TINY

import ssdiff
from ssdiff.build import build_model, build_process
from ssdiff.config.load import load_preset
from ssdiff.distributed import World
from ssdiff.errors import NonFiniteError
from ssdiff.training.batches import Batches
from ssdiff.training.patches import Patches
from ssdiff.training.prefetch import Prefetch
from ssdiff.training.trainer import Trainer

CPU = torch.device("cpu")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_values_are_those_of_the_function_in_any_order(counters, ahead):
    values = Prefetch(lambda counter: counter**2, ahead)
    assert [values(counter) for counter in counters] == [counter**2 for counter in counters]
    values.close()


def test_the_next_values_are_made_while_one_is_in_use_and_no_more():
    made, go = [], threading.Semaphore(0)

    def make(counter):
        go.acquire()
        made.append(counter)
        return counter

    go.release(3)
    values = Prefetch(make, 2)
    assert values(7) == 7
    until = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    go.release(5)
    time.sleep(0.02)
    assert made == [7, 8, 9], "two wait, whatever time there is"
    values.close()


def test_an_error_is_that_of_the_value_that_was_asked_for():
    def make(counter):
        if counter == 2:
            raise NonFiniteError("the third")
        return counter

    values = Prefetch(make, 2)
    assert (values(0), values(1)) == (0, 1)
    with pytest.raises(NonFiniteError, match="the third"):
        values(2)
    assert values(3) == 3
    values.close()


def test_closing_ends_the_thread_and_drops_what_waits():
    made = []

    def make(counter):
        made.append(counter)
        time.sleep(0.05)
        return counter

    values = Prefetch(make, 50)
    values(0)
    values.close()
    assert len(made) < 5 and threads() == []


def batches(kind, ahead):
    source = Patches(pictures(noise((50, 60), (30, 70))), (0.5, 1.0), 0) if kind == "patches" else IMAGES
    labels = None if kind == "patches" else LABELS
    crop = {"crop": 12, "padding": 2} if kind == "crops" else {}
    return Batches(source, labels, CPU, World(), 4, 0, flip=True, classes=8, ahead=ahead, **crop)


@pytest.mark.parametrize("kind", ["images", "crops", "patches"])
def test_batches_are_the_same_bits(kind):
    plain, ahead = batches(kind, 0), batches(kind, 3)
    for counter in (0, 1, 2, 3, 9, 10, 4, 2**32 + 1):
        (images, labels), (others, same) = plain(counter), ahead(counter)
        assert torch.equal(images, others) and torch.equal(labels, same)
    ahead.close()


def test_a_training_is_the_same_and_resumes_exactly():
    def make(ahead):
        preset = load_preset(TINY)
        torch.manual_seed(0)
        model = build_model(preset)
        return Trainer(preset.training, build_process(preset), model, batches("images", ahead))

    plain, ahead, resumed = make(0), make(2), make(2)
    for one, steps in ((plain, 4), (ahead, 2)):
        for _ in range(steps):
            one.advance()
    resumed.restore(ahead.step, ahead.state(), ahead.unreported())
    for _ in range(2):
        resumed.advance()
    for mine, theirs in zip(plain._weights, resumed._weights, strict=True):
        assert torch.equal(mine, theirs)
    for one in (ahead, resumed):
        one._batches.close()


class Unreadable(Exception):
    pass


def test_an_error_of_reading_ends_a_run_as_it_would_and_no_thread_stays(monkeypatch, tmp_path):
    read, make = [], Batches._make

    def fails(self, counter):
        read.append(counter)
        if counter == 2:
            raise Unreadable("the disk is gone")
        return make(self, counter)

    monkeypatch.setattr(Batches, "_make", fails)
    steps = []
    with pytest.raises(Unreadable, match="the disk is gone"):
        ssdiff.train(
            TINY,
            out=tmp_path / "run",
            overrides={"training.steps": 5},
            device="cpu",
            on_event=lambda event: steps.append(event.step) if event.kind == "step" else None,
        )
    assert steps == [1, 2] and max(read) > 2, "steps before it are done, and it was read ahead"
    assert threads() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_a_run_that_ends_or_is_interrupted_leaves_no_thread(tmp_path, error):
    def told(event):
        if error is not None and event.kind == "step":
            assert len(threads()) == 1
            raise error

    settings = {"training.steps": 1, "training.sample_count": 1}
    try:
        ssdiff.train(TINY, out=tmp_path / "run", overrides=settings, device="cpu", on_event=told)
    except KeyboardInterrupt:
        assert error is KeyboardInterrupt
    assert threads() == []


def test_an_array_that_stays_on_the_device_needs_no_thread(monkeypatch):
    monkeypatch.setattr("ssdiff.training.batches._fits", lambda images, device: True)
    one = Batches(np.asarray(IMAGES), None, CPU, World(), 4, 0, flip=False, ahead=2)
    one(0)
    assert threads() == []
