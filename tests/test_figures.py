"""Figures of a run: numbers drawn are numbers stored, refusals name commands, text stays text."""

import importlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from figures import NAMES
from figures.gallery import linked
from interp_steer.config import ProjectConfig
from interp_steer.fit_stage import project
from interp_steer.model import HookedLM
from interp_steer.plots import (
    SCREEN,
    SINGLE,
    Picture,
    StripToken,
    SuiteCurves,
    SuitePoints,
    TokenStrip,
    TokenStrips,
    as_text,
    frontiers,
    layer_alpha_maps,
    missing_renderer,
    readability_by_layer,
    render,
    suite_curves,
    suite_points,
    token_strips,
    write_html,
)
from interp_steer.plots.figure_files import MissingStageError
from interp_steer.plots.frontier import on_frontier
from interp_steer.plots.sources import RunSource
from interp_steer.run_figures import RECIPES, draw_figures
from interp_steer.runs import Run
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import select, sweep
from interp_steer.trace_stage import trace_examples
from study_cases import SWEEP, WordJudge, tiny_study
from test_plots import SIDECAR, make_sweep, words

ROOT = Path(__file__).resolve().parents[1]
SUITES = ("capabilities", "multi_turn", "cross_trait", "cost")
"""Figures of suites that no test here has run."""
HOSTILE = ("<script>alert(1)</script>", "\"'", "a\nb", "😀", "e\u0301", "", "<b>x</b>", "&lt;")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Run:
    """A run of the random model with probes and no sweep."""
    return tiny_study(tmp_path_factory.mktemp("figures"), tiny_lm, tiny_dir).run


def test_every_figure_of_the_issue_has_a_recipe_a_script_and_a_place_in_the_gallery() -> None:
    assert {recipe.number for recipe in RECIPES.values()} == {str(n) for n in range(1, 12)}
    scripts = {p.stem for p in (ROOT / "figures").glob("*.py")} - {"__init__", "gallery"}
    assert scripts == set(NAMES) == set(RECIPES)
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"python -m figures.{name} RUN" not in page] == []
    assert all(callable(importlib.import_module(f"figures.{name}").main) for name in NAMES)


def test_a_fitted_run_gives_what_it_can_and_names_the_command_of_the_rest(fitted: Run) -> None:
    made = draw_figures(fitted, static=False)
    drawn = {page.stem for page in made.pages}
    assert {"projections", "readability", "transfer", "steering-plane"} <= drawn
    left = {one.name: one.why for one in made.left_out}
    assert {"trait_coherence", "causal_scan", "elo"} <= set(left)
    assert all("make it with `" in why for why in left.values())
    assert "interp-steer sweep" in left["trait_coherence"]
    for page in made.pages:
        said = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
        assert said["inputs"] and page.with_suffix(".csv").stat().st_size > 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Run:
    """One layer, one scenario to choose and one to report, measures that are all null."""
    study = tiny_study(tmp_path_factory.mktemp("small"), tiny_lm, tiny_dir)
    config = replace(
        SWEEP,
        layers=(1,),
        scopes=("all", "response", "first:2"),
        threats=("malicious_prompt", "prefill:2"),
        test_scenarios=2,
        control_draws=1,
        judge_free=False,
    )
    project(study, ProjectConfig())
    sweep(study, config, judge=WordJudge())
    trace_examples(study, select(study.run), n_scenarios=1)
    return study.run


