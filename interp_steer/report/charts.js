/*
 * How charts look: colours from the style sheet (so that dark and light are said once), panels that
 * stand side by side or one under the other, lines with bands. No text of a model goes into plotly,
 * which reads markup; such text stands in the page beside the chart.
 */

const NARROW = 760;
const FONT = 'Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif';
const LOOKS = {
  swfc: { colour: 'swfc', dash: 'solid', symbol: 'circle' },
  sttp: { colour: 'sttp', dash: 'dash', symbol: 'square' },
  stmp: { colour: 'stmp', dash: 'dot', symbol: 'diamond' },
};
const CONFIG = {
  displaylogo: false,
  responsive: false,
  modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d'],
};

const inks = new Map();

/** A colour of the style sheet as the browser computes it in the present theme. */
function colour(name) {
  if (!inks.has(name)) {
    const probe = element('span');
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    inks.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return inks.get(name);
}

/** Forget the colours of a theme that is no longer shown. */
function forgetColours() {
  inks.clear();
}

/** A computed colour with an opacity. */
function faded(name, opacity) {
  const parts = colour(name).match(/[\d.]+/g);
  return `rgba(${parts.slice(0, 3).join(',')},${opacity})`;
}

function isNarrow(id) {
  return byId(id).clientWidth < NARROW;
}

/** An axis in the house look. */
function axis(more = {}) {
  const ink = colour('ink');
  return {
    automargin: true,
    gridcolor: colour('grid'),
    linecolor: ink,
    tickcolor: ink,
    ticklen: 3,
    ticks: 'outside',
    showline: true,
    zeroline: false,
    ...more,
    title: { standoff: 6, font: { size: 13 }, ...more.title },
  };
}

/** What every layout has. */
function baseLayout(more) {
  return {
    autosize: true,
    dragmode: 'zoom',
    font: { family: FONT, size: 13, color: colour('ink') },
    hoverlabel: {
      align: 'left',
      bgcolor: colour('paper'),
      bordercolor: colour('faint'),
      font: { color: colour('ink') },
    },
    hovermode: 'x unified',
    legend: { orientation: 'h', x: 0, xanchor: 'left', y: 1.02, yanchor: 'bottom' },
    margin: { l: 56, r: 16, t: 36, b: 44 },
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    ...more,
  };
}

/** The name of an axis, x or y, of the panel at `place`, in a trace ('x2') or a layout ('xaxis2'). */
function axisName(letter, place) {
  return place ? `${letter}${place + 1}` : letter;
}

function axisKey(letter, place) {
  return `${letter}axis${place ? place + 1 : ''}`;
}

/** Domains of `n` panels, in columns where there is room, else one under the other. */
function panelDomains(n, stacked, gap) {
  const size = (1 - gap * (n - 1)) / n;
  return Array.from({ length: n }, (_, i) => {
    const start = i * (size + gap);
    return stacked
      ? { x: [0, 1], y: [1 - start - size, 1 - start] }
      : { x: [start, start + size], y: [0, 1] };
  });
}

/** Axis of layers: whole ticks, half a layer of room at both ends. */
function layerAxis(layers, more) {
  const [low, high] = [Math.min(...layers), Math.max(...layers)];
  return axis({
    range: [low - 0.5, high + 0.5],
    tick0: 0,
    dtick: Math.max(1, Math.ceil((high - low) / 10)),
    ...more,
  });
}

/** Shapes that mark the selected layer in every panel. */
function layerMarks(n, layer) {
  return Array.from({ length: n }, (_, i) => ({
    type: 'rect',
    xref: axisName('x', i),
    yref: `${axisName('y', i)} domain`,
    x0: layer - 0.4,
    x1: layer + 0.4,
    y0: 0,
    y1: 1,
    line: { width: 0 },
    fillcolor: faded('selected', 0.22),
    layer: 'below',
  }));
}

/** A band between `low` and `high`; nothing where no end is known. */
function bandTraces({ x, low, high, fill, place, group }) {
  const runs = [[]];
  x.forEach((at, i) => {
    const known = low[i] !== null && high[i] !== null;
    if (known) runs[runs.length - 1].push(i);
    else if (runs[runs.length - 1].length) runs.push([]);
  });
  return runs
    .filter((run) => run.length)
    .map((run) => {
      const [left, right] = [run[0], run[run.length - 1]];
      const isPoint = left === right;
      return {
        x: isPoint ? [x[left], x[left]] : [...run.map((i) => x[i]), ...run.map((i) => x[i]).reverse()],
        y: [...run.map((i) => low[i]), ...run.map((i) => high[i]).reverse()],
        mode: 'lines',
        fill: isPoint ? 'none' : 'toself',
        fillcolor: fill,
        line: { width: isPoint ? 2 : 0, color: fill },
        hoverinfo: 'skip',
        showlegend: false,
        legendgroup: group,
        xaxis: axisName('x', place),
        yaxis: axisName('y', place),
      };
    });
}

/** A level over the whole width of a panel. */
function levelTrace({ name, y, span, dash, colour: ink, place, shown }) {
  return {
    x: span,
    y: [y, y],
    mode: 'lines',
    name,
    legendgroup: name,
    showlegend: shown,
    line: { color: ink, dash, width: 1.4 },
    hoverinfo: 'skip',
    xaxis: axisName('x', place),
    yaxis: axisName('y', place),
  };
}

/** An interval for a hover box, ' [low, high]', or nothing. */
function ends(low, high) {
  return low === null || high === null ? '' : ` [${spelled(low, 3)}, ${spelled(high, 3)}]`;
}

const drawn = new Set();

/** Draw, or redraw, a chart; `label` is what it shows for readers who do not see it. */
function drawChart(id, traces, layout, { label, onClick }) {
  const div = byId(id);
  div.setAttribute('role', 'img');
  div.setAttribute('aria-label', label);
  if (!drawn.has(id)) div.replaceChildren();
  Plotly.react(div, traces, { ...layout, width: div.clientWidth || undefined }, CONFIG);
  if (!drawn.has(id) && onClick) div.on('plotly_click', onClick);
  drawn.add(id);
}

/** Put in place of a chart what is missing and the command that makes it. */
function showMissing(id, missing) {
  const div = byId(id);
  if (drawn.delete(id)) Plotly.purge(div);
  div.removeAttribute('aria-label');
  div.setAttribute('role', 'note');
  div.replaceChildren(...missingNotice(missing));
}

/** Where a layer chart is clicked, its layer is selected; a mark may name a whole cell. */
function selectLayer({ points }) {
  const cell = points.map((point) => point.data.meta).find(Boolean);
  const layer = Math.round(points[0].x);
  if (cell) choose(cell);
  else if (layersOf(currentRun()).includes(layer)) choose({ layer });
}

function missingNotice({ what, command }) {
  const said = element('p', { className: 'missing', textContent: `${what}.` });
  if (!command) return [said];
  return [said, element('pre', { className: 'command', tabIndex: 0, textContent: command })];
}

/** A new element with properties and children; strings become text. */
function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
