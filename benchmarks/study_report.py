"""What the study of SNR-preserving noise found: rows, a table and a plot."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from study_scales import BASE, REFERENCES, Case, Chain, Scale, every

import ssdiff
from ssdiff.files import write_atomic
from ssdiff.reporting.plots import Curve, Panel, save_panels

KEYS = ("variant", "images", "steps", "sampler", "share")
"""What rows have in common that differ by their seed alone."""


def rows(cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """What was found, one row for each network, budget and chain that is done."""
    for case in cases:
        for chain in case.evaluated():
            preset = ssdiff.load_preset("celeba64", {**case.settings(), "sampling.sampler": chain.sampler})
            values = {
                (metric, reference): json.loads(case.result(metric, chain, reference).read_text())
                for metric in ("fid", "kid")
                for reference in REFERENCES
            }
            spent = ssdiff.cost(preset, steps=chain.steps)
            yield {
                "variant": case.variant,
                "seed": case.seed,
                "images": case.images,
                "training_flops": case.images * spent.training_flops,
                "training_seconds": seconds_of(case, case.steps),
                **chain._asdict(),
                "sampling_flops": spent.sampling_flops,
                "fd": values["fid", "held-out"]["value"],
                "kd": values["kid", "held-out"]["value"],
                "fd_train": values["fid", "train"]["value"],
                "kd_train": values["kid", "train"]["value"],
                "name": values["fid", "held-out"]["name"],
            }


def seconds_of(case: Case, steps: int) -> float:
    """Time of the training up to a step, with that of the run it went on from."""
    lines = [json.loads(line) for line in (case.run / "metrics.jsonl").read_text().splitlines()]
    own = math.fsum(line["seconds"] for line in lines if line["step"] <= steps)
    shared = next((one for one in case.smaller() if one.steady < lines[0]["step"]), None)
    return own + (seconds_of(shared, shared.steady) if shared else 0.0)


def show(scale: Scale, out: Path, plotted: Sequence[str] = ()) -> None:
    """Write and print the table, and plot distance against cost, of the variants named or of all."""
    found = list(rows(every(scale, out)))
    write_atomic(out / "results.json", json.dumps(found, indent=1).encode(), overwrite=True)
    lines = [
        "| variant | seeds | images | training TFLOPs | training s | steps, sampler | GFLOPs an image "
        "| FD ± s.e. | KD x 1000 | to training images: FD | KD x 1000 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, group in grouped(found).items():
        variant, images, *chain = key
        mean = {
            name: statistics.mean(row[name] for row in group)
            for name in group[0]
            if name not in ("name", *KEYS)
        }
        spread = f" ± {standard_error([row['fd'] for row in group]):.1f}" if len(group) > 1 else ""
        lines.append(
            f"| {variant} | {len(group)} | {images:,} | {mean['training_flops'] / 1e12:.3g} | "
            f"{mean['training_seconds']:.0f} | {Chain(*chain).said} | {mean['sampling_flops'] / 1e9:.3g} | "
            f"{mean['fd']:.1f}{spread} | {1000 * mean['kd']:.1f} | "
            f"{mean['fd_train']:.1f} | {1000 * mean['kd_train']:.1f} |"
        )
    table = "\n".join([*lines, *errors(every(scale, out))])
    write_atomic(out / "table.md", f"{table}\n".encode(), overwrite=True)
    print(table)
    drawn = [row for row in found if not plotted or row["variant"] in plotted]
    if panels := [*by_training(scale, drawn), *by_steps(drawn)] if drawn else []:
        save_panels(out / "distance.png", panels, overwrite=True)


def errors(cases: Sequence[Case]) -> Iterator[str]:
    """A table for each budget: errors as denoisers relative to DDPM's, means over the seeds."""
    for images in sorted({case.images for case in cases}):
        found: dict[str, list[list[dict[str, Any]]]] = {}
        for case in cases:
            if case.images == images and case.errors.exists():
                found.setdefault(case.variant, []).append(json.loads(case.errors.read_text()))
        if not found:
            continue
        names = [f"{name} ({len(seeds)})" for name, seeds in found.items()]
        yield from (
            "",
            f"Mean square errors after {images:,} images relative to those of {BASE} (seeds):",
            "",
        )
        yield f"| log-SNR | {' | '.join(names)} |"
        yield "| --- |" + " --- |" * len(names)
        for level, *of_level in zip(
            (row["log_snr"] for row in next(iter(found.values()))[0]),
            *([_ratio(rows) for rows in zip(*seeds, strict=True)] for seeds in found.values()),
            strict=True,
        ):
            yield f"| {level:.2f} | {' | '.join(of_level)} |"


def _ratio(rows: Sequence[dict[str, Any]]) -> str:
    """Of the errors at one level, with the size that the variant has there."""
    mean = statistics.mean(row["one"][1] / row["other"][1] for row in rows)
    return f"{mean:.3f}, {rows[0]['one'][0]} px"


def standard_error(values: Sequence[float]) -> float:
    """Of their mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def grouped(found: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows with the same KEYS."""
    result: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in found:
        result.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    return result


def by_training(scale: Scale, found: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    """Distance against the FLOPs of training, one panel for each of the scale's chains that was taken."""
    for chain in scale.chains:
        of_chain = [row for row in found if tuple(row[key] for key in Chain._fields) == chain]
        curves = [
            curve(variant, [row for row in of_chain if row["variant"] == variant], "training_flops", 1e12)
            for variant in dict.fromkeys(row["variant"] for row in of_chain)
        ]
        if curves:
            yield panel(chain.said, "TFLOPs of training", found, curves)


def by_steps(found: Sequence[dict[str, Any]]) -> Iterator[Panel]:
    """Distance against the FLOPs of sampling, one panel for each sampler and share that was taken with
    several numbers of steps, at the largest of the budgets with the most chains."""
    chains = {
        images: {(row["sampler"], row["share"], row["steps"]) for row in found if row["images"] == images}
        for images in sorted({row["images"] for row in found}, reverse=True)
    }
    images = max(chains, key=lambda one: len(chains[one]))
    for sampler, share in sorted({(name, share) for name, share, _ in chains[images]}):
        alike = [
            row for row in found if (row["images"], row["sampler"], row["share"]) == (images, sampler, share)
        ]
        steps = sorted({row["steps"] for row in alike})
        if len(steps) < 2:
            continue
        chain = f"{sampler}, share {share:g}" if share else sampler
        yield panel(
            f"{images:,} images, {chain}: {steps[0]} to {steps[-1]} steps",
            "GFLOPs an image",
            found,
            [
                curve(variant, [row for row in alike if row["variant"] == variant], "sampling_flops", 1e9)
                for variant in dict.fromkeys(row["variant"] for row in alike)
            ],
        )


def panel(title: str, x_label: str, found: Sequence[dict[str, Any]], curves: list[Curve]) -> Panel:
    """Axes of a distance against a cost."""
    return Panel(title, x_label, found[0]["name"], curves, log_x=True)


def curve(label: str, found: Sequence[dict[str, Any]], cost: str, unit: float) -> Curve:
    """Mean distance over the seeds against a cost, with its standard error."""
    groups = sorted(grouped(found).values(), key=lambda members: float(members[0][cost]))
    x = [members[0][cost] / unit for members in groups]
    y = [statistics.mean(row["fd"] for row in members) for members in groups]
    errors = [
        standard_error([row["fd"] for row in members]) if len(members) > 1 else 0.0 for members in groups
    ]
    return Curve(label, x, y, markers=True, errors=errors)
