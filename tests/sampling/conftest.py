"""Small problems; makes the z-tests importable as ``ztest``."""

import sys
from pathlib import Path

import pytest

from grokutils.problems import TeacherStudent

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def tiny():
    return TeacherStudent(samples=12, dimension=3, width=4, noise_variance=0.3, readout_variance=2.0, weight_variance=0.8, teacher={1: 1.0, 3: -0.3})


@pytest.fixture
def small():
    return TeacherStudent.paper(0.2, beta=1 / 16).rounded()
