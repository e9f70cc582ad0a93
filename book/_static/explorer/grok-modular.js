/* <grok-modular>: one frequency of the modular-addition network: its action, its amplitudes over the neurons, and the residual
 * against the noise, solved live (see modular-solver.js, panel.js).
 *
 * Attributes (initial state, to which Reset returns; all optional)
 *   modulus width ratio readout-variance sextic-decay   P, N, sigma^2 in units of its onset, sigma_a^2, gamma
 *   kernel                                              "corrected" (default) or "paper"
 * Whatever the element contains is shown until the panel is ready, and is what a reader without scripts sees.
 *
 * state = {problem (with noise), kernel, solution, limits, dots, curve, solveTime, drawTime}; .ge-plane .ge-bulk, .ge-plane .ge-droplet   dot paths
 */
(function () {
  "use strict";
  const RATIO = { name: "ratio", symbol: "σ²/σ²<sub>on</sub>", label: "Noise over its onset", min: 0.2, max: 1.3, step: 0.005, digits: 3 };
  const PRIMES = [7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 79, 89, 97, 101, 113, 127, 149, 173, 199, 227, 251, 283, 307, 347, 401];
  const powers = (from, to, each) => Array.from({ length: (to - from) * each + 1 }, (_, k) => +(10 ** (from + k / each)).toPrecision(3));
  const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  // A number over many decades, as a reader writes it.
  const scientific = (v) => {
    if (!Number.isFinite(v)) return "–";
    if (v >= 0.01 && v < 1000) return v.toPrecision(3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
    const [m, e] = v.toExponential(1).split("e");
    return `${m.replace(/\.0$/, "")}·10${e.replace("+", "").replace("-", "⁻").replace(/\d/g, (x) => SUPERSCRIPT[x])}`;
  };

  function build({ GrokPanel, fmt, count, scale, PHASES, define }) {
    class GrokModular extends GrokPanel {
      static solver = "GrokModular";
      static initial = () => ({ modulus: 37, width: 4000, ratio: 0.6, readout: 2e-6, decay: 31.6 });
      static attributes = { modulus: "modulus", width: "width", ratio: "ratio", readout: "readout-variance", decay: "sextic-decay" };
      static controls = [
        RATIO,
        { name: "modulus", symbol: "P", label: "Modulus", values: PRIMES, digits: 0 },
        { name: "width", symbol: "N", label: "Width", values: [50, 100, 200, 400, 700, 1000, 2000, 4000, 10000], digits: 0 },
        { name: "decay", symbol: "γ", label: "Sextic decay", values: powers(-4, 3, 10), text: scientific },
        { name: "readout", symbol: "σ<sub>a</sub>²", label: "Readout prior", values: powers(-7, -2, 10), text: scientific },
      ];
      static choice = { name: "kernel", legend: "Eigenvalue λ", options: [["corrected", "with its factor 4<i>P</i>²"], ["paper", "as printed"]] };
      static views = [
        ["action", "Action of one frequency, <i>S</i> along |<i>w</i>| = |<i>v</i>|"],
        ["plane", "One frequency across the neurons: complex amplitude <i>w</i>"],
        ["learn", "Residual <i>a</i>: the part of the table not learned"],
      ];
      static numbers = [
        ["droplets", "Droplets per frequency"], ["residual", "Residual <i>a</i>"], ["well", "Ring at |<i>w</i>|"],
        ["U", "<i>U</i> = <i>u a</i>²"], ["neglected", "Left out, nats"], ["Uc", "<i>U</i> at transition"],
      ];

      attach() {
        this.handle(this.querySelector(".ge-learn svg"), (px) => this.plot.ratio(px));
      }

      compute() {
        const { GrokModular } = window, { state } = this, { problem, kernel } = state;
        state.limits = GrokModular.limits({ ...problem, noise: 1 });
        problem.noise = problem.ratio * state.limits.onset;
        state.solution = GrokModular.solve(problem, kernel);
        state.dots = GrokModular.population(problem, state.solution, Math.min(1000, problem.width));
      }

      wells() {
        return this.state.solution.well ? "a centre and a ring" : "one well, at the centre";
      }

      words() {
        const { problem, solution: s, limits } = this.state, droplets = problem.width * s.fraction;
        const phase = window.GrokModular.phase(problem.width, s.fraction);
        this.put("droplets", droplets > 1e-3 ? count(droplets) : scientific(droplets || 0), droplets);
        this.put("residual", fmt(s.residual, 4), s.residual);
        this.put("well", s.well ? fmt(Math.sqrt(s.well.power), 3) : "none", s.well && Math.sqrt(s.well.power));
        const neglected = 8 * Math.sqrt(3 / problem.decay) * problem.modulus * s.u * problem.noise; // the reward of a droplet times L - 1
        this.put("neglected", fmt(neglected, neglected < 10 ? 1 : 0), neglected);
        this.put("U", scientific(s.U), s.U);
        this.put("Uc", scientific(limits.Uc), limits.Uc);
        this.badge(phase, PHASES[phase]);
        this.spoken = this.wells();
        this.sentence = !s.converged ? "The solver did not converge: these views are not a solution." : `At σ² = ${scientific(problem.noise)} ` + (
          !s.well ? "the action has one well, at the centre: no frequency is learned by any neuron."
            : droplets < 1 ? `a ring of wells exists, but fewer than one of the ${fmt(problem.width, 0)} neurons is expected on it.`
              : `each frequency is carried by about ${count(droplets)} of the ${fmt(problem.width, 0)} neurons, each at a phase of its own.`);
        this.querySelector(".ge-say").textContent = this.sentence;
      }

      summary() {
        return `Learned: ${fmt(100 * (1 - this.state.solution.residual), 0)} % of the table.`;
      }

      rows() {
        const { problem, solution: s, curve } = this.state, { ridge } = window.GrokModular, top = 1.3 * (s.well ? Math.sqrt(s.well.power) : this.state.limits.ring);
        const tables = [{
          caption: "One frequency of one neuron", head: ["|w|", "S", "2P·S, nats"],
          body: [0, 0.2, 0.4, 0.6, 0.8, 1].map((x) => {
            const v = ridge(s.U, problem.decay, (x * top) ** 2);
            return [fmt(x * top, 3), fmt(v, 4), fmt(2 * problem.modulus * v, 1)];
          }),
        }];
        if (curve) tables.push({
          caption: "Along the noise", head: ["σ²/σ²on", "a, corrected", "a, as printed"],
          body: curve.filter((_, k) => k % 4 === 0).map((x) => [fmt(x.ratio, 2), fmt(x.corrected, 3), fmt(x.paper, 3)]),
        });
        return tables;
      }

      // ---- the curves over the noise, computed between frames

      sweep() {
        const { modulus, width, readout, decay } = this.state.problem, key = JSON.stringify([modulus, width, readout, decay, this.state.kernel]);
        if (this.wanted === key) return;
        this.wanted = key;
        this.removeAttribute("data-curve-ready");
        if (!this.job) this.slice();
      }

      slice() {
        const { GrokModular } = window, { state } = this, until = performance.now() + 8;
        this.job ||= { key: this.wanted, problem: { ...state.problem }, kernel: state.kernel, onset: state.limits.onset, points: [] };
        const { job } = this;
        do {
          const ratio = RATIO.min + 0.02 * job.points.length, p = { ...job.problem, noise: ratio * job.onset };
          const both = { corrected: GrokModular.solve(p), paper: GrokModular.solve(p, "paper") };
          job.points.push({
            ratio, corrected: both.corrected.residual, paper: both.paper.residual, at: ratio,
            phase: GrokModular.phase(p.width, both[job.kernel].fraction),
          });
        } while (job.points.length < 56 && performance.now() < until);
        if (job.points.length === 56) {
          state.curve = job.points;
          this.job = null;
          this.drawLearn();
          if (job.key === this.wanted) { this.setAttribute("data-curve-ready", ""); this.table(); return; }
        }
        setTimeout(() => this.slice(), 0);
      }

      // ---- pictures

      draw() {
        if (!this.state || !this.state.solution) return;
        const { solution: s, limits } = this.state;
        this.span = 1.35 * Math.max(s.well ? Math.sqrt(s.well.power) : 0, limits.ring);
        const unit = 10 ** Math.floor(Math.log10(this.span)), tick = [5, 2, 1, 0.5].find((k) => this.span / (k * unit) >= 1.8) * unit;
        this.marks = [];
        for (let n = -Math.floor(this.span / tick); n <= this.span / tick; n++) this.marks.push(n * tick);
        this.digits = tick >= 1 ? 0 : tick >= 0.1 ? 1 : 2;
        this.drawAction();
        this.drawPlane();
        this.drawLearn();
        const { limits: { onset, spinodal } } = this.state, at = (v) => (v / onset <= RATIO.max ? (v / onset - RATIO.min) / (RATIO.max - RATIO.min) : null);
        this.ticks([{ key: "coexistence", text: `σ²on = ${scientific(onset)}`, at: at(onset) }, { key: "spinodal", text: scientific(spinodal), at: at(spinodal) }],
          "closed forms, nothing learned yet");
      }

      drawAction() {
        const { problem, solution: s } = this.state, { ridge } = window.GrokModular, span = this.span;
        const f = this.frame("action", 44, 10, 26, 24);
        if (f.width < 60) return;
        const value = (w) => ridge(s.U, problem.decay, w * w), high = s.barrier ? s.barrier.action : value(0.6 * span), low = Math.min(0, s.well ? s.well.action : 0);
        const top = 1.5 * Math.max(high, -0.3 * low), bottom = 1.2 * low - 0.12 * top;
        const size = 10 ** Math.floor(Math.log10(top)), unit = [0.2, 0.5, 1, 2, 5].find((v) => v * size * 5 > top) * size;
        const levels = [0, 1, 2, 3, 4, 5].map((k) => k * unit).filter((v) => v < top);
        const x = scale(-span, span, f.x0, f.x1), y = scale(bottom, top, f.y0, f.y1), edge = s.barrier ? Math.sqrt(s.barrier.power) : span;
        const line = (from, to) => `M${Array.from({ length: 81 }, (_, k) => from + (to - from) * k / 80)
          .map((w) => `${x(w).toFixed(1)} ${y(Math.min(value(w), 3 * top)).toFixed(1)}`).join("L")}`;
        let body = this.bands(f, x, edge) + this.axes(f, x, y, this.marks, levels, "|w|", "S", [this.digits, Math.max(0, 1 - Math.floor(Math.log10(unit * 5)))]);
        body += `<svg x="0" y="${f.y1 - 8}" width="${f.width}" height="${f.y0 - f.y1 + 8}" overflow="hidden"><g transform="translate(0 ${8 - f.y1})">` +
          `<path class="ge-line ge-line-bulk" d="${line(-edge, edge)}"/>` +
          (s.well ? `<path class="ge-line ge-line-droplet" d="${line(-span, -edge)}${line(edge, span)}"/>` : "") + "</g></svg>";
        if (s.well) {
          const w = Math.sqrt(s.well.power), l = x(-edge), r = x(edge), h = y(s.barrier.action);
          body += `<path class="ge-rule" d="M${l} ${y(0)}V${h}H${r}V${y(0)}"/><text class="ge-note" x="${x(0)}" y="${h - 6}" text-anchor="middle">barrier ${fmt(2 * problem.modulus * s.barrier.action, 1)} nats</text>`;
          body += [w, -w].map((q) => `<path class="ge-mark-droplet" d="M${x(q)} ${y(s.well.action) - 7}l7 7-7 7-7-7z"/>`).join("");
        }
        body += `<circle class="ge-mark-bulk" cx="${x(0)}" cy="${y(0)}" r="6"/>`;
        this.paint(f, `Action S against the amplitude: ${this.wells()}` + (s.well ?
          `; the ring at ${fmt(Math.sqrt(s.well.power), 3)} lies ${fmt(2 * problem.modulus * s.well.action, 1)} nats above the centre.` : "."), body);
      }

      // The band beyond the barrier.
      bands(f, x, edge) {
        if (!this.state.solution.well) return "";
        return [[-this.span, -edge], [edge, this.span]].map(([l, r]) => `<rect class="ge-band" x="${x(l)}" y="${f.y1}" width="${x(r) - x(l)}" height="${f.y0 - f.y1}"/>`).join("");
      }

      drawPlane() {
        const { problem, solution: s, dots } = this.state, f = this.frame("plane", 44, 10, 10, 24);
        if (f.width < 60) return;
        const cx = (f.x0 + f.x1) / 2, cy = (f.y0 + f.y1) / 2, k = Math.min(f.x1 - f.x0, f.y0 - f.y1) / (2 * this.span); // pixels a unit, both ways
        const px = (v) => (cx + k * v).toFixed(1), py = (v) => (cy - k * v).toFixed(1);
        const layers = new Array(8).fill(""), diamonds = new Array(4).fill("");
        dots.re.forEach((re, n) => {
          if (dots.out[n]) diamonds[n % 4] += `M${px(re)} ${py(dots.im[n]) - 4.6}l4.2 4.6-4.2 4.6-4.2-4.6z`;
          else layers[(n * 37) % 101 % 8] += `M${px(re)} ${py(dots.im[n])}h0`;
        });
        let body = `<path class="ge-rule" d="M${f.x0} ${cy}H${f.x1}M${cx} ${f.y1}V${f.y0}"/>` +
          (s.well ? `<circle class="ge-rule" cx="${cx}" cy="${cy}" r="${k * Math.sqrt(s.barrier.power)}"/>` : "") +
          layers.map((d) => `<path class="ge-bulk" d="${d}"/>`).join("") + diamonds.map((d) => `<path class="ge-droplet" d="${d}"/>`).join("") +
          `<text class="ge-name" x="${f.x1}" y="${cy - 6}" text-anchor="end">Re w</text><text class="ge-name" x="${cx + 8}" y="${f.y1 + 8}">Im w</text>`;
        const many = problem.width > dots.re.length ? ` (${dots.re.length} of ${problem.width} shown)` : "";
        this.paint(f, `Complex amplitudes of one frequency${many}: ${dots.droplets} neurons on a ring, at phases spread evenly, ${dots.re.length - dots.droplets} at the centre.`, body);
      }

      drawLearn() {
        const { problem, solution: s, curve, kernel } = this.state, f = this.frame("learn", 34, 10, 26, 42);
        if (f.width < 60) return;
        const x = scale(RATIO.min, RATIO.max, f.x0 + 6, f.x1 - 6), y = scale(0, 1.05, f.y0, f.y1);
        this.plot = { ratio: scale(f.x0 + 6, f.x1 - 6, RATIO.min, RATIO.max) };
        let body = this.axes(f, x, y, [0.2, 0.4, 0.6, 0.8, 1], [0, 0.5, 1], "σ²/σ²on", "a", [1, 1]);
        body += `<path class="ge-rule" d="M${x(RATIO.min)} ${y(RATIO.min)}L${x(1)} ${y(1)}"/>`;
        if (curve) {
          const line = (name) => `M${curve.map((p) => `${x(p.ratio).toFixed(1)} ${y(p[name]).toFixed(1)}`).join("L")}`;
          const other = kernel === "paper" ? "corrected" : "paper", style = { corrected: "ge-h1", paper: "ge-h3" };
          body += `<g class="ge-curves${this.job ? " ge-stale" : ""}"><path class="ge-line ge-stale ${style[other]}" d="${line(other)}"/><path class="ge-line ${style[kernel]}" d="${line(kernel)}"/>` +
            this.ribbon(f, x, curve, 0.02) + "</g>";
        }
        const cx = x(problem.ratio), style = kernel === "paper" ? "ge-h3" : "ge-h1", side = cx > (f.x0 + f.x1) / 2 ? -1 : 1;
        body += `<path class="ge-cursor" d="M${cx} ${f.y1 - 4}V${f.y0 + 28}"/><circle class="${style}" cx="${cx}" cy="${y(s.residual)}" r="5"/>` +
          `<text class="ge-value ${style}" x="${cx + side * 10}" y="${y(s.residual) + (s.residual > 0.8 ? 20 : -8)}" text-anchor="${side < 0 ? "end" : "start"}">${fmt(s.residual, 3)}</text>`;
        this.paint(f, `Residual against the noise over its onset; at ${fmt(problem.ratio, 2)}: ${fmt(s.residual, 3)}. Dashed: constant pressure, where the residual equals that ratio.`, body);
      }
    }

    define("grok-modular", GrokModular);
  }

  window.GrokPanels ? build(window.GrokPanels) : document.addEventListener("grok-panels", () => build(window.GrokPanels), { once: true });
})();
