/*
 * View 1, above: how readable the trait is by layer, with intervals and null where they were made.
 */

const READABILITY = {
  cohens_d: { title: "Cohen's d (std)", name: "Cohen's d, cross-fitted" },
  auroc: { title: 'AUROC (area)', name: 'AUROC, cross-fitted', chance: 0.5, range: [-0.04, 1.04] },
  cosine_caa: { title: 'cosine LR–CAA', name: 'cosine of v̂ and the mean difference' },
};
function drawReadability() {
  const { readability } = currentRun();
  byId('readability-note').textContent = '';
  if (!readability.here) return showMissing('readability-chart', readability);
  const { layers, measures, n } = readability;
  const names = Object.keys(READABILITY);
  const stacked = isNarrow('readability-chart');
  const traces = names.flatMap((name, i) => readabilityTraces(name, i, layers, measures[name]));
  const layout = baseLayout({ height: stacked ? 640 : 300, shapes: layerMarks(3, selection.layer) });
  panelDomains(3, stacked, stacked ? 0.08 : 0.09).forEach((domain, i) => {
    const { title } = READABILITY[names[i]];
    const range = valueRange(names[i], measures[names[i]]);
    const isLowest = !stacked || i === 2;
    const at = { domain: domain.x, anchor: axisName('y', i) };
    const below = isLowest ? { text: 'layer (resid_post)' } : {};
    layout[axisKey('x', i)] = layerAxis(layers, { ...at, title: below });
    layout[axisKey('y', i)] = axis({
      domain: domain.y,
      anchor: axisName('x', i),
      title: { text: title },
      ...(range ? { range } : {}),
    });
  });
  const label = "Three charts by layer: Cohen's d, AUROC, and the cosine with the mean difference";
  drawChart('readability-chart', traces, layout, { label, onClick: selectLayer });
  const said = n ? `n = ${n.aligned} aligned, ${n.malicious} malicious responses. ` : '';
  const note = byId('readability-note');
  note.textContent = readability.intervals_command
    ? `${said}No intervals yet: `
    : `${said}Bands: 95 % intervals, clusters of scenarios resampled; grey: range over shuffled labels.`;
  if (readability.intervals_command) {
    note.append(element('code', { textContent: readability.intervals_command }));
  }
}

/** Range of a measure's axis: fixed ends where it has them, null to follow the values. */
function valueRange(name, found) {
  if (name !== 'cosine_caa') return READABILITY[name].range ?? null;
  const known = [...found.value, ...found.value_low].filter((value) => value !== null);
  return [Math.min(0, ...known) - 0.04, 1.04];
}

function readabilityTraces(name, place, layers, found) {
  const { name: title, chance } = READABILITY[name];
  const at = { x: layers, place };
  const traces = [
    ...bandTraces({ ...at, low: found.null_low, high: found.null_high, fill: faded('faint', 0.3) }),
    ...bandTraces({ ...at, low: found.value_low, high: found.value_high, fill: faded('aligned', 0.25) }),
    {
      x: layers,
      y: found.value,
      mode: 'lines+markers',
      name: title,
      showlegend: false,
      line: { color: colour('aligned'), width: 1.8 },
      marker: { size: 6 },
      customdata: layers.map((_, i) => ends(found.value_low[i], found.value_high[i])),
      hovertemplate: '%{y:.3g}%{customdata}<extra></extra>',
      xaxis: axisName('x', place),
      yaxis: axisName('y', place),
    },
  ];
  if (chance === undefined) return traces;
  const span = [Math.min(...layers) - 0.5, Math.max(...layers) + 0.5];
  const level = { name: 'chance', y: chance, span, dash: 'dot', colour: colour('ink'), place };
  return [...traces, levelTrace({ ...level, shown: false })];
}
