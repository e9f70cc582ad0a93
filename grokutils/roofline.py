"""What a gradient must cost on a GPU: operations, bytes to and from memory, and the time below which a device cannot go."""

from __future__ import annotations

from dataclasses import dataclass

from grokutils.problems import TeacherStudent

_ITEM = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class Device:
    """Peak rates as the maker prints them: FLOP/s in float32 and of the tf32 matrix unit (dense), memory in bytes/s."""

    name: str
    float32: float
    tf32: float
    bandwidth: float
    source: str


H200 = Device("NVIDIA H200 SXM", 67e12, 989e12 / 2, 4.8e12, "NVIDIA's H200 datasheet; its tf32 figure is with sparsity, so half of it")


@dataclass(frozen=True)
class Cost:
    """FLOPs of the products (a multiplication and an addition are two) and bytes between memory and chip; the activation is not counted."""

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes

    def floor(self, rate: float, bandwidth: float) -> float:
        """Seconds at FLOP/s ``rate`` and bytes/s ``bandwidth``, arithmetic and memory at the same time."""
        return max(self.flops / rate, self.bytes / bandwidth)


def plain_gradient(problem: TeacherStudent, networks: int = 1, dtype: str = "float32") -> dict[str, Cost]:
    """The least that separate operators do: each n x N array is written once and read by each operator that needs it, of which there are six.

    The products are exact; the real operators move more (several passes over the activation), never less.
    """
    n, width, d = problem.samples, problem.width, problem.dimension
    pre, x, w = (networks * _ITEM[dtype] * k for k in (n * width, n * d, width * d))
    large, small = networks * 2 * n * width * d, networks * 2 * n * width
    return {
        "pre-activations": Cost(large, x + w + pre), "phi": Cost(0, 2 * pre), "slope": Cost(0, 2 * pre),
        "output": Cost(small, pre), "readout gradient": Cost(small, pre), "weight gradient": Cost(large, pre + x + w),
    }


def fused_gradient(
    problem: TeacherStudent, networks: int = 1, dtype: str = "float32", points: int | None = None, neurons: int | None = None
) -> dict[str, Cost]:
    """The fused kernels, which make the pre-activations twice and never write them.

    Bytes: every input of a kernel read once; or, with the sides ``points`` and ``neurons`` of the outer tiles, read again for every tile,
    which is what the on-chip caches see and the most that memory can.
    """
    n, width, d = problem.samples, problem.width, problem.dimension
    again_theta, again_x = -(-n // points) if points else 1, -(-width // neurons) if neurons else 1
    item, theta, x = _ITEM[dtype], width * (d + 1), n * d
    large, small = 2 * n * width * d, 2 * n * width
    residual = Cost(networks * (large + small), networks * item * (again_theta * theta + x + 2 * n))
    # the second kernel reads its readouts once more, for the factor a_i: N of N (d + 1) values, in the first term
    gradient = Cost(networks * (2 * large + small), networks * item * (2 * theta + again_x * (x + n)))
    return {"residual": residual, "gradient": gradient}


def total(costs: dict[str, Cost]) -> Cost:
    """Sum over the kernels."""
    return Cost(sum(c.flops for c in costs.values()), sum(c.bytes for c in costs.values()))


def floor(costs: dict[str, Cost], rate: float, bandwidth: float) -> float:
    """Seconds: kernels run one after the other, so their floors add up."""
    return sum(c.floor(rate, bandwidth) for c in costs.values())


def statement(problem: TeacherStudent, networks: int = 64, device: Device = H200, points: int = 64, neurons: int = 64) -> str:
    """The roofline of one gradient of ``networks`` networks in words: bytes, FLOPs, floor; plain operators against the fused kernels."""
    plain, fused = plain_gradient(problem, networks), fused_gradient(problem, networks)
    tiled = fused_gradient(problem, networks, points=points, neurons=neurons)
    rows = [
        ("separate operators, float32", plain, device.float32), ("fused, float32", fused, device.float32),
        ("fused, float32 as three tf32 products", fused, device.tf32 / 3), ("the same, every tile read from memory", tiled, device.tf32 / 3),
    ]
    head = f"{networks} networks, N={problem.width} n={problem.samples} d={problem.dimension}, one gradient; {device.name} ({device.source}):\n"
    return head + "\n".join(
        f"  {name:<38}: {total(c).flops / 1e9:6.1f} GFLOP, {total(c).bytes / 1e9:6.3f} GB, {total(c).intensity:6.0f} FLOP/byte, "
        f"floor {1e3 * floor(c, rate, device.bandwidth):.2f} ms" for name, c, rate in rows
    )
