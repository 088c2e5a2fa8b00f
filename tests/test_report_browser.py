"""The report in a real browser: its laws are Python's, its views follow one selection.

Every page is opened from disk with the network shut; a console error or warning fails the test.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp_steer.interventions import move
from interp_steer.model import HookedLM
from interp_steer.plots.sources import RunSource
from interp_steer.plots.token_scopes import scope_mask
from interp_steer.probes import LayerProbe
from interp_steer.report import write_report
from interp_steer.runs import Run
from interp_steer.specs import SteeringSpec, resolve
from interp_steer.trace_blocks import make_visible
from report_cases import HOSTILE, copied, plant_hostile, small_run

pytest_plugins = ("browser",)
pytestmark = pytest.mark.slow

SAME = 1e-5
"""Relative: embedded projections are float32 (6e-8), the arithmetic float64 on both sides."""
PATIENCE = 60.0
"""Seconds; cores may be shared."""
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Run:
    return small_run(tmp_path_factory.mktemp("browser"), tiny_lm, tiny_dir)


@pytest.fixture(scope="module")
def page_file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two traits, the second a copy of the first under another name."""
    folder = tmp_path_factory.mktemp("two")
    copied(run, folder / "a")
    copied(run, folder / "b", trait="compassion")
    return write_report(folder, folder / "report.html")


@pytest.fixture(scope="module")
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """One page for the tests that only choose: opening it anew takes seconds."""
    one = browser.open(page_file)
    yield one
    one.close()


@pytest.fixture
def page(opened: Any) -> Iterator[Any]:
    """The shared page as it is when opened; afterwards it must not have complained."""
    resize(opened.page, 1400)
    opened.page.emulate_media(color_scheme="light")
    show(opened.page, "")
    yield opened.page
    assert opened.complaints == []


def show(page: Any, fragment: str) -> Any:
    """Follow a link within the open page, with sorting and filters as at the start."""
    page.evaluate(
        """fragment => {
          Object.assign(sorting, {column: 'pos', descending: false});
          byId('filter-text').value = '';
          byId('filter-fired').checked = false;
          byId('boundary-error').textContent = '';
          document.activeElement.blur();
          clearTimeout(remembering);
          history.replaceState(null, '', `#${fragment}`);
          readAddress();
        }""",
        fragment,
    )
    return page


def until(page: Any, condition: str) -> None:
    """Wait for a condition (playwright's own waiting evaluates text, which the page forbids)."""
    end = time.monotonic() + PATIENCE
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never true: {condition}"
        page.wait_for_timeout(50)


def resize(page: Any, width: int) -> None:
    """Give the window another width, and wait until the page has it."""
    page.set_viewport_size({"width": width, "height": 1000})
    until(page, f"innerWidth === {width}")


def fragment_of(page: Any) -> dict[str, str]:
    """What the address bar says once the selection rests."""
    until(page, "location.hash === fragmentOf(selection)")
    pairs = page.evaluate("[...new URLSearchParams(location.hash.slice(1))]")
    return dict(pairs)


def selected(page: Any) -> dict[str, Any]:
    return page.evaluate("({...selection})")


def at(page_file: Path, fragment: str) -> str:
    return f"{page_file.resolve().as_uri()}#{fragment}"


