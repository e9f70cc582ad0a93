"""One gradient on a GPU against its roofline: fused kernels, separate operators, the whole step as a CUDA graph."""

from __future__ import annotations

import torch

from grokutils import roofline
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, _device_loop, draw_data, underdamped

NETWORKS, CHAINS = 64, 8


def milliseconds(function, repeats=20):
    """Median time on the device."""
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[repeats // 2]


def rounded_to_tf32(x):
    """float32 to the nearest with 11 significant bits."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def rounding(problem):
    """Relative error of the gradient by how its products round their operands, on the CPU, sums in float32."""
    post = {name: TeacherStudentPosterior(problem, *draw_data(problem, 1), dtype=name) for name in ("float32", "float64")}
    theta = post["float32"].prior_draw([0])
    x64 = post["float32"].inputs[0].double()

    def gradient(product, dtype):
        u, v = (z[0].to(dtype) for z in post["float32"].unpack(theta))
        x, p = x64.to(dtype), post["float32"]
        pre = product(x, p.scale_w * u.T)
        residual = torch.erf(pre) @ (p.scale_a * v) - p.targets[0].to(dtype)
        return product((torch.exp(-pre.square()) * residual[:, None]).T, x) * v[:, None]

    def once(a, b):
        return rounded_to_tf32(a) @ rounded_to_tf32(b)

    def thrice(a, b):
        low_a, low_b = a - rounded_to_tf32(a), b - rounded_to_tf32(b)
        return once(low_a, b) + once(a, low_b) + once(a, b)

    exact = gradient(torch.matmul, torch.float64)
    ways = {"tf32": once, "tf32x3": thrice, "float32": torch.matmul}
    return {name: float((gradient(way, torch.float32).double() - exact).norm() / exact.norm()) for name, way in ways.items()}


def achieved(problem) -> list[str]:
    """Lines: times on this GPU, as shares of rates measured in the same run."""
    device = torch.device("cuda")
    data = draw_data(problem, NETWORKS // CHAINS)
    post = TeacherStudentPosterior(problem, *data, CHAINS, device="cuda")
    theta = post.prior_draw(range(NETWORKS))
    fused = _device_loop.kernels(post)
    if fused is None:
        return ["  achieved: not measured, triton is not there"]
    square, large = torch.randn(8192, 8192, device=device), torch.empty(2**29, device=device)
    rate = 2 * 8192**3 / milliseconds(lambda: square @ square) * 1e3
    bandwidth = 2 * 4 * large.numel() / 2 / milliseconds(lambda: large[: 2**28].copy_(large[2**28 :])) * 1e3
    lines = [f"  {torch.cuda.get_device_name()}: float32 product {rate / 1e12:.0f} TFLOP/s, copy {bandwidth / 1e12:.2f} TB/s"]
    post.kernels = None  # the separate operators
    ways = {
        "separate operators": (lambda: post.likelihood(theta), roofline.plain_gradient(problem, NETWORKS)),
        "fused, tf32x3": (lambda: fused.likelihood(post, theta), roofline.fused_gradient(problem, NETWORKS)),
        "fused, ieee": (lambda: fused.likelihood(post, theta, "ieee"), roofline.fused_gradient(problem, NETWORKS)),
    }
    for name, (way, costs) in ways.items():
        share = 1e3 * roofline.floor(costs, rate, bandwidth) / milliseconds(way)
        lines.append(f"  achieved, {name}: the floor at the measured float32 rates is {share:.2f} of the time taken")

    def energy_gradient(theta):
        energy, gradient = fused.likelihood(post, theta)
        return energy, gradient.add_(theta)

    noise, h = fused.Noise(post, range(NETWORKS)), torch.full((NETWORKS, 1), 0.3, device=device)

    def step(state):
        return underdamped.step(state, energy_gradient, noise, h, 0.5)

    state = underdamped.init(theta, energy_gradient, noise)
    loop = _device_loop.Loop(step, state, [noise.count])
    return [*lines, f"  a step launched from the host takes {milliseconds(lambda: step(state)) / milliseconds(loop):.2f} times a replayed CUDA graph"]


def measure(quick: bool = False, report=print) -> dict:
    """The section "gpu" of the record: the roofline in words, and what was achieved where there is a GPU."""
    problem = TeacherStudent.paper(0.15, beta=1 / 32 if quick else 1).rounded()
    errors = ", ".join(f"{name} {error:.1e}" for name, error in rounding(problem).items())
    lines = roofline.statement(problem, NETWORKS).splitlines()
    lines.append(f"  relative error of the gradient by the rounding of its operands, emulated: {errors}")
    if torch.cuda.is_available() and not quick:
        with torch.no_grad():
            lines += achieved(problem)
    else:
        lines.append("  achieved: not measured, this machine has no GPU")
    for line in lines:
        report(line)
    return dict(lines=lines, achieved=torch.cuda.is_available() and not quick)
