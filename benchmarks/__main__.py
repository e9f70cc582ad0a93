"""``python -m benchmarks [--quick] [--only SECTION] [--output FILE]``: measure, and write results/benchmarks.json section by section."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np

from benchmarks import descent, gpu, gradient, sampling, scaling
from benchmarks.timing import machine

SECTIONS = {"gradient": gradient.measure, "sampling": sampling.measure, "scaling": scaling.measure, "descent": descent.measure, "gpu": gpu.measure}
OUTPUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks.json"


def rounded(value, digits: int = 5):
    """The same record with its floats cut to so many digits; a number that is not finite becomes null, as JSON has none."""
    if isinstance(value, dict):
        return {str(k): rounded(v, digits) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def save(path: Path, record: dict) -> None:
    """Write to a file beside it, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary.write_text(json.dumps(rounded(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; wants --output")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="measure this section (may be given again), keep the others")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    if options.quick and options.output == OUTPUT:
        parser.error("--quick is no measurement: give it an --output of its own")
    record = json.loads(options.output.read_text(encoding="utf-8")) if options.only and options.output.exists() else {}
    began = time.perf_counter()
    for name in options.only or SECTIONS:
        def report(text, name=name):
            print(f"[{time.perf_counter() - began:4.0f} s] {name}: {text}", flush=True)

        where = machine()
        report("begins")
        record[name] = dict(machine=where, quick=options.quick, **SECTIONS[name](options.quick, report))
        save(options.output, record)
    print(f"written: {options.output.name}")


if __name__ == "__main__":
    main()
