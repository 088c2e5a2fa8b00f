/*
 * View 3, strip: the tokens of one trace, tinted and marked, and the way of the arrow keys through
 * them. A token is written as text, whatever it holds.
 */

/** What tints and marks mean. */
function legend(trace) {
  const tinted = (step) => element('span', { className: 'token', textContent: ' \u00a0 ' });
  const scale = [];
  for (let step = -DATA.n_steps; step <= DATA.n_steps; step += 1) {
    const swatch = tinted(step);
    swatch.dataset.step = step;
    if (step) scale.push(swatch);
  }
  const marks = ['fired', 'capped'].map((mark) => {
    const [open, close] = DATA.marks[mark];
    const shown = element('span', { className: 'token', textContent: `${open}${mark}${close}` });
    shown.dataset.mark = mark;
    return shown;
  });
  const width = `±${spelled(trace.scale, 3)} a.u.`;
  return [
    'ρ before the edit: below m ', ...scale, ` above m (full tint at ${width}) · `,
    marks[0], ' the gate let the method act · ', marks[1], ' and the cap shortened the move',
  ];
}

/** Tint of a token, in steps to either side of the boundary; 0 without a projection. */
function stepOf(row, trace) {
  const distance = (row.projection_before - trace.boundary) / trace.scale;
  if (!Number.isFinite(distance)) return 0;
  const size = Math.min(DATA.n_steps, Math.ceil(Math.abs(distance) * DATA.n_steps));
  return distance > 0 ? size : -size;
}

function markOf(row) {
  return row.capped ? 'capped' : row.fired ? 'fired' : 'none';
}

function fillStrip(trace) {
  const lines = [];
  let segment = null;
  for (const row of traceRows(trace)) {
    if (row.segment !== segment) {
      segment = row.segment;
      const tokens = element('div', { className: 'run' });
      const label = element('span', { className: 'segment', textContent: segment });
      const group = element('div', { className: 'line' }, [label, tokens]);
      group.setAttribute('role', 'group');
      group.setAttribute('aria-label', segment);
      lines.push(group);
    }
    const run = lines[lines.length - 1].lastChild;
    run.append(tokenSpan(row, trace));
    if (row.endsLine) run.append(element('br'));
  }
  byId('token-strip').replaceChildren(...lines);
}

function tokenSpan(row, trace) {
  const mark = markOf(row);
  const [open, close] = DATA.marks[mark];
  const span = element('span', { className: 'token', textContent: open + row.token + close });
  span.setAttribute('role', 'option');
  span.setAttribute('aria-label', `${row.token}, position ${row.pos}${mark === 'none' ? '' : `, ${mark}`}`);
  span.dataset.pos = row.pos;
  span.dataset.step = stepOf(row, trace);
  span.dataset.mark = mark;
  return span;
}

/** The token on the line above or below that stands nearest. */
function tokenAcross(span, down) {
  const here = span.getBoundingClientRect();
  const middle = here.left + here.width / 2;
  const spans = [...byId('token-strip').querySelectorAll('.token')].map((one) => {
    const box = one.getBoundingClientRect();
    return { one, top: box.top, off: Math.abs(box.left + box.width / 2 - middle) };
  });
  const beyond = spans.filter(({ top }) => (down ? top > here.bottom - 4 : top < here.top - 4));
  if (!beyond.length) return null;
  const line = down ? Math.min(...beyond.map((s) => s.top)) : Math.max(...beyond.map((s) => s.top));
  const near = beyond.filter(({ top }) => Math.abs(top - line) < 4);
  return near.reduce((a, b) => (b.off < a.off ? b : a)).one;
}

function tokenBeside(span, key) {
  const spans = [...byId('token-strip').querySelectorAll('.token')];
  const place = spans.indexOf(span);
  const found = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: spans.length - 1 }[key];
  if (found !== undefined) return spans[found];
  return ['ArrowUp', 'ArrowDown'].includes(key) ? tokenAcross(span, key === 'ArrowDown') : null;
}
