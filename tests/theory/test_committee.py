"""Committee machines: the closure against all neurons, every closed form against exact integrals; wrong variants must fail."""

import itertools
import math

import numpy as np
import pytest

from grokutils.problems import Committee, ToyAddition
from grokutils.theory import committee as cm

SMALL = Committee(dimension=6, samples=25, width=9, laziness=1.5, curvature=0.3, step_size=0.7, seed=4)
REDUCED = Committee(dimension=40, samples=200, width=100, laziness=1.0, curvature=0.05, step_size=5.0)
CURVES = ("train_loss", "test_loss", "variance_error", "misalignment", "linear_power", "alignment", "centred_alignment", "weight_norm", "spike")


def grid(d, nodes=5):
    """Points and weights that integrate polynomials up to degree 2 nodes - 1 in each of d coordinates exactly over N(0, I/d)."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    points = np.array(list(itertools.product(z, repeat=d))) / math.sqrt(d)
    return points, np.prod(list(itertools.product(w / w.sum(), repeat=d)), axis=1)


def state_of(d, seed=0, neurons=7):
    """A mean weight and a second moment that nothing makes special."""
    w = np.random.default_rng(seed).normal(0.3, 1.0, (neurons, d))
    return w, w.mean(0), w.T @ w / neurons


def literal_step(problem, given, mean, moment, wrong=""):
    """One step of the recursion for the mean weight and the second moment, as it stands in the text; or with one term spoilt."""
    x, c, eps = given.inputs, 2 * problem.step_size / problem.laziness, problem.curvature
    linear, form = cm.function(problem, given, mean, moment)
    e = x @ linear + np.einsum("mi,ij,mj->m", x, form, x) / 2 - given.labels
    g, big = x.T @ e / len(x), (x * e[:, None]).T @ x / len(x)
    b = np.eye(problem.dimension) - c * eps * big
    moved = mean if wrong == "no B before the mean" else b @ mean
    cross = c * np.outer(moved, g)
    square = 0 if wrong == "no square of g" else c**2 * np.outer(g, g)
    after = moment - c * eps * (big @ moment + moment @ big) if wrong == "first order in B" else b @ moment @ b
    return b @ mean - c * g, after - cross - cross.T + square


# ---------------------------------------------------------------- the network and its gradient descent


@pytest.mark.parametrize("centred", [True, False])
def test_output_is_a_function_of_the_two_statistics(centred):
    # covers: eq-K1-check, eq-K2-check, eq-K4-check
    p = SMALL.replace(centred=centred)
    given, (w, mean, moment) = cm.draw(p), state_of(6, neurons=9)
    x = np.random.default_rng(1).normal(size=(50, 6))

    def plain(weights):
        return p.laziness / p.width * ((x @ weights.T) + p.curvature / 2 * (x @ weights.T) ** 2).sum(1)

    linear, form = cm.function(p, given, mean, moment)
    np.testing.assert_allclose(x @ linear + np.einsum("mi,ij,mj->m", x, form, x) / 2, plain(w) - centred * plain(given.weights), atol=1e-12)


def test_simulation_descends_the_stated_loss_with_the_stated_rate():
    # covers: eq-K3-check
    p = SMALL
    given = cm.draw(p)
    x, y = given.inputs, given.labels

    def loss(w):  # also for complex weights, so that a derivative is an imaginary part
        f = [p.laziness / p.width * (x @ v.T + p.curvature / 2 * (x @ v.T) ** 2).sum(1) for v in (w, given.weights)]
        return ((f[0] - f[1] - y) ** 2).mean()

    w, gradient = given.weights.copy(), np.empty((9, 6))
    for _ in range(3):
        for at in np.ndindex(9, 6):
            step = np.zeros((9, 6), dtype=complex)
            step[at] = 1e-30j
            gradient[at] = loss(w + step).imag / 1e-30
        w = w - p.step_size * p.width / p.laziness**2 * gradient
    ds = cm.simulate(p, 3)
    assert float(ds.train_loss[-1]) == pytest.approx(loss(w), rel=1e-12)
    np.testing.assert_allclose(ds.overlap[-1], w @ given.beta[0] / np.linalg.norm(given.beta[0]), rtol=1e-11)
    assert float(ds.weight_norm[-1]) == pytest.approx(np.linalg.norm(w), rel=1e-12)


CASES = {
    "wide": SMALL, "uncentred": SMALL.replace(centred=False), "one neuron": SMALL.replace(width=1, centred=False),
    "two neurons": SMALL.replace(width=2), "as many as dimensions": SMALL.replace(width=6), "one more": SMALL.replace(width=7),
    "lazy": SMALL.replace(laziness=64), "rich": SMALL.replace(laziness=1 / 16, step_size=0.3), "reduced": REDUCED,
    "two directions": SMALL.replace(directions=2, target_scale=1.0), "other sizes": REDUCED.replace(dimension=23, samples=90, width=31, laziness=3.0,
                                                                                                 curvature=0.17, step_size=2.0, seed=8),
}


@pytest.mark.parametrize("name", CASES)
def test_closure_is_the_network_of_all_neurons(name):
    # covers: eq-K4-check
    p = CASES[name]
    record = [0, 1, 2, 10, 100, 500, 2000]
    fast, slow = cm.run(p, 2000, record=record), cm.simulate(p, 2000, record=record)
    assert fast.stable and float(slow.train_loss[-1]) < 0.9 * float(slow.train_loss[0])
    for curve in CURVES:
        np.testing.assert_allclose(fast[curve], slow[curve], rtol=1e-10, atol=1e-14, err_msg=curve)


@pytest.mark.parametrize("wrong", ["", "no B before the mean", "no square of g", "first order in B"])
def test_recursion_of_the_text(wrong):
    """The recursion as it stands reproduces ``run``; every spoilt one is found out, and by far."""
    p = SMALL.replace(centred=False)
    given = cm.draw(p)
    mean, moment = given.mean, given.moment
    for _ in range(200):
        mean, moment = literal_step(p, given, mean, moment, wrong)
    ds = cm.run(p, 200, record=[200], given=given, states=True)
    difference = max(np.abs(ds["mean"][0].values - mean).max(), np.abs(ds.moment[0].values - moment).max())
    assert difference < 1e-11 if not wrong else difference > 1e-3


def test_the_recursion_for_a_singular_moment_needs_its_factors():
    """Two neurons in forty dimensions: the recursion as it stands makes others out of round-off, some of negative weight, which grow."""
    p = Committee.paper(4, seed=5)
    given = cm.draw(p)
    mean, moment = given.mean, given.moment
    for _ in range(4000):
        mean, moment = literal_step(p, given, mean, moment)
    values = np.linalg.eigvalsh(moment)
    assert values[0] < -1e-4 and values[-3] > 0.1  # two negative or positive neurons too many
    fast, slow = cm.run(p, 4000, record=[4000], states=True), cm.simulate(p, 4000, record=[4000])
    assert np.abs(np.linalg.eigvalsh(fast.moment[0])[:-2]).max() < 1e-12
    assert float(fast.spike[0]) == pytest.approx(float(slow.spike[0]), rel=1e-11)
    assert (moment * given.target).sum() / np.trace(given.target) != pytest.approx(float(slow.spike[0]), rel=0.01)


def test_all_neurons_share_one_affine_map():
    """The overlaps at any time are an affine function of the initial weights, and so stay Gaussian if these are."""
    p = SMALL.replace(width=30)
    given, ds = cm.draw(p), cm.simulate(p, 400, record=[0, 400])
    rows = np.hstack([np.ones((30, 1)), given.weights])
    late = ds.overlap[1].values
    assert np.abs(late - rows @ np.linalg.lstsq(rows, late, rcond=None)[0]).max() < 1e-11
    assert np.abs(late - ds.overlap[0].values).max() > 0.1
    assert np.abs(late**2 - rows @ np.linalg.lstsq(rows, late**2, rcond=None)[0]).max() > 1e-2  # the test could fail


def test_the_unit_of_time():
    """The curves depend on steps times step_size: halving the step halves what is left of the difference."""
    p = SMALL.replace(width=40)
    ends = [float(cm.run(p.replace(step_size=0.2 / k), 60 * k, record=[60 * k]).test_loss[0]) for k in (1, 2, 4, 8)]
    first, second, third = np.abs(np.diff(ends))
    assert 1e-4 * ends[0] < first < 0.02 * ends[0] and 1.9 < first / second < 2.1 and 1.95 < second / third < 2.05
    assert abs(float(cm.run(p.replace(step_size=0.2), 54, record=[54]).test_loss[0]) - ends[0]) > 10 * first  # the time matters


def test_initial_speed_does_not_depend_on_laziness_or_width():
    # covers: eq-K3-check
    def speed(**changes):
        p = SMALL.replace(step_size=1e-6, **changes)
        given = cm.draw(p, wide=True)
        loss = cm.run(p, 1, given=given).train_loss.values
        return (loss[0] - loss[1]) / 1e-6

    assert speed() == pytest.approx(speed(laziness=50.0), rel=1e-5) == pytest.approx(speed(width=900), rel=1e-5)
    assert speed() != pytest.approx(speed(curvature=0.6), rel=1e-2)


def test_population_descends_the_population_loss():
    p = SMALL.replace(centred=False, width=3)
    given, h = cm.draw(p), 1e-30

    def loss(w):
        mean, moment = w.mean(0), w.T @ w / 3
        return cm.decomposition(p, given, mean, moment).test_loss

    w, gradient = given.weights.copy(), np.empty((3, 6))
    for _ in range(3):
        for at in np.ndindex(3, 6):
            step = np.zeros((3, 6), dtype=complex)
            step[at] = h * 1j
            gradient[at] = loss(w + step).imag / h
        w = w - p.learning_rate * gradient
    ds = cm.run(p, 3, given=given, population=True, states=True)
    np.testing.assert_allclose(ds["mean"][-1], w.mean(0), atol=1e-12)
    np.testing.assert_allclose(ds.moment[-1], w.T @ w / 3, atol=1e-12)
    np.testing.assert_array_equal(ds.train_loss, ds.test_loss)


# ---------------------------------------------------------------- the decomposition of the loss


def population_loss(p, given, mean, moment, x, weight):
    linear, form = cm.function(p, given, mean, moment)
    y = ((x @ given.beta.T) ** 2).sum(1) / 2
    return weight @ (x @ linear + np.einsum("mi,ij,mj->m", x, form, x) / 2 - y) ** 2


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("centred", [True, False])
def test_three_parts_add_up_to_the_population_loss(centred, directions):
    # covers: eq-K6-check
    p = SMALL.replace(dimension=3, width=7, centred=centred, directions=directions, target_scale=0.8)
    given, (_, mean, moment) = cm.draw(p), state_of(3)
    x, weight = grid(3)
    parts = cm.decomposition(p, given, mean, moment)
    assert parts.test_loss == pytest.approx(population_loss(p, given, mean, moment, x, weight), rel=1e-12)
    assert all(part > 3e-3 * parts.test_loss for part in parts)
    for wrong in ((2, 1, 1), (1, 2, 1), (1, 1, 2), (0.5, 1, 1)):
        assert np.dot(wrong, parts) != pytest.approx(float(parts.test_loss), rel=1e-4)
    raw = p.replace(centred=False)
    uncentred = cm.decomposition(raw, given, mean, moment).test_loss
    assert (uncentred == pytest.approx(parts.test_loss, rel=1e-9)) is not centred  # centring matters


@pytest.mark.statistical
def test_decomposition_against_fresh_inputs():
    """Four standard errors: false alarm 6e-5 for each of two comparisons; the seed is fixed."""
    # covers: eq-K6-check
    other = REDUCED.replace(dimension=17, laziness=0.3, curvature=1.2, seed=3)
    for p, (_, mean, moment) in ((REDUCED, state_of(40, 1, 60)), (other, state_of(17, 2, 5))):
        p, given = p.replace(centred=False), cm.draw(p)
        x = np.random.default_rng(9).standard_normal((100_000, p.dimension)) / math.sqrt(p.dimension)
        linear, form = cm.function(p, given, mean, moment)
        square = (x @ linear + ((x @ form) * x).sum(1) / 2 - ((x @ given.beta.T) ** 2).sum(1) / 2) ** 2
        error = square.std() / math.sqrt(len(x))
        exact = cm.decomposition(p, given, mean, moment).test_loss
        assert abs(square.mean() - exact) < 4 * error < 0.1 * exact


def test_initial_and_final_loss():
    given = cm.draw(REDUCED)
    b = float((given.beta**2).sum())
    assert cm.decomposition(REDUCED, given).test_loss == pytest.approx(0.75 * b**2 / 40**2, rel=1e-12)
    for p in (REDUCED, REDUCED.replace(centred=False, laziness=7.0)):
        assert cm.decomposition(p, given, *cm.final_state(p, given)).test_loss == pytest.approx(0, abs=1e-25)


# ---------------------------------------------------------------- the tangent kernel


def test_tangent_kernel_is_the_product_of_the_derivatives():
    # covers: eq-K5-check
    p = SMALL.replace(centred=False)
    (w, mean, moment), rng = state_of(6, neurons=9), np.random.default_rng(3)
    left, right = rng.normal(size=(4, 6)), rng.normal(size=(5, 6))

    def jacobian(x):
        rows = []
        for at in np.ndindex(9, 6):
            step = np.zeros((9, 6), dtype=complex)
            step[at] = 1e-30j
            h = x @ (w + step).T
            rows.append((p.laziness / 9 * (h + p.curvature / 2 * h**2).sum(1)).imag / 1e-30)
        return np.array(rows)

    exact = jacobian(left).T @ jacobian(right)
    np.testing.assert_allclose(p.laziness**2 / p.width * cm.ntk(p, mean, moment, left, right), exact, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(cm.empirical_ntk(p, w, left, right), cm.ntk(p, mean, moment, left, right), rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(cm.ntk(p, mean, moment, left), cm.ntk(p, mean, moment, left, left))


def test_wide_kernels_are_averages_over_the_initial_weights():
    # covers: eq-K7-check, eq-K12-check
    p, rng = SMALL.replace(dimension=2, curvature=0.7), np.random.default_rng(0)
    x, (w, weight) = rng.normal(size=(6, 2)), grid(2)
    h = x @ (math.sqrt(2) * w).T  # weights of variance 1
    slopes, phi = 1 + p.curvature * h, h + p.curvature / 2 * h**2
    fixed = (x @ x.T) * ((slopes * weight) @ slopes.T)
    np.testing.assert_allclose(cm.wide_kernel(p, x), fixed, atol=1e-12)
    np.testing.assert_allclose(cm.wide_kernel(p, x), cm.ntk(p, np.zeros(2), np.eye(2), x), atol=1e-12)
    np.testing.assert_allclose(cm.wide_kernel(p, x, readouts=True), fixed + (phi * weight) @ phi.T, atol=1e-12)


@pytest.mark.parametrize("readouts", [False, True])
def test_spectrum_of_the_wide_kernel(readouts):
    """Eigenvalues of the integral operator, exactly: the kernel is a polynomial, and the grid integrates it."""
    # covers: eq-K7-check, eq-K12-check
    p = SMALL.replace(dimension=3, curvature=0.6)
    x, weight = grid(3)
    root = np.sqrt(weight)
    values = np.sort(np.linalg.eigvalsh(root[:, None] * cm.wide_kernel(p, x, readouts=readouts) * root))[::-1]
    modes = cm.spectrum(p, readouts)
    expected = np.sort(np.concatenate([np.full(mode.multiplicity, mode.eigenvalue) for mode in modes.values()]))[::-1]
    assert len(expected) == 9 == 3 * (3 + 3) // 2
    np.testing.assert_allclose(values[:9], expected, atol=1e-13)
    assert np.abs(values[9:]).max() < 1e-13
    printed = modes["quadratic"].eigenvalue / p.curvature  # one power of epsilon lost
    assert np.abs(values - printed).min() > 0.005
    for name, f in (("linear", x[:, 0]), ("quadratic", x[:, 0] * x[:, 1]), ("trace", (x**2).sum(1)), ("quadratic", x[:, 0] ** 2 - (x**2).sum(1) / 3)):
        np.testing.assert_allclose(cm.wide_kernel(p, x, readouts=readouts) @ (weight * f), modes[name].eigenvalue * f, atol=1e-13)


def slow_alignment(kernel, y, weight, centring):
    if centring != "none":
        y = y - weight @ y
        kernel = kernel - weight @ kernel
    if centring == "both":
        kernel = kernel - (kernel @ weight)[:, None]
    above = (weight * y) @ kernel @ (weight * y)
    return above / math.sqrt(weight @ kernel**2 @ weight) / (weight @ y**2)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("centring", cm.CENTRINGS)
def test_alignment_of_the_population(centring, directions):
    # covers: eq-K8-check, eq-K9-check, eq-K10-check
    p = SMALL.replace(dimension=3, directions=directions)
    given, (_, mean, moment) = cm.draw(p), state_of(3)
    x, weight = grid(3)
    y = ((x @ given.beta.T) ** 2).sum(1) / 2
    kernel = cm.ntk(p, mean, moment, x)
    closed = cm.alignment(p, given.target, mean, moment, centring)
    assert closed == pytest.approx(slow_alignment(kernel, y, weight, centring), rel=1e-12)
    for other in set(cm.CENTRINGS) - {centring}:
        assert closed != pytest.approx(slow_alignment(kernel, y, weight, other), rel=1e-3)
    two = cm.alignment(p, given.target, np.stack([mean, 0 * mean]), np.stack([moment, np.eye(3)]), centring)
    assert two[0] == closed and two.shape == (2,)


def test_numerator_of_the_alignment_has_a_quarter():
    # covers: eq-K9-check
    p = SMALL.replace(dimension=3)
    given, (_, mean, moment) = cm.draw(p), state_of(3)
    x, weight = grid(3)
    y, b = (x @ given.beta[0]) ** 2 / 2, given.beta[0]
    exact = (weight * y) @ cm.ntk(p, mean, moment, x) @ (weight * y)
    printed = p.curvature**2 / 3**4 * ((b @ b) ** 2 * np.trace(moment) + 8 * (b @ b) * b @ moment @ b)
    assert exact == pytest.approx(printed / 4, rel=1e-12)


@pytest.mark.statistical
def test_alignment_against_the_matrix_of_many_inputs():
    """Gram matrices without the diagonal, which has a bias of its own; five standard errors over 8 repetitions (p = 2e-3)."""
    # covers: eq-K10-check
    p = REDUCED.replace(seed=2)
    given, end = cm.draw(p), cm.run(p, 600, record=[600], states=True)
    mean, moment = end["mean"][0].values, end.moment[0].values
    found, n = [], 1500
    for seed in range(8):
        x = np.random.default_rng([7, seed]).standard_normal((n, 40)) / math.sqrt(40)
        y, kernel = (x @ given.beta[0]) ** 2 / 2, cm.ntk(p, mean, moment, x)
        off, pairs = kernel - np.diag(np.diag(kernel)), n * (n - 1)
        found.append((y @ off @ y / pairs) / math.sqrt((off**2).sum() / pairs) / (y @ y / n))
    closed, error = float(end.alignment[0]), np.std(found, ddof=1) / math.sqrt(8)
    assert abs(np.mean(found) - closed) < 5 * error < 0.25 * closed
    assert closed > 50 * cm.alignment(p, given.target, given.mean, given.moment)  # it moved


# ---------------------------------------------------------------- the lazy limit


@pytest.mark.parametrize("centred", [True, False])
def test_kernel_regression_from_its_definition(centred):
    # covers: eq-K11-check
    p = SMALL.replace(samples=15, centred=centred, width=12)
    given = cm.draw(p)
    lazy, x = cm.kernel_regression(p, given), grid(6, 3)[0]
    k = cm.ntk(p, given.mean, given.moment, given.inputs)

    def start(x):
        h = x @ given.weights.T
        return 0.0 if centred else p.laziness / 12 * (h + p.curvature / 2 * h**2).sum(1)

    rest = given.labels - start(given.inputs)
    f = start(x) + cm.ntk(p, given.mean, given.moment, x, given.inputs) @ np.linalg.solve(k, rest)
    np.testing.assert_allclose(x @ lazy.linear + np.einsum("mi,ij,mj->m", x, lazy.form, x) / 2, f, atol=1e-8)
    assert lazy.difficulty == pytest.approx(rest @ np.linalg.solve(k, rest), rel=1e-8)
    assert lazy.train_loss < 1e-12 and 0 < lazy.test_loss == pytest.approx(sum(lazy.parts))


def test_kernel_regression_with_more_data_than_functions():
    p = SMALL.replace(samples=60)
    lazy = cm.kernel_regression(p)
    assert lazy.test_loss < 1e-15 and lazy.train_loss < 1e-15  # 27 functions, the target among them


def test_large_laziness_is_the_linearised_network():
    # covers: eq-K11-check
    record = [0, 1, 10, 100, 1000]
    for p in (SMALL.replace(width=40, samples=20), REDUCED.replace(dimension=15, samples=60, seed=3)):
        straight = cm.linearised(p, 1000, record=record)
        for name in ("train_loss", "test_loss", "variance_error", "misalignment", "linear_power"):
            gaps = [np.abs(cm.run(p.replace(laziness=a), 1000, record=record)[name] - straight[name]).max().item() for a in (1e3, 1e4)]
            assert gaps[1] < 0.02 * straight[name].max()
            assert 8 < gaps[0] / gaps[1] < 12, name  # of first order in 1/alpha
    late, lazy = cm.linearised(p, 10**9, record=[10**9]), cm.kernel_regression(p)
    assert float(late.test_loss[0]) == pytest.approx(lazy.test_loss, rel=1e-6)


def test_linearised_network_is_the_tangent_of_the_network():
    p = SMALL.replace(centred=False, step_size=1e-5)
    fast, straight = cm.run(p, 1), cm.linearised(p, 1)
    slopes = [np.diff(ds.test_loss.values)[0] / 1e-5 for ds in (fast, straight)]
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-4) and abs(slopes[0]) > 0.01


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize(("laziness", "curvature", "grows"), [(1.0, 0.25, True), (1.0, 1.0, False), (4.0, 1.0, False), (8.0, 0.5, False)])
def test_final_norm_of_a_network_that_is_not_centred(laziness, curvature, grows):
    """It falls if and only if alpha epsilon is above Tr Y / Tr M_0; without weight decay."""
    p = REDUCED.replace(dimension=25, samples=250, width=60, centred=False, laziness=laziness, curvature=curvature, seed=1)
    given, ds = cm.draw(p), cm.run(p, 4000, record=[0, 4000])
    start, end = (float(v) for v in ds.weight_norm)
    assert end == pytest.approx(cm.final_norm(p, given), rel=0.03)
    assert (end > start) is grows is bool(laziness * curvature < np.trace(given.target) / np.trace(given.moment))
    assert float(ds.test_loss[-1]) < 1e-3 * float(ds.test_loss[0])
    assert cm.final_norm(p.replace(centred=True), given) > 1.02 * start  # whether centred or not matters


@pytest.mark.parametrize("laziness", [0.25, 4.0])
def test_final_norm_of_a_centred_network(laziness):
    p = REDUCED.replace(dimension=15, samples=150, width=60, laziness=laziness, curvature=0.2, step_size=2.0, seed=6)
    ds = cm.run(p, 4000, record=[0, 4000])
    given = cm.draw(p)
    assert float(ds.weight_norm[1]) == pytest.approx(cm.final_norm(p, given), rel=0.01)
    predicted = math.sqrt(60 * (np.trace(given.moment) + (given.beta**2).sum() / (laziness * 0.2)))
    assert cm.final_norm(p, given) == pytest.approx(predicted, rel=1e-12)
    assert float(ds.weight_norm[1]) != pytest.approx(cm.final_norm(p.replace(centred=False), given), rel=0.01)


def test_time_law():
    example = Committee.paper(1, step_size=20.0)
    small_steps = 100 / (6 * 20 * 0.02) * math.log1p(100 / 0.02)
    assert small_steps == pytest.approx(354.9, abs=0.1) == pytest.approx(cm.time_law(example), rel=0.01)
    assert cm.time_law(example.replace(step_size=1e-6)) == pytest.approx(small_steps * 20 / 1e-6, rel=1e-8)
    given = cm.draw(REDUCED)
    b = float((given.beta**2).sum())
    growth = 3 * 5 * 0.05 * b / 1600
    assert (1 + growth) ** (2 * cm.time_law(REDUCED, given)) == pytest.approx(1 + b / 0.05, rel=1e-10)
    assert cm.time_law(REDUCED.replace(target_scale=1.0)) == pytest.approx(math.log1p(80 / 0.05) / (2 * math.log1p(3 * 0.25 * 80 / 1600)))
    two, y = REDUCED.replace(directions=2), cm.draw(REDUCED.replace(directions=2)).target
    top = np.linalg.eigvalsh(y)[-1]
    growth = 5 * 0.05 * np.linalg.eigvalsh(np.trace(y) * np.eye(40) + 2 * y)[-1] / 1600
    assert (1 + growth) ** (2 * cm.time_law(two, cm.draw(two))) == pytest.approx(1 + top / 0.05, rel=1e-10)


@pytest.mark.parametrize(
    "change", [{}, {"laziness": 1 / 16}, {"laziness": 4.0}, {"curvature": 0.02}, {"dimension": 25, "curvature": 0.01, "step_size": 3.0, "seed": 9}],
    ids=str,
)
def test_time_law_on_the_population(change):
    """With infinite data and infinite width it is the time at which a quarter of the loss is left."""
    p = REDUCED.replace(**change)
    given = cm.draw(p, wide=True)
    law = cm.time_law(p, given)
    quarter = cm.first_below(cm.run(p, 3 * round(law), given=given, population=True).test_loss, 0.25)
    assert quarter == pytest.approx(law, rel=0.05)
    for wrong in ({"curvature": 1.2 * p.curvature}, {"laziness": 0.8 * p.laziness}, {"step_size": 1.2 * p.step_size}):
        assert quarter != pytest.approx(cm.time_law(p.replace(**wrong), given), rel=0.05)


@pytest.mark.parametrize("share", [0.97, 1.03])
def test_largest_step_at_the_end(share):
    """Two neurons near the exact solution w = ±beta / sqrt(alpha epsilon): one side of the limit is stable, the other is not."""
    p = SMALL.replace(centred=False, width=2, samples=40)
    given = cm.draw(p)
    w = np.stack([given.beta[0], -given.beta[0]]) / math.sqrt(p.laziness * p.curvature)
    solved = given.replace(weights=w)
    limit = cm.largest_step(p, given, solved.mean, solved.moment)
    assert limit == pytest.approx(cm.largest_step(p, given, *cm.final_state(p, given)), rel=1e-10)
    near = given.replace(weights=w + 1e-7 * np.random.default_rng(0).normal(size=w.shape))
    loss = cm.run(p.replace(step_size=share * limit), 200, given=near).train_loss.values
    assert bool(loss[-1] < loss[0]) is (share < 1)


def test_a_step_that_suits_the_start_but_not_the_end():
    """Between the two limits training goes well, and then cannot settle in the state of zero loss."""
    p = REDUCED.replace(dimension=15, samples=150, width=60, laziness=0.25, curvature=0.2, seed=6)
    given = cm.draw(p)
    limits = [cm.largest_step(p, given, *state) for state in ((), cm.final_state(p, given))]
    assert limits[1] < 0.9 * p.step_size < 0.6 * limits[0]
    ends = [cm.run(p.replace(step_size=eta), 3000, record=[0, 3000], given=given).test_loss.values for eta in (p.step_size, 0.5 * limits[1])]
    assert 0.01 * ends[0][0] < ends[0][1] < 0.2 * ends[0][0]
    assert ends[1][1] < 1e-4


def test_largest_step_at_the_start():
    for p in (Committee.paper(1), REDUCED):
        assert cm.largest_step(p, cm.draw(p)) == pytest.approx(cm.largest_step(p), rel=0.12)
    assert cm.largest_step(Committee.paper(1)) == pytest.approx(100 / (1 + math.sqrt(100 / 550)) ** 2)
    p = REDUCED.replace(laziness=1e6)
    limit = cm.largest_step(p, cm.draw(p))
    for share, low in ((0.97, True), (1.03, False)):
        loss = cm.run(p.replace(step_size=share * limit), 300, record=[100, 300]).train_loss.values
        assert bool(loss[1] < loss[0]) is low


def test_divergence_is_said():
    with pytest.warns(RuntimeWarning, match="diverged before step .* step_size 50 is too large"):
        ds = cm.run(REDUCED.replace(step_size=50.0), 2000, every=500)
    assert ds.attrs["stable"] == 0 and np.isfinite(ds.train_loss[0]) and np.isnan(ds.train_loss[-1]) and len(ds.step) == 5
    with pytest.warns(RuntimeWarning, match="diverged"):
        slow = cm.simulate(REDUCED.replace(step_size=50.0), 2000, every=500)
    assert slow.attrs["stable"] == 0 and np.isnan(slow.overlap[-1]).all()


# ---------------------------------------------------------------- a table measured once with other code


def test_times_against_a_table_of_one_seed():
    """Times of one seed of independent code; over seeds they scatter by a factor of 1.3 (training) and 2 (test): four deviations."""
    table = {(0.25, 0.05): (47, 187), (1, 0.1): (68, 470)}
    for (laziness, curvature), times in table.items():
        members = [cm.run(REDUCED.replace(laziness=laziness, curvature=curvature, seed=s), 2000) for s in range(2)]
        for name, expected in zip(("train_loss", "test_loss"), times):
            found = np.log([cm.first_below(ds[name], 0.1) for ds in members])
            assert abs(np.nanmean(found) - math.log(expected)) < 4 * math.log(1.3 if name == "train_loss" else 2.0)
        assert all(float(ds.test_loss.max()) > 1.05 * float(ds.test_loss[0]) for ds in members)  # the rise


# ---------------------------------------------------------------- draws, records, what is refused


def test_draws():
    given = cm.draw(REDUCED)
    assert [x.shape for x in (given.inputs, given.beta, given.weights)] == [(200, 40), (1, 40), (100, 40)]
    larger = cm.draw(REDUCED.replace(samples=300, width=120, directions=2))
    np.testing.assert_array_equal(larger.inputs[:200], given.inputs)
    np.testing.assert_array_equal(larger.weights[:100], given.weights)
    np.testing.assert_array_equal(larger.beta[0], given.beta[0])
    assert np.abs(cm.draw(REDUCED.replace(seed=1)).inputs - given.inputs).max() > 0.1
    pooled = np.concatenate([given.inputs.ravel() * math.sqrt(40), given.beta.ravel(), given.weights.ravel()])
    assert abs(pooled.mean()) < 0.05 and abs(pooled.var() - 1) < 0.05
    assert abs(np.corrcoef(given.inputs[:100].ravel(), given.weights.ravel())[0, 1]) < 0.1
    np.testing.assert_allclose(cm.draw(REDUCED.replace(target_scale=2.0)).labels, 2 * (given.inputs @ given.beta[0]) ** 2)
    np.testing.assert_allclose(given.labels, np.einsum("mi,ij,mj->m", given.inputs, given.target, given.inputs) / 2)
    wide = cm.draw(REDUCED, wide=True)
    assert wide.weights is None and not wide.mean.any() and (wide.moment == np.eye(40)).all()
    moved = given.replace(weights=2 * given.weights)
    np.testing.assert_allclose(moved.moment, 4 * given.moment)
    np.testing.assert_allclose(moved.mean, 2 * given.mean)


def test_a_wide_network_is_the_limit_of_many_neurons():
    gaps = []
    for width in (100, 10_000):
        p = SMALL.replace(width=width, samples=60)
        many, wide = (cm.run(p, 300, given=cm.draw(p, w)).test_loss.values for w in (False, True))
        gaps.append(np.abs(many - wide).max())
    assert gaps[1] < 0.3 * gaps[0]


def test_ensemble_is_one_run_a_seed():
    p = SMALL.replace(seed=3)
    ds = cm.ensemble(p, 50, 3, every=10)
    assert ds.test_loss.dims == ("seed", "step") and ds.seed.values.tolist() == [3, 4, 5] and ds.attrs["stable"] == 1
    for seed in (3, 5):
        q = p.replace(seed=seed)
        given, one = cm.draw(q), cm.run(q, 50, every=10)
        xr_seed = ds.sel(seed=seed)
        for name in CURVES:
            np.testing.assert_array_equal(xr_seed[name], one[name])
        assert float(xr_seed.lazy_test_loss) == cm.kernel_regression(q).test_loss
        assert float(xr_seed.time_law) == cm.time_law(q, given) and float(xr_seed.target_norm2) == pytest.approx((given.beta**2).sum())
        assert float(xr_seed.largest_final_step) == cm.largest_step(q, given, *cm.final_state(q, given))
        assert float(xr_seed.final_norm) == cm.final_norm(q, given)


def test_first_below_interpolates():
    ds = cm.run(SMALL, 1000, record=[0, 10, 100, 1000])
    curve = ds.train_loss.copy(data=[4.0, 2.0, 1.0, 0.5])
    assert cm.first_below(curve, 0.5 - 1e-12) == pytest.approx(10, rel=1e-6)
    middle = math.expm1((math.log(11) + math.log(101)) / 2)
    assert cm.first_below(curve, 2**-1.5) == pytest.approx(middle, rel=1e-12)
    assert math.isnan(cm.first_below(curve, 0.01)) and cm.first_below(curve, 2.0) == 0


def test_records():
    def steps(*args, **keywords):
        return cm.run(SMALL, *args, **keywords).step.values.tolist()

    assert steps(10, every=4) == [0, 4, 8, 10] and steps(10, record=[7, 3, 3]) == [3, 7] and steps(0) == [0]
    assert steps(3) == [0, 1, 2, 3] and 120 < len(steps(3000)) <= 202 and steps(3000)[-1] == 3000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cm.run(ToyAddition(), 10), "problem must be a Committee"),
        (lambda: cm.draw(None), "problem must be a Committee"),
        (lambda: cm.time_law(3), "problem must be a Committee"),
        (lambda: cm.spectrum(ToyAddition()), "problem must be a Committee"),
        (lambda: cm.run(SMALL, -1), "steps must be"),
        (lambda: cm.run(SMALL, 1.5), "steps must be"),
        (lambda: cm.run(SMALL, 10, every=0), "every must be"),
        (lambda: cm.simulate(SMALL, 10, record=[11]), "record must be"),
        (lambda: cm.simulate(SMALL, 10, record=[0.5]), "record must be"),
        (lambda: cm.run(SMALL, 10, given=cm.draw(SMALL.replace(samples=26))), r"draw.inputs must have the shape \(25, 6\)"),
        (lambda: cm.run(SMALL, 10, given=cm.draw(SMALL.replace(width=8))), r"draw.weights must have the shape \(9, 6\)"),
        (lambda: cm.kernel_regression(SMALL, cm.draw(SMALL.replace(directions=2))), r"draw.beta must have the shape \(1, 6\)"),
        (lambda: cm.simulate(SMALL, 10, given=cm.draw(SMALL, wide=True)), "must have weights"),
        (lambda: cm.alignment(SMALL, np.eye(6), np.zeros(6), np.eye(6), "rows"), "centring must be one of"),
    ],
)
def test_refusals_name_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
