// Draws the first figure while Dash is still being read, and takes it away once Dash has drawn its own.
// Also where the page's theme and width are told: explorer.js, which runs later, asks here.
(function () {
  "use strict";

  const WIDTH_STEP = 40; // pixels: figures are laid out anew when the window has changed by so much
  const PLACE = "layers-readability-place"; // where Dash puts the same figure

  function theme() {
    let kept = null;
    try {
      kept = window.localStorage.getItem("interp-steer-theme");
    } catch (error) {
      kept = null; // storage may be switched off
    }
    if (kept === "dark" || kept === "light") return kept;
    return window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  function page() {
    const width = document.documentElement.clientWidth;
    return { theme: theme(), width: Math.max(320, Math.floor(width / WIDTH_STEP) * WIDTH_STEP) };
  }

  window.interpSteerPage = { theme, page };
  document.documentElement.dataset.theme = theme();

  const asked = document.currentScript.dataset.figure;
  const plotly = new Promise((resolve, reject) => {
    const script = document.getElementById("plotly-js");
    if (window.Plotly) resolve(window.Plotly);
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", reject);
  });
  const parsed = new Promise((resolve) => {
    if (document.getElementById("ahead")) resolve();
    document.addEventListener("DOMContentLoaded", resolve);
    const watch = new MutationObserver(() => {
      if (!document.getElementById("ahead")) return;
      watch.disconnect();
      resolve();
    });
    watch.observe(document.documentElement, { childList: true, subtree: true });
  });

  async function figure() {
    const now = page();
    const query = new URLSearchParams({ search: window.location.search, theme: now.theme, width: now.width });
    const answer = await fetch(`${asked}?${query}`);
    return answer.status === 200 ? answer.json() : null;
  }

  // Follow Dash: into its page as soon as there is one, away as soon as its own figure is there.
  function follow(ahead) {
    const watch = new MutationObserver(() => {
      const place = document.getElementById("ahead-place");
      if (place && ahead.parentElement !== place) place.append(ahead);
      const own = document.getElementById(PLACE);
      if (!own || !(own.querySelector(".trace") || own.querySelector(".message"))) return;
      watch.disconnect();
      if (window.Plotly) window.Plotly.purge(ahead);
      ahead.remove();
    });
    watch.observe(document.documentElement, { childList: true, subtree: true });
  }

  async function draw() {
    const [drawn, Plotly] = await Promise.all([figure(), plotly, parsed]);
    const ahead = document.getElementById("ahead");
    if (!ahead) return; // Dash was faster
    follow(ahead);
    if (drawn) await Plotly.newPlot(ahead, drawn.data, drawn.layout, { displayModeBar: false, responsive: true });
  }

  draw().catch(() => {
    const ahead = document.getElementById("ahead");
    if (ahead) ahead.remove(); // what went wrong Dash's page says in words
  });
})();
