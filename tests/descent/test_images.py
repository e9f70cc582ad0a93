"""Perceptrons on images: data, gradients, losses, independence of the members, and what initial scale, laziness and centring mean."""

import urllib.error

import numpy as np
import pytest
import torch

from grokutils.descent import AdamW, GradientDescent, images
from grokutils.descent.images import ImageClassification, ImageTask, load, train

SMALL = ImageClassification(samples=12, width=7)
EXACT = dict(dtype="float64", progress=False, test=40)


def task_of(problem=SMALL, seeds=(0, 1), sizes=(12, 12), scale=1.5, **keywords):
    """A task and its initial parameters in double precision."""
    kind = dict(dtype=torch.float64)
    parameters = {name: scale * p for name, p in images._grouped(problem.network, problem.network.initial(seeds, **kind)).items()}
    return ImageTask(problem.network, [load(problem.name, n, s, 40) for n, s in zip(sizes, seeds)], seeds, **kind, **keywords), parameters


def module_of(parameters, member, activation=torch.nn.ReLU):
    """The same network as a torch module."""
    names = sorted(name for name in parameters if "weight" in name)
    layers = []
    for name in names:
        weight = parameters[name][member]
        linear = torch.nn.Linear(*weight.shape, bias=name.replace("weight", "bias") in parameters, dtype=weight.dtype)
        linear.weight.data.copy_(weight.T)
        if linear.bias is not None:
            linear.bias.data.copy_(parameters[name.replace("weight", "bias")][member, 0])
        layers += [linear, activation()]
    return torch.nn.Sequential(*layers[:-1])


def tensors(one, part):
    return torch.as_tensor(getattr(one, f"{part}_inputs"), dtype=torch.float64), torch.as_tensor(getattr(one, f"{part}_labels"))


def loss_of(kind):
    if kind == "cross_entropy":
        return torch.nn.CrossEntropyLoss()
    return lambda f, label: torch.nn.MSELoss()(f, torch.nn.functional.one_hot(label, 10).to(f))


@pytest.mark.parametrize("loss", images.LOSSES)
@pytest.mark.parametrize("hidden", [1, 3])
def test_losses_and_accuracies_are_those_of_a_torch_module(loss, hidden):
    task, parameters = task_of(ImageClassification(samples=12, width=7, hidden=hidden), sizes=(12, 9), loss=loss)
    found = task.measure(parameters)
    for b in range(2):
        module = module_of(parameters, b)
        for part in ("train", "test"):
            x, label = tensors(task.images[b], part)
            f = module(x).detach()
            assert float(found[f"{part}_loss"][b]) == pytest.approx(float(loss_of(loss)(f, label)), rel=1e-12)
            assert float(found[f"{part}_accuracy"][b]) == pytest.approx(float((f.argmax(1) == label).double().mean()), rel=1e-12)
        weights = [p.detach() for p in module.parameters()]
        assert float(found["norm"][b]) == pytest.approx(float(torch.cat([p.flatten() for p in weights[:-2]]).norm()), rel=1e-12)
        assert float(found["head_norm"][b]) == pytest.approx(float(torch.cat([p.flatten() for p in weights[-2:]]).norm()), rel=1e-12)


