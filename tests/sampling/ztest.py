"""z-tests of independent draws with a stated false-alarm rate."""

import math

import numpy as np
from scipy.stats import norm

ALPHA = 1e-6  # false-alarm rate of one comparison; the seeds are fixed, so a pass today is a pass tomorrow


def assert_mean(draws, exact):
    """Independent draws have the exact mean, at false-alarm rate ALPHA."""
    draws = np.asarray(draws, dtype=float).ravel()
    z = (draws.mean() - exact) / (draws.std(ddof=1) / math.sqrt(draws.size))
    assert abs(z) < norm.isf(ALPHA / 2), f"mean {draws.mean():.5g} against {exact:.5g}: z = {z:.1f}"


def assert_variance(draws, exact):
    """Independent draws of mean 0 have the exact variance, at false-alarm rate ALPHA."""
    assert_mean(np.asarray(draws, dtype=float) ** 2, exact)
