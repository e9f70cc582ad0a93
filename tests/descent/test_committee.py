"""Committee machines neuron by neuron: the exact recursion, autograd, sweeps in one batch, and what is measured."""

import math

import numpy as np
import pytest
import torch

from grokutils.descent import Adam, AdamW, CommitteeTask, GradientDescent, committee
from grokutils.problems import Committee
from grokutils.theory import committee as theory

SMALL = Committee(dimension=9, samples=30, width=7, laziness=1.5, curvature=0.3, step_size=1.0, seed=3)


@pytest.mark.parametrize("problem", [SMALL, SMALL.replace(centred=False, directions=3, target_scale=1.0)], ids=["centred", "three directions"])
def test_square_with_fixed_readouts_is_the_exact_recursion(problem):
    ds = committee.train(problem, 2, 200, states=True, neurons=[0, 200], progress=False)
    for k in range(2):
        p = problem.replace(seed=problem.seed + k)
        exact, slow = theory.run(p, 200, states=True), theory.simulate(p, 200)
        for name in ("train_loss", "test_loss", "variance_error", "misalignment", "linear_power", "weight_norm", "mean", "moment"):
            np.testing.assert_allclose(ds[name][k], exact[name], rtol=1e-9, atol=1e-11, err_msg=name)
        np.testing.assert_allclose(ds.overlap[k, :, 0], slow.overlap.sel(step=[0, 200]), rtol=1e-9)
        np.testing.assert_allclose(ds.overlap_variance[k, -1, 0], slow.overlap[-1].var(), rtol=1e-9)
    assert ds.seed.values.tolist() == [3, 4] and ds.step.values[-1] == 200


def loss(w, v, problem, x, y, degree, alpha, eps, first):
    """The loss of one member, from the definition."""
    def output(w, v):
        h = x @ w.T
        curved = {None: h**2, 2: h**2 - 1, 3: h**3 - 3 * h, 4: h**4 - 6 * h**2 + 3}[degree]
        return alpha / problem.width * (h + eps / 2 * curved) @ v

    return (output(w, v) - (output(*first) if problem.centred else 0) - y).square().mean()


@pytest.mark.parametrize("readouts", [False, True])
@pytest.mark.parametrize("degree", [None, 2, 3, 4])
@pytest.mark.parametrize("centred", [False, True])
def test_gradients_are_those_of_autograd(degree, readouts, centred):
    p, rng = SMALL.replace(centred=centred), np.random.default_rng(0)
    t = lambda *shape: torch.as_tensor(rng.standard_normal(shape))  # noqa: E731
    x, y, alpha, eps = t(2, 30, 9), t(2, 30), torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([0.1, 0.7], dtype=torch.float64)
    now, first = ({"neurons.w": t(2, 7, 9)} | ({"readouts.v": t(2, 7)} if readouts else {}) for _ in range(2))
    task = CommitteeTask(x, y, alpha, eps, degree=degree, start=first if centred else None)
    into = {name: torch.full_like(value, math.nan) for name, value in now.items()}
    task.gradients(now, into, 0)
    for b in range(2):
        w, v = now["neurons.w"][b].clone().requires_grad_(), now.get("readouts.v", torch.ones(2, 7).double())[b].clone().requires_grad_()
        start = first["neurons.w"][b], first.get("readouts.v", torch.ones(2, 7).double())[b]
        expected = torch.autograd.grad(loss(w, v, p, x[b], y[b], degree, alpha[b], eps[b], start), [w, v])
        torch.testing.assert_close(into["neurons.w"][b], expected[0])
        if readouts:
            torch.testing.assert_close(into["readouts.v"][b], expected[1])


