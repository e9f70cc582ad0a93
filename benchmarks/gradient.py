"""One gradient on one core: ours against what one would write first, against the matrix-product rate, and what it is made of."""

from __future__ import annotations

import os
import shutil

import torch

from benchmarks.timing import interleaved, one_thread
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data

# beta: (data sets, chains) of one unit of work of ``sample`` with two chains a data set
CASES = {1 / 8: (2, 2), 1 / 2: (1, 1), 1.0: (1, 1)}
GOALS = {1 / 8: 0.5, 1.0: 0.7}  # shares of the matrix-product rate
SIDE = 1024


def energies(post, theta, x, y):
    """The energies (networks,) as one would write them, all networks in one einsum; inputs and targets of every network."""
    u, v = post.unpack(theta)
    pre = torch.einsum("bnd,bwd->bnw", x, post.scale_w * u)
    f = torch.einsum("bnw,bw->bn", torch.erf(pre), post.scale_a * v)
    return (y - f).square().sum(1) / (2 * post.problem.noise_variance) + theta.square().sum(1) / 2


def peers(post) -> dict:
    """{name: theta -> gradient (networks, size)} by autograd; torch.compile is not among them."""
    problem, chains = post.problem, post.chains
    x, y = post.inputs.repeat_interleave(chains, dim=0), post.targets.repeat_interleave(chains, dim=0)
    cut = problem.width * problem.dimension

    def energy(t, x, y):
        u, v = t[:cut].view(problem.width, problem.dimension), t[cut:]
        f = torch.erf(x @ (post.scale_w * u).T) @ (post.scale_a * v)
        return (y - f).square().sum() / (2 * problem.noise_variance) + t.square().sum() / 2

    def one(t, x, y):
        t = t.clone().requires_grad_(True)
        return torch.autograd.grad(energy(t, x, y), t)[0]

    batched = torch.func.vmap(torch.func.grad(energy))
    return {
        "autograd loop": lambda theta: torch.stack([one(*z) for z in zip(theta, x, y)]),
        "vmap(grad)": lambda theta: batched(theta, x, y),
        "einsum": by_autograd(lambda theta: energies(post, theta, x, y)),
    }


def by_autograd(function):
    """theta -> the gradient of the sum of the energies."""

    def gradient(theta):
        theta = theta.clone().requires_grad_(True)
        return torch.autograd.grad(function(theta).sum(), theta)[0]

    return gradient


def compiled(post, theta):
    """(gradient of the compiled einsum energies, None), or (None, why there is none). Compiling happens here, before any timing."""
    if not any(shutil.which(c) for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c):
        return None, "no compiler here"
    x, y = post.inputs.repeat_interleave(post.chains, dim=0), post.targets.repeat_interleave(post.chains, dim=0)
    try:
        torch._dynamo.reset()
        gradient = by_autograd(torch.compile(lambda theta: energies(post, theta, x, y), dynamic=False))
        gradient(theta)
    except Exception as error:  # a compiler that is there may still fail in many ways
        return None, f"failed: {type(error).__name__}"
    return gradient, None


def operations(post, theta) -> dict:
    """The operations that a gradient is made of, each kind alone: {name: function}, on buffers of their own."""
    (u, v), gradient = post.unpack(theta), torch.empty_like(theta)
    grad_u, grad_v = post.unpack(gradient)
    residuals, readouts = theta.new_zeros(post.networks, 1, post.problem.samples), v.unsqueeze(1)
    parts = []
    for net, blocks in post._groups:
        for rows, x, y, pre, phi, scaled in blocks:
            parts.append((u[net], readouts[net], grad_u[net], grad_v[net].unsqueeze(-1), residuals[net][..., rows], x, y, pre, phi, scaled))

    def products():
        for u_g, _, grad_u_g, _, _, x, _, pre, _, scaled in parts:
            torch.bmm(u_g, x, out=pre)
            grad_u_g.baddbmm_(pre, scaled.transpose(1, 2), beta=0)

    def erf():
        for *_, pre, phi, _ in parts:
            torch.erf(pre, out=phi)

    def exp():
        for *_, pre, _, _ in parts:
            torch.addcmul(pre.new_zeros(()), pre, pre, value=-1, out=pre).exp_()

    def vectors():
        for _, a_g, _, grad_v_g, residual, x, y, _, phi, scaled in parts:
            torch.baddbmm(y, a_g, phi, beta=-1, out=residual)
            grad_v_g.baddbmm_(phi, residual.transpose(1, 2), beta=0)
            torch.mul(x, residual, out=scaled)

    return {"products": products, "erf": erf, "exp": exp, "vectors": vectors}


def case(beta: float, quick: bool = False, compile: bool = True) -> dict:
    """Seconds of a gradient of one unit of work, by ours and by the peers, and of its operations, all in turn."""
    p = TeacherStudent.paper(0.15, beta).rounded()
    datasets, chains = CASES.get(beta, (1, 1))
    post = TeacherStudentPosterior(p, *draw_data(p, datasets), chains)
    theta = post.prior_draw(range(post.networks))
    ways = peers(post)
    fast, reason = compiled(post, theta) if compile else (None, "not tried")
    ways |= {"torch.compile": fast} if fast else {}
    with torch.no_grad():
        expected = post.energy_gradient(theta)[1]
    for way in ways.values():
        torch.testing.assert_close(way(theta), expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))
    square = torch.randn(SIDE, SIDE)

    def ours():
        with torch.no_grad():
            post.energy_gradient(theta)

    functions = {"ours": ours, "square": lambda: square @ square} | {name: lambda way=way: way(theta) for name, way in ways.items()}
    with torch.no_grad():
        parts = operations(post, theta)
    times = interleaved(functions | {name: _quietly(part) for name, part in parts.items()}, *((3, 1e-3) if quick else (9,)))
    flops = 4 * p.samples * p.width * p.dimension * post.networks  # a multiplication and an addition are two
    rate = 2 * SIDE**3 / times["square"]
    return dict(
        beta=beta, samples=p.samples, dimension=p.dimension, width=p.width, networks=post.networks, seconds=times, goal=GOALS.get(beta),
        ratios={name: times[name] / times["ours"] for name in ways}, not_measured={} if fast else {"torch.compile": reason},
        share=flops / times["ours"] / rate, products_alone=flops / times["products"] / rate,
        budget={name: times[name] / times["ours"] for name in parts},
    )


def _quietly(function):
    def run():
        with torch.no_grad():
            function()

    return run


def measure(quick: bool = False, report=print) -> dict:
    """The section "gradient" of the record."""
    cases = []
    with one_thread():
        for beta in [1 / 32] if quick else CASES:
            cases.append(case(beta, quick, compile=not quick))
            ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in cases[-1]["ratios"].items())
            report(f"beta {beta:g}: time over ours: {ratios}; share of the product rate {cases[-1]['share']:.2f}")
    return dict(cases=cases)
