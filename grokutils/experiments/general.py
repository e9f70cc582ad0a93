"""Laziness in networks that are not toys: transformers, images, student and teacher (Kumar et al., Figs. 6, 8, 12, 13, 17, 18)."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from scipy import stats

from grokutils.descent.images import ImageClassification
from grokutils.descent.student_teacher import StudentTeacher
from grokutils.descent.transformer import TransformerAddition
from grokutils.experiments._run import Run
from grokutils.experiments.committee import SHARES as COMMITTEE_SHARES
from grokutils.experiments.committee import curves
from grokutils.problems import Committee

SEEDS = 10
LEVELS = (0.5, 0.8, 0.9, 0.95)  # accuracies whose first steps are kept
LEVELS_OF_IMAGES = (0.6, 0.8, 0.9)
_CURVES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
RECORDS = 60  # points of a curve that are kept, even in the logarithm



def delay_slope(train_time, test_time, laziness, last) -> tuple[float, float, int]:
    """How the delay grows with the laziness: the exponent of alpha in test time over training time.

    Args:
        train_time, test_time: (cell, seed), NaN where never.
        laziness: (cell,). last: (cell,), the last step of each run, with which a missing test time is replaced: then the exponent is a lower
            bound if it is the lazier cells that have not got there. Seeds that have not fitted a cell's training data are left out.

    Returns:
        The mean over seeds of the slope of ln(test_time / train_time) against ln(laziness), half of its 95 % t-interval, and how many test
        times were missing.

    Raises:
        ValueError: fewer than two cells, or fewer than two seeds that have fitted all of them.
    """
    train_time, test_time = np.asarray(train_time, float), np.asarray(test_time, float)
    missing = np.isnan(test_time)
    ratio = np.log(np.where(missing, np.asarray(last, float)[:, None], np.maximum(test_time, 1)) / np.maximum(train_time, 1))
    whole = np.isfinite(ratio).all(0)
    if len(ratio) < 2 or whole.sum() < 2:
        raise ValueError(f"an exponent needs two cells and two seeds, got {len(ratio)} cells and {whole.sum()} seeds with all training times")
    slopes = np.polyfit(np.log(np.asarray(laziness, float)), ratio[:, whole], 1)[0]
    half = stats.t.ppf(0.975, len(slopes) - 1) * slopes.std(ddof=1) / len(slopes) ** 0.5
    return float(slopes.mean()), float(half), int(missing[:, whole].sum())


ADDITION = TransformerAddition(23, 0.75, dimension=32, hidden=64, heads=4, norm=False, equation=True)
ADDITION_PAPER = TransformerAddition(113, 0.4, dimension=128, hidden=512, heads=4, norm=False, equation=True)
RATE = 2e-3  # of the transformers at laziness 1; the paper's 6e-6 is for a network of 25 times as many weights
LAZINESS, DECAYS = (0.5, 1.0, 2.5, 5.0), (1.0, 5.0)
_STEPS, _EVERY = {0.5: 2000, 1.0: 4000, 2.5: 12000, 5.0: 12000}, {0.5: 5, 1.0: 10, 2.5: 25, 5.0: 50}


def trained_transformer(
    problem: TransformerAddition, laziness: float, weight_decay: float, steps: int, rate: float = RATE, every: int = 10, until: float = 0.95,
    first_seed: int = 1, seeds: int = SEEDS, centred: bool = True, linearised: bool = False,
) -> xr.Dataset:
    """Transformers under AdamW with rate ``rate / laziness**2`` for all weights; seed 0 was the pilot's, so the first seed is 1.

    ``linearised``: their expansions to first order at the start instead.

    Returns:
        train_time, test_time (member, level): the first recorded steps with the accuracies ``LEVELS``, NaN where never; train_accuracy,
        test_accuracy (member, step) at about ``RECORDS`` steps; norm (member, end), the norm of all weights at the start and
        when the member ended, and movement (member,), the norm of their change over that at the start. A member ends once both accuracies are
        ``until``.
    """
    from grokutils.descent import AdamW, first_reached
    from grokutils.descent import transformer as networks

    def done(measured):
        return (measured["train_accuracy"] >= until) & (measured["test_accuracy"] >= until)

    members = list(range(first_seed, first_seed + seeds))
    optimiser = AdamW(rate / laziness**2, weight_decay, betas=(0.9, 0.98))
    ds = networks.train(problem, members, steps, embedding=optimiser, decoder=optimiser, laziness=laziness, centred=centred, every=every,
                        linearised=linearised, keep_embeddings=False, stop=done, progress=False)
    start = networks.initial_parameters(problem, members)
    first = np.concatenate([p.reshape(seeds, -1).numpy() for p in start.values()], axis=1)
    last = ds.parameters.values
    found = {f"{part}_time": (("member", "level"), np.stack([first_reached(ds[f"{part}_accuracy"], x).values for x in LEVELS], axis=1))
             for part in ("train", "test")}
    found["norm"] = ("member", "end"), np.stack([np.linalg.norm(first, axis=1), np.linalg.norm(last, axis=1)], axis=1)
    found["movement"] = "member", np.linalg.norm(last - first, axis=1) / np.linalg.norm(first, axis=1)
    kept = ds[list(_CURVES[2:])].isel(step=_spaced(ds.step.values)).drop_vars(["seed", "dropout", "laziness"], errors="ignore")
    return kept.assign(found).assign_coords(level=list(LEVELS), seed=("member", members)).assign_attrs(
        laziness=laziness, weight_decay=weight_decay, rate=rate / laziness**2)


def _spaced(steps) -> np.ndarray:
    """Places of about ``RECORDS`` of the recorded steps, evenly in the logarithm, the first and the last among them."""
    wanted = np.geomspace(max(steps[1], 1), steps[-1], RECORDS)
    return np.unique(np.r_[0, np.searchsorted(steps, wanted), len(steps) - 1].clip(0, len(steps) - 1))


def _transformer_seconds(problem, laziness, weight_decay, steps, seeds=SEEDS, **_) -> float:
    """On one core, if half of the steps are taken."""
    size = problem.training_pairs * problem.dimension * (problem.hidden + 4 * problem.dimension) / (397 * 32 * 192)
    return 8e-4 * size * seeds * steps


trained_transformer.version = 1
trained_transformer.seconds = _transformer_seconds


def lazy_transformer() -> list[Run]:
    """Laziness against weight decay; the laziest with the weaker decay, which would cost as much as all others, is left out."""
    cells = [(a, w, _STEPS[a]) for w in DECAYS for a in LAZINESS if (a, w) != (5.0, 1.0)]
    return [Run(ADDITION, dict(laziness=a, weight_decay=w, steps=t, every=_EVERY[a]), trained_transformer) for a, w, t in cells]


def linearised_transformer() -> list[Run]:
    """The network of ``lazy_transformer`` at laziness 1 and decay 1, its expansion at the start in its place, twice as long."""
    return [Run(ADDITION, dict(laziness=1.0, weight_decay=1.0, steps=8000, every=20, linearised=True), trained_transformer)]


def lazy_transformer_paper() -> list[Run]:
    """The paper's sizes: addition modulo 113, laziness 0.05 to 0.5, and the three settings of its Fig. 12; days of a GPU."""
    cells = [(round(0.05 * k, 2), 1.0) for k in range(1, 11)] + [(0.5, 5.0), (1.4, 5.0)]
    how = dict(steps=200_000, every=100, rate=6e-6, until=0.999)
    return [Run(ADDITION_PAPER, dict(laziness=a, weight_decay=w, seeds=3, **how), trained_transformer) for a, w in cells]


