"""Student and teacher: gradients, linearisation, what a threshold does to errors, independence of the members."""

import numpy as np
import pytest
import torch

from grokutils.descent import AdamW, GradientDescent
from grokutils.descent.student_teacher import THRESHOLDS, StudentTask, StudentTeacher, train

SMALL = StudentTeacher(samples=9, test=7, width=6)
EXACT = dict(dtype="float64", progress=False)


def task_of(problem=SMALL, seeds=(0, 1), laziness=(0.5, 3.0), **keywords):
    """A task, its initial parameters, and others."""
    start = problem.initial(seeds, dtype=torch.float64)
    rng = torch.Generator().manual_seed(1)
    moved = {name: p + 0.3 * torch.randn(p.shape, generator=rng, dtype=p.dtype) for name, p in start.items()}
    return StudentTask(problem, *problem.data(seeds), start, torch.tensor(laziness), **keywords), start, moved


def student(parameters, x):
    """The network written down again, of one member."""
    h, last = x, max(int(name[-1]) for name in parameters)
    for layer in range(last + 1):
        h = h @ parameters[f"student.weight{layer}"] + parameters.get(f"student.bias{layer}", 0.0)
        h = torch.tanh(h) if layer < last else h
    return h


def outputs(task, start, parameters, member, centred, linearised):
    """What a member says of all points, by automatic differentiation where it is linearised."""
    own, first = ({name: p[member] for name, p in group.items()} for group in (parameters, start))
    x = task.inputs[member]
    if linearised:
        names, values = zip(*first.items(), strict=True)

        def network(*given):
            return student(dict(zip(names, given, strict=True)), x)

        # forward mode by reverse mode twice, differentiable in the direction
        f, slope = torch.autograd.functional.jvp(network, values, tuple(own[name] - first[name] for name in names), create_graph=True)
        f = f + slope
    else:
        f = student(own, x)
    return task.laziness[member] * (f - student(first, x) if centred else f)


@pytest.mark.parametrize("start", ["uniform", "normal"])
@pytest.mark.parametrize(("centred", "linearised"), [(False, False), (True, False), (False, True), (True, True)])
def test_gradients_and_errors_are_those_of_autograd(start, centred, linearised):
    problem = SMALL.replace(start=start, hidden=3 if start == "normal" else 2)
    task, first, moved = task_of(problem, centred=centred, linearised=linearised)
    into = {name: torch.full_like(p, torch.nan) for name, p in moved.items()}
    task.gradients(moved, into, 0)
    errors = task.errors(moved)
    for b in range(2):
        leaves = {name: p.clone().requires_grad_() for name, p in moved.items()}
        f = outputs(task, first, leaves, b, centred, linearised)
        e = (f - task.labels[b]).square().mean(1)
        torch.testing.assert_close(errors[b], e.detach())
        found = torch.autograd.grad(e[: problem.samples].mean(), list(leaves.values()))
        for name, gradient in zip(leaves, found, strict=True):
            torch.testing.assert_close(into[name][b], gradient[b])
            assert float(gradient[b].abs().max()) > 1e-6


def test_the_linearised_network_is_the_tangent_and_no_other():
    """At a small step the two agree to first order, and differ at second: a factor of ten in the step is one of a hundred in the difference."""
    task, first, moved = task_of(laziness=(1.0, 1.0))
    tangent, _, _ = task_of(laziness=(1.0, 1.0), linearised=True)
    gap = []
    for size in (1e-2, 1e-3):
        near = {name: first[name] + size * (moved[name] - first[name]) for name in first}
        f, g = (t._outputs(near, t.inputs, t.start)[0] for t in (task, tangent))
        gap.append(float((f - g).abs().max()))
    assert 50 < gap[0] / gap[1] < 200


def test_training_is_that_of_torch():
    """Thirty steps of AdamW on a module with the same weights; the control has another laziness."""
    steps, alpha = 30, 3.0
    x, y = (torch.as_tensor(a[0]) for a in SMALL.data([4]))
    weights = {name: p[0].clone().requires_grad_() for name, p in SMALL.initial([4], dtype=torch.float64).items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=1e-2, weight_decay=0.5)
    for _ in range(steps):
        optimiser.zero_grad()
        (alpha * student(weights, x[:9]) - y[:9]).square().mean().backward()
        optimiser.step()
    theirs = float((alpha * student(weights, x[9:]) - y[9:]).square().mean().detach())
    for given in (alpha, 2.0):
        ours = float(train(SMALL, [4], steps, AdamW(1e-2, 0.5), laziness=given, record=[steps], **EXACT).test_loss[0, 0])
        assert (abs(ours - theirs) < 1e-9 * theirs) == (given == alpha)


