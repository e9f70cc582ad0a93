"""The GPU half: fused kernels (run on a GPU, or by Triton's interpreter on the CPU), counter-based noise, CUDA graphs, the roofline."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from ztest import ALPHA, assert_mean, assert_variance

from grokutils import roofline
from grokutils.problems import TeacherStudent
from grokutils.sampling import TeacherStudentPosterior, _device_loop, draw_data, sample, underdamped

TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = TRITON and os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if CUDA else "cpu"

needs_triton = pytest.mark.skipif(not TRITON, reason="triton is not installed")
needs_kernels = pytest.mark.skipif(not (INTERPRETED or (CUDA and TRITON)), reason="needs a GPU with triton, or TRITON_INTERPRET=1")
needs_interpreter = pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1")
needs_compiler = pytest.mark.skipif(not TRITON or INTERPRETED, reason="triton is not installed, or interprets")
needs_gpu = pytest.mark.skipif(not CUDA, reason="no GPU")

# (n, N, d): no multiples of a tile's sides, less than a tile, one more than a tile, one and two pieces of d
SIZES = [(12, 4, 3), (65, 33, 17), (130, 129, 53), (40, 66, 150), (33, 20, 320)]


@pytest.fixture
def fused():
    from grokutils.sampling import _fused

    return _fused


def problem_of(n, width, d, phi="erf"):
    return TeacherStudent(n, d, width, 0.3, 2.0, 0.8, {1: 1.0, 3: -0.3}, activation=phi)


def posteriors(problem, datasets=2, chains=3, device=DEVICE):
    """The same data in float32, and in float64 on the CPU."""
    data = [z.astype(np.float32) for z in draw_data(problem, datasets, seed=3)]
    return TeacherStudentPosterior(problem, *data, chains, device), TeacherStudentPosterior(problem, *data, chains, dtype="float64")


def relative(value, exact):
    return float((value.double().cpu() - exact).norm() / exact.norm())


def assert_same(post, double, likelihood, tolerance=1e-6):
    theta = post.prior_draw(range(post.networks))
    energy, gradient = likelihood(post, theta)
    exact_energy, exact = double.likelihood(theta.double().cpu())
    assert energy.dtype == torch.float64
    assert relative(energy, exact_energy) < tolerance
    for part in (0, 1):  # weights, readouts
        assert relative(post.unpack(gradient)[part], double.unpack(exact)[part]) < tolerance


@needs_kernels
@pytest.mark.parametrize("sizes", SIZES)
def test_fused_gradient_is_the_plain_one(fused, sizes):
    assert_same(*posteriors(problem_of(*sizes)), fused.likelihood)


@needs_kernels
@pytest.mark.parametrize("phi", ["tanh", "relu"])
def test_fused_gradient_of_other_activations(fused, phi):
    assert_same(*posteriors(problem_of(65, 33, 17, phi)), fused.likelihood)


@needs_kernels
def test_small_tiles_give_the_same(fused, monkeypatch):
    monkeypatch.setattr(fused, "_ROOMY", 10**9)  # no device has that much shared memory
    monkeypatch.setattr(fused.tiles, "__defaults__", (0,))
    assert_same(*posteriors(problem_of(65, 33, 170)), lambda post, theta: fused.likelihood(post, theta))
    assert fused.tiles(170, 10**6)[0]["POINTS"] == 16


@needs_kernels
def test_a_network_is_bit_for_bit_the_same_in_any_batch(fused):
    post, _ = posteriors(problem_of(65, 33, 17), datasets=2, chains=3)
    alone, _ = posteriors(problem_of(65, 33, 17), datasets=1, chains=1)
    theta = post.prior_draw(range(6))
    energy, gradient = fused.likelihood(post, theta)
    energy1, gradient1 = fused.likelihood(alone, theta[:1])
    assert torch.equal(energy[:1], energy1) and torch.equal(gradient[:1], gradient1)


def test_a_tile_covers_the_dimension_with_little_waste():
    pytest.importorskip("triton")
    from grokutils.sampling._fused import LARGEST_DIMENSION, pieces

    for d in range(2, LARGEST_DIMENSION + 1):
        a, b = pieces(d)
        assert a + b >= d and all(k & (k - 1) == 0 and k != 8 for k in (a, b)) and a >= 16
    assert pieces(150) == (128, 32) and pieces(300) == (256, 64) and pieces(64) == (64, 0)


def philox(counter, key):
    """Philox 4x32-10 (Salmon et al. 2011): counter (4, ...) and key (2, ...) of 32-bit numbers held as uint64."""
    c, k = [np.asarray(x, dtype=np.uint64) for x in counter], [np.asarray(x, dtype=np.uint64) for x in key]
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> shift) ^ c[1] ^ k[0], p1 & low, (p0 >> shift) ^ c[3] ^ k[1], p0 & low]
        k = [(k[0] + np.uint64(0x9E3779B9)) & low, (k[1] + np.uint64(0xBB67AE85)) & low]
    return c


def test_the_reference_philox_has_the_published_answers():
    ones = 0xFFFFFFFF
    for counter, key, answer in (
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ):
        assert tuple(int(x) for x in philox(counter, key)) == answer


SEEDS = [5, 2**62 + 12345, 2**33 + 5]


def noise_of(fused, size, seeds=SEEDS):
    return fused.Noise(SimpleNamespace(device=torch.device(DEVICE), size=size), seeds)


@needs_kernels
def test_noise_is_box_and_muller_of_philox(fused):
    size, quarter = 1027, 257
    noise = noise_of(fused, size)
    noise.count += 2**32 + 3
    z = noise().cpu().numpy()
    assert int(noise.count) == 2**32 + 4
    place = np.arange(quarter)
    for row, seed in zip(z, SEEDS):
        a, b, c, e = (x.astype(float) for x in philox((place, 3 + 0 * place, 1 + 0 * place, 0 * place), (seed & 0xFFFFFFFF, seed >> 32)))
        expected = [
            np.sqrt(-2 * np.log((u + 0.5) / 2**32)) * f(2 * np.pi * v / 2**32) for u, v in ((a, b), (c, e)) for f in (np.cos, np.sin)
        ]
        np.testing.assert_allclose(row, np.concatenate(expected)[:size], atol=1e-5)


@needs_kernels
@pytest.mark.statistical
def test_noise_is_standard_normal_and_independent(fused):
    """Six comparisons at ALPHA each."""
    noise = noise_of(fused, 20_000)
    first = noise().cpu().numpy().astype(float)
    second = noise().cpu().numpy()
    assert_mean(first, 0.0)
    assert_variance(first, 1.0)
    assert_mean(first**4, 3.0)
    assert_mean(first * second, 0.0)  # draws
    assert_mean(first[0] * first[1], 0.0)  # networks
    assert_mean(first[:, :5000] * first[:, 5000:10_000], 0.0)  # the two of one pair


@needs_kernels
def test_noise_of_a_network_depends_on_its_seed_alone(fused):
    together, alone = noise_of(fused, 1027), noise_of(fused, 1027, SEEDS[1:2])
    for _ in range(3):
        assert torch.equal(together()[1:2], alone())


@needs_interpreter
def test_a_split_product_keeps_float32_and_a_single_one_does_not(fused, monkeypatch):
    """The interpreter's products, rounded as the matrix unit rounds them."""
    from triton.runtime.interpreter import InterpreterBuilder

    create_dot = InterpreterBuilder.create_dot

    def rounded(x):
        return ((x.view(np.int32) + 0x1000) & ~0x1FFF).view(np.float32)

    def emulated(self, a, b, d, input_precision, imprecise):
        high = [rounded(x.data) for x in (a, b)]
        low = [rounded(x.data - h) for x, h in zip((a, b), high)]
        names.add(input_precision.name)
        out = create_dot(self, a, b, d, input_precision, imprecise)
        extra = low[0] @ high[1] + high[0] @ low[1] if input_precision.name == "TF32x3" else 0
        out.data = high[0] @ high[1] + extra + d.data
        return out

    names, (post, double) = set(), posteriors(problem_of(65, 33, 17))
    monkeypatch.setattr(InterpreterBuilder, "create_dot", emulated)
    assert_same(post, double, fused.likelihood)
    with pytest.raises(AssertionError):
        assert_same(post, double, lambda post, theta: fused.likelihood(post, theta, "tf32"), 1e-5)
    assert names == {"TF32x3", "TF32"}


