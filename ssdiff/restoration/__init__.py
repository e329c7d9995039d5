"""Restoring images: by the degradation that a model was trained for, or by one that it never saw."""

from ssdiff.restoration.choose import choose_fit, choose_kernel, choose_method, choose_samplers
from ssdiff.restoration.files import RestoredFile, RestoreFilesResult, RestoreTask, restore_files
from ssdiff.restoration.masks import GivenMask, given_mask
from ssdiff.restoration.options import Method, Options
from ssdiff.restoration.results import RestoreResult
from ssdiff.restoration.tasks import TASKS, task_name
from ssdiff.restoration.trained import Trained
from ssdiff.restoration.verb import restore
from ssdiff.restoration.zero_shot import ZeroShot, zero_shot

__all__ = [
    "TASKS",
    "GivenMask",
    "Method",
    "Options",
    "RestoreFilesResult",
    "RestoreResult",
    "RestoreTask",
    "RestoredFile",
    "Trained",
    "ZeroShot",
    "choose_fit",
    "choose_kernel",
    "choose_method",
    "choose_samplers",
    "given_mask",
    "restore",
    "restore_files",
    "task_name",
    "zero_shot",
]
