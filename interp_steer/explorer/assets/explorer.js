// What the explorer's page does by itself: theme and width for the figures, and the panel that follows
// pointer and keyboard over tokens. Texts of a run are only ever written with textContent.
(function () {
  "use strict";

  const COLUMNS = [
    "pos", "token", "token id", "segment", "in scope", "fired", "capped",
    "ρ before (a.u.)", "ρ after (a.u.)", "|Δh| (a.u.)", "|Δh| / |h|", "log p (nats)",
  ];
  const DRAWN_AFTER = 150; // milliseconds until a row that was scrolled to can be flashed

  const { theme, page } = window.interpSteerPage; // of ahead.js
  // A figure says every zoom and every change of its size. Only a moved line asks for something: a
  // question to the server makes Dash forget the answer to the one before it.
  function moved(relayout) {
    const isLine = Object.keys(relayout || {}).some((name) => name.startsWith("shapes["));
    return isLine ? relayout : window.dash_clientside.no_update;
  }
  window.dash_clientside = Object.assign({}, window.dash_clientside, { interpSteer: { moved } });

  let told = "";
  function tell() {
    const now = page();
    document.documentElement.dataset.theme = now.theme;
    const text = JSON.stringify(now);
    if (text !== told && window.dash_clientside && window.dash_clientside.set_props) {
      told = text;
      window.dash_clientside.set_props("screen", { data: now });
    }
  }

  function turn() {
    const next = theme() === "dark" ? "light" : "dark";
    try {
      window.localStorage.setItem("interp-steer-theme", next);
    } catch (error) {
      document.documentElement.dataset.theme = next;
    }
    tell();
  }

  function show(token) {
    const panel = document.getElementById("token-detail");
    const pane = token.closest(".tokens");
    if (!panel || !pane) return;
    const numbers = JSON.parse(token.dataset.row);
    const shared = JSON.parse(pane.dataset.shared);
    const list = document.createElement("dl");
    const pairs = COLUMNS.map((name, place) => [name, numbers[place]]).concat(
      Object.entries(shared).map(([name, value]) => [name.replaceAll("_", " "), value]),
    );
    for (const [name, value] of pairs) {
      const item = document.createElement("div");
      const term = document.createElement("dt");
      const meaning = document.createElement("dd");
      term.textContent = name;
      meaning.textContent = value;
      item.append(term, meaning);
      list.append(item);
    }
    panel.replaceChildren(list);
  }

  function tokenOf(event) {
    const target = event.target instanceof Element ? event.target : null;
    return target ? target.closest(".tok") : null;
  }

  function step(event) {
    const token = tokenOf(event);
    if (token && event.key === "Enter") point(token);
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!token || !(event.key in moves)) return;
    const tokens = Array.from(token.closest(".tokens").querySelectorAll(".tok"));
    const place = tokens.indexOf(token) + moves[event.key];
    const next = tokens[Math.min(tokens.length - 1, Math.max(0, place))];
    event.preventDefault();
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  // The token's row in the table below: scrolled to and flashed, where no filter hides it.
  function point(token) {
    if (!document.getElementById("token-grid") || !window.dash_ag_grid) return;
    const grid = window.dash_ag_grid.getApi("token-grid");
    if (!grid) return;
    const heading = token.closest(".tokens").getAttribute("aria-label").replace("tokens: ", "");
    const pos = Number(token.dataset.pos);
    grid.forEachNodeAfterFilterAndSort((node) => {
      if (node.data.pos !== pos || node.data.pane !== heading) return;
      grid.ensureNodeVisible(node, "middle");
      window.setTimeout(() => grid.flashCells({ rowNodes: [node] }), DRAWN_AFTER);
    });
  }

  let last = null; // the token that the page was last led to
  function lead() {
    const chosen = document.querySelector("#tokens-view:not([hidden]) .tok.chosen");
    if (!chosen) {
      last = null;
      return;
    }
    const name = chosen.dataset.pos + chosen.closest(".pane").textContent.slice(0, 200);
    if (name === last) return;
    last = name;
    chosen.scrollIntoView({ block: "center" });
    show(chosen);
  }

  document.documentElement.dataset.theme = theme();
  document.addEventListener("mouseover", (event) => {
    const token = tokenOf(event);
    if (token) show(token);
  });
  document.addEventListener("focusin", (event) => {
    const token = tokenOf(event);
    if (token) show(token);
  });
  document.addEventListener("keydown", step);
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (target && target.closest("#theme")) turn();
    const token = tokenOf(event);
    if (token) {
      token.focus();
      point(token);
    }
  });
  let pending = 0;
  window.addEventListener("resize", () => {
    window.clearTimeout(pending);
    pending = window.setTimeout(tell, 200);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);
  // Dash draws the page after this file has run; it is told as soon as its store is there.
  const watch = new MutationObserver(() => {
    if (document.getElementById("page")) tell();
    lead();
  });
  watch.observe(document.documentElement, { childList: true, subtree: true });
})();