class TestLaws:
    @pytest.mark.parametrize("direction", ["aligned", "reversed"])
    @pytest.mark.parametrize(
        ("method", "alphas"),
        [("swfc", (0, 1, 4.5)), ("sttp", (-2, 0, 6, 36)), ("stmp", (0, 0.5, 1, 3, 500))],
    )
    def test_shifts_and_effects_are_those_of_the_hooks(
        self, page: Any, run: Run, method: str, alphas: tuple[float, ...], direction: str
    ) -> None:
        source = RunSource(run)
        for probe in source.probes.probes:
            for scope in ("all", "response", "first:2"):
                rho = tokens(source, probe.layer, scope)
                places = thresholds(method, probe, direction, rho["malicious"])
                asked = [
                    {"method": method, "alpha": a, "direction": direction, "threshold": t}
                    for a in alphas
                    for t in places
                ]
                found = in_browser(page, probe.layer, scope, asked)
                for one, shown in zip(asked, found, strict=True):
                    compare(shown, probe, rho, one)

    def test_every_branch_of_the_laws_was_entered(self, page: Any, run: Run) -> None:
        source = RunSource(run)
        probe = source.probes.probes[0]
        place = float(np.quantile(tokens(source, probe.layer, "all")["malicious"], 0.9))
        asked = {"method": "stmp", "alpha": 500, "direction": "aligned", "threshold": place}
        (found,) = in_browser(page, probe.layer, "all", [asked])
        moved = found["sides"]["malicious"]
        kinds = set(zip(moved["fired"], moved["capped"], strict=True))
        assert {(False, False), (True, True)} <= kinds

    def test_a_planted_error_would_be_seen(self, page: Any, run: Run) -> None:
        source = RunSource(run)
        probe = source.probes.probes[0]
        asked = {"method": "sttp", "alpha": 6, "direction": "aligned", "threshold": None}
        planted = asked | {"alpha": 6 * (1 + 1e-4)}
        (found,) = in_browser(page, probe.layer, "all", [planted])
        with pytest.raises(AssertionError):
            compare(found, probe, tokens(source, probe.layer, "all"), asked)

    def test_what_the_library_refuses_the_page_refuses(self, page: Any) -> None:
        show(page, "method=stmp&alpha=1")
        page.fill("#set-alpha", "-1")
        assert "must not be negative" in page.inner_text("#boundary-error")
        page.fill("#set-alpha", "")
        assert "must be a number" in page.inner_text("#boundary-error")
        page.fill("#set-alpha", "2")
        assert page.inner_text("#boundary-error") == ""
        page.fill("#set-threshold", "1e9")
        assert "beyond the cap" in page.inner_text("#boundary-error")
        assert selected(page) | {"alpha": 2, "threshold": None} == selected(page)


IN_BROWSER = """([layer, scope, every]) => JSON.stringify(every.map((asked) => {
  Object.assign(selection, {layer, scope});
  const law = lawOf(probeAt(layer), asked, DATA.cap_sigmas);
  const sides = Object.fromEntries(['aligned', 'malicious'].map((side) => {
    const sets = tokenSets(side);
    const values = sets.flatMap((set) => [...set.values]).sort((a, b) => a - b);
    const moves = values.map((rho) => moveOf(law, rho));
    const column = (name) => moves.map((one) => one[name]);
    const columns = {shift: column('shift'), fired: column('fired'), capped: column('capped')};
    return [side, {...columns, effects: effectsOf(law, sets)}];
  }));
  const {threshold, target, limit} = law;
  return {threshold, target, limit, sides};
}))"""


def in_browser(page: Any, layer: int, scope: str, every: list[dict[str, Any]]) -> list[Any]:
    """What the page makes of some laws, on its own projections of one layer and scope."""
    return json.loads(page.evaluate(IN_BROWSER, [layer, scope, every]))


def tokens(source: RunSource, layer: int, scope: str) -> dict[str, np.ndarray]:
    """Rising projections of the tokens in scope, float32 as stored."""
    names = ["scenario", "side", "response_index", "pos", "segment", "projection"]
    frame = source.projections(names, [("layer", "==", layer)])
    frame = frame[scope_mask(frame, scope)]
    return {
        side: np.sort(frame.projection[frame.side == side].to_numpy(np.float64))
        for side in ("aligned", "malicious")
    }


