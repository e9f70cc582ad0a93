r"""A quadratic network that learns a part of the addition table, with noise and weight decay: where gradient descent and the posterior meet.

The network is that of Kumar et al. (Fig. 2): $f=\frac\alpha{DN}V(Wx)^{\odot2}$ on two one-hot vectors, D = 2P, all weights N(0, 1) at the
start. With all weights multiplied by $s=(\alpha/DN)^{1/3}$ the prefactor is gone, $f_p=\sum_ia_{pi}(w_{in}+v_{im})^2$. Training is

$$\theta\leftarrow\theta-\eta\,(\nabla L+\lambda\theta)+\sqrt{2\eta T}\,\xi,\qquad L=\frac1{2n}\sum_{\text{train}}\sum_p(f_p-y^p)^2,$$

and its equilibrium at small steps the posterior with the noise $\sigma^2=nT$ and the prior $\theta\sim N(0,T/\lambda)$. Here the prior variance is
$\rho s^2$; $\rho=1$ makes the initial law the prior. All weights are kept in units of $\sqrt\rho\,s$.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from scipy import stats

from grokutils._threads import one_thread
from grokutils.descent import GradientDescent, quadratic
from grokutils.experiments._run import Run
from grokutils.modular import AdditionTask
from grokutils.problems import ModularAddition
from grokutils.sampling import ModularAdditionPosterior, largest_eigenvalue, underdamped
from grokutils.sampling._drivers import _Noise
from grokutils.sampling.modular import table
from grokutils.sampling.posterior import seed_of

TASK = AdditionTask(13, 100, 0.9)
LEARNING_RATE = 100.0  # of the published network, in its own units
NOISES = (0.001, 0.002, 0.004, 0.006, 0.007, 0.008, 0.009, 0.01, 0.013)
CELL_NOISE = 0.002  # of the table noise x decay
NO_SEXTIC = 1e-12
SEEDS = 10
BETWEEN = (0.55, 0.85)  # neither one nor the other
CONCENTRATED = 0.7  # of a neuron's Fourier power in one frequency: in the empty range between the populations
STARTS = ("prior", "grokked")
LEVELS = (0.0, 0.1, 1.0)
PRIORS, SHORT = (0.5, 2.0), (0.002, 0.006, 0.008, 0.01)  # the latter times rho^(3/2)
WIDTHS = (25, 50, 200)


def scale(task: AdditionTask, laziness: float = 1.0) -> float:
    r"""$s=(\alpha/2PN)^{1/3}$, the standard deviation of the published initial weights once the prefactor is absorbed."""
    return (laziness / (2 * task.modulus * task.width)) ** (1 / 3)


def rate(task: AdditionTask, learning_rate: float = LEARNING_RATE, laziness: float = 1.0) -> float:
    r"""The published learning rate for this chapter's weights and loss: $2s^2/P$ of it."""
    return learning_rate * scale(task, laziness) ** 2 * 2 / task.modulus


def equivalent(
    task: AdditionTask, noise_variance: float, prior: float = 1.0, sextic_decay: float = NO_SEXTIC, laziness: float = 1.0,
) -> ModularAddition:
    r"""The problem of Part I with the same posterior on the whole table: $\sigma_a^2=N(\sqrt\rho s)^6$ with $w,v\sim N(0,1)$."""
    strength = task.width * (prior * scale(task, laziness) ** 2) ** 3
    return ModularAddition(task.modulus, task.width, noise_variance, strength, sextic_decay)


