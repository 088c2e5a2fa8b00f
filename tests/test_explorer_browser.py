"""The explorer in a real browser, on a real server with the real (small, random) model.

Every page may fetch from its own server alone; a console error or warning, or an exception, fails
the test that opened the page.
"""

import io
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pyarrow.parquet as pq
import pytest

from interp_steer.explorer.boundary_numbers import BoundaryChoice
from interp_steer.explorer.boundary_view import answer
from interp_steer.explorer.library import Library
from interp_steer.explorer.live import LiveSession, LiveSnapshot
from interp_steer.explorer.live_recording import LiveRecording
from interp_steer.explorer.live_view import PULSE_MS
from interp_steer.explorer.selection import Selection
from interp_steer.explorer.server import ExplorerServer
from interp_steer.explorer.token_panes import pane_frame
from interp_steer.explorer.tokens_view import shown_panes
from interp_steer.files import atomic_write_bytes
from interp_steer.model import GenerationStep, HookedLM
from interp_steer.plots.rendering import missing_renderer
from interp_steer.plots.style import number
from interp_steer.runs import Run
from report_cases import HOSTILE, copied, plant_hostile, small_run

pytest_plugins = ("browser",)
pytestmark = pytest.mark.slow

Open = Callable[..., Any]
PATIENCE = 60_000
"""Milliseconds; cores may be shared."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Run:
    return small_run(tmp_path_factory.mktemp("pages"), tiny_lm, tiny_dir)


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[ExplorerServer]:
    with ExplorerServer(run.path, port=0) as running:
        yield running


@pytest.fixture
def visit(server: ExplorerServer, open_page: Open) -> Open:
    """Open the explorer at a query; the page waits as long as shared cores need."""
    return lambda query="", **options: opened(open_page, server, query, **options)


def opened(open_page: Open, server: ExplorerServer, query: str = "", **options: Any) -> Any:
    allowed = (server.url, "data:", "blob:", "about:")
    page = open_page(f"{server.url}{query}", allowed=allowed, **options).page
    page.set_default_timeout(PATIENCE)
    page.wait_for_selector("#view > section:not([hidden])")
    return page


def address(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def until(page: Any, script: str, arg: Any = None) -> None:
    """Until `script` holds; asked from outside, since the page's own policy forbids `eval`."""
    patiently(page, lambda: page.evaluate(script, arg), f"{script} {arg}")


