"""Training: batches, losses, the optimiser's step; a whole run is :mod:`ssdiff.training.run`."""
