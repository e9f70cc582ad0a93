"""Write book/benchmarks.md from results/benchmarks.json, which ``python -m benchmarks`` measures.

    python tools/benchmark_page.py            # write the page
    python tools/benchmark_page.py --check    # fail if the page is not what the numbers give
"""

import argparse
import json
import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTHING = "–"
NAMES = {
    "learned[1]": "linear overlap", "learned[3]": "cubic overlap", "second_moment": r"second moment $\langle q^2\rangle$", "droplets": "droplets",
    "samples": "data points $n$", "width": "width $N$", "dimension": "input dimension $d$", "networks": "networks",
}
Z = 1.96  # intervals are 95 %

INTRODUCTION = """\
% Written by tools/benchmark_page.py from results/benchmarks.json. Do not edit: run `make bench`, which measures all of it anew.

# Benchmarks

How fast the sampler is, against what one would write first and against the training protocol of {cite:t}`rubin2024`. Only ratios and
exponents are given: of times taken in turn, within one run, on one machine. `make bench` measures everything on this page on yours, in about a
quarter of an hour on two cores, and writes the page; times of a single thread are processor time, which other load on the machine disturbs little.
Brackets hold 95 % intervals, by the jackknife over data sets."""

GRADIENT = r"""
The gradient of the energy with respect to all weights, in float32, for what `sample` hands to one core at a time: at $\beta=1/8$ two chains
on each of two data sets, else one network. First, how many times longer four ways by automatic differentiation take: a loop over networks,
`torch.func.vmap` of `torch.func.grad`, all networks in one `einsum`, and that compiled by `torch.compile` (compiled before any timing).
Last, the share of the rate of a float32 product of two 1024 × 1024 matrices, counting our two products, $4nNd$ operations a network, and
nothing else."""

BUDGET = """
Where the time goes: each kind of operation timed alone on the same blocks, as a share of the gradient. "Vectors" are the output, the
readouts' gradient and the scaling of the inputs by the residual; "other" is what remains: calls, the prior, and data that one
operation leaves in the cache for the next and another does not. The last column is the share of the product rate at which we should be
if there were only the products."""

TRIED = """
Tried without gain: other block sizes, padding to whole vectors, a loop of single products in place of batched ones, `exp2` for `exp`.
Splitting the products into bfloat16 pieces for the matrix units of recent processors gains little and costs accuracy. What is left is one
compiled kernel that forms pre-activations, both functions and the products tile by tile."""

SAMPLES = r"""
The paper samples by Langevin dynamics at learning rate .002. How many effective samples does each method draw in the time in which that
one draws one (its *gain*)? Both use our gradient, so that the table above does not enter. The autocorrelation time
$\tau=1+2\sum_{t>0}\rho(t)$, in gradients, is measured from equilibrium starts on the same data sets, and no draw counts as more than one
effective sample; the cost of a gradient, with its noise, proposals or moves, is measured in the same run, that of measuring is left out.
Our own time is not extrapolated anywhere. The paper's is, where its run is too short: measured at a faster rate and multiplied by the ratio
of rates (†), which the collapse below justifies; or bounded from below (≥), with the reversibility of Langevin dynamics, by continuing the
autocorrelation with its last slope. Of the methods, hmc is exact; the others have a step bias, measured
[elsewhere in the book](../notebooks/10_sampling_well.ipynb)."""

COLLAPSE = """
The same dynamics at faster rates takes proportionally fewer steps. Autocorrelation times in gradients, multiplied by rate / .002: equal
numbers in a row mean that time rescales, so that the fast rate stands for the slow one."""


def number(x, digits=2):
    """A number with so many significant digits, without an exponent."""
    if x is None:
        return NOTHING
    if x == 0:
        return "0"
    x = float(f"{x:.{digits - 1}e}")
    return f"{x:,.{max(digits - 1 - math.floor(math.log10(abs(x))), 0)}f}".replace(",", "\u202f")


def interval(x, ln_error):
    """A number with its 95 % interval, given the standard error of its logarithm."""
    if ln_error is None:
        return number(x)
    return f"{number(x)} ({number(x * math.exp(-Z * ln_error))}–{number(x * math.exp(Z * ln_error))})"


