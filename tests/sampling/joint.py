r"""Is a transition kernel exact for the posterior? Joint-distribution tests on tiny networks, judged by betting.

A kernel is any ``(posterior, theta, generator) -> theta`` that moves every network of a ``TeacherStudentPosterior`` once. Both tests
start it at an exact draw of the joint law $p(\theta)p(x)p(y|\theta,x)$, so that under a correct kernel every later state is exact too,
without warm-up, and turn each replica into ranks that are then exactly uniform on 0..L. The model is written out here once more: scales, order of
the parameters and likelihood are tested together with the kernel.

geweke: Geweke (2004), "Getting it right", JASA 99, 799. sbc: simulation-based calibration, Talts et al. (2018), arXiv:1804.06788, in the form of
Gandy and Scott (2020), arXiv:2001.06465, that allows for the chain's autocorrelation. ``assert_uniform`` is the sequential test of both.
"""

import math

import numpy as np
import torch
from ztest import ALPHA

from grokutils import observables
from grokutils.sampling import TeacherStudentPosterior, hmc, underdamped

RANKS = 15  # L: every replica is ranked among so many others, which costs 1/L of the information


def model(problem, theta):
    """Input weights (replicas, N, d) and readouts (replicas, N) of whitened parameters."""
    n, d = problem.width, problem.dimension
    return math.sqrt(problem.weight_variance / d) * theta[:, : n * d].reshape(-1, n, d), math.sqrt(problem.readout_variance / n) * theta[:, n * d :]


def outputs(problem, theta, inputs):
    w, a = model(problem, theta.double())
    return (problem.phi.torch_function(inputs @ w.mT) @ a.unsqueeze(-1)).squeeze(-1)


def with_targets(problem, theta, inputs, generator, dtype):
    """The posterior given fresh targets of the networks ``theta`` themselves: y ~ N(f, sigma^2)."""
    noise = torch.randn(inputs.shape[:2], generator=generator, dtype=torch.float64)
    targets = outputs(problem, theta, inputs) + math.sqrt(problem.noise_variance) * noise
    return TeacherStudentPosterior(problem, inputs.numpy(), targets.numpy(), dtype=dtype)


def joint_draw(problem, replicas, generator, dtype="float64"):
    """Inputs, theta and the posterior of targets drawn from it: one exact draw of the joint law a replica."""
    inputs = torch.randn(replicas, problem.samples, problem.dimension, generator=generator, dtype=torch.float64)
    theta = torch.randn(replicas, problem.width * (problem.dimension + 1), generator=generator, dtype=torch.float64).to(getattr(torch, dtype))
    return inputs, theta, with_targets(problem, theta, inputs, generator, dtype)


def quantities(problem, theta, inputs, posterior, symmetric=False) -> dict:
    """Test functions (replicas,) of the joint state; ``symmetric``: only those that do not tell one neuron, or w and a from -w and -a."""
    w, a = (t.numpy() for t in model(problem, theta.double()))
    q, norm2 = w[..., 0], (w**2).sum(-1)
    f, y = outputs(problem, theta, inputs), posterior.targets.double()
    learned = {k: observables.learned(problem, k, a, q, norm2) for k in problem.teacher}
    values = {f"learned[{k}]": v for k, v in learned.items()} | {
        "learned^2": learned[1] ** 2, "mean q^2": (q**2).mean(1), "max q^2": (q**2).max(1), "mean |w|^2": norm2.mean(1), "sum a^2": (a**2).sum(1),
        "sum a q": (a * q).sum(1), "f": f[:, 0].numpy(), "f y": (f * y).sum(1).numpy(), "likelihood": ((y - f) ** 2).sum(1).numpy(),
    }
    if symmetric:
        return values
    q, a = q[:, 0], a[:, 0]
    return values | {"q": q, "a": a, "w'": w[:, -1, -1], "q^2": q**2, "a^2": a**2, "a q": a * q}


def rank(own, others, generator):
    """Rank of own (replicas,) among others (replicas, L), by chance among equals, as a refused proposal makes them."""
    less, equal = (others < own[:, None]).sum(1), (others == own[:, None]).sum(1)
    return less + (torch.rand(len(own), generator=generator, dtype=torch.float64).numpy() * (equal + 1)).astype(int)


