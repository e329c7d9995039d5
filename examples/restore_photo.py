"""Restoring: a model undoes what it was trained to undo, here the loss of pixels and noise up to t = 300."""

from PIL import Image, ImageDraw

import ssdiff

pipe = ssdiff.load()  # the newest run, or the bundled model of drawn shapes
photo = Image.new("RGB", (64, 64), (30, 40, 60))
ImageDraw.Draw(photo).ellipse((12, 12, 50, 50), fill=(245, 130, 30))

# degrade=True: the picture is clean, so it is degraded first and compared with what comes out.
result = ssdiff.restore(photo, pipe, degrade=True, t=300, sampler="ddim", steps=20)
result.picture().save("restored.png")  # degraded | restored | clean; a notebook shows `result` so
print(f"restored from t = 300: PSNR {float(result.psnr):.1f} dB, SSIM {float(result.ssim):.2f}")