DIGITS = ImageClassification("digits", 100, 64)
DIGITS_LAZINESS = (1e-3, 0.01, 0.05, 0.5)  # the paper's
SCALE = 6.0  # of the initial weights, in units of the usual ones
_FINE = 160  # records from which times are read


def trained_images(
    problem: ImageClassification, laziness: list, steps: int, rate: float = 1e-3, weight_decay: float = 0.1, initial_scale: float = SCALE,
    head_rate: float | None = None, head_decay: float | None = None, batch: int = 50, centred: bool = False, until: tuple = (0.9, 0.8),
    seeds: int = SEEDS,
) -> xr.Dataset:
    """Classifiers with each laziness of a list and seeds 0, 1, ... under AdamW; the last layer may have its own rate and decay.

    A member ends once its accuracies on training and test images are those of ``until``; what would have come later is NaN.

    Returns:
        train_time, test_time (cell, seed, level), see ``trained_transformer``; train_loss, test_loss, train_accuracy, test_accuracy, norm
        (cell, seed, step).
    """
    from grokutils.descent import AdamW, first_reached
    from grokutils.descent.images import train

    def done(measured):
        return (measured["train_accuracy"] >= until[0] - 1e-6) & (measured["test_accuracy"] >= until[1] - 1e-6)

    cells, body = len(laziness), AdamW(rate, weight_decay)
    head = AdamW(rate if head_rate is None else head_rate, weight_decay if head_decay is None else head_decay)
    ds = train(problem, np.tile(np.arange(seeds), cells), steps, body=body, head=head, laziness=np.repeat(laziness, seeds), centred=centred,
               initial_scale=initial_scale, batch=batch, record=_logarithmic(steps), stop=done, progress=False)

    def folded(values):
        return values.reshape(cells, seeds, *values.shape[1:])

    kept = ds.isel(step=_spaced(ds.step.values))
    found = {name: (("cell", "seed", "step"), folded(kept[name].values)) for name in (*_CURVES, "norm")}
    for part in ("train", "test"):
        times = np.stack([first_reached(ds[f"{part}_accuracy"], x).values for x in LEVELS_OF_IMAGES], axis=1)
        found[f"{part}_time"] = ("cell", "seed", "level"), folded(times)
    coordinates = dict(laziness=("cell", list(laziness)), seed=np.arange(seeds), step=kept.step.values, level=list(LEVELS_OF_IMAGES))
    return xr.Dataset(found, coordinates, ds.attrs | dict(rate=rate, weight_decay=weight_decay, initial_scale=initial_scale))


