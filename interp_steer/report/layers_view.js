/*
 * View 1: the causal scan (a figure made in Python, in the colours of the present theme), and all of
 * the view's numbers as a table whose rows select a layer from the keyboard.
 */

const MAP_CELL = 48;

function drawScan() {
  const { scan } = currentRun();
  byId('scan-note').textContent = '';
  if (!scan.here) return showMissing('scan-chart', scan);
  const { data, layout } = recoloured(scan.figure);
  const room = byId('scan-chart').clientWidth / layersOf(currentRun()).length;
  if (room < MAP_CELL) data.forEach((trace) => delete trace.texttemplate);
  const [onMap, ...shapes] = layerMarks(3, selection.layer);
  shapes.push({ ...onMap, fillcolor: 'rgba(0,0,0,0)', line: { width: 3, color: colour('selected') }, layer: 'above' });
  const look = { paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', shapes };
  Object.assign(layout, look, { font: { ...layout.font, color: colour('ink') } });
  const label = 'Causal scan: effect of the component along v̂ by layer and segment';
  drawChart('scan-chart', data, layout, { label, onClick: selectLayer });
  byId('scan-note').textContent = [scan.caption, ...scan.notes].join('. ');
}

/** Colours that figures made in Python use, by their numbers, and their names in the style sheet. */
const PYTHON_COLOURS = {
  '34,34,34': 'ink',
  '119,119,119': 'faint',
  '230,230,230': 'grid',
  '0,114,178': 'aligned',
  '213,94,0': 'malicious',
  '0,158,115': 'sttp',
  '204,121,167': 'swfc',
};

/** A Python figure's colour in the present theme; any other string as it is. */
function themed(text) {
  const hex = /^#([0-9a-f]{6})$/i.exec(text);
  if (hex) {
    const numbers = [0, 2, 4].map((at) => parseInt(hex[1].slice(at, at + 2), 16));
    return numbers in PYTHON_COLOURS ? colour(PYTHON_COLOURS[numbers]) : text;
  }
  const see = /^rgba\((\d+,\d+,\d+),([\d.]+)\)$/.exec(text);
  return see && see[1] in PYTHON_COLOURS ? faded(PYTHON_COLOURS[see[1]], see[2]) : text;
}

/** `value` with every colour of a Python figure in the present theme. */
function recoloured(value) {
  if (typeof value === 'string') return themed(value);
  if (Array.isArray(value)) return value.map(recoloured);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, recoloured(v)]));
}

/** The layer list: every number of the charts above at the selected method, α and scope. */
function fillLayerTable() {
  const run = currentRun();
  const layers = layersOf(run);
  const scope = run.sweep.here ? run.sweep.scopes[selection.scope] : null;
  const alpha = shownAlpha();
  const scores = scope && alpha !== null ? alongLayers(scope.cells, layers, selection.method, alpha) : null;
  const head = ['layer', "Cohen's d", 'AUROC', 'cosine', ...(scores ? SCORES : [])];
  const rows = layers.map((layer) => {
    const cells = [layerButton(layer), ...readabilityCells(run, layer)];
    if (scores) cells.push(...SCORES.map((name) => withEnds(scores[name], layers.indexOf(layer))));
    const row = element('tr', {}, cells.map((cell) => element('td', {}, [cell])));
    row.classList.toggle('selected', layer === selection.layer);
    return row;
  });
  const heads = head.map((name) => element('th', { scope: 'col', textContent: name }));
  byId('layer-table').replaceChildren(
    element('thead', {}, [element('tr', {}, heads)]),
    element('tbody', {}, rows),
  );
}

function layerButton(layer) {
  const button = element('button', { type: 'button', textContent: `layer ${layer}` });
  button.setAttribute('aria-pressed', String(layer === selection.layer));
  button.dataset.layer = layer;
  button.addEventListener('click', () => {
    choose({ layer });
    byId('layer-table').querySelector(`[data-layer="${layer}"]`).focus({ preventScroll: true });
  });
  return button;
}

function readabilityCells(run, layer) {
  if (!run.readability.here) return ['–', '–', '–'];
  const place = run.readability.layers.indexOf(layer);
  return Object.keys(READABILITY).map((name) => {
    const { value, value_low: low, value_high: high } = run.readability.measures[name];
    return withEnds({ value, low, high }, place);
  });
}

function withEnds({ value, low, high }, place) {
  return place < 0 ? '–' : spelled(value[place], 3) + ends(low[place], high[place]);
}

function drawLayersView() {
  drawReadability();
  drawSweep();
  drawScan();
  fillLayerTable();
}
