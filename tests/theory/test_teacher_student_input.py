"""Bad input of the teacher-student theory is refused with the argument's name and value."""

import math

import numpy as np
import pytest

from grokutils import hermite
from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student as ts

BASE = TeacherStudent.paper()
GOOD = {1: 0.3, 3: -0.2}


def refused(call, name, value):
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert name in message, message
    assert repr(value) in message or str(value) in message, message


NORM_CALLS = {
    "solve": lambda v: ts.solve(BASE, norm=v),
    "action": lambda v: ts.action(BASE, GOOD, 0.1, norm=v),
    "dual": lambda v: ts.dual(BASE, GOOD, norm=v),
    "self_consistency": lambda v: ts.self_consistency(BASE, GOOD, norm=v),
    "critical_point": lambda v: ts.critical_point(BASE, norm=v),
    "mixed_phase": lambda v: ts.mixed_phase(BASE, norm=v),
}


@pytest.mark.parametrize("function", NORM_CALLS)
@pytest.mark.parametrize("value", ["free", "", None, 1, True], ids=repr)
def test_unknown_norm(function, value):
    refused(lambda: NORM_CALLS[function](value), "norm", value)


@pytest.mark.parametrize("value", ["newton", "", None, 1], ids=repr)
def test_unknown_method(value):
    refused(lambda: ts.solve(BASE, method=value), "method", value)


@pytest.mark.parametrize("value", [(-1,), (1, -3), (1.5,), ("1",), (True,), (None,), (), 3.5, "13", (math.nan,)], ids=repr)
def test_bad_degrees(value):
    with pytest.raises(ValueError, match="degrees"):
        ts.solve(BASE, degrees=value)


@pytest.mark.parametrize(
    "value",
    [{1: math.nan, 3: 0.0}, {1: math.inf, 3: 0.0}, {1: "0.3", 3: 0.0}, {1: True, 3: 0.0}, {1: 0.3}, {2: 0.3}, 0.3, "abc"],
    ids=repr,
)
def test_bad_start(value):
    with pytest.raises(ValueError, match="start"):
        ts.solve(BASE, start=value)


RESIDUAL_CALLS = {
    "action": lambda v: ts.action(BASE, v, 0.1),
    "dual": lambda v: ts.dual(BASE, v),
    "self_consistency": lambda v: ts.self_consistency(BASE, v),
}


@pytest.mark.parametrize("function", RESIDUAL_CALLS)
@pytest.mark.parametrize(
    "value",
    [{1: math.nan, 3: 0.0}, {1: math.inf, 3: 0.0}, {1: "0.3", 3: 0.0}, {1: True, 3: 0.0}, {-1: 0.3}, {1.5: 0.3}, {}, None, "abc"],
    ids=repr,
)
def test_bad_residual(function, value):
    with pytest.raises(ValueError, match="residual"):
        RESIDUAL_CALLS[function](value)


@pytest.mark.parametrize("value", [None, {"samples": 3}, "paper", 3], ids=repr)
def test_not_a_problem(value):
    for call in (ts.solve, ts.critical_point, ts.mixed_phase, ts.gaussian_process):
        with pytest.raises((ValueError, TypeError), match="problem"):
            call(value)


CUBE = hermite.Activation("tests-cube", lambda z: z**3)
OWN_SQUARE = hermite.Activation("tests-own-square", lambda z: z * z)


@pytest.mark.parametrize("norm", ["fixed", "exact"])
@pytest.mark.parametrize(
    ("activation", "teacher"),
    [("square", {2: 1.0}), ("square", {1: 1.0, 2: 0.3}), (OWN_SQUARE, {2: 1.0}), (CUBE, {1: 1.0, 3: -0.3})],
    ids=["square-H2", "square-H1-H2", "own-square", "cube"],
)
def test_a_law_that_cannot_be_normalised(activation, teacher, norm):
    p = BASE.replace(activation=activation, teacher=teacher)
    for call in (ts.solve, ts.critical_point, ts.mixed_phase):
        refused(lambda call=call: call(p, norm=norm), "activation", p.phi.name)


@pytest.mark.parametrize("activation", ["relu", "gelu", "linear"])
def test_growth_no_faster_than_the_prior_is_allowed(activation):
    # the data term of a linearly growing activation is quadratic in |w|, as the prior: the solution lies inside the domain
    p = TeacherStudent.appendix_d(width=300).replace(activation=activation, teacher={1: 1.0})
    s = ts.solve(p, norm="exact")
    assert s.converged
    assert np.isfinite(s.residual[1])
