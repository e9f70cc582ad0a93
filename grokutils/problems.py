"""The systems of the papers as frozen, hashable values: parameters, dimensionless groups, scaling."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import ClassVar, Self

from grokutils.hermite import Activation, activation

_LARGEST_DEGREE = 60  # k! c_k^2 must stay far from overflow


def is_finite(value) -> bool:
    """Whether a value is a real number, not a bool, and far from overflow."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return abs(float(value)) < 1e150
    except OverflowError:
        return False


def positive(name: str, value, minimum: float = 0.0, whole: bool = False) -> float:
    """Return ``value`` if it is a finite real above ``minimum`` (an int where it is whole), else raise ValueError naming it."""
    if not is_finite(value) or value <= minimum:
        raise ValueError(f"{name} must be a finite number greater than {minimum:g}, got {value!r}")
    if whole and float(value) != int(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(value) if float(value).is_integer() else float(value)


class Coefficients(Mapping):
    """An immutable, hashable map from Hermite degree to coefficient."""

    def __init__(self, items):
        self._items = dict(sorted(items))

    def __getitem__(self, degree):
        return self._items[degree]

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)

    def __hash__(self):
        return hash(tuple(self._items.items()))

    def __eq__(self, other):
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    def __repr__(self):
        return repr(self._items)


def teacher_coefficients(teacher) -> Coefficients:
    """Check a teacher sum_k c_k H_k given as {k: c_k} and return it immutable; raise ValueError naming what is wrong."""
    if not isinstance(teacher, Mapping) or not teacher:
        raise ValueError(f"teacher must be a non-empty mapping from Hermite degree to coefficient, got {teacher!r}")
    for k, c in teacher.items():
        if isinstance(k, bool) or not isinstance(k, Integral) or not 0 <= k <= _LARGEST_DEGREE:
            raise ValueError(f"teacher has degree {k!r}; degrees must be whole numbers from 0 to {_LARGEST_DEGREE}")
        if not is_finite(c):
            raise ValueError(f"teacher has coefficient {c!r} at degree {k}; coefficients must be finite numbers")
    if not any(teacher.values()):
        raise ValueError(f"teacher must have a non-zero coefficient, got {dict(teacher)!r}")
    return Coefficients((int(k), float(c)) for k, c in teacher.items())


