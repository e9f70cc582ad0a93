/* GrokPanel: what the book's live panels share: controls, redraw once a frame, words for screen readers, axes.
 *
 * A panel is a subclass with the static fields
 *   initial      {name: number}, the problem it starts from     attributes  {name: attribute that overrides it}
 *   controls     [{name, symbol, label, min, max, step, digits[, values, text]}], the first is the main one;
 *               values = the list that the slider indexes, text(v) = how a value is written
 *   choice       {name, legend, options: [[value, text]]}       views       [[name, title]], one picture each
 *   numbers      [[name, text]]                                 solver      the name of the global it waits for; it says "grok-solver" when there
 * and the methods compute() (fill this.state from this.state.problem), words() (set this.sentence, this.spoken, numbers by put()),
 * draw(), rows() (tables for those who do not see), and, if there is a curve, sweep(). attach() is called once after build().
 *
 * For tests and scripts: [data-ready] when drawn; element.state; element.set({name: value}); event "grok-change" after every redraw;
 *   input[name=NAME], output.ge-out-NAME; button.ge-reset; .ge-VIEW svg; .ge-NUMBER[data-value]; .ge-phase[data-phase]; .ge-say; .ge-live; .ge-data table
 */
(function () {
  "use strict";
  const fmt = (x, digits) => (Number.isFinite(x) ? x.toFixed(digits).replace("-", "−") : "–");
  const count = (x) => (x >= 99.95 ? fmt(x, 0) : x < 0.0005 ? "0" : fmt(x, x < 0.095 ? 3 : x < 0.95 ? 2 : 1));
  const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  // Linear map of [a, b] to [x, y].
  const scale = (a, b, x, y) => (v) => x + (v - a) / (b - a) * (y - x);
  let serial = 0;

  const whenParsed = (run) =>
    document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", run, { once: true }) : run();
  const whenSolver = (name, run) =>
    window[name] ? run() : document.addEventListener("grok-solver", () => whenSolver(name, run), { once: true });

  class GrokPanel extends HTMLElement {
    connectedCallback() {
      if (this.started) return;
      this.started = true;
      whenParsed(() => whenSolver(this.constructor.solver, () => {
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
      const { initial, attributes, choice } = this.constructor, problem = { ...initial() }, values = choice.options.map(([value]) => value);
      for (const key in attributes) {
        const value = parseFloat(this.getAttribute(attributes[key]));
        if (Number.isFinite(value)) problem[key] = value;
      }
      const chosen = this.getAttribute(choice.name);
      this.initial = { problem, choice: values.includes(chosen) ? chosen : values[0] };
      this.state = { problem: { ...problem }, [choice.name]: this.initial.choice };
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
      const id = this.id_, { controls, choice, views, numbers } = this.constructor, main = controls[0];
      const control = (c) => `
        <div class="ge-control ge-control-${c.name}${c === main ? " ge-main" : ""}">
          <label for="${id}-${c.name}"><span>${c.label} <i>${c.symbol}</i></span><output class="ge-out-${c.name}" for="${id}-${c.name}"></output></label>
          <input type="range" id="${id}-${c.name}" name="${c.name}" min="${c.values ? 0 : c.min}" max="${c.values ? c.values.length - 1 : c.max}" step="${c.values ? 1 : c.step}" value="${this.position(c)}">
          ${c === main ? '<div class="ge-ticks" aria-hidden="true"></div>' : ""}
        </div>`;
      const radio = ([value, text]) =>
        `<label><input type="radio" name="ge-${choice.name}-${id}" value="${value}"${this.state[choice.name] === value ? " checked" : ""}><span>${text}</span></label>`;
      const view = ([name, title]) =>
        `<figure class="ge-view ge-${name}"><figcaption>${title}</figcaption><svg role="img" focusable="false"></svg></figure>`;
      const number = ([name, text]) => `<div><dt>${text}</dt><dd class="ge-${name}"></dd></div>`;
      this.innerHTML = `
        <div class="ge"><div class="ge-in">
          <p class="ge-head"><strong class="ge-phase"></strong> <span class="ge-say"></span></p>
          <div class="ge-views">${views.map(view).join("")}<dl class="ge-numbers">${numbers.map(number).join("")}</dl></div>
          ${control(main)}
          <p class="ge-limit"></p>
          <div class="ge-controls">
            ${controls.slice(1).map(control).join("")}
            <fieldset class="ge-norm"><legend>${choice.legend}</legend>${choice.options.map(radio).join("")}</fieldset>
            <button type="button" class="ge-reset">Reset</button>
          </div>
          <p class="ge-live" role="status" aria-live="polite"></p>
          <details class="ge-data"><summary>These views as a table</summary><div></div></details>
        </div></div>`;

      this.addEventListener("input", (e) => {
        const { name, value } = e.target, c = controls.find((x) => x.name === name);
        if (c) this.set({ [name]: c.values ? c.values[+value] : parseFloat(value) });
        else if (name && name.startsWith(`ge-${choice.name}`)) this.set({ [choice.name]: value });
      });
      this.addEventListener("change", () => { this.flush(); this.announce(); });
      this.querySelector(".ge-reset").addEventListener("click", () => {
        this.set({ ...this.initial.problem, [choice.name]: this.initial.choice });
        this.flush();
        this.announce();
      });
      this.querySelector(".ge-data").addEventListener("toggle", () => this.table());
      this.attach();
    }

    attach() {}

    // A picture whose horizontal axis, f(pixel) = value of the main control, is a second handle on it.
    handle(svg, valueAt) {
      const main = this.constructor.controls[0];
      const seek = (e) => {
        const v = valueAt(e.clientX - svg.getBoundingClientRect().left), clamped = Math.min(main.max, Math.max(main.min, v));
        this.set({ [main.name]: +(main.min + Math.round((clamped - main.min) / main.step) * main.step).toFixed(main.digits + 2) });
      };
      svg.addEventListener("pointerdown", (e) => { svg.setPointerCapture(e.pointerId); seek(e); });
      svg.addEventListener("pointermove", (e) => { if (svg.hasPointerCapture(e.pointerId)) seek(e); });
      svg.addEventListener("pointerup", () => { this.flush(); this.announce(); });
    }

    // Where a slider stands: at its value, or at the nearest of a list.
    position(c) {
      const v = this.state.problem[c.name];
      if (!c.values) return v;
      return c.values.reduce((best, x, k) => (Math.abs(x - v) < Math.abs(c.values[best] - v) ? k : best), 0);
    }

    // Change parameters; the redraw waits for the next frame, so that a fast drag costs one solve a frame.
    set(changes) {
      const name = this.constructor.choice.name, { [name]: chosen, ...numbers } = changes;
      Object.assign(this.state.problem, numbers);
      if (chosen && chosen !== this.state[name]) { this.state[name] = chosen; this.morph = !still(); }
      if (!this.pending) this.pending = requestAnimationFrame(() => this.flush());
    }

    flush() {
      if (!this.pending) return;
      cancelAnimationFrame(this.pending);
      this.pending = 0;
      this.update();
    }

    update() {
      const { controls, choice } = this.constructor, { state } = this, began = performance.now();
      this.compute();
      state.solveTime = performance.now() - began;
      this.words();
      controls.forEach((c, k) => {
        const input = this.querySelector(`input[name=${c.name}]`), at = this.position(c), value = state.problem[c.name], text = c.text ? c.text(value) : fmt(value, c.digits);
        if (parseFloat(input.value) !== at) input.value = at;
        this.querySelector(`.ge-out-${c.name}`).textContent = text;
        input.setAttribute("aria-valuetext", `${c.symbol.replace(/<[^>]+>/g, "")} ${text}${k ? "" : `, ${this.spoken}`}`);
      });
      for (const input of this.querySelectorAll("input[type=radio]")) input.checked = input.value === state[choice.name];
      this.transition();
      this.morph = false;
      this.draw();
      this.sweep();
      state.drawTime = performance.now() - began - state.solveTime;
      this.dispatchEvent(new CustomEvent("grok-change", { bubbles: true, detail: state }));
    }

    transition() {}
    sweep() {}

    put(name, text, value) {
      const el = this.querySelector(`.ge-${name}`);
      el.textContent = text;
      el.setAttribute("data-value", value === null || value === undefined ? "" : value);
    }

    badge(phase, title) {
      const el = this.querySelector(".ge-phase");
      el.textContent = phase;
      el.setAttribute("data-phase", phase);
      el.title = title;
    }

    announce() {
      this.querySelector(".ge-live").textContent = `${this.querySelector(".ge-phase").textContent}. ${this.sentence} ${this.summary()}`;
      this.table();
    }

    table() {
      const details = this.querySelector(".ge-data");
      if (!details.open) return;
      const row = (cells, tag = "td") => `<tr>${cells.map((x, i) => (i ? `<${tag}>${x}</${tag}>` : `<th scope="${tag === "th" ? "col" : "row"}">${x}</th>`)).join("")}</tr>`;
      details.querySelector("div").innerHTML = this.rows().map(({ caption, head, body }) =>
        `<table><caption>${caption}</caption><thead>${row(head, "th")}</thead><tbody>${body.map((x) => row(x)).join("")}</tbody></table>`).join("");
    }

    // ---- pictures

    measure() {
      this.size = {};
      for (const [name] of this.constructor.views) {
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

    // Phases under a horizontal axis: points {at, phase} in steps of `step`, x maps a value to a pixel.
    ribbon(f, x, points, step) {
      const { min, max } = this.constructor.controls[0], edge = (v) => x(Math.max(min, Math.min(max, v))), runs = [];
      for (const p of points) {
        const last = runs[runs.length - 1], from = p.at - step / 2, to = p.at + step / 2;
        if (last && last.phase === p.phase) { last.from = Math.min(last.from, from); last.to = Math.max(last.to, to); } else runs.push({ phase: p.phase, from, to });
      }
      return runs.map((r) => {
        const l = edge(r.from), w = edge(r.to) - l;
        return `<rect class="ge-ribbon" data-phase="${r.phase}" x="${l}" y="${f.y0 + 22}" width="${w}" height="6"/>` +
          (w > 56 ? `<text x="${l + w / 2}" y="${f.y0 + 41}" text-anchor="middle">${r.phase}</text>` : "");
      }).join("");
    }

    // The triangles under the main slider: marks {key, text, at (0 to 1, or null)}.
    ticks(marks, note) {
      this.querySelector(".ge-ticks").innerHTML = marks.map((m) => (m.at === null ? "" : `<i class="ge-tick-${m.key}" style="--at:${m.at}"></i>`)).join("");
      this.querySelector(".ge-limit").innerHTML =
        marks.map((m) => `<span><b class="ge-tick-${m.key}" aria-hidden="true"></b>${m.key} ${m.text}</span>`).join(" ") + ` <span>(${note})</span>`;
    }
  }

  window.GrokPanels = {
    GrokPanel, fmt, count, still, scale,
    PHASES: { "GFL": "every neuron in the Gaussian bulk", "GMFL-I": "bulk and droplets coexist", "GMFL-II": "no bulk is left" },
    define: (name, element) => { if (!customElements.get(name)) customElements.define(name, element); },
  };
  document.dispatchEvent(new Event("grok-panels"));
})();
