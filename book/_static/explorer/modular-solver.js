/* The theory of modular addition, solved in the browser.
 *
 * A neuron's complex amplitudes at one frequency, w_k and v_k, have powers F = |w_k|^2 and G = |v_k|^2 with the law e^{-2 P S} dF dG,
 *     S = (F + G)/2 - U F G + (c/6)(F^3 + G^3),   U = u a^2,   u = 2 sa2 P^2 / (N sigma2^2),   c = sextic decay,
 * and the residual a (1: nothing learned) closes it: a = sigma2 / (lambda + sigma2), lambda = 4 P^2 sa2 <F G>.
 * With m = (F + G)/2 and D = (F - G)/2 the action is m - U m^2 + (c/3) m^3 + (U + c m) D^2, Gaussian in D: one integral is left,
 * done by the trapezoidal rule in ln m, whose error falls exponentially in the spacing.
 * kernel "paper" is the published closure: lambda = sa2 p w^4 with p = 4 e^{-P S} / (1 + 4 e^{-P S}) at the saddle F = G = w^2.
 *
 * A problem is {modulus, width, noise, readout, decay}: P, N, sigma^2, sa^2, c.
 * Exports (window.GrokModular, or module.exports): solve, limits, ridge, population, phase, PAPER.
 */
(function (root) {
  "use strict";

  const { PI, abs, cos, exp, log, max, min, sin, sqrt } = Math;
  const PAPER = { modulus: 401, width: 1000, noise: 0.2, readout: 2e-6, decay: 1e-4 };

  const interaction = (p) => 2 * p.readout * p.modulus ** 2 / (p.width * p.noise ** 2);
  const ridge = (U, c, m) => m - U * m * m + c / 3 * m ** 3;

  // The barrier and the well on the ridge F = G = m; null below the spinodal.
  function extrema(U, c) {
    const d = U * U - c;
    return d < 0 ? null : { barrier: 1 / (U + sqrt(d)), well: (U + sqrt(d)) / c };
  }

  function erf(x) {
    if (x > 6) return 1;
    let term = x, sum = x;
    for (let k = 1; term > 1e-17 * sum; k++) { term *= 2 * x * x / (2 * k + 1); sum += term; }
    return 2 / sqrt(PI) * exp(-x * x) * sum;
  }

  // Where ln m carries weight, [from, to, spacing]: one stretch, or the centre and the well apart where nothing lies between them.
  function stretches(P, U, c, e) {
    const lowest = e ? min(0, ridge(U, c, e.well)) : 0, far = e ? e.well : sqrt(1 / c);
    const width = e ? 1 / sqrt(4 * P * max(c * far - U, 1e-3 * c * far)) / far : 1; // of the well, in ln m
    const from = log(1 / P) - 17, h = min(0.08, 0.6 * width);
    let reach = far * (1 + 8 * width) + 40 / P;
    while (2 * P * (ridge(U, c, reach) - lowest) < 40) reach *= 1.2;
    if (!e || 2 * P * (ridge(U, c, e.barrier) - max(0, ridge(U, c, e.well))) < 45) return [[from, log(reach), h]];
    return [[from, log(e.barrier), 0.08], [max(log(e.barrier), log(far) - 12 * width), log(far) + 12 * width, h]];
  }

  // <F G>, <F> and the share of modes beyond the barrier at a given U.
  function averages(P, U, c) {
    const e = extrema(U, c), lowest = 2 * P * (e ? min(0, ridge(U, c, e.well)) : 0); // of the exponent: nothing overflows
    let z = 0, product = 0, power = 0, beyond = 0;
    for (const [from, to, h] of stretches(P, U, c, e)) {
      for (let l = from; l <= to; l += h) {
        const m = exp(l), x = 2 * P * ridge(U, c, m) - lowest;
        if (x > 45) continue;
        const A = 2 * P * (U + c * m), r = m * sqrt(A), t = exp(-x) * m * h;
        const i0 = sqrt(PI / A) * erf(r), i2 = r < 1e-2 ? 2 / 3 * m ** 3 * (1 - 0.6 * r * r) : i0 / (2 * A) - m * exp(-r * r) / A;
        z += t * i0;
        product += t * (m * m * i0 - i2);
        power += t * m * i0;
        if (e && m > e.barrier) beyond += t * i0;
      }
    }
    return { product: product / z, power: power / z, fraction: beyond / z };
  }

  function published(P, U, c) {
    const e = extrema(U, c);
    if (!e) return { product: 0, power: 0, fraction: 0 };
    const fraction = 1 / (1 + exp(min(700, P * ridge(U, c, e.well))) / 4);
    return { product: fraction * e.well ** 2, power: fraction * e.well, fraction };
  }

  /* The residual: the one root of ln lambda(a) = ln(sigma2 (1/a - 1)), whose left side rises with a and whose right side falls. */
  function solve(p, kernel = "corrected") {
    const { modulus: P, noise, readout, decay } = p, u = interaction(p), paper = kernel === "paper";
    const at = (a) => {
      const x = (paper ? published : averages)(P, u * a * a, decay);
      return { ...x, a, gap: log(max(1e-300, (paper ? 1 : 4 * P * P) * readout * x.product)) - log(noise * (1 / a - 1)) };
    };
    // ln a between the value with everything learned and 1, by false position (Illinois)
    let lo = at(1e-6), hi = at(1 - 1e-15), steps = 0, side = 0;
    for (; steps < 200 && hi.a - lo.a > 1e-14; steps++) {
      const wl = side === 2 ? lo.gap / 2 ** (steps % 4) : lo.gap, wh = side === -2 ? hi.gap / 2 ** (steps % 4) : hi.gap;
      let a = (lo.a * wh - hi.a * wl) / (wh - wl);
      if (!(a > lo.a && a < hi.a) || steps % 5 === 4) a = (lo.a + hi.a) / 2;
      const mid = at(a);
      if (mid.gap === 0) { lo = hi = mid; break; }
      if (mid.gap > 0) { hi = mid; side = side > 0 ? min(2, side + 1) : 1; } else { lo = mid; side = side < 0 ? max(-2, side - 1) : -1; }
      if (abs(mid.gap) < 1e-12) { lo = hi = mid; break; }
    }
    const best = abs(lo.gap) < abs(hi.gap) ? lo : hi, U = u * best.a ** 2, e = extrema(U, decay);
    return {
      residual: best.a, product: best.product, power: best.power, fraction: best.fraction, u, U, kernel, steps,
      converged: abs(best.gap) < 1e-6 || hi.a - lo.a < 1e-12,
      well: e && { power: e.well, action: ridge(U, decay, e.well) }, barrier: e && { power: e.barrier, action: ridge(U, decay, e.barrier) },
    };
  }

  // Closed forms, nothing learned (a = 1): the noise at which the well reaches the centre, and at which it first exists.
  function limits(p) {
    const at = (U) => sqrt(2 * p.readout * p.modulus ** 2 / (p.width * U)), Uc = 2 * sqrt(p.decay / 3);
    return { onset: at(Uc), spinodal: at(sqrt(p.decay)), Uc, ring: (3 / p.decay) ** 0.25 };
  }

  /* w_k of `count` neurons: each stands for an equal share of the law; phases are free. */
  function population(p, s, count) {
    const P = p.modulus, c = p.decay, e = extrema(s.U, c), grid = [];
    let z = 0;
    for (const [from, to, h] of stretches(P, s.U, c, e)) {
      for (let l = from; l <= to; l += h) {
        const m = exp(l), A = 2 * P * (s.U + c * m);
        z += exp(-2 * P * (ridge(s.U, c, m) - (e ? min(0, ridge(s.U, c, e.well)) : 0))) * m * h * sqrt(PI / A) * erf(m * sqrt(A));
        grid.push([m, z]);
      }
    }
    const re = new Float64Array(count), im = new Float64Array(count), out = new Uint8Array(count);
    for (let k = 0, i = 0; k < count; k++) {
      while (i < grid.length - 1 && grid[i][1] < (k + 0.5) / count * z) i++;
      // (F - G)/2 given m is a Gaussian cut off at +-m; its level and the free phase come from a sequence that fills the square evenly
      const m = grid[i][0], root = sqrt(2 * P * (s.U + c * m)), level = (0.5 + k * 0.7548776662466927) % 1 * 2 - 1, aim = abs(level) * erf(m * root);
      let lo = 0, hi = m;
      for (let n = 0; n < 30; n++) { const mid = (lo + hi) / 2; if (erf(mid * root) < aim) lo = mid; else hi = mid; }
      const amplitude = sqrt(m + (level < 0 ? -lo : lo)), phase = 2 * PI * ((k * 0.5698402909980532) % 1);
      re[k] = amplitude * cos(phase); im[k] = amplitude * sin(phase);
      out[k] = e && m > e.barrier ? 1 : 0;
    }
    return { re, im, out, droplets: out.reduce((n, x) => n + x, 0) };
  }

  // GFL: fewer than one droplet a mode expected; GMFL-II: fewer than one neuron left in the bulk; else GMFL-I.
  const phase = (width, fraction) => (width * fraction < 1 ? "GFL" : width * (1 - fraction) < 1 ? "GMFL-II" : "GMFL-I");

  const api = { solve, limits, ridge, population, phase, PAPER };
  if (typeof module === "object" && module.exports) module.exports = api;
  else {
    root.GrokModular = api;
    if (root.document) root.document.dispatchEvent(new Event("grok-solver"));
  }
})(typeof self === "object" ? self : this);
