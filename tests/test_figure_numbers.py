"""Figures 2, 9 and 10 of a small run: what is drawn is what independent means give."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from figures import gallery
from interp_steer.analysis.duration_grid import duration_command
from interp_steer.analysis.orthogonal import orthogonal_axis
from interp_steer.analysis.upkeep import keep_up
from interp_steer.config import ProjectConfig
from interp_steer.fit_stage import load_probes, project
from interp_steer.model import HookedLM
from interp_steer.plots import (
    DOUBLE,
    SINGLE,
    CausalScan,
    FiringRates,
    TokenMap,
    causal_scan,
    firing_rates,
    token_maps,
)
from interp_steer.plots.sources import RunSource
from interp_steer.recipes import RECIPES
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.study import Study
from interp_steer.sweep import read_rows
from interp_steer.sweep_stage import select, sweep
from study_cases import SWEEP, WordJudge, tiny_study

LAYER = 1


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Study:
    """One layer, first:K and prefilled threats; no operating points."""
    found = tiny_study(tmp_path_factory.mktemp("numbers"), tiny_lm, tiny_dir)
    config = replace(
        SWEEP,
        layers=(LAYER,),
        methods=("swfc", "sttp"),
        scopes=("all", "response", "first:1", "first:2"),
        threats=("malicious_prompt", "prefill:1", "prefill:2"),
        control_draws=0,
        judge_free=False,
    )
    project(found, ProjectConfig())
    sweep(found, config, judge=WordJudge())
    keep_up(found.run, ["baseline_projections"])
    return found


def rows_of(run: Run, **wanted: object) -> pd.DataFrame:
    """Rows of the sweep on the scenarios that chose."""
    frame = read_rows(run).to_pandas()
    frame = frame[frame["scenario"].isin(run.manifest["sweep"]["selection"])]
    for name, value in wanted.items():
        frame = frame[frame[name] == value]
    return frame


def test_tokens_in_the_plane_are_those_of_the_model(study: Study) -> None:
    run = study.run
    table = pd.read_parquet(run.analyses_folder / "baseline_projections.parquet")
    pair, v = load_residuals(run.residuals_file), load_probes(run).probe(LAYER).v_hat.numpy()
    place, sides = pair.aligned.layers.index(LAYER), (pair.aligned, pair.malicious)
    means = np.concatenate([side.values[:, place].double().numpy() for side in sides])
    # By an eigendecomposition of the covariance, not by the singular vectors of the rows.
    out = np.eye(len(v)) - np.outer(v, v) / (v @ v)
    values, vectors = np.linalg.eigh(np.cov((means @ out).T, ddof=0))
    axis = vectors[:, -1] * np.sign(vectors[np.abs(vectors[:, -1]).argmax(), -1])

    rows = rows_of(run, side="malicious", method="none", threat="malicious_prompt")
    row = rows[rows["scenario"] == table["scenario"].iloc[0]].iloc[0]
    scenario = next(s for s in study.scenarios if s.id == row["scenario"])
    sequence = study.lm.tokenize(scenario.prompt("malicious"))
    sequence = sequence.with_response([int(token) for token in row["token_ids"]])
    seen: list[torch.Tensor] = []
    with study.lm.hooks({LAYER: lambda resid, _chunk: seen.append(resid.detach().clone())}):
        study.lm.forward([sequence], return_logits=False)
    residuals = torch.cat(seen, dim=1)[0].double().numpy()

    mine = table[(table["scenario"] == row["scenario"]) & (table["side"] == "malicious")]
    mine = mine[mine["layer"] == LAYER].sort_values("pos")
    wanted = (residuals - means.mean(axis=0)) @ axis
    spread = np.ptp(wanted)
    assert mine["orthogonal"].to_numpy() == pytest.approx(wanted, abs=1e-4 * spread)
    assert mine["orthogonal_share"].iloc[0] == pytest.approx(values[-1] / values.sum())
    # A direction of no meaning gives other places.
    assert mine["orthogonal"].to_numpy() != pytest.approx(residuals @ v, abs=0.05 * spread)


def test_the_axis_is_orthogonal_and_stable_under_offsets() -> None:
    rng = np.random.default_rng(3)
    rows, v = rng.normal(size=(40, 6)) * [1, 1, 5, 1, 1, 1], np.eye(6)[0]
    axis = orthogonal_axis(rows, v)
    assert axis.direction @ v == pytest.approx(0, abs=1e-12)
    assert abs(axis.direction[2]) > 0.9 and 0.5 < axis.share < 1
    moved = orthogonal_axis(rows + 1000.0, v)
    assert moved.coordinates(rows + 1000.0) == pytest.approx(axis.coordinates(rows), abs=1e-8)
    along = orthogonal_axis(np.outer(np.arange(4.0), v), v)
    assert along.share == 0.0 and not along.coordinates(rows).any()


def test_arrows_lead_from_moved_tokens_alone(study: Study) -> None:
    source = RunSource(study.run)
    (drawing,) = RECIPES["steering_plane"].draw(source)
    probe = load_probes(study.run).probe(source.shown_layer())
    table = drawing.table
    steered = table[table["method"] == "sttp"]
    assert len(steered) and (steered["rho"] < probe.boundary).any()
    alpha = steered["alpha"].iloc[0]
    target = probe.mu_pos + alpha * probe.sigma_pos
    fires = steered["rho"] < probe.boundary
    assert steered["rho_after"].to_numpy() == pytest.approx(
        np.where(fires, target, steered["rho"]), rel=1e-5
    )
    heads = [t for t in drawing.build(DOUBLE).data if t.name == "malicious, steered"]
    assert len(heads[1].x) == int(fires.sum())
    assert "response tokens of " in drawing.build(DOUBLE).layout.title.text


def test_without_the_analysis_the_plane_shows_means_and_says_so(study: Study) -> None:
    path = study.run.analyses_folder / "baseline_projections.parquet"
    aside = path.rename(path.with_suffix(".aside"))
    try:
        (drawing,) = RECIPES["steering_plane"].draw(RunSource(study.run))
    finally:
        aside.rename(path)
    assert "response means" in drawing.build(SINGLE).layout.title.text
    assert "make it with `python -m analyses.baseline_projections" in drawing.notes[0]


class TestDuration:
    def test_traits_are_the_means_of_the_rows(self, study: Study) -> None:
        (drawing,) = RECIPES["steering_duration"].draw(RunSource(study.run))
        figure = drawing.build(DOUBLE)
        line = next(t for t in figure.data if t.name == "SwFC" and "markers" in (t.mode or ""))
        shown = drawing.table[drawing.table["method"] == "swfc"]
        alpha = shown["alpha"].iloc[0]
        where = {"method": "swfc", "alpha": alpha, "threat": "malicious_prompt"}
        wanted = [rows_of(study.run, scope=f"first:{k}", **where)["trait"].mean() for k in (1, 2)]
        assert list(line.y) == pytest.approx(wanted)
        assert list(figure.layout.xaxis.ticktext) == ["1", "2"]
        assert figure.layout.yaxis.title.text == "trait (0-100)"
        steady = next(t for t in figure.data if t.name == "SwFC throughout")
        throughout = rows_of(study.run, scope="response", **where)["trait"].mean()
        assert list(steady.y) == pytest.approx([throughout] * 2)

    def test_prefilled_starts_stand_beside_what_they_do_unsteered(self, study: Study) -> None:
        (drawing,) = RECIPES["steering_duration"].draw(RunSource(study.run))
        figure = drawing.build(DOUBLE)
        lines = [t for t in figure.data if t.name == "threat, unsteered" and t.xaxis == "x2"]
        wanted = [
            rows_of(study.run, method="none", threat=f"prefill:{k}")["trait"].mean() for k in (1, 2)
        ]
        assert [list(line.y) for line in lines] == [pytest.approx(wanted)]
        assert list(figure.layout.xaxis2.ticktext) == ["1", "2"]

    def test_a_run_without_short_scopes_is_told_a_sweep_that_keeps_its_protocol(
        self, study: Study
    ) -> None:
        select(study.run)
        said = duration_command(study.run)
        assert said.startswith(f"interp-steer sweep {study.run.path} --layers 1 --methods sttp ")
        assert "--scopes all response first:1 first:2 " in said
        assert "--protocol split --selection-scenarios 3 --no-judge-free " in said
        assert said.endswith("--reporting-scenarios 3 --control-draws 0 --extras")

    def test_that_sweep_is_one_that_the_command_line_takes(self, study: Study) -> None:
        import shlex

        from interp_steer.cli import Sweep, _parse

        found = _parse(shlex.split(duration_command(study.run))[1:])
        assert isinstance(found, Sweep)
        assert found.config.extras == () and found.config.protocol == "split"
        assert found.config.threats[-1] == "prefill:16"


def test_the_scan_quotes_segments_by_their_names() -> None:
    rows = [
        {"layer": layer, "segment": s, "patch": "v_hat", "effect": 0.1 * layer}
        for layer in (0, 1)
        for s in ("user", "after_system")
    ]
    effects = pd.DataFrame(rows).assign(effect_low=0.0, effect_high=1.0, n_scenarios=3)
    result = CausalScan(
        effects=effects,
        recovered=None,
        separation={},
        correlations={("after_system", "all"): (0.5, 0.25, 0.75)},
    )
    said = causal_scan(result).layout.title.text.replace("<br>", " ")
    assert "after system with recovery in scope all 0.5 [0.25, 0.75]" in said


def rates(last: int) -> FiringRates:
    rows = [
        {"kind": "malicious", "by": by, "group": group, "share": 0.5, "low": 0.4, "high": 0.6}
        for by, group in (("response_position", "0"), ("response_position", str(last)))
    ]
    rows.append({**rows[0], "by": "segment", "group": "response"})
    return FiringRates(layer=1, rates=pd.DataFrame(rows).assign(n_tokens=9, n_scenarios=3))


@pytest.mark.parametrize("last", [0, 48])
def test_no_firing_rate_is_cut_by_an_axis(last: int) -> None:
    low, high = firing_rates(rates(last)).layout.xaxis.range
    assert low < 0 and high > last


def test_a_map_is_as_wide_as_its_longest_sequence() -> None:
    def widths(n: int) -> set[float]:
        one = TokenMap(
            heading="x",
            tokens=("a",) * n,
            segments=("response",) * n,
            layers=(0, 1),
            values=np.zeros((2, n)),
        )
        figure = token_maps((one,), column=DOUBLE)
        return {axis.range[1] + 0.5 for axis in figure.select_xaxes()}

    assert widths(20) == {20} and widths(3) == {12}
    (most,) = widths(500)
    assert 30 < most < 100


def test_the_gallery_takes_each_figure_from_the_first_run_that_has_it(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def draw(run: Run, folder: Path, only: list[str]) -> dict[str, list[Path]]:
        asked.append((run.path.name, list(only)))
        name = "transfer" if run.path == study.run.path else "elo"
        return {name: [folder / f"{name}.png"]}

    monkeypatch.setattr(gallery, "draw_gallery", draw)
    monkeypatch.setattr(gallery, "answer_first", lambda *_args, **_options: None)
    other = Run.create(tmp_path / "other")
    (other.path / "manifest.json").write_text(json.dumps({"format": 1, "pins": {}}))
    page = "\n    python -m figures.elo RUN\n\n    python -m figures.transfer RUN\n"
    (tmp_path / "gallery.md").write_text(page, encoding="utf-8")
    assert gallery.main([str(study.run.path), str(other.path), str(tmp_path)]) == 0
    assert [name for name, _ in asked] == ["run", "other"]
    assert "transfer" in asked[0][1] and "transfer" not in asked[1][1]
    said = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    assert "](gallery/elo.png)" in said and "](gallery/transfer.png)" in said
    assert gallery.main([str(tmp_path)]) == 2