@pytest.mark.parametrize("activation", ["relu", "tanh", "square", "linear"])
@pytest.mark.parametrize("loss", images.LOSSES)
@pytest.mark.parametrize(("lazy", "batch"), [(False, None), (True, None), (True, 4)])
def test_gradients_are_those_of_autograd(activation, loss, lazy, batch):
    problem = ImageClassification(samples=12, width=7, activation=activation)
    task, parameters = task_of(problem, sizes=(12, 9), loss=loss, batch=batch, laziness=[3.0, 0.5] if lazy else None)
    if lazy:
        task.origin = {name: 1.1 * p for name, p in parameters.items()}
    into, step = {name: torch.full_like(p, torch.nan) for name, p in parameters.items()}, 4
    task.gradients(parameters, into, step)
    kind = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "linear": torch.nn.Identity}.get(activation, Square)
    for b, n in enumerate((12, 9)):
        module, start = module_of(parameters, b, kind), module_of({name: 1.1 * p for name, p in parameters.items()}, b, kind)
        x, label = tensors(task.images[b], "train")
        if batch:
            epoch, part = divmod(step, n // batch)
            rows = task.order(b, epoch)[part * batch : (part + 1) * batch]
            x, label = x[rows], label[rows]
        f = [3.0, 0.5][b] * (module(x) - start(x).detach()) if lazy else module(x)
        loss_of(loss)(f, label).backward()
        for name, linear in zip(["body.weight0", "body.weight1", "head.weight0"], [m for m in module if isinstance(m, torch.nn.Linear)]):
            torch.testing.assert_close(into[name][b], linear.weight.grad.T)
            torch.testing.assert_close(into[name.replace("weight", "bias")][b, 0], linear.bias.grad)


class Square(torch.nn.Module):
    def forward(self, z):
        return z * z


@pytest.mark.parametrize("rate", [0.01, 0.002])
def test_training_is_that_of_torch(rate):
    """Twenty steps of AdamW with a rate of its own for the last layer; the control is the same rate for all layers."""
    steps, head = 20, 0.002
    ds = train(SMALL, [3], steps, body=AdamW(0.01, 0.4), head=AdamW(rate, 0.4), initial_scale=2, record=[steps], **EXACT)
    parameters = images._grouped(SMALL.network, SMALL.network.initial([3], 2.0, torch.float64))
    module, one = module_of(parameters, 0), load("digits", 12, 3, 40)
    groups = [dict(params=module[-1].parameters(), lr=head), dict(params=module[:-1].parameters())]
    optimiser = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.4)
    x, label = tensors(one, "train")
    for _ in range(steps):
        optimiser.zero_grad()
        loss_of("squared")(module(x), label).backward()
        optimiser.step()
    x, label = tensors(one, "test")
    ours, theirs = float(ds.test_loss[0, 0]), float(loss_of("squared")(module(x).detach(), label))
    assert (abs(ours - theirs) < 1e-9 * theirs) == (rate == head)


@pytest.mark.parametrize("chunk", [None, 2, 1])
def test_members_are_independent(chunk):
    """Each of three members that differ in everything is, bit for bit, what it is alone, whoever is trained with it."""
    each = dict(initial_scale=np.array([1.0, 2.0, 4.0]), laziness=np.array([0.5, 1.0, 2.0]))
    rates, decays, heads = np.array([1e-3, 5e-3, 1e-2]), np.array([0.0, 0.1, 1.0]), np.array([1e-4, 1e-2, 3e-3])
    common = dict(steps=25, every=5, centred=True, batch=6, samples=12) | EXACT
    together = train(SMALL, [5, 6, 5], body=AdamW(rates, decays), head=AdamW(heads), chunk=chunk, **each, **common)
    for b, seed in enumerate([5, 6, 5]):
        own = {name: value[b] for name, value in each.items()}
        alone = train(SMALL, [seed], body=AdamW(rates[b], decays[b]), head=AdamW(heads[b]), **own, **common)
        for name in ("train_loss", "test_loss", "test_accuracy", "norm", "spread"):
            np.testing.assert_array_equal(together[name][b], alone[name][0])
    assert abs(float(together.test_loss[0, -1] - together.test_loss[2, -1])) > 1e-6  # the same seed, other hyperparameters


def test_members_may_have_different_numbers_of_images():
    both = train(SMALL, [0, 1], 15, samples=[5, 12], every=5, **EXACT)
    for b, n in enumerate([5, 12]):
        alone = train(SMALL.replace(samples=n), [b], 15, every=5, **EXACT)
        np.testing.assert_allclose(both.test_loss[b], alone.test_loss[0], rtol=1e-10)
        np.testing.assert_allclose(both.train_accuracy[b], alone.train_accuracy[0], rtol=1e-10)


def test_mini_batches_depend_on_seed_and_step_alone():
    task, parameters = task_of(batch=4)
    seen, fresh = {}, {name: torch.empty_like(p) for name, p in parameters.items()}
    for step in (0, 1, 2, 3, 7, 2, 0):  # not in order, some twice
        task.gradients(parameters, fresh, step)
        copy = {name: p.clone() for name, p in fresh.items()}
        for name in copy:
            torch.testing.assert_close(copy[name], seen.setdefault(step, copy)[name], rtol=0, atol=0)
    assert not torch.equal(seen[0]["head.weight0"], seen[3]["head.weight0"])  # another epoch, another order
    assert (task.order(0, 0) != task.order(1, 0)).any()  # another seed as well
    mean = sum(seen[step]["head.weight0"] for step in (0, 1, 2)) / 3
    full, _ = task_of()
    full.gradients(parameters, fresh, 0)
    torch.testing.assert_close(mean, fresh["head.weight0"])  # an epoch sees every image once


