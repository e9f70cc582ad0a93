"""What runs otherwise on a GPU: the fused gradient, noise of one launch, and a step replayed as one CUDA graph. Imports no triton on a CPU."""

from __future__ import annotations

import importlib
import logging

import torch

_log = logging.getLogger(__name__)
_TOLERANCE = 1e-5  # float32 leaves about 2e-7, a product in tf32 alone 1e-4


def kernels(posterior):
    """The module of Triton kernels where this posterior is on a GPU and they can serve it, else None, the reason logged."""
    if posterior.device.type != "cuda":
        return None
    try:
        fused = importlib.import_module("grokutils.sampling._fused")
    except ImportError as error:
        _log.warning("no fused kernels: %s", error)
        return None
    if not fused.supports(posterior):
        _log.info("no fused kernels for %s, %s, d = %s", posterior.dtype, posterior.problem.phi.name, posterior.problem.dimension)
        return None
    if (error := _disagreement(posterior, fused)) > _TOLERANCE:
        _log.warning("the fused kernels are not used: on this device their gradient is off by %.1e", error)
        return None
    return fused


def _disagreement(posterior, fused) -> float:
    """Relative difference of the fused and the plain gradient at a prior draw: a kernel that a compiler got wrong must not sample silently."""
    theta = posterior.prior_draw(range(posterior.networks))
    plain, other = posterior.likelihood(theta)[1], fused.likelihood(posterior, theta)[1]
    return float((other - plain).norm() / plain.norm())


def capture(advance):
    """``advance`` as one CUDA graph: () -> None, replayed by a single launch. Runs it twice beforehand."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # kernels are compiled and libraries set up outside the capture
            advance()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        advance()
    return graph.replay


class Loop:
    """``step``: state -> state, made to run without the host: () -> state, in buffers that stay where they are.

    On a GPU the step is captured once as a CUDA graph and then replayed; where that fails, and on a CPU, it is called each time.
    The numbers are the same either way.

    Args:
        step: calls no ``.item()`` and copies nothing from the host; what it keeps from call to call is in ``state`` or ``counters``.
        state: a NamedTuple of tensors.
        counters: tensors that the step changes besides, such as ``Noise.count``.
    """

    def __init__(self, step, state, counters=()):
        self._step, self._call = step, self._advance
        self.state = type(state)(*(x.clone() for x in state))
        if self.state[0].is_cuda:
            self._on_device(counters)

    def _on_device(self, counters):
        kept = (*self.state, *counters)
        before = [x.clone() for x in kept]
        try:
            self._call = capture(self._advance)
        except RuntimeError as error:
            _log.warning("no CUDA graph, each step is launched from the host: %s", error)
        for x, value in zip(kept, before, strict=True):  # trial steps leave no trace
            x.copy_(value)

    def _advance(self):
        for buffer, value in zip(self.state, self._step(self.state), strict=True):
            if value is not buffer:
                buffer.copy_(value)

    def __call__(self):
        self._call()
        return self.state
