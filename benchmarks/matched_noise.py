"""The study of SNR-preserving noise: DDPM, published SSD and matched SSD, compared.

    python benchmarks/matched_noise.py --scale 16px --data faces64.zip --out study/ \
        --extractor effnet_features:EffNetLite0 --minutes 9.5

The last images by name are held out. Every variant and seed is one network of the same shape that sees the
same images in the same order; published SSD trains its resolution transitions by the paper's rule, or, where
it says so, by that of matched SSD. For each budget the learning rate falls in the last quarter of the steps
(a larger budget goes on from before that), images are drawn, and their Frechet and kernel distances to the
held-out images and to those of the training are taken. The same command again goes on where the minutes ran
out. Each call writes results.json, a table, distance.png and sample grids of what is there, and may run
beside others for other variants and seeds; gpu_campaign.py does so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sys
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

from denoisers import clean_images, compared
from study_report import show
from study_scales import BASE, REFERENCES, SCALES, Case, Chain, Scale, every

import ssdiff
from ssdiff.data import open_data
from ssdiff.errors import Interrupted, SsdiffError
from ssdiff.files import write_atomic
from ssdiff.generation import override_sampling
from ssdiff.images import save_image
from ssdiff.runs import RunFolder

CORRECTED = ("ancestral", "ddim")
SAMPLERS = (*CORRECTED, "dpm++")
PART = 1000  # images drawn between two looks at the clock
ERRORS_OF = 1000  # images
LEVELS = 14  # of noise, at which errors are taken


def main() -> None:
    """Do what is left until the time is up, then show what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="16px")
    parser.add_argument("--data", type=Path, required=True, help="zip of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--extractor", default="inception", help="as for `ssdiff eval fid`")
    parser.add_argument(
        "--variants", default="", help="e.g. 'DDPM; matched SSD, 3 levels'; default: all; the plot's, too"
    )
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument(
        "--budgets", type=numbers, default=(), help="images seen, e.g. 64000,128000; default: the scale's"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time for this call")
    parser.add_argument(
        "--chains",
        type=chains,
        default=(),
        help="evaluate the last budget by these: STEPS:SAMPLER, or STEPS:SAMPLER:SHARE with that share of "
        "what steps lose given back, e.g. 10:dpm++,50:ddim,10:ddim:1",
    )
    parser.add_argument(
        "--only-train", action="store_true", help="draw nothing: for denoisers.py and stage_swap.py"
    )
    parser.add_argument("--only-prepare", action="store_true", help="its folder, data and their features")
    parser.add_argument("--only-show", action="store_true", help="what there is: train and draw nothing")
    parser.add_argument(
        "--errors", action="store_true", help="then compare all that are trained with DDPM as denoisers"
    )
    options = parser.parse_args()
    scale, cases = SCALES[options.scale], chosen(options)
    begin(options)
    clock = Clock(60 * options.minutes)
    if options.only_prepare:
        prepare(scale, options)
        return
    if options.only_show:
        cases = []
    try:
        for case in cases:
            if options.only_train:
                learn(case, clock)
            else:
                work(case, options.extractor, clock)
        if options.errors:
            for case in every(scale, options.out):
                take_errors(case, clock)
        print("that is all there is" if options.only_show else "nothing is left to do")
    except (Stopped, Interrupted):
        print("stopped; the same command goes on from here")
    except SsdiffError as error:
        sys.exit(str(error))
    show(scale, options.out, names_in(options.variants))


def numbers(text: str) -> tuple[int, ...]:
    """Positive whole numbers between commas, in order."""
    found = sorted(int(part) for part in text.split(","))
    if found[0] < 1:
        raise argparse.ArgumentTypeError(f"{found[0]} images are too few")
    return tuple(found)


def chains(text: str) -> tuple[Chain, ...]:
    """Chains between commas."""
    return tuple(chain(one) for one in text.split(","))


def chain(text: str) -> Chain:
    """One that there is."""
    try:
        found = Chain.read(text)
    except ValueError:
        found = Chain(0, text)
    shares = (0, 1) if found.sampler in CORRECTED else (0, 0)
    if found.steps < 1 or found.sampler not in SAMPLERS or not shares[0] <= found.share <= shares[1]:
        raise argparse.ArgumentTypeError(
            f"{text} is not STEPS:SAMPLER with one of {', '.join(SAMPLERS)}, nor STEPS:SAMPLER:SHARE "
            f"with one of {', '.join(CORRECTED)} and a share from 0 to 1"
        )
    return found


def names_in(text: str) -> list[str]:
    """What is between semicolons."""
    return [name.strip() for name in text.split(";") if name.strip()]


def chosen(options: argparse.Namespace) -> list[Case]:
    """Every network and budget, the cheap ones of all variants first."""
    scale = SCALES[options.scale]
    budgets = options.budgets or scale.budgets
    if options.chains:
        scale, budgets = replace(scale, chains=options.chains), budgets[-1:]
    wanted = names_in(options.variants)
    if unknown := [name for name in wanted if name not in scale.variants]:
        sys.exit(f"no variant {unknown[0]!r}; there are: {'; '.join(scale.variants)}")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    return [
        Case(scale, name, seed, images, options.out)
        for seed in seeds
        for images in budgets
        for name in wanted or scale.variants
    ]


def begin(options: argparse.Namespace) -> None:
    """Make the folder of a study, or see that what is there was made with the same data and settings."""
    with options.data.open("rb") as file:
        data = hashlib.file_digest(file, "sha256").hexdigest()
    scale = json.loads(json.dumps(asdict(SCALES[options.scale])))
    compared = {key: scale[key] for key in ("settings", "batch", "held_out", "samples")}
    now = {"scale": options.scale, "data": data, "extractor": options.extractor, **compared}
    options.out.mkdir(parents=True, exist_ok=True)
    note, variants = options.out / "study.json", scale["variants"]
    if note.exists():
        before = json.loads(note.read_text())
        known = before.pop("variants")
        differing = [key for key in now if now[key] != before.get(key)]
        differing += [name for name in variants if variants[name] != known.get(name, variants[name])]
        if differing:
            sys.exit(f"{options.out} holds another study ({', '.join(differing)}); choose another --out")
        variants = known | variants
    text = json.dumps({**now, "variants": variants}, indent=1)
    if not note.exists() or note.read_text() != text:  # another process may be reading it
        write_atomic(note, text.encode(), overwrite=True)
    split(options.data, options.out, scale["held_out"])


def split(data: Path, out: Path, held_out: int) -> None:
    """Two zips beside the results: the images to train on, and the last ones by name."""
    train, reference = (out / f"{name}.zip" for name in ("train", "held-out"))
    if not reference.exists():
        with zipfile.ZipFile(data) as source:
            names = sorted(name for name in source.namelist() if not name.endswith("/"))
            for path, part in ((train, names[:-held_out]), (reference, names[-held_out:])):
                partial = path.with_suffix(f".{os.getpid()}")
                with zipfile.ZipFile(partial, "w") as target:
                    for name in part:
                        target.writestr(name, source.read(name))
                partial.replace(path)


def prepare(scale: Scale, options: argparse.Namespace) -> None:
    """Read the sets once, and take their features: what several processes would all do first."""
    side = ssdiff.load_preset("celeba64", scale.settings | next(iter(scale.variants.values()))).data.size
    data = {name: options.out / f"{name}.zip" for name in REFERENCES}
    open_data(str(data["train"]), size=side, channels=3)
    ssdiff.evaluate(*data.values(), ("fid",), extractor=options.extractor, resize=side)


class Stopped(Exception):
    """The minutes of this call have passed, or somebody asked it to stop."""


class Clock:
    """Says when the time is up; SIGTERM and Ctrl-C end it at once.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)

    def over(self) -> bool:
        """Whether it is; a training run asks after every step."""
        return time.monotonic() >= self._end

    def check(self) -> None:
        """Raise Stopped if it is."""
        if self.over():
            raise Stopped

    def _stop(self, number: int, frame: object) -> None:
        self._end = min(self._end, time.monotonic())
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C waits for nothing


def work(case: Case, extractor: str, clock: Clock) -> None:
    """Train a network to its budget, draw, and take the distances; what is done already is left out."""
    missing = [chain for chain in case.scale.chains if chain not in case.evaluated()]
    if not missing:
        return
    learn(case, clock)
    for chain in missing:
        evaluate(case, chain, extractor, clock)


def learn(case: Case, clock: Clock) -> None:
    """Train a network to its budget, unless it is."""
    clock.check()
    preset, start = ssdiff.load_preset("celeba64", case.settings()), str(beginning(case))
    print(f"train {case.run.name}, resume {start}", flush=True)
    ssdiff.train(preset, case.out / "train.zip", case.run, resume=start, stop=clock.over)
    shutil.copy(newest_grid(case.run), case.out / f"{case.run.name}.png")


def beginning(case: Case) -> str | Path:
    """Where training goes on from: its own run, if there is one, or what a smaller budget shares with it."""
    if RunFolder(case.run).has_begun():
        return "auto"
    shared = (one.run / "checkpoints" / f"step-{one.steady:08d}" for one in case.smaller())
    return next((checkpoint for checkpoint in shared if checkpoint.exists()), "auto")


def evaluate(case: Case, chain: Chain, extractor: str, clock: Clock) -> None:
    """Draw images and take their distances to those that were held out, and to those of the training."""
    precision = str(case.settings().get("training.precision", "auto"))
    folder, pipeline = case.run / f"drawn-{chain.name}", ssdiff.load(case.run, precision=precision)
    override_sampling(pipeline, {"sampling.correction": chain.share})
    # An image depends on the seed and its number alone, so a call that is stopped loses one part at most.
    for first in range(0, case.scale.samples, PART):
        files = [folder / f"{k:06d}.png" for k in range(first, min(first + PART, case.scale.samples))]
        if not all(file.exists() for file in files):
            clock.check()
            print(f"draw {len(files)} images of {case.run.name}, {chain.said}", flush=True)
            images = pipeline.sample(
                len(files), chain.steps, chain.sampler, batch=case.scale.at_once, first=first
            )
            for image, file in zip(images, files, strict=True):
                save_image(image, file, overwrite=True)
    for reference in REFERENCES:
        clock.check()
        print(f"evaluate {folder} against {reference}", flush=True)
        found = ssdiff.evaluate(
            folder,
            case.out / f"{reference}.zip",
            ("fid", "kid"),
            extractor=extractor,
            resize=pipeline.process.states[0].resolution,
            subset_size=min(1000, len(files) // 2),
        )
        for result in found.to_dict()["results"]:
            target = case.result(result["metric"], chain, reference)
            write_atomic(target, json.dumps(result, indent=1).encode(), overwrite=True)
    shutil.rmtree(folder)


def take_errors(case: Case, clock: Clock) -> None:
    """Keep the errors of a network as a denoiser beside those of DDPM with its seed and budget, if both are
    trained."""
    base = replace(case, variant=BASE)
    if case.variant == BASE or case.errors.exists() or not (case.trained and base.trained):
        return
    clock.check()
    print(f"errors of {case.run.name}", flush=True)
    one, other = (ssdiff.load(each.run, precision="fp32") for each in (case, base))
    images = clean_images(one, str(case.out / "held-out.zip"), ERRORS_OF).split(case.scale.at_once)
    found = [asdict(row) for row in compared(one, other, images, LEVELS)]
    write_atomic(case.errors, json.dumps(found, indent=1).encode(), overwrite=True)


def newest_grid(run_folder: Path) -> Path:
    """The last sample grid of a run."""
    return max((run_folder / "samples").glob("*.png"))


if __name__ == "__main__":
    main()