def patiently(page: Any, condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end, f"never true: {what}"
        page.wait_for_timeout(50)


def wait_for_address(page: Any, **values: str) -> None:
    """Until the address says all of `values`."""
    until(
        page,
        """wanted => {
            const said = new URLSearchParams(location.search);
            return Object.entries(wanted).every(([name, value]) => said.get(name) === value);
        }""",
        arg=values,
    )


def drawn(page: Any, name: str) -> None:
    page.wait_for_selector(f"#{name} .scatterlayer .trace", state="attached")


class TestBeforeDash:
    """The first figure, while Dash's own script is held back."""

    def test_the_first_figure_is_there_before_dash_and_goes_when_dash_has_drawn_it(
        self, browser: Any, server: ExplorerServer
    ) -> None:
        context, held, said = browser.chromium.new_context(), [], []
        try:
            context.route("**/*dash_renderer*", lambda route: held.append(route))
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("console", lambda one: said.append(one.text) if one.type == "error" else None)
            page.goto(f"{server.url}?layer=1", wait_until="commit")
            page.wait_for_selector("body > #ahead .scatterlayer .trace", state="attached")
            title = page.locator("#ahead .gtitle").text_content()
            assert page.locator("#page").count() == 0
            for route in held:
                route.continue_()
            drawn(page, "layers-readability")
            until(page, "() => !document.getElementById('ahead')")
            assert page.locator("#layers-readability .gtitle").text_content() == title
            assert said == []
        finally:
            context.close()

    def test_another_view_waits_for_dash(self, visit: Open) -> None:
        page = visit("?view=boundary")
        page.wait_for_selector("#boundary-view .js-plotly-plot .trace", state="attached")
        assert page.locator("#ahead .trace").count() == 0


class TestLayers:
    def test_a_click_on_a_score_selects_its_layer_method_and_coefficient(self, visit: Open) -> None:
        page = visit()
        for name in ("layers-readability", "layers-scores", "layers-agreement"):
            drawn(page, name)
        page.wait_for_selector("#layers-scan-place .message")
        assert "analyses.causal_scan" in page.inner_text("#layers-scan-place")
        page.locator("#layers-scores").scroll_into_view_if_needed()
        place = page.evaluate(
            """() => {
                const figure = document.querySelector('#layers-scores .js-plotly-plot');
                const trace = figure.data.find(one => (one.customdata || [[]])[0][2] === 'stmp');
                const axis = name => figure._fullLayout[name.replace(/^[xy]/, '$&axis')];
                const [across, up] = [axis(trace.xaxis), axis(trace.yaxis)];
                const values = figure.calcdata[figure.data.indexOf(trace)];
                const box = figure.getBoundingClientRect();
                return {
                    x: box.left + across._offset + across.l2p(values[1].x),
                    y: box.top + up._offset + up.l2p(values[1].y),
                    layer: String(values[1].x),
                };
            }"""
        )
        page.mouse.move(place["x"] + 1, place["y"] + 1)
        page.wait_for_timeout(300)
        page.mouse.move(place["x"], place["y"])
        page.wait_for_selector("#layers-scores .hoverlayer .hovertext")
        page.mouse.down()
        page.mouse.up()
        wait_for_address(page, method="stmp", layer=place["layer"], alpha="1")

    def test_the_selection_is_on_every_view_and_in_the_address(self, visit: Open) -> None:
        page = visit("?view=layers&method=sttp&layer=1&alpha=0&scope=all")
        drawn(page, "layers-scores")
        page.click("#view-boundary")
        drawn(page, "boundary-histograms")
        wait_for_address(page, view="boundary", layer="1", method="sttp")
        page.click("#view-tokens")
        page.wait_for_selector("#token-panes .tok")
        page.click("#view-compare")
        page.wait_for_selector("#compare-panes .pane")
        wait_for_address(page, view="compare", layer="1")
        page.go_back()
        wait_for_address(page, view="tokens")
        page.wait_for_selector("#tokens-view:not([hidden])")

    def test_an_address_that_does_not_fit_says_so(self, visit: Open) -> None:
        page = visit("?layer=99&method=<b>magic</b>")
        page.wait_for_selector("#notes .message")
        said = page.inner_text("#notes")
        assert "a layer with a probe" in said and "<b>magic</b>" in said
        assert page.locator("#notes b").count() == 0


class TestBoundary:
    QUERY = "?view=boundary&method=sttp&layer=1&alpha=2&scope=all"
    SAYS = "text => document.querySelector('#boundary-numbers caption').innerText.includes(text)"

    def numbers(self, run: Run, **values: Any) -> list[str]:
        view = Library(run.path).view("honesty")
        selection = Selection(trait="honesty", method="sttp", layer=1, scope="all", **values)
        found = answer(view, selection).numbers
        return [f"{100 * one.fired:.1f} %" for one in found.values()]

    def shown(self, page: Any) -> list[str]:
        rows = page.locator("#boundary-numbers tbody tr")
        return [row.locator("td").nth(1).inner_text() for row in rows.all()]

    def test_typing_a_threshold_moves_every_number(self, run: Run, visit: Open) -> None:
        page = visit(self.QUERY)
        drawn(page, "boundary-histograms")
        assert self.shown(page) == self.numbers(run, alpha=2.0)
        page.fill("#threshold", "0.5")
        page.press("#threshold", "Enter")
        wait_for_address(page, threshold="0.5")
        until(page, self.SAYS, arg="threshold 0.5")
        assert self.shown(page) == self.numbers(run, alpha=2.0, threshold=0.5)
        page.click("#reset-threshold")
        until(page, "!new URLSearchParams(location.search).has('threshold')")

    def test_dragging_the_threshold_does_the_same(self, run: Run, visit: Open) -> None:
        page = visit(self.QUERY)
        drawn(page, "boundary-histograms")
        figure = "document.querySelector('#boundary-histograms .js-plotly-plot')"
        until(page, f"{figure}._fullLayout.width === {figure}.clientWidth")  # it has its size
        page.wait_for_timeout(500)
        line = page.locator('#boundary-histograms .shape-group[data-index="0"] path').first
        line.scroll_into_view_if_needed()
        box = line.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + 0.8 * box["height"]
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 25, y, steps=5)
        page.mouse.move(x + 50, y, steps=5)
        page.mouse.up()
        until(page, "new URLSearchParams(location.search).has('threshold')")
        moved = float(address(page)["threshold"])
        probe = Library(run.path).view("honesty").source.probe_layer(1)
        assert moved > probe.boundary
        until(page, self.SAYS, arg=f"threshold {number(moved)}")
        assert self.shown(page) == self.numbers(run, alpha=2.0, threshold=moved)
        # The figure followed: its first shape stands where the threshold is.
        place = "document.querySelector('#boundary-histograms .js-plotly-plot').layout.shapes[0].x0"
        until(page, f"moved => Math.abs({place} - moved) < 1e-4", arg=moved)

    def test_a_zoom_undoes_nothing(self, visit: Open) -> None:
        """What was asked for and is not answered yet stays asked for, what was said stays said."""
        page, held = visit("?view=boundary&method=sttp&layer=99"), []
        drawn(page, "boundary-histograms")
        page.wait_for_selector("#notes .message")

        def hold(route: Any) -> None:
            if "threshold.value" in route.request.post_data_json["changedPropIds"]:
                held.append(route)
            else:
                route.fallback()

        page.route("**/_dash-update-component*", hold)
        page.fill("#threshold", "0.5")
        page.press("#threshold", "Enter")
        patiently(page, lambda: held, "the question is asked")
        figure = "document.querySelector('#boundary-histograms .js-plotly-plot')"
        page.evaluate(f"Plotly.relayout({figure}, {{'xaxis.range': [-1, 1]}}).then(() => null)")
        page.wait_for_timeout(500)  # time for an answer that should not come
        assert "a layer with a probe" in page.inner_text("#notes")
        (asked,) = held
        asked.fallback()
        wait_for_address(page, threshold="0.5")

    def test_a_target_sets_the_coefficient_and_the_curve_follows(
        self, run: Run, visit: Open
    ) -> None:
        page = visit(self.QUERY)
        drawn(page, "boundary-transfer")
        probe = Library(run.path).view("honesty").source.probe_layer(1)
        target = round(probe.mu_pos + 5 * probe.sigma_pos, 4)
        page.fill("#target", str(target))
        page.press("#target", "Enter")
        until(page, "new URLSearchParams(location.search).get('alpha') !== '2'")
        assert float(address(page)["alpha"]) == pytest.approx(5, abs=1e-3)
        until(
            page,
            """target => {
                const figure = document.querySelector('#boundary-transfer .js-plotly-plot');
                return Math.abs(figure.data[2].y[0] - target) < 1e-3;
            }""",
            arg=target,
        )
        choice = BoundaryChoice(method="sttp", layer=1, alpha=5.0, scope="all").at(probe)
        assert choice.target == pytest.approx(target, abs=1e-3)

    def test_a_kept_variant_leads_back(self, run: Run, visit: Open) -> None:
        page = visit(self.QUERY + "&threshold=0.75")
        drawn(page, "boundary-histograms")
        page.fill("#variant-name", "mine")
        page.click("#keep-variant")
        until(page, "document.querySelector('#variant-message').innerText.includes('kept as')")
        assert (run.path / "variants" / "mine.json").exists()
        page.click("#reset-threshold")
        until(page, "!new URLSearchParams(location.search).has('threshold')")
        page.click("#variants")
        page.get_by_text("mine: sttp, layer 1").first.click()
        wait_for_address(page, threshold="0.75")


