"""Problems: validation, dimensionless groups, scaling, hashing."""

import dataclasses
import json
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokutils import hermite
from grokutils.problems import Committee, TeacherStudent

GOOD = {
    "samples": 3000,
    "dimension": 150,
    "width": 700,
    "noise_variance": 0.15,
    "readout_variance": 8 / 700,
    "weight_variance": 0.5,
    "teacher": {1: 1.0, 3: -0.3},
}
SIZES = ("samples", "dimension", "width", "noise_variance", "readout_variance", "weight_variance")


def test_published_parameters_give_the_published_interaction():
    # covers: eq-C43-check
    # with the readout variance 8/700 (so one readout weight has prior variance 8/700^2) u is the printed 30.2 at noise 0.18
    assert TeacherStudent.paper(noise_variance=0.18).interaction == pytest.approx(30.23, abs=0.005)
    assert TeacherStudent.paper() == TeacherStudent(**GOOD)


def test_appendix_d_parameters():
    # covers: eq-D44-check
    p = TeacherStudent.appendix_d(width=1400)
    assert (p.samples, p.dimension, p.width, p.noise_variance, p.readout_variance, p.weight_variance) == (
        600,
        150,
        1400,
        0.05,
        0.011,
        0.5,
    )
    assert dict(p.teacher) == {1: 1.0, 3: -1.2}


def test_groups_from_their_definitions():
    p = TeacherStudent(**GOOD)
    assert p.interaction == pytest.approx(3000**2 * (8 / 700) / (0.15**2 * 150 * 700), rel=1e-14)
    assert p.kappa == pytest.approx(3000 * (8 / 700) / 0.15, rel=1e-14)
    assert p.teacher_norm2 == pytest.approx(1 + 6 * 0.09, rel=1e-14)


def test_teacher_norm_is_the_mean_square_of_the_teacher():
    p = TeacherStudent(**GOOD | {"teacher": {0: 0.5, 1: -1.0, 2: 0.7, 5: 0.1}})
    z, w = np.polynomial.hermite_e.hermegauss(40)
    y = sum(c * hermite.hermite(k, z) for k, c in p.teacher.items())
    assert p.teacher_norm2 == pytest.approx((w * y**2).sum() / math.sqrt(2 * math.pi), rel=1e-12)


# covers: eq-P11-check, eq-A2-check
@settings(deadline=None, max_examples=100)
@given(alpha=st.floats(1e-3, 1e3), beta=st.floats(1 / 149, 1e3).filter(lambda b: 150 * math.sqrt(b) > 1.01))
def test_scaling_keeps_the_dimensionless_groups(alpha, beta):
    p = TeacherStudent(**GOOD)
    s = p.scaled(alpha=alpha, beta=beta)
    assert s.interaction == pytest.approx(p.interaction, rel=1e-12)
    assert s.kappa / s.dimension == pytest.approx(p.kappa / p.dimension, rel=1e-12)
    assert s.samples / s.noise_variance == pytest.approx(beta * p.samples / p.noise_variance, rel=1e-12)
    assert s.width / s.dimension**2 == pytest.approx(p.width / p.dimension**2, rel=1e-12)
    assert (s.teacher, s.activation, s.weight_variance) == (p.teacher, p.activation, p.weight_variance)


@settings(deadline=None, max_examples=50)
@given(first=st.floats(0.1, 10), second=st.floats(0.1, 10), alpha=st.floats(0.1, 10))
def test_scalings_compose(first, second, alpha):
    p = TeacherStudent(**GOOD)
    once, twice = p.scaled(alpha, first * second), p.scaled(alpha, first).scaled(1.0, second)
    for name in SIZES:
        assert getattr(twice, name) == pytest.approx(getattr(once, name), rel=1e-12)


def test_scaling_by_one_is_the_same_problem():
    p = TeacherStudent(**GOOD)
    assert p.scaled() == p
    assert p.scaled().hash == p.hash