@needs_interpreter
def test_the_kernels_move_and_multiply_what_the_roofline_says(fused, monkeypatch):
    from triton.runtime.interpreter import InterpreterBuilder

    moved, products = [0], [0]
    originals = {name: getattr(InterpreterBuilder, name) for name in ("create_masked_load", "create_masked_store", "create_dot")}

    def load(self, pointers, mask, *rest):
        moved[0] += 4 * int(mask.data.sum())
        return originals["create_masked_load"](self, pointers, mask, *rest)

    def store(self, pointers, value, mask, *rest):
        moved[0] += 4 * int(mask.data.sum())
        return originals["create_masked_store"](self, pointers, value, mask, *rest)

    def dot(self, a, b, *rest):
        products[0] += 2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1]
        return originals["create_dot"](self, a, b, *rest)

    for name, function in zip(originals, (load, store, dot)):
        monkeypatch.setattr(InterpreterBuilder, name, function)
    first, second = fused.tiles(48)
    problem = problem_of(192, 128, 48)  # multiples of the tiles: the products of the padding are not counted by the roofline
    post, _ = posteriors(problem, datasets=1, chains=2)
    fused.likelihood(post, post.prior_draw([0, 1]))
    cost = roofline.total(roofline.fused_gradient(problem, 2, points=first["POINTS"], neurons=second["NEURONS"]))
    assert products[0] == cost.flops - 2 * 4 * 192 * 128  # but for the products with the readouts and with the residual
    assert moved[0] == cost.bytes
    assert (first["POINTS"], second["NEURONS"]) == (64, 64)  # what roofline.statement takes


