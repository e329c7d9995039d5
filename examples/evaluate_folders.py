"""Compare two folders of images by features of one's own network; by default they would be Inception's."""

from pathlib import Path

import numpy as np
from PIL import Image

import ssdiff

numbers = np.random.default_rng(0)
for name, contrast in (("sharp", 255), ("dull", 128)):
    Path(name).mkdir()
    for k in range(100):
        Image.fromarray(numbers.integers(0, contrast, (32, 32, 3), dtype=np.uint8)).save(f"{name}/{k}.png")

own = "plugins.patch_features:PatchFeatures"
found = ssdiff.evaluate("dull", "sharp", ("fid", "kid"), extractor=own, subset_size=50)
print(found)
print(found.values["kid"]["mean"])
