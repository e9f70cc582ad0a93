"""One population of neurons, or two? Distributions of the overlap before, while and after networks generalise, and what they are tested for."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from scipy.signal import find_peaks

from grokutils.descent import Adam, GradientDescent, QuadraticTask, descend
from grokutils.descent import committee as networks
from grokutils.descent.quadratic import initial_parameters
from grokutils.experiments._run import Run
from grokutils.experiments.committee import REDUCED
from grokutils.modular import AdditionTask
from grokutils.problems import Committee

EDGES = np.linspace(-12, 12, 161)  # of the overlap, less its mean over neurons, in units of its standard deviation; the outer bins have no end
LOOKS = (0, 100, 250, 900)
CUBIC = Committee(dimension=8, samples=400, width=150, laziness=1.0, curvature=1.0, step_size=0.05)
CUBIC_LOOKS = (0, 50, 200, 1000)
MODULAR, MODULAR_LOOKS = AdditionTask(13, 100, 0.9), (0, 250, 600, 1000, 4000)
SHARES = np.linspace(0, 1, 41)
VARIANTS = {
    "square": (REDUCED.replace(width=2000), dict(looks=LOOKS)),
    "momentum": (REDUCED.replace(width=400), dict(looks=LOOKS, momentum=0.9)),
    "readouts": (REDUCED.replace(width=400, step_size=2.0), dict(looks=(0, 150, 300, 1200), readouts=0.01)),
    "adam": (REDUCED.replace(width=400), dict(looks=LOOKS, adam=0.03)),
    "square_small": (CUBIC, dict(looks=CUBIC_LOOKS, degree=2)),
    "cubic": (CUBIC, dict(looks=CUBIC_LOOKS, degree=3)),
}


def neurons(
    problem: Committee, *, looks: tuple, seeds: int = 10, degree: int | None = None, readouts: float = 0.0, momentum: float = 0.0,
    adam: float | None = None, records: int = 40,
) -> xr.Dataset:
    """A committee machine trained, with the distribution of its overlaps at some steps.

    Args:
        looks: these steps, the last of which ends training.
        degree: as in ``descent.committee.train``.
        readouts: train random readouts too, with this share of the weights' learning rate; 0: fixed ones. With equal rates the kernel of the
            readouts, large where weights have grown, allows no larger steps than a hundredth of these.
        momentum, adam: of gradient descent with the same speed; or the learning rate of Adam.

    Returns:
        Dataset over (seed, step): train_loss, test_loss, excess_kurtosis, variance (of the overlap over neurons); and ``histogram`` (seed, look,
        bin) of the standardised overlap.
    """
    steps = max(looks)
    rate = Adam(adam) if adam else GradientDescent((1 - momentum) * problem.learning_rate, momentum=momentum)
    if readouts:
        rate = {"neurons": rate, "readouts": GradientDescent(readouts * problem.learning_rate)}
    record = np.unique(np.r_[0, np.geomspace(1, steps, records).round()].astype(int))
    ds = networks.train(
        problem, seeds, steps, rate, degree=degree, readouts=readouts > 0, neurons=list(looks), record=record, test=1000, dtype="float32",
        progress=False)
    ds = ds.squeeze("direction", drop=True).assign_coords(member=ds.seed.values).drop_vars("seed").rename(member="seed")
    q = ds.overlap.values
    z = (q - q.mean(-1, keepdims=True)) / q.std(-1, keepdims=True)
    kept = ds[["train_loss", "test_loss", "excess_kurtosis"]].assign(variance=ds.overlap_variance)
    return kept.assign(histogram=(("seed", "look", "bin"), _counts(z, EDGES))).assign_coords(look=list(looks), bin=(EDGES[1:] + EDGES[:-1]) / 2)


neurons.version = 1
neurons.seconds = lambda problem, **s: s.get("seeds", 10) * max(s["looks"]) * problem.samples * problem.width * 1.5e-8


def _counts(values, edges):
    """Histograms over the last axis."""
    flat = [np.histogram(np.clip(row, edges[0], edges[-1]), edges)[0] for row in values.reshape(-1, values.shape[-1])]
    return np.array(flat).reshape(*values.shape[:-1], -1)


class _Watched(QuadraticTask):
    """Modular addition with the concentration of every neuron on one frequency."""

    def select(self, members):
        return _Watched(self.masks[members].reshape(-1, self.modulus, self.modulus).cpu().numpy(), self.dtype, self.device)

    def measure(self, parameters):
        return super().measure(parameters) | {"concentration": concentration(parameters["layers.w"])}


def concentration(w: torch.Tensor) -> torch.Tensor:
    r"""$\max_k|\hat w_k|^2/\sum_{k=1}^{(P-1)/2}|\hat w_k|^2$ of each neuron, from the weights (members, P, N) of the first argument."""
    power = torch.fft.rfft(w, dim=1)[:, 1:].abs().square()
    return power.amax(1) / power.sum(1)


def modular(task: AdditionTask, *, looks: tuple, seeds: int = 10, rate: float = 400.0, records: int = 40) -> xr.Dataset:
    r"""Modular addition by a quadratic network with the parametrisation of Kumar et al., with the distribution of its neurons.

    Their $f=\frac\alpha{DN}V(Wx)^2$ with D = 2P, all weights N(0, 1), and the loss averaged over outputs is, for $\alpha=1$, the network of
    ``quadratic`` with initial weights of standard deviation $s=(DN)^{-1/3}$ and the learning rate $2s^2/P$ times theirs, ``rate``.

    Returns:
        Dataset over (seed, step): losses and accuracies, mean concentration; and ``histogram`` (seed, look, bin) of the concentration.
    """
    size = (2 * task.modulus * task.width) ** (-1 / 3)
    masks, steps = np.stack([task.mask(s) for s in range(seeds)]), max(looks)
    record = np.union1d(np.unique(np.r_[0, np.geomspace(1, steps, records).round()].astype(int)), looks)
    optimiser = GradientDescent(rate * 2 * size**2 / task.modulus)
    found = descend(_Watched(masks), initial_parameters(task, range(seeds), size), optimiser, steps, record, progress=False)
    found.pop("last_step")
    each = found.pop("concentration")
    at, coords = np.searchsorted(record, looks), dict(seed=np.arange(seeds), step=record, look=list(looks), bin=(SHARES[1:] + SHARES[:-1]) / 2)
    columns = {name: (("seed", "step"), values) for name, values in found.items()} | {"concentration": (("seed", "step"), each.mean(-1))}
    return xr.Dataset(columns | {"histogram": (("seed", "look", "bin"), _counts(each[:, at], SHARES))}, coords=coords)


modular.version = 1
modular.seconds = lambda task, **s: s.get("seeds", 10) * max(s["looks"]) * 4e-4


def mixture(variant: str | None = None) -> list[Run]:
    """The run of one variant, a key of ``VARIANTS`` or "modular", in a list; None: all."""
    runs = {name: Run(problem, settings, neurons) for name, (problem, settings) in VARIANTS.items()}
    runs["modular"] = Run(MODULAR, dict(looks=MODULAR_LOOKS), modular)
    if variant is not None and variant not in runs:
        raise ValueError(f"variant must be one of {sorted(runs)}, got {variant!r}")
    return [run for name, run in runs.items() if variant in (None, name)]


# --- what a distribution is tested for


def fit(positions, counts, components: int = 3, iterations: int = 150, floor: float = 0.15, start=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most likely mixture of Gaussians of binned numbers, by expectation and maximisation from several fixed starts.

    Args:
        positions, counts: centres of the bins, and how many lie in each.
        floor: least standard deviation of a component, in units of that of all.
        start: a mixture to begin with, instead.

    Returns:
        shares, means, standard deviations.
    """
    positions, counts = np.asarray(positions, dtype=float), np.asarray(counts, dtype=float)
    x, n = positions[counts > 0], counts[counts > 0] / counts.sum()
    centre = n @ x
    size = np.sqrt(n @ (x - centre) ** 2)
    if components == 1:
        return np.ones(1), np.array([centre]), np.array([size])
    places = np.interp([0.02, 0.15, 0.3, 0.5, 0.7, 0.85, 0.98], np.cumsum(n), x)
    wide = (np.full(components, centre), size * np.geomspace(0.5, 2, components))
    spread = [(np.linspace(a, b, components), np.full(components, size / 2)) for a, b in ((places[1], places[5]), (places[0], places[6]),
              (centre, x[-1]), (x[0], centre), (x[0], x[-1]))]
    even, best = np.full(components, 1 / components), None
    for share, mean, sd in [(even, *wide), *((even, *one) for one in spread)] if start is None else [start]:
        for _ in range(iterations):
            density = share * _normal(x[:, None], mean, sd) + 1e-300
            weight = n[:, None] * density / density.sum(1, keepdims=True)
            share = weight.sum(0) + 1e-12
            mean = (weight * x[:, None]).sum(0) / share
            sd = np.sqrt((weight * (x[:, None] - mean) ** 2).sum(0) / share).clip(floor * size)
            share = share / share.sum()
        score = n @ np.log((share * _normal(x[:, None], mean, sd)).sum(1) + 1e-300)
        if best is None or score > best[0]:
            best = score, (share, mean, sd)
    return best[1]


