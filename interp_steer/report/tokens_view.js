/*
 * View 3: a stored trace token by token. Tint says on which side of the boundary a token's residual
 * arrived, brackets and underlines say what fired and what was capped. Tokens are written as text.
 */

const FLOATS = ['projection_before', 'projection_after', 'delta_norm', 'relative_norm', 'logprob'];
const FIXED = [
  'sample', 'scenario', 'side', 'turn', 'layer', 'method', 'direction', 'scope', 'alpha',
  'boundary', 'threshold', 'target', 'cap',
];
const rowsOf = new WeakMap();

/** The rows of one trace, decoded once. */
function traceRows(trace) {
  if (!rowsOf.has(trace)) {
    const floats = Object.fromEntries(FLOATS.map((name) => [name, decodeFloats(trace[name])]));
    const lines = new Set(trace.ends_line);
    const plain = ['pos', 'token_id', 'token', 'segment', 'in_scope', 'fired', 'capped'];
    const rows = trace.pos.map((_, i) => ({
      ...Object.fromEntries(plain.map((name) => [name, trace[name][i]])),
      ...Object.fromEntries(FLOATS.map((name) => [name, floats[name][i]])),
      moved: floats.projection_after[i] - floats.projection_before[i],
      endsLine: lines.has(i),
    }));
    rowsOf.set(trace, rows);
  }
  return rowsOf.get(trace);
}

/** The trace that is shown: the named one of the selected configuration, else its first. */
function shownTrace() {
  const found = selectedTraces();
  return found.find((trace) => trace.sample === selection.sample) ?? found[0] ?? null;
}

function shownRows() {
  const trace = shownTrace();
  return trace ? traceRows(trace) : [];
}

function configurationKey({ method, direction, layer, alpha, scope }) {
  return JSON.stringify([method, direction, layer, alpha, scope]);
}

function configurationText({ method, direction, layer, alpha, scope }) {
  const turned = direction === 'aligned' ? '' : `, ${direction}`;
  return `${methodTitle(method)}${turned}, layer ${layer}, α ${spelled(alpha)}, scope ${scope}`;
}

/** Options of a select from [value, text] pairs, with one of them chosen. */
function fillOptions(id, pairs, chosen) {
  const options = pairs.map(([value, text]) => new Option(text, value));
  byId(id).replaceChildren(...options);
  byId(id).value = chosen;
}

function fillTracePickers() {
  const all = currentRun().traces.traces;
  const kinds = new Map(all.map((trace) => [configurationKey(trace), trace]));
  const pairs = [...kinds].map(([key, trace]) => [key, configurationText(trace)]);
  const chosen = configurationKey(selection);
  if (!kinds.has(chosen)) pairs.unshift([chosen, `${configurationText(selection)} (no trace)`]);
  fillOptions('pick-configuration', pairs, chosen);
  const found = selectedTraces();
  const name = ({ scenario, side, turn }) => `${scenario}, ${side}${turn ? `, turn ${turn}` : ''}`;
  fillOptions('pick-sample', found.map((trace) => [trace.sample, name(trace)]), shownTrace()?.sample);
  byId('pick-sample').disabled = !found.length;
}

function traceCommand(run) {
  const { method, layer, alpha, scope } = selection;
  const what = `--method ${method} --layer ${layer} --alpha ${alpha} --scope ${scope}`;
  return `interp-steer trace ${run.path} ${what} --scenario ID --parquet ${run.path}/traces/NAME.parquet`;
}

function drawTokensView() {
  const run = currentRun();
  const trace = run.traces.here ? shownTrace() : null;
  byId('trace-view').hidden = !run.traces.here;
  byId('trace-missing').replaceChildren();
  if (!run.traces.here) {
    return byId('trace-missing').replaceChildren(...missingNotice(run.traces));
  }
  fillTracePickers();
  ['trace-line', 'trace-legend', 'table-controls', 'token-panel', 'token-strip'].forEach((id) => {
    byId(id).hidden = !trace;
  });
  byId('trace-table').parentElement.hidden = !trace;
  if (!trace) {
    const what = `There is no stored trace of ${configurationText(selection)}`;
    return byId('trace-missing').replaceChildren(
      ...missingNotice({ what, command: traceCommand(run) }),
      element('p', { className: 'note', textContent: 'Or choose a traced configuration:' }),
    );
  }
  describeTrace(run, trace);
  fillStrip(trace);
  const segments = [...new Set(trace.segment)];
  fillOptions('filter-segment', [['', 'any'], ...segments.map((name) => [name, name])], '');
  fillTraceTable(traceRows(trace));
  markToken();
}

