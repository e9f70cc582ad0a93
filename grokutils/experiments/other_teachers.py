"""Other activations and teachers than the paper's: sampled networks and, stored with them, what three versions of the theory expect."""

from __future__ import annotations

import math
import warnings

import numpy as np
import xarray as xr

from grokutils.experiments._run import Run
from grokutils.hermite import Activation, activation, derivative_expectation, hermite
from grokutils.problems import TeacherStudent

VARIANTS = ("plain", "finite", "wide")
_SIZES = dict(datasets=16, chains=2, draws=25, thin=20, warmup=300)
_BLOCK, _BINS = 5, 5  # draws averaged into one, and bins of the histogram joined, before they are stored
_CAREFUL = dict(step_size=0.15, thin=60, warmup=1500)  # from the prior and with little noise the tuned step diverges
# activation, teacher, noise variance, degrees of the widest span, start; settings that differ
_CASES = (
    ("tanh", {1: 1.0, 3: -0.3}, 0.1, (1, 3, 5, 7), "prior", {}),
    ("sin", {1: 1.0, 3: -0.3}, 0.2, (1, 3, 5, 7), "prior", {}),
    ("erf", {1: 1.0, 3: 0.3}, 0.1, (1, 3, 5, 7), "prior", {}),
    ("erf", {1: 1.0, 5: 0.05}, 0.04, (1, 3, 5, 7), "prior", {}),
    ("erf", {3: -0.3}, 0.1, (1, 3, 5, 7), "prior", {}),
    ("erf", {3: -0.3}, 0.03, (1, 3, 5, 7), "prior", _CAREFUL),
    ("erf", {3: -0.3}, 0.03, (1, 3, 5, 7), "teacher", {}),
    ("erf", {1: 1.0, 2: 0.3}, 0.15, (1, 2, 3), "prior", {}),
    ("relu", {1: 1.0, 2: 0.3}, 0.4, (0, 1, 2, 4), "prior", {}),
    ("relu", {1: 1.0, 2: 0.3}, 0.2, (0, 1, 2, 4), "prior", {}),
    ("relu", {1: 1.0, 3: -0.3}, 0.2, (1, 3), "prior", {}),
    ("gelu", {1: 1.0, 2: 0.3}, 0.2, (0, 1, 2, 4), "prior", {}),
    ("gelu", {1: 1.0, 3: -0.3}, 0.2, (1, 3), "prior", {}),
)