def geweke(problem, kernel, replicas, seed, alternations=10, dtype="float64") -> dict:
    r"""Ranks (replicas,) of every quantity of the successive-conditional simulator among L marginal-conditional draws.

    A replica starts at an exact joint draw; then $\theta\to K(\theta|y)$ and $y\sim N(f_\theta,\sigma^2)$ by turns, and what is ranked is the
    state after the last move of theta, before y forgets. A wrong kernel drifts away turn by turn: power grows with ``alternations``.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, theta, posterior = joint_draw(problem, replicas, generator, dtype)
    for turn in range(alternations):
        if turn:
            posterior = with_targets(problem, theta, inputs, generator, dtype)
        theta = kernel(posterior, theta, generator)
    reached = quantities(problem, theta, inputs, posterior)
    others_inputs, others, others_posterior = joint_draw(problem, replicas * RANKS, generator)
    reference = quantities(problem, others, others_inputs, others_posterior)
    return {name: rank(own, reference[name].reshape(replicas, RANKS), generator) for name, own in reached.items()}


def sbc(problem, kernel, replicas, seed, thin=2, dtype="float64") -> dict:
    r"""Ranks (replicas,) of the network that made the data among L posterior draws by a reversible kernel.

    The truth is itself an exact posterior draw. It is given a random place among L+1 states of one stationary chain, and the kernel makes the others
    in both directions from it; by reversibility they have the law of a chain begun at its end, so that the rank is uniform however slowly it moves.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, truth, posterior = joint_draw(problem, replicas, generator, dtype)
    own, drawn, theta = quantities(problem, truth, inputs, posterior, symmetric=True), [], truth
    place = torch.randint(0, RANKS + 1, (replicas,), generator=generator)
    for move in range(RANKS):
        theta = torch.where((place == move).unsqueeze(1), truth, theta)  # from here on in the other direction
        for _ in range(thin):
            theta = kernel(posterior, theta, generator)
        drawn.append(quantities(problem, theta, inputs, posterior, symmetric=True))
    return {name: rank(value, np.stack([d[name] for d in drawn], axis=1), generator) for name, value in own.items()}


class Bet:
    r"""Sequential test that ranks are uniform on 0..L: false alarms at most ``alpha`` in all, however often one looks.

    A gambler stakes a share $\lambda$ of the wealth on a shift ($\varphi_1\propto u$) or a spread ($\varphi_2\propto u^2-\langle u^2\rangle$) of
    the ranks, $u=2r/L-1$:
    $$M_t=\frac1K\sum_{k=1}^K\prod_{s\le t}\bigl(1+\lambda_k\varphi_k(u_s)\bigr),\qquad P\bigl(\sup_tM_t\ge1/\alpha\bigr)\le\alpha .$$
    Under uniformity every factor has mean one given the past, so each product, and their mean over all quantities, directions and stakes, is a
    non-negative martingale, for which the bound is Ville's inequality; quantities of one replica may depend on each other. A shift $E\varphi=\delta$
    is found after about $2\,{\rm var}(\varphi)\ln(K/\alpha)/\delta^2$ replicas.
    """

    STAKES = np.outer([1, -1], 0.9 * 2.0 ** -np.arange(7)).ravel()

    def __init__(self, ranks=RANKS, alpha=ALPHA):
        u = np.linspace(-1, 1, ranks + 1)
        spread = u**2 - np.mean(u**2)
        self.table = np.log1p(self.STAKES[:, None, None] * np.stack([u, spread / np.abs(spread).max()]))  # stake, direction, rank
        self.alpha, self.log_wealth = alpha, {}

    def update(self, ranks: dict) -> float:
        """Take the ranks (replicas,) of a new batch and return ln M."""
        for name, r in ranks.items():
            counts = np.bincount(r, minlength=self.table.shape[-1])
            self.log_wealth[name] = self.log_wealth.get(name, 0.0) + self.table @ counts
        every = np.stack(list(self.log_wealth.values()))
        return float(np.logaddexp.reduce(every, axis=None) - math.log(every.size))

    @property
    def threshold(self) -> float:
        return -math.log(self.alpha)