def test_a_large_start_is_a_lazy_start():
    """Without biases, weights s w at rate r and decay l are weights w with laziness s^layers, rate r / s and decay l s; with biases not."""
    s, rate, decay = 3.0, 1e-2, 0.2
    for bias in (False, True):
        problem = SMALL.replace(bias=bias)
        common = dict(steps=40, every=10) | EXACT
        large = train(problem, [0, 1], body=AdamW(rate, decay, epsilon=1e-14), initial_scale=s, **common)
        lazy = train(problem, [0, 1], body=AdamW(rate / s, decay * s, epsilon=1e-14), laziness=s**3, **common)
        agree = np.allclose(large.test_loss, lazy.test_loss, rtol=1e-7)
        assert agree == (not bias)
        if not bias:
            np.testing.assert_allclose(large.norm, s * lazy.norm, rtol=1e-7)


def test_a_centred_network_starts_from_zero():
    ds = train(SMALL, [0, 1], 3, centred=True, laziness=[1.0, 100.0], initial_scale=6, every=1, **EXACT)
    np.testing.assert_allclose(ds.test_loss[:, 0], 0.1, rtol=1e-12)  # of a network that is silent
    np.testing.assert_allclose(ds.train_loss[:, 0], 0.1, rtol=1e-12)
    assert train(SMALL, [0], 0, initial_scale=6, **EXACT).test_loss.item() > 1


def test_without_decay_the_speed_in_function_space_scales_with_the_square_of_laziness():
    """One small step of plain descent from a centred start changes the output by rate times alpha squared."""
    ds = train(SMALL, [0, 0], 1, body=GradientDescent(np.array([1e-4, 1e-6])), centred=True, laziness=[1.0, 10.0], every=1, **EXACT)
    fall = (ds.train_loss[:, 0] - ds.train_loss[:, 1]).values
    assert fall[0] > 0
    assert fall[0] == pytest.approx(fall[1], rel=1e-3)


def test_spread_is_the_share_of_variance_within_classes():
    rng = np.random.default_rng(0)
    label, f = np.repeat([0, 1, 2], [4, 5, 6]), rng.standard_normal((2, 15, 3))
    hot = torch.nn.functional.one_hot(torch.as_tensor(label), 10).double().expand(2, -1, -1)
    within = sum(((f[:, label == c] - f[:, label == c].mean(1, keepdims=True)) ** 2).sum((1, 2)) for c in range(3))
    total = ((f - f.mean(1, keepdims=True)) ** 2).sum((1, 2))
    np.testing.assert_allclose(images.spread(torch.as_tensor(f), hot), within / total, rtol=1e-12)
    collapsed = torch.as_tensor(np.stack([np.eye(3)[label]] * 2))
    np.testing.assert_allclose(images.spread(collapsed, hot), 0, atol=1e-12)


def test_images_are_drawn_without_overlap_and_nested():
    small, large = load("digits", 30, 1), load("digits", 300, 1)
    assert small.train_inputs.shape == (30, 64) and small.test_inputs.shape == (500, 64)
    assert small.train_inputs.min() == 0 and small.train_inputs.max() == 1
    np.testing.assert_array_equal(small.train_inputs, large.train_inputs[:30])
    np.testing.assert_array_equal(small.test_labels, large.test_labels)
    training = {row.tobytes() for row in large.train_inputs}
    assert not any(row.tobytes() in training for row in large.test_inputs)
    assert (load("digits", 30, 2).train_inputs != small.train_inputs).any()
    assert set(large.test_labels) == set(range(10))


def test_mnist_is_fetched_or_an_error_says_why_not(monkeypatch):
    import sklearn.datasets

    class Answer:
        data, target = np.full((5000, 784), 255.0), np.array(["7"] * 5000)

    images._raw.cache_clear()
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda *args, **keywords: Answer)
    one = load("mnist", 20, 0)
    assert one.train_inputs.shape == (20, 784) and one.train_inputs.max() == 1 and set(one.train_labels) == {7} and len(one.test_labels) == 2000

    def unreachable(*args, **keywords):
        raise urllib.error.URLError("no route to host")

    images._raw.cache_clear()
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", unreachable)
    with pytest.raises(ConnectionError, match=r"could not be fetched.*no route to host.*digits"):
        load("mnist", 20, 0)
    images._raw.cache_clear()


