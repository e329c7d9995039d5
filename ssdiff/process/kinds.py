"""The kinds of processes, as types."""

from typing import TypeAlias

from ssdiff.process.cold import ColdProcess
from ssdiff.process.diagonal import DiagonalProcess
from ssdiff.process.gaussian import GaussianProcess

NoisyProcess: TypeAlias = GaussianProcess | DiagonalProcess
"""With Gaussian noise: marginals, posteriors, the eta family."""

Process: TypeAlias = NoisyProcess | ColdProcess
"""Any: T, states, degrade."""
