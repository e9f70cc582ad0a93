"""The explorer for a live notebook: sliders over a problem, the theory solved anew at every change."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from grokutils.problems import Committee, ModularAddition, TeacherStudent
from grokutils.theory import committee, modular_addition, teacher_student

__all__ = ["action_explorer", "laziness_explorer", "mode_explorer", "population"]

# name: (symbol, lowest, highest, step); a start beyond the range widens it
_SLIDERS = {
    "noise_variance": ("σ²", 0.05, 0.6, 0.002), "samples": ("n", 1000, 6000, 50), "dimension": ("d", 50, 400, 5),
    "width": ("N", 100, 2000, 50), "epsilon": ("ε", -1.2, 0.6, 0.05),
}
_NOISES = np.linspace(0.05, 0.6, 45)


def population(solution, count: int) -> np.ndarray:
    """Overlaps of ``count`` neurons, one in each of ``count`` equal shares of the probability, ascending: the same at every call."""
    edge = float(np.abs(solution.minima).max()) + 12 * math.sqrt(solution.problem.weight_variance / solution.problem.dimension)
    q = np.linspace(-edge, edge, 2401)
    mass = np.concatenate([[0.0], np.cumsum((p := solution.density(q))[1:] + p[:-1])])
    kept = np.concatenate([[True], np.diff(mass) > 0])
    return np.interp((np.arange(count) + 0.5) / count * mass[-1], mass[kept], q[kept])


@lru_cache(maxsize=64)
def _curve(problem: TeacherStudent, norm: str):
    """Learned shares of H1 and H3 along the noise, and the critical point; ``problem`` at any one noise stands for all."""
    shares, start = [], None
    for noise in _NOISES[::-1]:
        s = teacher_student.solve(problem.replace(noise_variance=noise), norm=norm, start=start)
        start = s.residual
        shares.append([s.learnability.get(1, np.nan), s.learnability.get(3, np.nan)])
    return np.array(shares[::-1]).T, teacher_student.critical_point(problem, norm=norm)


def _figure(solution, title):
    """The three linked views: action, one network, learned share against noise."""
    from grokutils import figures

    p, norm = solution.problem, solution.norm
    q = np.linspace(-1.5, 1.5, 601)
    edge = solution.barrier_overlap
    bulk = np.abs(q) <= edge if edge is not None else np.ones_like(q, bool)
    figure, (top, middle, right) = figures.axes(1, 3, height=2.9, width=9.6)
    action = solution.action(q)
    for axis in (top, middle):
        axis.set(xlabel="$q$", xlim=(-1.5, 1.5))
        if edge is not None:
            axis.axvspan(-1.5, -edge, color=figures.C["droplet"], alpha=0.1, lw=0)
            axis.axvspan(edge, 1.5, color=figures.C["droplet"], alpha=0.1, lw=0)
    top.plot(q, np.where(bulk, action, np.nan), color=figures.C["bulk"])
    top.plot(q, np.where(bulk, np.nan, action), color=figures.C["droplet"])
    top.set(ylabel="$S(q)$", ylim=(min(-1.0, action.min()), max(10.0, 1.3 * (solution.barrier or 0.0))), title="action of one neuron")

    neurons = population(solution, max(1, round(p.width)))
    height = (np.arange(len(neurons)) * 0.6180339887) % 1  # spreads the marks; has no meaning
    out = np.abs(neurons) > edge if edge is not None else np.zeros(len(neurons), bool)
    middle.plot(neurons[~out], height[~out], ls="", marker="o", ms=2.5, alpha=0.6, color=figures.C["bulk"])
    middle.plot(neurons[out], height[out], ls="", marker="D", ms=4, color=figures.C["droplet"])
    middle.set(yticks=[], ylim=(-0.05, 1.05), title="one network")

    (h1, h3), critical = _curve(p.replace(noise_variance=0.3), norm)
    right.plot(_NOISES, h1, color=figures.C["h1"], label="$H_1$")
    right.plot(_NOISES, h3, color=figures.C["h3"], ls="--", label="$H_3$")
    right.axvline(p.noise_variance, color=figures.C["grey"], lw=1)
    for degree, share in solution.learnability.items():
        right.plot(p.noise_variance, share, marker="o", color=figures.C[f"h{degree}"])
    for noise, marker in () if critical is None else ((critical.noise_variance, "v"), (critical.spinodal, "1")):
        if noise is not None:
            right.plot(noise, 0, marker=marker, ls="", color=figures.C["grey"], clip_on=False)
    right.set(xlabel=r"$\sigma^2$", xlim=(0.05, 0.6), ylim=(-0.05, 1.05), title="learned share")
    right.legend()
    return figures.svg(figure, title)


def _summary(solution) -> dict:
    """The numbers beside the views, as text."""
    p = solution.problem
    droplets = p.width * solution.droplet_fraction
    side = [q for q in solution.minima if q > 1e-6]
    numbers = {
        "phase": solution.phase,
        "droplets per network": f"{droplets:.1f} ± {math.sqrt(droplets):.1f} from one network to the next",
        "b": f"{solution.residual[1]:.4f}",
        "c": f"{solution.residual[3]:.4f}",
        "learned share of H1": f"{solution.learnability[1]:.3f}",
        "learned share of H3": f"{solution.learnability[3]:.3f}" if 3 in solution.learnability else "none to learn",
        "side wells at |q|": ", ".join(f"{q:.3f}" for q in side) or "none",
        "barrier": "none" if solution.barrier is None else f"{solution.barrier:.2f}",
        "interaction u": f"{p.interaction:.2f}",
    }
    return numbers if solution.converged else {"warning": "the solver did not converge"} | numbers


def _panel(sliders: dict, initial: dict, choice: tuple, update):
    """Sliders {name: (symbol, lowest, highest, step)}, one choice (name, options), Reset, and two views that ``update(values)`` fills.

    ``update`` takes {name: value}, the choice included, and returns a solution, its numbers {what: text} and its picture as SVG.
    """
    try:
        import ipywidgets as w
    except ImportError as error:
        raise ImportError("the explorer needs ipywidgets: python -m pip install ipywidgets") from error

    def slider(name):
        symbol, low, high, step = sliders[name]
        return w.FloatSlider(
            value=initial[name], min=min(low, initial[name]), max=max(high, initial[name]), step=step, description=symbol,
            readout_format=".3f" if step < 0.01 else ".2f" if step < 1 else ".0f", continuous_update=False,
            layout=w.Layout(width="auto", min_width="280px", flex="1 1 280px"),
        )

    chosen, options = choice
    controls = {name: slider(name) for name in sliders}
    controls[chosen] = w.ToggleButtons(options=options, value=options[0][1], description=chosen)
    reset = w.Button(description="Reset", tooltip="back to the parameters at the start")
    views, numbers = w.HTML(), w.HTML()
    panel = w.VBox([views, numbers, w.Box([controls[k] for k in sliders], layout=w.Layout(flex_flow="row wrap")), w.HBox([controls[chosen], reset])])
    panel.controls, panel.views, panel.numbers, panel.solution = controls | {"reset": reset}, views, numbers, None

    def show(_change=None):
        values = {name: round(controls[name].value, 6) for name in sliders} | {chosen: controls[chosen].value}
        panel.solution, rows, views.value = update(values)
        cells = "".join(f"<tr><th style='text-align:left; padding-right:1em'>{name}</th><td>{text}</td></tr>" for name, text in rows.items())
        numbers.value = f"<table>{cells}</table>"

    def restore(_button):
        for control in controls.values():
            control.unobserve(show, names="value")
        for name, value in (initial | {chosen: options[0][1]}).items():
            controls[name].value = value
        watch()
        show()

    def watch():
        for control in controls.values():
            control.observe(show, names="value")

    reset.on_click(restore)
    watch()
    show()
    return panel


def _title(rows: dict) -> str:
    return ", ".join(f"{name} {text}" for name, text in rows.items())


def action_explorer(problem: TeacherStudent | None = None):
    """The action, a network of neurons and the learned shares, with sliders, for a live Jupyter notebook.

    The book's page shows the same panel without a kernel. Only the last solution is kept: read it from ``panel.solution``.

    Args:
        problem: where the sliders start and where Reset returns; its teacher has degrees 1 and 3. None: ``TeacherStudent.paper()``.

    Returns:
        An ``ipywidgets.VBox`` with the attributes ``solution``, ``controls`` {name: widget}, ``numbers`` and ``views``.

    Raises:
        ImportError: ipywidgets is not installed.
        ValueError: the teacher has other degrees than 1 and 3.
    """
    problem = TeacherStudent.paper() if problem is None else problem
    if set(problem.teacher) != {1, 3} or not problem.teacher[1]:
        raise ValueError(f"action_explorer needs a teacher with degrees 1 and 3 and a linear part, got {dict(problem.teacher)}")
    initial = {name: getattr(problem, name) for name in _SLIDERS if name != "epsilon"} | {"epsilon": problem.teacher[3]}

    def update(values):
        norm, teacher = values.pop("norm"), {1: problem.teacher[1], 3: values.pop("epsilon")}
        solution = teacher_student.solve(problem.replace(teacher=teacher, **values), norm=norm)
        rows = _summary(solution)
        return solution, rows, _figure(solution, _title(rows))

    norms = [("s integrated exactly", "exact"), ("s frozen at σ_w²", "fixed")]
    return _panel(_SLIDERS, initial, ("norm", norms), update)


_MODE_SLIDERS = {"ratio": ("σ²/σ²_on", 0.2, 1.3, 0.005), "width": ("N", 100, 10000, 100), "log_decay": ("log10 γ", -4, 3, 0.1)}
_RATIOS = np.linspace(0.2, 1.3, 23)


@lru_cache(maxsize=64)
def _residuals(problem: ModularAddition):
    """Residual along the noise, in units of its onset, with both eigenvalues; ``problem`` at any one noise stands for all."""
    onset = modular_addition.onset(problem)
    at = [problem.replace(noise_variance=r * onset) for r in _RATIOS]
    return {kernel: [modular_addition.solve(m, kernel=kernel).residual for m in at] for kernel in ("corrected", "paper")}


def _mode_figure(solution, ratio, title):
    """Two linked views: the action of one frequency, and the residual against the noise."""
    from grokutils import figures

    p, onset = solution.problem, modular_addition.onset(solution.problem)
    figure, (left, right) = figures.axes(1, 2, height=2.9, width=7.6)
    w = np.linspace(0, 1.4 * (3 / p.sextic_decay) ** 0.25, 400)
    left.plot(w, solution.action(w**2, w**2), color=figures.C["theory"])
    left.set(xlabel="$|w|=|v|$", ylabel="action", ylim=(min(-1.0, 1.3 * (solution.well_action or 0.0)), max(3.0, 2 * (solution.barrier or 0.0))))
    for kernel, curve in _residuals(p.replace(noise_variance=onset)).items():
        right.plot(_RATIOS, curve, ls="-" if kernel == solution.kernel else ":", color=figures.C["theory"], label=kernel)
    right.plot(ratio, solution.residual, marker="o", color=figures.C["experiment"])
    right.set(xlabel=r"$\sigma^2/\sigma^2_{\rm on}$", ylabel="residual $a$", ylim=(0, 1.05))
    right.legend()
    return figures.svg(figure, title)


def mode_explorer(problem: ModularAddition | None = None):
    """The action of one frequency of modular addition and the residual, with sliders, for a live Jupyter notebook.

    The book's page shows the same panel without a kernel. The noise is given in units of its onset.

    Args:
        problem: where the sliders start and where Reset returns. None: modulus 37 in its mixed phase.

    Returns:
        An ``ipywidgets.VBox`` with the attributes ``solution``, ``controls`` {name: widget}, ``numbers`` and ``views``.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    if problem is None:
        problem = ModularAddition(modulus=37, width=4000, noise_variance=2.8e-4, readout_variance=2e-6, sextic_decay=31.6)
    start = dict(ratio=problem.noise_variance / modular_addition.onset(problem), width=problem.width, log_decay=math.log10(problem.sextic_decay))

    def update(values):
        m = problem.replace(width=values["width"], sextic_decay=10 ** values["log_decay"])
        m = m.replace(noise_variance=values["ratio"] * modular_addition.onset(m))
        s = modular_addition.solve(m, kernel=values["kernel"])
        rows = {
            "phase": s.phase, "residual": f"{s.residual:.4f}", "noise": f"{m.noise_variance:.3g}",
            "droplets per frequency": f"{m.width * s.droplet_fraction:.3g}",
            "interaction u": f"{m.interaction:.3g}", "U = u a²": f"{m.interaction * s.residual**2:.3g}",
        }
        return s, rows, _mode_figure(s, values["ratio"], _title(rows))

    return _panel(_MODE_SLIDERS, start, ("kernel", [("with its factor 4P²", "corrected"), ("as printed", "paper")]), update)


