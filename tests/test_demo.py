"""The demo on the bundled model: the whole of `--quick`, and what its variants ask for."""

import json
from pathlib import Path

import pytest

import summary_schema
from interp_steer.cli import main
from interp_steer.config import PAPER_GRID, DemoConfig
from interp_steer.demo import demo_sweep, multiple_choice_score, output_folder
from interp_steer.model import HookedLM
from interp_steer.runs import Run
from interp_steer.sweep import read_rows
from interp_steer.traces import read_traces


def test_variants_write_to_folders_of_their_own() -> None:
    assert output_folder(DemoConfig()) == Path("runs/demo")
    assert output_folder(DemoConfig(quick=True)) == Path("runs/demo-quick")
    assert output_folder(DemoConfig(full=True)) == Path("runs/demo-full")
    assert output_folder(DemoConfig(out=Path("x"))) == Path("x")


def test_full_is_the_papers_grid_and_the_standard_demo_has_eight_draws() -> None:
    assert demo_sweep(DemoConfig(full=True)).grid() == PAPER_GRID
    standard = demo_sweep(DemoConfig())
    assert standard.control_draws == 8
    assert standard.layers is None  # every layer
    assert standard.scopes == ("all", "response")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, organism_lm: HookedLM) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert organism_lm.n_layers == 8
    assert main(["demo", "--quick", "--out", str(folder)]) == 0
    return folder


@pytest.mark.slow
class TestQuick:
    def test_summary_has_every_field(self, out: Path) -> None:
        summary = json.loads((out / "summary.json").read_text())
        assert summary_schema.problems(summary) == []
        assert summary["variant"] == "quick"

    def test_both_traits_have_all_artifacts(self, out: Path) -> None:
        for trait in ("honesty", "compassion"):
            run = Run.open(out / trait)
            for path in (
                run.responses_file,
                run.residuals_file,
                run.projections_file,
                run.probes_file,
                run.operating_points_file,
                run.summary_file,
            ):
                assert path.is_file(), path
            pages = {page.name for page in run.figures_folder.glob("*.html")}
            assert {"trait-coherence-all.html", "trait-coherence-response.html"} <= pages
            assert {"projections.html", "transfer.html", "readability.html"} <= pages

    def test_traces_of_all_methods_in_both_scopes(self, out: Path) -> None:
        for trait in ("honesty", "compassion"):
            for method in ("swfc", "sttp", "stmp"):
                for scope in ("all", "response"):
                    (file,) = (out / trait / "traces").glob(f"{method}-{scope}-layer-*.parquet")
                    table = read_traces(file)
                    assert set(table["method"].to_pylist()) == {method}
                    assert set(table["scope"].to_pylist()) == {scope}

    def test_steering_recovers_and_controls_do_not(self, out: Path) -> None:
        """Few scenarios, so loose bounds: the standard demo's are in its summary."""
        traits = json.loads((out / "summary.json").read_text())["traits"]
        for trait in traits.values():
            assert trait["aligned"]["trait"] >= 85
            assert trait["malicious"]["trait"] <= 30
            best = max(scopes["all"]["recovered"] for scopes in trait["methods"].values())
            assert best >= 0.6
            for kind in trait["controls"].values():
                assert min(method["mean"] for method in kind.values()) <= 0.3

    def test_a_second_run_makes_nothing_again(
        self, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = {t: read_rows(Run.open(out / t)).num_rows for t in ("honesty", "compassion")}
        assert main(["demo", "--quick", "--out", str(out), "--quiet"]) == 0
        after = {t: read_rows(Run.open(out / t)).num_rows for t in ("honesty", "compassion")}
        assert after == before
        captured = capsys.readouterr().out
        assert "HONESTY" in captured
        assert "try next:" in captured


@pytest.mark.slow
def test_multiple_choice_is_far_above_chance(organism_lm: HookedLM) -> None:
    assert multiple_choice_score(organism_lm) >= 80
