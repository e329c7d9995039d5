"""Train the small model of drawn shapes for 20 steps, and sample from it."""

import ssdiff

result = ssdiff.train("shapes32", out="shapes", overrides={"training.steps": 20, "training.sample_count": 4})
print(f"step {result.step} after {result.seconds:.0f} s, in {result.folder}")

for number, image in enumerate(result.pipeline().sample(4, steps=10, output="pil")):
    image.save(f"shape-{number}.png")