def test_rounded_has_whole_sizes_and_keeps_the_rest():
    p = TeacherStudent.paper(beta=0.37).rounded()
    assert all(isinstance(getattr(p, name), int) for name in ("samples", "dimension", "width"))
    assert (p.samples, p.dimension, p.width) == (1110, 91, 259)
    assert p.noise_variance == 0.15
    assert p.rounded() == p
    tiny = TeacherStudent(**GOOD | {"samples": 0.2, "width": 0.3, "dimension": 1.2}).rounded()
    assert (tiny.samples, tiny.width, tiny.dimension) == (1, 1, 2)


def test_problems_are_frozen_hashable_values():
    p, q = TeacherStudent(**GOOD), TeacherStudent(**GOOD)
    assert p == q
    assert len({p, q, p.replace(width=701)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.width = 3
    with pytest.raises(TypeError):
        p.teacher[1] = 2.0


def test_a_teacher_is_copied_and_its_order_forgotten():
    teacher = {3: -0.3, 1: 1.0}
    p = TeacherStudent(**GOOD | {"teacher": teacher})
    teacher[1] = 5.0
    assert p == TeacherStudent(**GOOD)
    assert p.hash == TeacherStudent(**GOOD).hash
    assert list(p.teacher) == [1, 3]


def test_hash_is_the_same_in_another_process_and_for_equal_numbers():
    p = TeacherStudent(**GOOD)
    code = "from grokutils.problems import TeacherStudent as T;print(T(3000.0, 150, 700, 0.15, 8/700, 0.5, {3: -0.3, 1: 1}).hash)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == p.hash
    assert len(p.hash) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 3001},
        {"dimension": 151},
        {"width": 701},
        {"noise_variance": 0.1500001},
        {"readout_variance": 0.011},
        {"weight_variance": 0.51},
        {"teacher": {1: 1.0}},
        {"teacher": {1: 1.0, 3: 0.3}},
        {"activation": "tanh"},
    ],
)
def test_hash_tells_problems_apart(change):
    p = TeacherStudent(**GOOD)
    assert p.replace(**change).hash != p.hash
    assert p.replace(**change) != p


def test_as_dict_is_json_and_rebuilds_the_problem():
    p = TeacherStudent.paper(beta=0.37)
    plain = json.loads(json.dumps(p.as_dict()))
    assert plain.pop("system") == "teacher_student"
    plain["teacher"] = {int(k): c for k, c in plain["teacher"].items()}
    assert TeacherStudent(**plain) == p


def test_an_activation_of_ones_own():
    own = hermite.Activation("cube", lambda z: z**3)
    p = TeacherStudent(**GOOD, activation=own)
    assert p.phi is own
    assert p.hash != TeacherStudent(**GOOD).hash
    assert p.as_dict()["activation"] == "cube"


@pytest.mark.parametrize("value", [np.float64(0.25), np.float32(0.25), Fraction(1, 4)])
def test_other_real_numbers_are_taken(value):
    assert TeacherStudent(**GOOD | {"noise_variance": value}) == TeacherStudent(**GOOD | {"noise_variance": 0.25})
    assert TeacherStudent(**GOOD | {"samples": np.int64(3000)}).hash == TeacherStudent(**GOOD).hash


BAD_NUMBERS = [
    -0.1,
    0,
    0.0,
    -1,
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    "0.15",
    "abc",
    None,
    [0.15],
    1j,
    np.array([1.0, 2.0]),
    np.nan,
    10**400,
]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda v: repr(v)[:12])
def test_bad_numbers_are_refused_by_name(name, value):
    with pytest.raises(ValueError) as error:
        TeacherStudent(**GOOD | {name: value})
    assert name in str(error.value)
    assert repr(value)[:12] in str(error.value)


