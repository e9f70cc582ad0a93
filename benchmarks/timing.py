"""Times that can be compared: taken in turn within one run; and the machine they were taken on."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch


def interleaved(functions, rounds=9, least=0.02, clock=time.process_time) -> dict[str, float]:
    """Median seconds of a call of each of {name: function}, the functions taken in turn round by round.

    The default clock is the processor time of this process, which other processes' load lengthens less than it does the wall's. Calls
    shorter than ``least`` seconds are timed several in a row, as a loop would make them.
    """
    calls = {}
    for name, function in functions.items():
        function()
        start = clock()
        function()
        calls[name] = max(1, round(least / max(clock() - start, 1e-6)))
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            for _ in range(calls[name]):
                function()
            times[name].append((clock() - start) / calls[name])
    return {name: statistics.median(t) for name, t in times.items()}


@contextlib.contextmanager
def one_thread():
    """One thread inside torch's operators."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict:
    """Processor, cores, load before the run, versions, date."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    flags = torch.backends.cpu.get_cpu_capability()
    return dict(
        processor=f"{names[0] if names else platform.processor() or platform.machine()} ({flags})", cores=cores(),
        load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None, system=platform.system(), python=platform.python_version(),
        torch=version("torch"), numpy=version("numpy"), grokutils=version("grokutils"), date=datetime.date.today().isoformat(),
    )
