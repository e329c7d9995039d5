"""How large the study of SNR-preserving noise is, and its networks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

Settings = dict[str, object]
CHANGES = "training.transition_share"
PAIRS = "training.grad_accum_steps"
DETAILS = "sampling.renoise"
OWN, OWN_AFTER = "model.own", "training.own_after"
LOG_SNR: Settings = {"training.timesteps": "log_snr", "training.uncertainty": True}
NARROW: Settings = {**LOG_SNR, "training.log_snr_mean": 1.0, "training.log_snr_std": 2.0}
LINEAR: Settings = {CHANGES: 0.0, "sampling.lift": "linear", "sampling.crossing": "timestep"}
BASE = "DDPM"
"""The variant that others are compared with."""
REFERENCES = ("held-out", "train")
"""Zips of the study that drawn images are compared with, in this order."""


class Chain(NamedTuple):
    """How images are drawn.

    Attributes:
        steps: of the sampler.
        sampler: its name.
        share: of what its steps lose that is given back (sampling.correction), in [0, 1].
    """

    steps: int
    sampler: str
    share: float = 0.0

    @classmethod
    def read(cls, text: str, separator: str = ":") -> Chain:
        """Parse ``STEPS:SAMPLER`` or ``STEPS:SAMPLER:SHARE``.

        Raises:
            ValueError: it is neither.
        """
        parts = text.split(separator)
        steps, sampler, share = parts if len(parts) > 2 else (*parts, "0")
        return cls(int(steps), sampler, float(share))

    @property
    def name(self) -> str:
        """As part of a file's name."""
        return f"{self.steps}-{self.sampler}-{self.share:g}"

    @property
    def said(self) -> str:
        """As a table has it."""
        return f"{self.steps}, {self.sampler}" + (f", share {self.share:g}" if self.share else "")


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        settings: of all variants.
        variants: settings of each by name.
        batch: images a step.
        budgets: images seen at which a network is evaluated.
        held_out: images kept for the reference.
        samples: drawn at each budget.
        chains: of the drawing.
        at_once: images drawn together.
    """

    settings: Settings
    variants: dict[str, Settings]
    batch: int
    budgets: tuple[int, ...]
    held_out: int = 2700
    samples: int = 5000
    chains: tuple[Chain, ...] = (
        Chain(50, "ancestral"),
        Chain(25, "ddim"),
        Chain(25, "ddim", 0.5),
        Chain(10, "ddim", 1.0),
    )
    at_once: int = 1000


def published(levels: int, **more: object) -> Settings:
    """SSD as in the paper."""
    return {"process.levels": levels} | more


def matched(*at: float, **more: object) -> Settings:
    """SSD whose noise falls with the resolution, changing at these full-resolution log-SNRs."""
    return {
        "process.levels": len(at) + 1,
        "process.snr_preserving": 1.0,
        "process.resize": "area",
        "process.resolution.kind": "log_snr",
        "process.resolution.at": list(at),
        CHANGES: 0.03,
        PAIRS: 4,
    } | more


def apart(*at: float, **more: object) -> Settings:
    """Matched SSD whose full size has weights of its own, with what else has turned out to help."""
    return matched(*at, **{OWN: 1, "training.size_power": 2.0, DETAILS: "spectral"} | more)


WIDE: Settings = {"model.width": 32}
SMALL: Settings = {
    "data.resize": "antialias",  # as the reference is, or no model could come nearer than the difference
    "sampling.correction": 1.0,  # so that every run has the spectra that a chain with a share needs
    "training.precision": "fp32",  # so small a network is no quicker in bf16
    "model.width": 24,
    "model.blocks": 1,
    "training.lr": 1e-3,
    "training.warmup": 100,
    "training.ema": 0.999,
}
SCALES = {
    "toy": Scale(
        {
            **SMALL,
            "training.warmup": 1,
            "data.size": 16,
            "model.width": 8,
            "model.multipliers": [1, 2],
            "model.attention": [8],
            "training.sample_count": 4,
            "training.sample_steps": 2,
        },
        {"DDPM": published(1), "matched SSD, 2 levels": matched(-2.0, **{PAIRS: 2, DETAILS: "spectral"})},
        batch=8,
        budgets=(32, 64),
        held_out=8,
        samples=8,
        chains=(Chain(3, "ddim"), Chain(3, "ddim", 1.0)),
    ),
    "16px": Scale(
        {**SMALL, "data.size": 16, "model.multipliers": [1, 2, 2], "model.attention": [4]},
        {
            "DDPM": published(1),
            "DDPM, batches in four parts": published(1, **{PAIRS: 4}),
            "DDPM, log-SNR": published(1, **LOG_SNR),
            "DDPM, log-SNR, narrow": published(1, **NARROW),
            "DDPM, log-SNR, not weighed": published(1, **{"training.timesteps": "log_snr"}),
            "published SSD, 2 levels": published(2),
            "published SSD, 3 levels": published(3),
            "matched SSD, 3 levels": matched(-1.25, -4.25),
            "published SSD, trained as matched": published(3, **{CHANGES: 0.03, PAIRS: 4}),
            "matched SSD, trained as published": matched(-1.25, -4.25, **{CHANGES: 0.0, PAIRS: 1}),
            "matched SSD, one pair a step": matched(-1.25, -4.25, **{PAIRS: 1}),
            "matched SSD, bilinear": matched(-1.25, -4.25, **{"process.resize": "bilinear"}),
            "matched SSD, weighed by size": matched(-1.25, -4.25, **{"training.size_power": 2.0}),
            "matched SSD, spectral details": matched(-1.25, -4.25, **{DETAILS: "spectral"}),
            "matched SSD, weighed, spectral details": matched(
                -1.25, -4.25, **{"training.size_power": 2.0, DETAILS: "spectral"}
            ),
            "matched SSD, apart": apart(-1.25, -4.25),
            "matched SSD, apart, later": apart(-2.0, -4.0),
            "matched SSD, apart, later, not weighed": apart(-2.0, -4.0, **{"training.size_power": 0.0}),
            "matched SSD, apart, later, no share of changes": apart(-2.0, -4.0, **{CHANGES: 0.0}),
            "matched SSD, apart, latest": apart(-2.75, -4.25),
            "matched SSD, apart after a quarter": apart(-2.0, -4.0, **{OWN_AFTER: 0.25}),
            "matched SSD, apart after a half": apart(-2.0, -4.0, **{OWN_AFTER: 0.5}),
            "matched SSD, apart, overlap": apart(-1.25, -4.0, **{"training.overlap_share": 0.1}),
            "matched SSD, apart, later, linear lift": apart(-2.0, -4.0, **LINEAR),
            "matched SSD, apart, later, log-SNR": apart(
                -2.0, -4.0, **{"training.size_power": 0.0}, **LOG_SNR
            ),
            "matched SSD, apart, later, log-SNR, narrow": apart(
                -2.0, -4.0, **{"training.size_power": 0.0}, **NARROW
            ),
            "matched SSD, apart, later, linear lift, log-SNR, narrow": apart(
                -2.0, -4.0, **{"training.size_power": 0.0}, **LINEAR, **NARROW
            ),
            "matched SSD, apart, later, wide": apart(-1.75, -3.5, **WIDE),
            "DDPM, wide": published(1, **WIDE),
            "matched SSD, later changes": matched(-2.0, -4.25, **{DETAILS: "spectral"}),
            "matched SSD, no share of changes": matched(-1.25, -4.25, **{CHANGES: 0.0}),
        },
        batch=64,
        budgets=(64_000, 128_000, 512_000),
        samples=2000,
    ),
    "32px": Scale(
        {**SMALL, "data.size": 32, "model.multipliers": [1, 2, 2, 4], "model.attention": [8, 4]},
        {
            "DDPM": published(1),
            "published SSD, 2 levels": published(2),
            "published SSD, 4 levels": published(4),
            "published SSD, trained as matched": published(4, **{CHANGES: 0.03, PAIRS: 4}),
            "matched SSD, 4 levels": matched(-1.0, -3.25, -6.5),
            "matched SSD, weighed by size": matched(-1.0, -3.25, -6.5, **{"training.size_power": 2.0}),
            "matched SSD, weighed, spectral details": matched(
                -1.0, -3.25, -6.5, **{"training.size_power": 2.0, DETAILS: "spectral"}
            ),
            "matched SSD, apart": apart(-1.0, -3.25, -6.5),
            "matched SSD, apart, later": apart(-1.75, -3.25, -6.5),
            "matched SSD, apart, later, linear lift": apart(-1.75, -3.25, -6.5, **LINEAR),
            "matched SSD, apart after a quarter": apart(-1.75, -3.25, -6.5, **{OWN_AFTER: 0.25}),
        },
        batch=64,
        budgets=(64_000, 128_000, 256_000),
        samples=2000,
    ),
    "64px": Scale(
        {
            "sampling.correction": 1.0,
            "model.width": 64,
            "training.lr": 3e-4,
            "training.warmup": 200,
            "training.ema": 0.999,
        },
        {
            "DDPM": published(1),
            "matched SSD, 4 levels": matched(
                -1.0, -2.0, -7.5, **{"training.size_power": 2.0, DETAILS: "spectral"}
            ),
            "matched SSD, apart, later": apart(-1.5, -2.5, -7.5),
            "matched SSD, apart, later, linear lift": apart(-1.5, -2.5, -7.5, **LINEAR),
            "published SSD, trained as matched": published(4, **{CHANGES: 0.03, PAIRS: 4}),
            "published SSD, 4 levels": published(4),
            "published SSD, 2 levels": published(2),
        },
        batch=256,
        budgets=(128_000, 256_000),
        samples=2000,
        at_once=250,
    ),
}


@dataclass(frozen=True)
class Case:
    """One network at one budget.

    Attributes:
        scale: of the study.
        variant: name.
        seed: of the training.
        images: seen in training.
        out: folder of the study.
    """

    scale: Scale
    variant: str
    seed: int
    images: int
    out: Path

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.out / "runs" / f"{slug(self.variant)}-seed{self.seed}-{self.images}"

    def smaller(self) -> list[Case]:
        """The same network at smaller budgets that have been begun, the largest first; none where it branches
        after a share of its steps."""
        if OWN_AFTER in self.scale.variants[self.variant]:
            return []
        stem = self.run.name.rpartition("-")[0]
        begun = (int(folder.name.rpartition("-")[2]) for folder in self.run.parent.glob(f"{stem}-*"))
        return [
            replace(self, images=images) for images in sorted(begun, reverse=True) if images < self.images
        ]

    @property
    def steps(self) -> int:
        """Of the optimiser."""
        return self.images // self.scale.batch

    @property
    def steady(self) -> int:
        """Steps after which there is a checkpoint that a longer run would have, too: before lr falls."""
        return self.steps * 3 // 4

    def result(self, metric: str, chain: Chain, reference: str) -> Path:
        """Where a distance to one of REFERENCES is kept."""
        return self.run / "results" / f"{chain.name}-{metric}-{reference}.json"

    @property
    def errors(self) -> Path:
        """Where its errors as a denoiser are kept, beside those of BASE."""
        return self.run / "results" / "denoisers.json"

    @property
    def trained(self) -> bool:
        """Whether it has seen all its images."""
        return (self.run / "checkpoints" / f"step-{self.steps:08d}").exists()

    def evaluated(self) -> list[Chain]:
        """The chains of which all distances are there, fewest steps first."""
        # This distance is the last that is taken.
        last = f"-kid-{REFERENCES[-1]}.json"
        found = (path.name.removesuffix(last) for path in self.run.glob(f"results/*{last}"))
        return sorted(Chain.read(name, "-") for name in found)

    def settings(self) -> Settings:
        """Of the preset celeba64."""
        own = self.scale.variants[self.variant]
        return {
            **self.scale.settings,
            **own,
            "training.batch": self.scale.batch // int(str(own.get(PAIRS, 1))),
            "training.seed": self.seed,
            "training.steps": self.steps,
            "training.lr_schedule": "linear",
            "training.lr_decay_share": 0.25,
            "training.checkpoint_every": max(self.steady, 1),
            "training.max_checkpoints": 1000,
            "training.sample_every": 0,
            "training.log_every": 25,  # divides `steady`, but for the toy's: no time is lost between records
        }


def every(scale: Scale, out: Path) -> list[Case]:
    """Every network of a study that has been begun, at every budget."""
    begun = sorted(
        (int(numbers.group(1)), int(numbers.group(2)), folder.name[: numbers.start()])
        for folder in (out / "runs").glob("*")
        if (numbers := re.search("-seed([0-9]+)-([0-9]+)$", folder.name))
    )
    return [
        Case(scale, name, seed, images, out)
        for name in scale.variants
        for seed, images, short in begun
        if slug(name) == short
    ]


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).replace("--", "-")