class PartialTable(ModularAdditionPosterior):
    """The posterior of Part I given a part of the table only, each network its own part.

    Args:
        problem: its noise and variances.
        masks: which pairs are data (networks, P, P).
    """

    def __init__(self, problem: ModularAddition, masks, dtype: str = "float32"):
        super().__init__(problem, len(masks), 1, "cpu", dtype)
        self.seen = torch.as_tensor(np.reshape(masks, (len(masks), 1, -1)), dtype=self.dtype)
        self.table = self.targets.flatten(2)

    def _forward(self, theta):
        u, v = self.unpack(theta)
        pre = u[:, :, 0, :, None] + u[:, :, 1, None, :]
        return u, self.scale_a * v, pre, pre.square().flatten(2)

    def likelihood(self, theta):
        """E without its Gaussians (networks,) float64 and the gradient (networks, size)."""
        gradient, s2 = torch.empty_like(theta), self.problem.noise_variance
        grad_u, grad_v = self.unpack(gradient)
        u, a, pre, phi = self._forward(theta)
        energy, grad_u[:] = self.decay(u) if self.problem.sextic_decay > NO_SEXTIC else (0.0, 0.0)
        residual = torch.baddbmm(self.table.expand(len(theta), -1, -1), a, phi, alpha=-1).mul_(self.seen)
        energy = energy + residual.square().sum((1, 2), dtype=torch.float64) / (2 * s2)
        torch.bmm(residual, phi.mT, out=grad_v)
        grad_v *= -self.scale_a / s2
        pull = torch.bmm(a.mT, residual, out=phi).view(pre.shape).mul_(pre)
        grad_u[:, :, 0].sub_(pull.sum(3), alpha=2 / s2)
        grad_u[:, :, 1].sub_(pull.sum(2), alpha=2 / s2)
        return energy, gradient

    def observe(self, theta) -> dict[str, np.ndarray]:
        """Losses (squared error summed over outputs), accuracies and residual of each network; power share and power of its neurons."""
        _, a, _, phi = self._forward(theta)
        f, seen = a @ phi, self.seen[:, 0]
        right = (f.argmax(1) == table(self.problem.modulus)[0].argmax(0).flatten()).to(f.dtype)
        loss = (f - self.table).square().sum(1)
        parts = {"train": seen, "test": 1 - seen}
        out = {f"{k}_{what}": (x * m).sum(1) / m.sum(1) for k, m in parts.items() for what, x in (("loss", loss), ("accuracy", right))}
        out["residual"] = 1 - (f * self.table).sum((1, 2)) / self.table.square().sum()
        power = self.amplitudes(theta.double()).abs().square().sum(2)
        return {k: x.numpy() for k, x in (out | dict(share=power.max(-1).values / power.sum(-1), power=power.sum(-1), mode=power.argmax(-1))).items()}


def power_share(weights, modulus: int) -> np.ndarray:
    r"""Frequency concentration $\max_k\pi_k/\sum_k\pi_k$, $\pi_k=|w_k|^2+|v_k|^2$, k = 1..(P-1)/2, of neurons with weights (..., 2P)."""
    blocks = np.reshape(weights, (*np.shape(weights)[:-1], 2, modulus))
    power = (np.abs(np.fft.rfft(blocks)[..., 1:]) ** 2).sum(-2)
    return power.max(-1) / power.sum(-1)


def random_share(modulus: int, q) -> np.ndarray:
    r"""Probability that a neuron with Gaussian weights has a share of more than q.

    The $m=(P-1)/2$ powers are independent Gamma(2) variables, their shares Dirichlet(2, ..., 2), and inclusion and exclusion over the
    shares above q gives the tail of the largest; above one half only the first term is left, m times that of a Beta(2, 2m-2) variable.
    """
    m, q = (modulus - 1) // 2, np.asarray(q, dtype=float)
    if np.any(q < 0.5):
        raise ValueError("q must be at least one half, where at most one frequency can exceed it")
    return m * stats.beta.sf(q, 2, 2 * m - 2)


def grokked(task: AdditionTask, seeds: int = SEEDS, steps: int = 10_000, laziness: float = 1.0) -> xr.Dataset:
    """The published networks, trained by plain gradient descent: neither noise nor decay. The weights are those without prefactor."""
    optimiser = GradientDescent(rate(task, laziness=laziness))
    return quadratic.train(task, seeds, steps, optimiser, initial_scale=scale(task, laziness), record=[0, steps], progress=False)


def _state(ds, size):
    return torch.as_tensor(np.concatenate([ds.weights.values.reshape(len(ds.member), -1), ds.readout.values.reshape(len(ds.member), -1)], 1) / size)


