"""Figures say what their results say, in full, without colour alone, in one offline file."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from plotly.basedatatypes import BaseTraceType
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from interp_steer.plots import (
    TEMPLATE,
    Baseline,
    FigureError,
    LayerSweep,
    ProjectionSample,
    data_sha256,
    plotly_bundle,
    projection_distributions,
    readability_by_layer,
    trait_coherence_by_layer,
    write_html,
)
from interp_steer.plots.style import ALIGNED, MALICIOUS, TARGET, finish, ramp_colour
from interp_steer.probes import LayerProbe, ProbeSet, Readability

SIDECAR = {"command": "interp-steer demo", "config": {"seed": 42}}


def make_probe(layer: int = 4, **changes: object) -> LayerProbe:
    values = {
        "layer": layer,
        "v_hat": torch.eye(4)[0],
        "boundary": 1.75,
        "mu_pos": 3.0,
        "sigma_pos": 0.5,
        "mu_neg": 0.5,
        "sigma_neg": 0.5,
        "delta_mu": 2.5,
        "cosine_caa": 0.9,
        "converged": True,
        "crossfit": Readability(cohens_d=2.0 + layer, accuracy=0.9, auroc=0.95),
        "in_sample": Readability(cohens_d=5.0 + layer, accuracy=1.0, auroc=1.0),
    }
    return LayerProbe(**{**values, **changes})


def make_sample(n: int = 60, unit: str = "responses", spread: float = 0.5) -> ProjectionSample:
    rng = np.random.default_rng(0)
    return ProjectionSample(
        aligned=rng.normal(3.0, spread, n), malicious=rng.normal(0.5, spread, n + 1), unit=unit
    )


def make_sweep(**changes: object) -> LayerSweep:
    rows = [
        {"method": method, "layer": layer, "alpha": alpha, "trait": t, "coherence": 100.0 - layer}
        for method, alphas in (("stmp", (1.0, 2.0)), ("swfc", (1.0, 4.0)))
        for layer in range(4)
        for alpha in alphas
        for t in [10.0 * layer + alpha]
    ]
    values = {
        "scores": pd.DataFrame(rows),
        "aligned": Baseline(trait=98.0, coherence=99.0),
        "malicious": Baseline(trait=3.0, coherence=97.0),
        "operating_points": {"swfc": (3, 4.0)},
        "n_generations": 56,
    }
    return LayerSweep(**{**values, **changes})


@functools.cache
def layer_figure() -> go.Figure:
    """The figure of `make_sweep()`, which no test changes."""
    return trait_coherence_by_layer(make_sweep())


def named(figure: go.Figure, pattern: str) -> list:
    return [trace for trace in figure.data if re.search(pattern, trace.name or "")]


def words(figure: go.Figure) -> str:
    """All text of a figure: titles, axis titles, annotations, legend."""
    layout = figure.to_plotly_json()["layout"]
    layout.pop("template")
    return json.dumps(layout, ensure_ascii=False) + " ".join(t.name or "" for t in figure.data)


class TestProjections:
    def test_both_densities_have_area_one(self) -> None:
        sample = make_sample()
        figure = projection_distributions(make_probe(), sample)
        for side, values in (("aligned", sample.aligned), ("malicious", sample.malicious)):
            (step,) = named(figure, f"^{side} prompt")
            x, y = np.asarray(step.x, float), np.asarray(step.y, float)
            # The axis spans the central 99.9 %, so at most one of some 60 values is left out.
            assert 1 - 1.5 / values.size <= (np.diff(x) * y[:-1]).sum() <= 1 + 1e-9
            centre = (np.diff(x) * y[:-1] * (x[1:] + x[:-1]) / 2).sum()
            assert centre == pytest.approx(values.mean(), abs=0.15)

    def test_boundary_means_and_target_stand_where_the_probe_says(self) -> None:
        figure = projection_distributions(
            make_probe(), make_sample(), tokens=make_sample(900, "tokens", 2.0), target=9.0
        )
        for row_axis in ("x", "x2"):
            at = [s.x0 for s in figure.layout.shapes if s.xref == row_axis]
            assert at == [1.75, 3.0, 0.5, 9.0]
        low, high = figure.layout.xaxis.range
        assert low < 0.5 and high > 9.0
        assert figure.layout.xaxis.range == figure.layout.xaxis2.range
        assert "StTP target s 9" in words(figure) and "boundary 1.75" in words(figure)

    def test_without_tokens_and_target_there_is_one_panel_and_no_target(self) -> None:
        figure = projection_distributions(make_probe(), make_sample())
        assert len(named(figure, "prompt$")) == 2
        assert "target" not in words(figure)

    def test_axis_names_unit_and_hook_point_and_titles_show_n(self) -> None:
        tokens = make_sample(900, "tokens", 2.0)
        text = words(projection_distributions(make_probe(), make_sample(), tokens=tokens))
        assert "blocks.4.hook_resid_post (a.u.)" in text and "a.u.: activation units" in text
        assert "n = 60 aligned, 61 malicious responses" in text
        assert "n = 900 aligned, 901 malicious tokens" in text

    def test_an_attention_sink_is_counted_and_does_not_flatten_the_rest(self) -> None:
        rng = np.random.default_rng(1)
        sinks = np.full(3, -400.0)
        tokens = ProjectionSample(
            aligned=np.concatenate([rng.normal(3, 1, 20_000), sinks]),
            malicious=rng.normal(0, 1, 20_000),
            unit="tokens",
        )
        figure = projection_distributions(make_probe(), make_sample(), tokens=tokens)
        low, _ = figure.layout.xaxis.range
        assert low > -10
        beyond = re.search(r"tokens \((\d+) beyond the axis\)", words(figure))
        assert beyond and 3 <= int(beyond.group(1)) <= 40

    def test_sides_differ_by_dash_and_hatch_not_colour_alone(self) -> None:
        figure = projection_distributions(make_probe(), make_sample())
        one, other = named(figure, "prompt$")
        assert one.line.dash != other.line.dash
        assert one.fillpattern.shape != other.fillpattern.shape

    def test_constant_projections_are_drawn(self) -> None:
        flat = ProjectionSample(aligned=np.full(5, 2.0), malicious=np.full(5, 2.0), unit="tokens")
        figure = projection_distributions(make_probe(), flat)
        (step,) = named(figure, "^aligned prompt")
        assert np.isfinite(np.asarray(step.y, float)).all() and max(step.y) > 0

    def test_refusals(self) -> None:
        with pytest.raises(FigureError, match="no malicious projections of tokens"):
            ProjectionSample(aligned=np.ones(3), malicious=np.ones(0), unit="tokens")
        with pytest.raises(FigureError, match="1 of 2 aligned projections of tokens are not fin"):
            ProjectionSample(aligned=np.array([1.0, np.nan]), malicious=np.ones(2), unit="tokens")
        with pytest.raises(FigureError, match="target must be a finite projection, got inf"):
            projection_distributions(make_probe(), make_sample(), target=float("inf"))


class TestLayerSweep:
    def test_lines_hold_the_scores_and_methods_come_in_the_papers_order(self) -> None:
        figure = layer_figure()
        lines = named(figure, "^SwFC α = 4$")
        assert [list(line.y) for line in lines] == [[4, 14, 24, 34], [100, 99, 98, 97]]
        titles = [a.text for a in figure.layout.annotations]
        assert titles == ["SwFC, α = 1, 4", "StMP, α = 1, 2"]

    def test_operating_point_is_ringed_in_both_rows_at_its_scores(self) -> None:
        rings = named(layer_figure(), "^operating point")
        assert [(ring.x[0], ring.y[0]) for ring in rings] == [(3, 34.0), (3, 97.0)]
        assert named(trait_coherence_by_layer(make_sweep(operating_points={})), "operating") == []

    def test_baselines_and_limit_are_broken_lines_at_their_values(self) -> None:
        figure = layer_figure()
        drawn = {(t.name, t.y[0], t.line.dash) for t in figure.data if t.mode == "lines"}
        assert drawn == {
            ("aligned, unsteered", 98.0, "dash"),
            ("aligned, unsteered", 99.0, "dash"),
            ("malicious, unsteered", 3.0, "dot"),
            ("malicious, unsteered", 97.0, "dot"),
            ("limit: 90% of aligned coherence", 0.9 * 99.0, "longdashdot"),
        }

    def test_alphas_differ_by_dash_and_marker_not_colour_alone(self) -> None:
        figure = layer_figure()
        one, other = named(figure, "^SwFC α = 1$")[0], named(figure, "^SwFC α = 4$")[0]
        assert one.line.dash != other.line.dash
        assert one.marker.symbol != other.marker.symbol

    def test_a_missing_cell_is_a_gap_not_a_bridge(self) -> None:
        scores = make_sweep().scores.query("not (method == 'swfc' and layer == 1 and alpha == 4)")
        line = named(trait_coherence_by_layer(make_sweep(scores=scores)), "^SwFC α = 4$")[0]
        assert np.isnan(line.y[1]) and not line.connectgaps

    def test_n_is_shown(self) -> None:
        assert "n = 56 generations a point" in words(layer_figure())

    def test_refusals(self) -> None:
        scores = make_sweep().scores
        with pytest.raises(FigureError, match=r"lack \['coherence'\]"):
            make_sweep(scores=scores.drop(columns="coherence"))
        with pytest.raises(FigureError, match="scores are empty"):
            make_sweep(scores=scores.head(0))
        with pytest.raises(FigureError, match="stmp layer 0 alpha 1.0 stands there twice"):
            make_sweep(scores=pd.concat([scores, scores.head(1)]))
        with pytest.raises(FigureError, match="layer 9 alpha 4 is not among the scores"):
            trait_coherence_by_layer(make_sweep(operating_points={"swfc": (9, 4.0)}))
        with pytest.raises(FigureError, match=r"unknown methods \['caa'\]"):
            trait_coherence_by_layer(make_sweep(scores=scores.replace("swfc", "caa")))


def readability() -> go.Figure:
    return readability_by_layer(ProbeSet(probes=tuple(make_probe(layer) for layer in range(3))))


def test_readability_shows_crossfitted_with_in_sample_beside_it() -> None:
    figure = readability()
    fitted, flattering = named(figure, "^cross-fitted$"), named(figure, "^in-sample$")
    assert [list(t.y) for t in fitted] == [[2, 3, 4], [0.9] * 3, [0.95] * 3]
    assert [list(t.y) for t in flattering] == [[5, 6, 7], [1.0] * 3, [1.0] * 3]
    assert fitted[0].line.dash != flattering[0].line.dash
    assert fitted[0].marker.symbol != flattering[0].marker.symbol


class TestStyle:
    def test_template_is_registered_light_and_not_made_the_default(self) -> None:
        assert pio.templates[TEMPLATE].layout.paper_bgcolor == "white"
        assert TEMPLATE not in str(pio.templates.default)
        assert finish(go.Figure(), "x", plot_height=300).layout.template == pio.templates[TEMPLATE]

    def test_sides_and_target_differ_in_lightness_or_hue_that_survives_colour_blindness(
        self,
    ) -> None:
        # Machado et al. 2009, severity 1: what is left of a colour without L cones, or without M
        # cones. The smallest distance kept by Okabe and Ito's three is 0.3; red and green of equal
        # lightness keep less than 0.1 (the control).
        protan = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
        deutan = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]

        def kept(one: str, other: str) -> float:
            a, b = (
                np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (one, other)
            )
            linear = [
                np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92) for c in (a, b)
            ]
            seen = [[np.asarray(m) @ c for c in linear] for m in (protan, deutan)]
            return min(float(np.linalg.norm(p - q)) for p, q in seen)

        pairs = [(ALIGNED, MALICIOUS), (ALIGNED, TARGET), (MALICIOUS, TARGET)]
        assert min(kept(*pair) for pair in pairs) > 0.1
        assert kept("#b04040", "#5f6f20") < 0.1

    def test_ramp_darkens_with_rank(self) -> None:
        def lightness(colour: str) -> float:
            return sum(
                w * int(colour[i : i + 2], 16)
                for w, i in zip((0.2126, 0.7152, 0.0722), (1, 3, 5), strict=True)
            )

        tones = [lightness(ramp_colour(rank, 6)) for rank in range(6)]
        assert tones == sorted(tones, reverse=True) and len(set(tones)) == 6
        assert ramp_colour(0, 1) == ramp_colour(5, 6)


class TestWriteHtml:
    def test_page_is_self_contained_and_sidecar_says_where_it_comes_from(
        self, tmp_path: Path
    ) -> None:
        figure = layer_figure()
        path = write_html(figure, tmp_path / "figures" / "layers.html", SIDECAR)
        page = path.read_text(encoding="utf-8")
        assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
        assert "Plotly.newPlot" in page and len(page) > 1_000_000
        said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert said == {**SIDECAR, "figure": "layers.html", "data_sha256": data_sha256(figure)}
        assert sorted(p.name for p in path.parent.iterdir()) == ["layers.html", "layers.json"]

    def test_hash_follows_the_data_and_nothing_else(self) -> None:
        one = data_sha256(layer_figure())
        assert data_sha256(trait_coherence_by_layer(make_sweep(), title="another title")) == one
        moved = make_sweep(aligned=Baseline(trait=98.001, coherence=99.0))
        assert data_sha256(trait_coherence_by_layer(moved)) != one

    def test_the_same_figure_is_written_to_the_same_bytes(self, tmp_path: Path) -> None:
        pages = [
            write_html(figure, tmp_path / folder / "x.html", SIDECAR)
            for folder, figure in (("a", readability()), ("b", readability()))
        ]
        assert pages[0].read_bytes() == pages[1].read_bytes()

    def test_a_hostile_title_does_not_leave_its_string(self, tmp_path: Path) -> None:
        hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
        figure = trait_coherence_by_layer(make_sweep(), title=hostile)
        page = write_html(figure, tmp_path / "x.html", SIDECAR).read_text(encoding="utf-8")
        assert hostile not in page and "<script>alert" not in page and "<img src=x" not in page

    @pytest.mark.parametrize(
        ("name", "sidecar", "said"),
        [
            ("x.svg", SIDECAR, "needs the suffix .html, got 'x.svg'"),
            ("x.html", {"config": {}}, r"lacks \['command'\]"),
            ("x.html", {**SIDECAR, "path": Path("x")}, "is no JSON"),
            ("x.html", {**SIDECAR, "n": float("nan")}, "is no JSON"),
        ],
    )
    def test_refusals_write_nothing(
        self, tmp_path: Path, name: str, sidecar: dict, said: str
    ) -> None:
        with pytest.raises(FigureError, match=said):
            write_html(go.Figure(), tmp_path / name, sidecar)
        assert list(tmp_path.iterdir()) == []


class TestPlotlyBundle:
    def test_it_is_of_the_version_that_figures_are_written_for_and_a_third_of_the_size(
        self,
    ) -> None:
        script = plotly_bundle.plotly_js()
        assert f"v{get_plotlyjs_version()}\n" in script[:200]
        assert len(script) < len(get_plotlyjs()) / 3

    def test_no_builder_draws_a_trace_that_it_lacks(self) -> None:
        package = Path(plotly_bundle.__file__).parents[1]
        kinds = {
            name.lower()
            for name in dir(go)
            if name[0].isupper() and issubclass(getattr(go, name), BaseTraceType)
        }
        used = {
            kind
            for path in package.rglob("*.py")
            for kind in re.findall(r"(?:\.add_|go\.)([A-Za-z0-9]+)\(", path.read_text())
            if kind.lower() in kinds
        }
        assert {"scatter", "heatmap"} <= {kind.lower() for kind in used}
        assert {kind.lower() for kind in used} <= plotly_bundle.TRACE_TYPES

    def test_another_major_version_brings_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plotly_bundle, "get_plotlyjs_version", lambda: "3.1.0")
        assert plotly_bundle.plotly_js() == get_plotlyjs()
