/* <grok-lazy>: a committee machine between lazy and rich training; its gradient descent runs in the page, between frames (see lazy-solver.js, panel.js).
 *
 * Attributes (initial state, to which Reset returns; all optional)
 *   laziness curvature samples     alpha, epsilon, P            sample   "0" to "4": data, target and initial weights
 *   step-share                     eta_0 in units of the step above which descent diverges, 0.5
 * Whatever the element contains is shown until the panel is ready, and is what a reader without scripts sees.
 *
 * state = {problem, sample, run, frozen (GrokLazy.Run), limits, law, lazy, times {train, test}, verdict}; [data-curve-ready] when both runs have ended
 */
(function () {
  "use strict";
  const DIMENSION = 20, WIDTH = 40, END = 1e5, MOST = 25000, RECORDS = 160, SHARE = 0.1, LATE = 2, SLICE = 12;
  const powers = Array.from({ length: 17 }, (_, k) => 2 ** (k / 2 - 4));
  const near = (v) => (v >= 100 ? v.toFixed(0) : +v.toPrecision(2) + "");
  const VERDICTS = {
    going: ["computing", ""], diverged: ["diverged", "confusion"], open: ["not fitted", "confusion"], never: ["memorised", "memorisation"],
    late: ["grokking", "grokking"], together: ["together", "comprehension"],
  };
  const PRESETS = [
    ["goldilocks", "Goldilocks", { laziness: 1, curvature: 0.05, samples: 100 }], ["lazy", "Lazy", { laziness: 16, curvature: 0.05, samples: 100 }],
    ["rich", "Rich", { laziness: 1 / 16, curvature: 0.5, samples: 100 }], ["few", "Too few data", { laziness: 1, curvature: 0.05, samples: 30 }],
    ["plenty", "Plenty of data", { laziness: 1, curvature: 0.05, samples: 300 }],
  ];
  const PARTS = [["variance", "variance error"], ["misalignment", "misalignment"], ["linear", "linear power"]];
  const SUPERSCRIPT = "⁰¹²³⁴⁵";

  function build({ GrokPanel, fmt, still, scale, define }) {
    const time = (v) => (v === null || !Number.isFinite(v) ? "never" : `${+v.toPrecision(v < 99.5 ? 2 : 3)}`);
    const percent = (v) => `${v > 0 && v < 0.095 ? +(100 * v).toPrecision(1) : fmt(100 * v, 0)} %`;

    class GrokLazy extends GrokPanel {
      static solver = "GrokLazy";
      static initial = () => ({ laziness: 1, curvature: 0.05, samples: 100, share: 0.5 });
      static attributes = { laziness: "laziness", curvature: "curvature", samples: "samples", share: "step-share" };
      static controls = [
        { name: "laziness", symbol: "α", label: "Laziness", values: powers, text: near },
        { name: "curvature", symbol: "ε", label: "Curvature", values: [0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1], text: (v) => `${v}` },
        { name: "samples", symbol: "P", label: "Training points", values: [20, 30, 40, 60, 80, 100, 120, 150, 200, 300, 400], text: (v) => `${v} = ${v / DIMENSION} D` },
      ];
      static choice = { name: "sample", legend: "Data set", options: [0, 1, 2, 3, 4].map((k) => [`${k}`, "ABCDE"[k]]) };
      static views = [["loss", "Loss over its start"], ["parts", "Test loss: its three parts"], ["state", "Kernel and weights"]];
      static numbers = [["ttrain", "Training at 10 %"], ["ttest", "Test at 10 %"], ["late", "Delay"], ["peak", "Peak of test loss"], ["lazylevel", "Kernel regression"], ["lawtime", "Time law <i>t</i><sub>*</sub>"]];

      attach() {
        const group = document.createElement("div");
        group.className = "ge-presets";
        group.setAttribute("role", "group");
        group.setAttribute("aria-label", "Examples");
        group.innerHTML = PRESETS.map(([key, text]) => `<button type="button" data-preset="${key}">${text}</button>`).join("");
        this.querySelector(".ge-views").before(group);
        group.addEventListener("click", (e) => {
          const chosen = PRESETS.find(([key]) => key === e.target.dataset.preset);
          if (!chosen) return;
          this.set(chosen[2]);
          this.flush();
          this.announce();
        });
      }

      set(changes) {
        this.touched = true;
        super.set(changes);
      }

      // ---- the two runs

      compute() {
        const { state } = this, { laziness, curvature, samples, share } = state.problem, seed = +state.sample, key = JSON.stringify([state.problem, seed]);
        if (key === this.key) return;
        this.key = key;
        const S = window.GrokLazy, problem = { dimension: DIMENSION, width: WIDTH, samples, laziness, curvature, seed }, place = JSON.stringify([curvature, samples, seed]);
        if (place !== this.place) { // the linearised network does not know alpha
          state.draw = S.draw(problem);
          state.lazy = S.lazyLimit(problem, state.draw);
          state.frozen = null;
        }
        state.limits = S.largestStep(problem, state.draw);
        state.law = S.timeLaw(problem, state.draw);
        if (place !== this.place) state.frozen = this.job(problem, 0.5 * state.limits.start, true);
        this.place = place;
        state.run = this.job(problem, share * Math.min(state.limits.start, state.limits.end), false);
        this.removeAttribute("data-curve-ready");
        this.busy = true;
        this.judge();
      }

      job(problem, step, frozen) {
        const steps = Math.min(MOST, Math.ceil(END / step));
        const record = [...new Set(Array.from({ length: RECORDS }, (_, k) => Math.round(steps ** (k / (RECORDS - 1)))))];
        return new window.GrokLazy.Run(problem, this.state.draw, { step, steps, record: [0, ...record], frozen });
      }

      sweep() {
        if (this.busy && !this.slicing) this.slicing = setTimeout(() => this.slice(), 0);
      }

      slice() {
        const { run, frozen } = this.state, until = performance.now() + SLICE;
        this.slicing = 0;
        const more = run.advance(until) || frozen.advance(until);
        this.busy = more;
        if (!more || (!still() && performance.now() > (this.drawn || 0) + 80)) {
          this.judge();
          this.words();
          this.draw();
          this.drawn = performance.now();
        }
        if (more) return this.sweep();
        this.setAttribute("data-curve-ready", "");
        if (this.owed && this.touched) this.announce();
        else this.table();
        this.owed = false;
      }

      // Screen readers hear the outcome, not the computing.
      announce() {
        this.owed = this.busy;
        if (!this.busy) super.announce();
      }

      judge() {
        const { state } = this, { run } = state, at = (v) => (v === null ? null : v * run.eta);
        const { train, test } = (state.times = { train: at(run.crossed.train), test: at(run.crossed.test) });
        state.verdict = run.state === "diverged" ? "diverged" : run.state === "going" ? "going" : train === null ? "open" : test === null ? "never" : test >= LATE * train ? "late" : "together";
      }

      // ---- words

      words() {
        const { run, times, verdict, lazy, law, limits } = this.state, { records } = run, first = records[0], last = records[records.length - 1];
        const top = first && Math.max(...records.map((r) => r.test)) / first.test, over = times.test / times.train, pending = run.state === "going" ? "…" : "never";
        const given = (v) => (v === null ? pending : time(v));
        this.put("ttrain", given(times.train), times.train);
        this.put("ttest", given(times.test), times.test);
        this.put("late", times.train === null || times.test === null ? (pending === "…" ? "…" : "–") : `×${+over.toPrecision(2)}`, times.train === null || times.test === null ? null : over);
        this.put("peak", first ? percent(top) : "…", top);
        this.put("lazylevel", first ? percent(lazy.test / first.test) : "…", first && lazy.test / first.test);
        this.put("lawtime", time(law), law);
        this.badge(VERDICTS[verdict][0], "losses at a tenth of their start");
        this.querySelector(".ge-phase").setAttribute("data-phase", VERDICTS[verdict][1]);
        const left = last && percent(last.test / first.test), ends = `time ${time(run.at * run.eta)}`;
        this.sentence = {
          going: "Gradient descent is running.",
          diverged: `Gradient descent diverged: the step η₀ = ${near(run.eta)} is longer than this network bears, ${near(Math.min(limits.start, limits.end))}.`,
          open: last && `At ${ends} the training loss still is ${percent(last.train / first.train)} of its start, the test loss ${left}.`,
          never: `The training loss is at a tenth at time ${time(times.train)}. The test loss is left at ${left} of its start${run.state === "settled" ? ": nothing moves any more." : ` at ${ends}.`}`,
          late: `The training loss is at a tenth at time ${time(times.train)}, the test loss at ${time(times.test)}: ${+over.toPrecision(2)} times as long.`,
          together: `Training and test loss fall together: a tenth at times ${time(times.train)} and ${time(times.test)}.`,
        }[verdict];
        this.spoken = VERDICTS[verdict][0];
        this.querySelector(".ge-say").textContent = this.sentence;
        const marks = [["ge-train", "training"], ["ge-test", "test"], ["ge-frozen", "test, linearised network"], ["ge-level", "kernel regression"], ["ge-law", "time law"]];
        this.querySelector(".ge-limit").innerHTML = marks.map(([name, text]) => `<span><svg class="ge-sample" viewBox="0 0 26 8" aria-hidden="true"><path class="ge-line ${name}" d="M0 4h26"/></svg>${text}</span>`).join(" ") +
          ` <span>(D = ${DIMENSION}, N = ${WIDTH}, step η₀ = ${near(run.eta)})</span>`;
      }

      summary() {
        const { run, lazy } = this.state, { records } = run, first = records[0], last = records[records.length - 1];
        return first ? `Kernel regression would end at ${percent(lazy.test / first.test)}. The weights have become ${fmt(last.norm, 1)} times as long.` : "";
      }

      rows() {
        const { run, frozen } = this.state, { records } = run, some = records.filter((_, k) => k % 16 === 0 || k === records.length - 1);
        const share = (list, name, r) => fmt(r[name] / list[0][name], 4);
        return [{
          caption: "The network", head: ["time", "training", "test", ...PARTS.map(([, text]) => text), "alignment", "weights"],
          body: some.map((r) => [time(r.step * run.eta), share(records, "train", r), share(records, "test", r), ...PARTS.map(([name]) => fmt(r[name], 3)), fmt(r.alignment, 4), fmt(r.norm, 2)]),
        }, {
          caption: "Its linearisation", head: ["time", "training", "test"],
          body: frozen.records.filter((_, k) => k % 16 === 0).map((r) => [time(r.step * frozen.eta), share(frozen.records, "train", r), share(frozen.records, "test", r)]),
        }];
      }

      // ---- pictures

      draw() {
        if (!this.state || !this.state.run) return;
        this.drawLoss();
        this.drawParts();
        this.drawState();
      }

      // Logarithmic time from 1; what is earlier stands at the left edge.
      clock(f) {
        const x = scale(0, Math.log10(END), f.x0, f.x1);
        return (t) => x(Math.log10(Math.min(Math.max(t, 1), END)));
      }

      axis(f, x) {
        return `<g class="ge-axis">` + [0, 1, 2, 3, 4, 5].map((k) => `<path d="M${x(10 ** k)} ${f.y0}v4"/><text x="${x(10 ** k)}" y="${f.y0 + 16}" text-anchor="middle">${k === 0 ? "1" : k === 1 ? "10" : `10${SUPERSCRIPT[k]}`}</text>`).join("") +
          `<path d="M${f.x0} ${f.y0}H${f.x1}"/><text class="ge-name" x="${(x(1e4) + x(1e5)) / 2}" y="${f.y0 + 30}" text-anchor="end">time η₀t</text></g>`;
      }

      path(run, x, y, of) {
        return `M${run.records.map((r) => `${x(r.step * run.eta).toFixed(1)} ${y(of(r)).toFixed(1)}`).join("L")}`;
      }

      grid(top) {
        const size = 10 ** Math.floor(Math.log10(top)), unit = [0.2, 0.5, 1, 2, 5].find((v) => v * size * 4.2 > top) * size;
        return { marks: Array.from({ length: Math.floor(top / unit) + 1 }, (_, k) => k * unit), digits: Math.max(0, -Math.floor(Math.log10(unit) + 1e-9)) };
      }

      // The names of lines, in their colours, above a picture.
      key_(f, names) {
        return `<text class="ge-note" x="4" y="12">${names.map(([name, text], k) => `<tspan class="${name}"${k ? ' dx="9"' : ""}>${text}</tspan>`).join("")}</text>`;
      }

      drawLoss() {
        const { run, frozen, lazy, law, times } = this.state, f = this.frame("loss", 44, 14, 14, 36);
        if (f.width < 60 || !run.records.length) return;
        const start = run.records[0], share = (name) => (r) => r[name] / start[name];
        const top = 1.08 * Math.min(4, Math.max(1, lazy.test / start.test, ...[run, frozen].flatMap((q) => q.records.map(share("test")))));
        const x = this.clock(f), y = scale(0, top, f.y0, f.y1), cut = (v) => y(Math.min(v, top)), ticks = this.grid(top), level = cut(lazy.test / start.test);
        const mark = (at, name) => (at === null ? "" : `<path class="ge-at ge-${name}" d="M${x(at)} ${f.y0}V${y(SHARE)}"/><circle class="ge-dot ge-${name}" cx="${x(at)}" cy="${y(SHARE)}" r="4.5"/>`);
        let body = this.axes(f, x, y, [], ticks.marks, "", "", [0, ticks.digits]) + this.axis(f, x);
        body += `<path class="ge-rule" d="M${f.x0} ${y(SHARE)}H${f.x1}"/><path class="ge-level" d="M${f.x0} ${level}H${f.x1}"/>` + (law < END ? `<path class="ge-law" d="M${x(law)} ${f.y0}V${f.y1}"/>` : "");
        if (frozen.records.length) body += `<path class="ge-line ge-frozen" d="${this.path(frozen, x, cut, (r) => r.test / start.test)}"/>`;
        body += ["train", "test"].map((name) => `<path class="ge-line ge-${name}" d="${this.path(run, x, cut, share(name))}"/>${mark(times[name], name)}`).join("");
        const said = (v) => (v === null ? "not" : `at time ${time(v)}`);
        this.paint(f, `Loss over its start against time: training loss ${said(times.train)} below a tenth, test loss ${said(times.test)}; kernel regression would end at ${percent(lazy.test / start.test)}.`, body);
      }

      drawParts() {
        const { run } = this.state, f = this.frame("parts", 44, 14, 30, 36);
        if (f.width < 60 || !run.records.length) return;
        const peak = Math.max(...run.records.map((r) => Math.max(r.variance, r.misalignment, r.linear))), top = 1.08 * Math.min(peak, 8 * run.records[0].test);
        const x = this.clock(f), y = scale(0, top, f.y0, f.y1), ticks = this.grid(top), last = run.records[run.records.length - 1];
        const body = this.axes(f, x, y, [], ticks.marks, "", "", [0, ticks.digits]) + this.axis(f, x) +
          PARTS.map(([name]) => `<path class="ge-line ge-part-${name}" d="${this.path(run, x, (v) => y(Math.min(v, top)), (r) => r[name])}"/>`).join("") +
          this.key_(f, PARTS.map(([name, text]) => [`ge-part-${name}`, text]));
        this.paint(f, `Three parts of the test loss against time; at the end ${PARTS.map(([name, text]) => `${text} ${fmt(last[name], 3)}`).join(", ")}.`, body);
      }

      drawState() {
        const { run } = this.state, f = this.frame("state", 44, 34, 30, 36);
        if (f.width < 60 || !run.records.length) return;
        const { records } = run, last = records[records.length - 1], most = (name) => Math.max(...records.map((r) => r[name]));
        const high = 1.1 * most("alignment"), long = 1.1 * Math.max(1.2, most("norm")), x = this.clock(f), y = scale(0, high, f.y0, f.y1), z = scale(0, long, f.y0, f.y1);
        const left = this.grid(high), right = this.grid(long);
        const body = this.axes(f, x, y, [], left.marks, "", "", [0, left.digits]) + this.axis(f, x) +
          right.marks.map((v) => `<text class="ge-h3" x="${f.x1 + 6}" y="${z(v) + 4}">${fmt(v, right.digits)}</text>`).join("") +
          `<path class="ge-line ge-h1" d="${this.path(run, x, y, (r) => r.alignment)}"/><path class="ge-line ge-h3 ge-dashed" d="${this.path(run, x, z, (r) => r.norm)}"/>` +
          this.key_(f, [["ge-h1", "← alignment"], ["ge-h3", "weights over start →"]]);
        this.paint(f, `Alignment of the kernel with the target against time, from ${records[0].alignment.toPrecision(2)} to ${last.alignment.toPrecision(2)}; length of the weights, from 1 to ${fmt(last.norm, 1)}.`, body);
      }
    }

    define("grok-lazy", GrokLazy);
  }

  window.GrokPanels ? build(window.GrokPanels) : document.addEventListener("grok-panels", () => build(window.GrokPanels), { once: true });
})();
