/* The teacher-student theory of the book, solved in the browser.
 *
 * A neuron with overlap q and squared transverse norm s has the weight
 *     q-prior x s-prior x exp(g h^2),   h(q, s) = b A1 + c A3,   g = n^2 sa2 / (2 N sigma2^2),
 *     A1 = 2 q / sqrt(pi r),   A3 = -4 q^3 / (sqrt(pi) r^(3/2)),   r = 1 + 2 (q^2 + s),
 * and the discrepancy (b, c) is the one maximum of the concave dual
 *     D(b, c) = (n / sigma2) [b + 6 e c - (b^2 + 6 c^2) / 2] - N ln Z(b, c),   Z = <exp(g h^2)>_prior.
 * norm "fixed" holds s = sw2; norm "exact" integrates it in ln s. All integrals are trapezoidal sums, whose error falls
 * exponentially in the spacing, over the points that carry weight. The law is even in q, so q >= 0 is enough.
 *
 * A problem is {samples, dimension, width, noise, epsilon, readout, weight}: n, d, N, sigma^2, epsilon, sa^2, sw^2.
 * Exports (window.GrokSolver, or module.exports): solve, profile, population, limit, phase, groups, PAPER.
 */
(function (root) {
  "use strict";

  const { PI, abs, ceil, exp, floor, log, max, min, sqrt } = Math;
  const PAPER = { samples: 3000, dimension: 150, width: 700, noise: 0.15, epsilon: -0.3, readout: 8 / 700, weight: 0.5 };
  const DEPTH = 42; // points e^-42 below the highest carry nothing in double precision

  function groups(p) {
    const kappa = p.samples * p.readout / p.noise;
    const g = p.samples * kappa / (2 * p.width * p.noise);
    return { kappa, g, u: 2 * g / p.dimension };
  }

  // ln of the weight without the data term, at s = exp(l) (measure dq dl), or at s = sw2 for the fixed norm
  const prior = (p, norm, q2, l, s) =>
    norm === "fixed" ? -p.dimension * q2 / (2 * p.weight)
      : -p.dimension * (q2 + s) / (2 * p.weight) + (p.dimension - 1) / 2 * l;

  const amplitude = (b, c, q, r) => 2 * q / sqrt(PI * r) * (b - 2 * c * q * q / r);

  // The grid: arrays of A1, A3 and ln prior over 0 <= q <= reach.q and reach.lo <= l - ln sw2 <= reach.hi (q = 0 counts half).
  function grid(p, norm, reach, fineness) {
    const hq = fineness * sqrt(p.weight / p.dimension), hl = fineness * sqrt(2 / max(1, p.dimension - 1));
    const fixed = norm === "fixed", columns = ceil(reach.q / hq) + 1, first = fixed ? 0 : floor(reach.lo / hl);
    const rows = fixed ? 1 : ceil(reach.hi / hl) - first + 1, size = columns * rows;
    const w = new Float64Array(size), a1 = new Float64Array(size), a3 = new Float64Array(size);
    for (let j = 0, k = 0; j < rows; j++) {
      const l = log(p.weight) + (first + j) * hl, s = exp(l);
      for (let i = 0; i < columns; i++, k++) {
        const q = i * hq, r = 1 + 2 * (q * q + s), x = 2 * q / sqrt(PI * r);
        a1[k] = x;
        a3[k] = -2 * x * q * q / r;
        w[k] = prior(p, norm, q * q, l, s) - (i ? 0 : Math.LN2);
      }
    }
    return { w, a1, a3, m: size, columns, rows, scratch: new Float64Array(size) };
  }

  // Where ln s has prior weight above e^-DEPTH (and room below it, for droplets), relative to ln sw2.
  function firstReach(p) {
    const side = (sign) => {
      let x = 0;
      while (p.dimension / 2 * (exp(sign * x) - 1 - sign * x) < DEPTH && x < 9) x += 0.05;
      return x;
    };
    return { q: max(2, 9.5 * sqrt(p.weight / p.dimension)), lo: -side(-1) - 1, hi: side(1) };
  }

  // Widen the reach on each side at which the weight at the last evaluated (b, c) has not died away; null if none.
  function widen({ scratch, columns, rows }, top, reach) {
    const floorAt = top - 34, next = { ...reach };
    for (let j = 0; j < rows; j++) if (scratch[j * columns + columns - 1] > floorAt) next.q = reach.q * 1.4;
    for (let i = 0; i < columns && rows > 1; i++) {
      if (scratch[i] > floorAt) next.lo = reach.lo * 1.4;
      if (scratch[(rows - 1) * columns + i] > floorAt) next.hi = reach.hi * 1.4;
    }
    return next.q > reach.q || next.lo < reach.lo || next.hi > reach.hi ? next : null;
  }

  // The dual, its gradient and its Hessian on a grid.
  function dual(p, lattice, b, c) {
    const { w, a1, a3, m, scratch } = lattice, { g, kappa } = groups(p);
    let top = -Infinity;
    for (let k = 0; k < m; k++) {
      const h = b * a1[k] + c * a3[k], e = w[k] + g * h * h;
      scratch[k] = e;
      if (e > top) top = e;
    }
    let z = 0, m11 = 0, m13 = 0, m33 = 0, f1 = 0, f3 = 0, v11 = 0, v13 = 0, v33 = 0;
    for (let k = 0; k < m; k++) {
      const below = scratch[k] - top;
      if (below < -DEPTH) continue;
      const x = a1[k], y = a3[k], t = exp(below), hx = (b * x + c * y) * x, hy = (b * x + c * y) * y;
      z += t;
      m11 += t * x * x; m13 += t * x * y; m33 += t * y * y;
      f1 += t * hx; f3 += t * hy;
      v11 += t * hx * hx; v13 += t * hx * hy; v33 += t * hy * hy;
    }
    f1 /= z; f3 /= z;
    const scale = p.samples / p.noise, e = p.epsilon;
    const r1 = 1 - b - kappa * f1, r3 = e - c - kappa * f3 / 6;   // zero at the self-consistent point
    const hess = (d, mean, var2, fi, fj) => -scale * (d + kappa * (mean / z + 2 * g * (var2 / z - fi * fj)));
    return {
      top,
      value: scale * (b + 6 * e * c - (b * b + 6 * c * c) / 2) - p.width * (top + log(z)),
      gradient: [scale * r1, 6 * scale * r3],
      hessian: [hess(1, m11, v11, f1, f1), hess(0, m13, v13, f1, f3), hess(6, m33, v33, f3, f3)],
      error: max(abs(r1), abs(r3)),
    };
  }

  // The discrepancy of the kernel that has learned nothing (every neuron from its prior): where Newton starts cold.
  const untrained = (p) =>
    [1 / (1 + groups(p).kappa / p.dimension * 4 * p.weight / (PI * (1 + 2 * p.weight))), p.epsilon];

  /* Maximise the dual by damped Newton steps. options: start [b, c]; fineness, the spacing in prior standard deviations
   * (0.35 is exact to double precision in all but extreme corners; 0.7 is four times cheaper and good to 1e-4 there). */
  function solve(p, norm = "exact", { start = null, fineness = 0.35 } = {}) {
    let [b, c] = start || untrained(p), reach = firstReach(p), steps = 0, here;
    for (let pass = 0; pass < 6; pass++) {
      const lattice = grid(p, norm, reach, fineness);
      here = dual(p, lattice, b, c);
      for (let k = 0; k < 200 && here.error > 1e-13; k++, steps++) {
        const [g1, g3] = here.gradient, [h11, h13, h33] = here.hessian, det = h11 * h33 - h13 * h13;
        const db = -(h33 * g1 - h13 * g3) / det, dc = -(h11 * g3 - h13 * g1) / det, slope = g1 * db + g3 * dc;
        const size = max(abs(db), abs(dc));
        let t = 1, next = dual(p, lattice, b + db, c + dc);
        while (t * size > 1e-7 && !(next.value >= here.value + 1e-4 * t * slope)) {
          t /= 2;
          next = dual(p, lattice, b + t * db, c + t * dc);
        }
        b += t * db; c += t * dc; here = next;
        if (t * size < 1e-14) break;
      }
      dual(p, lattice, b, c);
      const wider = widen(lattice, here.top, reach);
      if (!wider) break;
      reach = wider;
    }
    return { b, c, norm, reach, ...groups(p), iterations: steps, error: here.error, converged: here.error < 1e-9 };
  }

  /* The one-neuron law at (b, c): action S(q) = -ln p(q)/p(0) on q = 0, step, ...; cumulative tail P(|q| > .); the side
   * wells, the barrier (the highest point of S between the centre and the outermost of them) and the fraction beyond it. */
  function profile(p, solution, { step = 0.005 } = {}) {
    const { b, c, norm, reach } = solution, { g } = groups(p), fixed = norm === "fixed";
    const hl = 0.7 * sqrt(2 / max(1, p.dimension - 1)), columns = ceil(reach.q / step) + 1;
    const rows = fixed ? 1 : ceil((reach.hi - reach.lo) / hl) + 1;
    const l = Float64Array.from({ length: rows }, (_, j) => log(p.weight) + (fixed ? 0 : reach.lo + j * hl)), s = l.map(exp);
    const law = new Float64Array(columns * rows);     // per column: the conditional distribution function of s
    const action = new Float64Array(columns), norms = new Float64Array(columns);
    for (let i = 0; i < columns; i++) {
      const q = i * step, at = i * rows;
      let top = -Infinity, z = 0, mean = 0;
      for (let j = 0; j < rows; j++) {
        const h = amplitude(b, c, q, 1 + 2 * (q * q + s[j]));
        law[at + j] = prior(p, norm, q * q, l[j], s[j]) + g * h * h;
        if (law[at + j] > top) top = law[at + j];
      }
      for (let j = 0; j < rows; j++) {
        const t = exp(law[at + j] - top);
        z += t; mean += t * s[j];
        law[at + j] = z - t / 2;
      }
      for (let j = 0; j < rows; j++) law[at + j] /= z;
      action[i] = -top - log(z);
      norms[i] = fixed ? p.weight : mean / z;
    }
    const origin = action[0];
    let lowest = Infinity;
    for (let i = 0; i < columns; i++) { action[i] -= origin; lowest = min(lowest, action[i]); }
    const tail = new Float64Array(columns);
    for (let i = columns - 2; i >= 0; i--) tail[i] = tail[i + 1] + step / 2 * (exp(lowest - action[i]) + exp(lowest - action[i + 1]));
    const total = tail[0];
    for (let i = 0; i < columns; i++) tail[i] /= total;
    const out = { step, q: Float64Array.from(action, (_, i) => i * step), action, norms, tail, law, l, wells: [], well: null, barrier: null, fraction: 0 };
    for (let i = 1; i < columns - 1; i++) {
      if (action[i] <= action[i - 1] && action[i] < action[i + 1]) {
        const t = vertex(action, i);
        out.wells.push({ q: (i + t.shift) * step, action: t.value, norm: norms[i] });
      }
    }
    const well = out.wells[out.wells.length - 1];
    if (well) {
      let i = 0;
      for (let k = 1; k * step < well.q; k++) if (action[k] > action[i]) i = k;
      // i = 0: the centre is a hilltop and nothing stands apart
      const t = i ? vertex(action, i) : { shift: 0, value: 0 };
      Object.assign(out, { well, barrier: { q: (i + t.shift) * step, action: t.value }, fraction: at(tail, i + t.shift) });
    }
    return out;
  }

  // The extremum of the parabola through three neighbours, in units of the spacing.
  function vertex(f, i) {
    const d1 = (f[i + 1] - f[i - 1]) / 2, d2 = f[i + 1] - 2 * f[i] + f[i - 1];
    const shift = d2 ? max(-0.5, min(0.5, -d1 / d2)) : 0;
    return { shift, value: f[i] + shift * d1 / 2 };
  }

  const at = (f, x) => { const i = min(f.length - 2, floor(x)); return f[i] + (x - i) * (f[i + 1] - f[i]); };

  // First index from which an increasing function of the index exceeds v (n if none).
  function search(f, n, v) {
    let lo = 0, hi = n;
    while (lo < hi) { const mid = (lo + hi) >> 1; if (f(mid) > v) hi = mid; else lo = mid + 1; }
    return lo;
  }

  /* `count` neurons of the law, one in each of `count` equal shares of the probability (sorted in q), so that the
   * picture is the same at every call and moves smoothly with the parameters. */
  function population(prof, count) {
    const { tail, step, law, l } = prof, rows = l.length, n = tail.length;
    const q = new Float64Array(count), s = new Float64Array(count), golden = (sqrt(5) - 1) / 2;
    const conditional = (column, v) => {
      const f = (j) => law[column * rows + j], j = max(1, min(rows - 1, search(f, rows, v)));
      const d = f(j) - f(j - 1);
      return l[j - 1] + (d > 0 ? max(0, min(1, (v - f(j - 1)) / d)) : 0.5) * (l[j] - l[j - 1]);
    };
    for (let k = 0; k < count; k++) {
      const x = (2 * k + 1) / count - 1, v = abs(x);     // x in (-1, 1): the signed share; v = P(|q| < .)
      const i = max(1, min(n - 1, search((m) => 1 - tail[m], n, v))), d = tail[i - 1] - tail[i];
      const where = i - 1 + (d > 0 ? max(0, min(1, (tail[i - 1] - 1 + v) / d)) : 0), column = min(n - 2, floor(where));
      q[k] = (x < 0 ? -1 : 1) * where * step;
      const level = ((k + 1) * golden) % 1, t = where - column;
      s[k] = rows === 1 ? exp(l[0]) : exp((1 - t) * conditional(column, level) + t * conditional(column + 1, level));
    }
    return { q, s };
  }

  /* The infinitely wide limit (n, N ~ beta, d ~ sqrt(beta), beta -> infinity) along the noise, before any droplet has
   * formed: c = epsilon, b from the Gaussian bulk, one action per unit dimension. */
  function limitDiscrepancy(p) {
    const { u, kappa } = groups(p), r = 1 + 2 * p.weight, soft = 4 * u / (PI * r), load = kappa / p.dimension * 4 / (PI * r);
    let lo = 0, hi = min(1, sqrt(1 / (p.weight * soft)));
    for (let k = 0; k < 60; k++) {
      const b = (lo + hi) / 2;
      if (b + b * load / (1 / p.weight - soft * b * b) > 1) hi = b; else lo = b;
    }
    return (lo + hi) / 2;
  }

  // Action per unit dimension at q and its slope; the transverse norm, followed from `l`, is at its minimum.
  function limitAction(p, norm, b, q, l) {
    const { u } = groups(p), c = p.epsilon, x = 2 * q / sqrt(PI);
    for (let k = 0; norm !== "fixed" && k < 50; k++) {
      const s = exp(l), r = 1 + 2 * (q * q + s), y = x / sqrt(r);
      const h = y * (b - 2 * c * q * q / r), h1 = y / r * (-b / 2 + 3 * c * q * q / r), h2 = y / r / r * (0.75 * b - 7.5 * c * q * q / r);
      const d1 = s / (2 * p.weight) - 0.5 - 2 * u * h * h1 * s;
      const d2 = s / (2 * p.weight) - 2 * u * s * (2 * s * (h1 * h1 + h * h2) + h * h1);
      const move = max(-0.3, min(0.3, d2 > 0 ? -d1 / d2 : -d1));
      l += move;
      if (abs(move) < 1e-13) break;
    }
    const s = exp(l), r = 1 + 2 * (q * q + s), y = x / sqrt(r), h = y * (b - 2 * c * q * q / r);
    const slope = 2 / sqrt(PI * r) * (b - 2 * c * q * q / r) - 2 * y / r * (b * q + c * (2 * q - 6 * q ** 3 / r));
    return {
      l, slope: q / p.weight - u * h * slope,
      value: (q * q + s) / (2 * p.weight) - (l - log(p.weight)) / 2 - 0.5 - u * h * h / 2,
    };
  }

  // The deepest outer well in the limit at p's noise: {q, value, s}; `gap` < 0 says that one exists.
  function limitWell(p, norm) {
    const b = limitDiscrepancy(p), step = 0.02, slopes = [0], ls = [log(p.weight)];
    for (let i = 1; i <= 110; i++) {
      const a = limitAction(p, norm, b, i * step, ls[i - 1]);
      slopes.push(a.slope); ls.push(a.l);
    }
    let gap = Infinity, best = null;
    for (let i = 2; i < 110; i++) {
      if (slopes[i] <= slopes[i - 1] && slopes[i] < slopes[i + 1]) gap = min(gap, vertex(slopes, i).value);
      if (slopes[i] < 0 && slopes[i + 1] >= 0) {
        let lo = i * step, hi = lo + step, a;
        for (let k = 0; k < 50; k++) {
          const q = (lo + hi) / 2;
          a = limitAction(p, norm, b, q, ls[i]);
          if (a.slope < 0) lo = q; else hi = q;
        }
        if (!best || a.value < best.value) best = { q: lo, value: a.value, s: exp(a.l), b };
      }
    }
    return { gap, best };
  }

  /* Where, coming down in noise, the outer wells first exist (spinodal) and first reach the centre (coexistence), in the
   * limit beta -> infinity; null where that does not happen between `to` and `from`. */
  function limit(p, norm = "exact", { from = 1.5, to = 0.02 } = {}) {
    const look = (noise) => limitWell({ ...p, noise }, norm);
    const first = (test) => {
      let hi = from, lo = from;
      if (test(look(hi))) return null;
      while (!test(look(lo))) { hi = lo; lo *= 0.93; if (lo < to) return null; }
      for (let k = 0; k < 40; k++) { const mid = sqrt(lo * hi); if (test(look(mid))) lo = mid; else hi = mid; }
      return lo;
    };
    const coexistence = first((w) => w.best !== null && w.best.value < 0), spinodal = first((w) => w.gap < 0 || w.best !== null);
    const { best } = coexistence === null ? { best: null } : look(coexistence);
    return {
      spinodal, coexistence, overlap: best && best.q, norm: best && best.s, b: best && best.b,
      u: coexistence === null ? null : groups({ ...p, noise: coexistence }).u,
    };
  }

  // GFL: fewer than one droplet a network expected; GMFL-II: fewer than one neuron left in the bulk; else GMFL-I.
  const phase = (width, fraction) => (width * fraction < 1 ? "GFL" : width * (1 - fraction) < 1 ? "GMFL-II" : "GMFL-I");

  const api = { solve, profile, population, limit, phase, groups, PAPER };
  if (typeof module === "object" && module.exports) module.exports = api;
  else {
    root.GrokSolver = api;
    if (root.document) root.document.dispatchEvent(new Event("grok-solver"));
  }
})(typeof self === "object" ? self : this);