def table(head, rows):
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def beta_of(case):
    """beta as a fraction where it is one of a whole number."""
    beta = case["beta"]
    return f"1/{round(1 / beta)}" if beta < 1 else f"{beta:g}"


def sizes(case):
    return f"{case['width']}, {case['samples']}, {case['dimension']}"


def verdict(value, goal, ln_error=0.0, bound=False):
    """Whether a goal is reached, and how surely."""
    if value < goal:
        return "not shown: a lower bound" if bound else "no"
    sure = value * math.exp(-Z * (ln_error or 0.0)) >= goal
    return "yes" if sure else "yes, not beyond its error"


# -- sections ------------------------------------------------------------------------------------------------------


def gradient(section):
    cases = section["cases"]
    peers = list(dict.fromkeys(name for c in cases for name in [*c["ratios"], *c["not_measured"]]))
    rows = [
        [f"$\\beta={beta_of(c)}$", sizes(c), str(c["networks"]),
         *(number(c["ratios"][p]) if p in c["ratios"] else c["not_measured"][p] for p in peers), f"{c['share']:.2f}"] for c in cases
    ]
    parts = ["## A gradient on one core", GRADIENT, table(["", "$N,n,d$", "networks", *peers, "share of the product rate"], rows)]
    kinds = list(cases[0]["budget"])
    budget = [
        [f"$\\beta={beta_of(c)}$", *(f"{c['budget'][k]:.2f}" for k in kinds), f"{1 - sum(c['budget'].values()):.2f}", f"{c['products_alone']:.2f}"]
        for c in cases
    ]
    parts += [BUDGET, table(["", *kinds, "other", "products only"], budget)]
    parts += [missed(c) for c in cases if c["goal"] and c["share"] < c["goal"]]
    return [*parts, TRIED]


def missed(case):
    """Why a goal of the gradient is missed, from its budget."""
    elementwise = (case["budget"]["erf"] + case["budget"]["exp"] + case["budget"]["vectors"]) / case["budget"]["products"]
    return (
        f"At $\\beta={beta_of(case)}$ the goal {case['goal']:g} is missed: {case['share']:.2f}. Every pre-activation costs "
        f"$4d={4 * case['dimension']}$ operations in the products, and one `erf`, one `exp` and a few passes over memory besides, which "
        f"together take {elementwise:.2f} of the products' time.")


def sampling(section):
    parts = ["## Effective samples a second", SAMPLES]
    for case in section["cases"]:
        observables = case["observables"]
        methods = [name for name in case["cost"] if not name.startswith("langevin")]
        parts.append(
            f"$\\beta={beta_of(case)}$ ($N,n,d={sizes(case)}$), $\\sigma^2={case['noise_variance']:g}$, {case['datasets']} data sets × "
            f"{case['chains']} chains; a gradient costs, in those of the paper's dynamics, "
            + ", ".join(f"{number(case['cost'][m] / case['cost']['langevin 0.002'])} ({m})" for m in methods) + ".")
        rows = [
            [NAMES[name], paper(row["paper"]), *(taus(row["runs"][m]) for m in methods),
             *(times(row["ratios"].get(m), row["paper"]) for m in methods)]
            for name, row in observables.items()
        ]
        parts.append(table(["", r"$\tau$ of the paper's", *(rf"$\tau$, {m}" for m in methods), *(f"gain, {m}" for m in methods)], rows))
        parts += collapse(case)
    return parts + droplets(section["droplets"])


def paper(run):
    """The paper's autocorrelation time and how it is known."""
    if run["kind"] == "none":
        return NOTHING
    text = interval(run["tau"], run["ln_error"])
    return ("≥ " if "bound" in run["kind"] else "") + text + (" †" if "extrapolated" in run["kind"] else "")


def taus(run):
    return interval(run["tau"], run["ln_error"]) if run["kind"] == "measured" else "too short"


def times(ratio, run):
    return NOTHING if ratio is None else ("≥ " if "bound" in run["kind"] else "") + interval(ratio["ratio"], ratio["ln_error"])