def _normal(x, mean, sd):
    return np.exp(-0.5 * ((x - mean) / sd) ** 2) / (np.sqrt(2 * np.pi) * sd)


def density(mixture_of, x) -> np.ndarray:
    """The density of a fitted mixture."""
    share, mean, sd = mixture_of
    return (share * _normal(np.asarray(x, dtype=float)[:, None], mean, sd)).sum(1)


def barrier(mixture_of, least: float = 0.01) -> float:
    """By how much ln p falls from the lesser of its two most prominent humps to the valley beside it; 0 for one hump.

    Args:
        least: components with a smaller share are left out: with some thousand neurons, they may describe a single one.
    """
    share, mean, sd = (part[mixture_of[0] >= least] for part in mixture_of)
    x = np.linspace((mean - 4 * sd).min(), (mean + 4 * sd).max(), 4001)
    logarithm = np.log(density((share, mean, sd), x) + 1e-300)
    _, found = find_peaks(np.r_[-1e9, logarithm, -1e9], prominence=0)
    return float(np.sort(found["prominences"])[-2]) if len(found["prominences"]) > 1 else 0.0


def populations(histogram: xr.DataArray) -> dict[str, float]:
    """One Gaussian against three, and one hump against two, for histograms (seed, bin).

    Returns:
        gain: by how much a mixture of three Gaussians, fitted to half of the seeds, describes the others better than one Gaussian, in nats a
        neuron, and its standard error over seeds; barrier: see ``barrier``, of the mixture fitted to all seeds, with the error of the
        jackknife over seeds.
    """
    x, counts = histogram.bin.values, histogram.transpose("seed", "bin").values.astype(float)
    gains = np.empty(len(counts))
    for half in (0, 1):
        train = np.concatenate([counts[k::2] for k in range(2) if k != half]).sum(0)
        three, one = (np.log(density(fit(x, train, k), x) + 1e-300) for k in (3, 1))
        gains[half::2] = counts[half::2] @ (three - one) / counts[half::2].sum(1)
    whole, n = fit(x, counts.sum(0)), len(counts)
    without = [barrier(fit(x, counts.sum(0) - row, start=whole)) for row in counts]
    return dict(
        gain=gains.mean(), gain_error=gains.std(ddof=1) / np.sqrt(n), barrier=barrier(whole),
        barrier_error=float(np.sqrt((n - 1) * np.var(without))))


