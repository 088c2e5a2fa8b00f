"""The analyses on a whole small run: tables against independent numbers, refusals, sidecars.

The model is random, so that nothing is found is expected; that the numbers are those of the
artifacts is what is tested.
"""

import importlib
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import analyses
import analyses.__main__ as everything
from interp_steer.analysis import tidy_tables
from interp_steer.analysis.bootstrap import (
    ClusterBootstrap,
    as_columns,
    grouped_means,
    mean_columns,
    named_groups,
)
from interp_steer.analysis.frames import numbers, rows_where
from interp_steer.analysis.readability_intervals import (
    cosine_error,
    layer_margins,
    readability_estimates,
    swapped_labels,
)
from interp_steer.analysis.run_rows import (
    Baselines,
    is_cell,
    on_most_scenarios,
    sweep_frame,
    unsteered,
)
from interp_steer.analysis.scan_stage import run_contrasts
from interp_steer.analysis.tidy_tables import AnalysisError, Findings, read_findings, write_findings
from interp_steer.analysis.trace_frames import token_type
from interp_steer.analysis.training_data import training_data
from interp_steer.cells import ALIGNED, MALICIOUS, Cell, prefilled, steered_cell
from interp_steer.config import FitConfig, ProjectConfig, SweepConfig
from interp_steer.errors import InterpSteerError
from interp_steer.fit_stage import fit, load_probes, project
from interp_steer.intervals import PERCENT
from interp_steer.measures import MEASURE_COLUMNS
from interp_steer.model import HookedLM
from interp_steer.probes import fit_probes, shuffled_label_direction
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.statistics import StatisticsError
from interp_steer.study import reopen_study
from interp_steer.sweep_stage import select, sweep
from interp_steer.trace_stage import trace_examples
from study_cases import SAMPLING, WordJudge, new_study

