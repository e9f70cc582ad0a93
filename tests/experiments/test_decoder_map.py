"""The maps of the plane: what is stored is what the decoders say, and nothing is asked that no training pair can tell."""

import numpy as np
import pytest
import torch

from grokutils import experiments
from grokutils.descent import Perceptron
from grokutils.descent.representation import masks_of, table_of
from grokutils.experiments.decoder_map import ResidueTask, decoder_map, training_set
from grokutils.problems import ToyAddition

PROBLEM = ToyAddition(5)
SETTINGS = dict(members=3, fraction=0.8, width=16, layers=1, embedding_rate=0.02, decoder_rate=0.02, weight_decay=0.0, embedding_scale=1.0,
                steps=150, pixels=201, every=50)


def test_training_set_leaves_no_sum_untold():
    pairs, sums = table_of(PROBLEM)
    for seed in range(20):
        chosen = training_set(PROBLEM, 0.6, seed)
        assert len(chosen) == 9
        assert {0, 1, 7, 8} <= set(chosen.sum(1))
    assert not np.array_equal(training_set(PROBLEM, 0.6, 0), training_set(PROBLEM, 0.6, 1))
    with pytest.raises(ValueError, match="fraction must leave room for the 4 pairs"):
        training_set(PROBLEM, 0.2, 0)


@pytest.mark.parametrize("modular", [False, True])
def test_map_names_the_answers_at_the_midpoints(modular):
    ds = decoder_map(PROBLEM, modular=modular, **SETTINGS)
    pairs, sums = table_of(PROBLEM)
    classes = sums % 5 if modular else sums
    assert ds["map"].max() < (5 if modular else 9)
    assert np.isclose(ds.train_accuracy[:, -1], [c[ds.training.values].mean() for c in ds.correct.values]).all()

    def share(points):
        cell = [np.abs(ds["axes"].values[:, k, None, :] - points[..., k, None]).argmin(-1) for k in (0, 1)]
        said = ds["map"].values[np.arange(3)[:, None], cell[1], cell[0]]
        return ((said == classes) == ds.correct.values).mean()

    total = ds.embedding.values[:, pairs].sum(2)
    assert share(total / 2) > 0.95  # a pixel may lie beyond a border
    assert share(-total / 2) < 0.8  # the wrong place
    assert share(total[..., ::-1] / 2) < 0.8  # rows for columns
    assert ds.correct.values[:, ds.training.values].mean() > 0.5


def test_residues_survive_a_selection():
    masks = masks_of(PROBLEM, [training_set(PROBLEM, 0.8, 0)] * 3)
    sums = table_of(PROBLEM)[1]
    for outputs, wanted in ((5, sums % 5), (9, sums)):
        task = ResidueTask(PROBLEM, masks, Perceptron((2, 4, outputs)), torch.zeros(3, outputs, 0))
        assert np.array_equal(task.classes, wanted)
        assert np.array_equal(task.select(torch.tensor([0, 2])).classes, wanted)


def test_registered():
    runs = experiments.EXPERIMENTS["decoder_maps"]()
    assert len({run.key for run in runs}) == len(runs) == 4
    assert {(run.settings["modular"], run.settings["weight_decay"] > 0) for run in runs} == {(a, b) for a in (False, True) for b in (False, True)}
    assert all(run.function.seconds(run.problem, **run.settings) > 0 for run in runs)