def _logarithmic(steps: int, number: int = _FINE) -> np.ndarray:
    """Steps to record: 0, then evenly in the logarithm."""
    return np.unique(np.r_[0, np.round(np.geomspace(1, steps, number)).astype(int)])


def _images_seconds(problem, laziness, steps, batch=50, seeds=SEEDS, **_) -> float:
    weights = sum(a * b for a, b in zip(problem.sizes, problem.sizes[1:]))
    return len(laziness) * seeds * steps * (1e-4 + 6 * batch * weights / 2e10)


trained_images.version = 1
trained_images.seconds = _images_seconds


def lazy_images() -> list[Run]:
    """Laziness on digits, and the laziest network centred, and without weight decay."""
    how = dict(laziness=list(DIGITS_LAZINESS), steps=10_000)
    variants = [how, how | dict(laziness=[0.5], centred=True), how | dict(laziness=[0.5], weight_decay=0.0)]
    return [Run(DIGITS, settings, trained_images) for settings in variants]


def lazy_images_paper() -> list[Run]:
    r"""1000 images of MNIST, 784-200-200-200-10, 2.5e5 steps: about a day of a core; MNIST is fetched.

    The paper has forward factors 1/sqrt(fan-in), 1/200 before the outputs, and weights N(0, 1) * 150 sqrt(2/fan-in). The same function with
    the factors taken into the weights starts from 26, 13 and 1.8 times the bound 1/sqrt(fan-in) in hidden, first and last layer, 11.2 in
    geometric mean; AdamW moves these weights at the rate 1e-3 times the factor, while the decay in a step, 1e-5, remains.
    """
    problem = ImageClassification("mnist", 1000, 200, hidden=3, bias=False)
    body, head = 1e-3 / 200**0.5, 1e-3 / 200
    how = dict(laziness=list(DIGITS_LAZINESS), steps=250_000, rate=body, weight_decay=1e-5 / body, head_rate=head, head_decay=1e-5 / head)
    return [Run(problem, how | dict(initial_scale=11.2, batch=200, until=(2.0, 2.0), seeds=3), trained_images)]


