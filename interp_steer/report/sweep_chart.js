/*
 * View 1, middle: trait and coherence by steered layer at the selected method, coefficient and scope,
 * with baselines and operating points.
 */

const SCORES = ['trait', 'coherence'];

/** Cells of one method and coefficient at every layer: values and ends, null where there is none. */
function alongLayers(cells, layers, method, alpha) {
  const rows = layers.map((layer) =>
    cells.layer.findIndex(
      (at, i) => at === layer && cells.method[i] === method && cells.alpha[i] === alpha,
    ),
  );
  const column = (name) => rows.map((row) => (row < 0 ? null : cells[name][row]));
  return Object.fromEntries(
    SCORES.map((name) => [
      name,
      { value: column(name), low: column(`${name}_low`), high: column(`${name}_high`) },
    ]),
  );
}

/** The coefficient whose line is drawn: the selected one, or the nearest that was run. */
function shownAlpha() {
  const grid = gridAlphas(currentRun(), selection.method, selection.scope);
  const distance = (alpha) => Math.abs(alpha - selection.alpha);
  return grid.length ? grid.reduce((a, b) => (distance(b) < distance(a) ? b : a)) : null;
}

function methodTitle(method) {
  return DATA.methods[method] ?? method;
}

function drawSweep() {
  const { sweep } = currentRun();
  byId('sweep-note').textContent = '';
  if (!sweep.here) return showMissing('sweep-chart', sweep);
  const scope = sweep.scopes[selection.scope];
  if (!scope) {
    const command = `interp-steer sweep ${currentRun().path} --scopes ${selection.scope}`;
    const what = `The sweep has no steered cell in scope ${selection.scope}`;
    return showMissing('sweep-chart', { what, command });
  }
  const layers = [...new Set(scope.cells.layer)].sort((a, b) => a - b);
  const stacked = isNarrow('sweep-chart');
  const traces = SCORES.flatMap((name, place) => scoreTraces(scope, layers, name, place));
  const layout = baseLayout({ height: stacked ? 640 : 360, shapes: layerMarks(2, selection.layer) });
  panelDomains(2, stacked, stacked ? 0.1 : 0.08).forEach((domain, i) => {
    const below = !stacked || i === 1 ? { text: 'steered layer (resid_post)' } : {};
    layout[axisKey('x', i)] = layerAxis(layers, {
      domain: domain.x,
      anchor: axisName('y', i),
      title: below,
    });
    layout[axisKey('y', i)] = axis({
      domain: domain.y,
      anchor: axisName('x', i),
      range: [-4, 107],
      dtick: 25,
      title: { text: `${SCORES[i]} (0–100)` },
    });
  });
  const label = `Trait and coherence by steered layer, ${methodTitle(selection.method)}`;
  drawChart('sweep-chart', traces, layout, { label, onClick: selectLayer });
  byId('sweep-note').textContent = sweepNote(scope);
  if (sweep.select_command) {
    byId('sweep-note').append(
      ' No operating point is marked yet: ',
      element('code', { textContent: sweep.select_command }),
    );
  }
}

function sweepNote(scope) {
  const alpha = shownAlpha();
  const title = methodTitle(selection.method);
  const drawn =
    alpha === null
      ? `${title} was not run in this scope.`
      : `Thick: ${title} at α = ${spelled(alpha)}; faint: its other coefficients.`;
  const other =
    alpha !== null && alpha !== selection.alpha
      ? ` α = ${spelled(selection.alpha)} was not run; the nearest is shown.`
      : '';
  const n = Math.min(...scope.cells.n_rows);
  const missing = scope.n_missing
    ? ` ${scope.n_missing} generations have no score from the judge and are left out.`
    : '';
  return (
    `${drawn}${other} n ≥ ${n} generations a point under the malicious prompt; bands: 95 % ` +
    'intervals, clusters of scenarios resampled, given the cell. Rings: operating points, chosen ' +
    'from scores such as these, so their height here flatters them; click one to go there.' +
    missing
  );
}

function scoreTraces(scope, layers, name, place) {
  const shown = shownAlpha();
  const { method } = selection;
  const look = LOOKS[method];
  const at = { xaxis: axisName('x', place), yaxis: axisName('y', place) };
  const faint = gridAlphas(currentRun(), method, selection.scope)
    .filter((alpha) => alpha !== shown)
    .map((alpha) => ({
      ...at,
      x: layers,
      y: alongLayers(scope.cells, layers, method, alpha)[name].value,
      mode: 'lines',
      name: 'its other coefficients',
      legendgroup: 'others',
      showlegend: false,
      line: { color: faded('faint', 0.5), width: 1 },
      hoverinfo: 'skip',
    }));
  return [
    ...faint,
    ...(shown === null ? [] : shownTraces(scope, layers, name, { place, look, alpha: shown })),
    ...referenceTraces(scope, layers, name, place),
    ...pointTraces(scope, name, place),
  ];
}

function shownTraces(scope, layers, name, { place, look, alpha }) {
  const { value, low, high } = alongLayers(scope.cells, layers, selection.method, alpha)[name];
  const title = methodTitle(selection.method);
  return [
    ...bandTraces({ x: layers, low, high, fill: faded(look.colour, 0.25), place }),
    {
      x: layers,
      y: value,
      mode: 'lines+markers',
      name: `${title}, α = ${spelled(alpha)}`,
      legendgroup: 'shown',
      showlegend: place === 0,
      line: { color: colour(look.colour), dash: look.dash, width: 2.4 },
      marker: { symbol: look.symbol, size: 7 },
      customdata: layers.map((_, i) => ends(low[i], high[i])),
      hovertemplate: `${name} %{y:.3g}%{customdata}<extra></extra>`,
      xaxis: axisName('x', place),
      yaxis: axisName('y', place),
    },
  ];
}

function referenceTraces(scope, layers, name, place) {
  const span = [layers[0] - 0.5, layers[layers.length - 1] + 0.5];
  const at = { span, place, shown: place === 0 };
  const levels = [
    { name: 'aligned, unsteered', y: scope.aligned[name], dash: 'dash', colour: colour('aligned') },
    { name: 'malicious, unsteered', y: scope.malicious[name], dash: 'dot', colour: colour('malicious') },
  ];
  if (name === 'coherence') {
    const share = percent(scope.coherence_share);
    const limit = { y: scope.limit, dash: 'longdashdot', colour: colour('ink') };
    levels.push({ name: `limit: ${share} of aligned coherence`, ...limit });
  }
  return levels.map((level) =>
    levelTrace({ ...at, ...level, shown: place === 0 || level.name.startsWith('limit') }),
  );
}

/** Rings at the operating points of all methods in this scope; a click goes there. */
function pointTraces(scope, name, place) {
  return Object.entries(scope.points).map(([method, { layer, alpha }]) => {
    const { value } = alongLayers(scope.cells, [layer], method, alpha)[name];
    const title = `${methodTitle(method)}, α = ${spelled(alpha)}`;
    return {
      x: [layer],
      y: value,
      mode: 'markers',
      name: `chosen: ${title}`,
      legendgroup: `point ${method}`,
      showlegend: place === 0,
      meta: { method, layer, alpha, threshold: null },
      cliponaxis: false,
      marker: {
        symbol: `${LOOKS[method].symbol}-open`,
        size: method === selection.method ? 17 : 13,
        color: colour(LOOKS[method].colour),
        line: { width: method === selection.method ? 3 : 2 },
      },
      hovertemplate: `chosen: ${title}, %{y:.3g}<extra></extra>`,
      xaxis: axisName('x', place),
      yaxis: axisName('y', place),
    };
  });
}
