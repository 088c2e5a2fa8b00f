/*
 * The one selection that every view shows, and its form in the address bar.
 *
 * `choose` changes it; views listen with `onSelection`. What a link names and the page does not
 * have is left at its default and said in the status line.
 */

const DATA = JSON.parse(document.getElementById('data').textContent);
const METHODS = Object.keys(DATA.methods);
const listeners = [];

/** run: place in DATA.runs. threshold: null for the probe's boundary. sample, pos: of a trace. */
const selection = {
  run: 0,
  method: 'sttp',
  layer: 0,
  alpha: 1,
  scope: 'all',
  direction: 'aligned',
  threshold: null,
  sample: null,
  pos: null,
  theme: 'auto',
};

function byId(id) {
  return document.getElementById(id);
}

function currentRun() {
  return DATA.runs[selection.run];
}

/** Layers that have a probe, or, without probes, those of the traces. */
function layersOf(run) {
  if (run.probes.here) return run.probes.layers.map((probe) => probe.layer);
  const traced = run.traces.here ? run.traces.traces.map((trace) => trace.layer) : [0];
  return [...new Set(traced)].sort((a, b) => a - b);
}

/** The probe of a layer; null without one. */
function probeAt(layer) {
  const { probes } = currentRun();
  return (probes.here && probes.layers.find((probe) => probe.layer === layer)) || null;
}

/** Scopes that the sweep, the traces or the projections know. */
function scopesOf(run) {
  const known = [
    ...(run.sweep.here ? Object.keys(run.sweep.scopes) : []),
    ...(run.tokens.here ? Object.keys(run.tokens.sets) : []),
    ...(run.traces.here ? run.traces.traces.map((trace) => trace.scope) : []),
  ];
  return known.length ? [...new Set(known)] : ['all', 'response'];
}

/** Coefficients of a method in the sweep's grid, rising. */
function gridAlphas(run, method, scope) {
  const cells = run.sweep.here && run.sweep.scopes[scope] && run.sweep.scopes[scope].cells;
  const found = cells ? cells.alpha.filter((_, i) => cells.method[i] === method) : [];
  return [...new Set(found)].sort((a, b) => a - b);
}

/** The operating point {layer, alpha} of a method and scope; null without one. */
function pointOf(run, method, scope) {
  const known = run.sweep.here && run.sweep.scopes[scope];
  return (known && known.points[method]) || null;
}

/** The coefficient to show first: the operating point's, else the middle of the grid, else 1. */
function usualAlpha(run, method, scope) {
  const point = pointOf(run, method, scope);
  if (point) return point.alpha;
  const grid = gridAlphas(run, method, scope);
  return grid.length ? grid[Math.floor((grid.length - 1) / 2)] : 1;
}

/** The layer that separates best (cross-fitted Cohen's d). */
function clearestLayer(run) {
  if (!run.readability.here) return layersOf(run)[0];
  const { layers, measures } = run.readability;
  const values = measures.cohens_d.value.map((value) => value ?? -Infinity);
  return layers[values.indexOf(Math.max(...values))];
}

/** Where a run is entered: the operating point of StTP, else of another method, else a layer. */
function entryOf(run, { method = 'sttp', scope = 'all' } = {}) {
  const known = scopesOf(run);
  const wanted = known.includes(scope) ? scope : known[0];
  const methods = [method, ...METHODS];
  const chosen = methods.find((name) => pointOf(run, name, wanted)) || method;
  const point = pointOf(run, chosen, wanted);
  return {
    method: chosen,
    scope: wanted,
    layer: point ? point.layer : clearestLayer(run),
    alpha: usualAlpha(run, chosen, wanted),
    direction: 'aligned',
    threshold: null,
    sample: null,
    pos: null,
  };
}

/** Call `listener(changed)` after every change; `changed` is the set of fields that did. */
function onSelection(listener) {
  listeners.push(listener);
}

/**
 * Change the selection. A new run enters at its operating point, a new method keeps the layer and
 * takes its usual coefficient, a new layer drops a typed boundary, which is in that layer's units.
 */
function choose(changes) {
  const before = { ...selection };
  const moved = (name) => name in changes && changes[name] !== before[name];
  if (moved('run')) Object.assign(selection, entryOf(DATA.runs[changes.run], before));
  if (moved('method') && !('alpha' in changes)) {
    selection.alpha = usualAlpha(currentRun(), changes.method, changes.scope ?? selection.scope);
  }
  if (moved('layer')) selection.threshold = null;
  if (['method', 'layer', 'alpha', 'scope', 'direction'].some(moved)) {
    Object.assign(selection, { sample: null, pos: null });
  }
  Object.assign(selection, changes);
  const changed = new Set(Object.keys(before).filter((name) => before[name] !== selection[name]));
  if (!changed.size) return;
  listeners.forEach((listener) => listener(changed));
  rememberSoon();
}

function fragmentOf(chosen) {
  const params = new URLSearchParams();
  params.set('trait', DATA.runs[chosen.run].name);
  ['method', 'layer', 'alpha', 'scope'].forEach((name) => params.set(name, chosen[name]));
  if (chosen.direction !== 'aligned') params.set('direction', chosen.direction);
  ['threshold', 'sample', 'pos'].forEach((name) => {
    if (chosen[name] !== null) params.set(name, chosen[name]);
  });
  if (chosen.theme !== 'auto') params.set('theme', chosen.theme);
  return `#${params}`;
}

let remembering = null;

/** Put the selection into the address bar once it rests: browsers throttle faster changes. */
function rememberSoon() {
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, '', fragmentOf(selection)), 150);
}

/** What a fragment says: fields of the selection, and what of it this page does not have. */
function readFragment(fragment) {
  const params = new URLSearchParams(fragment.replace(/^#/, ''));
  const refused = [];
  const take = (name, known, convert = (text) => text) => {
    if (!params.has(name)) return undefined;
    const value = convert(params.get(name));
    if (known(value)) return value;
    refused.push(`${name} “${params.get(name)}”`);
    return undefined;
  };
  const place = take('trait', (i) => i >= 0, (text) => DATA.runs.findIndex((r) => r.name === text));
  const run = DATA.runs[place ?? 0];
  const number = (text) => (text.trim() === '' ? NaN : Number(text));
  const wanted = {
    method: take('method', (value) => METHODS.includes(value)),
    scope: take('scope', (value) => scopesOf(run).includes(value)),
    layer: take('layer', (value) => layersOf(run).includes(value), number),
    alpha: take('alpha', Number.isFinite, number),
    direction: take('direction', (value) => ['aligned', 'reversed'].includes(value)),
    threshold: take('threshold', Number.isFinite, number),
    sample: take('sample', (value) => samplesOf(run).includes(value)),
    pos: take('pos', Number.isInteger, number),
    theme: take('theme', (value) => ['light', 'dark'].includes(value)),
  };
  const fields = { run: place ?? 0, theme: 'auto', ...entryOf(run, wanted) };
  if (wanted.method !== undefined) {
    fields.method = wanted.method;
    fields.alpha = usualAlpha(run, fields.method, fields.scope);
  }
  for (const [name, value] of Object.entries(wanted)) {
    if (value !== undefined) fields[name] = value;
  }
  return { fields, refused };
}

function samplesOf(run) {
  return run.traces.here ? run.traces.traces.map((trace) => trace.sample) : [];
}
