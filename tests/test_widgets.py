"""The explorer for live notebooks."""

import builtins

import numpy as np
import pytest

from grokutils.problems import Committee, ModularAddition, TeacherStudent
from grokutils.theory import committee, modular_addition
from grokutils.theory import teacher_student as ts
from grokutils.widgets import action_explorer, laziness_explorer, mode_explorer, population


def test_without_ipywidgets_says_what_is_missing(monkeypatch):
    genuine = builtins.__import__

    def refuse(name, *args, **keywords):
        if name.split(".")[0] == "ipywidgets":
            raise ImportError("No module named 'ipywidgets'")
        return genuine(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install ipywidgets"):
        action_explorer()


def test_population_is_one_neuron_per_share():
    s = ts.solve(TeacherStudent.paper(noise_variance=0.13))
    q = population(s, 700)
    assert q.shape == (700,)
    assert (np.diff(q) > 0).all()
    np.testing.assert_allclose(q, -q[::-1], atol=1e-9)
    assert np.mean(q**2) == pytest.approx(s.second_moment, rel=0.02)
    assert abs((np.abs(q) > s.barrier_overlap).sum() - 700 * s.droplet_fraction) <= 1


@pytest.fixture(scope="module")
def panel():
    pytest.importorskip("ipywidgets")
    return action_explorer(TeacherStudent.paper(noise_variance=0.18, beta=0.5))


def test_a_slider_changes_the_numbers_and_reset_returns(panel):
    first, picture = panel.numbers.value, panel.views.value
    assert picture.startswith("<svg")
    panel.controls["noise_variance"].value = 0.1
    expected = ts.solve(TeacherStudent.paper(noise_variance=0.18, beta=0.5).replace(noise_variance=0.1))
    assert panel.solution.residual == pytest.approx(expected.residual, abs=1e-9)
    assert f"{expected.residual[1]:.4f}" in panel.numbers.value
    assert panel.numbers.value != first
    assert panel.views.value != picture
    panel.controls["norm"].value = "fixed"
    assert panel.solution.norm == "fixed"
    panel.controls["epsilon"].value = 0.0
    assert "none to learn" in panel.numbers.value
    panel.controls["reset"].click()
    assert panel.numbers.value == first
    assert panel.solution.norm == "exact"


def test_start_beyond_the_sliders_is_kept(panel):
    wide = action_explorer(TeacherStudent.paper(noise_variance=0.18).replace(width=4000))
    assert wide.solution.problem.width == 4000


def test_teacher_of_other_degrees_is_refused():
    pytest.importorskip("ipywidgets")
    with pytest.raises(ValueError, match="degrees 1 and 3"):
        action_explorer(TeacherStudent.paper().replace(teacher={1: 1.0, 2: 0.3}))


def test_modular_addition_has_its_panel():
    pytest.importorskip("ipywidgets")
    panel = mode_explorer()
    first, picture = panel.numbers.value, panel.views.value
    assert panel.solution.phase == "GMFL-I"
    panel.controls["ratio"].value = 0.4
    start = ModularAddition(modulus=37, width=4000, noise_variance=1.0, readout_variance=2e-6, sextic_decay=31.6)
    expected = modular_addition.solve(start.replace(noise_variance=0.4 * modular_addition.onset(start)))
    assert panel.solution.residual == pytest.approx(expected.residual, abs=1e-6)
    assert f"{expected.residual:.4f}" in panel.numbers.value
    assert panel.views.value != picture
    panel.controls["kernel"].value = "paper"
    assert panel.solution.residual > expected.residual + 0.4  # without the factor hardly anything is learned
    panel.controls["reset"].click()
    assert panel.numbers.value == first
    assert panel.solution.kernel == "corrected"


def test_laziness_has_its_panel():
    pytest.importorskip("ipywidgets")
    start = Committee(8, 60, 12, laziness=1.0, curvature=0.1, step_size=1.0, seed=1)
    panel = laziness_explorer(start, steps=300)
    first, picture = panel.numbers.value, panel.views.value
    assert picture.startswith("<svg")
    assert panel.solution.attrs["stable"]
    panel.controls["log_laziness"].value = 3
    lazy = start.replace(laziness=8.0)
    given = committee.draw(lazy)
    bound = min(committee.largest_step(lazy, given), committee.largest_step(lazy, given, *committee.final_state(lazy, given)))
    expected = committee.run(lazy.replace(step_size=0.5 * bound), 300)
    np.testing.assert_allclose(panel.solution.test_loss, expected.test_loss, rtol=1e-10)
    assert f"{committee.kernel_regression(lazy, given).test_loss:.4f}" in panel.numbers.value
    assert panel.views.value != picture
    panel.controls["output"].value = "raw"
    assert float(panel.solution.train_loss[0]) != pytest.approx(float(expected.train_loss[0]), rel=1e-3)  # not zero output at the start
    panel.controls["reset"].click()
    assert panel.numbers.value == first