@needs_triton
@pytest.mark.slow
def test_the_kernels_in_the_interpreter():
    """The tests above again on the CPU; a process of its own, as triton takes the setting when it is imported."""
    if INTERPRETED:
        pytest.skip("this is the inner run")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-4000:]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("capability", "shared"), [(90, 232_448), (80, 101_376)])  # Hopper; the least that GPUs since Ampere have
def test_the_kernels_compile_and_fit_a_gpu(fused, capability, shared):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    numbers = dict(n="i32", width="i32", d="i32", chains="i32", scale_w="fp32", scale_a="fp32", scale_u="fp32", scale_v="fp32")
    for d in (150, 320):
        for kernel, tile in zip((fused._residual_kernel, fused._gradient_kernel), fused.tiles(d, shared)):
            options = {k: v for k, v in tile.items() if k not in kernel.arg_names}
            constants = dict(zip(("D1", "D2"), fused.pieces(d)), PHI="erf", PRECISION=fused.PRECISION, **tile)
            constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
            signature = {k: "constexpr" if k in constants else numbers.get(k, "*fp32") for k in kernel.arg_names}
            source = ASTSource(kernel, signature, {(kernel.arg_names.index(k),): v for k, v in constants.items()})
            binary = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert binary.metadata.shared <= shared
            assert "cvt.rna.tf32" in binary.asm["ptx"] and "atom." not in binary.asm["ptx"]


BLOCKED = """
import json, sys
sys.modules["triton"] = None
from grokutils.problems import TeacherStudent
from grokutils.sampling import sample
p = TeacherStudent(12, 3, 4, 0.3, 2.0, 0.8, {1: 1.0, 3: -0.3})
ds = sample(p, datasets=2, chains=2, draws=3, warmup=5, progress=False)
assert "grokutils.sampling._fused" not in sys.modules
print(json.dumps(ds.energy.values.tolist()))
"""


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="has nothing to do with the kernels")
def test_cpu_results_need_no_triton_and_no_gpu():
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    without = subprocess.run([sys.executable, "-c", BLOCKED], env=environment, capture_output=True, text=True, check=True).stdout
    here = sample(problem_of(12, 4, 3), datasets=2, chains=2, draws=3, warmup=5, progress=False)
    assert json.loads(without) == here.energy.values.tolist()