def collapse(case):
    """Autocorrelation times at all rates, scaled to the paper's."""
    rates = sorted(float(name.split()[1]) for name in case["cost"] if name.startswith("langevin"))
    rows = []
    for name, row in case["observables"].items():
        cells = []
        for rate in rates:
            run = row["runs"][f"langevin {rate:g}"]
            if run["kind"] == "none":
                cells.append("too short")
                continue
            cells.append(("≥ " if run["kind"] == "bound" else "") + interval(run["tau"] * rate / rates[0], run["ln_error"]))
        rows.append([NAMES[name], *cells])
    return [COLLAPSE, table([f"$\\beta={beta_of(case)}$", *(f"rate {rate:g}" for rate in rates)], rows)]


def droplets(stored):
    head = "## The slowest mode"
    if not stored["stored"]:
        return [head, "The number of droplets at the lowest noise: not measured, the long chains are not in `results/` "
                "(`python -m grokutils.experiments run slow_mode` makes them)."]
    runs = stored["runs"]
    text = (
        f"The number of droplets of one network at $\\beta=1$, $\\sigma^2={stored['noise_variance']:g}$ in stored chains: its autocorrelation "
        f"time is {taus(runs['underdamped'])} gradients with underdamped dynamics and {taus(runs['relocation'])} with the relocation of "
        f"droplets; a gradient with its share of relocation costs {number(stored['cost_ratio'])} plain ones.")
    if "by" in runs["underdamped"]:
        text += (
            " Without relocation single chains are too short for an autocorrelation function: that time is from their effective sample size, which "
            "counts the scatter between chains of one data set.")
    if "ratio" in stored:
        text += f" Effective samples a second: {interval(stored['ratio'], stored['ln_error'])} times as many."
    return [head, text]


def scaling(section):
    cost, used = section["cost"], section["memory"]
    rows = [
        [NAMES[name], f"{fit['sizes'][0]}–{fit['sizes'][-1]}", f"{fit['exponent']:.2f} ± {fit['error']:.2f}"] for name, fit in cost["fits"].items()
    ]
    fit = cost["fits"]["networks"]
    parts = [
        "## Cost against size",
        f"The time of a gradient is proportional to size$^k$ along each size, the others held ($\\beta={beta_of(cost)}$: "
        f"$N,n,d={sizes(cost)}$; the networks at $\\beta={beta_of(dict(beta=cost['beta'] / 2))}$). $k$ by least squares over a geometric grid, "
        "with its standard error; below 1 means that larger is more efficient.",
        table(["size", "range", "exponent $k$"], rows),
        f"Networks a second at {fit['sizes'][-1]} networks over that at {fit['sizes'][0]}: "
        f"{fit['sizes'][-1] / fit['sizes'][0] * fit['seconds'][0] / fit['seconds'][-1]:.2f}.",
        "## Memory",
        f"At $\\beta={beta_of(used)}$, with {used['networks'][0]} to {used['networks'][-1]} networks of one data set in processes of their own, "
        f"a further network adds {used['over_theta']:.1f} times the size of its weights to the peak (the dynamics' position, momentum, gradient "
        f"and noise, and copies at the start), which is {used['over_matrix']:.2f} of one $n\\times N$ matrix: pre-activations are made in blocks "
        "that all networks share.",
    ]
    rows = [[f"$\\beta={beta_of(c)}$", str(c["jobs"]), f"{c['speedup']:.2f}"] for c in section["threads"]]
    text = "Wall time of a short run of `sample` with `jobs=1` over that with a job a core (at most two)."
    return [*parts, "## Cores", text, table(["", "jobs", "ratio"], rows)]


def descent(section):
    rows = [[name, interval(ratio, section["ln_errors"][name])] for name, ratio in section["ratios"].items()]
    text = (
        f"A phase diagram of {section['members']} networks with embeddings and decoders of width {section['width']}, each with learning rates of its "
        "own ([the chapter on phases](../notebooks/27_phases.ipynb)): wall time of a network's step one run at a time, on one core, as a script with "
        "autograd and two `torch.optim.AdamW` that measures accuracies after each step, over that of `representation.train`. The batch measures as "
        f"often unless it says otherwise. Over {section['steps']} steps the training losses agree to {section['difference']:.0e} of their size "
        "(float32).")
    return ["## Training a phase diagram", text, table(["as a batch", "ratio"], rows)]


