"""Write book/_static/explorer/phase-data.js, the data of the phase explorer, from the stored phase diagrams.

    python tools/phase_data.py            # write the file
    python tools/phase_data.py --check    # fail if the file is not what results/ gives

The file is one JSON object given to the page as a script, because a page opened from disk may not fetch files. Numbers are whole and
written in pairs of the letters of ALPHABET, most significant first; the pair for 4095 means "never" or "no more".
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from grokutils import experiments
from grokutils.experiments.published_phases import published

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "book" / "_static" / "explorer" / "phase-data.js"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NEVER = 64 * 64 - 1
COUNTS = (7, 8, 9, 10)  # validation pairs right: what the rules of the page ask for
RECORDS = (0, 1, 2, 3, 4, 5, 7, 9, 12, 15, 20, 25, 30, 40, 50)  # of the stored curves, one in 200 steps
DIAGRAMS = {"regression": "decoder_decay", "classification": "decoder_decay", "rates": "embedding_rate"}
LARGEST = 150_000


def encoded(values) -> str:
    """Whole numbers from 0 to 4095 as pairs of letters; NaN is "never"."""
    values = np.asarray(values, dtype=float).ravel()
    whole = np.where(np.isfinite(values), np.rint(np.nan_to_num(values)), NEVER).astype(int)
    if whole.min(initial=0) < 0 or whole.max(initial=0) > NEVER:
        raise ValueError(f"values must be between 0 and {NEVER}, got {values.min()} to {values.max()}")
    return "".join(ALPHABET[v // 64] + ALPHABET[v % 64] for v in whole)


def curves(part, seed, axis) -> tuple[np.ndarray, list[str]]:
    """The steps, and one string a cell: (training pairs right, validation pairs right, embeddings) at each record until the run was frozen."""
    cells = part.sel(seed=seed).transpose(axis, "decoder_rate", ...)
    steps = cells.step.values[[r for r in RECORDS if r < cells.sizes["step"]]]
    cells = cells.sel(step=steps)
    train, test = np.rint(cells.train_accuracy.values * 45), np.rint(cells.test_accuracy.values * 10)
    embedding = cells.embedding.values[..., 0]
    out = []
    for i, j in np.ndindex(train.shape[:2]):
        alive = np.isfinite(train[i, j])
        low, high = np.min(embedding[i, j][alive]), np.max(embedding[i, j][alive])
        place = (embedding[i, j][alive] - low) / max(high - low, 1e-9) * 4000
        rows = np.concatenate([train[i, j][alive][:, None], test[i, j][alive][:, None], place], axis=1)
        out.append(encoded(rows) + f" {low:.3f} {high:.3f}")
    return steps, out


def diagram(name: str, axis: str, store=None) -> dict | None:
    """One diagram, None unless all its runs are stored."""
    parts = [run.load(store) for run in getattr(experiments, f"phase_{name}")()]
    if any(part is None for part in parts):
        return None
    every = int(parts[0].attrs["every"])
    other = [d for d in ("embedding_rate", "decoder_decay") if d != axis]
    parts = [part.squeeze(other, drop=True) for part in parts]
    shown = next(part for part in parts if "embedding" in part)
    seed = shown.seed.values[int(shown.first_rqi.notnull().sum([axis, "decoder_rate"]).argmax("seed"))]
    steps, runs = curves(shown, seed, axis)
    seeds = [(part, s) for part in parts for s in part.seed.values]
    times = []
    for part, s in seeds:
        one = part.sel(seed=s).transpose(axis, "decoder_rate", ...)
        both = np.concatenate([one.first_train.sel(level=[0.9]).values, one.first_test.sel(count=list(COUNTS)).values], axis=-1)
        times.append(encoded(both / every))
    known = [a.reindex({axis: parts[0][axis].values}, method="nearest", tolerance=1e-9).values for a in published(name)]
    theirs = np.stack(known, axis=-1)
    return {
        "rows": [float(f"{x:.3g}") for x in parts[0][axis].values], "every": every,
        "columns": [float(f"{x:.3g}") for x in parts[0].decoder_rate.values],
        "missing": [int(part.unlearnable.sel(seed=s)) for part, s in seeds], "times": times, "seed": [int(s) for _, s in seeds].index(int(seed)),
        "steps": steps.tolist(), "curves": runs, "published": encoded(np.where(np.isfinite(theirs), np.rint(theirs / every), np.nan)),
        "absent": [k for k, row in enumerate(parts[0][axis].values) if not np.isclose(row, published(name)[0][axis].values).any()],
    }


def script(store=None) -> str:
    """The file's text."""
    found = {name: diagram(name, axis, store) for name, axis in DIAGRAMS.items()}
    data = json.dumps({"counts": COUNTS, "diagrams": {name: d for name, d in found.items() if d}}, separators=(",", ":"))
    head = "// Written by tools/phase_data.py from results/. Do not edit."
    return f'{head}\nwindow.GrokPhaseData = {data};\ndocument.dispatchEvent(new Event("grok-solver"));\n'


def main(arguments=None, target=TARGET, store=None) -> int:
    """Write or check the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the file is not what results/ gives")
    check = parser.parse_args(arguments).check
    text = script(store)
    if len(text) > LARGEST:
        print(f"the data have {len(text)} bytes, more than {LARGEST}", file=sys.stderr)
        return 1
    if not check:
        target.write_text(text, encoding="utf-8")
        print(f"{target.name}: {len(text)} bytes")
        return 0
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        print(f"{target} is not what results/ gives: run python tools/phase_data.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
