"""The curves that are compared with the effective theory: the networks they claim to be."""

import numpy as np

from grokutils.descent import representation
from grokutils.experiments.effective_theory import effective_theory, embedding_curves
from grokutils.experiments.representation import training_sets
from grokutils.problems import ToyAddition
from grokutils.theory import toy_addition

TOY = ToyAddition(6)
SMALL = dict(pairs=15, seeds=3, decoders=2, steps=40, every=20, width=8)


def test_decoder_zero_is_the_network_of_its_seed():
    ds = embedding_curves(TOY, **SMALL)
    plain = representation.train(TOY, training_sets(TOY, 15, range(3)), range(3), 40, every=20, width=8, progress=False)
    assert ds.embedding.shape == (3, 2, 3, 6)
    np.testing.assert_allclose(ds.embedding.values[:, 0], plain.embedding.values[..., 0], atol=1e-6)
    np.testing.assert_allclose(ds.train_loss.values[:, 0], plain.train_loss.values, rtol=1e-5)
    np.testing.assert_array_equal(ds.training.values, plain.training.values)


def test_decoders_share_start_and_training_set_and_nothing_else():
    ds = embedding_curves(TOY, **SMALL)
    e = ds.embedding.values
    np.testing.assert_array_equal(e[:, 0, 0], e[:, 1, 0])
    assert np.abs(e[:, 0, -1] - e[:, 1, -1]).max() > 1e-3
    assert np.abs(ds.train_loss.values[:, 0, 0] - ds.train_loss.values[:, 1, 0]).min() > 1e-3
    assert (ds.training.values.sum(1) == 15).all() and len(np.unique(ds.training.values, axis=0)) == 3


def test_adam_moves_all_symbols_alike_and_gradient_descent_does_not():
    adam, plain = (embedding_curves(TOY, **SMALL | dict(steps=1, every=1, decoders=1, plain=p)).embedding.values for p in (False, True))
    first = np.abs(np.diff(adam, axis=2))
    np.testing.assert_allclose(first, 1e-3, rtol=1e-2)  # Adam's first step is the sign of the gradient
    assert np.diff(plain, axis=2).std() < 1e-4 < first.max()


def test_stored_settings_leave_a_unique_line():
    """Every stored network has a training set that determines the representation: what fails to arrive is not short of data."""
    runs = effective_theory()
    assert len({run.key for run in runs}) == len(runs)
    sets = np.stack(training_sets(ToyAddition(10), 45, range(40)))
    assert (toy_addition.nullity(ToyAddition(10), sets) == 2).all()
