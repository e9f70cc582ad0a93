"""One gradient of one network's posterior: ours against what one would write first. Prints ratios only: ``make bench``."""

import math
import platform
import statistics
import time

import torch

from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data


def median_seconds(function, repeats=7):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, float32; time over ours (larger: slower)")
    for beta in (1 / 8, 1 / 2, 1.0):
        p = TeacherStudent.paper(0.15, beta).rounded()
        post = TeacherStudentPosterior(p, *draw_data(p, 1))
        theta = post.prior_draw([0])
        x, y = post.inputs[0], post.targets[0]

        def energy(t, p=p, post=post, x=x, y=y):
            u, v = t[: p.width * p.dimension].view(p.width, p.dimension), t[p.width * p.dimension :]
            f = torch.erf(x @ (post.scale_w * u).T) @ (post.scale_a * v)
            return (y - f).square().sum() / (2 * p.noise_variance) + t.square().sum() / 2

        def autograd(theta=theta, energy=energy):
            t = theta[0].clone().requires_grad_(True)
            return torch.autograd.grad(energy(t), t)[0]

        by_func = torch.func.vmap(torch.func.grad(energy))
        torch.testing.assert_close(post.energy_gradient(theta)[1][0], autograd(), rtol=2e-3, atol=2e-3)
        ours = median_seconds(lambda post=post, theta=theta: post.energy_gradient(theta))
        square = torch.randn(1024, 1024)
        rate = 2 * 1024**3 / median_seconds(lambda square=square: square @ square)
        roof = 4 * p.samples * p.width * p.dimension / ours / rate
        ratios = {"autograd": median_seconds(autograd) / ours, "vmap(grad)": median_seconds(lambda f=by_func, t=theta: f(t)) / ours}
        text = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
        print(f"beta {beta:<6g} N={p.width} n={p.samples} d={p.dimension}: {text}; share of the matrix-product rate {roof:.2f}")
    assert math.isfinite(roof)


if __name__ == "__main__":
    main()
