"""Register a degradation of your own, here vertical blinds that close, and degrade an image by it."""

import torch
from PIL import Image

import ssdiff
from ssdiff.operators.pixelwise import Mask
from ssdiff.process.degradations.base import LinearDegradation


@ssdiff.register_degradation("blinds")
def blinds(size, T, *, slats=8):
    """Return D(., t): t / T of each slat is closed."""
    place = torch.arange(size[1]) * slats / size[1] % 1
    return LinearDegradation(size, T, lambda t: Mask((place >= t / T).double().expand(size)))


image = Image.radial_gradient("L").convert("RGB")
ssdiff.degrade(image, "blinds", 500, slats=16).save("blinds.png")
print("blinds.png: half closed; one of", ", ".join(ssdiff.degradations()))
