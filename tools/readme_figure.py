"""Draw book/_static/readme_figure.png from the stored ensembles and the theory: ``python tools/readme_figure.py``."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from grokutils import figures
from grokutils.experiments import figure2
from grokutils.problems import TeacherStudent
from grokutils.theory import teacher_student

TARGET = Path(__file__).parents[1] / "book" / "_static" / "readme_figure.png"


def draw() -> Figure:
    """Left: -ln p(q) above and below the transition at beta = 1. Right: learnability of the cubic against noise at every beta."""
    runs = [run for run in figure2() if run.start == "prior" and run.method == "underdamped"]
    figure, (left, right) = figures.axes(1, 2, height=3.4, width=8.6)
    for noise, colour, marker in ((0.25, figures.C["bulk"], "o"), (0.12, figures.C["droplet"], "D")):
        q = np.linspace(0, 1.3, 400)
        for corrected, line in ((False, ":"), (True, "-")):
            solution = teacher_student.solve(TeacherStudent.paper(noise), finite_size=corrected)
            left.plot(q, -np.log(solution.density(q)), color=colour, linestyle=line)
        for run in runs:
            if run.beta == 1 and run.noise_variance == noise and (ds := run.load()) is not None:
                figures.negative_log_density(left, ds, color=colour, marker=marker, markersize=3, label=rf"$\sigma^2={noise}$")
    left.set(xlabel=r"overlap with the teacher $|q|$", ylabel=r"$-\ln p(q)$", ylim=(-2.5, 13), title="neurons of 40 networks each")
    left.legend()
    noises = np.linspace(0.095, 0.305, 22)
    for (beta, symbol), (colour, marker, _) in zip(((1 / 8, "1/8"), (1 / 2, "1/2"), (1.0, "1"), (2.0, "2")), figures.CYCLE, strict=False):
        for corrected, line in ((False, ":"), (True, "-")):
            theory = [teacher_student.solve(TeacherStudent.paper(x, beta), finite_size=corrected).learnability[3] for x in noises]
            right.plot(noises, theory, color=colour, linestyle=line)
        mine = [(run, run.load()) for run in runs if run.beta == beta]
        rows = [(run.noise_variance, ds.grok.summary().loc["learned[3]"] / -0.3) for run, ds in mine if ds is not None]
        figures.points(
            right, [x for x, _ in rows], [row["mean"] for _, row in rows], [abs(row["se"]) for _, row in rows],
            color=colour, marker=marker, label=rf"$\beta={symbol}$",
        )
    right.set(xlabel=r"noise variance $\sigma^2$", ylabel=r"learned share of the cubic, $1-c/\epsilon$")
    right.set_title("dotted: mean field; solid: corrected")
    right.legend()
    return figure


if __name__ == "__main__":
    with mpl.rc_context({"savefig.facecolor": "white"}):
        drawn = draw()
        for text in drawn.findobj(mpl.text.Text):
            text.set_color("#222222")
        drawn.savefig(TARGET, dpi=110)
