"""How good images are: see :mod:`ssdiff.metrics.likeness`."""