def gpu(section):
    return ["## On a GPU", "The floor of a gradient by operations and by bytes at the maker's rates, and what was achieved against it.",
            "```text\n" + "\n".join(section["lines"]) + "\n```"]


def goals(record):
    """Rows: goal, what was reached, verdict."""
    rows = []
    for c in record.get("gradient", {}).get("cases", ()):
        if c["goal"]:
            text = f"share of the product rate, one core, $\\beta={beta_of(c)}$"
            rows.append([text, f"≥ {c['goal']:g}", f"{c['share']:.2f}", verdict(c["share"], c["goal"])])
    for c in record.get("sampling", {}).get("cases", ()):
        for name, row in c["observables"].items():
            if row["goal"]:
                rows.append(goal_row(f"{NAMES[name]}, $\\beta={beta_of(c)}$: effective samples/s over the paper's", row))
    stored = record.get("sampling", {}).get("droplets", {})
    if "ratio" in stored:
        rows.append([
            "droplets at the lowest noise, $\\beta=1$: relocation over underdamped", f"≥ {stored['goal']}",
            interval(stored["ratio"], stored["ln_error"]), verdict(stored["ratio"], stored["goal"], stored["ln_error"])])
    if "descent" in record:
        section = record["descent"]
        reached = section["ratios"]["all cores"]
        text = f"training a phase diagram: a batch on {section['cores']} cores over one run at a time"
        error = section["ln_errors"]["all cores"]
        rows.append([text, f"≥ {section['goal']}", interval(reached, error), verdict(reached, section["goal"], error)])
    return rows


def goal_row(text, row):
    """The best method against the goal."""
    if not row["ratios"]:
        return [text, f"≥ {row['goal']}", NOTHING, "not measured: the runs are too short"]
    method, best = max(row["ratios"].items(), key=lambda item: item[1]["ratio"])
    bound = "bound" in row["paper"]["kind"]
    reached = times(best, row["paper"]) + f", {method}" + (" †" if "extrapolated" in row["paper"]["kind"] else "")
    return [text, f"≥ {row['goal']}", reached, verdict(best["ratio"], row["goal"], best["ln_error"], bound)]


SECTIONS = {"gradient": gradient, "sampling": sampling, "scaling": scaling, "descent": descent, "gpu": gpu}


def machines(record):
    """Where and when, once for all sections that agree."""
    lines = {}
    for name, section in record.items():
        m = section["machine"]
        load = "" if m["load"] is None else f", load {m['load']:g} before it began"
        text = f"{m['processor']}, {m['cores']} cores, {m['system']}, PyTorch {m['torch']}, NumPy {m['numpy']}; {m['date']}"
        lines.setdefault(text, []).append(f"{name}{load}")
    return "Measured on: " + "; ".join(f"{text} ({'; '.join(names)})" for text, names in lines.items()) + "."


def page(record):
    """The whole page as text."""
    parts = [INTRODUCTION, machines(record)]
    if any(section["quick"] for section in record.values()):
        parts.append("```{warning}\nMade with `--quick`, at sizes that show that the program runs and nothing else.\n```")
    if rows := goals(record):
        parts += ["## Goals", table(["what", "goal", "reached", "met"], rows)]
        if any("†" in cell for row in rows for cell in row):
            parts.append("† from Langevin dynamics at a faster rate, see below.")
    for name, section in SECTIONS.items():
        parts += section(record[name]) if name in record else [f"*Not measured: {name}.*"]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def main(arguments=None, root=ROOT):
    """Write or check the page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a stale page")
    check = parser.parse_args(arguments).check
    source, target = root / "results" / "benchmarks.json", root / "book" / "benchmarks.md"
    if not source.exists():
        print(f"{source.relative_to(root)} is not there: run `make bench`", file=sys.stderr)
        return 1
    text = page(json.loads(source.read_text(encoding="utf-8")))
    if not check:
        target.write_text(text, encoding="utf-8")
        return 0
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        print(f"{target.relative_to(root)} is stale: run `make bench`, or tools/benchmark_page.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