SWEEP = SweepConfig(
    layers=(0, 1),
    methods=("swfc", "sttp"),
    swfc_alphas=(1.0, 4.0),
    sttp_alphas=(0.0, 12.0),
    scopes=("all", "response", "first:2"),
    threats=("malicious_prompt", "prefill:2"),
    control_draws=1,
    control_scenarios=2,
    extras=("guard",),
    batch_size=64,
)
SUITES = ("multi_turn", "capabilities", "cross_trait", "cost")
"""Analyses that only show what a suite found; tests/test_suites_questions.py runs suites."""
ARGUMENTS = {
    "causal_scan": ("--scenarios", "3", "--draws", "2"),
    "layer_readability": ("--null-draws", "2"),
    "direction_stability": ("--seeds", "2"),
    "projection_distributions": ("--bins", "9"),
    "token_interventions": ("--top", "2"),
}
"""Less of everything; every question is asked once, with these."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Path:
    """A run with every stage done; its judge-free measures are planted (see `planted_measures`)."""
    study = new_study(tmp_path_factory.mktemp("finished") / "kept", tiny_lm, tiny_dir)
    fit(study, FitConfig(sampling=SAMPLING, responses_per_scenario=2))
    project(study, ProjectConfig())
    sweep(study, SWEEP, judge=WordJudge())
    rewrite_sweep(study.run.path, planted_measures)
    trace_examples(study, select(study.run), n_scenarios=2)
    return study.run.path


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def analyse(name: str, run: Path, *arguments: str) -> int:
    return importlib.import_module(f"analyses.{name}").main([str(run), *arguments])


_MADE: dict[tuple[str, ...], dict[str, pd.DataFrame]] = {}
"""Tables by run, analysis and arguments: a run that nobody damages is asked each question once."""


def table(name: str, run: Path, *arguments: str, part: str = "") -> pd.DataFrame:
    """One table of an analysis of `run`, made if these arguments have not been asked yet."""
    arguments = arguments or ARGUMENTS.get(name, ())
    key = (str(run), name, *arguments)
    if run.parent.name != "kept" or key not in _MADE:
        for path in (run / "analyses").glob(f"{name}*"):
            path.unlink()
        assert analyse(name, run, *arguments) == 0
        made = sorted((run / "analyses").glob(f"{name}*.parquet"))
        _MADE[key] = {path.stem: read_findings(Run(run), path.stem) for path in made}
    return _MADE[key][f"{name}_{part}" if part else name].copy()


def rewrite_sweep(run: Path, change: Any) -> None:
    """Apply `change` to the frame of every shard."""
    for path in (run / "sweep").glob("*.parquet"):
        old = pq.read_table(path)
        new = change(old.to_pandas())
        pq.write_table(type(old).from_pandas(new, schema=old.schema, preserve_index=False), path)


def planted_measures(rows: pd.DataFrame) -> pd.DataFrame:
    """Known measures: what records real ones has its own tests. No embedder, hence no cosine."""
    rng = np.random.default_rng(len(rows))
    rows = rows.assign(**{name: rng.uniform(size=len(rows)) for name in MEASURE_COLUMNS})
    rows["target_distance"] += 2 * rows["alpha"]
    rows["embedding_cosine"] = np.nan
    rows.loc[rows["method"] == "none", ["target_distance", "fired_share"]] = np.nan
    return rows


class TestEveryAnalysis:
    @pytest.mark.parametrize("name", [n for n in analyses.NAMES if n not in SUITES])
    def test_writes_the_tables_that_it_documents(self, name: str, finished: Path) -> None:
        table(name, finished)
        made = _MADE[(str(finished), name, *ARGUMENTS.get(name, ()))]
        about = importlib.import_module(f"analyses.{name}").__doc__
        documented = re.findall(rf"^({name}\w*):", about, flags=re.MULTILINE)
        assert sorted(made) == sorted(documented)
        for stem, frame in made.items():
            assert len(frame)
            text = re.split(rf"^{stem}:", about, flags=re.MULTILINE)[1]
            text = re.split(rf"^{name}\w*:", text, flags=re.MULTILINE)[0] + about
            unsaid = [c for c in frame.columns if not _is_said(c, text)]
            assert unsaid == [], f"{stem} has columns that its docstring does not name"
            csv = pd.read_csv(finished / "analyses" / f"{stem}.csv")
            assert list(csv.columns) == list(frame.columns)
            assert len(csv) == len(frame)

    def test_names_on_stdout_what_it_wrote(
        self, finished: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert analyse("operating_points", finished) == 0
        said = capsys.readouterr().out
        assert said == f"{finished / 'analyses' / 'operating_points.parquet'}\n"

    @pytest.mark.parametrize("name", analyses.NAMES)
    def test_is_listed_with_question_command_and_runtime(self, name: str) -> None:
        module = importlib.import_module(f"analyses.{name}")
        assert module.ANALYSIS.name == name
        assert module.__doc__.splitlines()[0].endswith("?")
        assert f"python -m analyses.{name} RUN" in module.__doc__
        assert re.search(r"seconds?|moment|minute|exits", module.__doc__)
        path = Path(analyses.__file__).parent / f"{name}.py"
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250

    def test_every_script_is_listed(self) -> None:
        scripts = {p.stem for p in Path(analyses.__file__).parent.glob("[a-z]*.py")}
        assert scripts == set(analyses.NAMES)

    @pytest.mark.parametrize("name", analyses.NAMES)
    def test_a_bare_run_is_refused_by_what_is_missing(
        self, name: str, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for path in copied.iterdir():
            if path.name != "manifest.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        manifest = json.loads((copied / "manifest.json").read_text())
        del manifest["sweep"]
        (copied / "manifest.json").write_text(json.dumps(manifest))
        assert analyse(name, copied) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"{name}: ")
        assert re.search(
            r"has no (probes|sweep|operating points|traces|per-token|multi-turn|capabilities|cost"
            r"|cross-trait)",
            said,
        )
        assert not (copied / "analyses").exists()

    @pytest.mark.parametrize("name", analyses.NAMES)
    def test_no_run_is_a_refusal_and_no_argument_a_usage_error(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert analyse(name, tmp_path / "nowhere") == 1
        assert "there is no run directory" in capsys.readouterr().err
        main = importlib.import_module(f"analyses.{name}").main
        assert main([]) == 2
        assert main(["--help"]) == 0
        assert "RUN" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["operating_points", "token_interventions"])
    def test_the_same_run_gives_the_same_bytes(self, name: str, copied: Path) -> None:
        def written() -> dict[str, bytes]:
            assert analyse(name, copied, *ARGUMENTS.get(name, ())) == 0
            return {p.name: p.read_bytes() for p in sorted((copied / "analyses").iterdir())}

        first = written()
        assert first
        assert written() == first

    def test_the_sidecar_says_where_from(self, copied: Path) -> None:
        assert analyse("dose", copied) == 0
        note = json.loads((copied / "analyses" / "dose.json").read_text())
        assert note["command"] == "python -m analyses.dose run"
        assert set(note["inputs"]) == {"sweep"}
        assert note["columns"]["target_distance"] == "double"
        before = note["inputs"]["sweep"], note["data_sha256"]
        rewrite_sweep(copied, lambda f: f.assign(target_distance=f["target_distance"] * 2))
        assert analyse("dose", copied) == 0
        note = json.loads((copied / "analyses" / "dose.json").read_text())
        assert note["inputs"]["sweep"] != before[0]
        assert note["data_sha256"] != before[1]


def _is_said(column: str, text: str) -> bool:
    if re.search(rf"\b{column}\b", text):
        return True
    stem = re.sub(r"_(low|high)$", "", column)
    if stem != column:
        return bool(re.search(rf"\b{stem}\b", text)) and "_low" in text
    return bool(re.fullmatch(r"q\d\d", column)) and "q01 ... q99" in text


class TestAllAtOnce:
    def test_those_that_can_answer_do(
        self, finished: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code = everything.main([str(finished), "--only", "multi_turn", "operating_points"])
        said = capsys.readouterr()
        assert code == 0
        lines = said.err.splitlines()
        assert lines[0].startswith("multi_turn: the run")
        assert re.fullmatch(r"multi_turn: not answered, \d+\.\d s", lines[1])
        assert re.fullmatch(r"operating_points: done, \d+\.\d s", lines[2])
        assert lines[3] == "1 of 2 questions answered"
        assert "operating_points.parquet" in said.out

    def test_none_is_a_failure_and_an_unknown_one_a_usage_error(self, finished: Path) -> None:
        assert everything.main([str(finished), "--only", "multi_turn"]) == 1
        assert everything.main([str(finished), "--only", "horoscope"]) == 2
        assert everything.main([]) == 2


class TestReadability:
    def test_cross_fitted_values_are_those_of_the_probes(self, finished: Path) -> None:
        found = table("layer_readability", finished)
        for probe in load_probes(Run(finished)).probes:
            at_layer = found[found["layer"] == probe.layer].set_index(["measure", "fit"])["value"]
            for name in ("accuracy", "auroc", "cohens_d"):
                wanted = getattr(probe.crossfit, name)
                assert at_layer[name, "crossfit"] == pytest.approx(wanted, nan_ok=True)
                wanted = getattr(probe.in_sample, name)
                assert at_layer[name, "in_sample"] == pytest.approx(wanted, nan_ok=True)
            assert at_layer["cosine_caa", "in_sample"] == pytest.approx(probe.cosine_caa)

    def test_labels_are_swapped_where_the_control_swaps_them(self, finished: Path) -> None:
        pair = load_residuals(finished / "residuals.safetensors")
        data = training_data(Run(finished))
        ids = data.residuals.scenario_ids
        control = shuffled_label_direction(
            pair.aligned.values, pair.malicious.values, scenario_ids=ids, draw=1, seed=20
        )
        labels = swapped_labels(data.is_aligned, data.scenarios, draw=1, seed=20)
        rows = np.concatenate([pair.aligned.values[:, 0], pair.malicious.values[:, 0]])
        refit = fit_probes(
            *(_as_tensor(rows[labels == side])[:, None] for side in (True, False)),
            layers=[0],
            scenario_ids=tuple(
                [s for s, x in zip(data.scenarios, labels, strict=True) if x == side]
                for side in (True, False)
            ),
        )
        assert abs(float(refit.v_hat[0] @ control[0])) > 1 - 1e-6

    def test_an_effect_of_one_cluster_alone_is_no_draw(self) -> None:
        # Three clusters of a row a side: each is all of a resample in 1 of 27.
        margins = np.array([2.1, 2.9, 3.3, -0.4, 0.7, 0.2])
        boot = ClusterBootstrap(["a", "b", "c"] * 2)
        found = readability_estimates(margins, np.arange(6) < 3, boot)["cohens_d"]
        # Of the others two of one and one of another, at least 0.3 and 0.5 apart, have the least
        # spread: a pooled std of a third of that distance.
        assert found.value < found.interval.high < (3.3 + 0.4) / (math.hypot(0.3, 0.5) / 3)

    def planted(self, gap: float, n: int = 60) -> tuple[np.ndarray, np.ndarray, list[str]]:
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(2 * n, 6))
        is_aligned = np.arange(2 * n) < n
        rows[is_aligned, 0] += gap
        return rows, is_aligned, [f"s{i % n}" for i in range(2 * n)]

    def test_a_planted_trait_beats_its_null_and_noise_does_not(self) -> None:
        from interp_steer.analysis.readability_intervals import null_readability
        from interp_steer.readability import make_folds

        for gap, is_readable in ((3.0, True), (0.0, False)):
            rows, is_aligned, names = self.planted(gap)
            folds = make_folds((names[:60], names[60:]))
            margins = layer_margins(rows, is_aligned, folds, method="logistic", c=1.0)
            found = readability_estimates(margins, is_aligned, ClusterBootstrap(names))
            null = null_readability(
                rows, is_aligned, names, folds, method="logistic", c=1.0, n_draws=10, seed=1
            )
            top = max(one.auroc for one in null)
            assert (found["auroc"].interval.low > top) is is_readable

    def test_every_null_draw_is_fitted_to_its_own_labels(self) -> None:
        from interp_steer.analysis.readability_intervals import null_readability
        from interp_steer.readability import make_folds, readability

        rows, is_aligned, names = self.planted(1.0, 12)
        folds = make_folds((names[:12], names[12:]), n_folds=3)
        how = {"method": "logistic", "c": 1.0}
        null = null_readability(rows, is_aligned, names, folds, n_draws=4, seed=1, **how)
        assert null_readability(rows, is_aligned, names, folds, n_draws=0, seed=1, **how) == []
        for draw, found in enumerate(null):
            labels = swapped_labels(is_aligned, names, draw=draw, seed=1)
            margins = layer_margins(rows, labels, folds, **how)
            assert found.cohens_d == pytest.approx(readability(margins, labels).cohens_d)

    def test_intervals_contain_resampled_values(self) -> None:
        rows, is_aligned, names = self.planted(1.0)
        margins, boot = rows[:, 0] - 0.5, ClusterBootstrap(names)
        found = readability_estimates(margins, is_aligned, boot)
        # By hand: repeat rows as often as their cluster was drawn, then score as always.
        from interp_steer.readability import readability

        drawn = []
        for weights in boot.resamples.weights[:400]:
            taken = np.repeat(np.arange(120), weights.astype(int)[boot.of_row])
            drawn.append(readability(margins[taken], is_aligned[taken]))
        for name, estimate in found.items():
            low, high = np.quantile([getattr(d, name) for d in drawn], [0.025, 0.975])
            width = high - low
            assert estimate.interval.low == pytest.approx(low, abs=0.2 * width)
            assert estimate.interval.high == pytest.approx(high, abs=0.2 * width)

    def test_the_error_of_a_cosine_shrinks_with_data_and_needs_two_groups(self) -> None:
        errors = []
        for n in (20, 200):
            rows, is_aligned, names = self.planted(1.5, n)
            boot = ClusterBootstrap(names)
            how = {"method": "logistic", "c": 1.0, "n_groups": 20}
            errors.append(cosine_error(rows, is_aligned, boot, **how))
        assert 0 < errors[1] < errors[0] < 1
        rows, is_aligned, names = self.planted(1.5, 20)
        alone = ClusterBootstrap(["one"] * 40)
        assert math.isnan(
            cosine_error(rows, is_aligned, alone, method="logistic", c=1.0, n_groups=20)
        )


def _as_tensor(rows: Any) -> Any:
    import torch

    return torch.as_tensor(rows).float()


class TestProjections:
    def test_summaries_are_those_of_the_tokens(self, finished: Path) -> None:
        found = table("projection_distributions", finished)
        tokens = pq.read_table(finished / "projections.parquet").to_pandas()
        probe = load_probes(Run(finished)).probe(1)
        chosen = tokens[
            (tokens["layer"] == 1) & (tokens["side"] == "aligned") & (tokens["segment"] == "user")
        ]["projection"]
        row = _only(found, layer=1, unit="token", side="aligned", segment="user")
        assert row["n"] == len(chosen)
        assert row["mean"] == pytest.approx(chosen.mean(), rel=1e-5)
        assert row["q50"] == pytest.approx(chosen.median(), rel=1e-5)
        assert row["share_below_boundary"] == pytest.approx((chosen < probe.boundary).mean())

    def test_pooled_projections_have_the_statistics_of_the_probe(self, finished: Path) -> None:
        pooled = table("projection_distributions", finished, part="pooled")
        for probe in load_probes(Run(finished)).probes:
            at_layer = pooled[pooled["layer"] == probe.layer]
            above = at_layer.loc[at_layer["side"] == "aligned", "projection"]
            assert above.mean() == pytest.approx(probe.mu_pos)
            assert above.std(ddof=0) == pytest.approx(probe.sigma_pos)
        assert len(pooled) == 3 * 2 * 6 * 2  # layers, sides, scenarios, responses
        assert sorted(pooled["response_index"].unique()) == [0, 1]

    def test_histograms_count_everything_on_shared_bins(self, finished: Path) -> None:
        found = table("projection_distributions", finished, part="histogram")
        main = table("projection_distributions", finished)
        keys = ["layer", "unit", "side", "segment"]
        counts = found.groupby(keys)["count"].sum()
        assert counts.to_dict() == main.set_index(keys)["n"].to_dict()
        area = (found["density"] * (found["bin_high"] - found["bin_low"])).groupby(
            [found[k] for k in keys]
        )
        assert area.sum().to_numpy() == pytest.approx(1)
        assert (found.groupby(["layer", "unit"])["bin_low"].nunique() == 9).all()

    def test_without_tokens_responses_remain(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (copied / "projections.parquet").unlink()
        found = table("projection_distributions", copied)
        assert set(found["unit"]) == {"response"}
        assert "nothing about single tokens" in capsys.readouterr().err

    def test_firing_rates_of_every_kind_of_activation(self, finished: Path) -> None:
        found = table("boundary_placement", finished, part="firing")
        traces = pd.concat(
            pq.read_table(p).to_pandas() for p in (finished / "traces").glob("*.parquet")
        )
        traces = traces[(traces["method"] == "sttp") & (traces["scope"] == "all")]
        traces = traces.drop_duplicates(["sample", "layer", "pos"])
        layer, alpha = traces["layer"].iloc[0], traces["alpha"].iloc[0]
        where = {"layer": layer, "method": "sttp", "scope": "all", "alpha": alpha}
        traces = traces[(traces["layer"] == layer) & (traces["alpha"] == alpha)]
        for when in ("before", "after"):
            row = _only(found, activations=f"steered_{when}", unit="token", segment="all", **where)
            below = traces[f"projection_{when}"] < traces["boundary"]
            assert row["share"] == pytest.approx(below.mean())
            assert row["n"] == len(traces)
        placed = table("boundary_placement", finished).set_index("layer")
        probe = load_probes(Run(finished)).probe(2)
        assert placed.loc[2, "place"] == pytest.approx(
            (probe.boundary - probe.mu_neg) / (probe.mu_pos - probe.mu_neg)
        )

    def test_calibrations(self, finished: Path) -> None:
        levels = table("calibration", finished)
        tokens = pq.read_table(finished / "projections.parquet").to_pandas()
        probe = load_probes(Run(finished)).probe(0)
        mine = tokens[(tokens["layer"] == 0) & (tokens["segment"] == "response")]
        above = mine.loc[mine["side"] == "aligned", "projection"].to_numpy(np.float64)
        row = _only(levels, layer=0, calibration="per_token", segment="response")
        assert row["sigma_pos"] == pytest.approx(above.std())
        assert row["sigma_ratio"] == pytest.approx(above.std() / probe.sigma_pos)
        targets = table("calibration", finished, part="targets")
        row = _only(targets, layer=0, alpha=12.0)
        assert row["target_pooled"] == pytest.approx(probe.mu_pos + 12 * probe.sigma_pos)
        back = above.mean() + row["equivalent_alpha"] * above.std()
        assert back == pytest.approx(row["target_pooled"])
        thresholds = table("calibration", finished, part="thresholds")
        row = _only(thresholds, layer=0, rule="token_quantile:0.25", segment="response")
        assert row["fired_aligned"] == pytest.approx(0.25, abs=2 / len(above))


def _only(frame: pd.DataFrame, **values: Any) -> dict[str, Any]:
    for column, value in values.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, f"{len(frame)} rows of {values}"
    return frame.iloc[0].to_dict()


class TestStability:
    def test_all_scenarios_give_one_direction_and_halves_share_nothing(
        self, finished: Path
    ) -> None:
        found = table("direction_stability", finished)
        whole = found[(found["n_scenarios"] == 6) & (found["comparison"] == "between_methods")]
        assert (whole["cosine_mean"].abs() <= 1 + 1e-9).all()
        halves = found[found["comparison"] == "disjoint"]
        assert set(halves["n_scenarios"]) == {3}
        assert (halves["method"] == halves["other_method"]).all()
        assert found["random_cosine"].iloc[0] == pytest.approx(32**-0.5)

    def test_subsets_share_a_span_and_get_the_directions_of_their_own(self) -> None:
        from interp_steer.analysis.direction_fits import directions
        from interp_steer.logistic import fit_logistic

        rng = np.random.default_rng(3)
        rows, is_aligned = rng.normal(size=(30, 50)) + 5, np.arange(30) < 15
        kept = rng.random((4, 30)) < 0.5
        kept[1] = is_aligned
        found = directions(rows, is_aligned, kept, method="logistic", c=2.0)
        assert not found[1].any()  # one side alone
        for place in (0, 2, 3):
            w = fit_logistic(rows[kept[place]], is_aligned[kept[place]], c=2.0).weights
            assert np.allclose(found[place], w / np.linalg.norm(w), rtol=0, atol=1e-12)

    def test_a_planted_direction_is_stable_and_noise_is_not(self) -> None:
        from interp_steer.analysis.direction_fits import layer_agreements

        rng = np.random.default_rng(3)
        is_aligned = np.arange(200) < 100
        names = [f"s{i % 100:03d}" for i in range(200)]
        noise = rng.normal(size=(200, 50))
        planted = noise + 4 * is_aligned[:, None] * np.eye(50)[0]
        for rows, low, high in ((planted, 0.7, 1.0), (noise, -0.5, 0.5)):
            found = [
                a.cosine
                for a in layer_agreements(
                    rows, is_aligned, names, methods=("mean_difference",), n_seeds=5
                )
                if a.comparison == "disjoint" and a.n_scenarios == 50
            ]
            assert len(found) == 5
            assert low < np.mean(found) < high


class TestSweepTables:
    def test_scores_are_means_of_the_rows(self, finished: Path) -> None:
        found = table("layer_alpha_scores", finished)
        frame = sweep_frame(Run(finished))
        cell = steered_cell(method="sttp", layer=1, alpha=12, scope="all")
        rows = frame[is_cell(frame, cell)]
        keys = {k: v for k, v in cell.as_row().items() if k not in ("direction", "control")}
        row = _only(found[found["control"] == "none"], **keys)
        assert row["trait"] == pytest.approx(rows["trait"].mean())
        assert row["n_scenarios"] == rows["scenario"].nunique() == 8
        ends = [frame.loc[is_cell(frame, c), "trait"].mean() for c in (MALICIOUS, ALIGNED)]
        wanted = (rows["trait"].mean() - ends[0]) / (ends[1] - ends[0])
        assert row["recovered"] == pytest.approx(wanted)
        assert row["recovered_low"] <= row["recovered"] <= row["recovered_high"]
        assert found["is_operating_point"].sum() == 2 * 3 * 2  # methods, scopes, threats

    def test_a_prefilled_threat_has_its_own_floor(self, finished: Path) -> None:
        frame = sweep_frame(Run(finished))
        cell = steered_cell(method="swfc", layer=0, alpha=4, scope="all", threat="prefill:2")
        rows = frame[is_cell(frame, cell)]
        assert unsteered(cell) == prefilled(2)
        top, floor = (frame.loc[is_cell(frame, c), "trait"].mean() for c in (ALIGNED, prefilled(2)))
        found = Baselines(frame).recovered(cell, rows)["recovered"]
        assert found == pytest.approx((rows["trait"].mean() - floor) / (top - floor))

    def test_a_baseline_without_a_score_leaves_its_scenario_out(self, finished: Path) -> None:
        frame = sweep_frame(Run(finished))
        cell = steered_cell(method="swfc", layer=0, alpha=4, scope="all")
        lost = frame["scenario"].iloc[0]
        frame.loc[is_cell(frame, ALIGNED) & (frame["scenario"] == lost), "trait"] = np.nan
        found = Baselines(frame).recovered(cell, frame[is_cell(frame, cell)])["recovered"]
        kept = frame[frame["scenario"] != lost]
        now, low, high = (
            kept.loc[is_cell(kept, c), "trait"].mean() for c in (cell, MALICIOUS, ALIGNED)
        )
        assert found == pytest.approx((now - low) / (high - low))
        # The control: a baseline that lacks the scenario altogether answers nothing.
        gone = frame[~(is_cell(frame, ALIGNED) & (frame["scenario"] == lost))]
        none = Baselines(gone).recovered(cell, gone[is_cell(gone, cell)])["recovered"]
        assert math.isnan(none)

    def test_rows_without_a_score_are_counted_and_left_out(
        self, finished: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import analyses.layer_alpha_scores as module

        frame = sweep_frame(Run(finished))
        at_cell = is_cell(frame, steered_cell(method="sttp", layer=1, alpha=12, scope="all"))
        first = frame.index[at_cell][0]
        frame.loc[first, ["trait", "coherence"]] = math.nan
        monkeypatch.setattr(module, "sweep_frame", lambda _run: frame)
        options = module.Options(run_folder=finished)
        found = module.find(Run(finished), options)
        row = _only(
            found.tables[""],
            method="sttp",
            layer=1,
            alpha=12.0,
            scope="all",
            threat="malicious_prompt",
            control="none",
        )
        assert row["n_missing"] == 1
        assert row["trait"] == pytest.approx(frame.loc[at_cell, "trait"].mean())
        assert math.isfinite(row["recovered"])
        assert found.notes == ("1 rows have no score and are left out",)

    def test_operating_points_are_those_of_the_file(self, finished: Path) -> None:
        found = table("operating_points", finished)
        said = json.loads((finished / "operating_points.json").read_text())
        points = found[found["role"] == "operating_point"]
        assert len(points) == len(said["operating_points"])
        first = said["operating_points"][0]
        row = points.iloc[0]
        assert (row["method"], row["scope"], row["layer"]) == (
            first["method"],
            first["scope"],
            first["layer"],
        )
        assert row["trait_low"] == pytest.approx(first["reporting"]["trait"]["low"], nan_ok=True)
        assert set(found["role"]) >= {"operating_point", "control", "baseline"}

    def test_judge_free_measures_are_means_and_say_what_is_missing(self, finished: Path) -> None:
        found = table("judge_free_by_layer", finished)
        note = json.loads((finished / "analyses" / "judge_free_by_layer.json").read_text())
        assert note["notes"][0].startswith("the sweep has no embedding_cosine (")
        frame = sweep_frame(Run(finished))
        cell = steered_cell(method="sttp", layer=0, alpha=12, scope="all")
        rows = frame[is_cell(frame, cell)]
        where = cell.as_row()
        for measure in ("relative_l2", "fired_share", "n_tokens", "distinct_1"):
            row = _only(found, measure=measure, **where)
            assert row["value"] == pytest.approx(rows[measure].mean())
        excess = _only(found, measure="cross_entropy_excess", **where)["value"]
        wanted = (rows["cross_entropy"] - rows["cross_entropy_reference"]).mean()
        assert excess == pytest.approx(wanted)

    def test_an_older_sweep_has_no_dose(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rewrite_sweep(copied, lambda f: f.assign(target_distance=np.nan))
        for name in ("dose", "matched_dose"):
            assert analyse(name, copied) == 1
            assert "the sweep has no target_distance" in capsys.readouterr().err

    def test_the_scenarios_that_most_cells_answered(self) -> None:
        rows = pd.DataFrame(
            {"scenarios": ["selection"] * 3 + ["reporting"], "alpha": [1.0, 2.0, 3.0, 1.0]}
        ).assign(**{c: "x" for c in Cell(side="aligned").as_row() if c != "alpha"})
        assert set(on_most_scenarios(rows)["alpha"]) == {1.0, 2.0, 3.0}

    def test_dose_and_its_correlation(self, finished: Path) -> None:
        found = table("dose", finished)
        frame = sweep_frame(Run(finished))
        cell = steered_cell(method="swfc", layer=0, alpha=4, scope="all")
        row = _only(
            found, method="swfc", layer=0, alpha=4.0, scope="all", threat="malicious_prompt"
        )
        rows = frame[is_cell(frame, cell)]
        assert row["target_distance"] == pytest.approx(rows["target_distance"].mean())
        assert 8 < row["target_distance"] < 9
        ranks = table("dose", finished, part="correlation")
        one = ranks[(ranks["method"] == "swfc") & (ranks["scope"] == "all")]
        assert len(one[one["layer"].isna()]) == 2  # threats
        assert one.loc[one["layer"].isna(), "n_cells"].tolist() == [4, 4]

    def test_steering_duration_stands_beside_continuous_steering(self, finished: Path) -> None:
        found = table("steering_duration", finished)
        frame = sweep_frame(Run(finished))
        where = {"method": "sttp", "layer": 1, "alpha": 12.0, "threat": "malicious_prompt"}
        row = _only(found, scope="first:2", **where)
        assert row["k"] == 2
        short, long = (
            frame[
                is_cell(frame, steered_cell(method="sttp", layer=1, alpha=12, scope=scope))
            ].set_index(["scenario", "response_index"])["trait"]
            for scope in ("first:2", "response")
        )
        assert row["trait_lost"] == pytest.approx((long - short).mean())
        assert _only(found, scope="response", **where)["trait_lost"] == pytest.approx(0)
        prefilled_rows = found[found["prefill"] == 2]
        assert {"none", "sttp"} <= set(prefilled_rows["method"])

    def test_without_short_scopes_the_command_that_adds_them_is_named(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plain = ("all", "response", "none")
        rewrite_sweep(
            copied,
            lambda f: f[f["scope"].isin(plain) & ~f["threat"].str.startswith("prefill")],
        )
        assert analyse("steering_duration", copied) == 1
        assert re.search(
            r"interp-steer sweep \S+ --layers \d --methods \w+ --alphas \S+ --scopes all response "
            r"first:1",
            capsys.readouterr().err,
        )


class TestMatchedDose:
    def rows(self, slope: dict[str, float]) -> pd.DataFrame:
        """Trait = slope x dose + a scenario's own level, without other noise."""
        return pd.DataFrame(
            [
                {
                    "method": method,
                    "alpha": alpha,
                    "scenario": f"s{i}",
                    "cluster": f"s{i}",
                    "target_distance": alpha * scale,
                    "trait": slope[method] * alpha * scale + 3 * i,
                }
                for method, scale in (("swfc", 1.0), ("sttp", 2.0))
                for alpha in (1.0, 2.0, 3.0)
                for i in range(6)
            ]
        )

    def test_methods_that_differ_in_dose_alone_are_equal(self) -> None:
        self.check({"swfc": 5.0, "sttp": 5.0}, wanted=lambda _dose: 0.0)

    def test_a_better_method_is_better_at_every_dose(self) -> None:
        self.check({"swfc": 5.0, "sttp": 6.0}, wanted=lambda dose: dose)

    def check(self, slope: dict[str, float], wanted: Any) -> None:
        from interp_steer.analysis.matched_doses import dose_curve, matched_pairs

        rows = self.rows(slope)
        boot = ClusterBootstrap(rows["cluster"].tolist())
        curves = {
            m: dose_curve(rows.where(rows["method"] == m), boot, score="trait")
            for m in ("sttp", "swfc")
        }
        pairs = list(matched_pairs(curves, boot, n_doses=3))
        assert [pair.dose for pair in pairs] == pytest.approx([2, 2.5, 3])  # 2..6 meets 1..3
        for pair in pairs:
            assert pair.difference.value == pytest.approx(wanted(pair.dose))
            # Paired: the scenario's own level cancels in every resample.
            assert pair.difference.interval.low == pytest.approx(wanted(pair.dose))

    @given(
        st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=5),
        st.integers(-10, 10),
    )
    def test_lines_are_those_of_numpy(self, points: list[tuple[int, int]], dose: int) -> None:
        from interp_steer.analysis.matched_doses import DoseCurve
        from interp_steer.statistics import Sampled

        known = dict(points)  # each dose once
        x, y = (np.array(side, dtype=float) for side in zip(*sorted(known.items()), strict=True))
        sides = [
            tuple(Sampled(value=v, draws=np.array([v, 2 * v])) for v in values) for values in (x, y)
        ]
        found = DoseCurve(doses=sides[0], scores=sides[1]).at(dose)
        assert found.value == pytest.approx(np.interp(dose, x, y))
        assert found.draws[1] == pytest.approx(np.interp(dose, 2 * x, 2 * y))

    def test_no_common_dose_no_row(self) -> None:
        from interp_steer.analysis.matched_doses import dose_curve, matched_pairs

        rows = self.rows({"swfc": 1.0, "sttp": 1.0})
        rows.loc[rows["method"] == "sttp", "target_distance"] += 100
        boot = ClusterBootstrap(rows["cluster"].tolist())
        curves = {
            m: dose_curve(rows.where(rows["method"] == m), boot, score="trait")
            for m in ("sttp", "swfc")
        }
        assert list(matched_pairs(curves, boot, n_doses=3)) == []