def kurtosis_of_gaussians(neurons: int) -> tuple[float, float]:
    """Mean and standard deviation of the excess kurtosis of N independent Gaussians about their own mean, exactly."""
    n = neurons
    return -6 / (n + 1), float(np.sqrt(24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))))


def verdict(ds: xr.Dataset, look: int | None = None) -> dict[str, float]:
    """What the distribution of neurons says at one look, by default the last.

    Returns:
        test_loss, over the initial one; kurtosis (excess) with its standard error over seeds, where it was measured; what ``populations`` returns.
    """
    look = int(ds.look[-1]) if look is None else look
    now = ds.sel(step=look)
    found = {"look": look, "test_loss": float((now.test_loss / ds.test_loss[:, 0].values).mean())}
    if "excess_kurtosis" in ds:
        k = now.excess_kurtosis.values
        found |= {"kurtosis": float(k.mean()), "kurtosis_error": float(k.std(ddof=1) / np.sqrt(len(k)))}
    return found | {name: float(value) for name, value in populations(ds.histogram.sel(look=look)).items()}


def of_ensemble(ds: xr.Dataset) -> xr.DataArray:
    """The histograms (seed, bin) of a sampled ensemble with several data sets."""
    return ds.histogram.sum("chain").rename(dataset="seed")


def kurtosis_of(histogram: xr.DataArray) -> tuple[float, float]:
    """Excess kurtosis from histograms (seed, bin), of all seeds together, and its error by the jackknife over seeds."""
    x, counts = histogram.bin.values, histogram.transpose("seed", "bin").values.astype(float)

    def of(n):
        z = x - n @ x / n.sum()
        return n @ z**4 * n.sum() / (n @ z**2) ** 2 - 3

    without = [of(counts.sum(0) - row) for row in counts]
    return float(of(counts.sum(0))), float(np.sqrt((len(counts) - 1) * np.var(without)))
