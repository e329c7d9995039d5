"""A durable store of checkpoints: folders of tensors that are whole or not there at all.

A checkpoint is a folder ``step-00001000`` with one ``NAME.safetensors`` for each group of tensors,
``meta.json``, and ``manifest.json``, which lists size and SHA-256 of the others. It is written under another
name, flushed to the disk, and renamed into place; older ones are deleted only after that. So a crash at any
moment leaves every published checkpoint as it was, and what is damaged later is noticed before it is used.

The store allows one writer at a time; the lock of :class:`ssdiff.runs.RunFolder` sees to that.
"""

from ssdiff.checkpoints.manifest import FORMAT
from ssdiff.checkpoints.store import (
    Checkpoint,
    Loaded,
    delete_old,
    latest,
    list_steps,
    load,
    read_meta,
    require_groups,
    save,
    set_aside,
    verify,
)

__all__ = [
    "FORMAT",
    "Checkpoint",
    "Loaded",
    "delete_old",
    "latest",
    "list_steps",
    "load",
    "read_meta",
    "require_groups",
    "save",
    "set_aside",
    "verify",
]