def equilibrium(
    task: AdditionTask, *, noises=NOISES, prior: float = 1.0, sextic_decay: float = NO_SEXTIC, seeds: int = SEEDS, warmup: int = 3000,
    draws: int = 20, thin: int = 75, train_steps: int = 10_000, laziness: float = 1.0, seed: int = 0,
) -> xr.Dataset:
    r"""Sample the posterior of the network by underdamped Langevin dynamics, from the prior and from networks that gradient descent has trained.

    The step is 0.8 over the root of the largest eigenvalue that the Hessian has at a trained network, at most 0.2.

    Args:
        noises: sigma^2.
        prior: rho, the variance of the prior over that of the published initial weights.
        sextic_decay: gamma of Part I; none by default.
        laziness: alpha. In proportion to the width it leaves s, and thus the prior of a neuron, as it is.

    Returns:
        over (noise, start, seed, draw): residual, concentrated (share of neurons above ``CONCENTRATED``); averages over draws (noise, start,
        seed): train_loss, test_loss, train_accuracy, test_accuracy, norm2 (|theta|^2 over that of the prior), well_power (all power of a
        concentrated neuron); of the last draw, share (noise, start, seed, neuron) and count (noise, start, seed, frequency) of concentrated
        neurons.
    """
    trained = grokked(task, seeds, train_steps, laziness)
    masks, size, rows = trained["mask"].values, prior**0.5 * scale(task, laziness), []
    end, state = {}, _state(trained, size).float()
    with one_thread(torch.device("cpu")), torch.no_grad():
        for level, noise in enumerate(noises):
            for which, start in enumerate(STARTS):
                post = PartialTable(equivalent(task, noise, prior, sextic_decay, laziness), masks)
                value, _ = largest_eigenvalue(post.energy_gradient, state.clone())
                step = (0.8 / value.sqrt()).clamp(max=0.2).min()
                streams = [[seed_of(seed, k, level, which, j) for j in range(seeds)] for k in range(2)]
                theta = post.prior_draw(streams[0]) if start == "prior" else state
                noise_source = _Noise(post, streams[1])
                chain, kept = underdamped.init(theta, post.energy_gradient, noise_source), []
                for t in range(warmup + draws * thin):
                    chain = underdamped.step(chain, post.energy_gradient, noise_source, step, 0.5)
                    if t >= warmup and (t - warmup) % thin == thin - 1:
                        kept.append(_summary(post, chain.theta))
                rows.append({k: np.stack([d[k] for d in kept], -1) for k in kept[0] if k not in ("share", "count")})
                for k in ("share", "count"):
                    end.setdefault(k, []).append(kept[-1][k])
    grid = (len(noises), len(STARTS), seeds)
    data = {k: (("noise", "start", "seed", "draw"), np.stack([r[k] for r in rows]).reshape(*grid, draws)) for k in ("residual", "concentrated")}
    for k in sorted(set(rows[0]) - set(data)):
        data[k] = (("noise", "start", "seed"), np.stack([r[k].mean(-1) for r in rows]).reshape(grid))
    for k, name in (("share", "neuron"), ("count", "frequency")):
        data[k] = (("noise", "start", "seed", name), np.stack(end[k]).reshape(*grid, -1))
    settings = dict(prior=prior, sextic_decay=sextic_decay, laziness=laziness)
    return xr.Dataset(data, {"noise": list(noises), "start": list(STARTS), "seed": np.arange(seeds)}, settings)


def _summary(post, theta):
    found = post.observe(theta)
    modes = (post.problem.modulus - 1) // 2
    well = found["share"] > CONCENTRATED
    count = np.stack([np.bincount(mode[w], minlength=modes) for mode, w in zip(found.pop("mode"), well, strict=True)])
    power = found.pop("power")
    with np.errstate(invalid="ignore"):
        found["well_power"] = np.where(well.any(1), (power * well).sum(1) / np.maximum(well.sum(1), 1), np.nan)
    return found | dict(concentrated=well.mean(1), norm2=theta.square().mean(1).numpy(), count=count)


