"""Train a network of your own, a plain nn.Module, with Scale Space Diffusion, and sample from it."""

from pathlib import Path

import ssdiff

preset = ssdiff.load_preset(
    Path(__file__).parent / "plugins" / "small_unet.toml",  # names the file with the network
    {"training.steps": 20, "training.sample_count": 4, "training.sample_steps": 10},
)
result = ssdiff.train(preset, out="mine")
pipeline = result.pipeline()
for number, image in enumerate(pipeline.sample(4, steps=10, output="pil")):
    image.save(f"mine-{number}.png")
print(f"step {result.step} of {sum(w.numel() for w in pipeline.model.parameters())} weights; mine-0.png ...")
