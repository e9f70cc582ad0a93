"""The stored ensembles of the phase diagrams: what is kept is what was sampled."""

import numpy as np
import pytest

from grokutils.experiments import phase_diagram
from grokutils.experiments.phase_diagram import averages, readouts
from grokutils.problems import TeacherStudent
from grokutils.sampling import sample

SMALL = TeacherStudent(samples=20, dimension=5, width=6, noise_variance=1.0, readout_variance=0.1, weight_variance=0.5, teacher={1: 1.0, 3: -0.3})


def test_every_run_is_another_one():
    keys = [run.key for run in phase_diagram()]
    assert len(set(keys)) == len(keys)


def test_averages_are_those_of_the_sample():
    settings = dict(datasets=2, chains=2, draws=4, warmup=6, thin=2, seed=3)
    ds, all_draws = averages(SMALL, **settings), sample(SMALL, progress=False, **settings)
    assert np.allclose(ds.learned, all_draws.learned.mean("draw"))
    assert np.allclose(ds.tail_fraction, all_draws.tail_fraction.mean("draw"))


def test_readouts_count_every_neuron_once():
    ds = readouts(SMALL, datasets=2, draws=5, warmup=6, thin=2)
    assert (ds["count"].sum("bin") == 5 * SMALL.width).all()
    far = ds["count"].values[:, ds.bin.values > 0.5].sum(1)
    assert (far == ds.droplets.sum("draw").values).all()


@pytest.mark.statistical
def test_without_data_a_readout_is_as_long_as_its_prior():
    # V^2 of 6 neurons, 40 data sets, 12 nearly independent draws: mean 1, standard error below 0.06; false alarm below 1e-6
    ds = readouts(SMALL.replace(noise_variance=1e6), datasets=40, draws=12, warmup=60, thin=8, seed=1)
    assert abs(float(ds.readout2.sum() / ds["count"].sum()) - 1) < 0.3