STUDENT_LAZINESS = (0.1, 0.25, 0.5, 0.75, 1.0, 3.0)  # the paper's
SHARES = (0.5, 0.95)  # of points below a threshold whose first steps are kept
FRACTIONS = (0.1, 0.01, 1e-3)  # of the initial loss


def trained_students(
    problem: StudentTeacher, laziness: list, steps: int, rate: float = 3e-4, weight_decay: float = 0.05, centred: bool = False,
    linearised: bool = False, seeds: int = SEEDS,
) -> xr.Dataset:
    """Students with each laziness of a list and seeds 0, 1, ... under AdamW.

    Returns:
        train_time, test_time (cell, seed, threshold, share): the first recorded step at which that share of the points has an error below the
        threshold, NaN where never; train_fall, test_fall (cell, seed, fraction): at which the loss is below a fraction of its first value;
        train_loss, test_loss (cell, seed, step), train_accuracy, test_accuracy (cell, seed, step, threshold), label_power (cell, seed).
    """
    from grokutils.descent import AdamW
    from grokutils.descent.student_teacher import train

    cells = len(laziness)
    ds = train(problem, np.tile(np.arange(seeds), cells), steps, AdamW(rate, weight_decay), laziness=np.repeat(laziness, seeds), centred=centred,
               linearised=linearised, record=_logarithmic(steps, 240), progress=False)
    step = ds.step.values

    def folded(values):
        return values.reshape(cells, seeds, *values.shape[1:])

    def first(reached):
        return np.where(reached.any(1), step[reached.argmax(1)], np.nan)

    kept = ds.isel(step=_spaced(step))[[*_CURVES, "label_power"]]
    found = {name: (("cell", "seed", *v.dims[1:]), folded(v.values)) for name, v in kept.data_vars.items()}
    for part in ("train", "test"):
        accuracy, loss = ds[f"{part}_accuracy"].values, ds[f"{part}_loss"].values
        times = np.stack([first(accuracy >= share - 1e-6) for share in SHARES], axis=-1)
        found[f"{part}_time"] = ("cell", "seed", "threshold", "share"), folded(times)
        falls = np.stack([first(loss <= x * loss[:, :1]) for x in FRACTIONS], axis=1)
        found[f"{part}_fall"] = ("cell", "seed", "fraction"), folded(falls)
    coordinates = dict(laziness=("cell", list(laziness)), seed=np.arange(seeds), step=kept.step.values, threshold=ds.threshold.values,
                       share=list(SHARES), fraction=list(FRACTIONS))
    return xr.Dataset(found, coordinates, ds.attrs | dict(rate=rate, weight_decay=weight_decay))


def _students_seconds(problem, laziness, steps, seeds=SEEDS, **_) -> float:
    return 1.8e-4 * len(laziness) * seeds * steps * (problem.width / 100) ** 2


trained_students.version = 1
trained_students.seconds = _students_seconds


def student_teacher() -> list[Run]:
    """Laziness; the two laziest centred; laziness 1 three times as long; weights N(0, 1), the network and its linearisation."""
    sweep, centred = (dict(laziness=list(alphas), steps=10_000) for alphas in (STUDENT_LAZINESS, STUDENT_LAZINESS[-2:]))
    normal = dict(laziness=[1.0], steps=10_000, rate=3e-3, weight_decay=0.1)
    runs = [(StudentTeacher(), x) for x in (sweep, centred | dict(centred=True), dict(laziness=[1.0], steps=30_000))]
    runs += [(StudentTeacher.normal(), x) for x in (normal, normal | dict(linearised=True))]
    return [Run(problem, settings, trained_students) for problem, settings in runs]