_LAZY_SLIDERS = {
    "log_laziness": ("log2 α", -4, 6, 0.5), "log_curvature": ("log10 ε", -2, 0, 0.05), "samples": ("P", 10, 800, 10), "seed": ("seed", 0, 20, 1),
}
_LAZY_STEPS = 4000


def _lazy_figure(ds, still, lazy, law, title):
    """Three linked views: losses, the parts of the test loss, alignment and length of the weights."""
    from grokutils import figures

    figure, (left, middle, right) = figures.axes(1, 3, height=2.9, width=9.6)
    t, start = np.maximum(ds.step.values, 0.5), float(ds.test_loss[0])
    left.plot(t, ds.train_loss / ds.train_loss[0], color=figures.C["train"], label="training")
    left.plot(t, ds.test_loss / start, color=figures.C["test"], ls="--", label="test")
    left.plot(np.maximum(still.step.values, 0.5), still.test_loss / start, color=figures.C["grey"], ls=":", label="linearised")
    left.axhline(lazy / start, color=figures.C["grey"], lw=0.8)
    left.axvline(law, color=figures.C["grey"], lw=0.8, ls="-.")
    left.set(title="loss over its start", ylim=(0, 1.1 * max(1.0, min(4.0, float(ds.test_loss.max()) / start))))
    left.legend()
    for k, name in enumerate(("variance_error", "misalignment", "linear_power")):
        colour, _, style = figures.CYCLE[k]
        middle.plot(t, ds[name], color=colour, ls=style, label=name.replace("_", " "))
    middle.set(title="test loss: its parts", ylim=(0, None))
    middle.legend()
    right.plot(t, ds.alignment / ds.alignment.max(), color=figures.C["theory"], label="alignment / largest")
    right.plot(t, ds.weight_norm / ds.weight_norm.max(), color=figures.C["experiment"], ls="--", label="|W| / largest")
    right.set(title="kernel and weights", ylim=(0, 1.1))
    right.legend()
    for axis in (left, middle, right):
        axis.set(xscale="log", xlabel="step")
    return figures.svg(figure, title)


