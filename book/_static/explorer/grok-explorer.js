/* <grok-explorer>: the one-neuron action, a population of neurons and the learnability curve, solved live (see solver.js).
 *
 * Attributes (initial state, to which Reset returns; all optional)
 *   samples dimension width noise-variance epsilon   numbers: n, d, N, sigma^2, epsilon (defaults: 3000 150 700 0.15 -0.3)
 *   readout-variance weight-variance                 numbers: sigma_a^2, sigma_w^2     (defaults: 8/700 0.5), not on sliders
 *   norm                                             "exact" (default) or "fixed"
 * Whatever the element contains is shown until the panel is ready, and is what a reader without scripts sees.
 *
 * For tests and scripts
 *   grok-explorer[data-ready]            set when the panel is drawn; [data-curve-ready] when the learnability curve is too
 *   element.state                        {problem, norm, solution, profile, dots, curve, limit, solveTime (ms), drawTime (ms)}
 *   element.set({noise: 0.2, norm: ..})  as if the reader had moved the controls
 *   event "grok-change"                  after every redraw that follows a change of state (bubbles; detail = state)
 *   input[name=noise|samples|dimension|width|epsilon]   ranges;   output.ge-out-NAME   their values
 *   input[name^=ge-norm][value=exact|fixed]   radio buttons;      button.ge-reset
 *   .ge-action svg, .ge-dots svg, .ge-learn svg   the views;      .ge-dots .ge-bulk, .ge-dots .ge-droplet   dot paths
 *   .ge-b .ge-c .ge-u .ge-droplets .ge-well .ge-barrier   numbers, full precision in data-value;   .ge-phase   data-phase
 *   .ge-say   the sentence;   .ge-live   polite live region;   .ge-data table   the views as numbers
 */