class TestSmallRuns:
    def test_every_figure_is_drawn_or_says_what_is_missing(self, small: Run) -> None:
        made = draw_figures(small, static=False)
        drawn = {page.stem for page in made.pages}
        assert {"trait-coherence-all", "layer-alpha-all", "frontiers", "firing-rates"} <= drawn
        assert {"projections", "steering-plane", "token-layer-map", "steering-duration"} <= drawn
        left = {one.name: one.why for one in made.left_out}
        assert set(left) == {*SUITES, "causal_scan", "elo"}
        assert all("`" in why for why in left.values())

    @pytest.mark.parametrize("share", [0.4, 1.0])
    def test_rows_without_scores_leave_figures_or_refusals(
        self, small: Run, tmp_path: Path, share: float
    ) -> None:
        run = Run(Path(shutil.copytree(small.path, tmp_path / "run")))
        for shard in run.sweep_folder.glob("*.parquet"):
            table = pq.read_table(shard)
            drawn = np.random.default_rng(1).uniform(size=table.num_rows) < share
            for name in ("trait", "coherence"):
                place = table.schema.get_field_index(name)
                values = np.where(drawn, np.nan, table[name].to_numpy())
                field = table.schema.field(name)
                table = table.set_column(place, field, pa.array(values, field.type))
            pq.write_table(table, shard)
        made = draw_figures(run, static=False)
        drawn_names = {page.stem for page in made.pages}
        left = {one.name: one.why for one in made.left_out}
        scored = {"trait-coherence-all", "layer-alpha-all", "frontiers", "steering-duration"}
        assert drawn_names >= {"projections", "transfer", "steering-plane"}
        if share < 1:
            assert scored <= drawn_names
            for page in made.pages:
                if page.stem in scored - {"steering-duration"}:
                    text = re.sub(r"<br>|\\u003cbr\\u003e", " ", page.read_text("utf-8"))
                    assert re.search(r"\d+ generations without a score", text), page.stem
        else:
            assert not scored & drawn_names
            assert "nothing was scored" in left["trait_coherence"]
            assert "`interp-steer sweep " in left["frontiers"]

    def test_a_missing_trace_is_made_by_a_command_that_works(
        self, small: Run, tmp_path: Path
    ) -> None:
        from interp_steer.cli import Trace, _parse

        run = Run(Path(shutil.copytree(small.path, tmp_path / "run")))
        shutil.rmtree(run.traces_folder)
        made = draw_figures(run, only=["token_strips", "firing_rates"], static=False)
        said = [made.left_out[0].why, *made.notes]
        commands = [re.search(r"interp-steer (trace [^`]*)", line) for line in said]
        assert len(commands) == 2 and all(commands)
        for found in commands:
            assert found is not None
            asked = _parse(found[1].split())
            assert isinstance(asked, Trace) and asked.scenario == "ID"
            assert asked.parquet == run.traces_folder / "NAME.parquet"

    def test_a_threat_of_its_own_is_not_mixed_into_the_usual_ones_figure(self, small: Run) -> None:
        rows = read_rows(small).to_pandas()
        usual = rows[(rows.threat == "malicious_prompt") & (rows.method == "swfc")]
        # Finalists have more rows than the grid; the lines are of the scenarios that chose.
        usual = usual[usual.scenario.isin(small.manifest["sweep"]["selection"])]
        usual = usual[(usual.scope == "all") & (usual.control == "none") & (usual.alpha == 1.0)]
        others = rows[(rows.threat == "prefill:2") & (rows.method == "swfc")]
        assert len(others) > 0
        table = pd.read_csv(small.figures_folder / "trait-coherence-all.csv")
        shown = table[(table.method == "swfc") & (table.alpha == 1.0)]
        assert shown.trait.to_list() == pytest.approx([usual.trait.mean()])


def test_drawn_numbers_are_the_stored_ones(fitted: Run) -> None:
    source = RunSource(fitted)
    (drawing,) = RECIPES["readability"].draw(source)
    figure = readability_by_layer(source.probes)
    drawn = next(t for t in drawing.build(SINGLE).data if t.name == "cross-fitted")
    stored = json.loads((fitted.path / "probes.json").read_text(encoding="utf-8"))["layers"]
    assert list(drawn.x) == [entry["layer"] for entry in stored]
    assert list(drawn.y) == [probe.crossfit.cohens_d for probe in source.probes.probes]
    planted = np.asarray(drawn.y, float) + 1e-6
    assert not np.array_equal(planted, [p.crossfit.cohens_d for p in source.probes.probes])
    assert figure.data


def test_maps_and_frontiers_hold_the_scores() -> None:
    sweep = make_sweep()
    first = next(t for t in layer_alpha_maps(sweep).data if t.type == "heatmap")
    assert np.array_equal(np.asarray(first.z), [[1, 11, 21, 31], [4, 14, 24, 34]])
    figure = frontiers({"all": sweep})
    (ring,) = [t for t in figure.data if t.name == "operating point"]
    assert (ring.x[0], ring.y[0]) == (97.0, 34.0)


def test_a_frontier_has_no_dominated_cell() -> None:
    trait, coherence = np.array([1.0, 2.0, 3.0, 2.0, np.nan]), np.array([9.0, 9.0, 5.0, 6.0, 9.0])
    assert on_frontier(trait, coherence).tolist() == [False, True, True, False, False]


def test_suite_curves_hold_their_table_and_ratings_name_their_places() -> None:
    rows = [
        {
            "panel": "ELO",
            "series": s,
            "x": float(i),
            "value": 1500.0 + i,
            "low": 1490.0,
            "high": 1510.0,
            "n": 20,
        }
        for i, s in enumerate(("swfc", "malicious, unsteered"))
    ]
    result = SuiteCurves(values=pd.DataFrame(rows), x_title="", what="comparisons", chosen={})
    figure = suite_curves(result)
    assert [v for t in figure.data if "markers" in (t.mode or "") for v in t.y] == [1500, 1501]
    assert figure.layout.xaxis.ticktext[0] == "SwFC" and "n ≥ 20 comparisons" in words(figure)