def assert_uniform(test, problem, kernel, batches=6, replicas=2000, seed=0, **settings) -> None:
    """Run ``geweke`` or ``sbc`` batch by batch; AssertionError as soon as the evidence against the kernel crosses 1/ALPHA, silence at the end."""
    bet = Bet()
    for batch in range(batches):
        evidence = bet.update(test(problem, kernel, replicas, seed + batch, **settings))
        worst = sorted(bet.log_wealth, key=lambda name: -bet.log_wealth[name].max())[:3]
        assert evidence < bet.threshold, f"not the posterior: ln evidence {evidence:.1f} after {(batch + 1) * replicas} replicas, most in {worst}"


def hmc_kernel(step_size=0.3, steps=5, metropolis=True, wrap=lambda posterior: posterior):
    """A trajectory of exact HMC; without ``metropolis`` always accepted. ``wrap`` replaces the posterior, for mutants."""

    def kernel(posterior, theta, generator):
        post = wrap(posterior)
        state = hmc.init(theta, post.likelihood, None)
        accept_all = torch.zeros(len(theta), dtype=torch.float64)
        uniform = (lambda: torch.rand(len(theta), generator=generator, dtype=torch.float64)) if metropolis else (lambda: accept_all)
        return hmc.step(state, post.likelihood, normal_like(theta, generator), uniform, step_size, steps).theta

    return kernel


def underdamped_kernel(step_size=0.1, steps=12, friction=0.5, noise_scale=1.0, temperature=1.0):
    """Steps of BAOAB from a fresh momentum."""

    def kernel(posterior, theta, generator):
        def energy_gradient(t):
            energy, gradient = posterior.energy_gradient(t)
            return energy / temperature, gradient / temperature

        normal = normal_like(theta, generator)
        state = underdamped.init(theta, energy_gradient, normal)
        for _ in range(steps):
            state = underdamped.step(state, energy_gradient, lambda: noise_scale * normal(), step_size, friction)
        return state.theta

    return kernel


def normal_like(theta, generator):
    return lambda: torch.randn(theta.shape, generator=generator, dtype=theta.dtype)


def of_problem(kernel, **changes):
    """The kernel for another problem's posterior, applied to the same weights: a mutant."""

    def mutant(posterior, theta, generator):
        true = posterior.problem
        wrong = true.replace(**changes)
        ratio = torch.ones(theta.shape[1], dtype=theta.dtype)
        ratio[: true.width * true.dimension] = math.sqrt(true.weight_variance / wrong.weight_variance)
        ratio[true.width * true.dimension :] = math.sqrt(true.readout_variance / wrong.readout_variance)
        other = TeacherStudentPosterior(wrong, posterior.inputs, posterior.targets, dtype=str(theta.dtype).removeprefix("torch."))
        return kernel(other, theta * ratio, generator) / ratio

    return mutant


def readout_kernel(factor=1.0):
    """The exact Gibbs draw of all readouts given the input weights, an HMC trajectory, and the draw again; ``factor`` on its mean makes a mutant."""
    move = hmc_kernel()

    def gibbs(posterior, theta, generator):
        mean, _ = posterior.readout_moments(theta)
        theta = posterior.readout_draw(theta, torch.randint(2**62, (len(theta),), generator=generator).tolist())
        posterior.unpack(theta)[1].add_(((factor - 1) * mean).to(theta.dtype))
        return theta

    # a palindrome of reversible moves is reversible, as sbc asks; the Gibbs draw comes last so that its errors are fresh
    return lambda posterior, theta, generator: gibbs(posterior, move(posterior, gibbs(posterior, theta, generator), generator), generator)


def partial_refreshment_kernel(step_size=0.5, keep=0.95, legs=10, flip=True):
    """One-step trajectories between which the momentum is renewed only in part; a refusal must turn it round (Horowitz 1991)."""

    def kernel(posterior, theta, generator):
        normal = normal_like(theta, generator)
        momentum = normal()
        for leg in range(legs):
            if leg:
                momentum = keep * momentum + math.sqrt(1 - keep**2) * normal()
            before, gradient = posterior.likelihood(theta)
            end, p, _, after = hmc.trajectory(theta, momentum, gradient, posterior.likelihood, step_size, 1)
            kinetic = 0.5 * (theta**2 + momentum**2 - end**2 - p**2).sum(1)
            take = torch.rand(len(theta), generator=generator, dtype=torch.float64) < torch.exp(before - after + kinetic)
            theta = torch.where(take.unsqueeze(1), end, theta)
            momentum = torch.where(take.unsqueeze(1), p, -momentum if flip else momentum)
        return theta

    return kernel