def thresholds(
    method: str, probe: LayerProbe, direction: str, rho: np.ndarray
) -> list[float | None]:
    """The boundary, and two places among the tokens (on the allowed side of the cap)."""
    if method == "swfc":
        return [None]
    centre, spread = (
        (probe.mu_pos, probe.sigma_pos)
        if direction == "aligned"
        else (probe.mu_neg, -probe.sigma_neg)
    )
    cap = centre + 40 * spread
    places = [float(np.quantile(rho, share)) for share in (0.2, 0.9)]
    return [None, *(x for x in places if method == "sttp" or (cap - x) * np.sign(spread) > 0)]


def compare(
    found: dict[str, Any],
    probe: LayerProbe,
    rho: dict[str, np.ndarray],
    asked: dict[str, Any],
) -> None:
    """Hold the browser's numbers against `resolve` and `move`."""
    place = asked["threshold"]
    gate = "boundary" if place is None else ("value", place)
    spec = SteeringSpec(layer=probe.layer, **asked | {"threshold": gate})
    resolved = resolve(spec, probe)
    for name, value in (("threshold", resolved.threshold), ("target", resolved.target)):
        assert found[name] == (None if value is None else pytest.approx(value, rel=SAME))
    if resolved.cap is not None:
        assert found["limit"] == pytest.approx(resolved.cap, rel=SAME)
    for side, values in rho.items():
        moved = move(resolved.sign * torch.from_numpy(values), resolved.law)
        shift = resolved.sign * moved.shift.numpy()
        shown = found["sides"][side]
        size = float(np.abs(shift).max(initial=0.0)) or 1.0
        assert np.allclose(shown["shift"], shift, rtol=SAME, atol=SAME * size)
        assert shown["fired"] == moved.fired.tolist()
        assert shown["capped"] == moved.capped.tolist()
        effects = shown["effects"]
        fired = moved.fired.numpy()
        assert effects["n"] == len(values)
        assert effects["firedShare"] == pytest.approx(fired.mean(), rel=SAME)
        assert effects["cappedShare"] == pytest.approx(moved.capped.double().mean().item())
        assert effects["meanMove"] == pytest.approx(np.abs(shift).mean(), rel=SAME)
        if fired.any():
            expected = np.abs(shift[fired]).mean()
            assert effects["meanMoveFired"] == pytest.approx(expected, rel=SAME)
        else:
            assert effects["meanMoveFired"] is None