def laziness_explorer(problem: Committee | None = None, steps: int = _LAZY_STEPS):
    """A committee machine between lazy and rich training, with sliders, for a live Jupyter notebook: trained anew at every change.

    The book's page shows the same panel without a kernel. Steps are half as long as the network bears at its start or at its end.

    Args:
        problem: where the sliders start and where Reset returns; its step_size is not used. None: 20 dimensions, 100 points.
        steps: of gradient descent.

    Returns:
        An ``ipywidgets.VBox`` with the attributes ``solution`` (the Dataset of ``theory.committee.run``), ``controls`` {name: widget},
        ``numbers`` and ``views``.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    problem = Committee(20, 100, 40, laziness=1.0, curvature=0.05, step_size=1.0) if problem is None else problem
    initial = dict(log_laziness=math.log2(problem.laziness), log_curvature=math.log10(problem.curvature), samples=problem.samples, seed=problem.seed)

    def update(values):
        p = problem.replace(
            laziness=2 ** values["log_laziness"], curvature=10 ** values["log_curvature"], samples=round(values["samples"]),
            seed=round(values["seed"]), centred=values["output"] == "centred")
        given = committee.draw(p)
        bound = min(committee.largest_step(p, given), committee.largest_step(p, given, *committee.final_state(p, given)))
        p = p.replace(step_size=0.5 * bound)
        ds, lazy, law = committee.run(p, steps, given=given), committee.kernel_regression(p, given), committee.time_law(p, given)
        still = committee.linearised(p, steps, given=given)
        times = [committee.first_below(ds[f"{name}_loss"], 0.1) for name in ("train", "test")]
        rows = {f"{name} at 10 %": "never" if math.isnan(t) else f"step {t:.0f}" for name, t in zip(("training", "test"), times, strict=True)}
        rows |= {"delay": "none" if math.isnan(sum(times)) else f"× {times[1] / times[0]:.1f}", "kernel regression": f"{lazy.test_loss:.4f}",
                 "time law": f"{law:.0f}", "step size": f"{p.step_size:.3g}", "stable": "yes" if ds.attrs["stable"] else "no"}
        return ds, rows, _lazy_figure(ds, still, lazy.test_loss, law, _title(rows))

    outputs = [("initial output subtracted", "centred"), ("as it is", "raw")]
    return _panel(_LAZY_SLIDERS, initial, ("output", outputs if problem.centred else outputs[::-1]), update)