INDICES, INDEX_LAZINESS = (1, 2, 3), (0.25, 1.0, 4.0)
DEGREES = {2: (10, 150, 0.25), 3: (10, 150, 0.2), 4: (6, 400, 0.05)}  # dimension, samples, step size
DEGREE_LAZINESS = (1.0, 3.0)


def trained_indices(problem: Committee, laziness: list, steps: int) -> xr.Dataset:
    """``experiments.committee.curves`` for each laziness of a list: losses (cell, seed, step) and their times (cell, seed, share)."""
    cells = [curves(problem.replace(laziness=a), steps=steps)[[f"{part}_{what}" for part in ("train", "test") for what in ("loss", "time")]]
             for a in laziness]
    return xr.concat(cells, "cell", combine_attrs="drop_conflicts").assign_coords(laziness=("cell", list(laziness)))


trained_indices.version = 1
trained_indices.seconds = lambda problem, laziness, steps: len(laziness) * curves.seconds(problem, steps=steps)


def multi_index() -> list[Run]:
    """Targets that are sums of one, two and three squares, at three values of the laziness; by the exact closure."""
    base = Committee(20, 150, 50, 1.0, 0.05, 2.5)
    return [Run(base.replace(directions=r), dict(laziness=list(INDEX_LAZINESS), steps=12_000), trained_indices) for r in INDICES]


def trained_hermite(
    problem: Committee, degree: int, steps: int, target: int | None = None, readouts: bool = False, seeds: int = SEEDS, records: int = 50,
) -> xr.Dataset:
    """Committee machines neuron by neuron with Hermite activation and target (None: of the same degree), seeds problem.seed, ...

    Returns:
        train_loss, test_loss (seed, step), and train_time, test_time (seed, share), the times at which they are first below a share of
        their first value.
    """
    from grokutils.descent.committee import train
    from grokutils.theory.committee import first_below

    kept, dense = (_logarithmic(steps, number) for number in (records, 8 * records))
    how = dict(degree=degree, target=degree if target is None else target, readouts=readouts, dtype="float32", progress=False)
    ds = train(problem, seeds, steps, record=np.union1d(kept, dense), **how)
    found = {}
    for name in ("train", "test"):
        loss = ds[f"{name}_loss"]
        found[f"{name}_time"] = ("seed", "share"), np.array([[first_below(one, x) for x in COMMITTEE_SHARES] for one in loss])
        found[f"{name}_loss"] = ("seed", "step"), loss.sel(step=kept).values
    return xr.Dataset(found, dict(seed=ds.seed.values, step=kept, share=list(COMMITTEE_SHARES)), dict(ds.attrs))


def _hermite_seconds(problem, degree, steps, seeds=SEEDS, **_) -> float:
    return seeds * steps * (1e-4 + 8e-9 * problem.samples * problem.width)


trained_hermite.version = 1
trained_hermite.seconds = _hermite_seconds


def hermite_targets() -> list[Run]:
    """Hermite polynomials of one direction, degrees 2, 3 and 4 (trained readouts where it is even), and a linear target of two directions."""
    runs = []
    for degree, (dimension, samples, step_size) in DEGREES.items():
        for a in DEGREE_LAZINESS:
            problem = Committee(dimension, samples, 50, a, 0.1, step_size, target_scale=math.factorial(degree) ** -0.5)
            settings = dict(degree=degree, steps=8000 if degree == 4 else 6000) | (dict(readouts=True) if degree % 2 == 0 else {})
            runs.append(Run(problem, settings, trained_hermite))
    linear = [Committee(20, 150, 50, a, 0.05, 2.5, directions=2) for a in DEGREE_LAZINESS]
    return runs + [Run(problem, dict(degree=2, target=1, steps=3000), trained_hermite) for problem in linear]