class TestSelection:
    def test_from_a_layer_to_its_boundary_and_its_tokens(self, page: Any, run: Run) -> None:
        traced = page.evaluate("DATA.runs[0].traces.traces[0]")
        other = 1 - traced["layer"]
        page.select_option("#pick-method", traced["method"])
        page.select_option("#pick-scope", traced["scope"])
        page.click(f"#layer-table button[data-layer='{other}']")
        assert f"blocks.{other}.hook_resid_post" in page.inner_text("#probe-line")
        assert page.evaluate("document.activeElement.dataset.layer") == str(other)
        page.click("#go-to-point")
        probe = RunSource(run).probe_layer(traced["layer"])
        said = page.inner_text("#probe-line")
        assert f"m = {spelled(page, probe.boundary)}" in said
        histogram = page.inner_text("#histogram-chart")
        assert f"blocks.{traced['layer']}.hook_resid_post" in histogram
        shown = page.locator("#token-strip .token").count()
        assert shown == len(traced["pos"])
        assert fragment_of(page)["layer"] == str(traced["layer"])

    def test_a_click_in_a_chart_selects_its_layer(self, page: Any) -> None:
        show(page, "layer=1")
        for chart in ("readability-chart", "sweep-chart"):
            for layer in (0, 1):
                # The toolbar sticks to the top and would take the click.
                page.evaluate("id => byId(id).scrollIntoView({block: 'center'})", chart)
                spot = page.evaluate(
                    """([id, layer]) => {
                      const chart = byId(id), {xaxis, yaxis} = chart._fullLayout;
                      const {left, top} = chart.getBoundingClientRect();
                      const trace = chart.data.find((one) => one.mode === 'lines+markers');
                      const y = trace.y[trace.x.indexOf(layer)];
                      return [left + xaxis._offset + xaxis.l2p(layer),
                              top + yaxis._offset + yaxis.l2p(y)];
                    }""",
                    [chart, layer],
                )
                page.wait_for_timeout(400)  # sooner, plotly takes the click for a double one
                page.mouse.move(*spot)
                page.mouse.click(*spot)
                until(page, f"selection.layer === {layer}")
                pressed = page.locator("#layer-table button[aria-pressed=true]")
                assert pressed.inner_text() == f"layer {layer}"

    def test_a_fragment_restores_the_selection_after_reload(self, page: Any) -> None:
        page.select_option("#pick-run", label="compassion")
        page.select_option("#pick-method", "stmp")
        page.select_option("#pick-scope", "response")
        page.click("#go-to-point")
        page.locator("#token-strip .token").nth(3).click()
        page.fill("#set-threshold", "0.125")
        page.select_option("#pick-theme", "dark")
        before, said = selected(page), fragment_of(page)
        assert said["trait"] == "compassion" and said["threshold"] == "0.125"
        page.reload()
        assert selected(page) == before
        assert page.input_value("#set-threshold") == "0.125"
        assert page.input_value("#pick-run") == "1"
        assert page.get_attribute("html", "data-theme") == "dark"
        marked = page.locator("#token-strip .token[aria-selected=true]")
        assert marked.get_attribute("data-pos") == str(before["pos"])

    def test_a_link_to_what_is_not_there_is_said_and_runs_nothing(
        self, open_page: Open, page_file: Path
    ) -> None:
        hostile = "layer=99&method=%3Cimg src=x onerror=alert(1)%3E&alpha=x&scope=__proto__"
        page = open_page(at(page_file, f"trait=nobody&{hostile}&pos=1.5")).page
        said = page.inner_text("#status")
        assert "layer “99”" in said and "<img src=x onerror=alert(1)>" in said
        assert "trait “nobody”" in said and "scope “__proto__”" in said
        assert page.locator("img").count() == 0
        assert selected(page)["layer"] in (0, 1)
        assert page.locator("#histogram-chart .main-svg").count() > 0

    def test_an_edited_fragment_moves_an_open_page(self, page: Any) -> None:
        show(page, "layer=0")
        page.evaluate("location.hash = '#layer=1&method=swfc&alpha=2&scope=response'")
        until(page, "selection.layer === 1 && selection.method === 'swfc'")
        assert page.input_value("#pick-scope") == "response"
        assert page.is_disabled("#set-threshold")


def spelled(page: Any, value: float) -> str:
    return page.evaluate("value => spelled(value)", value)


