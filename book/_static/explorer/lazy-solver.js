/* Gradient descent on a committee machine in its mean weight and second moment, exactly: the same mathematics as grokutils.theory.committee.
 *
 * problem = {dimension D, samples P, width N >= D + 1, laziness alpha, curvature eps, seed}; the target is y = (beta.x)^2 / 2, the network is
 * centred. A step is eta_0; time is eta_0 times the number of steps.
 *
 * GrokLazy.draw(problem)                 {inputs (P*D), beta (D), mean (D), moment (D*D), second ((D+1)^2): second moment of (1, w)}
 * GrokLazy.largestStep(problem, data)    {start, end}: the step sizes above which descent diverges near the start and near the state that was taught
 * GrokLazy.lazyLimit(problem, data)      {variance, misalignment, linear, test} of regression with the initial kernel
 * GrokLazy.timeLaw(problem, data)        the time at which the target's direction has been learned (an estimate)
 * GrokLazy.Run(problem, data, {step, steps, record, frozen})   a run that goes on by advance(until), see below; frozen: the linearised network
 */
(function (root) {
  "use strict";
  // Uniform numbers by mulberry32, normal ones in pairs by Box and Muller; every list has a stream of its own.
  function normal(seed, stream, count) {
    let state = (Math.imul(seed + 1, 0x9E3779B1) ^ Math.imul(stream + 1, 0x85EBCA77)) >>> 0;
    const uniform = () => {
      state = (state + 0x6D2B79F5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
    const list = new Float64Array(count + 1);
    for (let k = 0; k < count; k += 2) {
      const r = Math.sqrt(-2 * Math.log(uniform())), angle = 2 * Math.PI * uniform();
      list[k] = r * Math.cos(angle);
      list[k + 1] = r * Math.sin(angle);
    }
    return list.subarray(0, count);
  }

  function draw({ dimension: D, samples: P, width: N, seed }) {
    const inputs = normal(seed, 0, P * D).map((v) => v / Math.sqrt(D)), beta = normal(seed, 1, D), w = normal(seed, 2, N * D), n = D + 1;
    const second = new Float64Array(n * n), mean = new Float64Array(D), moment = new Float64Array(D * D);
    for (let k = 0; k < N; k++) {
      const row = w.subarray(k * D, k * D + D);
      for (let i = 0; i < D; i++) {
        mean[i] += row[i] / N;
        for (let j = 0; j < D; j++) moment[i * D + j] += row[i] * row[j] / N;
      }
    }
    second[0] = 1;
    for (let i = 0; i < D; i++) {
      second[i + 1] = second[(i + 1) * n] = mean[i];
      for (let j = 0; j < D; j++) second[(i + 1) * n + j + 1] = moment[i * D + j];
    }
    return { inputs, beta, mean, moment, second };
  }

  // The lower factor L of a positive definite matrix L L^T.
  function cholesky(a, n) {
    const l = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) {
        let s = a[i * n + j];
        for (let k = 0; k < j; k++) s -= l[i * n + k] * l[j * n + k];
        l[i * n + j] = i === j ? Math.sqrt(s) : s / l[j * n + j];
      }
    }
    return l;
  }

  const dot = (a, b) => {
    let s = 0;
    for (let i = 0; i < a.length; i++) s += a[i] * b[i];
    return s;
  };
  const times = (m, v) => Float64Array.from(v, (_, i) => dot(m.subarray(i * v.length, (i + 1) * v.length), v));

  // The tangent kernel on the training points: K(x, x') = x.x' [1 + eps w.(x + x') + eps^2 x M x'].
  function kernel({ dimension: D, samples: P, curvature: eps }, { inputs }, mean, moment) {
    const k = new Float64Array(P * P), row = (m) => inputs.subarray(m * D, m * D + D);
    const turned = Array.from({ length: P }, (_, m) => times(moment, row(m))), tilt = turned.map((_, m) => dot(row(m), mean));
    for (let a = 0; a < P; a++) {
      for (let b = 0; b <= a; b++) k[a * P + b] = k[b * P + a] = dot(row(a), row(b)) * (1 + eps * (tilt[a] + tilt[b]) + eps * eps * dot(row(a), turned[b]));
    }
    return k;
  }

  function largest(m, n) {
    let v = Float64Array.from({ length: n }, (_, i) => 1 + 0.1 * Math.sin(i)), value = 0;
    for (let k = 0; k < 25; k++) {
      const next = times(m, v), size = Math.sqrt(dot(next, next));
      value = size / Math.sqrt(dot(v, v));
      v = next.map((x) => x / size);
    }
    return value;
  }

  function largestStep(problem, data) {
    const { dimension: D, samples: P, laziness, curvature } = problem;
    const grown = data.moment.map((v, k) => v + data.beta[Math.floor(k / D)] * data.beta[k % D] / (laziness * curvature));
    return { start: P / largest(kernel(problem, data, data.mean, data.moment), P), end: P / largest(kernel(problem, data, data.mean, grown), P) };
  }

  // E (l.x + x S x / 2)^2 with S = form - beta beta^T.
  function parts(D, beta, linear, form) {
    let trace = 0, square = 0;
    for (let i = 0; i < D; i++) {
      for (let j = 0; j < D; j++) {
        const s = form[i * D + j] - beta[i] * beta[j];
        square += s * s;
        if (i === j) trace += s;
      }
    }
    const found = { variance: (trace / D) ** 2 / 4, misalignment: square / (2 * D * D), linear: dot(linear, linear) / D };
    return { ...found, test: found.variance + found.misalignment + found.linear };
  }

  const labels = ({ dimension: D, samples: P }, { inputs, beta }) => Float64Array.from({ length: P }, (_, m) => dot(inputs.subarray(m * D, m * D + D), beta) ** 2 / 2);

  function lazyLimit(problem, data) {
    const { dimension: D, samples: P, curvature: eps } = problem;
    if (P >= D * (D + 3) / 2) return { variance: 0, misalignment: 0, linear: 0, test: 0 }; // as many data as quadratic functions: the target is determined
    const l = cholesky(kernel(problem, data, data.mean, data.moment), P), a = labels(problem, data);
    for (let i = 0; i < P; i++) a[i] = (a[i] - dot(l.subarray(i * P, i * P + i), a.subarray(0, i))) / l[i * P + i];
    for (let i = P - 1; i >= 0; i--) {
      for (let k = i + 1; k < P; k++) a[i] -= l[k * P + i] * a[k];
      a[i] /= l[i * P + i];
    }
    const total = new Float64Array(D), second = new Float64Array(D * D);
    for (let m = 0; m < P; m++) {
      const x = data.inputs.subarray(m * D, m * D + D);
      for (let i = 0; i < D; i++) {
        total[i] += a[m] * x[i];
        for (let j = 0; j < D; j++) second[i * D + j] += a[m] * x[i] * x[j];
      }
    }
    return parts(D, data.beta, ...frozenStep(D, eps, data, total, second));
  }

  // What weights -total and -second on the training points make of a linear function and a form, with the initial kernel.
  function frozenStep(D, eps, { mean, moment }, total, second) {
    const linear = times(second, mean).map((v, i) => total[i] + eps * v), form = new Float64Array(D * D), half = new Float64Array(D * D);
    for (let i = 0; i < D; i++) {
      for (let k = 0; k < D; k++) {
        const s = eps * eps * second[i * D + k];
        for (let j = 0; j < D; j++) half[i * D + j] += s * moment[k * D + j];
      }
      for (let j = 0; j < D; j++) half[i * D + j] += eps * total[i] * mean[j];
    }
    for (let i = 0; i < D; i++) for (let j = 0; j < D; j++) form[i * D + j] = half[i * D + j] + half[j * D + i];
    return [linear, form];
  }

  function timeLaw({ dimension: D, laziness, curvature }, { beta }) {
    const b = dot(beta, beta);
    return laziness * D * D / (6 * curvature * b) * Math.log1p(b / (laziness * curvature));
  }

  /* steps of gradient descent, recorded where `record` (ascending, from 0) says:
   *   records [{step, train, test, variance, misalignment, linear, alignment, norm, spike}]; frozen runs lack the last three
   *   crossed {train, test}: the first step at which a loss is below a tenth of its start (null: not yet);  state "going", "done", "settled", "diverged"
   */
  class Run {
    constructor(problem, data, { step, steps, record, frozen = false }) {
      const { dimension: D, samples: P } = problem, count = D + D * (D + 1) / 2, x = data.inputs;
      Object.assign(this, { problem, data, eta: step, steps, record, frozen, count, at: 0, records: [], crossed: { train: null, test: null }, state: "going" });
      this.labels = labels(problem, data);
      this.features = new Float64Array(P * count); // x_i, then x_i x_j for i <= j
      for (let m = 0; m < P; m++) {
        let k = m * count;
        for (let i = 0; i < D; i++) this.features[k++] = x[m * D + i];
        for (let i = 0; i < D; i++) for (let j = i; j < D; j++) this.features[k++] = x[m * D + i] * x[m * D + j];
      }
      this.linear = new Float64Array(D);
      this.form = new Float64Array(D * D);
      this.push = new Float64Array(count);
      this.coefficients = new Float64Array(count);
      if (!frozen) {
        this.factor = cholesky(data.second, D + 1); // the second moment of (1, w) is kept as a product of factors: round-off cannot make it negative
        this.spare = new Float64Array((D + 1) ** 2);
        this.second = data.second.slice();
        this.change = new Float64Array((D + 1) ** 2);
      }
    }

    // Residuals, their correlations with the features (push), and the loss.
    residuals() {
      const { problem: { dimension: D, samples: P }, features, coefficients: c, push, count, labels: y, linear, form } = this;
      let k = 0, loss = 0;
      for (let i = 0; i < D; i++) c[k++] = linear[i];
      for (let i = 0; i < D; i++) {
        c[k++] = form[i * D + i] / 2;
        for (let j = i + 1; j < D; j++) c[k++] = form[i * D + j];
      }
      push.fill(0);
      for (let m = 0, row = 0; m < P; m++, row += count) {
        let e = -y[m], e1 = 0, e2 = 0, e3 = 0, q4 = 0; // four sums at once: additions need not wait for each other
        for (; q4 + 3 < count; q4 += 4) {
          e += features[row + q4] * c[q4];
          e1 += features[row + q4 + 1] * c[q4 + 1];
          e2 += features[row + q4 + 2] * c[q4 + 2];
          e3 += features[row + q4 + 3] * c[q4 + 3];
        }
        for (; q4 < count; q4++) e += features[row + q4] * c[q4];
        e += e1 + e2 + e3;
        for (let q = 0; q < count; q++) push[q] += e * features[row + q];
        loss += e * e;
      }
      for (let q = 0; q < count; q++) push[q] /= P;
      return loss / P;
    }

    // Steps until the clock says `until`, or the end; true if there is more to do.
    advance(until) {
      while (this.state === "going") {
        for (let k = 0; k < 8 && this.state === "going"; k++) this.one();
        if (performance.now() > until) break;
      }
      return this.state === "going";
    }

    one() {
      const { problem, data, records, crossed } = this, D = problem.dimension, train = this.residuals();
      const found = parts(D, data.beta, this.linear, this.form), now = { train, test: found.test };
      if (!Number.isFinite(train + found.test) || (records.length && train > 1e6 * records[0].train)) { this.state = "diverged"; return; }
      const first = records[0] || now, last = this.at === this.steps;
      for (const name in crossed) if (crossed[name] === null && now[name] < 0.1 * first[name]) crossed[name] = this.at;
      const settled = train < 1e-9 * first.train || (train < 1e-4 * first.train && found.test < 1e-4 * first.test);
      if (this.at === this.record[this.next || 0] || last || settled) {
        this.next = (this.next || 0) + 1;
        records.push({ step: this.at, train, ...found, ...(this.frozen ? {} : this.portrait()) });
      }
      if (last || settled) { this.state = settled ? "settled" : "done"; return; }
      this.frozen ? this.slide() : this.turn();
      this.at += 1;
    }

    // The second moment of (1, w) goes from F F^T to (A F)(A F)^T, A = 1 - c (0, 0; g, eps G) with c = 2 eta_0 / alpha.
    turn() {
      const { problem: { dimension: D, laziness, curvature: eps }, push, factor: F, spare: A, second, change, data } = this, n = D + 1, c = 2 * this.eta / laziness;
      let k = 0;
      A.fill(0);
      A[0] = 1;
      for (let i = 1; i < n; i++) A[i * n] = -c * push[k++];
      for (let i = 1; i < n; i++) {
        for (let j = i; j < n; j++) A[i * n + j] = A[j * n + i] = -c * eps * push[k++];
        A[i * n + i] += 1;
      }
      for (let j = 1; j < n; j++) A[j] = 0; // the neurons' 1 stays 1
      change.fill(0);
      for (let i = 0; i < n; i++) {
        for (let q = 0; q < n; q++) {
          const a = A[i * n + q];
          if (a !== 0) for (let j = 0; j < n; j++) change[i * n + j] += a * F[q * n + j];
        }
      }
      F.set(change);
      for (let i = 0; i < n; i++) {
        for (let j = 0; j <= i; j++) {
          let s = 0;
          for (let q = 0; q < n; q++) s += F[i * n + q] * F[j * n + q];
          second[i * n + j] = second[j * n + i] = s;
        }
      }
      for (let i = 0; i < D; i++) {
        this.linear[i] = laziness * (second[i + 1] - data.mean[i]);
        for (let j = 0; j < D; j++) this.form[i * D + j] = laziness * eps * (second[(i + 1) * n + j + 1] - data.moment[i * D + j]);
      }
    }

    // The same for a kernel that stands still.
    slide() {
      const { problem: { dimension: D, curvature: eps }, push } = this, total = push.subarray(0, D), second = new Float64Array(D * D);
      for (let i = 0, k = D; i < D; i++) for (let j = i; j < D; j++) second[i * D + j] = second[j * D + i] = push[k++];
      const [linear, form] = frozenStep(D, eps, this.data, total, second);
      for (let i = 0; i < D; i++) this.linear[i] -= 2 * this.eta * linear[i];
      for (let k = 0; k < D * D; k++) this.form[k] -= 2 * this.eta * form[k];
    }

    // Alignment of the kernel with the target in closed form, length of the weights over the initial one, second moment along the target.
    portrait() {
      const { problem: { dimension: D, curvature: eps }, second, data: { beta, moment } } = this, n = D + 1, b = dot(beta, beta), e2 = eps * eps;
      let trace = 0, square = 0, along = 0, mean2 = 0, before = 0;
      for (let i = 0; i < D; i++) {
        mean2 += second[i + 1] ** 2;
        before += moment[i * D + i];
        for (let j = 0; j < D; j++) {
          const m = second[(i + 1) * n + j + 1];
          if (i === j) trace += m;
          square += m * m;
          along += beta[i] * m * beta[j];
        }
      }
      const above = e2 / (4 * D ** 4) * (b * b * trace + 8 * b * along), power = 3 * b * b / (4 * D * D);
      const size = 1 / D + 2 * e2 * (D + 2) * mean2 / D ** 3 + e2 * e2 * ((D + 6) * square + 2 * trace * trace) / D ** 4;
      return { alignment: above / (Math.sqrt(size) * power), norm: Math.sqrt(trace / before), spike: along / b };
    }
  }

  const GrokLazy = { draw, largestStep, lazyLimit, timeLaw, Run };
  if (typeof module === "object" && module.exports) module.exports = GrokLazy;
  else {
    root.GrokLazy = GrokLazy;
    if (root.document) root.document.dispatchEvent(new Event("grok-solver"));
  }
})(typeof self === "object" ? self : this);
