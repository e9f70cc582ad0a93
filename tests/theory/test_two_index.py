"""The two-index mean field against the single-index solver, under rotations, and put back into its own equation."""

import math

import numpy as np
import pytest

from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student as ts
from grokutils.theory import two_index

BASE = TeacherStudent.paper(0.15, beta=1 / 8).rounded()


@pytest.mark.parametrize(("activation", "noise"), [("erf", 0.15), ("erf", 0.1), ("sin", 0.2)])
def test_one_direction_is_the_single_index_theory(activation, noise):
    p = BASE.replace(activation=activation, noise_variance=noise)
    one, two = ts.solve(p), two_index.solve(p, {(1, 0): 1.0, (3, 0): -0.3})
    assert two.converged
    for k in (1, 3):
        assert two.residual[k, 0] == pytest.approx(one.residual[k], abs=1e-7)
    assert two.second_moment[0] == pytest.approx(one.second_moment, rel=1e-6)
    assert two.tail_fraction(1) == pytest.approx(one.tail_fraction, abs=0.01)  # whole cells of the grid


def test_the_directions_may_be_exchanged():
    one, two = two_index.solve(BASE, {(1, 0): 1.0, (0, 3): -0.3}), two_index.solve(BASE, {(0, 1): 1.0, (3, 0): -0.3})
    assert one.residual[0, 3] == pytest.approx(two.residual[3, 0], abs=1e-9)
    assert one.second_moment == pytest.approx(two.second_moment[::-1], rel=1e-6)


def test_a_rotated_teacher_is_the_same_teacher():
    # H3((z1 + z2)/sqrt 2) = 2^(-3/2) (H3(z1) + 3 H2(z1) z2 + 3 z1 H2(z2) + H3(z2))
    c = 1 / math.sqrt(2)
    rotated = {(1, 0): c, (0, 1): c, (3, 0): -0.3 * c**3, (2, 1): -0.9 * c**3, (1, 2): -0.9 * c**3, (0, 3): -0.3 * c**3}
    # the six cubics and linear functions are closed under rotations; of those across the direction, H1 H2 alone is not zero by symmetry
    one, two = two_index.solve(BASE, {(1, 0): 1.0, (3, 0): -0.3}, [(1, 0), (3, 0), (1, 2)]), two_index.solve(BASE, rotated)
    assert two.residual[1, 0] == pytest.approx(c * one.residual[1, 0], abs=1e-9)
    assert two.residual[0, 1] == pytest.approx(c * one.residual[1, 0], abs=1e-9)
    # z1^2 z2 of H3(z) has 3, of H1(z) H2(z') with z' = (z1 - z2)/sqrt 2 has -1
    assert two.residual[2, 1] == pytest.approx(c**3 * (3 * one.residual[3, 0] - one.residual[1, 2]), abs=1e-9)


def test_help_does_not_cross_directions():
    """The cubic along the direction of the linear part is learned; across it no more than without any linear part."""
    p = BASE.replace(noise_variance=0.1)
    along = two_index.solve(p, {(1, 0): 1.0, (3, 0): -0.3}).learned[3, 0]
    across = two_index.solve(p, {(1, 0): 1.0, (0, 3): -0.3}).learned[0, 3]
    assert abs(along) > 0.04
    assert abs(across) < 0.001


def test_the_action_does_not_separate():
    s = two_index.solve(BASE.replace(noise_variance=0.06), {(1, 0): 1.0, (0, 3): -0.3})
    (q1, q2), weight = s._law
    mixed = np.sum(weight * q1 * q2**3)
    assert abs(mixed) > 0.05 * math.sqrt(np.sum(weight * q1**2) * np.sum(weight * q2**6))


def test_bad_span_and_narrow_grid():
    with pytest.raises(ValueError, match="span must contain"):
        two_index.solve(BASE, {(1, 0): 1.0}, span=[(3, 0)])
    with pytest.warns(RuntimeWarning, match="edge"):
        assert not two_index.solve(BASE, {(1, 0): 1.0}, reach=0.4).converged