function describeTrace(run, trace) {
  const rows = traceRows(trace);
  const covered = rows.filter((row) => row.in_scope).length;
  const fired = rows.filter((row) => row.fired);
  const moved = fired.reduce((sum, row) => sum + Math.abs(row.moved), 0) / fired.length;
  const limits = ['boundary', 'threshold', 'target', 'cap']
    .filter((name) => trace[name] !== null)
    .map((name) => `${name} ${spelled(trace[name])}`);
  const { scores } = trace;
  const said = [
    `${fired.length} of ${covered} tokens in scope fired, ${rows.filter((row) => row.capped).length} capped`,
    fired.length ? `mean |ρ′−ρ| of the fired ${spelled(moved)} a.u.` : '',
    limits.join(', '),
    scores ? `trait ${spelled(scores.trait, 3)}, coherence ${spelled(scores.coherence, 3)}` : '',
    run.traces.n_left_out
      ? `${run.traces.n_left_out} more traces are not in this page; they are in ${run.traces.folder}`
      : '',
  ];
  byId('trace-line').textContent = `${said.filter(Boolean).join('; ')}.`;
  byId('trace-legend').replaceChildren(...legend(trace));
}

/** The whole trace row in the panel; of the selected token unless another is named. */
function showRow(pos) {
  const trace = shownTrace();
  const row = trace && traceRows(trace).find((one) => one.pos === pos);
  if (!row) {
    const hint = 'Point at a token, or move to one with the arrow keys.';
    return byId('token-panel').replaceChildren(element('p', { className: 'note', textContent: hint }));
  }
  const number = (value) => (typeof value === 'number' ? spelled(value, 6) : value ?? '–');
  const flag = (value) => (value ? 'yes' : 'no');
  const own = { pos: row.pos, token_id: row.token_id, segment: row.segment };
  ['in_scope', 'fired', 'capped'].forEach((name) => Object.assign(own, { [name]: flag(row[name]) }));
  FLOATS.forEach((name) => Object.assign(own, { [name]: number(row[name]) }));
  FIXED.forEach((name) => Object.assign(own, { [name]: number(trace[name]) }));
  const pairs = Object.entries(own).flatMap(([name, value]) => [
    element('dt', { textContent: name }),
    element('dd', { textContent: value }),
  ]);
  byId('token-panel').replaceChildren(
    element('p', { className: 'token-name verbatim', textContent: row.token }),
    element('dl', {}, pairs),
  );
}

/** Mark the selected token in strip, panel and table. */
function markToken() {
  const spans = [...byId('token-strip').querySelectorAll('.token')];
  const chosen = spans.find((span) => Number(span.dataset.pos) === selection.pos);
  spans.forEach((span) => {
    span.setAttribute('aria-selected', String(span === chosen));
    span.tabIndex = -1;
  });
  const entry = chosen ?? spans[0];
  if (entry) entry.tabIndex = 0;
  showRow(selection.pos);
  markTableRow();
}

function startTokensView() {
  byId('pick-configuration').addEventListener('change', ({ target }) => {
    const [method, direction, layer, alpha, scope] = JSON.parse(target.value);
    choose({ method, direction, layer, alpha, scope });
  });
  byId('pick-sample').addEventListener('change', ({ target }) => choose({ sample: target.value, pos: null }));
  const strip = byId('token-strip');
  const posAt = (event) => {
    const span = event.target.closest('.token');
    return span && strip.contains(span) ? Number(span.dataset.pos) : null;
  };
  strip.addEventListener('pointerover', (event) => {
    if (posAt(event) !== null) showRow(posAt(event));
  });
  strip.addEventListener('pointerleave', () => showRow(selection.pos));
  strip.addEventListener('click', (event) => takeToken(posAt(event)));
  strip.addEventListener('focusin', (event) => takeToken(posAt(event)));
  strip.addEventListener('keydown', (event) => {
    const span = event.target.closest('.token');
    const next = span && tokenBeside(span, event.key);
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
  startTraceTable();
}

function takeToken(pos) {
  if (pos === null) return;
  choose({ pos });
  revealTableRow();
}
