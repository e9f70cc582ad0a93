"""All observables of one draw, and their assembly into labelled arrays."""

from __future__ import annotations

import numpy as np
import xarray as xr

from grokutils import observables
from grokutils.hermite import hermite
from grokutils.sampling.posterior import seed_of

_TEST_POINTS = 4000  # only for activations without a closed-form kernel


class Measure:
    """All observables of one draw as arrays (networks, ...)."""

    dims = {"learned": ("degree",), "train_learned": ("degree",), "overlap": ("neuron",), "norm2": ("neuron",), "histogram": ("bin",)}

    @staticmethod
    def coordinates(problem) -> dict:
        return {"degree": list(problem.teacher), "bin": observables.BIN_CENTRES}

    def __init__(self, problem, posterior, seed, keep_neurons):
        self.problem, self.posterior, self.keep = problem, posterior, keep_neurons
        self.degrees = list(problem.teacher)
        self._regression = [observables.hermite_regression(x, self.degrees) for x in posterior.inputs.double().cpu().numpy()]
        self._test = None
        if problem.phi.kernel is None:
            x = np.random.default_rng(seed_of(seed, 9)).standard_normal((_TEST_POINTS, problem.dimension))
            self._test = x, sum(c * hermite(k, x[:, 0]) for k, c in problem.teacher.items())

    def __call__(self, theta, energy) -> dict:
        # theta is standard normal under the prior; nothing near equilibrium is ten times longer
        if not bool((theta.square().sum(1) < 100 * theta.shape[1]).all()):
            raise RuntimeError("the chain has diverged: give a smaller step_size, or use method='hmc', which cannot")
        weights, readouts = (t.double().cpu().numpy() for t in self.posterior.weights(theta))
        overlap, norm2 = weights[..., 0], np.einsum("bij,bij->bi", weights, weights)
        outputs, targets = self.posterior.outputs(theta).double().cpu().numpy(), self.posterior.targets.double().cpu().numpy()
        chains = self.posterior.chains
        fits = np.stack([self._regression[b // chains] @ f for b, f in enumerate(outputs)])
        record = dict(
            learned=np.stack([observables.learned(self.problem, k, readouts, overlap, norm2) for k in self.degrees], axis=-1),
            train_learned=fits, second_moment=np.mean(overlap**2, axis=-1), tail_fraction=np.mean(np.abs(overlap) > 0.5, axis=-1),
            train_loss=np.mean((outputs - np.repeat(targets, chains, axis=0)) ** 2, axis=-1), test_loss=self._test_loss(theta, weights, readouts),
            energy=energy.cpu().numpy(), histogram=observables.overlap_histogram(overlap),
        )
        return record | (dict(overlap=overlap, norm2=norm2) if self.keep else {})

    def _test_loss(self, theta, weights, readouts):
        if self._test is None:
            return observables.population_loss(self.problem, weights, readouts)
        x, y = self._test
        return np.mean((self.posterior.outputs(theta, x).double().cpu().numpy() - y) ** 2, axis=-1)


def assemble(records, dims, coordinates, datasets, chains) -> xr.Dataset:
    """Stack the records of all draws into labelled arrays; histograms are summed over draws."""
    data = {}
    for name in records[0]:
        stacked = np.stack([r[name] for r in records], axis=1)  # networks, draw, ...
        stacked = stacked.reshape(datasets, chains, *stacked.shape[1:])
        if name.startswith("histogram"):
            data[name] = (("dataset", "chain", *dims[name]), stacked.sum(axis=2))
        else:
            data[name] = (("dataset", "chain", "draw", *dims.get(name, ())), stacked)
    return xr.Dataset(data, coords=coordinates)
