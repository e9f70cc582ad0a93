"""All observables of one draw of networks that learn modular addition: the residual and the powers of the Fourier modes."""

from __future__ import annotations

import math

import numpy as np
import torch

from grokutils.problems import ModularAddition

_BINS = 40  # of the histogram of mode powers, along each side


def threshold(problem: ModularAddition) -> float:
    r"""The power $\tfrac12\sqrt{3/\gamma}$, half that of a droplet at the transition, beyond which ``tail_fraction`` counts $\sqrt{\Phi\Psi}$."""
    return 0.5 * math.sqrt(3 / problem.sextic_decay)


def barrier(problem: ModularAddition, residual):
    r"""The barrier's power $w_-^2=(U-\sqrt{U^2-\gamma})/\gamma$ at $U=u\,a^2$, infinite where there is no well (Rubin et al., below eq. B.39)."""
    gamma, interaction = problem.sextic_decay, problem.interaction * np.square(residual)
    return np.where(interaction > math.sqrt(gamma), (interaction - np.sqrt(np.maximum(interaction**2 - gamma, 0))) / gamma, np.inf)


def bins(problem: ModularAddition) -> np.ndarray:
    r"""Edges of the histogram of mode powers, evenly spaced in their square roots up to three droplets at the transition, $3\sqrt{3/\gamma}$."""
    return 3 * math.sqrt(3 / problem.sextic_decay) * np.linspace(0, 1, _BINS + 1) ** 2


class ModularMeasure:
    """All observables of one draw as arrays (networks, ...)."""

    dims = {
        "histogram": ("power_w", "power_v"), "histogram_droplets": ("droplets",),
        "power": ("neuron", "mode", "layer"), "phase": ("neuron", "mode", "side"),
    }

    def __init__(self, problem, posterior, seed, keep_neurons):
        self.problem, self.posterior, self.keep, self.edges = problem, posterior, keep_neurons, bins(problem)

    @staticmethod
    def coordinates(problem) -> dict:
        edges = bins(problem)
        centres = (edges[1:] + edges[:-1]) / 2
        return {"power_w": centres, "power_v": centres, "droplets": np.arange(problem.modulus // 2 + 1)}

    def __call__(self, theta, energy) -> dict:
        if not bool((theta.square().sum(1) < 100 * theta.shape[1]).all()):
            raise RuntimeError("the chain has diverged: give a smaller step_size, or use method='hmc', which cannot")
        post, p = self.posterior, self.problem.modulus
        u, v = post.unpack(theta)
        amplitudes, overlaps, readouts = post.amplitudes(theta.double()), post.overlaps(u), post.scale_a * v.double()
        power = (amplitudes.real.square() + amplitudes.imag.square()).numpy(force=True)  # networks, N, 2, modes
        product = np.sqrt(power[:, :, 0] * power[:, :, 1])
        norm2 = p * (p - 1.0)  # of the target: sum over p, n, m
        learned = (readouts * overlaps.mT).sum((1, 2)).numpy(force=True) / norm2
        squared = torch.linalg.vecdot(readouts @ post.gram(u), readouts).sum(1).numpy(force=True) / norm2
        residual, tail = 1 - learned, product > threshold(self.problem)
        record = dict(
            residual=residual, kernel_product=np.mean(product**2, axis=(1, 2)),
            droplet_fraction=np.mean(product > barrier(self.problem, residual)[:, None, None], axis=(1, 2)),
            tail_fraction=np.mean(tail, axis=(1, 2)), train_loss=(1 - 2 * learned + squared) * norm2 / p**3, energy=energy.cpu().numpy(),
            histogram=self._histogram(power), histogram_droplets=_counts(tail.sum(-1), p // 2 + 1),
        )
        return record | (self._kept(power, amplitudes, readouts) if self.keep else {})

    def _histogram(self, power):
        """Counts (networks, bins, bins) of the pairs (Phi, Psi) of all neuron-modes; what lies beyond the last edge counts in the last bin."""
        index = np.minimum(np.searchsorted(self.edges, power, side="right") - 1, _BINS - 1)
        flat = (index[:, :, 0] * _BINS + index[:, :, 1]).reshape(len(power), -1)
        return _counts(flat, _BINS**2).reshape(-1, _BINS, _BINS)

    def _kept(self, power, amplitudes, readouts):
        """Powers (networks, N, modes, 2) and phases (networks, N, modes, 3) of w_k, v_k and of the readout's mode a_k."""
        a = torch.fft.rfft(readouts.mT)[..., 1:].conj() / self.problem.modulus  # networks, N, modes
        phases = torch.cat([amplitudes, a.unsqueeze(2)], dim=2).angle().numpy(force=True)
        return dict(power=np.moveaxis(power, 2, 3), phase=np.moveaxis(phases, 2, 3))


def _counts(index, length):
    """How often each of 0..length-1 occurs in every row."""
    return np.stack([np.bincount(row, minlength=length) for row in index])