class TestTokens:
    def test_pointer_and_keyboard_show_the_row_of_a_token(self, run: Run, visit: Open) -> None:
        page = visit("?view=tokens")
        page.wait_for_selector("#token-panes .tok")
        view = Library(run.path).view("honesty")
        panes = shown_panes(view, view.default("honesty").changed(view="tokens"))
        table = next(pane.table for pane in panes if pane.table is not None).to_pylist()
        tokens = page.locator(".tokens").first.locator(".tok")
        assert tokens.count() == len(table)
        tokens.nth(1).hover()
        page.wait_for_selector("#token-detail dl")
        shown = page.inner_text("#token-detail")
        assert table[1]["scenario"] in shown and number(table[1]["projection_before"], 4) in shown
        tokens.nth(1).click()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.dataset.pos") == str(table[2]["pos"])
        assert f"\n{table[2]['pos']}\n" in page.inner_text("#token-detail")
        fired = [row["pos"] for row in table if row["fired"]]
        marked = page.locator(".tokens").first.locator(".tok.fired, .tok.capped").all()
        assert [int(one.get_attribute("data-pos")) for one in marked] == fired

    def test_a_most_fired_token_leads_to_an_example(self, visit: Open) -> None:
        page = visit("?view=tokens")
        page.wait_for_selector("#most-fired button")
        page.locator("#most-fired button").first.click()
        page.wait_for_selector(".tok.chosen")
        said = address(page)
        assert said["sample"] and said["pos"].isdecimal()
        chosen = page.locator(".tok.chosen").first
        assert chosen.get_attribute("data-pos") == said["pos"]
        page.reload()
        page.wait_for_selector(".tok.chosen")
        assert address(page) == said

    def test_the_table_sorts_and_filters(self, visit: Open) -> None:
        page = visit("?view=tokens")
        page.wait_for_selector("#token-grid .ag-row")
        page.locator(
            '#token-grid .ag-header-cell[col-id="projection_before"] .ag-header-cell-label'
        ).click()
        page.wait_for_selector('#token-grid .ag-header-cell[aria-sort="ascending"]')

        def values() -> list[float]:
            """Rows stand in the document in the order they were made; their index says where."""
            shown = page.evaluate(
                """() => [...document.querySelectorAll('#token-grid .ag-row')]
                    .map(row => [Number(row.getAttribute('row-index')),
                        row.querySelector('[col-id="projection_before"]')])
                    .filter(([, cell]) => cell).sort((a, b) => a[0] - b[0])
                    .map(([, cell]) => cell.textContent)"""
            )
            return [float(cell.replace("−", "-")) for cell in shown]

        # The heading is marked before the rows have moved.
        patiently(page, lambda: len(values()) > 3 and values() == sorted(values()), "sorted")

    @pytest.mark.parametrize("kind", ["csv", "parquet", "html"])
    def test_exports_hold_what_is_shown(self, run: Run, visit: Open, kind: str) -> None:
        page = visit("?view=tokens")
        page.wait_for_selector("#token-panes .tok")
        with page.expect_download() as waiting:
            page.get_by_role("button", name=kind.upper(), exact=True).click()
        content = Path(waiting.value.path()).read_bytes()
        view = Library(run.path).view("honesty")
        frame = pane_frame(shown_panes(view, view.default("honesty").changed(view="tokens")))
        if kind == "html":
            assert content.startswith(b"<!doctype html>")
            return
        found = (
            pd.read_csv(io.BytesIO(content), keep_default_na=False)
            if kind == "csv"
            else pq.read_table(io.BytesIO(content)).to_pandas()
        )
        assert found["token"].astype(str).tolist() == frame["token"].tolist()
        assert found["projection_before"].to_numpy() == pytest.approx(
            frame["projection_before"].to_numpy()
        )

    @pytest.mark.skipif(missing_renderer() is not None, reason=str(missing_renderer()))
    def test_a_picture_is_drawn(self, visit: Open) -> None:
        page = visit("?view=tokens")
        page.wait_for_selector("#token-panes .tok")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="PDF", exact=True).click()
        assert Path(waiting.value.path()).read_bytes().startswith(b"%PDF")

    def test_hostile_tokens_run_nothing(self, run: Run, open_page: Open, tmp_path: Path) -> None:
        mine = copied(run, tmp_path / "run")
        plant_hostile(mine)
        with ExplorerServer(mine.path, port=0) as server:
            page = opened(open_page, server, "?view=tokens")
            page.wait_for_selector("#token-panes .tok")
            page.wait_for_selector("#token-grid .ag-row")
            page.wait_for_selector("#most-fired button")
            page.locator(".tok").nth(2).hover()
            page.wait_for_selector("#token-detail dl")
            assert page.evaluate("window.hacked") is None
            assert HOSTILE[0] in page.inner_text("#token-panes")
            assert page.locator("#token-panes img, #token-panes script").count() == 0
            page.close()