def noise_and_decay(
    task: AdditionTask, *, noise_variance: float = CELL_NOISE, seeds: int = SEEDS, steps: int = 16_000, records: int = 36, laziness: float = 1.0,
    noise_levels=LEVELS, decay_levels=LEVELS, seed: int = 0,
) -> xr.Dataset:
    r"""Full-batch training in time with and without noise, with and without decay, from the same starts on the same training sets.

    With both, T and lambda are those of the posterior with this noise variance and the initial law as the prior; the other cells switch one or
    both off. Levels are factors on T and lambda.

    Returns:
        over (noise, decay, seed, step): train_loss, test_loss, train_accuracy, test_accuracy, residual, concentrated, norm2, well_power;
        over (noise, decay, seed, neuron): share at the end.
    """
    cells = [(a, b) for a in noise_levels for b in decay_levels]
    record = np.unique(np.r_[0, np.geomspace(1, steps, records).round().astype(int)])
    masks = np.stack([task.mask(k) for k in range(seeds)])
    size, eta, count = scale(task, laziness), rate(task, laziness=laziness), task.training_pairs
    temperature, start = noise_variance / count, quadratic.initial_parameters(task, range(seeds), 1.0)
    weights = torch.cat([start["layers.w"], start["layers.v"]], 1).mT.reshape(seeds, -1)
    theta = torch.cat([weights, start["layers.a"].reshape(seeds, -1)], 1).repeat(len(cells), 1)
    # the energy of this posterior is n L: its gradient over n s^2 is that of the loss in units of s
    post = PartialTable(equivalent(task, 1.0, laziness=laziness), np.tile(masks, (len(cells), 1, 1)))
    hot, fade = (torch.tensor([c[k] for c in cells], dtype=torch.float32).repeat_interleave(seeds).unsqueeze(1) for k in (0, 1))
    kick, keep = (2 * eta * temperature * hot).sqrt() / size, 1 - eta * temperature / size**2 * fade
    hot_rows, rows = torch.nonzero(hot[:, 0])[:, 0], []
    source = _Noise(post, [seed_of(seed, 9, k) for k in range(post.networks)])
    with one_thread(torch.device("cpu")), torch.no_grad():
        for t in range(steps + 1):
            if t in record:
                found = _summary(post, theta)
                rows.append(found)
            _, gradient = post.likelihood(theta)
            theta = keep * theta - eta / (count * size**2) * gradient
            if len(hot_rows):
                theta += kick * source()
    grid = (len(noise_levels), len(decay_levels), seeds)
    dims = ("noise", "decay", "seed")
    data = {k: ((*dims, "step"), np.stack([r[k] for r in rows], -1).reshape(*grid, -1)) for k in rows[0] if k not in ("share", "count")}
    data["share"] = ((*dims, "neuron"), rows[-1]["share"].reshape(*grid, -1))
    coords = {"noise": list(noise_levels), "decay": list(decay_levels), "seed": np.arange(seeds), "step": record}
    settings = dict(temperature=temperature, weight_decay=temperature / size**2, learning_rate=eta, noise_variance=noise_variance)
    return xr.Dataset(data, coords, settings)


equilibrium.version = noise_and_decay.version = 1
equilibrium.seconds = lambda task, **s: len(s.get("noises", NOISES)) * 2 * SEEDS * 4500 * 1e-6 * task.width
noise_and_decay.seconds = lambda task, **s: len(LEVELS) ** 2 * SEEDS * 16_000 * 1e-6 * task.width


def noise(series: str | None = None) -> list[Run]:
    r"""The runs of one series, "noise" ($\sigma^2$), "prior" ($\rho$), "sextic" ($\gamma$), "width" (N) or "time"; None: all."""
    runs = {
        "noise": [Run(TASK, dict(noises=NOISES), equilibrium)],
        "time": [Run(TASK, dict(noise_variance=CELL_NOISE, steps=16_000), noise_and_decay)],
        "width": [Run(TASK.replace(width=n), dict(noises=(CELL_NOISE,), laziness=n / TASK.width), equilibrium) for n in WIDTHS],
        "sextic": [Run(TASK, dict(noises=(0.001, 0.002, 0.003), sextic_decay=12.0), equilibrium)],
        "prior": [Run(TASK, dict(noises=tuple(round(rho**1.5 * x, 7) for x in SHORT), prior=rho), equilibrium) for rho in PRIORS],
    }
    if series is not None and series not in runs:
        raise ValueError(f"series must be one of {sorted(runs)}, got {series!r}")
    return [run for name in runs for run in runs[name] if series in (None, name)]


