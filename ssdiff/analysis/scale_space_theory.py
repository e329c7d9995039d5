"""Which property of scale-spaces theory expects of a process, so that a result against it stands out.

Theory is [GS] for noisy processes, [Weickert 1998; Weickert et al. 2013] for image filters, and what follows
from the construction of a degradation for cold ones. Where it promises nothing, nothing is expected: the
value is None [docs/math.md, section 14].
"""

from __future__ import annotations

import math

from ssdiff.config import Preset
from ssdiff.process.base import Process

SEMIGROUP, ROTATION, MIRROR = "semigroup", "rotation by 90 degrees", "mirror image"
PERMUTATION, GREY_VALUE = "permutation of pixels", "average grey value"
UNSCALED_GREY_VALUE = "average grey value, signal scale undone"
MAXIMUM_MINIMUM = "maximum-minimum principle"
CONDITIONAL_ENTROPY, MARGINAL_ENTROPY = "conditional entropy rises", "marginal entropy rises"
INFORMATION, ENDS_IN_NOISE = "information on x_0 falls", "ends in noise"
TO_TERMINAL = "relative entropy to the terminal Gaussian falls"
POSITIVITY, IMAGE_ENTROPY = "positivity", "entropy of the image rises"
TO_STEADY, ENDS_STEADY = "relative entropy to the steady state falls", "ends at the steady state"
CLEAN_START, ADDITIVE = "D(x, 0) = x", "additive semigroup of D"
FACTORS, CONTRAST = "D(x, t) follows from D(x, s)", "contrast falls"

Expected = dict[str, bool | None]
"""Law to whether it is expected to hold; what is absent or None is not foretold."""

_ROUNDING = 1e-9


def is_chain(process: Process) -> bool:
    """Return whether states are a Markov chain; not where noise never rises, as it is drawn anew [IHDM]."""
    return process.T == 1 or process.states[1].snr > process.states[-1].snr


def expected_of_noise(process: Process, preset: Preset | None) -> Expected:
    """Return what is expected of a noisy process.

    Args:
        process: whose structure tells most of it.
        preset: that it was built from, if any: of a kind that is not isotropic the structure tells little.
    """
    states = process.states
    kind = preset.process.kind if preset is not None else None
    known = kind in ("ssd", "ddpm", "blurring", "blur-noise", "heat")
    one_size = not process.changes_resolution
    plain = process.isotropic and one_size  # x_t = a_t x_0 + sigma_t eps
    chain = is_chain(process)
    unscaled = all(math.isclose(state.signal, 1.0) for state in states)
    preserving = all(
        math.isclose(state.signal**2 + state.sigma**2, 1.0, rel_tol=_ROUNDING) for state in states[1:]
    )
    keeps_grey = _keeps_grey(kind, plain, preset)
    return {
        SEMIGROUP: chain,
        ROTATION: True if process.isotropic or known else None,
        MIRROR: True if process.isotropic or known else None,
        # Only a multiple of the identity with white noise commutes with every permutation.
        PERMUTATION: True if plain else False if known else None,
        GREY_VALUE: keeps_grey if unscaled else False if known or process.isotropic else None,
        UNSCALED_GREY_VALUE: keeps_grey,
        # Averages are within the range of what is averaged; sums of cosines need not be.
        MAXIMUM_MINIMUM: True if process.isotropic else None,
        CONDITIONAL_ENTROPY: True if process.isotropic or known else None,
        # Adding independent noise raises the entropy; scaling the signal down lowers it again.
        MARGINAL_ENTROPY: True if plain and unscaled else None,
        INFORMATION: True,  # the data processing inequality
        ENDS_IN_NOISE: (kind != "heat" and chain) if process.isotropic or known else None,
        # N(0, 1) is stationary for variance-preserving transitions, so the divergence from it falls.
        TO_TERMINAL: True if process.isotropic and preserving else None,
    }


def _keeps_grey(kind: str | None, plain: bool, preset: Preset | None) -> bool | None:
    """Whether D keeps the mean of a grey image."""
    if plain or kind in ("blurring", "heat"):
        return True  # the coefficient of frequency 0 keeps its signal
    if kind == "ssd" and preset is not None:
        # Bilinear weights at the border differ from those in the middle; areas weigh all pixels the same.
        return preset.process.resize == "area"
    return False if kind == "blur-noise" else None  # zeros lie beyond the border


def expected_of_filter(flat: bool) -> Expected:
    """Return what is expected of an image filter.

    Args:
        flat: whether its steady state is, as that of heat, not that of osmosis.
    """
    common = (SEMIGROUP, ROTATION, MIRROR, GREY_VALUE, POSITIVITY, TO_STEADY, ENDS_STEADY)
    expected: Expected = dict.fromkeys(common, True)
    # Osmosis makes its guidance appear, brighter and darker than the image ever was.
    return expected | {IMAGE_ENTROPY: flat, MAXIMUM_MINIMUM: flat}


def expected_of_cold(preset: Preset | None, channels: int) -> Expected:
    """Return what is expected of a cold process's D.

    Args:
        preset: that it was built from; of another nothing but its start is known.
        channels: of the images.
    """
    expected: Expected = {CLEAN_START: True}
    degradation = preset.process.degradation if preset is not None else None
    if degradation is None:
        return expected
    options = degradation.options
    match degradation.kind:
        case "blur":
            to_mean = bool(options.get("to_mean"))
            same = "kernel" in options and options.get("std", "constant") == "constant"
            constant = same and not to_mean
            circular = options.get("padding") == "circular"
            expected |= dict.fromkeys((FACTORS, ROTATION, MIRROR, MAXIMUM_MINIMUM), True)
            expected |= {
                PERMUTATION: False,
                ADDITIVE: True if constant else None,
                GREY_VALUE: True if circular else None,
                CONTRAST: True if circular else None,
            }
        case "dct-blur":
            expected |= dict.fromkeys((FACTORS, ROTATION, MIRROR, GREY_VALUE, CONTRAST), True)
            expected |= {PERMUTATION: False, ADDITIVE: False}
        case "desaturate" if channels > 1 and options.get("space", "rgb") == "rgb":
            constant = options.get("rule") == "constant" and not options.get("grey_last")
            expected[ADDITIVE] = constant  # powers of a factor multiply up, a line does not
            shared = (FACTORS, ROTATION, MIRROR, PERMUTATION, GREY_VALUE, CONTRAST, MAXIMUM_MINIMUM)
            expected |= dict.fromkeys(shared, True)
        case "noise" | "animorph":
            laws = (ADDITIVE, ROTATION, MIRROR, PERMUTATION, GREY_VALUE, MAXIMUM_MINIMUM)
            expected |= dict.fromkeys(laws, False) | {FACTORS: True}
        case "pixelate":
            expected |= {MAXIMUM_MINIMUM: True, PERMUTATION: False}
        case _:
            pass
    return expected