def test_without_triton_the_reason_is_logged(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "grokutils.sampling._fused", None)
    post = SimpleNamespace(device=torch.device("cuda"))
    assert _device_loop.kernels(post) is None and "no fused kernels" in caplog.text
    assert _device_loop.kernels(SimpleNamespace(device=torch.device("cpu"))) is None


def test_a_kernel_that_disagrees_with_the_plain_gradient_is_noticed(tiny):
    post = TeacherStudentPosterior(tiny, *draw_data(tiny, 2), 2)

    def module(factor):
        return SimpleNamespace(likelihood=lambda posterior, theta: (None, factor * posterior.likelihood(theta)[1]))

    assert _device_loop._disagreement(post, module(1.0)) < _device_loop._TOLERANCE < _device_loop._disagreement(post, module(1.0001))


@needs_triton
def test_what_the_kernels_cannot_do_is_left_to_the_plain_gradient(fused, tiny):
    def supports(problem=tiny, dtype=torch.float32):
        return fused.supports(SimpleNamespace(problem=problem, dtype=dtype))

    assert supports() and supports(tiny.replace(activation="tanh")) and supports(tiny.replace(dimension=320))
    assert not supports(dtype=torch.float64) and not supports(tiny.replace(activation="sin")) and not supports(tiny.replace(dimension=321))


class CountedNoise:
    """Noise that is a function of a counter, as on the device."""

    def __init__(self, post):
        self.shape, self.count, self.device = (post.networks, post.size), torch.zeros(1, dtype=torch.int64, device=post.device), post.device

    def __call__(self):
        place = torch.arange(self.shape[0] * self.shape[1], device=self.device).view(self.shape)
        self.count += 1
        return torch.cos((place * 12.9898 + self.count * 78.233).float())


def trajectories(post, noise_of):
    """Ten steps in a Loop and ten by ``underdamped.step``: (state, count) of each."""
    h = torch.full((post.networks, 1), 0.2, dtype=post.dtype, device=post.device)
    out = []
    for use_loop in (True, False):
        noise = noise_of(post)
        state = underdamped.init(post.prior_draw(range(post.networks)), post.energy_gradient, noise)

        def step(state, noise=noise):
            return underdamped.step(state, post.energy_gradient, noise, h, 0.5)

        if use_loop:
            loop = _device_loop.Loop(step, state, [noise.count])
            places = [x.data_ptr() for x in loop.state]
            for _ in range(10):
                state = loop()
            assert [x.data_ptr() for x in state] == places
        else:
            for _ in range(10):
                state = step(state)
        out.append((state, int(noise.count)))
    return out


def assert_same_trajectory(pair):
    (one, count1), (two, count2) = pair
    assert count1 == count2 == 11
    assert all(torch.equal(a, b) for a, b in zip(one, two))


@pytest.mark.parametrize("outcome", ["eager", "captured", "capture fails"])
def test_a_loop_is_its_steps(tiny, outcome, monkeypatch, caplog):
    """Without a GPU a capture is a function that runs the step three times beforehand, which must leave no trace."""
    def stand_in(advance):
        for _ in range(3):
            advance()
        if outcome == "capture fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        return advance

    def on_device(step, state, counters):
        loop = original(step, state)
        loop._on_device(counters)
        return loop

    original = _device_loop.Loop
    if outcome != "eager":
        monkeypatch.setattr(_device_loop, "capture", stand_in)
        monkeypatch.setattr(_device_loop, "Loop", on_device)
    assert_same_trajectory(trajectories(posteriors(tiny, device="cpu")[0], CountedNoise))
    assert ("no CUDA graph" in caplog.text) == (outcome == "capture fails")


def nbytes(tree):
    return sum(x.nbytes for x in {id(x): x for x in tree_leaves(tree) if torch.is_tensor(x)}.values())