# what the chapters read off the stored runs


def unimodal(values, bootstraps: int = 200, seed: int = 0) -> float:
    """Silverman's test: the probability of a kernel density so bumpy if the true density had one maximum only.

    The critical bandwidth is the smallest at which the density estimate of the values has a single maximum. Samples are drawn from
    that estimate, rescaled to the variance of the values, and counted if their own estimate at this bandwidth has more than one.
    """
    x, rng = np.ravel(values).astype(float), np.random.default_rng(seed)
    centre, spread = x.mean(), x.std()
    edges = np.linspace(centre - 6 * spread, centre + 6 * spread, 401)
    middle = (edges[1:] + edges[:-1]) / 2

    def smoothing(h):
        return np.exp(-(((middle[:, None] - middle) / h) ** 2) / 2)

    def several(sample, smooth):
        density = np.histogram(sample, edges)[0] @ smooth
        up = np.diff(density) > 1e-9 * density.max()
        down = np.diff(density) < -1e-9 * density.max()
        moves = np.where(up, 1, np.where(down, -1, 0))
        moves = moves[moves != 0]
        return np.sum((moves[:-1] > 0) & (moves[1:] < 0)) > 1

    low, high = 0.02 * spread, 2 * spread
    for _ in range(14):
        h = (low * high) ** 0.5
        low, high = (h, high) if several(x, smoothing(h)) else (low, h)
    smooth = smoothing(high)
    shrink = (1 + (high / spread) ** 2) ** -0.5
    samples = (centre + shrink * (rng.choice(x, len(x)) - centre + high * rng.standard_normal(len(x))) for _ in range(bootstraps))
    return float(np.mean([several(sample, smooth) for sample in samples]))


LEVEL, SMALLEST = 0.01, 0.02  # of the test; of the smaller population


def populations(ds: xr.Dataset) -> xr.Dataset:
    """The two populations of neurons at every noise of an ``equilibrium``.

    Returns:
        over (noise, start): concentrated and residual with their standard errors over seeds (``_error``), chance (``unimodal`` for the
        last draws of all networks), two (whether there are two populations: chance below 1 %, each at least 2 % of the neurons); over
        noise: gap and gap_error, mean paired difference of the residuals of the two starts, and rhat of the residual over both starts.
    """
    from grokutils.summary import describe

    out = xr.Dataset()
    for name in ("concentrated", "residual"):
        by_seed = ds[name].mean("draw")
        out[name], out[f"{name}_error"] = by_seed.mean("seed"), by_seed.std("seed", ddof=1) / len(ds.seed) ** 0.5
    chance = [[unimodal(ds.share.values[i, j]) for j in range(len(ds.start))] for i in range(len(ds.noise))]
    out["chance"] = (("noise", "start"), np.array(chance))
    out["two"] = (out.chance < LEVEL) & (out.concentrated > SMALLEST) & (out.concentrated < 1 - SMALLEST)
    gap = (ds.residual.sel(start="prior") - ds.residual.sel(start="grokked")).mean("draw")
    out["gap"], out["gap_error"] = gap.mean("seed"), gap.std("seed", ddof=1) / len(ds.seed) ** 0.5
    curves = ds.residual.transpose("noise", "seed", "start", "draw").values
    out["rhat"] = ("noise", np.array([describe(c)["rhat"] for c in curves]))
    return out


def mixed_phase(ds: xr.Dataset) -> dict[str, float]:
    """The verdict on the histogram: the range of noise with two populations from both starts, and the share of concentrated neurons.

    Returns:
        lowest, highest (of the noises with two populations from both starts), first_without (the first with two from neither), settled (up
        to where the residuals of the two starts agree within three standard errors), rhat (largest up to there), share and share_error (mean
        over both starts at the noise ``CELL_NOISE``).
    """
    found = populations(ds)
    both = found.two.all("start").values
    inside, above = found.noise.values[both], found.noise.values[~found.two.any("start").values]
    cell = ds.concentrated.sel(noise=CELL_NOISE).mean(("draw", "start"))
    agree = np.cumprod(abs(found.gap.values) < 3 * found.gap_error.values).astype(bool) & both
    settled, rhat = (float(v.values[agree].max()) if agree.any() else np.nan for v in (found.noise, found.rhat))
    return dict(
        lowest=float(inside.min()), highest=float(inside.max()), first_without=float(above.min()) if above.size else np.nan,
        settled=settled, rhat=rhat, share=float(cell.mean()), share_error=float(cell.std(ddof=1) / len(ds.seed) ** 0.5),
    )


