/* <grok-phases>: phase diagrams over ten seeds, classified again in the page; a cell shows the training of one seed (see panel.js, phase-data.js).
 *
 * Attributes (initial state, to which Reset returns; all optional)
 *   diagram                                             "regression" (default), "classification" or "rates"
 *   delay horizon rule row column                       steps, steps, 0 to 2 (see RULES), indices of the cell, rows counted from the top
 * Whatever the element contains is shown until the panel is ready, and is what a reader without scripts sees.
 *
 * state = {problem {delay, horizon, rule, row, column}, diagram, shares[row][column][phase], phases[seed][row][column]}; .ge-cell[data-row][data-column][data-phase]
 */
(function () {
  "use strict";
  const PHASES = ["comprehension", "grokking", "memorisation", "confusion"], LETTERS = "CGMX";
  const RULES = [["relative", "9 of 10, of those that can be inferred"], ["least", "at least 9 of 10"], ["above", "all 10"]];
  const TITLES = { regression: "6b, regression", classification: "6c, classification", rates: "6a, learning rates" };
  const ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", NEVER = 4095;
  const code = Object.fromEntries([...ALPHABET].map((letter, k) => [letter, k]));
  // Pairs of letters as whole numbers; "never" is Infinity.
  const decode = (text) => Array.from({ length: text.length / 2 }, (_, k) => {
    const v = 64 * code[text[2 * k]] + code[text[2 * k + 1]];
    return v === NEVER ? Infinity : v;
  });
  const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  const power = (v) => {
    if (v === 0) return "0";
    const [m, e] = v.toExponential(2).split("e"), mantissa = +(+m).toPrecision(2);
    return `${mantissa === 1 ? "" : `${mantissa}·`}10${e.replace("-", "⁻").replace("+", "").replace(/\d/g, (x) => SUPERSCRIPT[x])}`;
  };
  const median = (list) => {
    const sorted = [...list].sort((a, b) => a - b), n = sorted.length;
    return n ? (sorted[(n - 1) >> 1] + sorted[n >> 1]) / 2 : NaN;
  };
  const wilson = (share, n) => {
    const z = 1 / n, half = Math.sqrt(z * (share * (1 - share) + z / 4)) / (1 + z), middle = (share + z / 2) / (1 + z);
    return [Math.max(0, middle - half), Math.min(1, middle + half)];
  };
  // How many of ten validation pairs must be right.
  const needed = (rule, missing) => (rule === 0 ? Math.ceil((9 * (10 - missing)) / 10) : rule === 1 ? 9 : 10);
  const classify = (train, test, delay, horizon) => (!(train <= horizon) ? 3 : !(test <= horizon) ? 2 : test - train >= delay ? 1 : 0);

  // A diagram as the page needs it: times[seed][cell] = {train, test: {count: steps}}, in steps.
  const unpacked = {};
  function unpack(name) {
    if (unpacked[name]) return unpacked[name];
    const { counts, diagrams } = window.GrokPhaseData, d = diagrams[name], width = d.columns.length, each = 1 + counts.length;
    const times = d.times.map((text) => {
      const numbers = decode(text);
      return Array.from({ length: numbers.length / each }, (_, cell) => {
        const at = numbers.slice(cell * each, (cell + 1) * each).map((v) => v * d.every);
        return { train: at[0], test: Object.fromEntries(counts.map((c, k) => [c, at[k + 1]])) };
      });
    });
    const theirs = decode(d.published).map((v) => v * d.every);
    const runs = d.curves.map((text) => {
      const [letters, low, high] = text.split(" "), numbers = decode(letters);
      return Array.from({ length: numbers.length / 12 }, (_, r) => ({
        step: d.steps[r], train: numbers[12 * r] / 45, test: numbers[12 * r + 1] / 10,
        embedding: numbers.slice(12 * r + 2, 12 * r + 12).map((v) => +low + (v / 4000) * (high - low)),
      }));
    });
    return (unpacked[name] = { ...d, width, height: d.rows.length, times, runs, theirs });
  }

  function phasesOf(name, { delay, horizon, rule }) {
    const d = unpack(name);
    const codes = d.times.map((cells, seed) => cells.map((t) => {
      const count = needed(rule, d.missing[seed]);
      return classify(t.train, t.test[count] ?? Infinity, delay, horizon);
    }));
    const shares = d.times[0].map((_, cell) => PHASES.map((_, k) => codes.filter((c) => c[cell] === k).length / codes.length));
    const published = d.times[0].map((_, cell) => (d.absent.includes(Math.floor(cell / d.width)) ? null : classify(d.theirs[2 * cell], d.theirs[2 * cell + 1], delay, horizon)));
    return { codes, shares, published };
  }

  function build({ GrokPanel, fmt, scale, define }) {
    class GrokPhases extends GrokPanel {
      static solver = "GrokPhaseData";
      static initial = () => ({ delay: 1000, horizon: 10000, rule: 0, row: 1, column: 3 });
      static attributes = { delay: "delay", horizon: "horizon", rule: "rule", row: "row", column: "column" };
      static controls = [
        { name: "delay", symbol: "Δ", label: "Delay that counts as grokking", values: [20, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000], digits: 0, text: (v) => `${v} steps` },
        { name: "horizon", symbol: "T", label: "Horizon", values: [300, 500, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000], digits: 0, text: (v) => `${v} steps` },
      ];
      static get choice() {
        return { name: "diagram", legend: "Diagram", options: Object.keys(window.GrokPhaseData.diagrams).map((name) => [name, TITLES[name]]) };
      }
      static views = [["map", "Phases over ten seeds; point at a cell"], ["time", "One seed in that cell: accuracy"], ["lines", "Its embeddings"]];
      static numbers = [...PHASES.map((name) => [name, name[0].toUpperCase() + name.slice(1)]), ["late", "Median delay"], ["published", "Published run"]];

      attach() {
        const svg = this.querySelector(".ge-map svg"), fieldset = document.createElement("fieldset");
        svg.setAttribute("role", "group");
        fieldset.className = "ge-norm ge-rule-of";
        fieldset.innerHTML = `<legend>Validation pairs that must be right</legend>` + RULES.map(([value, text], k) =>
          `<label><input type="radio" name="gp-rule-${this.id_}" value="${value}" data-rule="${k}"><span>${text}</span></label>`).join("");
        this.querySelector(".ge-norm").after(fieldset);
        fieldset.addEventListener("input", (e) => this.set({ rule: +e.target.dataset.rule }));
        const pick = (e) => {
          const cell = e.target.closest(".ge-cell");
          if (cell) this.choose(+cell.dataset.row, +cell.dataset.column, false);
        };
        svg.addEventListener("pointerover", (e) => e.pointerType === "mouse" && pick(e));
        svg.addEventListener("click", (e) => { pick(e); this.flush(); this.announce(); });
        svg.addEventListener("focusin", pick);
        svg.addEventListener("keydown", (e) => {
          const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key];
          if (!move) return;
          e.preventDefault();
          const { row, column } = this.state.problem;
          this.choose(row + move[0], column + move[1], true);
          this.flush();
          this.announce();
        });
      }

      // The cell shown; it takes the focus if the keyboard chose it.
      choose(row, column, focus) {
        const d = unpack(this.state.diagram), inside = (v, n) => Math.min(Math.max(v, 0), n - 1);
        this.set({ row: inside(row, d.height), column: inside(column, d.width) });
        if (focus) { this.flush(); this.querySelector('.ge-cell[tabindex="0"]').focus(); }
      }

      compute() {
        const { state } = this, { problem } = state, d = unpack(state.diagram);
        problem.row = Math.min(problem.row, d.height - 1);
        Object.assign(state, phasesOf(state.diagram, problem));
        state.cell = problem.row * d.width + problem.column;
      }

      transition() {
        for (const input of this.querySelectorAll("[data-rule]")) input.checked = +input.dataset.rule === this.state.problem.rule;
      }

      // "weight decay 2 and learning rate 10⁻⁴"
      place(row, column) {
        const d = unpack(this.state.diagram), first = this.state.diagram === "rates" ? `η_E = ${power(d.rows[row])}` : `λ_D = ${d.rows[row]}`;
        return `η_D = ${power(d.columns[column])}, ${first}`;
      }

      words() {
        const { diagram, problem, shares, codes, published, cell } = this.state, d = unpack(diagram), n = codes.length, share = shares[cell];
        const top = share.indexOf(Math.max(...share)), shown = codes[d.seed][cell], percent = (x) => fmt(100 * x, 0);
        PHASES.forEach((name, k) => {
          const [low, high] = wilson(share[k], n);
          this.put(name, `${percent(share[k])} % (${percent(low)}–${percent(high)})`, share[k]);
        });
        const late = d.times.flatMap((cells, seed) => (codes[seed][cell] < 2 ? [cells[cell].test[needed(problem.rule, d.missing[seed])] - cells[cell].train] : []));
        this.put("late", late.length ? `${fmt(median(late), 0)} steps (${late.length})` : "none", late.length ? median(late) : null);
        this.put("published", published[cell] === null ? "none" : PHASES[published[cell]], published[cell]);
        this.badge(PHASES[top], "the most frequent phase of the cell");
        const counts = PHASES.map((name, k) => [name, Math.round(share[k] * n)]).filter(([, k]) => k).map(([name, k]) => `${k} × ${name}`).join(", ");
        this.spoken = `${this.place(problem.row, problem.column)}: ${counts}`;
        this.sentence = `${this.place(problem.row, problem.column)}: ${counts} of ${n} seeds. The run shown below is one of ${PHASES[shown]}.`;
        this.querySelector(".ge-say").innerHTML = this.sentence.replace(/_(.)/g, "<sub>$1</sub>");
      }

      summary() {
        const { shares } = this.state, mean = (k) => shares.reduce((sum, s) => sum + s[k], 0) / shares.length;
        return `Over the whole diagram: ${PHASES.map((name, k) => `${name} ${fmt(100 * mean(k), 0)} %`).join(", ")}.`;
      }

      rows() {
        const { diagram, shares, cell } = this.state, d = unpack(diagram), label = diagram === "rates" ? (v) => `η_E ${power(v)}` : (v) => `λ_D ${v}`;
        return [{
          caption: "Runs of comprehension, grokking, memorisation, confusion in each cell", head: ["", ...d.columns.map((v) => `η_D ${power(v)}`)],
          body: d.rows.map((v, row) => [label(v), ...d.columns.map((_, column) => shares[row * d.width + column].map((s) => Math.round(s * d.times.length)).join(" "))]),
        }, {
          caption: "The run shown", head: ["step", "training", "validation"], body: d.runs[cell].map((r) => [r.step, fmt(r.train, 2), fmt(r.test, 1)]),
        }];
      }

      // ---- pictures

      draw() {
        if (!this.state || !this.state.shares) return;
        this.drawMap();
        this.drawTime();
        this.drawLines();
        this.setAttribute("data-curve-ready", "");
        this.querySelector(".ge-limit").innerHTML = PHASES.map((name, k) => `<span><b class="ge-key" data-phase="${name}" aria-hidden="true"></b>${LETTERS[k]} ${name}</span>`).join(" ") +
          " <span>(letters: the published single run; a cross: none was published)</span>";
      }

      drawMap() {
        const { diagram, problem, shares, published } = this.state, d = unpack(diagram), f = this.frame("map", 52, 6, 24, 26);
        if (f.width < 60) return;
        const key = JSON.stringify([diagram, problem.delay, problem.horizon, problem.rule, f.width, f.height]);
        if (key === this.drawn) return this.mark(); // another cell: the elements stay, with the pointer and the focus on them
        this.drawn = key;
        const focused = this.contains(document.activeElement) && document.activeElement.classList.contains("ge-cell");
        const w = (f.x1 - f.x0) / d.width, h = (f.y0 - f.y1) / d.height, bar = Math.min(16, h - 16);
        let body = "";
        shares.forEach((share, k) => {
          const row = Math.floor(k / d.width), column = k % d.width, x = f.x0 + column * w, y = f.y1 + row * h, chosen = row === problem.row && column === problem.column;
          let left = x + 2;
          const parts = share.map((s, p) => {
            const rect = s ? `<rect class="ge-part" data-phase="${PHASES[p]}" x="${left.toFixed(2)}" y="${(y + h - bar - 2).toFixed(2)}" width="${(s * (w - 4)).toFixed(2)}" height="${bar}"/>` : "";
            left += s * (w - 4);
            return rect;
          }).join("");
          const text = PHASES.map((name, p) => [name, share[p]]).filter(([, s]) => s).map(([name, s]) => `${name} ${fmt(100 * s, 0)} %`).join(", ");
          body += `<g class="ge-cell" role="button" tabindex="${chosen ? 0 : -1}" aria-pressed="${chosen}" data-row="${row}" data-column="${column}" data-phase="${PHASES[share.indexOf(Math.max(...share))]}" ` +
            `aria-label="${this.place(row, column)}: ${text}"><rect class="ge-hit" x="${(x + 0.5).toFixed(2)}" y="${(y + 0.5).toFixed(2)}" width="${(w - 1).toFixed(2)}" height="${(h - 1).toFixed(2)}" rx="3"/>${parts}` +
            `<text x="${(x + w / 2).toFixed(2)}" y="${(y + h - bar - 4.5).toFixed(2)}" text-anchor="middle">${published[k] === null ? "×" : LETTERS[published[k]]}</text></g>`;
        });
        const label = diagram === "rates" ? power : (v) => `${v}`;
        body += `<g class="ge-axis">` + d.rows.map((v, row) => (d.height < 8 || row % 3 === 0 ? `<text x="${f.x0 - 6}" y="${f.y1 + (row + 0.5) * h + 4}" text-anchor="end">${label(v)}</text>` : "")).join("") +
          d.columns.map((v, column) => (column % 3 === 0 ? `<text x="${f.x0 + (column + 0.5) * w}" y="${f.y0 + 16}" text-anchor="middle">${power(v)}</text>` : "")).join("") +
          `<text class="ge-name" x="${f.x0 - 6}" y="${f.y1 - 8}" text-anchor="end">${diagram === "rates" ? "η" : "λ"}<tspan dy="4" font-size="12">${diagram === "rates" ? "E" : "D"}</tspan></text><text class="ge-name" x="${f.x0 + 7.5 * w + w / 2}" y="${f.y0 + 16}" text-anchor="middle">η<tspan dy="4" font-size="12">D</tspan></text></g>`;
        this.paint(f, `Phase diagram of figure ${TITLES[diagram]}: ${d.height} rows, ${d.width} columns, ten seeds a cell. ${this.summary()} Arrow keys move between cells.`, body);
        if (focused) this.querySelector('.ge-cell[tabindex="0"]').focus({ preventScroll: true });
      }

      // Tell the chosen cell from the others.
      mark() {
        const { row, column } = this.state.problem;
        for (const cell of this.querySelectorAll(".ge-cell")) {
          const chosen = +cell.dataset.row === row && +cell.dataset.column === column;
          cell.setAttribute("aria-pressed", chosen);
          cell.setAttribute("tabindex", chosen ? 0 : -1);
        }
      }

      // Logarithmic time from 100 steps to 10000; the start of the run stands at the left edge.
      clock(f) {
        const x = scale(2, 4, f.x0, f.x1);
        return (t) => x(Math.log10(Math.max(t, 100)));
      }

      time(f, x, horizon) {
        return `<g class="ge-axis">` + [100, 1000, 10000].map((t) => `<path d="M${x(t)} ${f.y0}v4"/><text x="${x(t)}" y="${f.y0 + 16}" text-anchor="${t > 9999 ? "end" : "middle"}">${t < 101 ? "≤100" : t}</text>`).join("") +
          `<path d="M${f.x0} ${f.y0}H${f.x1}"/><text class="ge-name" x="${(x(1000) + x(10000)) / 2}" y="${f.y0 + 16}" text-anchor="middle">step</text></g>` +
          (horizon < 10000 ? `<rect class="ge-beyond" x="${x(horizon)}" y="${f.y1}" width="${x(10000) - x(horizon)}" height="${f.y0 - f.y1}"/>` : "");
      }

      drawTime() {
        const { diagram, problem, cell } = this.state, d = unpack(diagram), f = this.frame("time", 44, 10, 14, 24);
        if (f.width < 60) return;
        const x = this.clock(f), y = scale(0, 1, f.y0, f.y1), run = d.runs[cell], t = d.times[d.seed][cell], test = t.test[needed(problem.rule, d.missing[d.seed])] ?? Infinity;
        const line = (name) => `M${run.map((r) => `${x(r.step).toFixed(1)} ${y(r[name]).toFixed(1)}`).join("L")}`;
        const mark = (at, name) => (Number.isFinite(at) ? `<path class="ge-at ge-${name}" d="M${x(at)} ${f.y0}V${f.y1}"/>` : "");
        let body = this.axes({ ...f }, x, y, [], [0, 0.5, 1], "", "", [0, 1]) + this.time(f, x, problem.horizon) + mark(t.train, "train") + mark(test, "test") +
          `<path class="ge-line ge-train" d="${line("train")}"/><path class="ge-line ge-test" d="${line("test")}"/>`;
        const right = f.x1 - 2;
        body += `<text class="ge-note ge-train" x="${f.x0 + 6}" y="${f.y1 + 12}">training ${Number.isFinite(t.train) ? `at ${t.train}` : "never"}</text>` +
          `<text class="ge-note ge-test" x="${right}" y="${f.y0 - 8}" text-anchor="end">validation ${Number.isFinite(test) ? `at ${test}` : "never"}</text>`;
        const said = (v) => (Number.isFinite(v) ? `at step ${v}` : "never");
        this.paint(f, `Accuracy of the seed shown against the step: training pairs learned ${said(t.train)}, validation pairs ${said(test)}.`, body);
      }

      drawLines() {
        const { diagram, problem, cell } = this.state, d = unpack(diagram), f = this.frame("lines", 44, 10, 14, 24);
        if (f.width < 60) return;
        const x = this.clock(f), run = d.runs[cell], all = run.flatMap((r) => r.embedding), reach = Math.max(...all.map(Math.abs), 0.5), y = scale(-reach, reach, f.y0, f.y1);
        const unit = [0.5, 1, 2, 5, 10, 20].find((u) => reach / u < 2.5), ticks = [-2, -1, 0, 1, 2].map((k) => k * unit).filter((v) => Math.abs(v) <= reach);
        const end = run[run.length - 1], order = [...end.embedding].map((e, k) => [e, k]).sort((a, b) => a[0] - b[0]).map(([, k]) => k);
        const body = this.axes(f, x, y, [], ticks, "", "", [0, unit < 1 ? 1 : 0]) + this.time(f, x, problem.horizon) +
          end.embedding.map((_, k) => `<path class="ge-symbol" style="--k:${k}" d="M${run.map((r) => `${x(r.step).toFixed(1)} ${y(r.embedding[k]).toFixed(1)}`).join("L")}"/>`).join("");
        const sorted = order.every((k, place) => k === place) || order.every((k, place) => k === order.length - 1 - place);
        this.paint(f, `Embeddings of the ten symbols against the step; at the end from bottom to top: ${order.join(" ")}${sorted ? ", in order" : ""}.`, body);
      }
    }

    define("grok-phases", GrokPhases);
  }

  window.GrokPhases = { classify, needed, wilson, unpack, phasesOf, decode };
  window.GrokPanels ? build(window.GrokPanels) : document.addEventListener("grok-panels", () => build(window.GrokPanels), { once: true });
})();