@pytest.mark.parametrize("value", [1, 1.0, 0.999])
def test_dimension_must_exceed_one(value):
    with pytest.raises(ValueError, match="dimension") as error:
        TeacherStudent(**GOOD | {"dimension": value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("teacher", "shown"),
    [
        ({}, "{}"),
        (None, "None"),
        ("H1", "H1"),
        ([1.0, 0.0], "[1.0, 0.0]"),
        (1.0, "1.0"),
        ({-1: 1.0}, "-1"),
        ({1.5: 1.0}, "1.5"),
        ({"1": 1.0}, "'1'"),
        ({True: 1.0}, "True"),
        ({None: 1.0}, "None"),
        ({1: math.nan}, "nan"),
        ({1: math.inf}, "inf"),
        ({1: "1"}, "'1'"),
        ({1: True}, "True"),
        ({1: None}, "None"),
        ({1: 1j}, "1j"),
        ({1: 0.0, 3: 0.0}, "0.0"),
    ],
    ids=repr,
)
def test_bad_teachers_are_refused_by_name(teacher, shown):
    with pytest.raises(ValueError, match="teacher") as error:
        TeacherStudent(**GOOD | {"teacher": teacher})
    assert shown in str(error.value)


@pytest.mark.parametrize("value", ["swish", "", "ERF", None, 3, True, math.sin], ids=repr)
def test_bad_activations_are_refused_by_name(value):
    with pytest.raises(ValueError, match="activation") as error:
        TeacherStudent(**GOOD, activation=value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("argument", ["alpha", "beta"])
@pytest.mark.parametrize("value", [0, -2, math.nan, math.inf, True, "2"], ids=repr)
def test_bad_scalings_are_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=argument) as error:
        TeacherStudent(**GOOD).scaled(**{argument: value})
    assert repr(value) in str(error.value)


def test_problems_do_not_load_torch():
    code = "import sys, grokutils.problems; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- committee machines

COMMITTEE = {"dimension": 40, "samples": 200, "width": 100, "laziness": 1.0, "curvature": 0.05, "step_size": 5.0}


def test_committee_is_a_frozen_value_with_a_stable_name():
    p = Committee(**COMMITTEE)
    assert p == Committee(**COMMITTEE | {"samples": 200.0, "laziness": 1}) == p.replace() and isinstance(Committee(**COMMITTEE).samples, int)
    assert (p.centred, p.seed, p.target_scale, p.directions) == (True, 0, 0.5, 1)
    assert p.learning_rate == 500 and p.replace(laziness=2, width=10).learning_rate == 12.5
    changed = {"dimension": 41, "samples": 201, "width": 101, "laziness": 1.1, "curvature": 0.06, "step_size": 4.0, "centred": False, "seed": 1,
               "target_scale": 1.0, "directions": 2}
    names = {p.hash} | {p.replace(**{k: v}).hash for k, v in changed.items()}
    assert len(names) == len(changed) + 1
    assert Committee(**{k: v for k, v in json.loads(json.dumps(p.as_dict())).items() if k != "system"}) == p
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.width = 3


def test_committee_figures_keep_their_conventions():
    one, three, four, nine = (Committee.paper(k) for k in (1, 3, 4, 9))
    assert (one.dimension, one.samples, one.width, one.laziness, one.curvature, one.step_size) == (100, 550, 500, 1, 0.02, 1)
    assert one.learning_rate == 500 and (one.centred, four.centred, three.target_scale, four.target_scale) == (True, False, 1, 0.5)
    assert (four.width, four.samples, nine.learning_rate) == (2, 120, 50)
    assert Committee.paper(3, laziness=8, seed=2) == three.replace(laziness=8, seed=2)
    with pytest.raises(ValueError, match="figure must be one of"):
        Committee.paper(2)


@pytest.mark.parametrize("name", ["laziness", "curvature", "step_size", "target_scale", "samples", "width", "dimension", "directions"])
@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda v: repr(v)[:12])
def test_bad_committee_numbers_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name) as error:
        Committee(**COMMITTEE | {name: value})
    assert repr(value)[:12] in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimension": 1}, "dimension must be"), ({"samples": 20.5}, "samples must be a whole"), ({"width": 1.5}, "width must be a whole"),
        ({"seed": -1}, "seed must be"), ({"seed": 0.5}, "seed must be a whole"), ({"seed": True}, "seed must be"),
        ({"centred": 1}, "centred must be True or False"), ({"centred": None}, "centred must be"),
        ({"directions": 41}, "directions must be at most the dimension 40"),
    ],
)
def test_other_bad_committee_arguments_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        Committee(**COMMITTEE | change)