class TestTokens:
    def test_traces_suffice_where_the_shards_of_the_sweep_are_gone(self, copied: Path) -> None:
        for shard in (copied / "sweep").glob("*.parquet"):
            shard.unlink()
        found = table("token_interventions", copied, part="false_fires")
        assert "unsteered" in set(found["kind"]) and "swept" not in set(found["kind"])

    def test_shares_are_of_tokens_in_scope(self, finished: Path) -> None:
        found = table("token_interventions", finished)
        traces = pd.concat(
            pq.read_table(p).to_pandas() for p in (finished / "traces").glob("*.parquet")
        ).drop_duplicates(["sample", "side", "layer", "pos"])
        keys = ["method", "scope", "layer", "alpha"]
        for key, rows in traces[traces["in_scope"]].groupby(keys):
            mine = found[(found[keys] == list(key)).all(axis=1)]
            segments = mine[mine["by"] == "segment"].set_index("group")
            for segment, tokens in rows.groupby("segment"):
                assert segments.loc[segment, "share"] == pytest.approx(tokens["fired"].mean())
                assert segments.loc[segment, "n_fired"] == tokens["fired"].sum()
            for by in ("position", "token_type"):
                assert mine.loc[mine["by"] == by, "n_in_scope"].sum() == len(rows)

    def test_the_most_fired_tokens_and_no_more(self, finished: Path) -> None:
        found = table("token_interventions", finished)
        tokens = found[found["by"] == "token"]
        assert tokens.groupby(["method", "scope", "layer", "alpha"]).size().max() == 2

    def test_false_fires_of_unsteered_aligned_tokens(self, finished: Path) -> None:
        found = table("token_interventions", finished, part="false_fires")
        tokens = pq.read_table(finished / "projections.parquet").to_pandas()
        probe = load_probes(Run(finished)).probe(int(found["layer"].iloc[0]))
        mine = tokens[(tokens["layer"] == probe.layer) & (tokens["side"] == "aligned")]
        row = _only(found, layer=probe.layer, kind="unsteered", segment="all")
        assert row["share"] == pytest.approx((mine["projection"] < probe.boundary).mean())
        assert "swept" in set(found["kind"])

    @pytest.mark.parametrize(
        ("token", "wanted"),
        [
            (" lion", "word"),
            ("ing", "word_part"),
            ("Paris", "word"),
            ("12", "number"),
            ("?!", "punctuation"),
            ("<script>", "word_part"),
            ("\n", "white_space"),
            ("", "white_space"),
            ("😀", "punctuation"),
            ("é", "word_part"),
            ("\u0301", "other"),
            ("\u0000", "other"),
        ],
    )
    def test_token_types(self, token: str, wanted: str) -> None:
        assert token_type(token) == wanted

    @given(st.text(max_size=6))
    def test_every_token_has_a_type(self, token: str) -> None:
        from interp_steer.analysis.trace_frames import TOKEN_TYPES

        assert token_type(token) in TOKEN_TYPES

    def test_hostile_tokens_survive_the_table(self, copied: Path) -> None:
        hostile = ["<script>", 'a"b,c', "line\nbreak", "😀", "e\u0301", "", "=1+1"]
        frame = pd.DataFrame({"token": hostile, "n": range(len(hostile))})
        run = Run(copied)
        findings = Findings(tables={"": frame}, inputs=())
        write_findings(run, "hostile", findings, command="c", config={})
        assert read_findings(run, "hostile")["token"].tolist() == hostile
        csv = pd.read_csv(copied / "analyses" / "hostile.csv", keep_default_na=False)
        assert csv["token"].tolist() == hostile