class Problem:
    """What all systems share: changed copies and a name that is stable over machines."""

    system: ClassVar[str]

    def replace(self, **changes) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict:
        """All parameters as plain JSON values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"system": self.system}

    @property
    def hash(self) -> str:
        """A stable 16-digit name of the problem: equal parameters, equal hash, on every machine."""
        plain = {k: float(v) if isinstance(v, Real) else v for k, v in self.as_dict().items()}
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TeacherStudent(Problem):
    r"""A two-layer student of a single-index Hermite teacher (Rubin et al., eqs. 1-2).

    $$y(x)=\sum_k c_k H_k(w_*\cdot x),\quad f(x)=\sum_{i=1}^N a_i\,\phi(w_i\cdot x),\quad
      a_i\sim N(0,\sigma_a^2/N),\ w_{ij}\sim N(0,\sigma_w^2/d),\quad x\sim N(0,I_d)$$

    Args:
        samples: n, training points. Sizes may be real in the theory; the samplers insist on whole numbers.
        dimension: d > 1, input dimension.
        width: N, hidden units.
        noise_variance: sigma^2, likelihood variance = ridge = Langevin temperature on the summed half squared loss.
        readout_variance: sigma_a^2, N times the prior variance of one readout weight.
        weight_variance: sigma_w^2, d times the prior variance of one input weight.
        teacher: {Hermite degree: coefficient}, probabilists' Hermite polynomials.
        activation: a name in ``grokutils.hermite.ACTIVATIONS`` or an ``Activation``.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """

    samples: float
    dimension: float
    width: float
    noise_variance: float
    readout_variance: float
    weight_variance: float
    teacher: Mapping
    activation: str | Activation = "erf"
    system: ClassVar[str] = "teacher_student"

    def __post_init__(self):
        for name in ("samples", "width", "noise_variance", "readout_variance", "weight_variance"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        object.__setattr__(self, "dimension", positive("dimension", self.dimension, minimum=1))
        object.__setattr__(self, "teacher", teacher_coefficients(self.teacher))
        activation(self.activation)

    @classmethod
    def paper(cls, noise_variance: float = 0.15, beta: float = 1.0, epsilon: float = -0.3) -> TeacherStudent:
        """The parameters of Rubin et al., Fig. 2, scaled by alpha = beta; readout_variance = 8/700 at beta = 1."""
        beta = positive("beta", beta)
        base = cls(3000, 150, 700, noise_variance, 8 / 700, 0.5, {1: 1.0, 3: epsilon})
        return base.scaled(alpha=beta, beta=beta)

    @classmethod
    def appendix_d(cls, width: float = 700, noise_variance: float = 0.05) -> TeacherStudent:
        """The finite-data parameters of Rubin et al., appendix D (epsilon = -1.2, n = 600)."""
        return cls(600, 150, width, noise_variance, 0.011, 0.5, {1: 1.0, 3: -1.2})

    def scaled(self, alpha: float = 1.0, beta: float = 1.0) -> TeacherStudent:
        r"""Return the problem on the path of the scaling limit (eq. 11), which leaves u unchanged.

        $$N\to\beta N,\quad d\to\sqrt\beta\,d,\quad \sigma_a^2\to\sigma_a^2/\sqrt\beta,\quad n\to\alpha n,\quad \sigma^2\to(\alpha/\beta)\sigma^2$$
        """
        alpha, beta = positive("alpha", alpha), positive("beta", beta)
        return self.replace(
            samples=alpha * self.samples, dimension=math.sqrt(beta) * self.dimension, width=beta * self.width,
            noise_variance=alpha / beta * self.noise_variance, readout_variance=self.readout_variance / math.sqrt(beta),
        )

    def rounded(self) -> TeacherStudent:
        """Return the problem with whole sizes (the nearest, at least 1; dimension at least 2)."""
        return self.replace(samples=max(1, round(self.samples)), dimension=max(2, round(self.dimension)), width=max(1, round(self.width)))

    @property
    def interaction(self) -> float:
        r"""Effective interaction $u=n^2\sigma_a^2/(\sigma^4 d N)$."""
        return self.samples**2 * self.readout_variance / (self.noise_variance**2 * self.dimension * self.width)

    @property
    def kappa(self) -> float:
        r"""Second dimensionless group $\kappa=n\sigma_a^2/\sigma^2$."""
        return self.samples * self.readout_variance / self.noise_variance

    @property
    def teacher_norm2(self) -> float:
        r"""$E[y^2]=\sum_k k!\,c_k^2$."""
        return sum(math.factorial(k) * c * c for k, c in self.teacher.items())

    @cached_property
    def phi(self) -> Activation:
        """The activation as an ``Activation``."""
        return activation(self.activation)

    def as_dict(self) -> dict:
        """All parameters as plain JSON values."""
        return super().as_dict() | {"teacher": {str(k): c for k, c in self.teacher.items()}, "activation": self.phi.name}


def _is_prime(p: int) -> bool:
    return p > 1 and all(p % k for k in range(2, math.isqrt(p) + 1))


def _nearest_odd_prime(x: float) -> int:
    whole = max(3, round(x))
    for k in range(whole):  # ends before 2 whole, by Bertrand's postulate
        found = [p for p in (whole - k, whole + k) if p > 2 and _is_prime(p)]
        if found:
            break
    return min(found, key=lambda p: abs(p - x))


@dataclass(frozen=True)
class ModularAddition(Problem):
    r"""A two-layer quadratic network that learns addition modulo P from the whole table (Rubin et al., eqs. 3-5).

    $$x_{nm}=e_n\oplus e_m\in R^{2P},\quad y^p_{nm}=\delta_{p,(n+m)\bmod P}-\tfrac1P,\quad f_p(x)=\sum_{i=1}^N a_{pi}\,(w_i\cdot x)^2$$
    $$a_{pi}\sim N(0,\sigma_a^2/N),\qquad w_i\sim N(0,I_{2P})\ \text{times}\ e^{-\Gamma[w]},\qquad
      \Gamma[w]=\frac{P\gamma}{6}\sum_{k=0}^{P-1}\big(|w_k|^6+|v_k|^6\big),\quad w_k=\frac1P\sum_n w_n e^{2\pi ikn/P}$$

    Here (w_n) and (v_m) are the two halves of a neuron's weights, for the first and the second summand.

    Args:
        modulus: P, an odd prime.
        width: N, hidden units. May be real in the theory; the samplers insist on a whole number.
        noise_variance: sigma^2, likelihood variance on every output of every pair.
        readout_variance: sigma_a^2, N times the prior variance of one readout weight.
        sextic_decay: gamma > 0 of the sixth-order weight decay, without which the one-neuron law cannot be normalised.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """

    modulus: int
    width: float
    noise_variance: float
    readout_variance: float
    sextic_decay: float
    system: ClassVar[str] = "modular_addition"

    def __post_init__(self):
        for name in ("width", "noise_variance", "readout_variance", "sextic_decay"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        p = positive("modulus", self.modulus, minimum=2, whole=True)
        if not _is_prime(p):
            raise ValueError(f"modulus must be an odd prime, got {self.modulus!r}")
        object.__setattr__(self, "modulus", p)

    @classmethod
    def paper(cls, noise_variance: float = 0.2) -> ModularAddition:
        """The parameters of Rubin et al., Fig. 3."""
        return cls(modulus=401, width=1000, noise_variance=noise_variance, readout_variance=2e-6, sextic_decay=1e-4)

    def scaled(self, beta: float) -> ModularAddition:
        r"""Return the problem on the path of the scaling limit (eq. 14), which leaves u unchanged.

        $$N\to\beta^2N,\quad P\to\sqrt\beta\,P,\quad \sigma_a^2\to\sigma_a^2/\beta,\quad \sigma^2\to\sigma^2/\beta$$

        P is taken to the odd prime nearest $\sqrt\beta\,P$, and beta to the square of the ratio, so that the result lies on the path.
        """
        aim = math.sqrt(positive("beta", beta)) * self.modulus
        if aim > 1e9:
            raise ValueError(f"beta must leave the modulus below 1e9, got {beta!r}")
        prime = _nearest_odd_prime(aim)
        beta = (prime / self.modulus) ** 2
        return self.replace(
            modulus=prime, width=beta**2 * self.width, noise_variance=self.noise_variance / beta, readout_variance=self.readout_variance / beta
        )

    def rounded(self) -> ModularAddition:
        """Return the problem with a whole width (the nearest, at least 1)."""
        return self.replace(width=max(1, round(self.width)))

    @property
    def interaction(self) -> float:
        r"""Effective interaction $u=2\sigma_a^2P^2/(N\sigma^4)$."""
        return 2 * self.readout_variance * self.modulus**2 / (self.width * self.noise_variance**2)


@dataclass(frozen=True)
class ToyAddition(Problem):
    r"""Addition of p symbols, each known to the network only through a trainable embedding (Liu et al., section 3).

    $$(i,j)\ \mapsto\ \mathrm{Dec}(E_i+E_j)\approx Y_{i+j},\qquad 0\le i\le j\le p-1$$

    The sum is not taken modulo p. The whole table D_0 consists of the unordered pairs (i, j), i = j included.

    Args:
        symbols: p, how many symbols, at least 3 (with two there is no relation between pairs). The paper's is 10.

    Raises:
        ValueError: the argument is not what it must be.
    """

    symbols: int = 10
    system: ClassVar[str] = "toy_addition"

    def __post_init__(self):
        object.__setattr__(self, "symbols", positive("symbols", self.symbols, minimum=2, whole=True))

    @property
    def table_size(self) -> int:
        r"""$|D_0|=p(p+1)/2$, the number of pairs."""
        return self.symbols * (self.symbols + 1) // 2

    @property
    def sums(self) -> int:
        r"""$2p-1$, the number of different sums, which are the classes."""
        return 2 * self.symbols - 1


@dataclass(frozen=True)
class PermutationGroup(Problem):
    r"""Multiplication of permutations, each known to the network only through a trainable matrix (Liu et al., appendix H).

    $$(a,b)\ \mapsto\ \mathrm{Dec}(E_aE_b)\approx Y_{ab},\qquad E_a\in R^{d\times d}$$

    The whole table D_0 consists of all ordered pairs of the d! permutations, in lexicographic order; a b means a first.

    Args:
        degree: d, how many things are permuted, from 2 to 5. The paper's is 3.

    Raises:
        ValueError: the argument is not what it must be.
    """

    degree: int = 3
    system: ClassVar[str] = "permutation_group"

    def __post_init__(self):
        object.__setattr__(self, "degree", positive("degree", self.degree, minimum=1, whole=True))
        if self.degree > 5:
            raise ValueError(f"degree must be at most 5, got {self.degree}")

    @property
    def symbols(self) -> int:
        """d!, the number of permutations."""
        return math.factorial(self.degree)

    @property
    def table_size(self) -> int:
        r"""$|D_0|=(d!)^2$, the number of ordered pairs."""
        return self.symbols**2


@dataclass(frozen=True)
class Committee(Problem):
    r"""A committee machine that learns the square of a feature by plain gradient descent, without weight decay (Kumar et al.).

    $$y(x)=s\sum_{k=1}^{R}(\beta_k\cdot x)^2,\qquad f(x)=\frac\alpha N\sum_{i=1}^N\phi(w_i\cdot x),\qquad
      \phi(h)=h+\frac\epsilon2h^2,\qquad x\sim N(0,I/D)$$

    All vectors beta_k and all initial w_i are N(0, I_D). Only the w_i are trained, by full-batch gradient descent on the mean
    squared error over P inputs, without a half. One step is one use of all data, with the learning rate $\eta=\eta_0N/\alpha^2$, for
    which the output starts to move at a speed that does not depend on alpha or N. A centred network is trained, and tested, with its
    initial output subtracted.

    Args:
        dimension: D > 1, input dimension.
        samples: P, training points.
        width: N, neurons.
        laziness: alpha > 0, the scale of the output: large alpha means that small changes of the weights suffice.
        curvature: epsilon > 0, the weight of the quadratic part of the activation.
        step_size: eta_0 > 0, see above. It is the unit of time: the curves for small eta_0 depend on steps times eta_0.
        centred: whether the initial output is subtracted.
        seed: a whole number from 0 on; inputs, target and weights are drawn from it by separate streams.
        target_scale: s. The paper has 1/2 in most figures, and 1 in its sweeps over alpha and epsilon.
        directions: R, how many features the target is made of, at most D.

    Raises:
        ValueError: an argument is not what it must be; the message names it.
    """

    dimension: int
    samples: int
    width: int
    laziness: float
    curvature: float
    step_size: float
    centred: bool = True
    seed: int = 0
    target_scale: float = 0.5
    directions: int = 1
    system: ClassVar[str] = "committee"

    def __post_init__(self):
        for name in ("laziness", "curvature", "step_size", "target_scale"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        for name, minimum in (("dimension", 1), ("samples", 0), ("width", 0), ("directions", 0), ("seed", -1)):
            object.__setattr__(self, name, positive(name, getattr(self, name), minimum, whole=True))
        if not isinstance(self.centred, bool):
            raise ValueError(f"centred must be True or False, got {self.centred!r}")
        if self.directions > self.dimension:
            raise ValueError(f"directions must be at most the dimension {self.dimension}, got {self.directions!r}")

    @classmethod
    def paper(cls, figure: int = 1, **changes) -> Committee:
        """The parameters of Kumar et al., Fig. 1 (b, c), 3 (a; laziness 1), 4 or 9 (the middle size), with some changed.

        The figures do not share one convention: the third has target_scale 1, the fourth is not centred.
        """
        if figure not in _COMMITTEE_FIGURES:
            raise ValueError(f"figure must be one of {sorted(_COMMITTEE_FIGURES)}, got {figure!r}")
        return cls(**_COMMITTEE_FIGURES[figure] | changes)

    @property
    def learning_rate(self) -> float:
        r"""$\eta=\eta_0N/\alpha^2$, what an implementation with the weights w_i must use."""
        return self.step_size * self.width / self.laziness**2


_COMMITTEE_FIGURES = {
    1: dict(dimension=100, samples=550, width=500, laziness=1, curvature=0.02, step_size=1),
    3: dict(dimension=100, samples=450, width=500, laziness=1, curvature=0.25, step_size=0.5, target_scale=1),
    4: dict(dimension=40, samples=120, width=2, laziness=1, curvature=0.25, step_size=0.5, centred=False),
    9: dict(dimension=40, samples=120, width=100, laziness=1, curvature=0.5, step_size=0.5),
}