def _sine_moment(k, Q):
    return 0 * Q if k % 2 == 0 else (-1) ** (k // 2) * np.exp(-Q / 2)


def _sine_kernel(Q1, Q2, C):
    return (np.exp(C - (Q1 + Q2) / 2) - np.exp(-C - (Q1 + Q2) / 2)) / 2


def _gelu_moment(k, Q):
    # x Phi(x) is x/2 plus an even function; E[gelu] = Q / sqrt(2 pi (1 + Q)), and two more derivatives are twice the slope in Q
    if k % 2:
        return np.full_like(Q, 0.5 if k == 1 else 0.0)
    # Q (1 + Q)^(-1/2) = (1 + Q)^(1/2) - (1 + Q)^(-1/2)
    up, down = (math.prod(power - i for i in range(k // 2)) for power in (0.5, -0.5))
    return 2 ** (k // 2) * (up * (1 + Q) ** (0.5 - k / 2) - down * (1 + Q) ** (-0.5 - k / 2)) / math.sqrt(2 * math.pi)


def _gelu_kernel(Q1, Q2, C):
    one, two = 1 + Q1, 1 + Q2
    peak = 1 / (2 * math.pi * np.sqrt(one * two - C**2))
    return C * (0.25 + np.arcsin(C / np.sqrt(one * two)) / (2 * math.pi)) + peak * (Q1 * Q2 + C**2 * (1 / one + 1 / two - 1))


_CLOSED = {"sin": (_sine_moment, _sine_kernel), "gelu": (_gelu_moment, _gelu_kernel)}


def with_closed_forms(problem: TeacherStudent) -> TeacherStudent:
    """The same problem with the closed forms of its activation's Gaussian averages, where they are known: the same numbers, much sooner."""
    phi = activation(problem.activation)
    if phi.moment is not None or phi.name not in _CLOSED:
        return problem
    return problem.replace(activation=Activation(phi.name, phi.function, phi.torch_function, *_CLOSED[phi.name]))


def expected(problem: TeacherStudent, span, variants=VARIANTS) -> xr.Dataset:
    """What the theory expects: learned coefficients of the span, second moment and tail fraction, for each variant.

    Args:
        problem: a teacher's coefficients may be zero; those degrees are then in the widest span only.
        span: Hermite degrees of the widest span, the teacher's included.
        variants: "plain" (mean field, exact norm, the teacher's degrees), "finite" (with the leading corrections in 1/n and 1/N),
            "wide" (these, and a residual that may have all degrees of the span).
    """
    from grokutils.theory import teacher_student

    bare = with_closed_forms(problem.replace(teacher={k: c for k, c in problem.teacher.items() if c}))
    rows = []
    for variant in variants:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what has not converged says so in its row
            s = teacher_student.solve(bare, finite_size=variant != "plain", degrees=span if variant == "wide" else None)
        learned = [bare.teacher.get(k, 0.0) - s.residual[k] if k in s.residual else 0.0 for k in span]
        rows.append([*learned, s.second_moment, s.tail_fraction, float(s.converged)])
    names = [*(f"learned[{k}]" for k in span), "second_moment", "tail_fraction", "converged"]
    return xr.Dataset({"expected": (("variant", "quantity"), np.array(rows))}, coords={"variant": list(variants), "quantity": names})


def confront(
    problem: TeacherStudent, span=(1, 3), start: str = "prior", datasets: int = 4, chains: int = 2, draws: int = 200, warmup: int = 200,
    thin: int = 5, seed: int = 0, step_size: float | None = None,
) -> xr.Dataset:
    """Sample networks, measure their output along all degrees of the span, and put beside it what the theory ``expected``.

    Args:
        problem: whole sizes.
        span: Hermite degrees to measure, the teacher's included.
        start: "prior" or "teacher", as are the other arguments those of ``sample``.
    """
    from grokutils.sampling import sample

    listed = problem.replace(teacher={k: problem.teacher.get(k, 0.0) for k in span})
    ds = sample(
        with_closed_forms(listed), datasets, chains, draws, warmup=warmup, thin=thin, start=start, seed=seed, step_size=step_size,
        progress=False,
    )
    return brief(ds, expected(listed, span), histogram=1 not in problem.teacher)  # the law of a neuron where no linear part helps


def brief(ds: xr.Dataset, prediction: xr.Dataset, histogram: bool) -> xr.Dataset:
    """What is stored of an ensemble: means of blocks of draws, the prediction, and if wanted a histogram of coarser bins."""
    kept = ds[["learned", "second_moment", "tail_fraction"]].drop_vars("bin", errors="ignore").coarsen(draw=_BLOCK, boundary="trim").mean()
    coarse = [ds[["histogram"]].coarsen(bin=_BINS).sum()] if histogram else []
    return xr.merge([kept, prediction, *coarse]).assign_attrs(ds.attrs)


confront.version = 1


def two_index_networks(
    problem: TeacherStudent, teacher, pairs, datasets: int = 8, draws: int = 20, thin: int = 20, warmup: int = 400, seed: int = 0
) -> xr.Dataset:
    r"""Networks on the teacher $\sum_{jk}c_{jk}H_j(x_1)H_k(x_2)$, one a data set, by underdamped Langevin dynamics from the prior.

    Args:
        problem: whole sizes and activation; its own teacher is not used.
        teacher: {(j, k): c_jk}.
        pairs: degrees (j, k) to measure.

    Returns:
        learned (dataset, chain, draw, pair): coefficients of the output over the population, and second_moment, tail_fraction
        (dataset, chain, draw, direction) of the two overlaps.
    """
    import torch

    from grokutils.sampling import TeacherStudentPosterior, draw_data, largest_eigenvalue, underdamped
    from grokutils.sampling.posterior import seed_of

    inputs, _ = draw_data(problem, datasets, seed)
    targets = sum(c * hermite(j, inputs[..., 0]) * hermite(k, inputs[..., 1]) for (j, k), c in teacher.items())
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(1)
    with torch.no_grad():
        post = TeacherStudentPosterior(problem, inputs, targets)
        generator = post.generator(seed_of(seed, 7))
        theta = post.prior_draw([seed_of(seed, 1, j) for j in range(datasets)])
        state = underdamped.init(theta, post.energy_gradient, lambda: torch.randn(theta.shape, generator=generator))
        for part in range(3 + draws):
            if part < 3:  # warm-up: three parts, the step tuned at the begin of each
                h = 1.2 / largest_eigenvalue(post.energy_gradient, state.theta)[0].sqrt()
            for _ in range(warmup // 3 if part < 3 else thin):
                state = underdamped.step(state, post.energy_gradient, lambda: torch.randn(theta.shape, generator=generator), h, 0.5)
            if part >= 3:
                w, a = (x.double().numpy() for x in post.weights(state.theta))
                rows.append((w[..., 0], w[..., 1], np.einsum("bij,bij->bi", w, w), a))
    torch.set_num_threads(threads)
    q1, q2, norm2, a = (np.stack(x, axis=1)[:, None] for x in zip(*rows, strict=True))  # data set, chain, draw, neuron
    learned = [
        np.sum(a * q1**j * q2**k * derivative_expectation(problem.phi, j + k, norm2), axis=-1) / (math.factorial(j) * math.factorial(k))
        for j, k in pairs
    ]
    dims = ("dataset", "chain", "draw")
    overlaps = np.stack([q1, q2], axis=-1)
    return xr.Dataset(
        {
            "learned": ((*dims, "pair"), np.stack(learned, axis=-1)), "second_moment": ((*dims, "direction"), (overlaps**2).mean(-2)),
            "tail_fraction": ((*dims, "direction"), (np.abs(overlaps) > 0.5).mean(-2)),
        },
        coords={"pair": [f"H{j}(z1) H{k}(z2)" for j, k in pairs], "direction": [1, 2]},
    )


def other_teachers() -> list[Run]:
    """Networks of an eighth of the paper's width with other activations and teachers."""
    base, runs = TeacherStudent.paper(beta=1 / 8).rounded(), []
    for phi, teacher, noise, span, start, other in _CASES:
        p = base.replace(activation=phi, teacher=teacher, noise_variance=noise)
        runs.append(Run(p, dict(span=span, start=start, seed=int(p.hash[:7], 16)) | _SIZES | other, confront))
    return runs
