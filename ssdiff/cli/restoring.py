"""The work of `ssdiff restore`: files in, batches through the model, pictures and a table out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdiff.cli.common import Terminal, memory_for
from ssdiff.cli.inputs import Job, expand, failures, plan_outputs, raise_failures
from ssdiff.errors import DataError, SsdiffError

if TYPE_CHECKING:
    from torch import Tensor

    from ssdiff.config import Preset
    from ssdiff.restoration import Method

Row = dict[str, float | None]

_ENDING = "restored.png"


@dataclass(frozen=True, slots=True)
class Work:
    """What is done to every image.

    Attributes:
        method: how.
        samplers: each one restores every image.
        preset: of the model.
        most: images at once; None leaves it to the preset.
        degrade: the images are clean.
        strip: write everything side by side.
        truth: folder of clean images by name.
    """

    method: Method
    samplers: list[str]
    preset: Preset
    most: int | None
    degrade: bool
    strip: bool
    truth: Path | None

    @property
    def side(self) -> int:
        """Pixels of a restored image."""
        return self.preset.data.size

    @property
    def channels(self) -> int:
        """Of a restored image."""
        return self.preset.data.channels

    @property
    def batch(self) -> int:
        """Images at once."""
        return self.most or self.preset.sampling.batch


@dataclass(frozen=True, slots=True)
class _Image:
    """One image in memory."""

    job: Job
    clean: Tensor | None
    given: Tensor | None


def restore_all(work: Work, images: list[str], out: str | None, overwrite: bool, terminal: Terminal) -> None:
    """Restore all; an image that cannot be read does not stop the others."""
    jobs = plan_outputs(expand(images), out, _ENDING, overwrite)
    truths = _truths(jobs, work.truth)
    failed: list[tuple[Job, SsdiffError]] = []
    done: list[dict[str, Any]] = []
    began = time.perf_counter()
    with terminal.progress("img") as bar:
        task = bar.add_task("restoring", total=len(jobs), rate="-", note="")
        for start in range(0, len(jobs), work.batch):
            part = []
            for job in jobs[start : start + work.batch]:
                try:
                    part.append(_read(job, work, truths.get(job.number)))
                except DataError as error:
                    failed.append((job, error))
            if part:
                with memory_for(f"{len(part)} images of {work.side} px at once", "lower --batch"):
                    done += _restore(part, work, overwrite)
            seen = min(start + work.batch, len(jobs))
            bar.update(task, completed=seen, rate=f"{seen / (time.perf_counter() - began):.3g}")
    if failed and len(jobs) == 1:
        raise failed[0][1]
    _report(done, failed, work, time.perf_counter() - began, terminal)


def _truths(jobs: list[Job], folder: Path | None) -> dict[int, str]:
    """The clean image of each job, by its name without the ending.

    Raises:
        DataError: some have none; names them (row 39 of the fault table).
    """
    if folder is None:
        return {}
    known = {name.stem: path for path, name in expand([str(folder)])}
    missing = [job.source for job in jobs if Path(job.source).stem not in known]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{len(missing)} of {len(jobs)} images have no clean image of their name in {folder}: {shown}",
            path=folder,
            hint="nothing was restored",
        )
    return {job.number: known[Path(job.source).stem] for job in jobs}


def _read(job: Job, work: Work, truth: str | None) -> _Image:
    from ssdiff import images

    if work.degrade:
        clean = images.read_image(job.source, channels=work.channels, size=(work.side, work.side))
        return _Image(job, clean, None)
    given = images.read_image(job.source, channels=work.method.channels)
    if tuple(given.shape[-2:]) != work.method.size:
        height, width = work.method.size
        raise DataError(
            f"{job.source} has {given.shape[-1]} x {given.shape[-2]} pixels, the model restores images of "
            f"{width} x {height} at this timestep",
            path=job.source,
            hint="crop and resize it; with --degrade, ssdiff does that to clean images",
        )
    true = images.read_image(truth, channels=work.channels, size=(work.side, work.side)) if truth else None
    return _Image(job, true, given)


def _restore(part: list[_Image], work: Work, overwrite: bool) -> list[dict[str, Any]]:
    """Restore a batch and write it."""
    import torch

    from ssdiff import images
    from ssdiff.evaluation.image_quality import compare

    numbers = torch.tensor([item.job.number for item in part])
    known = [item.clean for item in part if item.clean is not None]
    clean = torch.stack(known) if known else None
    if work.degrade and clean is not None:
        degraded = work.method.degrade(clean, numbers)
    else:
        degraded = work.method.admit(torch.stack([i.given for i in part if i.given is not None]), numbers)
    results = {"degraded": work.method.look(degraded).float().cpu().clamp(-1, 1)}
    for sampler in work.samplers:
        results[sampler] = work.method.restore(degraded, numbers, sampler)
    scores = {name: compare(clean, x) for name, x in results.items()} if clean is not None else {}
    entries = []
    for i, item in enumerate(part):
        frames = [x[i] for x in results.values()]
        shown = frames if clean is None else [clean[i], *frames]
        picture = images.film_strip([images.to_uint8(x) for x in shown]) if work.strip else frames[-1]
        images.save_image(picture, item.job.target, overwrite=overwrite)
        likeness = {
            name: {key: _number(value[i]) for key, value in score._asdict().items()}
            for name, score in scores.items()
        }
        entries.append({"image": item.job.source, "out": str(item.job.target), "likeness": likeness or None})
    return entries


def _number(value: Tensor) -> float | None:
    """Rounded; None for the infinite PSNR of equal images."""
    number = float(value)
    return round(number, 4) if abs(number) != float("inf") else None


def _report(
    done: list[dict[str, Any]],
    failed: list[tuple[Job, SsdiffError]],
    work: Work,
    seconds: float,
    terminal: Terminal,
) -> None:
    table = _means([entry["likeness"] for entry in done if entry["likeness"]])
    lines = [entry["out"] for entry in done]
    if table:
        lines.append(image_quality_table(table, len(done)))
    values = {"images": done, "mean": table, "failures": failures(failed), "seconds": round(seconds, 3)}
    terminal.result("\n".join(lines), values)
    raise_failures(failed, len(done))


def image_quality_table(rows: dict[str, Row], count: int, distance: str | None = None) -> str:
    """PSNR, SSIM and RMSE for people, a line a row.

    Args:
        rows: by name; a psnr of None is infinite.
        count: images that they are means of.
        distance: name of that of the rows, if they have one.
    """
    heading = f"{'':12}{'PSNR':>8}{'SSIM':>8}{'RMSE':>8}"
    lines = [heading + (f"  {distance}" if distance else "") + f"   mean of {count} images"]
    for name, row in rows.items():
        psnr = "equal" if row["psnr"] is None else format(row["psnr"], ".2f")
        line = f"{name:12}{psnr:>8}{row['ssim']:8.3f}{row['rmse']:8.4f}"
        lines.append(line + (f"  {row['distance']:.4g}" if "distance" in row else ""))
    return "\n".join(lines)


def _means(rows: list[dict[str, Row]]) -> dict[str, Row]:
    """Mean over images of each number of each row; None as soon as one is."""
    if not rows:
        return {}
    result: dict[str, Row] = {}
    for name in rows[0]:
        result[name] = {}
        for key in rows[0][name]:
            values = [row[name][key] for row in rows]
            known = [value for value in values if value is not None]
            result[name][key] = sum(known) / len(known) if len(known) == len(values) else None
    return result
