"""Triton kernels for a GPU: the likelihood's gradient without the n x N pre-activations in memory, and counter-based noise.

Imported only where a GPU is used (``_device_loop``); importing it needs triton.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

ACTIVATIONS = {"erf": 2 / math.sqrt(math.pi), "tanh": 1.0, "relu": 1.0}  # the constant factor of phi' that _value_and_slope leaves out
LARGEST_DIMENSION = 320  # of the inputs: a tile holds all of a row
# The matrix unit takes operands of 11 significant bits. "tf32x3" splits each in two and adds three products, which loses about as little
# as float32 does; "tf32", one product, loses hundreds of times more (benchmarks/gpu.py prints how much); "ieee" keeps off the matrix unit.
PRECISION = "tf32x3"


def pieces(d: int) -> tuple[int, int]:
    """Two powers of two, from 16 on (the second may be 0), whose sum covers d with the least waste: tiles have such sides only."""
    powers = [2**k for k in range(4, 9)]
    return min(((a, b) for a in powers for b in [0, *powers] if b <= a and a + b >= d), key=lambda ab: (sum(ab), ab[1] > 0))


# Sides of a tile (points, neurons) and the warps that share it, by hand: a choice by timing would change the round-off from run to run.
# The outer side of each kernel, 64, is what Hopper's matrix unit takes; the inner one is bounded by registers and by shared memory.
_ROOMY = 227 * 1024  # bytes of shared memory a block may have on Hopper and Blackwell data-centre GPUs; 99 kB will do for the small tiles


_OPTIONS = dict(num_stages=1, enable_fp_fusion=True)  # said, as triton's own choice differs between versions


def tiles(d: int, shared: int = _ROOMY) -> tuple[dict, dict]:
    """The tile of the residual's and of the gradient's kernel on a device with that much shared memory a block, and how to compile them."""
    if shared < _ROOMY:
        small = dict(POINTS=16, NEURONS=32, num_warps=4, **_OPTIONS)
        return small, small
    return (
        dict(POINTS=64, NEURONS=32, num_warps=4, **_OPTIONS),
        dict(POINTS=32, NEURONS=64, num_warps=4 if d <= 160 else 8, **_OPTIONS),
    )


@triton.jit
def _value_and_slope(h, PHI: tl.constexpr):
    if PHI == "erf":
        return tl.erf(h), tl.exp(-h * h)
    elif PHI == "tanh":
        phi = 1 - 2 / (tl.exp(2 * h) + 1)
        return phi, 1 - phi * phi
    else:
        return tl.maximum(h, 0.0), tl.where(h > 0, 1.0, 0.0)


@triton.jit
def _load(start, rows, height, first: tl.constexpr, d, SIDE: tl.constexpr):
    """Rows of a (height, d) matrix, columns first to first + SIDE, zeros outside."""
    columns = first + tl.arange(0, SIDE)
    return tl.load(start + rows[:, None] * d + columns[None, :], mask=(rows < height)[:, None] & (columns < d)[None, :], other=0.0)


@triton.jit
def _store(start, rows, height, first: tl.constexpr, d, SIDE: tl.constexpr, values):
    columns = first + tl.arange(0, SIDE)
    tl.store(start + rows[:, None] * d + columns[None, :], values, mask=(rows < height)[:, None] & (columns < d)[None, :])


@triton.jit
def _residual_kernel(
    theta, inputs, targets, residual, n, width, d, chains, scale_w, scale_a,
    PHI: tl.constexpr, PRECISION: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, POINTS: tl.constexpr, NEURONS: tl.constexpr,
):
    """residual = f - y of one tile of points of one network, neurons summed tile by tile."""
    count = tl.cdiv(n, POINTS)
    network = (tl.program_id(0) // count).to(tl.int64)  # offsets between networks pass 2^31
    data = network // chains
    points = tl.program_id(0) % count * POINTS + tl.arange(0, POINTS)
    u = theta + network * width * (d + 1)
    v = u + width * d
    x1 = _load(inputs + data * n * d, points, n, 0, d, D1)
    if D2 > 0:
        x2 = _load(inputs + data * n * d, points, n, D1, d, D2)
    f = tl.zeros((POINTS,), tl.float32)
    for start in range(0, width, NEURONS):
        neurons = start + tl.arange(0, NEURONS)
        pre = tl.dot(x1, tl.trans(_load(u, neurons, width, 0, d, D1)), input_precision=PRECISION)
        if D2 > 0:
            pre = tl.dot(x2, tl.trans(_load(u, neurons, width, D1, d, D2)), pre, input_precision=PRECISION)
        phi, _ = _value_and_slope(scale_w * pre, PHI)
        f += tl.sum(phi * tl.load(v + neurons, mask=neurons < width, other=0.0)[None, :], axis=1)
    y = tl.load(targets + data * n + points, mask=points < n, other=0.0)
    tl.store(residual + network * n + points, scale_a * f - y, mask=points < n)


@triton.jit
def _gradient_kernel(
    theta, inputs, residual, gradient, n, width, d, chains, scale_w, scale_u, scale_v,
    PHI: tl.constexpr, PRECISION: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, POINTS: tl.constexpr, NEURONS: tl.constexpr,
):
    """The gradient of one tile of neurons of one network; pre-activations are made again and the points summed tile by tile."""
    count = tl.cdiv(width, NEURONS)
    network = (tl.program_id(0) // count).to(tl.int64)
    data = network // chains
    neurons = tl.program_id(0) % count * NEURONS + tl.arange(0, NEURONS)
    begin = network * width * (d + 1)
    u, end = theta + begin, begin + width * d
    w1 = _load(u, neurons, width, 0, d, D1)
    grad1, grad_v = tl.zeros((NEURONS, D1), tl.float32), tl.zeros((NEURONS,), tl.float32)
    if D2 > 0:
        w2 = _load(u, neurons, width, D1, d, D2)
        grad2 = tl.zeros((NEURONS, D2), tl.float32)
    for start in range(0, n, POINTS):
        points = start + tl.arange(0, POINTS)
        x1 = _load(inputs + data * n * d, points, n, 0, d, D1)
        pre = tl.dot(w1, tl.trans(x1), input_precision=PRECISION)
        if D2 > 0:
            x2 = _load(inputs + data * n * d, points, n, D1, d, D2)
            pre = tl.dot(w2, tl.trans(x2), pre, input_precision=PRECISION)
        r = tl.load(residual + network * n + points, mask=points < n, other=0.0)[None, :]
        phi, slope = _value_and_slope(scale_w * pre, PHI)
        grad_v += tl.sum(phi * r, axis=1)
        grad1 = tl.dot(slope * r, x1, grad1, input_precision=PRECISION)
        if D2 > 0:
            grad2 = tl.dot(slope * r, x2, grad2, input_precision=PRECISION)
    inside = neurons < width
    tl.store(gradient + end + neurons, scale_v * grad_v, mask=inside)
    readout = scale_u * tl.load(theta + end + neurons, mask=inside, other=0.0)[:, None]
    _store(gradient + begin, neurons, width, 0, d, D1, readout * grad1)
    if D2 > 0:
        _store(gradient + begin, neurons, width, D1, d, D2, readout * grad2)


def likelihood(posterior, theta, precision: str = PRECISION):
    r"""As ``TeacherStudentPosterior.likelihood``, in memory of order $(n+N)d$ a network: one pass for the residual, one for the gradient.

    A network's numbers do not depend on the batch, nor on the order in which the device runs the tiles (no atomics).
    """
    p, theta = posterior.problem, theta.contiguous()
    residual = torch.empty(len(theta), p.samples, dtype=theta.dtype, device=theta.device)
    gradient = torch.empty_like(theta)
    shared = torch.cuda.get_device_properties(theta.device).shared_memory_per_block_optin if theta.is_cuda else _ROOMY
    first, second = tiles(p.dimension, shared)
    what = dict(zip(("D1", "D2"), pieces(p.dimension)), PHI=p.phi.name, PRECISION=precision)
    sizes = p.samples, p.width, p.dimension, posterior.chains
    s2, scale_w, scale_a = p.noise_variance, posterior.scale_w, posterior.scale_a
    _residual_kernel[(len(theta) * triton.cdiv(p.samples, first["POINTS"]),)](
        theta, posterior.inputs, posterior.targets, residual, *sizes, scale_w, scale_a, **what, **first
    )
    scale_u = ACTIVATIONS[p.phi.name] * scale_w * scale_a / s2
    _gradient_kernel[(len(theta) * triton.cdiv(p.width, second["NEURONS"]),)](
        theta, posterior.inputs, residual, gradient, *sizes, scale_w, scale_u, scale_a / s2, **what, **second
    )
    return residual.square().sum(1, dtype=torch.float64) / (2 * s2), gradient


def supports(posterior) -> bool:
    """Whether ``likelihood`` can stand in for the posterior's own."""
    p = posterior.problem
    return posterior.dtype == torch.float32 and p.phi.name in ACTIVATIONS and p.dimension <= LARGEST_DIMENSION


