"""Whether a training can be carried through with its settings, before anything is written."""

from __future__ import annotations

from ssdiff.build import build_full_size, build_sampling_process, check_network
from ssdiff.config import Preset
from ssdiff.process.base import Process
from ssdiff.sampling.plan import make_plan
from ssdiff.training.preview import preview_steps
from ssdiff.training.timesteps import training_shares
from ssdiff.training.trainer import overlapping


def check_feasible(preset: Preset, process: Process) -> None:
    """Check what the rules of a preset cannot see: what its timesteps are, and what its pictures need.

    A training and its dry run both ask here. The pictures of a run are drawn after hours, by the settings of
    sampling, so these are checked as well.

    Args:
        preset: to train.
        process: of the preset.

    Raises:
        UsageError: the network does not give the sizes that are wanted, or settings of sampling do not go
            with the process.
        ProcessError: a size has no timesteps or hardly any batches, or sampling changes resolution where
            nothing was trained.
    """
    check_network(preset, process)
    training = preset.training
    if training.overlap_share:
        overlapping(process, build_full_size(preset), training.overlap_log_snr)
    training_shares(process, training)
    sampled = process if preset.sampling.transitions is None else build_sampling_process(preset)
    if preset.generates:
        for steps in (None, preview_steps(preset, sampled)):
            make_plan(preset, sampled, steps)
