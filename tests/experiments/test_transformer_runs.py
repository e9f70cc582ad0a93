"""The stored runs of transformers: what they keep, and how one of them is found."""

import numpy as np
import pytest

from grokutils.experiments import transformer as listed
from grokutils.experiments import transformer_paper
from grokutils.experiments.transformer import DROPOUTS, SMALL, STEPS, chosen, trained

TINY = SMALL.replace(modulus=5, dimension=8)


def test_a_run_keeps_what_fits_together():
    ds = trained(TINY, 2, 40, every=20, read=True, decoder_rate=1e-2)
    assert ds.accuracy_within.sizes == {"member": 2, "part": 2, "components": 5}
    last = ds.accuracy_within.isel(components=-1)  # all components: nothing is restricted
    np.testing.assert_allclose(last.sel(part="test"), ds.test_accuracy[:, -1], atol=1e-6)
    assert (np.isnan(ds.first_train) | (last.sel(part="train") > 0.5)).all()
    one_answer = ds.accuracy_within.isel(components=0)  # all symbols alike: one answer for all pairs, right for one sum in five
    np.testing.assert_allclose(0.8 * one_answer.sel(part="train") + 0.2 * one_answer.sel(part="test"), 0.2)
    assert float(ds.ring_share.min()) > 0
    assert ds.nbytes < 20_000


def test_members_end_once_they_have_learnt():
    ds = trained(TINY, 2, 400, every=20, until=0.2, decoder_rate=1e-2)
    records = np.isfinite(ds.test_accuracy.values).sum(1)
    assert (records < len(ds.step)).any()
    for b, count in enumerate(records):
        before, last = ds.test_accuracy.values[b, : count - 1], ds.test_accuracy.values[b, count - 1]
        assert count == len(ds.step) or last >= 0.2 - 1e-6
        assert np.isnan(ds.effective_frequencies.values[b, count:]).all()
        assert (before < 0.2).any()
    continued = trained(TINY, 1, 40, every=20, first_seed=1, decoder_rate=1e-2)
    np.testing.assert_allclose(continued.effective_dimension[0], trained(TINY, 2, 40, every=20, decoder_rate=1e-2).effective_dimension[1], rtol=1e-4)


def test_every_run_has_its_own_name_and_can_be_chosen(monkeypatch):
    runs = listed()
    assert len({run.key for run in runs}) == len(runs)
    monkeypatch.setattr("grokutils.experiments._run.Run.load", lambda run, store=None: run)
    assert chosen().settings == {"read": True}
    assert chosen(dropout=DROPOUTS[0]).settings["dropout"] == DROPOUTS[0]
    assert chosen(modulus=59).problem.modulus == 59
    assert chosen(layers=2).problem.layers == 2
    assert chosen(dropout=0.99) is None
    assert all(run.settings.get("steps", STEPS) >= STEPS for run in transformer_paper())


def test_costs_are_in_proportion():
    assert trained.seconds(SMALL, seeds=2) == pytest.approx(2 * trained.seconds(SMALL, seeds=1))
    assert trained.seconds(SMALL.replace(layers=2)) == pytest.approx(2 * trained.seconds(SMALL))
