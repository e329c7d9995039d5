"""The prepared array: every image decoded once, kept as bytes in one memory-mapped file.

A prepared set is a folder in the cache: `images.npy` (N, C, side, side) uint8, `labels.npy` (N,) int64 if
there are classes, and `manifest.json`, which is written last. The folder is named by a hash of the source's
listing and of the settings; it is staged beside its place and renamed, so that it is complete or absent.
What a preparation that was killed or stopped has decoded is taken up by the next one of the same set.

Of whole pictures `images.npy` is (bytes,) uint8, the (C, H, W) of each picture one after another, and
`sizes.npy` (N, 2) int64 are their heights and widths.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ssdiff.data.image_set import ImageSet, PictureSet
from ssdiff.data.sources import Decoded, Fit, Pixels, Source
from ssdiff.errors import DataError, Interrupted, ResourceError
from ssdiff.files import MOST, open_input, read_input, staging_name, sweep, sync

FORMAT = 2
"""Version of the layout and of what decoding does; another number prepares everything anew."""

Progress = Callable[[int, int], None]
Corrupt = Literal["error", "skip"]
Convert = Literal["some", "all", "none"]

_BLOCK = 128  # images a task
_JOURNAL = "blocks.jsonl"  # of a set that is being prepared: what has been written so far
_PATIENCE = 7 * 86400  # seconds for which it waits to be gone on with
_SKIP_SHARE = 0.01
_KINDS = {1: ("grey", "coloured"), 3: ("RGB", "grey")}  # by channels: what is wanted, and what is not


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
    convert: Convert = "all",
    cache: Path,
    progress: Progress | None = None,
) -> ImageSet:
    """Return the prepared set of a source; made now if the cache does not hold it.

    Args:
        source: the images.
        fit: what they become.
        corrupt: whether an unreadable file is an error or is left out (at most 1 %, or one file).
        convert: whether images of other channels are wanted: "some" as long as not all are such, "all" or
            "none".
        cache: root of the cache.
        progress: called with (done, total) while it is made.

    Raises:
        DataError: unreadable images, or images of other channels that are not wanted. The set is kept, so
            that it is there at once where they are.
        ResourceError: the cache cannot be written or the disk is full.
    """
    folder = cache / "prepared" / _key(source, fit)
    try:
        if (found := _load(folder, source, fit, corrupt, convert)) is not None:
            return found
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder) as alone:
            # Another process may have built it while this one waited.
            found = _load(folder, source, fit, corrupt, convert)
            if found is None:
                _build(folder, source, fit, corrupt, alone, progress)
                found = _load(folder, source, fit, corrupt, convert)
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


def _load(folder: Path, source: Source, fit: Fit, corrupt: Corrupt, convert: Convert) -> ImageSet | None:
    """The set in a folder; None if it is absent, damaged, or lacks images that a higher limit allows."""
    try:
        manifest: dict[str, Any] = json.loads(read_input(folder / "manifest.json", MOST))
        images = _read_array(folder / "images.npy", mapped=True)
        labels = _read_array(folder / "labels.npy") if manifest["classes"] else None
        skipped = tuple((str(name), str(reason)) for name, reason in manifest["skipped"])
        fingerprint, max_pixels = str(manifest["fingerprint"]), int(manifest["max_pixels"])
        class_names = tuple(map(str, manifest["classes"]))
        others = _Others.read(manifest.get("others"))  # sets of before do not say
        sizes = _read_array(folder / "sizes.npy") if fit.whole else None
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
    others.check(convert, source.name, fit.channels, manifest["count"])
    notes = (*source.notes, *others.notes(manifest["count"], fit.channels))
    parts = (images, fit.size, labels, class_names, fingerprint, source.name, skipped, notes)
    return ImageSet(*parts) if sizes is None else PictureSet(*parts, sizes=sizes, channels=fit.channels)


@dataclass
class _Others:
    """Images whose channels are not those that are wanted.

    Attributes:
        modes: how many there are of each mode, in Pillow's words.
        first: the name of the first.
    """

    modes: Counter[str] = field(default_factory=Counter)
    first: str = ""

    @classmethod
    def read(cls, kept: Any) -> Self:
        """Return what a manifest says; of a damaged one whatever error comes."""
        if kept is None:
            return cls()
        return cls(
            Counter({str(mode): int(count) for mode, count in kept["modes"].items()}), str(kept["first"])
        )

    def to_dict(self) -> dict[str, object]:
        return {"modes": dict(sorted(self.modes.items())), "first": self.first}

    def add(self, mode: str, name: str) -> None:
        self.first = self.first or name
        self.modes[mode] += 1

    def check(self, convert: Convert, source: str, channels: int, count: int) -> None:
        """Refuse them if nobody wants them converted.

        Raises:
            DataError: says how many, their modes, and what to set.
        """
        found, (kind, other) = self.modes.total(), _KINDS[channels]
        if not found or convert == "all" or (convert == "some" and found < count):
            return
        modes = ", ".join(sorted(self.modes))
        many = f"all {count}" if found == count else f"{found} of {count}"
        raise DataError(
            f"{many} images in {source} are {other} (mode {modes}; {self.first}), wanted are {channels} "
            f"{'channels' if channels > 1 else 'channel'}, {kind}",
            path=source,
            hint=f'set data.channels = {4 - channels}, or data.convert = "all" to make them {kind} '
            f"(data prepare: --channels {4 - channels}, --convert all)",
        )

    def notes(self, count: int, channels: int) -> list[str]:
        """What a user may want to know of them."""
        kind, other = _KINDS[channels]
        return [f"{self.modes.total()} of {count} images are {other}, taken as {kind}"] if self.modes else []


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
            if leftover.name != _partial(folder):
                shutil.rmtree(leftover, ignore_errors=True)
    _forget_old(folder.parent)
    sweep(folder.parent)
    begun = folder.with_name(_partial(folder)) / "images.npy"
    there = begun.stat().st_size if alone and begun.exists() else 0
    needed = len(source) * fit.channels * fit.side**2  # of whole pictures the least; more is found out
    free = shutil.disk_usage(folder.parent).free
    if needed - there > free:
        raise ResourceError(
            f"preparing {source.name} needs {needed:,} bytes in {folder.parent}, {free:,} are free",
            path=folder.parent,
            hint="free some space, or set SSDIFF_HOME to a larger disk",
        )
    # One name for all who build this set in turn: who is killed leaves to the next what is decoded.
    staging = folder.with_name(_partial(folder) if alone else staging_name(folder.name))
    if staging.is_dir() and not all(path.is_file() for path in staging.iterdir()):  # none of ours
        shutil.rmtree(staging)
    staging.mkdir(exist_ok=alone)
    stopped = False
    try:
        _fill(staging, source, fit, corrupt, progress)
        if alone:
            shutil.rmtree(folder, ignore_errors=True)  # only a damaged one can be here
        os.replace(staging, folder)
    except OSError:
        if _load(folder, source, fit, "skip", "all") is None:
            raise
    except (Interrupted, KeyboardInterrupt):
        stopped = alone
        raise
    finally:
        if not stopped:
            shutil.rmtree(staging, ignore_errors=True)


def _partial(folder: Path) -> str:
    return f".{folder.name}.partial"


def _forget_old(parent: Path) -> None:
    """Remove what was begun and not gone on with for a week, perhaps because the set has changed since."""
    for partial in parent.glob(".*.partial"):
        with suppress(OSError):
            if time.time() - (partial / _JOURNAL).stat().st_mtime > _PATIENCE:
                shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, source: Source, fit: Fit, corrupt: Corrupt, progress: Progress | None) -> None:
    """Decode everything into a staging folder, the manifest last."""
    room = ("whole",) if fit.whole else () if fit.side == fit.size else (fit.size,)
    digest = hashlib.sha256(repr((fit.channels, fit.side, fit.side, *room)).encode())
    (folder / "images.npy").touch()
    with (folder / "images.npy").open("r+b") as stream, (folder / _JOURNAL).open("a+b") as journal:
        kept, sizes, skipped, others = _write_images(stream, journal, digest, source, fit, corrupt, progress)
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
        "others": others.to_dict(),
    }
    with (folder / "manifest.json").open("wb") as stream:
        stream.write(json.dumps(manifest, indent=1).encode())
        sync(stream)
    (folder / _JOURNAL).unlink()


def _read_array(path: Path, mapped: bool = False) -> NDArray[Any]:
    """An .npy file; its pages are read when they are needed if it is mapped."""
    with open_input(path):  # a pipe would be waited for
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        return array


def _write_array(path: Path, array: NDArray[np.int64]) -> None:
    with path.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
        sync(stream)


def _write_images(
    stream: BinaryIO,
    journal: BinaryIO,
    digest: hashlib._Hash,
    source: Source,
    fit: Fit,
    corrupt: Corrupt,
    progress: Progress | None,
) -> tuple[list[int], list[tuple[int, int]], list[tuple[str, str]], _Others]:
    """Write an .npy file, through the file because a map on a full disk would kill the process.

    Each block of images has a line in the journal, written after it, by which who comes next goes on.

    Returns:
        The numbers of the images in it, their (height, width), (name, reason) of those left out, and those of
        other channels.
    """
    total, shape = len(source), (fit.channels, fit.side, fit.side)
    kept: list[int] = []
    sizes: list[tuple[int, int]] = []
    skipped: list[tuple[str, str]] = []
    others = _Others()
    body = _write_header(stream, (total * math.prod(shape),) if fit.whole else (total, *shape))
    done = 0
    for block in _written(stream, journal, digest, fit, corrupt):
        done = block["stop"]
        kept += block["kept"]
        sizes += [(height, width) for height, width in block["sizes"]]
        skipped += [(name, reason) for name, reason in block["skipped"]]
        for mode, name in block["others"]:
            others.add(mode, name)
    if done and progress:
        progress(done, total)
    for start, images in _blocks(source, fit, done):
        good: list[Pixels] = []
        unlike: list[tuple[str, str]] = []
        before = len(kept), len(skipped)
        for number, item in enumerate(images, start):
            if not isinstance(item, DataError):
                good.append(item.pixels)
                kept.append(number)
                sizes.append(item.pixels.shape[-2:])
                if item.grey != (fit.channels == 1):
                    unlike.append((item.mode, source.name_of(number)))
            elif corrupt == "skip":
                skipped.append((item.path or source.name, _reason(item)))
            else:
                raise _corrupt(item)
        _check_skipped(source, skipped, total)
        for mode, name in unlike:
            others.add(mode, name)
        data = b"".join(item.tobytes() for item in good)
        digest.update(data)
        stream.write(data)
        stream.flush()
        block = {
            "stop": start + len(images),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "max_pixels": fit.max_pixels,
            "kept": kept[before[0] :],
            "sizes": sizes[before[0] :],
            "skipped": skipped[before[1] :],
            "others": unlike,
        }
        journal.write(json.dumps(block).encode() + b"\n")
        journal.flush()
        if progress:
            progress(start + len(images), total)
    if not kept:
        raise DataError(f"no readable image in {source.name}: {skipped[0][1]}", path=source.name)
    stream.seek(0)
    # numpy pads its header for longer numbers, so the true count fits where the expected one was.
    taken = fit.channels * sum(h * w for h, w in sizes)
    rewritten = _write_header(stream, (taken,) if fit.whole else (len(kept), *shape))
    assert rewritten == body, "the header grew over the images"
    return kept, sizes, skipped, others


def _written(
    stream: BinaryIO, journal: BinaryIO, digest: hashlib._Hash, fit: Fit, corrupt: Corrupt
) -> Iterator[dict[str, Any]]:
    """The blocks that an earlier preparation has written whole, from where the stream is on; what follows
    them is cut off both files, which end where the next block begins."""
    journal.seek(0)
    while line := journal.readline():
        place = stream.tell()
        try:
            block: dict[str, Any] = json.loads(line)
            data = stream.read(block["bytes"])
            sound = hashlib.sha256(data).hexdigest() == block["sha256"]
            # Left out then: perhaps an error now, or small enough.
            same = not block["skipped"] or (corrupt == "skip" and block["max_pixels"] == fit.max_pixels)
        except (ValueError, KeyError, TypeError):  # a line that was cut off
            sound = same = False
        if not (sound and same and line.endswith(b"\n")):
            stream.seek(place)
            journal.seek(-len(line), os.SEEK_CUR)
            break
        digest.update(data)
        yield block
    stream.truncate()
    journal.truncate()


def _blocks(source: Source, fit: Fit, begin: int) -> Iterator[tuple[int, Sequence[Decoded | DataError]]]:
    """(number of the first, images) from ``begin`` on, in order, decoded by a thread for each core that run a
    bounded way ahead; Pillow decodes and resizes beside other threads."""
    workers = usable_cores()
    pending: deque[tuple[int, Future[Sequence[Decoded | DataError]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        try:
            for start in range(begin, len(source), _BLOCK):
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


def usable_cores() -> int:
    """Return how many cores this process may use, which a container or a scheduler may have limited."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


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
    skip = 'data.corrupt = "skip" (data prepare: --corrupt skip) leaves out up to 1 % of the files, or one'
    return DataError(_reason(error), path=error.path, hint=f"{error.hint}; {skip}" if error.hint else skip)


def _reason(error: DataError) -> str:
    return str(error.args[0])


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> int:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.tell()
