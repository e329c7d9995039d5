"""How good images are: see :mod:`ssdiff.evaluation.image_quality`."""