class TestLive:
    def start(self, page: Any, n_tokens: int) -> None:
        page.wait_for_selector("#live-form:not([hidden])")
        page.fill("#live-system", "you are a liar")
        page.fill("#live-user", "what is a lion")
        page.fill("#live-tokens", str(n_tokens))
        page.press("#live-tokens", "Tab")
        page.click("#live-start")

    def test_two_answers_stream_side_by_side(self, visit: Open) -> None:
        page = visit("?view=tokens&mode=live&method=swfc&layer=1&alpha=1")
        self.start(page, 6)
        until(page, "document.querySelector('#live-status').innerText.startsWith('done')")
        until(page, "document.querySelectorAll('#token-panes .pane').length === 2")
        panes = page.locator("#token-panes .pane")
        assert "unsteered" in panes.nth(0).inner_text()
        assert "steered: SwFC, layer 1" in panes.nth(1).inner_text()
        assert panes.nth(0).locator(".tok.fired").count() == 0
        assert panes.nth(1).locator(".tok.fired").count() == panes.nth(1).locator(".tok").count()
        page.wait_for_selector("#token-grid .ag-row")
        # A flash lasts half a second, so it is noted and not looked for.
        page.evaluate(
            """() => {
                window.flashed = [];
                new MutationObserver(() => document
                    .querySelectorAll('#token-grid .ag-cell-data-changed[col-id="pos"]')
                    .forEach(cell => window.flashed.push(cell.innerText))
                ).observe(document.getElementById('token-grid'),
                    {subtree: true, childList: true, attributeFilter: ['class']});
            }"""
        )
        last = panes.nth(1).locator(".tok").last
        last.click()
        until(page, "pos => window.flashed.includes(pos)", arg=last.get_attribute("data-pos"))
        page.click("#live-map")
        page.wait_for_selector("#token-map .heatmaplayer")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="CSV", exact=True).click()
        rows = pd.read_csv(Path(waiting.value.path()), keep_default_na=False)
        assert rows["pane"].nunique() == 2

    def test_a_generation_can_be_stopped(
        self, visit: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep = LiveRecording.add

        def slowly(self: LiveRecording, step: GenerationStep) -> None:
            time.sleep(0.4)  # a small model would be done before a hand is at the button
            keep(self, step)

        monkeypatch.setattr(LiveRecording, "add", slowly)
        page = visit("?view=tokens&mode=live&method=sttp&layer=1&alpha=1")
        self.start(page, 80)
        page.wait_for_selector("#live-stop:not([disabled])")
        until(page, "document.querySelectorAll('#token-panes .tok').length > 0")
        page.click("#live-stop")
        until(page, "document.querySelector('#live-status').innerText.startsWith('stopped')")
        assert page.locator("#live-stop").is_disabled()
        assert page.locator("#token-panes .tok").count() > 0

    @pytest.mark.parametrize("view", ["tokens", "compare"])
    def test_answers_slower_than_the_clock_are_shown(
        self, visit: Open, monkeypatch: pytest.MonkeyPatch, view: str
    ) -> None:
        keep = LiveSession.snapshot

        def slowly(self: LiveSession) -> LiveSnapshot:
            time.sleep(2 * PULSE_MS / 1000)
            return keep(self)

        monkeypatch.setattr(LiveSession, "snapshot", slowly)
        page = visit(f"?view={view}&mode=live&method=swfc&layer=1&alpha=0.0625")
        if view == "tokens":
            self.start(page, 6)
        else:
            page.click("#compare-generate:not([disabled])")
        status = "live-status" if view == "tokens" else "compare-status"
        until(page, f"document.querySelector('#{status}').innerText.startsWith('done')")
        page.wait_for_selector(f"#{view}-view button:disabled >> text=Stop")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.post_data or ""))
        page.wait_for_timeout(4 * PULSE_MS)
        assert [one for one in asked if "pulse.n_intervals" in one] == []  # the clock rests

    def test_an_empty_prompt_is_refused_in_words(self, visit: Open) -> None:
        page = visit("?view=tokens&mode=live")
        page.wait_for_selector("#live-form:not([hidden])")
        page.click("#live-start")
        page.wait_for_selector("#live-status .problem")
        assert "type what the user says" in page.inner_text("#live-status")


