"""Which analyses are due, and that making them keeps options, refuses politely, repeats nothing."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd
import pyarrow.parquet as pq
import pytest

import analyses
from interp_steer.analysis import upkeep
from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.tidy_tables import AnalysisError, Findings
from interp_steer.analysis.upkeep import keep_up, known_analyses, why_due
from interp_steer.cli import main
from interp_steer.config import ModelPlace, ProjectConfig
from interp_steer.fit_stage import project
from interp_steer.model import HookedLM
from interp_steer.recipes import RECIPES, shown_analyses
from interp_steer.runs import Run
from study_cases import tiny_study

QUICK = ("boundary_placement", "projection_distributions")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Path:
    """A fitted run with its token projections."""
    study = tiny_study(tmp_path_factory.mktemp("upkeep"), tiny_lm, tiny_dir)
    project(study, ProjectConfig())
    return study.run.path


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Run:
    """A copy, to be changed."""
    return Run(Path(shutil.copytree(kept, tmp_path / "run")))


def sidecar(run: Run, name: str) -> dict:
    return json.loads((run.analyses_folder / f"{name}.json").read_text(encoding="utf-8"))


def fewer_tokens(run: Run) -> None:
    table = pq.read_table(run.projections_file)
    pq.write_table(table.slice(0, table.num_rows // 2), run.projections_file)


class TestDue:
    def test_what_is_missing_is_made_once(self, run: Run) -> None:
        said: list[str] = []
        first = keep_up(run, QUICK, tell=said.append)
        assert first.made == QUICK
        assert said[0] == "analysis 1 of 2, boundary_placement: not made yet"
        assert said[1].startswith("analysis boundary_placement: done, ")
        stamps = {p: p.stat().st_mtime_ns for p in run.analyses_folder.iterdir()}
        again = keep_up(run, QUICK)
        assert again.made == () and again.unanswered == ()
        assert {p: p.stat().st_mtime_ns for p in run.analyses_folder.iterdir()} == stamps

    def test_what_read_something_else_is_made_again_and_nothing_else(self, run: Run) -> None:
        keep_up(run, [*QUICK, "direction_stability"])
        before = pd.read_parquet(run.analyses_folder / "projection_distributions.parquet")
        fewer_tokens(run)
        assert why_due(run, QUICK[0]) == "made before projections.parquet changed"
        assert why_due(run, "direction_stability") is None
        assert keep_up(run, [*QUICK, "direction_stability"]).made == QUICK
        after = pd.read_parquet(run.analyses_folder / "projection_distributions.parquet")
        assert after["n"].sum() < before["n"].sum()

    def test_what_was_absent_and_has_come_is_a_change(self, run: Run, tmp_path: Path) -> None:
        aside = run.projections_file.rename(tmp_path / "aside.parquet")
        keep_up(run, ["projection_distributions"])
        assert sidecar(run, "projection_distributions")["absent"] == ["projections.parquet"]
        assert why_due(run, "projection_distributions") is None
        aside.rename(run.projections_file)
        reason = "made before projections.parquet changed"
        assert why_due(run, "projection_distributions") == reason

    @pytest.mark.parametrize("text", ["{", "[]", "", "null"])
    def test_a_damaged_sidecar_is_made_again(self, run: Run, text: str) -> None:
        keep_up(run, QUICK[:1])
        (run.analyses_folder / f"{QUICK[0]}.json").write_text(text)
        assert why_due(run, QUICK[0]) == "not made yet"
        assert keep_up(run, QUICK[:1]).made == QUICK[:1]
        assert why_due(run, QUICK[0]) is None

    def test_a_missing_part_and_another_version_are_made_again(self, run: Run) -> None:
        keep_up(run, QUICK)
        (run.analyses_folder / "boundary_placement_firing.parquet").unlink()
        assert why_due(run, "boundary_placement") == "not made yet"
        note = sidecar(run, "projection_distributions")
        note["versions"]["interp-steer"] = "0.0.1"
        path = run.analyses_folder / "projection_distributions.json"
        path.write_text(json.dumps(note), encoding="utf-8")
        assert why_due(run, "projection_distributions") == "made by another version"

    def test_options_are_kept(self, run: Run) -> None:
        from analyses.projection_distributions import main as script

        assert script([str(run.path), "--bins", "7", "--layers", "0", "1"]) == 0
        fewer_tokens(run)
        assert keep_up(run, QUICK[1:]).made == QUICK[1:]
        note = sidecar(run, "projection_distributions")
        assert (note["config"]["bins"], note["config"]["layers"]) == (7, [0, 1])
        command = "python -m analyses.projection_distributions run --layers 0 1 --bins 7"
        assert note["command"] == command


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    device: str = "cpu"


class TestUnanswered:
    def plant(self, monkeypatch: pytest.MonkeyPatch, find) -> None:
        module = ModuleType("analyses.planted")
        module.ANALYSIS = Analysis(name="planted", about="?", options=Options, find=find)
        monkeypatch.setitem(sys.modules, "analyses.planted", module)

    def test_a_refusal_names_what_is_missing_and_the_others_go_on(self, run: Run) -> None:
        said: list[str] = []
        found = keep_up(run, ["operating_points", *QUICK], tell=said.append)
        assert found.made == QUICK
        (one,) = found.unanswered
        assert one.name == "operating_points"
        assert f"run `interp-steer select {run.path}` first" in one.why
        assert said[1].startswith("analysis operating_points: not answered, ")

    @pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), TypeError("x")])
    def test_an_unfamiliar_artifact_is_a_refusal(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def find(run: Run, options: Options) -> Findings:
            raise error

        self.plant(monkeypatch, find)
        (one,) = keep_up(run, ["planted"]).unanswered
        assert "does not fit this question" in one.why and type(error).__name__ in one.why

    def test_the_device_is_passed_on(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []

        def find(run: Run, options: Options) -> Findings:
            seen.append(options.device)
            raise AnalysisError("no")

        self.plant(monkeypatch, find)
        keep_up(run, ["planted"], place=ModelPlace(device="cuda:1"))
        keep_up(run, ["planted"])
        assert seen == ["cuda:1", None]

    def test_without_the_scripts_a_note_says_so(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keep_up(run, QUICK[:1])
        monkeypatch.setitem(sys.modules, "analyses", None)
        assert known_analyses() == ()
        assert keep_up(run, QUICK[:1]).notes == ()
        (note,) = keep_up(run, QUICK).notes
        assert "not installed here" in note and f"`python -m analyses {run.path}`" in note
        assert QUICK[1] in note and QUICK[0] not in note

    def test_a_foreign_folder_of_that_name_is_no_package_of_ours(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "analyses", ModuleType("analyses"))
        assert known_analyses() == ()


@pytest.mark.slow
class TestFiguresCommand:
    def test_it_makes_what_its_figures_draw(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = ["figures", str(run.path), "--no-static", "--only", "projections", "readability"]
        assert main([*asked, "--no-analyses"]) == 0
        assert "note: readability: no intervals and no null" in capsys.readouterr().out
        assert not run.analyses_folder.exists()
        assert main(asked) == 0
        said = capsys.readouterr()
        assert "note: readability" not in said.out
        assert "analysis 1 of 1, layer_readability: not made yet" in said.err
        assert {p.stem for p in run.analyses_folder.iterdir()} == {"layer_readability"}
        drawn = pd.read_csv(run.figures_folder / "readability.csv")
        assert {"value_low", "null_high"} <= set(drawn.columns)
        assert main([*asked, "--quiet"]) == 0
        assert "analysis" not in capsys.readouterr().err

    def test_one_script_makes_the_analysis_that_it_draws(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from figures.readability import main as script

        assert script([str(run.path), "--no-static", "--no-analyses"]) == 0
        assert "no intervals" in capsys.readouterr().err
        assert script([str(run.path), "--no-static"]) == 0
        said = capsys.readouterr().err
        assert "analysis layer_readability: done" in said and "no intervals" not in said

    def test_every_analysis_is_asked_and_those_left_are_named(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(analyses, "NAMES", ("operating_points", *QUICK, "multi_turn"))
        monkeypatch.setattr("interp_steer.run_figures.shown_analyses", lambda _only: ())
        assert main(["figures", str(run.path), "--no-static"]) == 0
        said = capsys.readouterr()
        assert {p.stem.split("_")[0] for p in run.analyses_folder.iterdir()} == {
            "boundary",
            "projection",
        }
        assert "not answered: operating_points: the run has no operating points" in said.out
        # One line, not two, for what is an analysis and a figure.
        assert "not drawn: multi_turn" in said.out and "not answered: multi_turn" not in said.out
        assert "Traceback" not in said.err

    def test_an_unknown_figure_is_refused_before_anything_is_made(self, run: Run) -> None:
        assert main(["figures", str(run.path), "--only", "horoscope"]) == 1
        assert not run.analyses_folder.exists()


def test_recipes_name_analyses_that_exist() -> None:
    assert set(shown_analyses()) <= set(analyses.NAMES)
    assert shown_analyses(["transfer"]) == ()
    assert shown_analyses(["token_strips", "steering_plane"]) == ("baseline_projections",)
    assert set(RECIPES["causal_scan"].analyses) == {"causal_scan"}
    assert analyses.__name__ == upkeep.PACKAGE
