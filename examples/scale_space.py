"""Measure what noise and a change of resolution do to images, without a trained model."""

from pathlib import Path

import ssdiff

processes = {"ddpm": "ddpm-celeba64", "ssd": "celeba64", "noise only": "ve", "heat": "heat"}
found = ssdiff.scale_space("shapes", processes, size=16, images=200, points=9)

print(found.table())
last = [point for point in found.curves if point.quantity == "information" and point.t == 500]
print({point.process: round(point.value, 4) for point in last}, "nats a pixel that x_500 tells of x_0")
Path("scale-space.png").write_bytes(found.plot())