def test_a_series_of_a_later_panel_is_in_the_legend_too() -> None:
    rows = [
        {"panel": f"% right, {s}", "series": s, "x": 1.0, "value": 9.0, "low": 8.0, "high": 9.5}
        for s in ("swfc", "sttp")
    ]
    values = pd.DataFrame([*rows, {**rows[0], "x": 2.0}]).assign(n=20)
    chosen = {"swfc": 1.0, "sttp": 1.0}
    figure = suite_curves(SuiteCurves(values=values, x_title="α", what="q", chosen=chosen))
    named = [t.name for t in figure.data if t.showlegend is not False]
    assert sorted(named) == ["StTP", "SwFC", "operating point"]


def test_suite_points_hold_their_table_line_by_line() -> None:
    rows = [
        ("trait <b>", "unsteered", "none", 90.0),
        ("trait <b>", "own guard", "swfc", 80.0),
        ("trait <b>", "own guard", "sttp", 70.0),
        ("a ratio", "own guard", "sttp", 1.5),
    ]
    values = pd.DataFrame(rows, columns=["panel", "group", "series", "value"])
    values = values.assign(low=values["value"] - 1, high=values["value"] + 2, n=[9, 8, 7, 9])
    result = SuitePoints(
        values=values, what="scenarios", reference={"ratio": 1.0}, series_titles={"swfc": "first"}
    )
    for column in (SINGLE, SCREEN):
        figure = suite_points(result, column=column)
        drawn = [t for t in figure.data if t.mode == "markers"]
        assert [t.x[0] for t in drawn] == [90.0, 80.0, 70.0, 1.5]
        assert [round(t.y[0]) for t in drawn] == [0, 1, 1, 1]
        assert drawn[1].y[0] != drawn[2].y[0]
        assert [t.name for t in drawn if t.showlegend] == ["first", "StTP"]
        assert {t.error_x.array[0] for t in drawn} == {2.0}
        assert {t.error_x.arrayminus[0] for t in drawn} == {1.0}
        assert figure.layout.yaxis.ticktext[:2] == ("unsteered", "own guard")
        assert "n ≥ 7 scenarios" in words(figure) and "<b>" not in figure.layout.annotations[0].text
        (line,) = figure.layout.shapes
        assert (line.x0, line.xref) == (1.0, "x2")


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("multi_turn", "multi-turn"),
        ("cost", "cost"),
        ("cross_trait", "cross-trait --other OTHER_RUN"),
    ],
)
def test_a_suite_that_was_not_run_is_refused_with_its_command(
    fitted: Run, name: str, suite: str
) -> None:
    with pytest.raises(MissingStageError, match=f"evaluate .* --suite {suite}`"):
        RECIPES[name].draw(RunSource(fitted))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_model_is_drawn_as_text(tmp_path: Path, text: str) -> None:
    assert "<" not in as_text(text) and "\n" not in as_text(text) and as_text(text)
    token = StripToken(text=text, segment="response", distance=1.0, row=(("token", text),))
    strip = TokenStrip(heading=text, tokens=(token,), note=text)
    figure = token_strips(TokenStrips(strips=(strip,), hook="a hook"))
    page = write_html(figure, tmp_path / "x.html", SIDECAR).read_text(encoding="utf-8")
    body = page[page.rindex("Plotly.newPlot") :]
    assert "<script>alert" not in body and "<b>x</b>" not in words(figure)


def test_gallery_links_are_put_once_and_taken_away() -> None:
    page = "## a\n\n    python -m figures.elo RUN\n\ntext\n"
    once = linked(page, {"elo": [Path("elo.png")]})
    assert once.count("](gallery/elo.png)") == 1
    assert linked(once, {"elo": [Path("elo.png")]}) == once and linked(once, {}) == page


@pytest.mark.slow
def test_static_pictures_embed_their_fonts(tmp_path: Path) -> None:
    if (lacking := missing_renderer()) is not None:
        pytest.skip(lacking)
    figure = frontiers({"all": make_sweep()}, column=SINGLE)
    paths = [tmp_path / f"x.{kind}" for kind in ("svg", "pdf", "png")]
    render([Picture(figure=figure, path=path) for path in paths])
    svg, pdf, png = (path.read_bytes() for path in paths)
    assert b"<text" in svg and b"coherence (0-100)" in svg
    assert png[:4] == b"\x89PNG" and int.from_bytes(png[16:20]) == round(312 * 300 / 96)
    assert pdf[:4] == b"%PDF" and b"/FontFile" in pdf and not re.search(rb"/Type3\b", pdf)
    if shutil.which("pdffonts"):
        said = subprocess.run(["pdffonts", paths[1]], capture_output=True, text=True, check=True)
        assert "Type 3" not in said.stdout and " yes " in said.stdout
