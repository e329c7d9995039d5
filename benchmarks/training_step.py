"""Time of a training step at each resolution: `python benchmarks/training_step.py`.

The bar is 1.5 times the authors' code: 8.1 s at 64 px, 4.4 at 32, 2.3 at 16, 0.8 at 8 with celeba64 and
batch 8 on two cores of the machine on which the bar was set. A step is loss, gradient, clipping, AdamW and
the average.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from ssdiff import build_model, build_process, load_preset
from ssdiff.devices import pick_device, pick_precision
from ssdiff.training.batches import Batches, Place
from ssdiff.training.trainer import Trainer

OFFICIAL = {("celeba64", 8): {64: 8.1, 32: 4.4, 16: 2.3, 8: 0.8}}


def main() -> None:
    """Print a table, one row a resolution."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="celeba64")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = pick_device(options.device)
    preset = load_preset(options.preset, {"training.batch": options.batch})
    side, channels = preset.data.size, preset.data.channels
    images = np.random.RandomState(0).randint(
        0, 256, (4 * options.batch, channels, side, side), dtype=np.uint8
    )
    place = Place(0, 1, options.batch)
    model = build_model(preset).to(device, memory_format=torch.channels_last)
    batches = Batches(images, None, device, place, 0, flip=True, classes=preset.model.classes)
    precision = pick_precision(options.precision, device)
    trainer = Trainer(preset.training, build_process(preset), model, batches, place, precision=precision)

    times: dict[int, list[float]] = {}
    wanted = {state.resolution for state in trainer.process.states[1:]}
    counter = 0
    while any(len(times.get(r, [])) <= options.repeats for r in wanted):
        resolution = trainer.resolution_of_step(counter)
        trainer.step = (
            counter  # a step's content depends on its number alone, so unwanted ones are passed over
        )
        counter += 1
        if len(times.setdefault(resolution, [])) > options.repeats:
            continue
        start = time.perf_counter()
        trainer.advance()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times[resolution].append(time.perf_counter() - start)

    print(
        f"{options.preset}, batch {options.batch}, {device}, {precision}, {torch.get_num_threads()} threads"
    )
    print("resolution   seconds a step   images/s   official / ours")
    official = OFFICIAL.get((options.preset, options.batch), {}) if device.type == "cpu" else {}
    for resolution in sorted(wanted, reverse=True):
        seconds = statistics.median(times[resolution][1:])  # the first allocates and chooses kernels
        ratio = f"{official[resolution] / seconds:17.2f}" if resolution in official else ""
        print(f"{resolution:10d} {seconds:16.3f} {options.batch / seconds:10.2f} {ratio}")


if __name__ == "__main__":
    main()