class TestCausalScanOfARun:
    def test_both_sources_of_responses(self, finished: Path) -> None:
        study = reopen_study(finished)
        train, none = run_contrasts(study, "train")
        assert len(train) == 6 * 2
        assert none == 0
        test, _ = run_contrasts(study, "test")
        assert {c.scenario for c in test} <= {s.id for s in study.split("test")}
        rows = sweep_frame(study.run)
        first = test[0]
        mine = rows[is_cell(rows, ALIGNED) & (rows["scenario"] == first.scenario)]
        assert first.aligned_response == tuple(mine["token_ids"].iloc[0])

    def test_effects_and_recovery_of_every_layer(self, finished: Path) -> None:
        found = table("causal_scan", finished)
        assert set(found["layer"]) == {0, 1, 2}
        assert len(found) == 3 * 5 * (2 + 2 * 2) * 2  # layers, segments, patches, units
        full = found[(found["layer"] == 2) & (found["patch"] == "full")]
        full = full.set_index(["segment", "unit"])["effect"]
        assert full["after_system", "summed"] == pytest.approx(1, abs=1e-3)
        assert full["system", "summed"] == pytest.approx(0, abs=1e-3)
        assert (found["n_scenarios"] == 3).all()
        note = json.loads((finished / "analyses" / "causal_scan.json").read_text())
        assert note["config"]["positions"] == "relative"
        recovery = table("causal_scan", finished, part="recovery")
        everyone = table("layer_alpha_scores", finished)
        scores = everyone[
            (everyone["scope"] == "all")
            & (everyone["layer"] == 1)
            & (everyone["threat"] == "malicious_prompt")
            & (everyone["control"] == "none")
            & (everyone["side"] == "malicious")
        ]
        top = scores["coherence"]
        floor = 0.9 * _only(everyone, side="aligned", threat="none", method="none")["coherence"]
        keeping = scores[top >= floor]
        best = _only(recovery, layer=1, scope="all", method="best")
        assert best["keeps_coherence"] == bool(len(keeping))
        if len(keeping):
            assert best["recovered"] == pytest.approx(keeping["recovered"].max())

    def test_without_a_sweep_there_is_nothing_to_correlate(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.rmtree(copied / "sweep")
        assert analyse("causal_scan", copied, "--scenarios", "2", "--layers", "1") == 0
        said = capsys.readouterr()
        assert [Path(line).stem for line in said.out.split()] == ["causal_scan"]
        assert "nothing to correlate with" in said.err

    def test_empty_responses_are_left_out_and_counted(
        self, copied: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = copied / "responses.parquet"
        rows = pq.read_table(path)
        records = rows.to_pylist()
        records[0]["token_ids"] = []
        pq.write_table(type(rows).from_pylist(records, schema=rows.schema), path)
        assert analyse("causal_scan", copied, "--layers", "1") == 0
        assert "1 pairs with an empty or missing response" in capsys.readouterr().err

    def test_one_layer_and_one_scenario_give_a_table_without_intervals(self, copied: Path) -> None:
        found = table("causal_scan", copied, "--scenarios", "1", "--layers", "1")
        assert set(found["n_scenarios"]) == {1}
        assert found["effect"].notna().any()
        assert found["effect_low"].isna().all()
        ranks = read_findings(Run(copied), "causal_scan_correlation")
        assert ranks["spearman"].isna().all()

    def test_a_layer_without_a_probe_is_refused(
        self, finished: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert analyse("causal_scan", finished, "--layers", "7") == 1
        assert "no probe for layer 7" in capsys.readouterr().err
        assert analyse("layer_readability", finished, "--layers", "7") == 1
        assert "no residuals of layer 7" in capsys.readouterr().err


class TestClusterBootstrap:
    def test_means_and_ratios_are_those_of_the_rows(self) -> None:
        boot = ClusterBootstrap(["a", "a", "b", "c"])
        values = np.array([1.0, 3.0, np.nan, 5.0])
        assert boot.mean(values).value == pytest.approx(3)
        found = boot.ratio(np.array([1.0, 1, 1, 1]), np.array([2.0, 2, 2, 2]))
        assert (found.value, found.interval.low, found.interval.high) == (0.5, 0.5, 0.5)

    def test_draws_are_those_of_repeated_rows(self) -> None:
        rng = np.random.default_rng(1)
        names = [f"c{i}" for i in rng.integers(0, 9, 40)]
        values = rng.normal(size=40)
        boot = ClusterBootstrap(names)
        got = boot.sampled_ratio(values, np.ones(40)).draws[:20]
        for weights, draw in zip(boot.resamples.weights[:20], got, strict=True):
            taken = np.repeat(np.arange(40), weights.astype(int)[boot.of_row])
            assert draw == pytest.approx(values[taken].mean())

    def test_one_cluster_has_no_interval(self) -> None:
        found = ClusterBootstrap(["a"] * 5).mean(np.arange(5.0))
        assert found.value == 2
        assert math.isnan(found.interval.low) and math.isnan(found.interval.high)

    def test_at_a_bound_it_is_as_wide_as_wilsons(self) -> None:
        boot = ClusterBootstrap(["a", "b", "c"])
        assert boot.mean(np.full(3, 100.0), bounds=PERCENT).interval.low < 60
        assert boot.mean(np.full(3, 100.0)).interval.low == 100  # no bound named: no width

    def test_nothing_known_is_nan(self) -> None:
        found = as_columns("x", ClusterBootstrap(["a", "b"]).mean(np.full(2, np.nan)))
        assert list(found) == ["x", "x_low", "x_high"]
        assert all(map(math.isnan, found.values()))

    def test_no_rows_are_refused(self) -> None:
        with pytest.raises(StatisticsError, match="at least one row"):
            ClusterBootstrap([])

    def test_null_keys_are_a_group_of_their_own(self) -> None:
        frame = pd.DataFrame(
            {"layer": [1.0, np.nan, np.nan], "x": [1.0, 2.0, 4.0], "scenario": ["a", "a", "b"]}
        ).assign(cluster=lambda f: f["scenario"])
        found = grouped_means(frame, ["layer"], ["x"])
        assert found["x"].tolist() == [1, 3]
        assert found["n_scenarios"].tolist() == [1, 2]

    def test_groups_at_once_have_the_numbers_of_each_alone(self) -> None:
        """Groups of unequal clusters, at bounds, with one cluster, with values missing."""
        rng = np.random.default_rng(3)
        n = 1500
        frame = pd.DataFrame(
            {
                "method": rng.choice(["swfc", "sttp"], n),
                "layer": rng.choice([0.0, 1.0, 2.0, np.nan], n),
                "scenario": [f"s{i:02d}" for i in rng.integers(0, 30, n)],
                "trait": np.clip(rng.normal(60, 60, n), 0, 100),
                "x": rng.normal(size=n),
            }
        )
        frame["cluster"] = "c" + (frame["scenario"].str[1:].astype(int) % 11).astype(str)
        frame.loc[frame["layer"] == 0, "trait"] = 100.0
        frame.loc[frame["layer"] == 1, "cluster"] = "c3"
        frame.loc[(frame["layer"] == 1) & (frame["method"] == "swfc"), "trait"] = 0.0
        frame.loc[(frame["layer"] == 2) & (frame["method"] == "sttp"), "x"] = np.nan
        # Known in two clusters alone: many resamples draw neither, and are not finite.
        frame.loc[frame["layer"].isna() & ~frame["cluster"].isin(["c1", "c2"]), "x"] = np.nan
        frame = frame.drop(frame[(frame["layer"] == 2) & (frame["cluster"] == "c5")].index)
        by, values = ["method", "layer"], ["trait", "x"]
        alone = [key | mean_columns(rows, values) for key, rows in named_groups(frame, by)]
        found = grouped_means(frame, by, values)
        pd.testing.assert_frame_equal(found, pd.DataFrame(alone), rtol=1e-12, atol=1e-12)
        # What the comparison must not rest on: every case is there.
        assert found["trait"].eq(100).any() and found["trait"].eq(0).any()
        assert found["x"].isna().any()
        assert found["trait_low"][found["trait"] == 100].lt(100).all()
        assert found["trait_high"][found["trait"] == 0].gt(0).all()
        assert (found["x"].notna() & found["x_low"].isna()).any()
        shuffled = grouped_means(
            frame.assign(cluster=frame["cluster"].to_numpy()[::-1]), by, values
        )
        assert not np.allclose(shuffled["x_low"], found["x_low"], rtol=1e-6, equal_nan=True)

    def test_no_groups_have_all_columns_and_a_missing_cluster_is_refused(self) -> None:
        frame = pd.DataFrame({"a": [1], "x": [2.0], "scenario": ["s"], "cluster": [None]})
        names = ["a", "x", "x_low", "x_high", "n_rows", "n_scenarios"]
        assert list(grouped_means(frame[:0], ["a"], ["x"]).columns) == names
        with pytest.raises(StatisticsError, match="1 rows are in no cluster"):
            grouped_means(frame, ["a"], ["x"])


class TestBaselineProjections:
    def test_they_are_dot_products_of_the_plain_models_residuals(
        self, finished: Path, tiny_dir: Path
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        found = table("baseline_projections", finished)
        study, plain = reopen_study(finished), AutoModelForCausalLM.from_pretrained(tiny_dir).eval()
        frame, v = sweep_frame(study.run), load_probes(study.run).probe(1).v_hat
        by_id = {scenario.id: scenario for scenario in study.scenarios}
        scenario = found["scenario"].iloc[0]
        sides = {}
        for side, cell in (("aligned", ALIGNED), ("malicious", MALICIOUS)):
            row = frame[is_cell(frame, cell) & (frame["scenario"] == scenario)].iloc[0]
            prompt = study.lm.tokenize(by_id[scenario].prompt(side))
            ids = torch.tensor([[*prompt.token_ids, *map(int, row["token_ids"])]])
            with torch.no_grad():
                # hidden_states[0] is the embedding: block 1 leaves hidden_states[2].
                hidden = plain(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
            sides[side] = (hidden.float() @ v).numpy()
            mine = found[(found["scenario"] == scenario) & (found["side"] == side)]
            mine = mine[(mine["layer"] == 1) & (mine["response_index"] == row["response_index"])]
            got = mine.sort_values("pos")["projection"].to_numpy()
            assert got == pytest.approx(sides[side], abs=1e-4)
        # The control: the sides differ by far more than the tolerance.
        shorter = min(map(len, sides.values()))
        assert np.abs(sides["aligned"][-shorter:] - sides["malicious"][-shorter:]).max() > 0.01

    def test_those_that_were_traced_are_shown(self, finished: Path) -> None:
        traced = {
            scenario
            for path in (finished / "traces").glob("*.parquet")
            for scenario in pq.read_table(path)["scenario"].to_pylist()
        }
        assert set(table("baseline_projections", finished)["scenario"]) == traced

    def test_an_unknown_scenario_is_refused(
        self, finished: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert analyse("baseline_projections", finished, "--scenarios", "nobody") == 1
        assert "no unsteered response to nobody" in capsys.readouterr().err


class TestFrames:
    def test_rows_go_by_place(self) -> None:
        frame = pd.DataFrame({"a": [1, 2, 3]}, index=[5, 5, 7])
        assert rows_where(frame, [True, False, True])["a"].tolist() == [1, 3]
        with pytest.raises(IndexError, match="a mask of 2 values for a frame of 3 rows"):
            rows_where(frame, [True, False])

    def test_missing_numbers_are_nan(self) -> None:
        frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64")})
        assert np.array_equal(numbers(frame, "a"), [1.0, np.nan], equal_nan=True)


class TestFiles:
    def test_a_table_without_rows_is_refused_and_nothing_is_written(self, copied: Path) -> None:
        findings = Findings(
            tables={"": pd.DataFrame({"a": [1]}), "part": pd.DataFrame({"a": []})}, inputs=()
        )
        with pytest.raises(AnalysisError, match="name_part has no rows"):
            write_findings(Run(copied), "name", findings, command="c", config={})
        assert not (copied / "analyses" / "name.parquet").exists()

    def test_a_write_that_fails_half_way_leaves_whole_files(
        self, copied: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_arguments: Any) -> None:
            raise OSError("no space left on device")

        run, old, new = Run(copied), pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2, 3]})
        say = {"command": "c", "config": {}}
        write_findings(run, "name", Findings(tables={"": old}, inputs=()), **say)
        monkeypatch.setattr(tidy_tables, "atomic_write_bytes", fails)
        with pytest.raises(OSError, match="no space"):
            write_findings(run, "name", Findings(tables={"": new}, inputs=()), **say)
        assert read_findings(run, "name")["a"].tolist() == [2, 3]
        assert (copied / "analyses" / "name.csv").read_text() == "a\n1\n"
        monkeypatch.undo()
        write_findings(run, "name", Findings(tables={"": new}, inputs=()), **say)
        assert (copied / "analyses" / "name.csv").read_text() == "a\n2\n3\n"
        kinds = {path.suffix for path in (copied / "analyses").glob("*name*")}
        assert kinds == {".parquet", ".csv", ".json"}  # no temporary file is left

    def test_a_run_that_another_writer_holds_is_refused(self, copied: Path) -> None:
        findings = Findings(tables={"": pd.DataFrame({"a": [1]})}, inputs=())
        with Run(copied).lock(), pytest.raises(InterpSteerError, match="another|writ"):
            write_findings(Run(copied), "name", findings, command="c", config={})

    def test_a_missing_table_names_the_command(self, finished: Path) -> None:
        with pytest.raises(Exception, match=r"python -m analyses\.nothing"):
            read_findings(Run(finished), "nothing")

    def test_a_scenario_file_that_changed_is_refused(
        self, copied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        manifest = json.loads((copied / "manifest.json").read_text())
        other = tmp_path / "other.jsonl"
        lines = Path(manifest["sources"]["scenarios"]).read_text().splitlines()
        other.write_text("\n".join(lines[:-1]))
        manifest["sources"]["scenarios"] = str(other)
        (copied / "manifest.json").write_text(json.dumps(manifest))
        assert analyse("dose", copied) == 1
        assert "scenarios" in capsys.readouterr().err
