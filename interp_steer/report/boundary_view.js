/*
 * View 2: boundary, strength and target as typed or dragged, what would fire and how far it would
 * move, and the charts of the same numbers.
 */

function askedLaw() {
  const { method, alpha, direction, threshold } = selection;
  return { method, alpha, direction, threshold };
}

/** Take what was typed: a value that the library would refuse is said and changes nothing. */
function proposeLaw(changes) {
  const probe = probeAt(selection.layer);
  const refusal = refusalOf(probe, { ...askedLaw(), ...changes }, DATA.cap_sigmas);
  byId('boundary-error').textContent = refusal ?? '';
  if (refusal === null) choose(changes);
}

function typed(id) {
  return byId(id).value.trim() === '' ? NaN : byId(id).valueAsNumber;
}

/** Show a number in a field that is not being typed in. */
function fill(id, value) {
  const field = byId(id);
  if (document.activeElement !== field) field.value = Number(value.toPrecision(7));
}

function startBoundaryView() {
  byId('set-threshold').addEventListener('input', () => proposeLaw({ threshold: typed('set-threshold') }));
  byId('set-alpha').addEventListener('input', () => proposeLaw({ alpha: typed('set-alpha') }));
  byId('set-target').addEventListener('input', () => {
    const probe = probeAt(selection.layer);
    proposeLaw({ alpha: alphaOfTarget(probe, typed('set-target'), selection.direction) });
  });
  byId('reset-threshold').addEventListener('click', () => proposeLaw({ threshold: null }));
  document.querySelectorAll('#boundary-controls input').forEach((field) => {
    field.addEventListener('blur', () => {
      byId('boundary-error').textContent = '';
      drawBoundaryView();
    });
  });
  startHandle(byId('threshold-handle'));
}

/** Pointer and arrow keys on the line of the boundary. */
function startHandle(handle) {
  handle.addEventListener('pointerdown', (event) => {
    handle.setPointerCapture(event.pointerId);
    event.preventDefault();
    handle.focus({ preventScroll: true });
  });
  handle.addEventListener('pointermove', (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const { left } = byId('histogram-chart').getBoundingClientRect();
    const { xaxis } = byId('histogram-chart')._fullLayout;
    const rho = xaxis.p2l(event.clientX - left - xaxis._offset);
    const [low, high] = xaxis.range;
    soon(() => proposeLaw({ threshold: roundedTo(Math.min(high, Math.max(low, rho)), high - low) }));
  });
  handle.addEventListener('keydown', (event) => {
    const { range } = byId('histogram-chart')._fullLayout.xaxis;
    const step = ((range[1] - range[0]) / 200) * (event.shiftKey ? 10 : 1);
    const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const now = selection.threshold ?? probeAt(selection.layer).boundary;
    proposeLaw({ threshold: roundedTo(now + moves[event.key], range[1] - range[0]) });
  });
}

/** A dragged place needs no more digits than a ten-thousandth of the axis. */
function roundedTo(value, length) {
  const unit = 10 ** Math.floor(Math.log10(length / 10000));
  return Number((Math.round(value / unit) * unit).toPrecision(12));
}

let pending = null;

/** Run `action` with the next frame; a later one replaces it. */
function soon(action) {
  if (pending === null) requestAnimationFrame(() => {
    const latest = pending;
    pending = null;
    latest();
  });
  pending = action;
}

/** Put the handle over the boundary's line, where the chart has it. */
function placeHandle(law) {
  const [handle, chart] = [byId('threshold-handle'), byId('histogram-chart')];
  const layout = chart._fullLayout;
  handle.hidden = law.threshold === null || !drawn.has('histogram-chart');
  if (handle.hidden) return;
  const { xaxis } = layout;
  const at = xaxis._offset + xaxis.l2p(law.threshold);
  handle.style.left = `${at}px`;
  handle.style.top = `${layout._size.t}px`;
  handle.style.height = `${layout._size.h}px`;
  handle.setAttribute('aria-valuenow', law.threshold);
  handle.setAttribute('aria-valuemin', xaxis.range[0]);
  handle.setAttribute('aria-valuemax', xaxis.range[1]);
  handle.setAttribute('aria-valuetext', `${spelled(law.threshold)} activation units`);
}

