r"""Langevin sampling of committee machines: all N weight vectors, from the definition of the posterior."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr

from grokutils.problems import Committee

SHARE = 0.6  # of one over the largest frequency: the step; the method is stable up to 2


def sample_committee(
    problem: Committee, noise_variance, inputs, labels, direction, draws: int = 200, warmup: int = 1000, thin: int = 10, *,
    step_size: float | None = None, friction: float = 0.5, seed: int = 0, start=None, neurons: bool = False,
) -> xr.Dataset:
    r"""Sample $p(W)\propto\exp[-\frac12\sum_i|w_i|^2-\frac1{2\sigma^2}\sum_\mu(y_\mu-f(x_\mu))^2]$ by underdamped Langevin dynamics (BAOAB).

    The force on a neuron is $-w_i+\frac\alpha N\sum_\mu t_\mu(1+\epsilon w_i\cdot x_\mu)x_\mu$ with $t_\mu=(y_\mu-f(x_\mu))/\sigma^2$; a centred
    network has its prior mean $\frac{\alpha\epsilon}2|x|^2$ subtracted from f. One network for each of B data sets, all at once.

    Args:
        noise_variance: sigma^2, a number or one for each data set.
        inputs, labels: (B, P, D) and (B, P).
        direction: (B, D), any length: along which overlaps are taken.
        draws, warmup, thin: recorded draws, steps before, steps between.
        step_size: h; None: adapted during the first two thirds of the warm-up to the curvature met, $\frac{\alpha^2}{N\sigma^2}\lambda_{\max}(K)$
            of the tangent kernel.
        start: weights (B, N, D); None: from the prior.
        neurons: return the overlaps of all neurons, ``overlap`` (seed, draw, neuron).

    Returns:
        Dataset over (seed, draw): spike (mean squared overlap with the direction), kurtosis (excess, of the overlaps of the N neurons),
        weight_norm, train_loss; averages over the draws: mean (seed, i) of $\bar w$ and moment (seed, i, j) of M.
    """
    x, y = torch.as_tensor(np.asarray(inputs, float)), torch.as_tensor(np.asarray(labels, float))
    unit = torch.as_tensor(np.asarray(direction, float))
    unit = unit / unit.norm(dim=1, keepdim=True)
    b, n, d = len(x), problem.width, problem.dimension
    alpha, eps, xt = problem.laziness, problem.curvature, x.mT.contiguous()
    noise = torch.as_tensor(np.broadcast_to(np.asarray(noise_variance, float), b).copy())[:, None]
    offset = alpha * eps / 2 * x.square().sum(-1) if problem.centred else torch.zeros_like(y)
    generator = torch.Generator().manual_seed(seed)

    def normal():
        return torch.randn(b, n, d, generator=generator, dtype=torch.float64)

    def force(w):
        mean, moment = w.mean(1), w.mT @ w / n
        f = alpha * (x @ mean[..., None])[..., 0] + alpha * eps / 2 * ((x @ moment) * x).sum(-1) - offset
        t = (y - f) / noise
        push, form = xt @ t[..., None], xt @ (x * t[..., None])
        return torch.baddbmm(push.mT, w, form, beta=alpha / n, alpha=alpha * eps / n).sub_(w), mean, moment, t

    def largest_step(mean, moment):
        h = (x @ mean[..., None])[..., 0]
        kernel = (x @ xt) * (1 + eps * (h[:, :, None] + h[:, None]) + eps**2 * x @ moment @ xt)
        frequency = 1 + alpha**2 / n * torch.linalg.eigvalsh(kernel)[:, -1] / noise[:, 0]
        return SHARE / math.sqrt(float(frequency.max()))

    w, v = normal() if start is None else torch.as_tensor(np.array(start, float)), normal()
    adapt = set() if step_size is not None else set(np.linspace(0, warmup * 2 // 3, 16).astype(int).tolist())
    pull, mean, moment, t = force(w)
    rows, overlaps, means, moments, total = [], [], 0, 0, warmup + draws * thin
    for k in range(total):
        if k in adapt:
            found = largest_step(mean, moment)
            step_size = found if step_size is None else min(found, 1.3 * step_size)
        if k == 0 or k in adapt:
            h, keep = step_size, math.exp(-friction * step_size)
        v.add_(pull, alpha=h / 2)
        w.add_(v, alpha=h / 2)
        v.mul_(keep).add_(normal(), alpha=math.sqrt(1 - keep**2))
        w.add_(v, alpha=h / 2)
        pull, mean, moment, t = force(w)
        v.add_(pull, alpha=h / 2)
        if k >= warmup and (k - warmup + 1) % thin == 0:
            q = (w @ unit[..., None])[..., 0]
            z = q - q.mean(1, keepdim=True)
            rows.append(torch.stack([
                q.square().mean(1), z.pow(4).mean(1) / z.square().mean(1) ** 2 - 3,
                (n * moment.diagonal(dim1=1, dim2=2).sum(1)).sqrt(), (t * noise).square().mean(1),
            ], 1).numpy())
            means, moments = means + mean.numpy() / draws, moments + moment.numpy() / draws
            if neurons:
                overlaps.append(q.numpy().copy())
    columns = np.array(rows).transpose(2, 1, 0)
    data = {name: (("seed", "draw"), values) for name, values in zip(("spike", "kurtosis", "weight_norm", "train_loss"), columns)}
    data |= {"mean": (("seed", "i"), means), "moment": (("seed", "i", "j"), moments)}
    if neurons:
        data["overlap"] = (("seed", "draw", "neuron"), np.array(overlaps).transpose(1, 0, 2))
    return xr.Dataset(data, attrs=dict(problem=str(problem), step_size=float(h), friction=friction))
