"""Comprehension, grokking, memorisation, confusion: the four phases of Liu et al. (table 1, eq. E12), and what their definition leaves open.

A run is given by two times: the first step at which it is right on most training pairs, and on most validation pairs; NaN if never.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import xarray as xr

from grokutils.problems import positive

PHASES = ("comprehension", "grokking", "memorisation", "confusion")
LETTERS = "CGMX"


def classify(train, test, *, delay: float = 1000.0, ratio: float | None = None, horizon: float | None = None):
    r"""The phase of runs as an index into ``PHASES``, from the times $T_{tr}$ and $T_{val}$ (eq. E12).

    Both reached: comprehension if $T_{val}-T_{tr}$ is below ``delay``, grokking otherwise. Only training: memorisation. Training not
    reached: confusion, even if the validation pairs are right, a case for which the paper has no name.

    Args:
        train, test: times of the same shape (arrays, or DataArrays with the same dims), NaN if never.
        delay: in steps.
        ratio: compare $T_{val}/T_{tr}$ with this number instead.
        horizon: what happened after it counts as never; None: all counts.

    Returns:
        integers of that shape.
    """
    if ratio is None:
        positive("delay", delay)
    else:
        positive("ratio", ratio)
    end = math.inf if horizon is None else positive("horizon", horizon)
    known, generalised = train <= end, test <= end  # NaN is never
    late = test - train >= delay if ratio is None else test >= ratio * train
    phase = np.select([~known, ~generalised, late], [3, 2, 1], 0)
    return train.copy(data=phase) if isinstance(train, xr.DataArray) else phase


def fractions(phase, dim: str = "seed") -> xr.DataArray:
    """The share of runs in each phase along a dim: DataArray (phase, ...)."""
    shares = [(phase == k).mean(dim) for k in range(len(PHASES))]
    return xr.concat(shares, dim=xr.DataArray(list(PHASES), dims="phase", name="phase"))


def wilson(share, runs: int, z: float = 1.0):
    r"""Lower and upper limit of a binomial share by Wilson's method: the probabilities $P$ with $|f-P|\le z\sqrt{P(1-P)/n}$.

    Unlike $f\pm\sqrt{f(1-f)/n}$ it says something when none or all of the runs are in a phase.
    """
    share, z2 = np.asarray(share, dtype=float), z * z / positive("runs", runs, whole=True)
    middle = (share + z2 / 2) / (1 + z2)
    half = np.sqrt(np.maximum(z2 * (share * (1 - share) + z2 / 4), 0)) / (1 + z2)
    return middle - half, middle + half


def unlearnable_law(problem, pairs: int) -> np.ndarray:
    r"""The law of the number of validation pairs that nothing links to a training pair: probabilities of 0, 1, ..., all of them; exact.

    A validation pair can be inferred only from a training pair of the same sum. So unlearnable are the pairs of those sums whose $k_s$
    pairs are all held out, and of $h$ held-out pairs of the table

    $$P(m)=\binom{|D_0|}{h}^{-1}[x^hy^m]\prod_s\Bigl[(1+x)^{k_s}-x^{k_s}+x^{k_s}y^{k_s}\Bigr].$$

    Holds where the training set determines the representation (nullity 2); else more pairs may be out of reach.
    """
    held_out = problem.table_size - positive("pairs", pairs, whole=True)
    ways = {(0, 0): 1}  # (held-out pairs so far, unlearnable ones among them)
    for s in range(problem.sums):
        size = min(s, problem.sums - 1 - s) // 2 + 1
        more = {(j, 0): math.comb(size, j) for j in range(size)} | {(size, size): 1}
        before, ways = ways, {}
        for (h, m), a in before.items():
            for (j, k), b in more.items():
                if h + j <= held_out:
                    ways[h + j, m + k] = ways.get((h + j, m + k), 0) + a * b
    total = math.comb(problem.table_size, held_out)
    return np.array([ways.get((held_out, m), 0) / total for m in range(held_out + 1)])


def needed(held_out: int, accuracy: float = 0.9, *, strict: bool = False, unlearnable=0):
    """How many of the validation pairs must be right for an accuracy "of at least", or if ``strict`` "above", the one given.

    The accuracy counts relative to the pairs that can be inferred, ``held_out - unlearnable``; whole numbers throughout, so that no rounding
    of 0.9 decides. At least one pair, and never more than there are.
    """
    share = Fraction(str(accuracy))

    def one(missing):
        reachable = int(held_out) - int(missing)
        count = math.floor(share * reachable) + 1 if strict else math.ceil(share * reachable)
        return max(count, 1)

    return np.vectorize(one, otypes=[int])(unlearnable) if np.ndim(unlearnable) else one(unlearnable)


def times(ds: xr.Dataset, accuracy: float = 0.9, *, strict: bool = False, relative: bool = False) -> tuple[xr.DataArray, xr.DataArray]:
    """The times of training and validation in a stored phase diagram (``experiments.phase_regression`` and its like).

    Args:
        ds: with first_train (.., level), first_test (.., count) and unlearnable (seed).
        accuracy: of training pairs (one of ``ds.level``) and of validation pairs.
        strict: "above" instead of "at least" (no difference for training pairs unless the accuracy is exactly a share of them).
        relative: validation accuracy relative to the pairs that can be inferred.
    """
    held_out = int(ds["count"].max())
    levels = ds.level.values
    if not np.isclose(levels, accuracy).any():
        raise ValueError(f"accuracy must be one of the stored levels {levels.tolist()}, got {accuracy!r}")
    train = ds.first_train.isel(level=int(np.abs(levels - accuracy).argmin()), drop=True)
    count = needed(held_out, accuracy, strict=strict, unlearnable=ds.unlearnable.values if relative else np.zeros(ds.sizes["seed"], int))
    possible = xr.DataArray(np.minimum(count, held_out), dims="seed", coords={"seed": ds.seed})
    test = ds.first_test.sel(count=possible).drop_vars("count")
    return train, test.where(xr.DataArray(count <= held_out, dims="seed", coords={"seed": ds.seed})).transpose(*train.dims)


def collect(runs) -> xr.Dataset | None:
    """The stored runs of a diagram joined along the seeds; None unless all are stored. Curves and embeddings are left out."""
    parts = [run.load() for run in runs]
    if not parts or any(part is None for part in parts):
        return None
    parts = [part[[name for name in part if "step" not in part[name].dims]].drop_vars("step", errors="ignore") for part in parts]
    return xr.concat(parts, dim="seed", data_vars="minimal", coords="minimal", compat="override", join="exact").sortby("seed")


COLOURS = {"comprehension": "#0f9a6c", "grokking": "#d9730d", "memorisation": "#8a70d6", "confusion": "#808487"}


def draw(ax, shares, columns, rows, letters=None) -> None:
    """A phase diagram on axes: every cell a bar whose parts are the shares of the phases, and letters above the bars.

    Args:
        ax: axes.
        shares: (phase, row, column), the first row on top.
        columns, rows: tick labels, "" for none.
        letters: (row, column) strings; None: the initials C, G, M, X of the most frequent phases.
    """
    shares = np.asarray(shares)
    _, height, width = shares.shape
    if letters is None:
        letters = np.array(list(LETTERS))[shares.argmax(0)]
    left = np.arange(width)[None] - 0.44 + np.zeros((height, 1))
    y = np.repeat(np.arange(height)[:, None], width, 1) + 0.2
    for share, (name, colour) in zip(shares, COLOURS.items(), strict=True):
        some = share > 0
        ax.barh(y[some], 0.88 * share[some], left=left[some], height=0.46, color=colour, label=name, linewidth=0)
        left = left + 0.88 * share
    for (i, j), letter in np.ndenumerate(np.asarray(letters)):
        ax.text(j, i - 0.25, letter, ha="center", va="center", fontsize=7)
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=range(width), yticks=range(height), xticklabels=columns, yticklabels=rows)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
