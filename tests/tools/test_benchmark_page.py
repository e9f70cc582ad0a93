"""The generator of the benchmark page: what a record gives, goals reached and missed, stale pages."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("benchmark_page", ROOT / "tools" / "benchmark_page.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

SIZES = dict(width=700, samples=3000, dimension=150)
VERSIONS = dict(python="3.12.1", torch="2.11.0", numpy="2.1.0", grokutils="0.1.0")
WHERE = dict(processor="A processor", cores=2, load=0.1, system="Linux", **VERSIONS, date="2026-01-02")
LANGEVIN = {"kind": "measured", "tau": 98765.0, "ln_error": 0.1, "total": 9e5}
OURS = {"kind": "measured", "tau": 43.0, "ln_error": 0.05, "total": 9e3}
ROW = {
    "runs": {"underdamped": OURS, "langevin 0.02": LANGEVIN | {"tau": 9100.0}, "langevin 0.002": LANGEVIN},
    "paper": LANGEVIN | {"from": "langevin 0.002", "rate": 0.002}, "ratios": {"underdamped": {"ratio": 2222.0, "ln_error": 0.11}}, "goal": 1000,
}
FIT = dict(sizes=[100, 200, 400], seconds=[0.0123456, 0.0223456, 0.0423456], exponent=0.912, error=0.034)


@pytest.fixture
def record():
    case = dict(
        beta=1.0, **SIZES, networks=1, goal=0.7, seconds={"ours": 0.0123456}, ratios={"einsum": 1.91},
        not_measured={"torch.compile": "no compiler here"}, share=0.65, products_alone=0.95,
        budget={"products": 0.68, "erf": 0.12, "exp": 0.06, "vectors": 0.05})
    sampled = dict(
        beta=1.0, **SIZES, noise_variance=0.2, datasets=6, chains=1,
        cost={"underdamped": 0.0123456, "langevin 0.02": 0.0111111, "langevin 0.002": 0.0111111},
        observables={"learned[3]": ROW})
    sections = dict(
        gradient=dict(cases=[case]), sampling=dict(cases=[sampled], droplets=dict(stored=False)),
        scaling=dict(
            cost=dict(beta=0.25, **SIZES, fits={"samples": FIT, "networks": FIT}),
            memory=dict(beta=1.0, networks=[1, 32], peak_bytes=[1, 2], bytes_per_network=1.0, over_matrix=0.34, over_theta=6.8),
            threads=[dict(beta=0.5, jobs=2, seconds={"1": 0.0123456, "2": 0.0061728}, speedup=1.93)]),
        gpu=dict(lines=["64 networks", "  achieved: not measured, this machine has no GPU"], achieved=False))
    return copy.deepcopy({name: dict(machine=WHERE, quick=False, **section) for name, section in sections.items()})


def test_the_page_has_the_numbers_and_no_time(record):
    text, gain = tool.page(record), "2\u202f200 (1\u202f800–2\u202f800)"
    achieved = "not measured, this machine has no GPU"
    for part in ("Do not edit", "A processor, 2 cores", "1.9 |", "no compiler here", "0.65", gain, "0.91 ± 0.03", "1.93", achieved):
        assert part in text, part
    assert not re.search(r"0\.012|0\.0111|0\.0223|0\.0061|millisecond|\d ?(s|ms|µs)\b", text)
    assert "{warning}" not in text and "None" not in text


def test_a_goal_missed_is_said_with_its_reason(record):
    text = tool.page(record)
    assert "| share of the product rate, one core, $\\beta=1$ | ≥ 0.7 | 0.65 | no |" in text
    assert "the goal 0.7 is missed: 0.65" in text and "take 0.34 of the products' time" in text
    record["gradient"]["cases"][0]["share"] = 0.71
    text = tool.page(record)
    assert "| 0.71 | yes |" in text and "missed" not in text


@pytest.mark.parametrize(
    ("value", "ln_error", "bound", "expected"),
    [(2000, 0.1, False, "yes"), (1100, 0.1, False, "yes, not beyond its error"), (900, 0.1, False, "no"),
     (900, 0.1, True, "not shown: a lower bound"), (2000, None, True, "yes")],
)
def test_verdicts(value, ln_error, bound, expected):
    assert tool.verdict(value, 1000, ln_error, bound) == expected


def test_what_is_bounded_or_extrapolated_is_marked(record):
    row = record["sampling"]["cases"][0]["observables"]["learned[3]"]
    assert "†" not in tool.goal_row("x", row)[2]
    row["paper"]["kind"] = "extrapolated"
    assert tool.goal_row("x", row)[2].endswith("†")
    row["paper"]["kind"] = "extrapolated bound"
    assert tool.goal_row("x", row)[2].startswith("≥ ")
    assert "| ≥ 99\u202f000 (81\u202f000–120\u202f000) † |" in tool.page(record)
    row["ratios"] = {}
    assert tool.goal_row("x", row)[3].startswith("not measured")


def test_rates_are_compared_after_scaling(record):
    assert "| cubic overlap | 99\u202f000 (81\u202f000–120\u202f000) | 91\u202f000 (75\u202f000–110\u202f000) |" in tool.page(record)


def test_droplets_of_the_stored_chains(record):
    slow = dict(OURS, tau=600.0)
    record["sampling"]["droplets"] = dict(
        stored=True, noise_variance=0.1, cost_ratio=2.4, goal=5, runs={"relocation": OURS, "underdamped": slow}, ratio=5.8, ln_error=0.2)
    text = tool.page(record)
    assert "| 5.8 (3.9–8.6) | yes, not beyond its error |" in text and "costs 2.4 plain ones" in text


@pytest.mark.parametrize(
    ("x", "text"),
    [(0, "0"), (0.0348, "0.035"), (1.96, "2.0"), (34.7, "35"), (1234.0, "1\u202f200"), (98765.0, "99\u202f000"), (0.996, "1.0"), (None, "–")])
def test_numbers_have_two_digits(x, text):
    assert tool.number(x) == text


def test_quick_sizes_are_no_measurement(record):
    record["gpu"]["quick"] = True
    assert "{warning}" in tool.page(record)


def test_a_missing_section_is_said(record):
    del record["scaling"]
    assert "*Not measured: scaling.*" in tool.page(record)


def test_stale_pages_are_found(record, tmp_path, capsys):
    (tmp_path / "book").mkdir(), (tmp_path / "results").mkdir()
    source, target = tmp_path / "results" / "benchmarks.json", tmp_path / "book" / "benchmarks.md"
    assert tool.main([], tmp_path) == 1 and "make bench" in capsys.readouterr().err
    source.write_text(json.dumps(record))
    assert tool.main(["--check"], tmp_path) == 1 and not target.exists()
    assert tool.main([], tmp_path) == 0 and tool.main(["--check"], tmp_path) == 0
    target.write_text(target.read_text() + " ")
    assert tool.main(["--check"], tmp_path) == 1 and "stale" in capsys.readouterr().err


@pytest.mark.skipif(not (ROOT / "results" / "benchmarks.json").exists(), reason="nothing was measured yet: make bench")
def test_the_committed_page_is_what_the_committed_numbers_give():
    assert tool.main(["--check"]) == 0
