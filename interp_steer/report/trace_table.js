/*
 * View 3, table: the rows of one trace, sorted and filtered; clicking a row selects its token.
 */

const COLUMNS = [
  { name: 'pos', title: 'pos' },
  { name: 'token', title: 'token', text: true },
  { name: 'segment', title: 'segment', text: true },
  { name: 'in_scope', title: 'in scope', flag: true },
  { name: 'projection_before', title: 'ρ before' },
  { name: 'projection_after', title: 'ρ′ after' },
  { name: 'moved', title: 'ρ′−ρ' },
  { name: 'fired', title: 'fired', flag: true },
  { name: 'capped', title: 'capped', flag: true },
  { name: 'delta_norm', title: '|Δh|' },
  { name: 'relative_norm', title: '|Δh|/|h|' },
  { name: 'logprob', title: 'log p' },
];

const sorting = { column: 'pos', descending: false };

/** Compare two rows by the sorted column; missing values come last either way. */
function byColumn(a, b) {
  const { column, descending } = sorting;
  const [left, right] = descending ? [b, a] : [a, b];
  const [x, y] = [left[column], right[column]];
  if (Number.isNaN(a[column]) || Number.isNaN(b[column])) {
    return Number.isNaN(a[column]) - Number.isNaN(b[column]) || a.pos - b.pos;
  }
  const order = typeof x === 'string' ? x.localeCompare(y) : x - y;
  return order || a.pos - b.pos;
}

function passes(row) {
  const wanted = byId('filter-text').value.toLowerCase();
  const segment = byId('filter-segment').value;
  return (
    row.token.toLowerCase().includes(wanted) &&
    (!segment || row.segment === segment) &&
    (!byId('filter-fired').checked || row.fired === 1)
  );
}

function cellText(row, { name, text, flag }) {
  if (flag) return row[name] ? 'yes' : '';
  return text ? row[name] : spelled(row[name]);
}

function fillTraceTable(rows) {
  const shown = rows.filter(passes).sort(byColumn);
  byId('filter-count').textContent = `${shown.length} of ${rows.length} tokens`;
  const body = element('tbody', {}, shown.map(tableRow));
  byId('trace-table').replaceChildren(element('thead', {}, [headRow()]), body);
  markTableRow();
}

function headRow() {
  const heads = COLUMNS.map(({ name, title, text, flag }) => {
    const button = element('button', { type: 'button', textContent: title });
    button.dataset.column = name;
    button.addEventListener('click', () => sortBy(name));
    const head = element('th', { scope: 'col', className: text || flag ? 'text' : '' }, [button]);
    if (sorting.column === name) {
      head.setAttribute('aria-sort', sorting.descending ? 'descending' : 'ascending');
    }
    return head;
  });
  return element('tr', {}, heads);
}

function sortBy(column) {
  sorting.descending = sorting.column === column && !sorting.descending;
  sorting.column = column;
  fillTraceTable(shownRows());
  byId('trace-table').querySelector(`[data-column="${column}"]`).focus({ preventScroll: true });
}

function tableRow(row) {
  const cells = COLUMNS.map((column) => {
    const cell = element('td', { textContent: cellText(row, column) });
    cell.className = column.text || column.flag ? 'text' : '';
    if (column.name === 'token') cell.classList.add('verbatim');
    return cell;
  });
  const made = element('tr', {}, cells);
  made.dataset.pos = row.pos;
  return made;
}

/** Mark the selected token's row and let the keyboard in there. */
function markTableRow() {
  const rows = [...byId('trace-table').querySelectorAll('tbody tr')];
  const chosen = rows.find((row) => Number(row.dataset.pos) === selection.pos);
  rows.forEach((row) => {
    row.classList.toggle('selected', row === chosen);
    row.setAttribute('aria-selected', String(row === chosen));
    row.tabIndex = -1;
  });
  const entry = chosen ?? rows[0];
  if (entry) entry.tabIndex = 0;
}

/** Scroll the table, and nothing else, to the selected row. */
function revealTableRow() {
  const row = byId('trace-table').querySelector('tr.selected');
  const box = byId('trace-table').parentElement;
  if (!row) return;
  const head = byId('trace-table').tHead.offsetHeight;
  const isAbove = row.offsetTop - head < box.scrollTop;
  const isBelow = row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight;
  if (isAbove || isBelow) box.scrollTop = row.offsetTop - box.clientHeight / 2;
}

function startTraceTable() {
  const table = byId('trace-table');
  table.addEventListener('click', (event) => {
    const row = event.target.closest('tbody tr');
    if (row) choose({ pos: Number(row.dataset.pos) });
  });
  table.addEventListener('keydown', (event) => {
    const row = event.target.closest('tbody tr');
    const sibling = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key];
    const next = row && sibling && row[sibling];
    if (!next) return;
    event.preventDefault();
    choose({ pos: Number(next.dataset.pos) });
    next.focus({ preventScroll: true });
    revealTableRow();
  });
  ['filter-text', 'filter-segment', 'filter-fired'].forEach((id) =>
    byId(id).addEventListener('input', () => fillTraceTable(shownRows())),
  );
}