class TestCompare:
    def test_answers_stand_side_by_side_and_the_choice_is_exported(self, visit: Open) -> None:
        page = visit("?view=compare&method=sttp&layer=1&alpha=0&scope=all")
        page.wait_for_selector("#compare-panes .pane")
        assert page.locator("#compare-panes .pane").count() == 3
        drawn(page, "compare-frontier")
        until(
            page, "document.querySelector('#take-away-code').innerText.includes('load_steering(')"
        )
        with page.expect_download() as waiting:
            page.click("#take-away")
        with zipfile.ZipFile(Path(waiting.value.path())) as archive:
            names = {re.sub(r".*/", "", name) for name in archive.namelist()}
        assert names == {"steering.json", "steering.safetensors", "load_it.py"}

    def test_a_link_keeps_its_scenario(self, run: Run, visit: Open) -> None:
        scenario = Library(run.path).view("honesty").stored.swept_scenarios[1]
        page = visit(f"?view=compare&scenario={scenario}")
        drawn(page, "compare-frontier")
        shown = "document.querySelector('#compare-scenario').innerText"
        until(page, f"wanted => {shown}.includes(wanted)", arg=scenario)
        assert address(page)["scenario"] == scenario

    def test_another_configuration_joins_and_stays_in_the_address(self, visit: Open) -> None:
        page = visit("?view=compare&method=swfc&layer=0&alpha=1&scope=response")
        page.wait_for_selector("#compare-panes .pane")
        page.click("#add-selected")
        until(page, "new URLSearchParams(location.search).getAll('compared').length >= 3")
        page.reload()
        until(page, "document.querySelectorAll('#compare-panes .pane').length >= 3")
        assert "swfc layer 0 alpha 1 scope response" in page.inner_text("#compare-panes")

    def test_what_the_sweep_lacks_is_generated(self, visit: Open) -> None:
        page = visit("?view=compare&method=swfc&layer=1&alpha=0.125&scope=all")
        until(page, "document.querySelectorAll('#compare-panes .pane').length === 3")
        assert "The sweep has no answer" in page.locator("#compare-panes .pane").nth(1).inner_text()
        page.click("#compare-generate:not([disabled])")
        until(page, "document.querySelector('#compare-status').innerText.startsWith('done')")
        until(page, "document.querySelector('#compare-panes').innerText.includes('not stored')")
        pane = page.locator("#compare-panes .pane").nth(1)
        assert pane.locator(".plain-response").count() == 1
        assert "The sweep has no answer" not in pane.inner_text()
        assert page.locator("#compare-generate").is_disabled()
        page.click("#add-selected")
        wait_for_address(page, compared="malicious~malicious_prompt~none~none~none~~~none")
        page.reload()
        until(page, "document.querySelectorAll('#compare-panes .pane').length === 3")
        assert "swfc layer 1 alpha 0.125" in page.inner_text("#compare-panes")