class TestBoundary:
    def test_what_fires_follows_the_typed_boundary_at_once(self, page: Any, run: Run) -> None:
        show(page, "method=sttp&layer=0&alpha=0&scope=response")
        rho = tokens(RunSource(run), 0, "response")
        place = float(np.round(np.quantile(rho["aligned"], 0.3), 3))
        page.fill("#set-threshold", str(place))
        for row, side in enumerate(("aligned", "malicious")):
            cells = page.locator("#effects-table tbody tr").nth(row).locator("td")
            share = 100 * (rho[side].astype(np.float32) < place).mean()
            assert cells.nth(0).inner_text() == f"{len(rho[side]):,}"
            assert float(cells.nth(1).inner_text().removesuffix(" %")) == pytest.approx(
                share, rel=5e-3
            )
        took = page.evaluate(
            """() => Array.from({length: 3}, () => {
              const started = performance.now();
              choose({threshold: selection.threshold + 0.01});
              return performance.now() - started;
            })"""
        )
        assert min(took) < 1000  # a bound for shared cores, not a measurement

    def test_target_and_alpha_are_one_number(self, page: Any, run: Run) -> None:
        show(page, "method=sttp&layer=1&alpha=3")
        probe = RunSource(run).probe_layer(1)
        target = float(page.input_value("#set-target"))
        assert target == pytest.approx(probe.mu_pos + 3 * probe.sigma_pos, rel=1e-6)
        page.fill("#set-target", str(probe.mu_pos + 5 * probe.sigma_pos))
        assert float(page.input_value("#set-alpha")) == pytest.approx(5, rel=1e-6)
        assert selected(page)["alpha"] == pytest.approx(5, rel=SAME)
        page.select_option("#pick-method", "stmp")
        assert page.is_hidden("#set-target")

    def test_the_line_is_dragged_and_walked_with_the_keyboard(self, page: Any, run: Run) -> None:
        show(page, "method=sttp&layer=0&alpha=0&scope=all")
        page.evaluate("byId('threshold-handle').scrollIntoView({block: 'center'})")
        box = page.locator("#threshold-handle").bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + 40)
        boundary = RunSource(run).probe_layer(0).boundary
        assert selected(page)["threshold"] is None
        page.mouse.move(*middle)
        page.mouse.down()
        page.mouse.move(middle[0] + 60, middle[1], steps=4)
        page.mouse.up()
        until(page, "pending === null && selection.threshold !== null")  # the last move was drawn
        dragged = selected(page)["threshold"]
        per_pixel = page.evaluate(
            """() => { const {xaxis} = byId('histogram-chart')._fullLayout;
                       return (xaxis.range[1] - xaxis.range[0]) / xaxis._length; }"""
        )
        assert dragged == pytest.approx(boundary + 60 * per_pixel, abs=1.5 * per_pixel)
        moved = page.locator("#threshold-handle").bounding_box()
        assert moved["x"] - box["x"] == pytest.approx(60, abs=2)
        page.keyboard.press("ArrowLeft")
        assert selected(page)["threshold"] < dragged
        page.click("#reset-threshold")
        assert selected(page)["threshold"] is None

    def test_steered_tokens_are_shown_where_a_trace_is_stored(self, page: Any) -> None:
        show(page, "method=sttp&scope=all")
        page.click("#go-to-point")
        assert "tokens of the stored traces" in page.inner_text("#histogram-chart")
        page.fill("#set-alpha", "7.25")
        assert "tokens of the stored traces" not in page.inner_text("#histogram-chart")
        assert "No stored trace" in page.inner_text("#histogram-note")
        assert "There is no stored trace of StTP" in page.inner_text("#trace-missing")
        assert "interp-steer trace" in page.inner_text("#trace-missing")
        assert "α = 7.25 was not run" in page.inner_text("#sweep-note")