(function () {
  "use strict";
  if (!window.customElements || customElements.get("grok-explorer")) return;

  const CONTROLS = [
    { name: "noise", symbol: "σ²", label: "Noise variance", min: 0.05, max: 0.6, step: 0.002, digits: 3 },
    { name: "samples", symbol: "n", label: "Samples", min: 1000, max: 6000, step: 50, digits: 0 },
    { name: "dimension", symbol: "d", label: "Dimension", min: 50, max: 400, step: 5, digits: 0 },
    { name: "width", symbol: "N", label: "Width", min: 100, max: 2000, step: 50, digits: 0 },
    { name: "epsilon", symbol: "ε", label: "Cubic part", min: -1.2, max: 0.6, step: 0.05, digits: 2 },
  ];
  const ATTRIBUTES = {
    samples: "samples", dimension: "dimension", width: "width", noise: "noise-variance", epsilon: "epsilon",
    readout: "readout-variance", weight: "weight-variance",
  };
  const PHASES = {
    "GFL": "every neuron in the Gaussian bulk", "GMFL-I": "bulk and droplets coexist", "GMFL-II": "no bulk is left",
  };
  const NOISE = CONTROLS[0];
  const fmt = (x, digits) => (Number.isFinite(x) ? x.toFixed(digits).replace("-", "−") : "–");
  const count = (x) => (x >= 99.95 ? fmt(x, 0) : x < 0.0005 ? "0" : fmt(x, x < 0.095 ? 3 : x < 0.95 ? 2 : 1));
  const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  let serial = 0;

  const whenSolver = (run) => (window.GrokSolver ? run() : document.addEventListener("grok-solver", run, { once: true }));
  const whenParsed = (run) =>
    document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", run, { once: true }) : run();

  // Linear map of [a, b] to [x, y].
  const scale = (a, b, x, y) => (v) => x + (v - a) / (b - a) * (y - x);

  class GrokExplorer extends HTMLElement {
    connectedCallback() {
      if (this.started) return;
      this.started = true;
      whenParsed(() => whenSolver(() => {
        if (!("IntersectionObserver" in window)) return this.start();
        const watch = new IntersectionObserver((seen) => {
          if (!seen.some((x) => x.isIntersecting)) return;
          watch.disconnect();
          this.start();
        }, { rootMargin: "600px" });
        watch.observe(this);
      }));
    }

    start() {
      if (this.state) return;
      const problem = { ...window.GrokSolver.PAPER };
      for (const key in ATTRIBUTES) {
        const value = parseFloat(this.getAttribute(ATTRIBUTES[key]));
        if (Number.isFinite(value)) problem[key] = value;
      }
      this.initial = { problem, norm: this.getAttribute("norm") === "fixed" ? "fixed" : "exact" };
      this.state = { problem: { ...problem }, norm: this.initial.norm, curve: null, limit: null };
      this.id_ = `ge${++serial}`;
      this.build();
      this.measure();
      new ResizeObserver(() => { this.measure(); this.draw(); }).observe(this.querySelector(".ge-views"));
      this.update();
      this.announce();
      this.querySelector(".ge-live").textContent = ""; // nothing has changed yet
      this.setAttribute("data-ready", "");
    }

    build() {
      const id = this.id_, { problem, norm } = this.state;
      const control = (c) => `
        <div class="ge-control ge-control-${c.name}">
          <label for="${id}-${c.name}"><span>${c.label} <i>${c.symbol}</i></span><output class="ge-out-${c.name}" for="${id}-${c.name}"></output></label>
          <input type="range" id="${id}-${c.name}" name="${c.name}" min="${c.min}" max="${c.max}" step="${c.step}" value="${problem[c.name]}">
          ${c === NOISE ? '<div class="ge-ticks" aria-hidden="true"></div>' : ""}
        </div>`;
      const radio = (value, text) =>
        `<label><input type="radio" name="ge-norm-${id}" value="${value}"${norm === value ? " checked" : ""}><span>${text}</span></label>`;
      const view = (name, title) =>
        `<figure class="ge-view ge-${name}"><figcaption>${title}</figcaption><svg role="img" focusable="false"></svg></figure>`;
      const number = (name, text) => `<div><dt>${text}</dt><dd class="ge-${name}"></dd></div>`;
      this.innerHTML = `
        <div class="ge"><div class="ge-in">
          <p class="ge-head"><strong class="ge-phase"></strong> <span class="ge-say"></span></p>
          <div class="ge-views">
            ${view("action", "Action of one neuron, <i>S</i>(<i>q</i>) = −ln <i>p</i>(<i>q</i>)/<i>p</i>(0)")}
            ${view("dots", "One network: overlap <i>q</i>, transverse norm <i>s</i>")}
            ${view("learn", "Learned share of the teacher")}
            <dl class="ge-numbers">
              ${number("droplets", "Droplets")}${number("b", "Left of H<sub>1</sub>, <i>b</i>")}
              ${number("well", "Side wells at |<i>q</i>|")}${number("c", "Left of H<sub>3</sub>, <i>c</i>")}
              ${number("barrier", "Barrier height")}${number("u", "Interaction <i>u</i>")}
            </dl>
          </div>
          ${control(NOISE)}
          <p class="ge-limit"></p>
          <div class="ge-controls">
            ${CONTROLS.slice(1).map(control).join("")}
            <fieldset class="ge-norm"><legend>Transverse norm <i>s</i></legend>
              ${radio("exact", "integrated exactly")}${radio("fixed", "frozen at σ<sub>w</sub>²")}
            </fieldset>
            <button type="button" class="ge-reset">Reset</button>
          </div>
          <p class="ge-live" role="status" aria-live="polite"></p>
          <details class="ge-data"><summary>These views as a table</summary><div></div></details>
        </div></div>`;

      this.addEventListener("input", (e) => {
        const { name, value } = e.target;
        if (name in this.state.problem) this.set({ [name]: parseFloat(value) });
        else if (name && name.startsWith("ge-norm")) this.set({ norm: value });
      });
      this.addEventListener("change", () => { this.flush(); this.announce(); });
      this.querySelector(".ge-reset").addEventListener("click", () => {
        this.set({ ...this.initial.problem, norm: this.initial.norm });
        this.flush();
        this.announce();
      });
      this.querySelector(".ge-data").addEventListener("toggle", () => this.table());
      const learn = this.querySelector(".ge-learn svg"); // the curve is a second handle on the noise
      const seek = (e) => {
        const box = learn.getBoundingClientRect(), v = this.plot.noise(e.clientX - box.left);
        const clamped = Math.min(NOISE.max, Math.max(NOISE.min, v));
        this.set({ noise: +(NOISE.min + Math.round((clamped - NOISE.min) / NOISE.step) * NOISE.step).toFixed(3) });
      };
      learn.addEventListener("pointerdown", (e) => { learn.setPointerCapture(e.pointerId); seek(e); });
      learn.addEventListener("pointermove", (e) => { if (learn.hasPointerCapture(e.pointerId)) seek(e); });
      learn.addEventListener("pointerup", () => { this.flush(); this.announce(); });
    }

    // Change parameters; the redraw waits for the next frame, so that a fast drag costs one solve a frame.
    set(changes) {
      const { norm, ...numbers } = changes;
      Object.assign(this.state.problem, numbers);
      if (norm && norm !== this.state.norm) { this.state.norm = norm; this.morph = !still(); }
      if (!this.pending) this.pending = requestAnimationFrame(() => this.flush());
    }

    flush() {
      if (!this.pending) return;
      cancelAnimationFrame(this.pending);
      this.pending = 0;
      this.update();
    }

    update() {
      const { GrokSolver } = window, state = this.state, { problem, norm } = state, began = performance.now();
      const last = state.solution, start = last && last.norm === norm ? [last.b, last.c] : null;
      let solution = GrokSolver.solve(problem, norm, { start });
      if (!solution.converged && start) solution = GrokSolver.solve(problem, norm);
      state.solution = solution;
      state.profile = GrokSolver.profile(problem, solution);
      const before = state.dots, dots = state.dots = GrokSolver.population(state.profile, Math.round(problem.width));
      if (norm === "fixed") dots.s = dots.s.map((s, k) => s * (1 + 0.09 * ((k * 0.618034) % 1 - 0.5))); // a thin band, to be seen
      state.solveTime = performance.now() - began;
      for (const c of CONTROLS) {
        const input = this.querySelector(`input[name=${c.name}]`);
        if (parseFloat(input.value) !== problem[c.name]) input.value = problem[c.name];
        this.querySelector(`.ge-out-${c.name}`).textContent = fmt(problem[c.name], c.digits);
        input.setAttribute("aria-valuetext", c.name === "noise" ? `σ² ${fmt(problem.noise, 3)}, ${this.wells()}` : `${c.symbol} ${fmt(problem[c.name], c.digits)}`);
      }
      for (const input of this.querySelectorAll("input[type=radio]")) input.checked = input.value === norm;
      this.words();
      this.tween = null;
      if (this.morph && before && before.q.length === dots.q.length) this.animate(before, dots);
      this.morph = false;
      this.draw();
      this.sweep();
      state.drawTime = performance.now() - began - state.solveTime;
      this.dispatchEvent(new CustomEvent("grok-change", { bubbles: true, detail: state }));
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
      const put = (name, text, value) => {
        const el = this.querySelector(`.ge-${name}`);
        el.textContent = text;
        el.setAttribute("data-value", value === null || value === undefined ? "" : value);
      };
      const { well, barrier } = profile;
      put("b", fmt(solution.b, 4), solution.b);
      put("c", fmt(solution.c, 4), solution.c);
      put("u", fmt(solution.u, solution.u < 100 ? 2 : 0), solution.u);
      put("droplets", count(droplets), droplets);
      put("well", well ? fmt(well.q, 3) : "none", well && well.q);
      put("barrier", barrier ? fmt(barrier.action, 2) : "none", barrier && barrier.action);
      const badge = this.querySelector(".ge-phase");
      badge.textContent = phase;
      badge.setAttribute("data-phase", phase);
      badge.title = PHASES[phase];
      this.sentence = !solution.converged ? `At σ² = ${fmt(problem.noise, 3)} the solver did not converge: these views are not a solution.`
        : `At σ² = ${fmt(problem.noise, 3)} ` + (
          !well ? "the action has one well, at the centre: every neuron belongs to the Gaussian bulk."
            : !barrier.q ? "the centre is a hilltop: the bulk itself has split, with no barrier to cross, and every neuron counts as a droplet."
              : `the action has ${this.wells()}, and a network of ${fmt(problem.width, 0)} is expected to hold ${count(droplets)} droplets.`);
      this.querySelector(".ge-say").textContent = this.sentence;
    }

    announce() {
      const { problem, solution } = this.state, e = problem.epsilon;
      this.querySelector(".ge-live").textContent = `${this.querySelector(".ge-phase").textContent}. ${this.sentence} ` +
        `Learned: ${fmt(100 * (1 - solution.b), 0)} % of H1` + (e ? `, ${fmt(100 * (1 - solution.c / e), 0)} % of H3.` : ".");
      this.table();
    }

    table() {
      const details = this.querySelector(".ge-data"), { problem, solution, profile, curve } = this.state;
      if (!details.open) return;
      const row = (cells, tag = "td") => `<tr>${cells.map((x, i) => (i ? `<${tag}>${x}</${tag}>` : `<th scope="${tag === "th" ? "col" : "row"}">${x}</th>`)).join("")}</tr>`;
      const at = (q) => { const i = Math.round(q / profile.step); return [fmt(profile.action[i], 2), fmt(profile.norms[i], 3), count(problem.width * profile.tail[i])]; };
      const overlaps = [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2];
      let html = `<table><caption>One neuron at σ² = ${fmt(problem.noise, 3)}</caption><thead>${row(["|q|", "S(q)", "mean s", "neurons beyond"], "th")}</thead>
        <tbody>${overlaps.map((q) => row([fmt(q, 1), ...at(q)])).join("")}</tbody></table>`;
      if (curve) {
        html += `<table><caption>Along the noise</caption><thead>${row(["σ²", "1 − b", "1 − c/ε", "droplets"], "th")}</thead><tbody>${
          curve.points.filter((_, k) => k % 5 === 0).map((x) => row([fmt(x.noise, 2), fmt(1 - x.b, 3), fmt(1 - x.c / problem.epsilon, 3), count(x.droplets)])).join("")}</tbody></table>`;
      }
      details.querySelector("div").innerHTML = html;
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

    measure() {
      this.size = {};
      for (const name of ["action", "dots", "learn"]) {
        const svg = this.querySelector(`.ge-${name} svg`);
        this.size[name] = { svg, width: svg.clientWidth, height: svg.clientHeight };
      }
    }

    frame(name, left, right, top, bottom) {
      const { svg, width, height } = this.size[name];
      return { svg, width, height, x0: left, x1: width - right, y0: height - bottom, y1: top };
    }

    paint(f, title, body) {
      const id = `${this.id_}-${f.svg.parentNode.className.split("-").pop()}`;
      f.svg.setAttribute("aria-labelledby", id);
      f.svg.innerHTML = `<title id="${id}">${title}</title>${body}`;
    }

    axes(f, x, y, xs, ys, xLabel, yLabel, digits) {
      return `<g class="ge-axis">` +
        ys.map((v) => `<path class="ge-grid" d="M${f.x0} ${y(v)}H${f.x1}"/><text x="${f.x0 - 6}" y="${y(v) + 4}" text-anchor="end">${fmt(v, digits[1])}</text>`).join("") +
        xs.map((v) => `<path d="M${x(v)} ${f.y0}v4"/><text x="${x(v)}" y="${f.y0 + 16}" text-anchor="middle">${fmt(v, digits[0])}</text>`).join("") +
        `<path d="M${f.x0} ${f.y0}H${f.x1}"/><text class="ge-name" x="${f.x1}" y="${f.y0 + 16}" text-anchor="end">${xLabel}</text>` +
        `<text class="ge-name" x="${f.x0 - 6}" y="${f.y1 - 12}" text-anchor="end">${yLabel}</text></g>`;
    }

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
        // a ribbon of phases under the axis
        const runs = [], edge = (v) => x(Math.max(NOISE.min, Math.min(NOISE.max, v)));
        for (const p of curve.points) {
          const last = runs[runs.length - 1];
          if (last && last.phase === p.phase) last.from = p.noise - 0.005; else runs.push({ phase: p.phase, from: p.noise - 0.005, to: p.noise + 0.005 });
        }
        for (const r of runs) {
          const l = edge(r.from), w = edge(r.to) - l;
          body += `<rect class="ge-ribbon" data-phase="${r.phase}" x="${l}" y="${f.y0 + 22}" width="${w}" height="6"/>` +
            (w > 46 ? `<text x="${l + w / 2}" y="${f.y0 + 41}" text-anchor="middle">${r.phase}</text>` : "");
        }
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
      const marks = ["coexistence", "spinodal"].map((key) => {
        const v = limit[key], seen = v && v >= NOISE.min && v <= NOISE.max;
        return { key, text: v ? fmt(v, 3) + (seen ? "" : ", off the slider") : "none", html: seen ? `<i class="ge-tick-${key}" style="--at:${(v - NOISE.min) / (NOISE.max - NOISE.min)}"></i>` : "" };
      });
      this.querySelector(".ge-ticks").innerHTML = marks.map((m) => m.html).join("");
      this.querySelector(".ge-limit").innerHTML = marks.map((m) => `<span><b class="ge-tick-${m.key}" aria-hidden="true"></b>${m.key} ${m.text}</span>`).join(" ") + " <span>(limit of a wide network)</span>";
    }
  }

  customElements.define("grok-explorer", GrokExplorer);
})();
