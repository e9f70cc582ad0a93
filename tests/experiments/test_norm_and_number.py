"""What the tables of transverse norms and of droplet counts keep is what the networks have."""

import numpy as np
import pytest

from grokutils import experiments
from grokutils.experiments.finite_size import droplet_counts
from grokutils.experiments.norm import BULK, DROPLET, EDGES, NORM_EDGES, transverse_norms
from grokutils.problems import TeacherStudent
from grokutils.sampling import sample

PROBLEM = TeacherStudent(samples=60, dimension=12, width=20, noise_variance=0.3, readout_variance=0.2, weight_variance=0.5, teacher={1: 1.0, 3: -0.3})
SIZES = dict(datasets=2, chains=2, draws=5, warmup=30, thin=2, seed=3)


@pytest.fixture(scope="module")
def networks():
    return sample(PROBLEM, keep_neurons=True, progress=False, **SIZES)


def test_table_of_norms(networks):
    table = transverse_norms(PROBLEM, **SIZES)
    q = np.abs(networks.overlap.values[1, 0].ravel())
    s = networks.norm2.values[1, 0].ravel() - q**2
    assert table["count"].sum() == networks.overlap.size - (np.abs(networks.overlap) > EDGES[-1]).sum()
    i = int(table["count"].values[1, 0].argmax())
    inside = (q >= EDGES[i]) & (q < EDGES[i + 1])
    assert inside.sum() == table["count"][1, 0, i] > 3
    kept = [table[name][1, 0, i] for name in ("mean", "variance", "overlap")]
    assert np.allclose(kept, [s[inside].mean(), s[inside].var(), q[inside].mean()], rtol=1e-5)
    q, norm2 = np.abs(networks.overlap.values.astype(float)), networks.norm2.values.astype(float)
    for population, chosen in (("bulk", q < BULK), ("droplet", q > DROPLET)):
        assert table.histogram.sel(population=population).sum() == (chosen & (norm2 - q**2 <= NORM_EDGES[-1])).sum() > 0
    assert np.allclose(table.train_learned, networks.train_learned.mean("draw"))


def test_counts(networks):
    counts = droplet_counts(PROBLEM, **SIZES)["count"]
    assert counts.dtype == np.int16
    assert np.array_equal(counts, (np.abs(networks.overlap) > 0.5).sum("neuron"))


def test_registered_and_their_cost_known():
    for name in ("norm_profile", "droplet_number"):
        runs = experiments.EXPERIMENTS[name]()
        assert len({run.key for run in runs}) == len(runs)
        for run in runs:
            s = run.settings
            assert run.gradients == s["datasets"] * s["chains"] * (24 + s["warmup"] + s["draws"] * s["thin"])