class TestTokens:
    def test_strip_panel_and_table_show_one_token(self, page: Any) -> None:
        strip, table = page.locator("#token-strip .token"), page.locator("#trace-table tbody tr")
        strip.nth(4).click()
        chosen = page.locator("#trace-table tr.selected")
        assert chosen.get_attribute("data-pos") == strip.nth(4).get_attribute("data-pos")
        table.nth(2).click()
        assert strip.nth(2).get_attribute("aria-selected") == "true"
        assert page.locator("#token-strip .token[aria-selected=true]").count() == 1
        strip.nth(7).hover()
        rows = dict(zip(*panel(page), strict=True))
        assert rows["pos"] == strip.nth(7).get_attribute("data-pos")
        columns = {"sample", "scenario", "side", "turn", "pos", "token_id", "segment", "layer"}
        columns |= {"method", "direction", "scope", "alpha", "in_scope", "projection_before"}
        columns |= {"projection_after", "boundary", "threshold", "target", "cap", "fired"}
        columns |= {"capped", "delta_norm", "relative_norm", "logprob"}
        assert set(rows) == columns

    def test_arrow_keys_walk_the_strip_and_the_table(self, page: Any) -> None:
        assert page.locator("#token-strip .token[tabindex='0']").count() == 1
        page.focus("#token-strip .token[tabindex='0']")
        first = selected(page)["pos"]
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert selected(page)["pos"] == first + 2
        page.keyboard.press("ArrowDown")
        below = selected(page)["pos"]
        assert below > first + 2
        page.keyboard.press("ArrowUp")
        assert selected(page)["pos"] < below
        page.keyboard.press("End")
        assert selected(page)["pos"] == page.evaluate("Math.max(...shownTrace().pos)")
        page.keyboard.press("Home")
        assert selected(page)["pos"] == first
        page.focus("#trace-table tbody tr[tabindex='0']")
        page.keyboard.press("ArrowDown")
        assert selected(page)["pos"] == first + 1

    def test_the_table_sorts_and_filters(self, page: Any) -> None:
        show(page, "method=sttp&scope=all")
        page.click("#go-to-point")
        page.click("#trace-table [data-column=projection_before]")
        column = page.locator("#trace-table tbody td:nth-child(5)").all_inner_texts()
        values = [float(text.replace("−", "-")) for text in column]
        assert values == sorted(values) and len(set(values)) > 2
        assert page.get_attribute("#trace-table th[aria-sort]", "aria-sort") == "ascending"
        page.click("#trace-table [data-column=projection_before]")
        column = page.locator("#trace-table tbody td:nth-child(5)").all_inner_texts()
        assert [float(text.replace("−", "-")) for text in column] == sorted(values, reverse=True)
        page.check("#filter-fired")
        fired = page.evaluate("shownRows().filter((row) => row.fired).length")
        assert page.locator("#trace-table tbody tr").count() == fired > 0
        page.uncheck("#filter-fired")
        page.select_option("#filter-segment", "response")
        segments = page.locator("#trace-table tbody td:nth-child(3)").all_inner_texts()
        assert set(segments) == {"response"}
        page.fill("#filter-text", "no such token")
        assert page.locator("#trace-table tbody tr").count() == 0
        assert page.inner_text("#filter-count").startswith("0 of ")

    def test_hostile_tokens_are_text(self, open_page: Open, run: Run, tmp_path: Path) -> None:
        bad = copied(run, tmp_path / "bad", trait="<script>window.hacked = 9</script>")
        plant_hostile(bad)
        page = open_page(write_report(bad.path, tmp_path / "report.html")).page
        shown = page.locator("#token-strip .token").all_text_contents()
        bare = {re.sub("^[⟦⟪]|[⟧⟫]$", "", text) for text in shown}
        assert bare <= {make_visible(token) for token in HOSTILE} and len(bare) > 5
        for place in range(len(HOSTILE)):
            page.locator("#token-strip .token").nth(place).click()
            name = page.locator("#token-panel .token-name").text_content()
            assert name == make_visible(HOSTILE[place])
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script").count() == 0
        assert "<script>" in page.inner_text("#heading")
        capped = page.locator("#token-strip .token[data-mark=capped]")
        assert capped.first.text_content().startswith("⟪")

    def test_marks_do_not_rest_on_colour(self, page: Any) -> None:
        fired = page.locator("#token-strip .token[data-mark=fired]").all_text_contents()
        others = page.locator("#token-strip .token[data-mark=none]").all_text_contents()
        assert fired and all(text[0] == "⟦" and text[-1] == "⟧" for text in fired)
        assert not any("⟦" in text for text in others)


def panel(page: Any) -> tuple[list[str], list[str]]:
    """Names and values of the row in the panel."""
    return (
        page.locator("#token-panel dt").all_inner_texts(),
        page.locator("#token-panel dd").all_inner_texts(),
    )


