"""The explorer without a browser: selection and address, numbers of a boundary, files, access."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plotly.io.json import to_json_plotly

from interp_steer.cells import ALIGNED, MALICIOUS
from interp_steer.cli import main
from interp_steer.errors import InterpSteerError
from interp_steer.explorer import show
from interp_steer.explorer.access import Guard
from interp_steer.explorer.answers import (
    answers,
    cells_to_compare,
    missing_cells,
    rows_to_generate,
    selected_cell,
)
from interp_steer.explorer.boundary_numbers import (
    BoundaryChoice,
    TokenProjections,
    edit_numbers,
    moved_projections,
)
from interp_steer.explorer.boundary_view import answer
from interp_steer.explorer.compared import differences, visible_lines
from interp_steer.explorer.downloads import token_download
from interp_steer.explorer.fired_tokens import most_fired
from interp_steer.explorer.first_figure import first_figure
from interp_steer.explorer.layers_view import GRAPHS, clicked_layer, layer_figure
from interp_steer.explorer.library import ExplorerError, Library
from interp_steer.explorer.live import LiveSession
from interp_steer.explorer.live_view import asked, live_rows
from interp_steer.explorer.parts import Said
from interp_steer.explorer.selecting import Event, dragged, next_selection, shown_controls
from interp_steer.explorer.selection import Choices, Selection, parse_query
from interp_steer.explorer.server import ExplorerServer
from interp_steer.explorer.stored import cell_key
from interp_steer.explorer.take_away import take_away
from interp_steer.explorer.theming import DARK, Screen
from interp_steer.explorer.token_grid import grid_rows
from interp_steer.explorer.token_panes import Pane, pane_frame, panes_page
from interp_steer.explorer.tokens_view import shown_panes
from interp_steer.explorer.variants import Variant, keep_variant, read_variants
from interp_steer.interventions import stmp, sttp, swfc
from interp_steer.model import HookedLM
from interp_steer.plots.style import INK, SCREEN
from interp_steer.probes import LayerProbe
from interp_steer.runs import Run
from interp_steer.steering import steer
from interp_steer.steering_files import load_steering
from interp_steer.study import reopen_study
from interp_steer.sweep import read_rows
from interp_steer.traces import read_traces
from report_cases import HOSTILE, copied, plant_hostile, small_run
from study_cases import tiny_study


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Run:
    """A finished run of the random model."""
    return small_run(tmp_path_factory.mktemp("explorer"), tiny_lm, tiny_dir)


@pytest.fixture(scope="module")
def library(run: Run) -> Library:
    return Library(run.path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Run:
    """A run with probes and nothing else."""
    return tiny_study(tmp_path_factory.mktemp("fitted"), tiny_lm, tiny_dir).run


def text_of(component: Any) -> str:
    """Everything that a Dash component shows, in order."""
    if component is None or isinstance(component, str | int | float):
        return "" if component is None else str(component)
    if isinstance(component, list | tuple):
        return "".join(map(text_of, component))
    return text_of(getattr(component, "children", None))


CHOICES = Choices(
    traits=("honesty", "compassion"),
    layers=(0, 1, 2),
    default=Selection(trait="honesty", layer=1, alpha=12.0),
)

# Plain values: built inside a strategy, a checked class would draw random numbers of its own there.
SELECTIONS = st.fixed_dictionaries(
    {
        "view": st.sampled_from(["layers", "boundary", "tokens", "compare"]),
        "trait": st.sampled_from(["honesty", "compassion"]),
        "method": st.sampled_from(["swfc", "sttp", "stmp"]),
        "layer": st.integers(0, 2),
        "alpha": st.sampled_from([0.0, 1.5, 12.0, 36.0]),
        "scope": st.sampled_from(["all", "response", "first:3"]),
        "threshold": st.sampled_from([None, 0.0, -3.25]),
        "mode": st.sampled_from(["stored", "live"]),
        "sample": st.sampled_from(["", "a&b=c", "<script>", "ünïcode #?"]),
        "pos": st.sampled_from([None, 0, 7]),
        "scenario": st.sampled_from(["", "honesty-test-000"]),
        "compared": st.lists(st.sampled_from(["a~b", "c/d", "e f"]), unique=True, max_size=3),
    }
)


class TestAddress:
    @given(SELECTIONS)
    def test_a_selection_comes_back_from_its_own_address(self, values: dict[str, Any]) -> None:
        selection = Selection.from_json(values)
        parsed = parse_query(selection.to_query(), CHOICES)
        assert parsed.selection == selection
        assert parsed.notes == ()
        assert Selection.from_json(json.loads(json.dumps(selection.as_json()))) == selection

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ("?layer=99", "expected a layer with a probe, 0 to 2"),
            ("?layer=one", "expected a layer with a probe"),
            ("?alpha=nan", "expected a finite number"),
            ("?threshold=wide", "expected a number"),
            ("?method=magic", "expected one of swfc, sttp, stmp"),
            ("?scope=first:0", "expected all, response, prompt or first:K"),
            ("?trait=greed", "expected one of honesty, compassion"),
            ("?view=inside", "expected one of layers"),
            ("?pos=-1", "expected a position from 0"),
        ],
    )
    def test_what_does_not_fit_is_replaced_and_said(self, query: str, said: str) -> None:
        parsed = parse_query(query, CHOICES)
        assert parsed.selection == CHOICES.default
        assert len(parsed.notes) == 1 and said in parsed.notes[0]

    def test_unknown_names_and_too_many_fields_do_no_harm(self) -> None:
        assert parse_query("?x=1&__proto__=2", CHOICES).selection == CHOICES.default
        with pytest.raises(ValueError, match="fields"):
            parse_query("?" + "&".join(f"a{i}=1" for i in range(100)), CHOICES)


class TestEvents:
    def test_every_control_changes_its_part_and_no_other(self, library: Library) -> None:
        now = library.choices("honesty").default
        for source, value, changed in [
            ("layer", 1 - now.layer, {"layer": 1 - now.layer}),
            ("alpha", 3.5, {"alpha": 3.5}),
            ("scope", "response", {"scope": "response"}),
            ("view-tokens", 1, {"view": "tokens"}),
            ("mode", "live", {"mode": "live"}),
            ("threshold", 0.25, {"threshold": 0.25}),
            ("compare-scenario", "test-01", {"scenario": "test-01"}),
        ]:
            parsed = next_selection(library, now, Event(source=source, value=value))
            assert parsed.notes == ()
            assert parsed.selection == now.changed(**changed)

    def test_an_address_of_another_trait_is_read_against_its_run(
        self, run: Run, tmp_path: Path
    ) -> None:
        copied(run, tmp_path / "a")
        copied(run, tmp_path / "b", trait="compassion")
        both = Library(tmp_path)
        assert set(both.traits) == {"honesty", "compassion"}
        parsed = next_selection(both, Selection(), Event(source="url", value="?trait=compassion"))
        assert parsed.selection.trait == "compassion"
        assert parsed.selection.layer == both.choices("compassion").default.layer

    def test_a_dragged_target_sets_the_coefficient_that_has_it(self, library: Library) -> None:
        now = library.choices("honesty").default.changed(method="sttp", alpha=0.0)
        probe = library.view("honesty").source.probe_layer(now.layer)
        moved = {"shapes[1].x0": probe.mu_pos + 7 * probe.sigma_pos, "shapes[1].x1": None}
        parsed = next_selection(library, now, Event(source="relayout", value=moved))
        assert parsed.selection.alpha == pytest.approx(7, rel=1e-5)
        shown = shown_controls(library.view("honesty"), parsed.selection)
        assert shown["target"] == pytest.approx(probe.mu_pos + 7 * probe.sigma_pos, rel=1e-4)

    def test_another_layer_or_method_forgets_a_moved_threshold(self, library: Library) -> None:
        now = library.choices("honesty").default.changed(threshold=1.0)
        other = next_selection(library, now, Event(source="layer", value=1 - now.layer))
        assert other.selection.threshold is None
        same = next_selection(library, now, Event(source="alpha", value=2))
        assert same.selection.threshold == 1.0

    def test_a_list_that_is_filled_again_keeps_the_token_pointed_at(self, library: Library) -> None:
        one, other = library.view("honesty").stored.training[:2]
        now = library.choices("honesty").default.changed(sample=one.key, pos=3)
        for value in (one.key, None, ""):
            again = next_selection(library, now, Event(source="sample", value=value))
            assert again.selection == now
        moved = next_selection(library, now, Event(source="sample", value=other.key))
        assert (moved.selection.sample, moved.selection.pos) == (other.key, None)

    def test_swfc_has_no_threshold_to_move(self, library: Library) -> None:
        now = library.choices("honesty").default.changed(method="swfc", alpha=1.0)
        parsed = next_selection(library, now, Event(source="threshold", value=1.0))
        assert parsed.selection.threshold is None

    @pytest.mark.parametrize("value", [float("inf"), "1e999"])
    def test_a_number_that_is_none_is_said(self, library: Library, value: object) -> None:
        now = library.choices("honesty").default
        parsed = next_selection(library, now, Event(source="alpha", value=value))
        assert parsed.selection == now and "finite" in parsed.notes[0]

    def test_a_click_on_a_score_takes_layer_method_and_coefficient(self) -> None:
        assert clicked_layer({"x": 3, "customdata": [None, None, "stmp", 2.0]}) == {
            "layer": 3,
            "method": "stmp",
            "alpha": 2.0,
        }
        assert clicked_layer({"x": 3, "customdata": [0.1, 0.2]}) == {"layer": 3}
        assert (
            clicked_layer({"x": 2.5}) == clicked_layer({"x": "system"}) == clicked_layer({}) == {}
        )

    def test_zooms_are_no_drags(self) -> None:
        assert dragged({"xaxis.range[0]": 1.0}) == dragged(None) == {}
        assert dragged({"shapes[0].x0": 1.0, "shapes[0].x1": 2.0}) == {"threshold": 1.5}


@pytest.fixture(scope="module")
def probe(library: Library) -> LayerProbe:
    return library.view("honesty").source.probe_layer(1)


class TestBoundaryNumbers:
    """Against formulas written out here, on the stored projections."""

    @pytest.mark.parametrize("threshold", [None, -0.4, 0.7])
    @pytest.mark.parametrize(("method", "alpha"), [("swfc", 2.0), ("sttp", 6.0), ("stmp", 1.5)])
    @pytest.mark.parametrize("scope", ["all", "response", "prompt", "first:2"])
    def test_they_follow_from_every_single_token(
        self,
        library: Library,
        probe: LayerProbe,
        method: str,
        alpha: float,
        scope: str,
        threshold: float | None,
    ) -> None:
        view = library.view("honesty")
        selection = Selection(
            trait="honesty", method=method, layer=1, alpha=alpha, scope=scope, threshold=threshold
        )
        found = answer(view, selection)
        frame = pq.read_table(view.run.projections_file).to_pandas()
        frame = frame[(frame["layer"] == 1) & _in_scope(frame, scope)]
        gate = probe.boundary if threshold is None else threshold
        for side in ("aligned", "malicious"):
            rho = frame["projection"][frame["side"] == side].to_numpy(dtype=np.float64)
            cap = probe.mu_pos + 40 * probe.sigma_pos
            after = {
                "swfc": rho + alpha * probe.delta_mu,
                "sttp": np.where(rho < gate, probe.mu_pos + alpha * probe.sigma_pos, rho),
                "stmp": np.where(rho < gate, np.minimum(rho + 2 * alpha * (gate - rho), cap), rho),
            }[method]
            fires = np.ones_like(rho, dtype=bool) if method == "swfc" else rho < gate
            numbers = found.numbers[f"{side} tokens (training, unsteered)"]
            assert numbers.n == len(rho) > 0
            assert numbers.fired == pytest.approx(fires.mean())
            assert numbers.mean_edit == pytest.approx(np.abs(after - rho).mean(), rel=1e-9)
            if fires.any():
                expected = np.abs(after - rho)[fires].mean()
                assert numbers.mean_edit_fired == pytest.approx(expected, rel=1e-9)
            else:
                assert np.isnan(numbers.mean_edit_fired)

    def test_the_curve_is_the_law_that_the_hooks_apply(self, probe: LayerProbe) -> None:
        rho = np.linspace(-9, 9, 301)
        laws = {
            "swfc": lambda t: swfc(t, alpha=2.0, delta_mu=probe.delta_mu),
            "sttp": lambda t: sttp(t, threshold=0.3, target=probe.mu_pos + 2 * probe.sigma_pos),
            "stmp": lambda t: stmp(
                t, threshold=0.3, alpha=2.0, cap=probe.mu_pos + 40 * probe.sigma_pos
            ),
        }
        for method, law in laws.items():
            choice = BoundaryChoice(method=method, layer=1, alpha=2.0, scope="all", threshold=0.3)
            found = moved_projections(rho, choice.at(probe))
            assert found == pytest.approx(law(torch.from_numpy(rho)).numpy(), abs=1e-12)

    def test_a_target_without_spread_is_refused(self, probe: LayerProbe) -> None:
        from dataclasses import replace

        flat = replace(probe, sigma_pos=0.0)
        choice = BoundaryChoice(method="sttp", layer=1, alpha=1.0, scope="all")
        with pytest.raises(InterpSteerError, match="every alpha has the target"):
            choice.with_target(3.0, flat)

    def test_an_empty_scope_has_no_rates(self, probe: LayerProbe) -> None:
        choice = BoundaryChoice(method="sttp", layer=1, alpha=1.0, scope="all")
        numbers = edit_numbers(np.empty(0), choice.at(probe))
        assert numbers.n == 0 and np.isnan(numbers.fired) and np.isnan(numbers.mean_edit)

    def test_places_are_counted_within_each_response(self) -> None:
        frame = pd.DataFrame(
            {
                "scenario": ["a"] * 4 + ["b"] * 3,
                "side": ["aligned"] * 7,
                "response_index": [0] * 7,
                "pos": [0, 1, 2, 3, 0, 1, 2],
                "segment": ["user", "user", "response", "response", "user", "response", "response"],
                "projection": np.arange(7.0),
            }
        )
        tokens = TokenProjections(frame, layer=0)
        assert tokens.of("aligned", "first:1").tolist() == [2.0, 5.0]
        assert tokens.of("aligned", "prompt").tolist() == [0.0, 1.0, 4.0]
        assert tokens.of("malicious", "all").tolist() == []


def _in_scope(frame: pd.DataFrame, scope: str) -> pd.Series:
    is_response = frame["segment"] == "response"
    if scope == "all":
        return pd.Series(True, index=frame.index)
    if scope == "prompt":
        return ~is_response
    if scope == "response":
        return is_response
    keys = ["scenario", "side", "response_index", "layer"]
    first = frame[is_response].groupby(keys)["pos"].transform("min")
    place = (frame["pos"] - first).where(is_response, np.inf)
    return place < int(scope.removeprefix("first:"))


class TestVariants:
    def test_one_is_kept_in_the_run_and_leads_back(self, run: Run, tmp_path: Path) -> None:
        mine = copied(run, tmp_path / "run")
        selection = Selection(trait="honesty", layer=1, alpha=3.0, threshold=0.125)
        variant = Variant(
            name="softer gate", selection=selection, threshold=0.125, target=2.0, fired={"a": 0.5}
        )
        path = keep_variant(mine, variant)
        assert path == mine.path / "variants" / "softer gate.json"
        assert read_variants(mine) == [variant]
        parsed = next_selection(
            Library(mine.path), Selection(), Event(source="variants", value=variant.to_query())
        )
        assert parsed.selection == selection

    @pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 61, "<b>"])
    def test_a_name_that_is_no_file_name_is_refused(self, run: Run, name: str) -> None:
        variant = Variant(name=name, selection=Selection(), threshold=None, target=None, fired={})
        with pytest.raises(ExplorerError, match="name starts with a letter or digit"):
            keep_variant(run, variant)

    def test_a_damaged_one_is_refused_by_name(self, run: Run, tmp_path: Path) -> None:
        mine = copied(run, tmp_path / "run")
        (mine.path / "variants").mkdir()
        (mine.path / "variants" / "odd.json").write_text("{}")
        with pytest.raises(ExplorerError, match=r"odd\.json is no variant"):
            read_variants(mine)


class TestLibrary:
    def test_a_folder_without_runs_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ExplorerError, match="is no run and holds none"):
            Library(tmp_path)

    def test_two_runs_of_one_trait_are_refused(self, run: Run, tmp_path: Path) -> None:
        copied(run, tmp_path / "a")
        copied(run, tmp_path / "b")
        with pytest.raises(ExplorerError, match="holds two runs of 'honesty'"):
            Library(tmp_path)

    def test_a_growing_run_is_seen(self, run: Run, tmp_path: Path) -> None:
        mine = copied(run, tmp_path / "run")
        shards = sorted((mine.path / "sweep").glob("*.parquet"))
        later = [(shard, shard.read_bytes()) for shard in shards[1:]]
        for shard, _ in later:
            shard.unlink()
        (mine.path / "operating_points.json").rename(tmp_path / "points.json")
        growing = Library(mine.path)
        before, version = growing.view("honesty"), growing.version("honesty")
        n_cells = len(before.cells)
        assert growing.view("honesty") is before
        for shard, content in later:
            shard.write_bytes(content)
        (tmp_path / "points.json").rename(mine.path / "operating_points.json")
        assert growing.version("honesty") != version
        after = growing.view("honesty")
        assert len(after.cells) > n_cells
        assert after.source.points

    def test_a_missing_stage_names_its_command(self, fitted: Run) -> None:
        view = Library(fitted.path).view("honesty")
        said, found = Said(), set()
        for name in GRAPHS:
            with said.or_say():
                layer_figure(name, view, view.default("honesty"), SCREEN)
                found.add(name)
        assert found == {"layers-readability", "layers-agreement"}
        words = " ".join(map(text_of, said.messages))
        assert f"interp-steer sweep {fitted.path}" in words
        assert "python -m analyses.causal_scan" in words
        said = Said()
        with said.or_say():
            answer(view, view.default("honesty"))
        assert "no token projections" in text_of(said.messages)
        said = Said()
        with said.or_say():
            shown_panes(view, view.default("honesty"))
        assert "no traces" in text_of(said.messages)

    def test_a_damaged_artifact_is_said_not_thrown(self, run: Run, tmp_path: Path) -> None:
        mine = copied(run, tmp_path / "run")
        (mine.path / "projections.parquet").write_bytes(b"PAR1 no")
        view = Library(mine.path).view("honesty")
        said = Said()
        with said.or_say():
            answer(view, view.default("honesty"))
        assert "projections.parquet" in text_of(said.messages)


class TestTokens:
    def test_a_trace_is_shown_row_for_row(self, library: Library, run: Run) -> None:
        view = library.view("honesty")
        one = view.stored.traces[0]
        selection = Selection(trait="honesty", view="tokens", sample=one.key)
        panes = shown_panes(view, selection)
        mine = next(pane for pane in panes if pane.heading == one.label)
        stored = pd.concat(
            [read_traces(path).to_pandas() for path in run.traces_folder.glob("*.parquet")]
        )
        expected = stored[(stored["sample"] == one.where[0]) & (stored["layer"] == one.where[1])]
        assert mine.table is not None
        assert mine.table.to_pandas()["pos"].tolist() == expected["pos"].tolist()
        assert mine.table.to_pandas()["fired"].tolist() == expected["fired"].tolist()

    def test_a_training_response_says_what_the_gate_would_do(self, library: Library) -> None:
        view = library.view("honesty")
        one = view.stored.training[0]
        selection = Selection(
            trait="honesty", layer=1, method="sttp", sample=one.key, threshold=0.2
        )
        (pane,) = shown_panes(view, selection)
        frame = pane_frame([pane])
        assert frame["fired"].tolist() == (frame["projection_before"] < 0.2).tolist()
        assert frame["projection_after"].tolist() == frame["projection_before"].tolist()
        assert frame["delta_norm"].tolist() == [0.0] * len(frame)

    def test_hostile_tokens_are_text_everywhere(self, run: Run, tmp_path: Path) -> None:
        mine = copied(run, tmp_path / "run")
        plant_hostile(mine)
        view = Library(mine.path).view("honesty")
        selection = Selection(trait="honesty", view="tokens", sample=view.stored.traces[0].key)
        panes = shown_panes(view, selection)
        page = json.dumps([one.to_plotly_json() for one in panes_page(panes)], default=str)
        assert "dangerously" not in page.lower()
        shown = text_of(panes_page(panes))
        assert HOSTILE[0] in shown and "\u202e" not in shown and "\u202e" not in page
        rows = grid_rows(pane_frame(panes))
        assert any(row["token"] == HOSTILE[0] for row in rows)
        html = token_download(panes, "html", title=HOSTILE[0]).decode()
        assert "<script>window" not in html

    def test_downloads_hold_what_is_shown(self, library: Library) -> None:
        view = library.view("honesty")
        panes = shown_panes(view, Selection(trait="honesty", view="tokens"))
        frame = pane_frame(panes)
        csv = pd.read_csv(
            io.BytesIO(token_download(panes, "csv", title="t")), keep_default_na=False
        )
        assert csv["token"].astype(str).tolist() == frame["token"].tolist()
        parquet = pq.read_table(io.BytesIO(token_download(panes, "parquet", title="t"))).to_pandas()
        pd.testing.assert_frame_equal(parquet, frame, check_dtype=False)

    def test_nothing_to_export_is_said(self) -> None:
        with pytest.raises(ExplorerError, match="nothing to export yet"):
            token_download([Pane(heading="x", text="y")], "csv", title="t")

    def test_the_most_fired_tokens_are_counted_and_found_again(self, library: Library) -> None:
        view = library.view("honesty")
        one = view.stored.traces[0]
        assert one.edit is not None
        method, layer, scope = one.edit
        choice = BoundaryChoice(method=method, layer=layer, alpha=1.0, scope=scope)
        found = most_fired(view, choice)
        tables = [
            view.stored.tokens_of(each, choice).to_pandas()
            for each in view.stored.traces
            if each.edit == one.edit
        ]
        whole = pd.concat(tables)
        fired = whole[whole["fired"] & whole["in_scope"]]
        assert sum(t.n_fired for t in found.tokens) == len(fired) or len(found.tokens) == 30
        for token in found.tokens:
            example = view.stored.find(token.sample)
            assert example is not None
            table = view.stored.tokens_of(example, choice).to_pandas()
            row = table[table["pos"] == token.pos].iloc[0]
            assert row["token"] == token.token and row["fired"]


class TestCompare:
    @given(st.text("ab \n", max_size=30), st.text("ab \n", max_size=30))
    def test_the_marked_pieces_are_both_texts(self, first: str, other: str) -> None:
        pieces = differences(first, other)
        assert "".join(p.text for p in pieces if p.change != "removed") == other
        assert "".join(p.text for p in pieces if p.change != "added") == first

    def test_what_is_invisible_is_spelled_out_and_lines_stay(self) -> None:
        assert visible_lines("a\n\u202eb") == "a\n\\u202eb"

    def test_the_answers_are_the_sweeps(self, library: Library, run: Run) -> None:
        view = library.view("honesty")
        selection = view.default("honesty").changed(view="compare")
        cells = cells_to_compare(view, selection)
        scenario = view.stored.swept_scenarios[0]
        rows = read_rows(run).to_pandas()
        for found in answers(view, cells, scenario):
            assert found.row is not None
            mine = rows[
                (rows["scenario"] == scenario) & (rows["response"] == found.row["response"])
            ]
            assert cell_key(found.cell) in {
                cell_key(type(found.cell).from_row(row)) for row in mine.to_dict("records")
            }

    def test_what_the_sweep_lacks_can_be_generated_and_says_what_the_sweep_would(
        self, library: Library
    ) -> None:
        view = library.view("honesty")
        selection = view.default("honesty").changed(view="compare")
        scenario = view.stored.swept_scenarios[0]
        lacked = cell_key(selected_cell(selection.changed(alpha=0.125)))
        asked = selection.changed(compared=(cell_key(MALICIOUS), lacked))
        found = answers(view, cells_to_compare(view, asked), scenario)
        assert [cell_key(cell) for cell in missing_cells(found)] == [lacked]
        # Rows that the sweep has, generated as if it lacked them, say what it says.
        cells = cells_to_compare(view, selection)
        rows = rows_to_generate(cells, view.scenarios[scenario], selection)
        session = LiveSession(lambda: (reopen_study(view.run.path), view.source.probes), rows)
        session.start()
        assert session.wait(60)
        stored = [answer.text for answer in answers(view, cells, scenario)]
        assert list(session.snapshot().texts) == stored

    @pytest.mark.parametrize(
        "spoiled",
        ["", "a~b", "malicious~malicious_prompt~none~aligned~sttp~99~6~all",
         "malicious~malicious_prompt~none~aligned~sttp~1~inf~all",
         "malicious~malicious_prompt~none~aligned~sttp~1~6~nowhere",
         "malicious~malicious_prompt~none~aligned~sttp~1.5~6~all",
         "malicious~malicious_prompt~random_direction:0~aligned~sttp~1~6.5~all",
         "aligned~prefill:3~none~aligned~sttp~1~6.5~all"],
    )  # fmt: skip
    def test_keys_that_nothing_can_generate_are_left_out(
        self, library: Library, spoiled: str
    ) -> None:
        view = library.view("honesty")
        selection = view.default("honesty").changed(compared=(spoiled, cell_key(ALIGNED)))
        assert cells_to_compare(view, selection) == [ALIGNED]

    def test_what_is_taken_away_steers_the_same(
        self, library: Library, tiny_lm: HookedLM, tmp_path: Path
    ) -> None:
        view = library.view("honesty")
        selection = view.default("honesty").changed(method="sttp", alpha=6.0, threshold=0.25)
        found = take_away(view, selection)
        with zipfile.ZipFile(io.BytesIO(found.archive)) as archive:
            assert all(name.startswith(f"{found.name}/") for name in archive.namelist())
            archive.extractall(tmp_path)
        saved = load_steering(tmp_path / found.name)
        saved.check_model(tiny_lm)
        assert saved.spec.threshold == ("value", 0.25)
        compile(found.code, "load_it.py", "exec")
        prompt = tiny_lm.tokenize(next(iter(view.scenarios.values())).prompt("malicious"))
        seen = {}
        for name, spec, probes in (
            (
                "mine",
                BoundaryChoice(
                    method="sttp",
                    layer=selection.layer,
                    alpha=6.0,
                    scope=selection.scope,
                    threshold=0.25,
                ).spec(),
                view.source.probes,
            ),
            ("saved", saved.spec, saved.probes),
        ):
            with steer(tiny_lm, spec, probes):
                seen[name] = tiny_lm.forward([prompt])
        assert torch.equal(seen["mine"], seen["saved"])


class TestLive:
    def test_a_scenarios_prompt_keeps_its_random_numbers(self, library: Library) -> None:
        view = library.view("honesty")
        scenario = next(iter(view.scenarios.values()))
        wanted = asked(
            view,
            name=scenario.id,
            side="malicious",
            system=str(scenario.system_malicious),
            user=scenario.user[-1],
        )
        assert (wanted.scenario, wanted.side) == (scenario.id, "malicious")
        assert wanted.prompt == scenario.prompt("malicious")
        rows = live_rows(view.default("honesty"), wanted)
        assert [row.spec is None for row in rows] == [True, False]
        assert len({row.sample_key for row in rows}) == 1

    def test_an_edited_prompt_is_ones_own(self, library: Library) -> None:
        view = library.view("honesty")
        scenario = next(iter(view.scenarios.values()))
        wanted = asked(view, name=scenario.id, side="malicious", system="be odd", user="hello")
        assert (wanted.scenario, wanted.side) == ("prompt", "neutral")

    def test_an_empty_prompt_is_refused(self, library: Library) -> None:
        with pytest.raises(ExplorerError, match="type what the user says first"):
            asked(library.view("honesty"), name=None, side="malicious", system="", user="  ")


class TestTheme:
    def test_colours_are_exchanged_and_texts_are_not(self) -> None:
        figure = go.Figure(go.Scatter(x=[1], y=[1], text=[INK], line={"color": INK}))
        figure.update_layout(title_text=INK, width=960)
        dark = Screen(theme="dark").dressed(figure)
        assert dark["data"][0]["line"]["color"] == DARK[INK]
        assert dark["data"][0]["text"][0] == INK and dark["layout"]["title"]["text"] == INK
        assert "width" not in dark["layout"]
        light = Screen().dressed(figure)
        assert light["data"][0]["line"]["color"] == INK

    @pytest.mark.parametrize("stored", [None, {}, {"theme": "x", "width": "wide"}, {"width": -3}])
    def test_a_page_that_says_nonsense_gets_the_defaults(self, stored: Any) -> None:
        assert Screen.from_json(stored) == Screen()


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[ExplorerServer]:
    with ExplorerServer(run.path, port=0) as running:
        yield running


def status(server: ExplorerServer, path: str = "/", **headers: str) -> int:
    """Status of a request with exactly these headers."""
    port = int(server.url.rsplit(":", 1)[1].strip("/"))
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    found = connection.getresponse().status
    connection.close()
    return found


class TestAccess:
    def test_its_own_pages_are_answered(self, server: ExplorerServer) -> None:
        netloc = server.url.removeprefix("http://").strip("/")
        assert status(server, Host=netloc) == 200
        assert status(server, Host=netloc, Origin=f"http://{netloc}") == 200
        assert status(server, Host=netloc.replace("127.0.0.1", "localhost")) == 200

    def test_foreign_hosts_and_origins_are_refused(self, server: ExplorerServer) -> None:
        netloc = server.url.removeprefix("http://").strip("/")
        for path in ("/", "/_dash-layout", "/assets/explorer.js"):
            assert status(server, path, Host="evil.example") == 403
            assert status(server, path, Host=netloc, Origin="http://evil.example") == 403
            assert status(server, path, Host=netloc, Origin="null") == 403
            assert status(server, path) == 403
        assert status(server, Host=netloc, Origin="http://localhost:1") == 403
        assert status(server, Host="127.0.0.1.evil.example") == 403

    def test_the_first_figure_is_what_the_first_view_shows(
        self, server: ExplorerServer, library: Library
    ) -> None:
        client = server.app.server.test_client()
        asked = {"search": "?layer=2", "theme": "dark", "width": "720"}
        answered = client.get("/first-figure", query_string=asked, headers={"Host": "localhost"})
        view, screen = library.view("honesty"), Screen(theme="dark", width=720)
        selection = next_selection(
            library, Selection(), Event(source="url", value="?layer=2")
        ).selection
        figure = layer_figure(GRAPHS[0], view, selection, screen.column())
        assert selection.layer == 2
        assert answered.text == to_json_plotly(screen.dressed(figure))

    @pytest.mark.parametrize(
        "asked", [{"search": "?view=tokens"}, {"search": "?view=boundary", "width": "x"}]
    )
    def test_where_another_view_is_first_no_figure_is_sent(
        self, server: ExplorerServer, asked: dict[str, str]
    ) -> None:
        client = server.app.server.test_client()
        answered = client.get("/first-figure", query_string=asked, headers={"Host": "localhost"})
        assert (answered.status_code, answered.data) == (204, b"")

    def test_a_run_without_probes_says_so_in_the_view_alone(self, fitted: Run) -> None:
        (fitted.path / "probes.json").rename(fitted.path / "probes.gone")
        try:
            assert first_figure(Library(fitted.path), {"width": "-3"}) is None
        finally:
            (fitted.path / "probes.gone").rename(fitted.path / "probes.json")

    def test_every_answer_says_what_may_run(self, server: ExplorerServer) -> None:
        answered = server.app.server.test_client().get("/", headers={"Host": "localhost"})
        policy = answered.headers["Content-Security-Policy"]
        scripts = re.search(r"script-src ([^;]*)", policy)
        assert scripts is not None
        assert "unsafe" not in scripts.group(1) and "sha256-" in scripts.group(1)

    def test_all_addresses_take_any_name_but_only_their_own_pages(self) -> None:
        guard = Guard.of("0.0.0.0")
        assert guard.refusal("gpu-box:8050", None, None) is None
        assert guard.refusal("gpu-box:8050", "http://gpu-box:8050", "same-origin") is None
        assert guard.refusal("gpu-box:8050", "http://evil.example", "cross-site") is not None

    def test_another_host_wants_to_be_asked_for(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["explore", str(run.path), "--host", "0.0.0.0", "--no-browser"]) == 1
        said = capsys.readouterr().err
        assert "--allow-remote" in said and "no password" in said and "ssh -L" in said

    def test_a_taken_port_is_said(
        self, run: Run, server: ExplorerServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        port = server.url.rsplit(":", 1)[1].strip("/")
        assert main(["explore", str(run.path), "--port", port, "--no-browser"]) == 1
        assert "--port" in capsys.readouterr().err

    def test_no_run_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["explore", str(tmp_path / "none"), "--no-browser"]) == 1
        assert "interp-steer demo" in capsys.readouterr().err


def test_a_notebook_gets_a_frame_of_the_same_app(run: Run) -> None:
    shown = show(run, height=500)
    try:
        frame = shown._repr_html_()
        assert f'src="{shown.url}"' in frame and 'height="500"' in frame
        assert status(shown.server, Host=shown.url.removeprefix("http://").strip("/")) == 200
    finally:
        shown.stop()