class CountBytes(TorchDispatchMode):
    """Bytes that operators read and write, each tensor once an operator; views move nothing."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        if not (function.is_view or "empty" in str(function)):
            self.total += nbytes((args, {k: v for k, v in kwargs.items() if k != "out"})) + nbytes(out)
        return out


@pytest.mark.skipif(INTERPRETED, reason="has nothing to do with the kernels")
def test_the_plain_gradient_costs_what_the_roofline_says(monkeypatch):
    """FLOPs as torch counts them; bytes, a bound from below, are most of what the operators move."""
    problem = TeacherStudent.paper(0.15, beta=1 / 8).rounded()
    post, _ = posteriors(problem, datasets=1, chains=2, device="cpu")
    theta, cost = post.prior_draw([0, 1]), roofline.total(roofline.plain_gradient(problem, 2))
    monkeypatch.setitem(flop_registry, torch.ops.aten.baddbmm_, flop_registry[torch.ops.aten.baddbmm])  # torch forgets the one in place
    with FlopCounterMode(display=False) as flops:
        post.likelihood(theta)
    assert flops.get_total_flops() == cost.flops
    with CountBytes() as moved:
        post.likelihood(theta)
    assert cost.bytes <= moved.total < 2 * cost.bytes


def test_roofline_numbers():
    p = problem_of(3000, 700, 150)
    plain, fused = (roofline.total(f(p, 64)) for f in (roofline.plain_gradient, roofline.fused_gradient))
    product = 2 * 3000 * 700 * 150
    assert plain.flops == pytest.approx(64 * 2 * product, rel=0.01) and fused.flops == pytest.approx(64 * 3 * product, rel=0.01)
    assert plain.bytes > 8 * 4 * 64 * 3000 * 700  # the n x N arrays
    assert fused.bytes == 64 * 4 * (2 * 3000 * 150 + 3 * 700 * 151 + 3 * 3000)
    tiled = roofline.total(roofline.fused_gradient(p, 64, points=64, neurons=64))
    assert fused.bytes < tiled.bytes < plain.bytes and tiled.flops == fused.flops
    assert roofline.total(roofline.plain_gradient(p, 1, "float64")).bytes == 2 * roofline.total(roofline.plain_gradient(p, 1)).bytes
    assert roofline.Cost(6, 2).intensity == 3 and roofline.Cost(6, 2).floor(3, 4) == 2 and roofline.Cost(6, 2).floor(60, 4) == 0.5
    text = roofline.statement(p)
    assert f"{fused.flops / 1e9:.1f} GFLOP" in text and "H200" in text and "datasheet" in text


@needs_gpu
def test_gpu_is_cpu(small):
    gpu, double = posteriors(small, device="cuda")
    theta = gpu.prior_draw(range(gpu.networks))
    energy, gradient = gpu.likelihood(theta)
    exact_energy, exact = double.likelihood(theta.double().cpu())
    assert relative(energy, exact_energy) < 3e-6 and relative(gradient, exact) < 3e-6


@needs_gpu
def test_a_replayed_graph_is_its_steps_bit_for_bit_and_never_waits_for_the_host(small, caplog):
    from grokutils.sampling import _fused

    post, _ = posteriors(small, device="cuda")
    post.likelihood = lambda theta: _fused.likelihood(post, theta)
    assert_same_trajectory(trajectories(post, lambda post: _fused.Noise(post, range(post.networks))))
    assert "no CUDA graph" not in caplog.text
    noise, h = _fused.Noise(post, range(post.networks)), torch.full((post.networks, 1), 0.2, device="cuda")
    state = underdamped.init(post.prior_draw(range(post.networks)), post.energy_gradient, noise)
    loop = _device_loop.Loop(lambda s: underdamped.step(s, post.energy_gradient, noise, h, 0.5), state, [noise.count])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            loop()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.statistical
def test_an_ensemble_has_the_same_law_on_the_gpu(tiny):
    """Independent chains of one data set, a draw each: a z-test of two means at ALPHA for each observable."""
    from scipy.stats import norm

    runs = [sample(tiny, datasets=1, chains=400, draws=1, warmup=300, device=d, seed=1, progress=False) for d in ("cpu", "cuda")]
    for name in ("energy", "second_moment", "train_loss"):
        a, b = (r[name].values.ravel() for r in runs)
        z = (a.mean() - b.mean()) / math.sqrt((a.var() + b.var()) / a.size)
        assert abs(z) < norm.isf(ALPHA / 2), f"{name}: z = {z:.1f}"