class TestThePage:
    def test_every_view_is_drawn(self, page: Any) -> None:
        for chart in ("readability-chart", "sweep-chart", "histogram-chart", "transfer-chart"):
            assert page.locator(f"#{chart} .main-svg").count() > 0, chart
            assert page.get_attribute(f"#{chart}", "aria-label"), chart
        assert "python -m analyses.causal_scan" in page.inner_text("#scan-chart")
        assert page.locator("#layer-table tbody tr").count() == 3
        assert "n ≥ 3 generations" in page.inner_text("#sweep-note")
        assert "n = 12 aligned, 12 malicious responses" in page.inner_text("#readability-note")
        assert page.inner_text("#provenance") == ""  # closed
        page.click("summary")
        assert '"scenarios"' in page.inner_text("#provenance")

    def test_a_run_without_stages_names_the_commands(
        self, open_page: Open, run: Run, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        manifest = json.loads((run.path / "manifest.json").read_text(encoding="utf-8"))
        (bare / "manifest.json").write_text(json.dumps(manifest))
        page = open_page(write_report(bare, tmp_path / "report.html")).page
        for chart in ("readability-chart", "histogram-chart", "transfer-chart"):
            assert "interp-steer fit" in page.inner_text(f"#{chart}")
        assert "interp-steer sweep" in page.inner_text("#sweep-chart")
        assert "interp-steer trace" in page.inner_text("#trace-missing")
        assert page.is_hidden("#boundary-controls") and page.is_hidden("#trace-view")

    def test_quantiles_are_said_with_their_n(
        self, open_page: Open, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("interp_steer.report.parts.MOST_VALUES", 16)
        monkeypatch.setattr("interp_steer.report.run_parts.MOST_VALUES", 16)
        page = open_page(write_report(run.path, tmp_path / "report.html")).page
        assert "16 evenly spaced quantiles" in page.inner_text("#histogram-note")
        n = len(tokens(RunSource(run), 0, "all")["aligned"])
        assert f"n = {n:,} aligned" in page.inner_text("#histogram-chart")

    @pytest.mark.parametrize("dark", [False, True])
    @pytest.mark.parametrize("width", [1400, 700, 380])
    def test_it_fits_narrow_and_wide_windows_in_either_theme(
        self, page: Any, width: int, dark: bool
    ) -> None:
        resize(page, width)
        page.emulate_media(color_scheme="dark" if dark else "light")
        chart = "document.querySelector('#sweep-chart .main-svg').clientWidth"
        until(page, f"{chart} === byId('sweep-chart').clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) < 150) is dark
        # Axis labels are drawn in the theme's ink, on its paper; a page hears of a new theme at its
        # next frame and draws its figures then.
        label = "document.querySelector('#sweep-chart .xtick text')"
        ink = f"getComputedStyle({label}).fill.match(/\\d+/g).slice(0, 3)"
        until(
            page,
            f"({ink}.reduce((sum, part) => sum + Number(part), 0) > 500) === {str(dark).lower()}",
        )

    def test_the_theme_can_be_turned_over(self, page: Any) -> None:
        page.emulate_media(color_scheme="dark")
        style = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(style)
        page.select_option("#pick-theme", "light")
        assert page.evaluate(style) != dark
        page.emulate_media(color_scheme="light")
        page.select_option("#pick-theme", "auto")
        assert page.evaluate(style) == "rgb(255, 255, 255)"

    def test_a_request_or_an_error_would_be_seen(self, browser: Any, page_file: Path) -> None:
        opened = browser.open(page_file)
        opened.page.evaluate("console.warn('planted')")
        opened.page.evaluate("new Image().src = 'https://example.invalid/x.png'")
        opened.page.evaluate("setTimeout(() => { throw new Error('thrown') })")
        missing, end = {"planted", "thrown", "Content Security Policy"}, time.monotonic() + PATIENCE
        while missing and time.monotonic() < end:
            opened.page.wait_for_timeout(50)
            missing -= {word for word in missing if word in " ".join(opened.complaints)}
        assert missing == set()
        opened.close()