@pytest.mark.parametrize("chunk", [None, 2, 1])
@pytest.mark.parametrize("how", [dict(), dict(centred=True, linearised=True)])
def test_members_are_independent(chunk, how):
    alphas, rates, decays = np.array([0.5, 1.0, 3.0]), np.array([1e-3, 5e-3, 1e-2]), np.array([0.0, 0.5, 2.0])
    common = dict(steps=25, every=5, **how, **EXACT)
    together = train(SMALL, [5, 6, 5], optimiser=AdamW(rates, decays), laziness=alphas, chunk=chunk, **common)
    for b, seed in enumerate([5, 6, 5]):
        alone = train(SMALL, [seed], optimiser=AdamW(rates[b], decays[b]), laziness=alphas[b], **common)
        for name in ("train_loss", "test_loss", "test_median", "norm", "movement"):
            np.testing.assert_allclose(together[name][b], alone[name][0], rtol=1e-12)
    assert abs(float(together.test_loss[0, -1] - together.test_loss[2, -1])) > 1e-6


def test_members_that_are_done_disturb_nobody():
    """The first member stops early; the others go on as if it had never been there."""
    common = dict(steps=20, optimiser=AdamW(1e-2), every=5, **EXACT)
    stopped = train(SMALL, [1, 2, 3], stop=lambda m: (m["member"] == 0) & (m["norm"] > 0), **common)
    free = train(SMALL, [1, 2, 3], **common)
    assert np.isnan(stopped.test_loss[0, 1:]).all()
    np.testing.assert_array_equal(stopped.test_loss[1:], free.test_loss[1:])


def test_accuracy_is_a_level_of_the_distribution_of_errors():
    """At least half of the points are right exactly when the median of the errors is below the threshold; thresholds are nested."""
    for laziness in (0.5, 3.0):
        task, _, moved = task_of(laziness=(laziness, laziness), thresholds=(0.01, 0.1, 0.3, 1.0, 3.0))
        found = task.measure(moved)
        for part in ("train", "test"):
            accuracy, median = found[f"{part}_accuracy"], found[f"{part}_median"]
            right = median[:, None] < torch.tensor(task.thresholds)
            np.testing.assert_array_equal(accuracy.numpy() >= 0.5, right.numpy())  # nine and seven points: the median is one of them
            assert (accuracy.diff(dim=1) >= 0).all()
    task, _, moved = task_of()
    errors = task.errors(moved)
    assert float(task.measure(moved)["test_loss"][0]) == pytest.approx(float(errors[0, 9:].mean()))
    assert float(task.measure(moved)["train_loss"][0]) == pytest.approx(float(errors[0, :9].mean()))


def test_test_points_are_held_out():
    """Other test points change no weight and no training loss, and training points are none of them."""
    ds = train(SMALL, [2], 15, AdamW(1e-2), every=5, **EXACT)
    more = train(SMALL.replace(test=30), [2], 15, AdamW(1e-2), every=5, **EXACT)
    np.testing.assert_allclose(ds.train_loss, more.train_loss, rtol=1e-12)
    np.testing.assert_allclose(ds.norm, more.norm, rtol=1e-12)
    x, _ = SMALL.data([2])
    assert len(np.unique(x[0], axis=0)) == SMALL.samples + SMALL.test


def test_student_and_teacher_are_what_is_said():
    """A student at the teacher's scale is another network of the same law; the teacher depends on its seed, and not on the student's scale."""
    problem = StudentTeacher()
    _, y = problem.data([0, 1])
    _, again = problem.replace(scale=5.0).data([1])
    np.testing.assert_array_equal(y[1], again[0])
    assert abs(y[0] - y[1]).max() > 0.1
    first, twice = (problem.replace(scale=s).initial([0]) for s in (1.0, 2.0))
    for name in first:
        torch.testing.assert_close(2 * first[name], twice[name])
        assert float(first[name].abs().max()) <= {"0": 5, "1": 100, "2": 100}[name[-1]] ** -0.5
    normal = StudentTeacher.normal()
    assert not any("bias" in name for name in normal.initial([0]))
    assert float(normal.initial([0])["student.weight1"].std()) == pytest.approx(1, abs=0.03)  # 10^4 draws: four standard errors


def test_the_centred_network_starts_from_nothing():
    ds = train(SMALL, [0], 2, GradientDescent(0.0), centred=True, laziness=3.0, record=[0], thresholds=THRESHOLDS, **EXACT)
    assert float(ds.test_loss[0, 0]) == pytest.approx(float(ds.label_power[0]), rel=1e-12)
    assert float(ds.movement[0, 0]) == 0


def test_wrong_arguments_are_named():
    for changes, name in ((dict(samples=0), "samples"), (dict(start="zero"), "start"), (dict(scale=-1.0), "scale"), (dict(width=2.5), "width")):
        with pytest.raises(ValueError, match=name):
            StudentTeacher(**changes)
    for arguments, name in ((dict(laziness=0.0), "laziness"), (dict(laziness=[1.0, 2.0, 3.0]), "laziness"), (dict(dtype="float16"), "dtype")):
        with pytest.raises(ValueError, match=name):
            train(SMALL, [0, 1], 2, **arguments)
    with pytest.raises(ValueError, match="seeds"):
        train(SMALL, [-1], 2)
    with pytest.raises(ValueError, match="problem"):
        train("digits", [0], 2)