def smallest_residual(noise, neurons: float = 5.0, prior: float = 1.0, task: AdditionTask = TASK):
    r"""The residual of the network of least norm that adds with so many neurons J a frequency, no fluctuations: the solution of

    $$a\,(1-a)^{1/3}=\frac{\sigma^2}{\rho\,r}\,\frac{J^{1/3}}{(2Ps^3)^{2/3}},$$

    with r the share of the table that is data; NaN where there is none.
    """
    strength = np.asarray(noise) / (prior * task.training_fraction) * neurons ** (1 / 3) / (2 * task.modulus * scale(task) ** 3) ** (2 / 3)
    grid = np.linspace(0, 0.75, 20_001)
    return np.where(strength < 0.75 * 0.25 ** (1 / 3), np.interp(strength, grid * (1 - grid) ** (1 / 3), grid), np.nan)


def milestones(ds: xr.Dataset, threshold: float = 0.9) -> xr.Dataset:
    """First recorded steps at which the accuracies of ``noise_and_decay`` reach a threshold, train and test (noise, decay, seed); NaN if never."""
    out = {}
    for name in ("train", "test"):
        reached = (ds[f"{name}_accuracy"] >= threshold).transpose("noise", "decay", "seed", "step").values
        out[name] = (("noise", "decay", "seed"), np.where(reached.any(-1), ds.step.values[reached.argmax(-1)], np.nan))
    return xr.Dataset(out, {k: ds[k] for k in ("noise", "decay", "seed")})


def between(share) -> float:
    """The share of neurons whose concentration is in the range ``BETWEEN``, empty if the populations are separate."""
    return float(np.mean((np.asarray(share) > BETWEEN[0]) & (np.asarray(share) < BETWEEN[1])))


def corners(ds: xr.Dataset, threshold: float = 0.9) -> dict[tuple[float, float], dict]:
    """The verdict on the switches: for each (noise level, decay level) of ``noise_and_decay`` what became of the networks.

    Returns:
        understood (how many reach the threshold in test accuracy) of how many, step (median of those); accuracy, concentrated and
        norm2 at the end with standard errors over seeds (``_error``); delay (geometric mean of the ratio of the steps at which test
        and training accuracy reach the threshold) with its 95 % t-interval, delay_low and delay_high, NaN for fewer than three
        networks; between (see there); two (whether the neurons of all networks together have two populations).
    """
    when, out = milestones(ds, threshold), {}
    for i, noise_level in enumerate(ds.noise.values):
        for j, decay in enumerate(ds.decay.values):
            train, test = when.train.values[i, j], when.test.values[i, j]
            end = ds.isel(noise=i, decay=j, step=-1)
            there = test[np.isfinite(test)]
            row = dict(understood=len(there), of=len(test), step=float(np.median(there)) if len(there) else np.nan)
            for key, name in (("accuracy", "test_accuracy"), ("concentrated", "concentrated"), ("norm2", "norm2")):
                row[key], row[f"{key}_error"] = float(end[name].mean()), float(end[name].std(ddof=1)) / len(test) ** 0.5
            ratio = np.log(test / train)[np.isfinite(test) & np.isfinite(train)]
            if len(ratio) > 2:
                reach = stats.t.ppf(0.975, len(ratio) - 1) * ratio.std(ddof=1) / len(ratio) ** 0.5
                row |= dict(zip(("delay", "delay_low", "delay_high"), np.exp(ratio.mean() + reach * np.array([0, -1, 1])).tolist(), strict=True))
            else:
                row |= dict(delay=np.nan, delay_low=np.nan, delay_high=np.nan)
            row["between"] = between(end["share"].values)
            row["two"] = bool(unimodal(end["share"].values) < LEVEL and SMALLEST < row["concentrated"] < 1 - SMALLEST)
            out[float(noise_level), float(decay)] = row
    return out
