"""Degrading: a picture of any size, by two of the degradations that models here learn to undo."""

from PIL import Image

import ssdiff

# In place of a photograph at hand: a red sun in a sky. The path of a file would do as well.
sun, sky = Image.radial_gradient("L"), Image.linear_gradient("L")
photo = Image.merge("RGB", [sun.point(lambda value: 255 - value), sky, sky]).resize((300, 200))

small = ssdiff.degrade(photo, "downsample", t=700)  # t = 0 is the picture itself, t = 1000 the end
snowy = ssdiff.degrade(photo, "snow", t=400, level=2, seed=3)
small.save("small.png")
snowy.save("snowy.png")
print(f"{photo.size} pixels: downsampled to {small.size}, under snow {snowy.size}")
