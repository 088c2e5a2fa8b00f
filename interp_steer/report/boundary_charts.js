/*
 * View 2, charts: histograms of projections (responses, single tokens, steered tokens) on one axis,
 * and the transfer curve.
 */

const N_PLACES = 401;
const SIDE_LOOKS = {
  aligned: { dash: 'solid', hatch: '' },
  malicious: { dash: 'dash', hatch: '/' },
};

/** The panels of the histogram chart: title, groups {name, sets, colour, dash, hatch}. */
function histogramPanels() {
  const sides = Object.keys(SIDE_LOOKS);
  const bySide = (setsOf) =>
    sides.map((side) => ({ name: `${side} prompt`, sets: setsOf(side), colour: side, ...SIDE_LOOKS[side] }));
  const panels = [
    { title: 'response means', unit: 'responses', groups: bySide(pooledSets) },
    { title: `single tokens in scope, unsteered`, unit: 'tokens', groups: bySide(tokenSets) },
  ];
  const before = tracedSets('projection_before');
  const groups = [
    { name: 'arriving (ρ)', sets: before, colour: 'faint', dash: 'dot', hatch: '' },
    { name: 'leaving, steered (ρ′)', sets: tracedSets('projection_after'), colour: 'steered', dash: 'solid', hatch: '.' },
  ];
  panels.push({ title: 'tokens of the stored traces, in scope', unit: 'tokens', groups });
  return panels.filter((panel) => panel.groups.some(({ sets }) => count(sets)));
}

/** Vertical lines: boundary of the probe, class means, the boundary in force, target and cap. */
function histogramMarks(probe, law) {
  const marks = [
    { name: 'm', x: probe.boundary, colour: 'ink', dash: 'solid' },
    { name: 'μ+', x: probe.mu_pos, colour: 'aligned', dash: 'dot' },
    { name: 'μ−', x: probe.mu_neg, colour: 'malicious', dash: 'dash' },
  ];
  if (law.target !== null) marks.push({ name: 'target s', x: law.target, colour: 'sttp', dash: 'dashdot' });
  if (law.threshold !== null && law.threshold !== probe.boundary) {
    marks.push({ name: 'boundary t', x: law.threshold, colour: 'moved', dash: 'dash' });
  }
  return marks;
}

function drawHistograms(probe, law) {
  const panels = histogramPanels();
  if (!panels.length) {
    const { pooled, tokens } = currentRun();
    showMissing('histogram-chart', tokens.here ? pooled : tokens);
    return null;
  }
  const marks = histogramMarks(probe, law);
  const sets = panels.flatMap((panel) => panel.groups.flatMap((group) => group.sets));
  const fixed = marks.filter(({ name }) => name !== 'boundary t').map(({ x }) => x);
  let span = shownSpan(sets, fixed);
  if (law.threshold !== null) span = [Math.min(span[0], law.threshold), Math.max(span[1], law.threshold)];
  const names = new Set();
  const traces = panels.flatMap((panel, place) => groupTraces(panel, place, span, names));
  marks.forEach((mark) => traces.push(legendLine(mark)));
  const gap = 0.13;
  const layout = baseLayout({
    height: 140 + 190 * panels.length,
    hovermode: 'closest',
    uirevision: `${selection.run} ${selection.layer}`,
    shapes: panels.flatMap((_, place) => marks.map((mark) => markShape(mark, place))),
    annotations: panels.map((panel, place) => panelTitle(panel, place, span)),
    margin: { l: 56, r: 16, t: byId('histogram-chart').clientWidth < 500 ? 190 : 120, b: 44 },
    legend: { orientation: 'h', x: 0, xanchor: 'left', y: 1, yanchor: 'top', yref: 'container' },
  });
  panelDomains(panels.length, true, gap).forEach((domain, place) => {
    const isLowest = place === panels.length - 1;
    layout[axisKey('x', place)] = axis({
      anchor: axisName('y', place),
      range: span,
      ...(place ? { matches: 'x' } : {}),
      title: isLowest ? { text: `projection ρ on v̂ at ${probe.hook} (a.u.)` } : {},
    });
    layout[axisKey('y', place)] = axis({
      domain: domain.y,
      anchor: axisName('x', place),
      rangemode: 'tozero',
      title: { text: '% a bin' },
    });
  });
  const label = `Histograms of projections at layer ${probe.layer}`;
  drawChart('histogram-chart', traces, layout, { label });
  return span;
}

