"""Sampling: draw eight images with the small model that ships with ssdiff, as Pillow images."""

import ssdiff

# A pipeline is a process (how images degrade), a network (what it sees in a degraded one) and a sampler.
pipe = ssdiff.load()  # the newest run of `ssdiff train`, or the bundled model of drawn shapes
images = pipe.sample(8, steps=20, sampler="ddim", seed=1, output="pil")

images.grid(columns=4).save("shapes.png")  # in a notebook, `images` alone shows the grid
print(f"{len(images)} images of {images[0].size} pixels in shapes.png")
