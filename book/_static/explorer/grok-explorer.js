/* <grok-explorer>: the one-neuron action, a population of neurons and the learnability curve, solved live (see solver.js, panel.js).
 *
 * Attributes (initial state, to which Reset returns; all optional)
 *   samples dimension width noise-variance epsilon   numbers: n, d, N, sigma^2, epsilon (defaults: 3000 150 700 0.15 -0.3)
 *   readout-variance weight-variance                 numbers: sigma_a^2, sigma_w^2     (defaults: 8/700 0.5), not on sliders
 *   norm                                             "exact" (default) or "fixed"
 * Whatever the element contains is shown until the panel is ready, and is what a reader without scripts sees.
 *
 * For tests and scripts, beyond those of every panel: [data-curve-ready] when the learnability curve is drawn;
 *   state = {problem, norm, solution, profile, dots, curve, limit, solveTime (ms), drawTime (ms)}; .ge-dots .ge-bulk, .ge-dots .ge-droplet   dot paths
 */
(function () {
  "use strict";
  const NOISE = { name: "noise", symbol: "σ²", label: "Noise variance", min: 0.05, max: 0.6, step: 0.002, digits: 3 };

  function build({ GrokPanel, fmt, count, scale, PHASES, define }) {
    class GrokExplorer extends GrokPanel {
      static solver = "GrokSolver";
      static initial = () => window.GrokSolver.PAPER;
      static attributes = {
        samples: "samples", dimension: "dimension", width: "width", noise: "noise-variance", epsilon: "epsilon",
        readout: "readout-variance", weight: "weight-variance",
      };
      static controls = [
        NOISE,
        { name: "samples", symbol: "n", label: "Samples", min: 1000, max: 6000, step: 50, digits: 0 },
        { name: "dimension", symbol: "d", label: "Dimension", min: 50, max: 400, step: 5, digits: 0 },
        { name: "width", symbol: "N", label: "Width", min: 100, max: 2000, step: 50, digits: 0 },
        { name: "epsilon", symbol: "ε", label: "Cubic part", min: -1.2, max: 0.6, step: 0.05, digits: 2 },
      ];
      static choice = {
        name: "norm", legend: "Transverse norm <i>s</i>", options: [["exact", "integrated exactly"], ["fixed", "frozen at σ<sub>w</sub>²"]],
      };
      static views = [
        ["action", "Action of one neuron, <i>S</i>(<i>q</i>) = −ln <i>p</i>(<i>q</i>)/<i>p</i>(0)"],
        ["dots", "One network: overlap <i>q</i>, transverse norm <i>s</i>"],
        ["learn", "Learned share of the teacher"],
      ];
      static numbers = [
        ["droplets", "Droplets"], ["b", "Left of H<sub>1</sub>, <i>b</i>"], ["well", "Side wells at |<i>q</i>|"],
        ["c", "Left of H<sub>3</sub>, <i>c</i>"], ["barrier", "Barrier height"], ["u", "Interaction <i>u</i>"],
      ];

      attach() {
        this.handle(this.querySelector(".ge-learn svg"), (px) => this.plot.noise(px));
      }

      compute() {
        const { GrokSolver } = window, state = this.state, { problem, norm } = state;
        const last = state.solution, start = last && last.norm === norm ? [last.b, last.c] : null;
        let solution = GrokSolver.solve(problem, norm, { start });
        if (!solution.converged && start) solution = GrokSolver.solve(problem, norm);
        state.solution = solution;
        state.profile = GrokSolver.profile(problem, solution);
        this.before = state.dots;
        const dots = state.dots = GrokSolver.population(state.profile, Math.round(problem.width));
        if (norm === "fixed") dots.s = dots.s.map((s, k) => s * (1 + 0.09 * ((k * 0.618034) % 1 - 0.5))); // a thin band, to be seen
      }

      transition() {
        const { before, state: { dots } } = this;
        this.tween = null;
        if (this.morph && before && before.q.length === dots.q.length) this.animate(before, dots);
      }

      animate(from, to) {
        const began = performance.now(), mix = (a, b, t) => b.map((x, k) => a[k] + (x - a[k]) * t);
        const tick = (now) => {
          if (this.state.dots !== to) return;
          const x = Math.min(1, Math.max(0, (now - began) / 500)), t = x * x * (3 - 2 * x);
          this.tween = x < 1 ? { q: mix(from.q, to.q, t), s: mix(from.s, to.s, t) } : null;
          this.drawDots();
          if (x < 1) requestAnimationFrame(tick);
        };
        this.tween = from;
        requestAnimationFrame(tick);
      }

      // ---- words and numbers

      wells() {
        const { wells, barrier } = this.state.profile;
        if (!wells.length) return "one well";
        return barrier.q > 0 ? `${["", "three", "five"][wells.length] || "many"} wells` : "the centre is a hilltop";
      }

      words() {
        const { problem, solution, profile } = this.state, droplets = problem.width * profile.fraction;
        const phase = window.GrokSolver.phase(problem.width, profile.fraction);
        const { well, barrier } = profile;
        this.put("b", fmt(solution.b, 4), solution.b);
        this.put("c", fmt(solution.c, 4), solution.c);
        this.put("u", fmt(solution.u, solution.u < 100 ? 2 : 0), solution.u);
        this.put("droplets", count(droplets), droplets);
        this.put("well", well ? fmt(well.q, 3) : "none", well && well.q);
        this.put("barrier", barrier ? fmt(barrier.action, 2) : "none", barrier && barrier.action);
        this.badge(phase, PHASES[phase]);
        this.spoken = this.wells();
        this.sentence = !solution.converged ? `At σ² = ${fmt(problem.noise, 3)} the solver did not converge: these views are not a solution.`
          : `At σ² = ${fmt(problem.noise, 3)} ` + (
            !well ? "the action has one well, at the centre: every neuron belongs to the Gaussian bulk."
              : !barrier.q ? "the centre is a hilltop: the bulk itself has split, with no barrier to cross, and every neuron counts as a droplet."
                : `the action has ${this.wells()}, and a network of ${fmt(problem.width, 0)} is expected to hold ${count(droplets)} droplets.`);
        this.querySelector(".ge-say").textContent = this.sentence;
      }

      summary() {
        const { problem, solution } = this.state, e = problem.epsilon;
        return `Learned: ${fmt(100 * (1 - solution.b), 0)} % of H1` + (e ? `, ${fmt(100 * (1 - solution.c / e), 0)} % of H3.` : ".");
      }

      rows() {
        const { problem, profile, curve } = this.state;
        const at = (q) => { const i = Math.round(q / profile.step); return [fmt(profile.action[i], 2), fmt(profile.norms[i], 3), count(problem.width * profile.tail[i])]; };
        const tables = [{
          caption: `One neuron at σ² = ${fmt(problem.noise, 3)}`, head: ["|q|", "S(q)", "mean s", "neurons beyond"],
          body: [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2].map((q) => [fmt(q, 1), ...at(q)]),
        }];
        if (curve) tables.push({
          caption: "Along the noise", head: ["σ²", "1 − b", "1 − c/ε", "droplets"],
          body: curve.points.filter((_, k) => k % 5 === 0).map((x) => [fmt(x.noise, 2), fmt(1 - x.b, 3), fmt(1 - x.c / problem.epsilon, 3), count(x.droplets)]),
        });
        return tables;
      }

      // ---- the curve over the noise and the two limits, computed between frames

      sweep() {
        const { problem, norm } = this.state, { noise, ...rest } = problem, key = JSON.stringify([rest, norm]);
        if (this.wanted === key) return;
        this.wanted = key;
        this.removeAttribute("data-curve-ready");
        if (!this.sweeping) this.slice();
      }

      slice() {
        const { GrokSolver } = window, state = this.state;
        if (!this.sweeping) {
          this.sweeping = { key: this.wanted, problem: { ...state.problem }, norm: state.norm, points: [], start: null, limit: null };
        }
        const job = this.sweeping, until = performance.now() + 8;
        do {
          if (!job.limit) { job.limit = GrokSolver.limit(job.problem, job.norm, { from: 1, to: NOISE.min / 2 }); continue; }
          const noise = NOISE.max - 0.01 * job.points.length, p = { ...job.problem, noise };
          const s = GrokSolver.solve(p, job.norm, { start: job.start, fineness: 0.5 });
          const droplets = p.width * GrokSolver.profile(p, s, { step: 0.02 }).fraction;
          job.start = [s.b, s.c];
          job.points.push({ noise, b: s.b, c: s.c, droplets, phase: GrokSolver.phase(p.width, droplets / p.width) });
          if (noise < NOISE.min + 0.005) job.done = true;
        } while (!job.done && performance.now() < until);
        if (job.done) {
          state.curve = { points: job.points, epsilon: job.problem.epsilon };
          state.limit = job.limit;
          this.sweeping = null;
          this.drawLearn();
          this.drawTicks();
          if (job.key === this.wanted) { this.setAttribute("data-curve-ready", ""); this.table(); return; }
        }
        setTimeout(() => this.slice(), 0);
      }

      // ---- pictures

      draw() {
        if (!this.state || !this.state.profile) return;
        const widest = Math.max(0, ...this.state.profile.wells.map((w) => w.q));
        this.span = widest < 1.3 ? 1.5 : widest < 1.8 ? 2 : 3;
        this.marks = widest < 1.3 ? [-1, -0.5, 0, 0.5, 1] : widest < 1.8 ? [-2, -1, 0, 1] : [-3, -2, -1, 0, 1, 2];
        this.drawAction();
        this.drawDots();
        this.drawLearn();
        this.drawTicks();
      }

      // The band beyond the barrier, in both views of q.
      bands(f, x) {
        const { barrier } = this.state.profile;
        if (!barrier) return "";
        const b = barrier.q, edge = this.span;
        return [[-edge, -b], [b, edge]].map(([l, r]) => `<rect class="ge-band" x="${x(l)}" y="${f.y1}" width="${x(r) - x(l)}" height="${f.y0 - f.y1}"/>`).join("");
      }

      drawAction() {
        const { profile } = this.state, { action, step, wells, barrier } = profile, span = this.span;
        const f = this.frame("action", 34, 10, 26, 24);
        if (f.width < 60) return;
        const lowest = Math.min(0, ...wells.map((w) => w.action)), high = barrier ? barrier.action : 0;
        const top = [10, 15, 20, 30, 50, 80, 120, 200, 400].find((v) => v >= 1.15 * high) || 800;
        const unit = [2, 3, 4, 5, 6, 8, 10, 20, 40, 80, 160].find((v) => top - lowest <= 6 * v) || 400;
        const bottom = Math.min(-0.08 * top, 1.15 * lowest - 0.04 * top);
        const x = scale(-span, span, f.x0, f.x1), y = scale(bottom, top, f.y0, f.y1);
        const line = (from, to) => {
          const points = [];
          for (let i = Math.ceil(from / step - 1e-9); i * step <= to + 1e-9; i++) {
            const j = Math.abs(i);
            if (j < action.length) points.push(`${x(i * step).toFixed(1)} ${y(Math.min(action[j], 2 * top)).toFixed(1)}`);
          }
          return points.length > 1 ? `M${points.join("L")}` : "";
        };
        const edge = barrier ? barrier.q : span;
        const levels = [];
        for (let v = Math.ceil(bottom / unit) * unit; v <= top; v += unit) levels.push(v);
        const diamond = (q, v) => `<path class="ge-mark-droplet" d="M${x(q)} ${y(v) - 7}l7 7-7 7-7-7z"/>`;
        let body = this.bands(f, x) + this.axes(f, x, y, this.marks, levels, "q", "S", [1, 0]);
        body += `<svg x="0" y="${f.y1 - 8}" width="${f.width}" height="${f.y0 - f.y1 + 8}" overflow="hidden"><g transform="translate(0 ${8 - f.y1})">` +
          `<path class="ge-line ge-line-bulk" d="${line(-edge, edge)}"/>` +
          (barrier ? `<path class="ge-line ge-line-droplet" d="${line(-span, -edge)}${line(edge, span)}"/>` : "") + "</g></svg>";
        if (edge && barrier) {
          const l = x(-barrier.q), r = x(barrier.q), h = y(barrier.action);
          body += `<path class="ge-rule" d="M${l} ${y(0)}V${h}H${r}V${y(0)}"/><text class="ge-note" x="${x(0)}" y="${h - 6}" text-anchor="middle">barrier ${fmt(barrier.action, 1)}</text>`;
        }
        body += wells.map((v) => diamond(v.q, v.action) + diamond(-v.q, v.action) +
          `<text class="ge-note" x="${x(v.q)}" y="${y(v.action) + (y(v.action) + 26 > f.y0 ? -12 : 22)}" text-anchor="middle">${fmt(v.action, 1)}</text>`).join("");
        if (edge) body += `<circle class="ge-mark-bulk" cx="${x(0)}" cy="${y(0)}" r="6"/>`;
        const title = `Action S against overlap q: ${this.wells()}` + (!barrier ? "." :
          `; side wells at q = ±${fmt(profile.well.q, 2)}, ${fmt(profile.well.action, 1)} above the centre, behind a barrier of ${fmt(barrier.action, 1)}.`);
        this.paint(f, title, body);
      }

      drawDots() {
        const { profile, problem } = this.state, { q, s } = this.tween || this.state.dots, { barrier, fraction } = profile;
        const f = this.frame("dots", 34, 10, 26, 24), span = this.span;
        if (f.width < 60) return;
        const w = problem.weight, x = scale(-span, span, f.x0, f.x1), y = scale(0, 1.8 * w, f.y0, f.y1);
        const edge = barrier ? barrier.q : Infinity, layers = new Array(8).fill(""), diamonds = new Array(4).fill("");
        let outside = 0;
        for (let k = 0; k < q.length; k++) {
          const px = x(q[k]).toFixed(1), py = y(s[k]).toFixed(1);
          if (Math.abs(q[k]) > edge) { diamonds[k % 4] += `M${px} ${py - 4.6}l4.2 4.6-4.2 4.6-4.2-4.6z`; outside++; }
          else layers[(k * 37) % 101 % 8] += `M${px} ${py}h0`;
        }
        const each = problem.width * fraction / 2, label = (q, sign, kind, n) =>
          `<text class="ge-note" x="${x(q)}" y="${f.y1 + 4}" text-anchor="middle"><tspan class="ge-sign-${kind}">${sign}</tspan> ${count(n)}</text>`;
        let body = this.bands(f, x) + this.axes(f, x, y, this.marks, [0, 0.5 * w, w, 1.5 * w], "q", "s", [1, 2]);
        body += `<path class="ge-rule" d="M${f.x0} ${y(w)}H${f.x1}"/><text class="ge-note ge-soft" x="${f.x1 - 2}" y="${y(w) - 5}" text-anchor="end">σ<tspan dy="3" font-size="75%">w</tspan><tspan dy="-3">²</tspan></text>`;
        body += layers.map((d) => `<path class="ge-bulk" d="${d}"/>`).join("") + diamonds.map((d) => `<path class="ge-droplet" d="${d}"/>`).join("");
        if (barrier && edge) {
          body += label(-(edge + span) / 2, "◆", "droplet", each) + label((edge + span) / 2, "◆", "droplet", each) + label(0, "●", "bulk", problem.width - 2 * each);
        }
        this.paint(f, `${q.length} neurons drawn from the law, by overlap q and transverse norm s: ${outside} droplets beyond the barrier, ${q.length - outside} in the bulk.`, body);
      }

      drawLearn() {
        const { problem, solution, curve, limit } = this.state, f = this.frame("learn", 34, 10, 26, 42);
        if (f.width < 60) return;
        const e = problem.epsilon, h1 = 1 - solution.b, h3 = e ? 1 - solution.c / e : null;
        const highest = Math.max(h1, h3 || 0, ...(curve ? curve.points.map((p) => 1 - p.b) : [])), top = highest < 1.02 ? 1 : highest < 1.5 ? 1.5 : 2;
        const x = scale(NOISE.min, NOISE.max, f.x0 + 6, f.x1 - 6), y = scale(0, top, f.y0, f.y1);
        this.plot = { noise: scale(f.x0 + 6, f.x1 - 6, NOISE.min, NOISE.max) };
        const clip = (v) => Math.max(-0.03, Math.min(top, v));
        let body = this.axes(f, x, y, [0.1, 0.2, 0.3, 0.4, 0.5], [0, 0.5, 1, 1.5, 2].filter((v) => v <= top), "σ²", "", [1, 1]);
        if (curve) {
          const line = (value) => `M${curve.points.map((p) => `${x(p.noise).toFixed(1)} ${y(clip(value(p))).toFixed(1)}`).join("L")}`;
          const stale = this.wanted !== undefined && this.sweeping && this.sweeping.key !== this.wanted ? " ge-stale" : "";
          body += `<g class="ge-curves${stale}"><path class="ge-line ge-h1" d="${line((p) => 1 - p.b)}"/>` +
            (curve.epsilon ? `<path class="ge-line ge-h3" d="${line((p) => 1 - p.c / curve.epsilon)}"/>` : "");
          body += this.ribbon(f, x, curve.points.map((p) => ({ at: p.noise, phase: p.phase })), 0.01);
          body += "</g>";
          for (const [key, v] of [["coexistence", limit.coexistence], ["spinodal", limit.spinodal]]) {
            if (v && v < NOISE.max && v > NOISE.min) body += `<path class="ge-tick ge-tick-${key}" d="M${x(v)} ${f.y0}l-4 -7h8z"/>`;
          }
        }
        const cx = x(problem.noise);
        body += `<path class="ge-cursor" d="M${cx} ${f.y1 - 4}V${f.y0 + 28}"/><circle class="ge-h1" cx="${cx}" cy="${y(clip(h1))}" r="5"/>`;
        if (h3 !== null) body += `<circle class="ge-h3" cx="${cx}" cy="${y(clip(h3))}" r="5"/>`;
        const side = cx > (f.x0 + f.x1) / 2 ? -1 : 1, at = cx + side * 10, anchor = side < 0 ? "end" : "start";
        body += `<text class="ge-value ge-h1" x="${at}" y="${y(clip(h1)) - 8}" text-anchor="${anchor}">H₁ ${fmt(h1, 3)}</text>`;
        if (h3 !== null) body += `<text class="ge-value ge-h3" x="${at}" y="${y(clip(h3)) - 8}" text-anchor="${anchor}">H₃ ${fmt(h3, 3)}</text>`;
        this.paint(f, `Learned share against noise σ²; at ${fmt(problem.noise, 3)}: ${fmt(h1, 3)} of H1` + (h3 === null ? "." : `, ${fmt(h3, 3)} of H3.`), body);
      }

      drawTicks() {
        const { limit } = this.state;
        if (!limit) return;
        this.ticks(["coexistence", "spinodal"].map((key) => {
          const v = limit[key], seen = v && v >= NOISE.min && v <= NOISE.max;
          return { key, text: v ? fmt(v, 3) + (seen ? "" : ", off the slider") : "none", at: seen ? (v - NOISE.min) / (NOISE.max - NOISE.min) : null };
        }), "limit of a wide network");
      }
    }

    define("grok-explorer", GrokExplorer);
  }

  window.GrokPanels ? build(window.GrokPanels) : document.addEventListener("grok-panels", () => build(window.GrokPanels), { once: true });
})();