@pytest.mark.slow
def test_large_initial_weights_delay_understanding():
    """At scale 1 test accuracy follows training accuracy; at scale 6 it never does without weight decay, and does late with it."""
    problem = ImageClassification(samples=100, width=64)
    decay, scale = np.repeat([0.0, 0.0, 0.1], 2), np.repeat([1.0, 6.0, 6.0], 2)
    ds = train(problem, [0, 1] * 3, 1800, body=AdamW(3e-3, decay), initial_scale=scale, progress=False)
    learnt, understood = (images.first_reached(ds[f"{part}_accuracy"], level).values for part, level in (("train", 0.9), ("test", 0.6)))
    assert np.isfinite(learnt).all()
    assert (understood[:2] <= learnt[:2]).all()
    assert np.isnan(understood[2:4]).all()
    assert (understood[4:] > 2 * learnt[4:]).all()
    assert (ds.norm[2:4, -1] > ds.norm[2:4, 0]).all() and (ds.norm[4:, -1] < 0.7 * ds.norm[4:, 0]).all()


def test_cells_of_the_stored_experiment_are_what_they_say():
    """Every cell and seed of a diagram is the member that one would train by hand."""
    from grokutils.experiments.images import trained

    lists = dict(weight_decay=[0.0, 0.5], head_rate=[1e-2, 1e-3], samples=[12, 9], initial_scale=[1.0, 3.0])
    ds = trained(SMALL, 10, seeds=3, every=5, rate=0.02, **lists)
    assert ds.sizes == {"cell": 2, "seed": 3, "step": 3}
    for c, i in ((0, 2), (1, 1)):
        decay, head, n, scale = (values[c] for values in lists.values())
        assert [float(ds[name][c]) for name in lists] == [decay, head, n, scale]
        alone = train(SMALL, [i], 10, body=AdamW(0.02, decay), head=AdamW(head, decay), samples=n, initial_scale=scale, every=5, progress=False)
        np.testing.assert_allclose(ds.test_loss[c, i], alone.test_loss[0], rtol=1e-5)
    kept = trained(
        SMALL.replace(width=32), 400, seeds=2, every=50, rate=0.01, samples=100, initial_scale=1.0, until_done=True, keep=("test_accuracy",)
    )
    assert list(kept.data_vars) == ["test_accuracy"]
    assert np.isnan(kept.test_accuracy[..., -1]).all()  # stopped before, having reached both levels
    assert (kept.test_accuracy.max("step") >= 0.6 - 1e-6).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: load("cifar", 10, 0), "name must be one of"),
        (lambda: load("digits", 0, 0), "train must be"),
        (lambda: load("digits", 1.5, 0), "train must be a whole number"),
        (lambda: load("digits", 1500, 0), "train must leave 500 test images of the 1797"),
        (lambda: load("digits", 10, -1), "seed must be"),
        (lambda: load("digits", 10, 0, 0), "test must be"),
        (lambda: ImageClassification("letters"), "name must be one of"),
        (lambda: ImageClassification(samples=0), "samples must be"),
        (lambda: ImageClassification(width=2.5), "width must be a whole number"),
        (lambda: ImageClassification(hidden=0), "hidden must be"),
        (lambda: ImageClassification(activation="sine"), "activation must be one of"),
        (lambda: ImageClassification(bias=1), "bias must be True or False"),
        (lambda: train("digits", [0]), "problem must be an ImageClassification"),
        (lambda: train(SMALL, []), "seeds must be"),
        (lambda: train(SMALL, [-1]), "seeds must be"),
        (lambda: train(SMALL, [0], -1), "steps must be"),
        (lambda: train(SMALL, [0], 10, record=[11]), "record must be"),
        (lambda: train(SMALL, [0], loss="hinge"), "loss must be one of"),
        (lambda: train(SMALL, [0], dtype="float16"), "dtype must be one of"),
        (lambda: train(SMALL, [0, 1], initial_scale=[1, 2, 3]), "initial_scale must be one number or one for each of 2 members"),
        (lambda: train(SMALL, [0], initial_scale=0), "initial_scale must be"),
        (lambda: train(SMALL, [0], laziness=-1), "laziness must be"),
        (lambda: train(SMALL, [0, 1], samples=[4, 5.5]), "samples must be a whole number"),
        (lambda: train(SMALL, [0, 1], samples=[20, 6], batch=7), "batch must be at most"),
        (lambda: train(SMALL, [0], batch=0), "batch must be"),
        (lambda: train(SMALL, [0], body=AdamW(-1.0)), "learning_rate must be"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