function groupTraces({ groups }, place, span, names) {
  const filled = groups.filter(({ sets }) => count(sets));
  const edges = binEdges(filled.map(({ sets }) => sets), span);
  return filled.map(({ name, sets, colour: ink, dash, hatch }) => {
    const isNew = !names.has(name);
    names.add(name);
    return {
      x: edges,
      y: [...sharesIn(sets, edges), 0],
      mode: 'lines',
      name,
      legendgroup: name,
      showlegend: isNew,
      line: { shape: 'hv', color: colour(ink), dash, width: 1.4 },
      fill: 'tozeroy',
      fillcolor: faded(ink, 0.16),
      fillpattern: { shape: hatch, fgcolor: colour(ink), fgopacity: 0.5, size: 6 },
      hovertemplate: `${name}: %{y:.3g} % in the bin from %{x:.4g}<extra></extra>`,
      xaxis: axisName('x', place),
      yaxis: axisName('y', place),
    };
  });
}

function markShape(mark, place) {
  return {
    type: 'line',
    xref: axisName('x', place),
    yref: `${axisName('y', place)} domain`,
    x0: mark.x,
    x1: mark.x,
    y0: 0,
    y1: 1,
    line: { color: colour(mark.colour), dash: mark.dash, width: 1.8 },
  };
}

function legendLine(mark) {
  const line = { color: colour(mark.colour), dash: mark.dash, width: 1.8 };
  return { x: [null], y: [null], mode: 'lines', name: `${mark.name} = ${spelled(mark.x)}`, line };
}

/** What a panel shows, its n, and how many values its axis leaves out. */
function panelTitle({ title, unit, groups }, place, span) {
  const filled = groups.filter(({ sets }) => count(sets));
  const counts = filled.map(({ name, sets }) => `${count(sets).toLocaleString('en')} ${name.split(' ')[0]}`);
  const n = unit === 'tokens' && place === 2 ? [`${count(filled[0].sets)}`] : counts;
  let beyond = 0;
  filled.forEach(({ sets }) => sets.forEach((set) => {
    const outside = set.values.filter((value) => value < span[0] || value > span[1]).length;
    beyond += (outside * set.n) / set.values.length;
  }));
  const rest = beyond ? ` (${Math.round(beyond).toLocaleString('en')} beyond the axis)` : '';
  return {
    text: `${title}: n = ${n.join(', ')} ${unit}${rest}`,
    x: 0,
    y: 1,
    xref: 'x domain',
    yref: `${axisName('y', place)} domain`,
    xanchor: 'left',
    yanchor: 'bottom',
    showarrow: false,
    font: { size: 13 },
  };
}

/** rho' over rho for the selected law; the jump of a gate is drawn upright. */
function drawTransfer(probe, law, span) {
  const [low, high] = span ?? [probe.mu_neg - Math.abs(probe.delta_mu), probe.mu_pos + Math.abs(probe.delta_mu)];
  const places = Array.from({ length: N_PLACES }, (_, i) => low + ((high - low) * i) / (N_PLACES - 1));
  if (law.threshold !== null) {
    const tick = Math.max(Math.abs(law.threshold), high - low) * 1e-9;
    places.push(law.threshold - law.sign * tick, law.threshold);
  }
  places.sort((a, b) => a - b);
  const level = (name, y, ink, dash) =>
    levelTrace({ name, y, span: [low, high], dash, colour: colour(ink), place: 0, shown: true });
  const traces = [
    { x: [low, high], y: [low, high], mode: 'lines', name: 'unsteered (ρ′ = ρ)', line: { color: colour('faint'), dash: 'dash', width: 1.2 }, hoverinfo: 'skip' },
    level('μ+', probe.mu_pos, 'aligned', 'dot'),
    {
      x: places,
      y: places.map((rho) => rho + moveOf(law, rho).shift),
      mode: 'lines',
      name: `${methodTitle(selection.method)}, α = ${spelled(selection.alpha)}`,
      line: { color: colour(LOOKS[selection.method].colour), width: 3 },
      hovertemplate: 'ρ %{x:.4g} → ρ′ %{y:.4g}<extra></extra>',
    },
  ];
  const shapes = [];
  if (law.limit !== null) traces.push(level(`cap = ${spelled(law.limit)}`, law.limit, 'malicious', 'dashdot'));
  if (law.threshold !== null) {
    const mark = { name: 'boundary t', x: law.threshold, colour: 'moved', dash: 'dash' };
    shapes.push(markShape(mark, 0));
    traces.push(legendLine(mark));
  }
  const layout = baseLayout({
    height: 400,
    hovermode: 'closest',
    shapes,
    margin: { l: 60, r: 16, t: 16, b: 110 },
    legend: { orientation: 'h', x: 0, xanchor: 'left', y: -0.2, yanchor: 'top' },
    xaxis: axis({ range: [low, high], title: { text: 'ρ before (a.u.)' } }),
    yaxis: axis({ title: { text: 'ρ′ after (a.u.)' } }),
  });
  drawChart('transfer-chart', traces, layout, { label: 'Transfer curve: projection after over before' });
}
