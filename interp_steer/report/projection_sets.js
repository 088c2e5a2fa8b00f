/*
 * Embedded projections as sets {n, values, exact}: which of them the selection covers, and their
 * bins. Where a set holds quantiles, each value stands for n / values.length tokens.
 */

const SHOWN_SHARE = 0.999;
const MOST_BINS = 160;

const decoded = new WeakMap();

/** The projections of one packed set as {n, values, exact}; decoded once. */
function unpacked(set) {
  if (!decoded.has(set)) {
    decoded.set(set, { n: set.n, exact: set.exact, values: decodeFloats(set.f32) });
  }
  return decoded.get(set);
}

/** Response means of a side at the selected layer. */
function pooledSets(side) {
  const { pooled } = currentRun();
  return pooled.here ? [unpacked(pooled.layers[selection.layer][side])] : [];
}

/** Tokens of a side in the selected scope and layer, as disjoint sets. */
function tokenSets(side) {
  const { tokens } = currentRun();
  if (!tokens.here) return [];
  const names = tokens.sets[selection.scope] ?? [];
  return names.map((name) => unpacked(tokens.layers[selection.layer][name][side]));
}

/** Stored traces of the selected configuration. */
function selectedTraces() {
  const { traces } = currentRun();
  if (!traces.here) return [];
  const same = ['method', 'layer', 'alpha', 'scope', 'direction'];
  return traces.traces.filter((trace) => same.every((name) => trace[name] === selection[name]));
}

/** One column of the in-scope tokens of the selected traces. */
function tracedSets(name) {
  return selectedTraces().map((trace) => {
    const values = decodeFloats(trace[name]).filter((_, i) => trace.in_scope[i]);
    return { n: values.length, exact: true, values };
  });
}

function count(sets) {
  return sets.reduce((n, set) => n + set.n, 0);
}

/** The value below which a share of one rising set lies. */
function quantile(values, share) {
  const place = share * (values.length - 1);
  const [low, high] = [values[Math.floor(place)], values[Math.ceil(place)]];
  return low + (high - low) * (place - Math.floor(place));
}

/** Axis range: the central share of every set and all marks, with a margin of 4 %. */
function shownSpan(sets, marks) {
  const tail = (1 - SHOWN_SHARE) / 2;
  const filled = sets.filter((set) => set.values.length);
  const found = filled.flatMap(({ values }) => {
    const rising = values.toSorted();
    return [quantile(rising, tail), quantile(rising, 1 - tail)];
  });
  const every = [...found, ...marks.filter(Number.isFinite)];
  const [low, high] = [Math.min(...every), Math.max(...every)];
  const margin = 0.04 * (high - low) || 1;
  return [low - margin, high + margin];
}

/** Weighted mean and spread of disjoint sets. */
function spreadOf(sets) {
  let [weight, sum, squares] = [0, 0, 0];
  sets.forEach(({ n, values }) => {
    const each = values.length ? n / values.length : 0;
    values.forEach((value) => {
      weight += each;
      sum += each * value;
      squares += each * value * value;
    });
  });
  const mean = sum / weight;
  return { n: weight, std: Math.sqrt(Math.max(0, squares / weight - mean * mean)) };
}

/** Edges of common bins over `span`, of the width that Scott's rule gives the narrowest group. */
function binEdges(groups, span) {
  const widths = groups
    .map(spreadOf)
    .map(({ n, std }) => (3.5 * std) / Math.cbrt(n))
    .filter((width) => width > 0);
  const length = span[1] - span[0];
  const wanted = widths.length ? length / Math.min(...widths) : MOST_BINS;
  const n = Math.round(Math.min(MOST_BINS, Math.max(20, wanted)));
  return Array.from({ length: n + 1 }, (_, i) => span[0] + (length * i) / n);
}

/** Per cent of the tokens of `sets` in each bin; values beyond the edges are left out. */
function sharesIn(sets, edges) {
  const total = count(sets);
  const shares = new Array(edges.length - 1).fill(0);
  const [low, width] = [edges[0], edges[1] - edges[0]];
  sets.forEach(({ n, values }) => {
    const each = (100 * n) / values.length / total;
    values.forEach((value) => {
      const bin = Math.floor((value - low) / width);
      if (bin >= 0 && bin < shares.length) shares[bin] += each;
    });
  });
  return shares;
}