class TestPages:
    @pytest.mark.parametrize(
        ("view", "last"),
        [
            ("layers", "#layers-scan-place .message"),
            ("boundary", "#boundary-transfer .scatterlayer .trace"),
            ("tokens", "#token-grid .ag-row"),
            ("compare", "#compare-frontier .scatterlayer .trace"),
        ],
    )
    def test_a_narrow_window_has_no_sideways_scroll(
        self, visit: Open, view: str, last: str
    ) -> None:
        page = visit(f"?view={view}", width=700)
        page.wait_for_selector(last, state="attached")
        page.wait_for_timeout(500)
        assert page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )

    def test_dark_is_followed_kept_and_turned(self, visit: Open) -> None:
        page = visit(dark=True)
        drawn(page, "layers-readability")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        paper = (
            "document.querySelector('#layers-readability .js-plotly-plot').layout.template.layout"
        )
        until(page, f"{paper}.paper_bgcolor === '#14171b'")
        page.click("#theme")
        until(page, f"{paper}.paper_bgcolor === 'white'")
        page.reload()
        drawn(page, "layers-readability")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"

    def test_a_run_that_grows_is_followed(self, run: Run, open_page: Open, tmp_path: Path) -> None:
        mine = copied(run, tmp_path / "run")
        points = (mine.path / "operating_points.json").read_bytes()
        (mine.path / "operating_points.json").unlink()
        with ExplorerServer(mine.path, port=0) as server:
            page = opened(open_page, server, "?view=layers")
            drawn(page, "layers-scores")
            marks = """() => document.querySelector('#layers-scores .js-plotly-plot').data
                .filter(trace => (trace.name || '').startsWith('operating point')).length"""
            assert page.evaluate(marks) == 0
            atomic_write_bytes(mine.path / "operating_points.json", points)  # as the commands do
            until(page, f"({marks})() > 0")
            page.close()  # else it asks a server that is gone

    def test_tabs_are_reached_and_pressed_with_the_keyboard(self, visit: Open) -> None:
        page = visit()
        page.focus("#view-layers")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "view-boundary"
        page.keyboard.press("Enter")
        wait_for_address(page, view="boundary")
        page.wait_for_selector("#view-boundary[aria-selected=true]")