@triton.jit
def _normal_pair(a, b):
    """Two normal numbers of two 32-bit ones (Box and Muller); the half keeps the logarithm's argument above 0."""
    radius = tl.sqrt(-2 * tl.log((a.to(tl.float32) + 0.5) * 2.3283064365386963e-10))
    angle = b.to(tl.float32) * 1.4629180792671596e-09  # 2 pi / 2^32
    return radius * tl.cos(angle), radius * tl.sin(angle)


@triton.jit
def _normal_kernel(out, seeds, count, size, quarter, BLOCK: tl.constexpr):
    """Row ``network`` of out: key = its seed, counter = (place in the row, which draw); four numbers a place, a quarter of the row apart."""
    blocks = tl.cdiv(quarter, BLOCK)
    network = (tl.program_id(0) // blocks).to(tl.int64)
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    draw = tl.load(count) + tl.zeros((BLOCK,), tl.int64)
    low, high = (draw & 0xFFFFFFFF).to(tl.uint32), (draw >> 32).to(tl.uint32)
    a, b, c, e = tl.philox(tl.load(seeds + network), place.to(tl.uint32), low, high, tl.zeros((BLOCK,), tl.uint32))
    z0, z1 = _normal_pair(a, b)
    z2, z3 = _normal_pair(c, e)
    row, inside = out + network * size + place, place < quarter
    tl.store(row, z0, mask=inside)
    tl.store(row + quarter, z1, mask=inside & (place + quarter < size))
    tl.store(row + 2 * quarter, z2, mask=inside & (place + 2 * quarter < size))
    tl.store(row + 3 * quarter, z3, mask=inside & (place + 3 * quarter < size))


class Noise:
    """Standard normal numbers (networks, size) by Philox 4x32-10, one launch for all; a network's stream depends on its seed alone.

    ``count``, on the device, says which draw comes next, so that a replayed CUDA graph goes on in the stream.
    """

    def __init__(self, posterior, seeds):
        self._seeds = torch.tensor([int(s) for s in seeds], dtype=torch.int64, device=posterior.device)
        self.count = torch.zeros(1, dtype=torch.int64, device=posterior.device)
        self._buffer = torch.empty(len(self._seeds), posterior.size, dtype=torch.float32, device=posterior.device)

    def __call__(self):
        networks, size = self._buffer.shape
        quarter, block = triton.cdiv(size, 4), 256
        _normal_kernel[(networks * triton.cdiv(quarter, block),)](self._buffer, self._seeds, self.count, size, quarter, BLOCK=block, **_OPTIONS)
        self.count += 1
        return self._buffer
