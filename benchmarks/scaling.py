"""How the cost of a gradient and the memory grow with n, N, d and the number of networks; what a second core brings to ``sample``."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import cores, interleaved, one_thread
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, draw_data, sample, underdamped

FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0)
NETWORKS = (4, 8, 16, 32, 64)
MEMORY = (1, 8, 16, 32)


def _gradient(problem, networks=1):
    post = TeacherStudentPosterior(problem, *draw_data(problem, networks))
    theta = post.prior_draw(range(networks))

    def run():
        with torch.no_grad():
            post.energy_gradient(theta)

    return run


def exponent(sizes, times) -> dict:
    """Slope of ln time against ln size by least squares, and its standard error."""
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(times), 1, cov=True)
    return dict(sizes=[int(s) for s in sizes], seconds=list(times), exponent=float(slope), error=float(np.sqrt(covariance[0, 0])))


def exponents(beta=0.25, factors=FACTORS, networks=NETWORKS, rounds=5) -> dict:
    """Cost of a gradient of one network along samples, width and dimension about one problem, and against the number of networks."""
    base = TeacherStudent.paper(0.15, beta).rounded()
    out, sizes = {}, dict(samples=base.samples, width=base.width, dimension=base.dimension)
    for name, size in sizes.items():
        problems = [base.replace(**{name: max(2, round(f * size))}) for f in factors]
        times = interleaved({str(getattr(p, name)): _gradient(p) for p in problems}, rounds)
        out[name] = exponent([int(s) for s in times], list(times.values()))
    small = TeacherStudent.paper(0.15, beta / 2).rounded()
    times = interleaved({str(b): _gradient(small, b) for b in networks}, rounds)
    out["networks"] = exponent([int(b) for b in times], list(times.values()))
    return dict(beta=beta, **sizes, fits=out)


def peak(beta: float, networks: int) -> int:
    """Peak resident bytes of this process after two steps of underdamped Langevin; meant for a process of its own."""
    torch.set_num_threads(1)
    problem = TeacherStudent.paper(0.15, beta).rounded()
    post = TeacherStudentPosterior(problem, *draw_data(problem, 1), networks)
    with torch.no_grad():
        buffer = torch.empty(networks, post.size)
        state = underdamped.init(post.prior_draw(range(networks)), post.energy_gradient, buffer.normal_)
        for _ in range(2):
            state = underdamped.step(state, post.energy_gradient, buffer.normal_, 0.1, 0.5)
    status = Path("/proc/self/status")
    if status.exists():  # on Linux the other figure would begin at that of the process that started this one
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return (1 if sys.platform == "darwin" else 1024) * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory(beta=1.0, networks=MEMORY) -> dict:
    """Bytes of memory a further network takes, from processes with several numbers of networks of one data set."""
    problem = TeacherStudent.paper(0.15, beta).rounded()
    call = "import sys; from benchmarks.scaling import peak; print(peak(float(sys.argv[1]), int(sys.argv[2])))"
    root = Path(__file__).resolve().parents[1]
    peaks = [
        int(subprocess.run([sys.executable, "-c", call, str(beta), str(b)], cwd=root, check=True, capture_output=True, text=True).stdout)
        for b in networks
    ]
    slope = float(np.polyfit(networks, peaks, 1)[0])
    matrix, theta = 4 * problem.samples * problem.width, 4 * problem.width * (problem.dimension + 1)
    return dict(
        beta=beta, networks=list(networks), peak_bytes=peaks, bytes_per_network=slope, over_matrix=slope / matrix, over_theta=slope / theta)


def threads(cases, rounds=3) -> list[dict]:
    """Wall time of short runs of ``sample`` with one job over that with one a core."""
    jobs, out = min(2, cores()), []
    for beta, settings in cases.items():
        problem = TeacherStudent.paper(0.15, beta).rounded()
        runs = {j: lambda j=j, p=problem, s=settings: sample(p, **s, seed=0, jobs=j, progress=False) for j in (1, jobs)}
        times = interleaved(runs, rounds, clock=time.perf_counter)
        out.append(dict(beta=beta, jobs=jobs, seconds={str(j): t for j, t in times.items()}, speedup=times[1] / times[jobs]))
    return out


THREADS = {
    1 / 8: dict(datasets=8, chains=2, draws=8, thin=10, warmup=20), 1 / 2: dict(datasets=4, chains=2, draws=4, thin=5, warmup=10),
    1.0: dict(datasets=2, chains=1, draws=2, thin=5, warmup=10),
}


def measure(quick: bool = False, report=print) -> dict:
    """The section "scaling" of the record."""
    with one_thread():
        fits = exponents(1 / 32, (1.0, 2.0, 4.0), (4, 8, 16), 2) if quick else exponents()
    report(", ".join(f"{name}^{f['exponent']:.2f}" for name, f in fits["fits"].items()))
    used = memory(1 / 2, (1, 32)) if quick else memory()
    report(f"a further network takes {used['over_matrix']:.2f} of its n N matrix, {used['over_theta']:.1f} times its weights")
    speedups = threads({1 / 32: dict(datasets=2, chains=1, draws=2, thin=1, warmup=0)} if quick else THREADS, 2 if quick else 3)
    report("one job over one a core: " + ", ".join(f"beta {s['beta']:g}: {s['speedup']:.2f}" for s in speedups))
    return dict(cost=fits, memory=used, threads=speedups)
