"""The prepared array: every image decoded once, kept as bytes in one memory-mapped file.

A prepared set is a folder in the cache: `images.npy` (N, C, side, side) uint8, `labels.npy` (N,) int64 if
there are classes, and `manifest.json`, which is written last. The folder is named by a hash of the source's
listing and of the settings; it is staged beside its place and renamed, so that it is complete or absent.

Of whole pictures `images.npy` is (bytes,) uint8, the (C, H, W) of each picture one after another, and
`sizes.npy` (N, 2) int64 are their heights and widths.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ssdiff.data.image_set import ImageSet, PictureSet
from ssdiff.data.sources import Fit, Pixels, Source
from ssdiff.errors import DataError, ResourceError
from ssdiff.files import MOST, read_input, staging_name, sweep, sync

FORMAT = 2
"""Version of the layout and of what decoding does; another number prepares everything anew."""

Progress = Callable[[int, int], None]
Corrupt = Literal["error", "skip"]

_BLOCK = 128  # images a task
_SKIP_SHARE = 0.01


def evenly(total: int, count: int) -> NDArray[np.int64]:
    """Return numbers spread evenly over 0..total - 1, both ends among them.

    Args:
        total: at least 1.
        count: at least 1; as many numbers, or total where that is less.

    Returns:
        (min(count, total),) int64, ascending, none twice; 0 alone for a count of 1.
    """
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def prepare(
    source: Source,
    fit: Fit,
    *,
    corrupt: Corrupt = "error",
    cache: Path,
    progress: Progress | None = None,
) -> ImageSet:
    """Return the prepared set of a source; made now if the cache does not hold it.

    Args:
        source: the images.
        fit: what they become.
        corrupt: whether an unreadable file is an error or is left out (at most 1 %, or one file).
        cache: root of the cache.
        progress: called with (done, total) while it is made.

    Raises:
        DataError: unreadable images.
        ResourceError: the cache cannot be written or the disk is full.
    """
    folder = cache / "prepared" / _key(source, fit)
    try:
        if (found := _load(folder, source, fit, corrupt)) is not None:
            return found
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder) as alone:
            # Another process may have built it while this one waited.
            found = _load(folder, source, fit, corrupt)
            if found is None:
                _build(folder, source, fit, corrupt, alone, progress)
                found = _load(folder, source, fit, corrupt)
    except OSError as error:
        raise ResourceError(
            f"cannot prepare data in {folder.parent}: {error.strerror or error}",
            path=folder.parent,
            hint="free some space, or set SSDIFF_HOME to a folder that can be written",
        ) from error
    finally:
        source.close()
    if found is None:
        raise ResourceError(f"prepared data in {folder} cannot be read back", path=folder)
    return found


def _key(source: Source, fit: Fit) -> str:
    # What a new setting adds is left out where it has its default, so that sets prepared before it serve on.
    scaled = "" if fit.resize == "antialias" and fit.side == fit.size else f" {fit.resize} {fit.side}"
    rule = "" if source.classes_from == "folder" else f" {source.classes_from}"
    whole = " whole" if fit.whole else ""
    settings = f"{FORMAT} {fit.size} {fit.channels} {fit.background!r}{scaled}{rule}{whole}\n"
    digest = hashlib.sha256(settings.encode())
    for line in source.identity():
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _load(folder: Path, source: Source, fit: Fit, corrupt: Corrupt) -> ImageSet | None:
    """The set in a folder; None if it is absent, damaged, or lacks images that a higher limit allows."""
    try:
        manifest: dict[str, Any] = json.loads(read_input(folder / "manifest.json", MOST))
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False) if manifest["classes"] else None
        skipped = tuple((str(name), str(reason)) for name, reason in manifest["skipped"])
        fingerprint, max_pixels = str(manifest["fingerprint"]), int(manifest["max_pixels"])
        class_names = tuple(map(str, manifest["classes"]))
        sizes = np.load(folder / "sizes.npy", allow_pickle=False) if fit.whole else None
        shape = (
            (manifest["count"], fit.channels, fit.side, fit.side)
            if sizes is None
            else (fit.channels * int(sizes.prod(axis=1).sum()),)
        )
        counts = {manifest["count"]} | {len(found) for found in (labels, sizes) if found is not None}
    except Exception:  # numpy and json can raise anything on damaged bytes
        return None
    sound = images.shape == shape and images.dtype == np.uint8 and len(counts) == 1
    if not sound or (skipped and max_pixels < fit.max_pixels):
        return None
    if skipped and corrupt == "error":
        name, reason = skipped[0]
        raise _corrupt(DataError(reason, path=name))
    parts = (images, fit.size, labels, class_names, fingerprint, source.name, skipped, source.notes)
    return ImageSet(*parts) if sizes is None else PictureSet(*parts, sizes=sizes, channels=fit.channels)


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Let one process build while others wait; yields False where the file system has no locks."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire()
    except NotImplementedError:
        # Then several may build at once, which costs time but nothing else: each stages its own folder.
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _build(
    folder: Path, source: Source, fit: Fit, corrupt: Corrupt, alone: bool, progress: Progress | None
) -> None:
    if alone:  # nobody else writes this set, whatever the number of a process says
        for leftover in folder.parent.glob(f".{folder.name[:16]}[-.0-9a-f]*"):
            shutil.rmtree(leftover, ignore_errors=True)
    sweep(folder.parent)
    needed = len(source) * fit.channels * fit.side**2  # of whole pictures the least; more is found out
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise ResourceError(
            f"preparing {source.name} needs {needed:,} bytes in {folder.parent}, {free:,} are free",
            path=folder.parent,
            hint="free some space, or set SSDIFF_HOME to a larger disk",
        )
    staging = folder.with_name(staging_name(folder.name))
    staging.mkdir()
    try:
        _fill(staging, source, fit, corrupt, progress)
        if alone:
            shutil.rmtree(folder, ignore_errors=True)  # only a damaged one can be here
        os.replace(staging, folder)
    except OSError:
        if _load(folder, source, fit, "skip") is None:
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fill(folder: Path, source: Source, fit: Fit, corrupt: Corrupt, progress: Progress | None) -> None:
    """Decode everything into a staging folder, the manifest last."""
    room = ("whole",) if fit.whole else () if fit.side == fit.size else (fit.size,)
    digest = hashlib.sha256(repr((fit.channels, fit.side, fit.side, *room)).encode())
    with (folder / "images.npy").open("wb") as stream:
        kept, sizes, skipped = _write_images(stream, digest, source, fit, corrupt, progress)
        sync(stream)
    if fit.whole:
        digest.update(np.array(sizes, "<i8").tobytes())
        _write_array(folder / "sizes.npy", np.array(sizes, np.int64))
    if source.labels is not None:
        labels = source.labels[kept]
        digest.update(labels.astype("<i8").tobytes())
        _write_array(folder / "labels.npy", labels)
    manifest = {
        "format": FORMAT,
        "source": source.name,
        "count": len(kept),
        "classes": list(source.class_names) if source.labels is not None else [],
        "fingerprint": digest.hexdigest(),
        "max_pixels": fit.max_pixels,
        "skipped": skipped,
    }
    with (folder / "manifest.json").open("wb") as stream:
        stream.write(json.dumps(manifest, indent=1).encode())
        sync(stream)


def _write_array(path: Path, array: NDArray[np.int64]) -> None:
    with path.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
        sync(stream)


def _write_images(
    stream: BinaryIO,
    digest: hashlib._Hash,
    source: Source,
    fit: Fit,
    corrupt: Corrupt,
    progress: Progress | None,
) -> tuple[list[int], list[tuple[int, int]], list[tuple[str, str]]]:
    """Write an .npy file, through the file because a map on a full disk would kill the process.

    Returns:
        The numbers of the images in it, their (height, width), and (name, reason) of those left out.
    """
    total, shape = len(source), (fit.channels, fit.side, fit.side)
    kept: list[int] = []
    sizes: list[tuple[int, int]] = []
    skipped: list[tuple[str, str]] = []
    body = _write_header(stream, (total * math.prod(shape),) if fit.whole else (total, *shape))
    for start, block in _blocks(source, fit):
        good: list[Pixels] = []
        for number, item in enumerate(block, start):
            if not isinstance(item, DataError):
                good.append(item)
                kept.append(number)
                sizes.append(item.shape[-2:])
            elif corrupt == "skip":
                skipped.append((item.path or source.name, _reason(item)))
            else:
                raise _corrupt(item)
        _check_skipped(source, skipped, total)
        data = b"".join(item.tobytes() for item in good)
        digest.update(data)
        stream.write(data)
        if progress:
            progress(start + len(block), total)
    if not kept:
        raise DataError(f"no readable image in {source.name}: {skipped[0][1]}", path=source.name)
    stream.seek(0)
    # numpy pads its header for longer numbers, so the true count fits where the expected one was.
    taken = fit.channels * sum(h * w for h, w in sizes)
    rewritten = _write_header(stream, (taken,) if fit.whole else (len(kept), *shape))
    assert rewritten == body, "the header grew over the images"
    return kept, sizes, skipped


def _blocks(source: Source, fit: Fit) -> Iterator[tuple[int, Sequence[Pixels | DataError]]]:
    """(first number, images) in order, decoded by a few threads that run a bounded way ahead."""
    workers = min(4, os.cpu_count() or 1)
    pending: deque[tuple[int, Future[Sequence[Pixels | DataError]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        try:
            for start in range(0, len(source), _BLOCK):
                stop = min(start + _BLOCK, len(source))
                pending.append((start, pool.submit(source.load, start, stop, fit)))
                if len(pending) > 3 * workers:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _check_skipped(source: Source, skipped: Sequence[tuple[str, str]], total: int) -> None:
    if len(skipped) > max(1, _SKIP_SHARE * total):
        first = "; ".join(reason for _, reason in skipped[:3])
        raise DataError(
            f"{len(skipped)} of {total} files in {source.name} cannot be used, more than {_SKIP_SHARE:.0%}: "
            f"{first}",
            path=source.name,
            hint="fix or remove them",
        )


def _corrupt(error: DataError) -> DataError:
    skip = 'data.corrupt = "skip" leaves out up to 1 % of the files'
    return DataError(_reason(error), path=error.path, hint=f"{error.hint}; {skip}" if error.hint else skip)


def _reason(error: DataError) -> str:
    return str(error.args[0])


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> int:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.tell()