function fillControls(probe, law) {
  const isGated = law.threshold !== null;
  byId('set-threshold').disabled = !isGated;
  byId('reset-threshold').disabled = !isGated || selection.threshold === null;
  byId('target-label').hidden = law.target === null;
  fill('set-threshold', law.threshold ?? probe.boundary);
  fill('set-alpha', selection.alpha);
  if (law.target !== null) fill('set-target', law.target);
}

/** The rows of the effects table: who, its sets, what one value is. */
function effectRows() {
  return [
    ['aligned tokens', tokenSets('aligned')],
    ['malicious tokens', tokenSets('malicious')],
    ['aligned responses', pooledSets('aligned')],
    ['malicious responses', pooledSets('malicious')],
  ].filter(([, sets]) => count(sets));
}

function fillEffects(law) {
  const heads = ['', 'n', 'fire', 'capped', 'mean |ρ′−ρ|', 'over fired'];
  const rows = effectRows().map(([name, sets]) => {
    const found = effectsOf(law, sets);
    const cells = [
      found.n.toLocaleString('en'),
      percent(found.firedShare),
      percent(found.cappedShare),
      spelled(found.meanMove),
      spelled(found.meanMoveFired),
    ];
    const row = [
      element('th', { scope: 'row', textContent: name }),
      ...cells.map((text) => element('td', { textContent: text })),
    ];
    return element('tr', {}, row);
  });
  const head = heads.map((text) => element('th', { scope: 'col', textContent: text }));
  byId('effects-table').replaceChildren(
    element('thead', {}, [element('tr', {}, head)]),
    element('tbody', {}, rows),
  );
  byId('effects-note').replaceChildren(...effectsNote(law));
}

function effectsNote(law) {
  const { tokens, pooled } = currentRun();
  const said = [
    'Moves in activation units (a.u.), expected over the tokens in scope and over those that fire; a ' +
      'response counts by its mean projection. ',
    law.threshold === null ? 'SwFC has no gate: it moves every token in scope. ' : '',
    law.limit === null ? '' : `Cap: μ+ + ${DATA.cap_sigmas} σ+ = ${spelled(law.limit)}. `,
  ];
  if (tokens.here) said.push(`Tokens: training responses (${tokens.segments.join(', ')}). `);
  const missing = [tokens, pooled].filter((one) => !one.here);
  return [...said.filter(Boolean), ...missing.flatMap(missingNotice)];
}

function histogramNote() {
  const sampled = [...tokenSets('aligned'), ...tokenSets('malicious')].filter((set) => !set.exact);
  const most = DATA.most_values.toLocaleString('en');
  const said = ['a.u.: activation units. Shares of each group by bin.'];
  if (sampled.length) {
    said.push(
      `Of more than ${most} tokens a side this page holds ${most} evenly spaced quantiles; ` +
        'n is that of all tokens, shares and means are of the quantiles.',
    );
  }
  if (currentRun().traces.here && !selectedTraces().length) {
    said.push('No stored trace of this very configuration: no steered projections to show.');
  }
  return said.join(' ');
}

function drawBoundaryView() {
  const probe = probeAt(selection.layer);
  byId('boundary-controls').hidden = !probe;
  if (!probe) {
    byId('threshold-handle').hidden = true;
    return ['histogram-chart', 'transfer-chart'].forEach((id) => showMissing(id, currentRun().probes));
  }
  const law = lawOf(probe, askedLaw(), DATA.cap_sigmas);
  fillControls(probe, law);
  const numbers = [
    `m = ${spelled(probe.boundary)}`,
    `μ+ = ${spelled(probe.mu_pos)}, σ+ = ${spelled(probe.sigma_pos)}`,
    `μ− = ${spelled(probe.mu_neg)}, σ− = ${spelled(probe.sigma_neg)}`,
    `Δμ = ${spelled(probe.delta_mu)}`,
  ];
  byId('probe-line').textContent =
    `Layer ${probe.layer}, ${probe.hook}: ${numbers.join('; ')} (of response means)` +
    (probe.converged ? '' : '. The solver did not converge at this layer.');
  const span = drawHistograms(probe, law);
  byId('histogram-note').textContent = histogramNote();
  placeHandle(law);
  drawTransfer(probe, law, span);
  fillEffects(law);
}
