/*
 * Start: the toolbar, the address bar and the theme; every view draws what the selection touches.
 */

const THEMES = { auto: '', light: 'light', dark: 'dark' };

function fillToolbar() {
  const run = currentRun();
  const { method, layer, alpha, scope, direction } = selection;
  const alphas = new Set([...gridAlphas(run, method, scope), alpha]);
  const rising = [...alphas].sort((a, b) => a - b);
  const point = pointOf(run, method, scope);
  fillOptions('pick-run', DATA.runs.map((one, i) => [i, one.name]), selection.run);
  fillOptions('pick-method', METHODS.map((name) => [name, DATA.methods[name]]), method);
  fillOptions('pick-layer', layersOf(run).map((at) => [at, String(at)]), layer);
  fillOptions('pick-alpha', rising.map((value) => [value, spelled(value)]), alpha);
  fillOptions('pick-scope', scopesOf(run).map((name) => [name, name]), scope);
  fillOptions('pick-direction', ['aligned', 'reversed'].map((name) => [name, name]), direction);
  const isTurned = run.traces.here && run.traces.traces.some((trace) => trace.direction === 'reversed');
  byId('direction-label').hidden = !isTurned && direction === 'aligned';
  byId('pick-theme').value = selection.theme;
  byId('go-to-point').disabled = !point;
  byId('go-to-point').textContent = point
    ? `operating point: layer ${point.layer}, α ${spelled(point.alpha)}`
    : 'no operating point';
}

function startToolbar() {
  const onPick = (id, changesOf) =>
    byId(id).addEventListener('change', ({ target }) => choose(changesOf(target.value)));
  onPick('pick-run', (value) => ({ run: Number(value) }));
  onPick('pick-method', (value) => ({ method: value }));
  onPick('pick-layer', (value) => ({ layer: Number(value) }));
  onPick('pick-alpha', (value) => ({ alpha: Number(value) }));
  onPick('pick-scope', (value) => ({ scope: value }));
  onPick('pick-direction', (value) => ({ direction: value }));
  onPick('pick-theme', (value) => ({ theme: value }));
  byId('go-to-point').addEventListener('click', () => {
    choose({ ...pointOf(currentRun(), selection.method, selection.scope), threshold: null });
  });
}

function fillHeader() {
  const run = currentRun();
  byId('heading').textContent = `interp_steer report: ${run.name}`;
  byId('about').textContent = `model ${run.model}; run ${run.path}; interp_steer ${DATA.version}`;
  byId('provenance').textContent = JSON.stringify(run.provenance, null, 2);
}

function applyTheme() {
  forgetColours();
  const theme = THEMES[selection.theme];
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function say(text) {
  byId('status').textContent = text;
}

/** Redraw what `changed` touches; a moved boundary leaves layers and tokens as they are. */
function redraw(changed) {
  const has = (...names) => names.some((name) => changed.has(name));
  if (has('theme')) applyTheme();
  if (has('run')) fillHeader();
  const isElsewhere = has('run', 'method', 'layer', 'alpha', 'scope', 'direction', 'theme');
  if (isElsewhere) fillToolbar();
  if (isElsewhere) drawLayersView();
  if (isElsewhere || has('threshold')) drawBoundaryView();
  if (has('run', 'method', 'layer', 'alpha', 'scope', 'direction', 'sample')) drawTokensView();
  else if (has('pos')) markToken();
  if (isElsewhere) {
    say(`Shown: ${currentRun().name}, ${configurationText(selection)}.`);
  }
}

function redrawAll() {
  redraw(new Set(Object.keys(selection)));
}

/** Take the selection from the address bar; what this page does not have is said. */
function readAddress() {
  const { fields, refused } = readFragment(location.hash);
  Object.assign(selection, fields);
  redrawAll();
  if (refused.length) say(`The link names what this report does not have: ${refused.join(', ')}.`);
}

function start() {
  startToolbar();
  startBoundaryView();
  startTokensView();
  onSelection(redraw);
  readAddress();
  addEventListener('hashchange', readAddress);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redrawAll);
  let width = innerWidth;
  let resting = null;
  addEventListener('resize', () => {
    clearTimeout(resting);
    resting = setTimeout(() => {
      if (innerWidth === width) return;
      width = innerWidth;
      drawLayersView();
      drawBoundaryView();
    }, 150);
  });
}

start();
