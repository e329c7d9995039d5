"""Save, find and load checkpoints."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import load_file
from torch import Tensor

from ssdiff.checkpoints.manifest import (
    FILE_NAME,
    MANIFEST,
    META,
    SUFFIX,
    Damage,
    Manifest,
    examine,
    read_manifest,
)
from ssdiff.checkpoints.writing import safetensors_chunks, write
from ssdiff.errors import CheckpointError, ResourceError
from ssdiff.files import MOST, read_input, sync_folder, writer_is_alive

# `.old` is a step that is being saved anew: it counts until the new one has its name.
_STEP = re.compile(r"step-([0-9]{8,20})(\.old)?")
_STAGING = re.compile(r"\.tmp-[0-9]+-([0-9]{1,9})-[0-9a-f]+")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is as it was written."""

    path: Path
    step: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a checkpoint holds: ``tensors["ema"]["conv.weight"]``, and what was said about them."""

    path: Path
    step: int
    meta: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def save(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    meta: Mapping[str, Any],
    *,
    keep: int = 3,
    milestones: int = 0,
) -> Path:
    """Publish a checkpoint, then delete those that are no longer kept.

    Tensors go from their device to the disk one at a time. Saving a step again replaces it.

    Args:
        root: folder of the checkpoints; made if absent.
        step: training steps done, 0 or more.
        tensors: groups of named tensors; each becomes a file and is named like one, e.g. ``ema``.
        meta: JSON values, e.g. the preset as text.
        keep: how many of the newest are kept, 1 or more.
        milestones: steps divisible by this are never deleted; 0 for none.

    Returns:
        The folder of the checkpoint.

    Raises:
        ResourceError: disk full or not writable. What was published before is still there, and nothing else.
    """
    if step < 0 or keep < 1 or milestones < 0:
        raise ValueError(f"step {step}, keep {keep} or milestones {milestones} is out of range")
    if wrong := [name for name in tensors if not FILE_NAME.fullmatch(name + SUFFIX)]:
        raise ValueError(f"{wrong[0]!r} cannot be the name of a file")
    note = json.dumps(dict(meta), indent=1, allow_nan=False).encode()
    values = [value for group in tensors.values() for value in group.values()]
    needed = len(note) + sum(value.numel() * value.element_size() for value in values)
    staging, target = root / _staging_name(step), root / f"step-{step:08d}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        if shutil.disk_usage(root).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _stage(staging, step, tensors, note)
        _publish(staging, target)
    except OSError as error:
        raise _cannot_save(root, step, needed, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _rotate(root, target, keep, milestones)
    return target


def delete_old(root: Path, kept: Path, keep: int) -> None:
    """Delete what :func:`save` would have deleted, had it not been killed before.

    Args:
        root: folder of the checkpoints.
        kept: the checkpoint that is never deleted.
        keep: how many of the newest are kept, 1 or more.
    """
    with suppress(OSError):  # it is read only, or full: what is there does no harm
        _sweep(root)
        _rotate(root, kept, keep, 0)


def list_steps(root: Path) -> list[Path]:
    """Return the folders of the published checkpoints, in order of their steps; their contents are not looked
    at."""
    return [path for _, path in _numbered(root)]


def latest(root: Path) -> tuple[Checkpoint | None, list[tuple[Path, str]]]:
    """Find the newest checkpoint whose contents are as they were written.

    Returns:
        The checkpoint, None if there is none; and newer ones that are damaged, each with the reason.
    """
    skipped: list[tuple[Path, str]] = []
    for path in reversed(list_steps(root)):
        try:
            return Checkpoint(path, examine(path).step), skipped
        except Damage as damage:
            skipped.append((path, str(damage)))
    return None, skipped


def verify(path: Path) -> Checkpoint:
    """Compare the whole checkpoint with its manifest.

    Raises:
        CheckpointError: absent, incomplete, damaged, of a newer format, or pointing outside; says which.
    """
    return Checkpoint(path, _verified(path).step)


def load(path: Path, names: Iterable[str] | None = None, device: str | torch.device = "cpu") -> Loaded:
    """Read a checkpoint after :func:`verify`.

    Args:
        path: its folder.
        names: groups of tensors to read; all if omitted.
        device: where to put them. On the CPU they are mapped from their files, unread until they are used.

    Raises:
        CheckpointError: as :func:`verify`, naming the newest intact checkpoint beside it; or without a
            group that is asked for.
    """
    try:
        manifest = _verified(path)
    except CheckpointError as error:
        raise CheckpointError(error.args[0], path=path, hint=_alternative(path) or error.hint) from None
    groups = sorted(file.removesuffix(SUFFIX) for file in manifest.files if file.endswith(SUFFIX))
    wanted = groups if names is None else list(names)
    try:
        if missing := [name for name in wanted if name not in groups]:
            raise Damage(f"it has no {', '.join(missing)}, only {', '.join(groups) or 'no tensors at all'}")
        meta = json.loads((path / META).read_bytes())
        if not isinstance(meta, dict):
            raise Damage(f"{META} is not a table")
        tensors = {name: _tensors(path / f"{name}{SUFFIX}", str(device)) for name in wanted}
    except (Damage, SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be used: {error}", path=path) from None
    return Loaded(path, manifest.step, meta, tensors)


def read_meta(path: Path) -> dict[str, Any]:
    """Read what was said about a checkpoint, quickly and unverified; nothing if it cannot be read."""
    try:
        meta = json.loads(read_input(path / META, MOST))
    except (OSError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _tensors(file: Path, device: str) -> dict[str, Tensor]:
    try:
        os.fspath(file).encode()
    except UnicodeEncodeError:  # the library takes names of UTF-8 alone
        return {name: value.to(device) for name, value in load_bytes(file.read_bytes()).items()}
    return load_file(file, device=device)


def require_groups(loaded: Loaded, *names: str) -> Loaded:
    """Return the same checkpoint, if it has these groups of tensors.

    Raises:
        CheckpointError: if one is missing, as the optimizer's state is from what only serves sampling.
    """
    if missing := [name for name in names if name not in loaded.tensors]:
        there = ", ".join(loaded.tensors) or "nothing"
        raise CheckpointError(
            f"cannot resume from {loaded.path}: it has no {', '.join(missing)}, only {there}",
            path=loaded.path,
            hint="resume from a checkpoint that training wrote, or start a new run",
        )
    return loaded


def set_aside(root: Path, after: int) -> list[Path]:
    """Rename checkpoints of later steps, so that a run that went back is not resumed from where it had been.

    What killed writers left is removed.

    Returns:
        Their new places ``aside-...``, which nothing here reads or deletes.

    Raises:
        ResourceError: if the folder cannot be written.
    """
    with suppress(OSError):
        _sweep(root)
    moved = []
    for step, path in _numbered(root):
        if step > after:
            place = root / f"aside-{step:08d}-{uuid.uuid4().hex[:8]}"
            try:
                os.rename(path, place)
            except OSError as error:
                raise ResourceError(f"cannot set {path} aside: {error.strerror}", path=path) from error
            moved.append(place)
    if moved:
        sync_folder(root)
    return moved


def _numbered(root: Path) -> list[tuple[int, Path]]:
    found: dict[int, Path] = {}
    # In alphabetical order, so that `step-00000001` comes before `step-00000001.old`.
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        match = _STEP.fullmatch(path.name)
        if match and path.is_dir():
            found.setdefault(int(match[1]), path)
    return sorted(found.items())


def _verified(path: Path) -> Manifest:
    if not path.is_dir():
        what = "only a file, not a folder," if path.exists() else "no checkpoint"
        raise CheckpointError(f"{what} at {path}", path=path, hint="nothing was started; check the path")
    try:
        return examine(path)
    except Damage as damage:
        raise CheckpointError(f"the checkpoint {path} cannot be used: {damage}", path=path) from None


def _alternative(path: Path) -> str | None:
    """Advice to use the newest intact checkpoint beside a damaged one."""
    if not _STEP.fullmatch(path.name):
        return None
    found, _ = latest(path.parent)
    return f"the newest intact checkpoint beside it is {found.path.name}" if found else None


def _staging_name(step: int) -> str:
    return f".tmp-{step:08d}-{os.getpid()}-{uuid.uuid4().hex}"


def _stage(staging: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], note: bytes) -> None:
    """Write everything under a name that nobody looks at, the manifest last."""
    staging.mkdir()
    files = {
        f"{name}{SUFFIX}": write(staging / f"{name}{SUFFIX}", safetensors_chunks(group))
        for name, group in tensors.items()
    }
    files[META] = write(staging / META, [note])
    sync_folder(staging)
    write(staging / MANIFEST, [Manifest(step, files).encode()])
    sync_folder(staging)


def _publish(staging: Path, target: Path) -> None:
    old = target.with_name(f"{target.name}.old")
    if target.exists():
        # The same steps of the same run give the same bytes; what is there need not be touched.
        with suppress(Damage):
            if examine(target) == read_manifest(staging):
                return
        os.rename(target, old)
    os.rename(staging, target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _rotate(root: Path, written: Path, keep: int, milestones: int) -> None:
    for step, path in _numbered(root)[:-keep]:
        if path == written or (milestones and step % milestones == 0):
            continue
        # Renamed first: whoever looks while the files go must not take the rest for a checkpoint.
        to_delete = root / _staging_name(step)
        try:
            os.rename(path, to_delete)
            shutil.rmtree(to_delete)
        except OSError as error:
            _log.warning("cannot delete the old checkpoint %s: %s", path, error)


def _sweep(root: Path) -> None:
    """Delete what writers that are no more have left."""
    for path in [*root.iterdir()]:
        staging, step = _STAGING.fullmatch(path.name), _STEP.fullmatch(path.name)
        left = staging is not None and not _writes_elsewhere(int(staging[1]))
        replaced = step is not None and step[2] is not None and (root / f"step-{step[1]}").exists()
        if left or replaced:
            shutil.rmtree(path, ignore_errors=True)


def _writes_elsewhere(pid: int) -> bool:
    return pid != os.getpid() and bool(writer_is_alive(pid))


def _cannot_save(root: Path, step: int, needed: int, error: OSError) -> ResourceError:
    kept = "checkpoints already there are kept"
    if error.errno in _FULL:
        try:
            free = f"{shutil.disk_usage(root).free / 1e6:,.1f} MB"
        except OSError:
            free = "an unknown amount"
        return ResourceError(
            f"no room to save step {step} in {root} ({error.strerror}): "
            f"{needed / 1e6:,.1f} MB needed, {free} free; {kept}",
            path=root,
            hint="free some space, or raise the quota or file size limit, and resume",
        )
    if error.errno in _READ_ONLY:
        return ResourceError(
            f"cannot save step {step}: {root} is not writable ({error.strerror}); {kept}",
            path=root,
            hint="make it writable and resume",
        )
    return ResourceError(f"cannot save step {step} in {root}: {error}; {kept}", path=root)