def test_a_sweep_in_one_batch_is_its_members_alone():
    alphas, epsilons, scales = [0.5, 2.0], [0.3, 0.1], [1.0, 0.5]
    together = committee.train(SMALL, [3, 4], 80, laziness=alphas, curvature=epsilons, scale=scales, progress=False)
    for k in range(2):
        p = SMALL.replace(seed=3 + k, laziness=alphas[k], curvature=epsilons[k])
        given = theory.draw(p)
        alone = theory.run(p, 80, given=given.replace(weights=scales[k] * given.weights))
        np.testing.assert_allclose(together.test_loss[k], alone.test_loss, rtol=1e-9)
    assert together.laziness.values.tolist() == alphas and together.scale.values.tolist() == scales


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (GradientDescent(4.0, momentum=0.95), lambda p: torch.optim.SGD(p, lr=4.0, momentum=0.95)),
        (AdamW(0.02, 0.1), lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1)),
        (Adam(0.02), lambda p: torch.optim.Adam(p, lr=0.02)),
    ],
    ids=["momentum", "adamw", "adam"],
)
def test_optimisers_with_readouts_and_a_cubic(ours, theirs):
    p = SMALL.replace(laziness=0.3)
    ds = committee.train(p, 1, 40, ours, degree=3, readouts=True, progress=False)
    short = committee.train(p, 1, 0, degree=3, readouts=True, progress=False)
    given = theory.draw(p)
    w, v = torch.as_tensor(given.weights).clone().requires_grad_(), torch.as_tensor(short.readout[0].values).clone().requires_grad_()
    first = w.detach().clone(), v.detach().clone()
    z = math.sqrt(9) * given.inputs @ given.beta[0] / np.linalg.norm(given.beta[0])
    x, y, optimiser = torch.as_tensor(given.inputs), torch.as_tensor(0.5 * (z**3 - 3 * z)), theirs([w, v])
    for _ in range(40):
        optimiser.zero_grad()
        loss(w, v, p, x, y, 3, 0.3, 0.3, first).backward()
        optimiser.step()
    np.testing.assert_allclose(ds.weights[0], w.detach(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ds.readout[0], v.detach(), rtol=1e-8, atol=1e-10)


def test_population_loss_with_readouts_is_the_loss_on_fresh_points():
    """The formula with signed M against 200 000 inputs; six standard errors."""
    ds = committee.train(SMALL, 1, 60, readouts=True, start_readouts=np.linspace(-2, 1, 7), progress=False)
    given, (w, v) = theory.draw(SMALL), (ds.weights[0].values, ds.readout[0].values)
    x = np.random.default_rng(8).standard_normal((200_000, 9)) / 3

    def output(w, v):
        h = x @ w.T
        return 1.5 / 7 * (h + 0.15 * h**2) @ v

    square = (output(w, v) - output(given.weights, np.linspace(-2, 1, 7)) - (x @ given.beta[0]) ** 2 / 2) ** 2
    assert abs(square.mean() - float(ds.test_loss[0, -1])) < 6 * square.std() / math.sqrt(len(x))


def test_hermite_targets_have_the_variance_of_theirs():
    """E He_k^2 = k!: the loss of a centred network at the start is s^2 k! times the number of directions; eight per cent of sampling error."""
    for degree, tolerance in ((2, 0.08), (3, 0.15)):
        p = SMALL.replace(dimension=40, directions=2, target_scale=0.7)
        ds = committee.train(p, 4, 0, degree=degree, test=20_000, progress=False)
        # two directions of 40 dimensions overlap at random: E He_k(a) He_k(b) = k! (a.b)^k
        overlap = [np.vdot(*(b / np.linalg.norm(b) for b in theory.draw(p.replace(seed=int(s))).beta)) for s in ds.seed]
        expected = 0.49 * math.factorial(degree) * 2 * (1 + np.array(overlap) ** degree)
        np.testing.assert_allclose(ds.test_loss[:, 0], expected, rtol=tolerance)


def test_given_starts_and_single_precision():
    start = np.random.default_rng(1).standard_normal((7, 9))
    ds = committee.train(SMALL, 2, 0, start=start, scale=[1, 2], neurons=[0], dtype="float32", progress=False)
    np.testing.assert_allclose(ds.weights[1], 2 * start, rtol=1e-6)
    assert ds.overlap.dims == ("member", "look", "direction", "neuron") and ds.overlap.dtype == np.float32
    unit = theory.draw(SMALL).beta[0]
    np.testing.assert_allclose(ds.overlap[0, 0, 0], start @ unit / np.linalg.norm(unit), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(seeds=[]), "seeds"), (dict(seeds=[-1]), "seeds"), (dict(degree=0), "degree"), (dict(target=2.5), "target"),
        (dict(dtype="half"), "dtype"),
        (dict(laziness=[1, 2, 3]), "laziness"), (dict(curvature=-1), "curvature"), (dict(scale=0), "scale"), (dict(start=np.ones((3, 3))), "start"),
        (dict(start_readouts=np.ones(7)), "start_readouts"), (dict(neurons=[99]), "record"), (dict(steps=-1), "steps"),
    ],
)
def test_errors_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        committee.train(SMALL, **(dict(seeds=2, steps=5, progress=False) | change))
