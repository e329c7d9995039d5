"""Linear operators on images: see :mod:`ssdiff.operators.base`."""
