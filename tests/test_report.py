"""The report as data and as a file: numbers embedded are numbers stored, text stays text."""

import base64
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from interp_steer.cli import main
from interp_steer.errors import RunError
from interp_steer.model import HookedLM
from interp_steer.plots.figure_files import FigureError
from interp_steer.plots.token_scopes import scope_mask
from interp_steer.probes import ProbeSet
from interp_steer.report import page_html, write_report
from interp_steer.report.page import SCRIPTS, ReportError, _hash, embedded_json, policy
from interp_steer.report.parts import MOST_VALUES, packed, part, plain
from interp_steer.report.run_parts import open_runs, report_data
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.scopes import Scope
from interp_steer.tokens import Segment, TokenChunk
from interp_steer.trace_blocks import make_visible
from interp_steer.trace_files import read_traces
from report_cases import HOSTILE, copied, plant_hostile, small_run

MEGABYTE = 1_000_000


def decoded(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_lm: HookedLM, tiny_dir: Path) -> Run:
    return small_run(tmp_path_factory.mktemp("report"), tiny_lm, tiny_dir)


@pytest.fixture(scope="module")
def shown(run: Run) -> dict[str, Any]:
    """What the page of the run embeds, as its own JSON."""
    (one,) = json.loads(embedded_json(report_data([run])))["runs"]
    return one


class Page(HTMLParser):
    """The elements of a page as a browser's parser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        at = len(self.elements) - 1
        self.texts[at] = self.texts.get(at, "") + data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        found = enumerate(self.elements)
        return [(attrs, self.texts.get(i, "")) for i, (name, attrs) in found if name == tag]


class TestNumbers:
    def test_probes_are_those_of_the_run(self, run: Run, shown: dict[str, Any]) -> None:
        stored = json.loads((run.path / "probes.json").read_text(encoding="utf-8"))["layers"]
        names = ("layer", "boundary", "mu_pos", "sigma_pos", "mu_neg", "sigma_neg", "delta_mu")
        for embedded, entry in zip(shown["probes"]["layers"], stored, strict=True):
            assert {n: embedded[n] for n in names} == {n: entry[n] for n in names}
            assert embedded["hook"] == f"blocks.{entry['layer']}.hook_resid_post"
        readability = shown["readability"]["measures"]
        assert readability["cohens_d"]["value"] == [e["crossfit"]["cohens_d"] for e in stored]
        assert readability["auroc"]["value"] == [e["crossfit"]["auroc"] for e in stored]
        assert readability["cosine_caa"]["value"] == [e["cosine_caa"] for e in stored]

    def test_pooled_projections_are_residuals_on_the_direction(
        self, run: Run, shown: dict[str, Any]
    ) -> None:
        probes, pair = ProbeSet.load(run.path), load_residuals(run.residuals_file)
        for layer, sides in shown["pooled"]["layers"].items():
            v_hat = probes.probe(int(layer)).v_hat
            for side, found in sides.items():
                kept = getattr(pair, side)
                values = kept.values[:, kept.layers.index(int(layer))].to(torch.float64)
                expected = np.sort((values @ v_hat.to(torch.float64)).numpy())
                assert found["n"] == len(expected) and found["exact"]
                assert decoded(found["f32"]) == pytest.approx(expected, rel=1e-5, abs=1e-5)

    @pytest.mark.parametrize("side", ["aligned", "malicious"])
    def test_tokens_of_a_scope_are_those_that_the_file_has(
        self, run: Run, shown: dict[str, Any], side: str
    ) -> None:
        rows = pd.read_parquet(run.projections_file)
        tokens = shown["tokens"]
        assert list(tokens["sets"]) == ["all", "response", "first:2"]
        for layer, sets in tokens["layers"].items():
            mine = rows[(rows.layer == int(layer)) & (rows.side == side)]
            answer = mine[mine.segment == "response"].sort_values("pos")
            first = answer.groupby(["scenario", "response_index"]).head(2)
            for scope, expected in (("all", mine), ("response", answer), ("first:2", first)):
                found = [sets[name][side] for name in tokens["sets"][scope]]
                values = np.sort(np.concatenate([decoded(one["f32"]) for one in found]))
                assert sum(one["n"] for one in found) == len(expected)
                assert np.array_equal(values, np.sort(expected.projection.to_numpy(np.float32)))
            assert len(first) < len(answer) < len(mine)

    def test_scores_are_means_of_the_screened_rows(self, run: Run, shown: dict[str, Any]) -> None:
        shards = [pd.read_parquet(p) for p in sorted(run.sweep_folder.glob("*.parquet"))]
        rows = pd.concat(shards)
        usual = rows[(rows.threat == "malicious_prompt") & (rows.control == "none")]
        usual = usual[usual.scenario.isin(run.manifest["sweep"]["selection"])]
        assert set(shown["sweep"]["scopes"]) == {"all", "response", "first:2"}
        for scope, found in shown["sweep"]["scopes"].items():
            cells = pd.DataFrame(found["cells"])
            assert len(cells) == 8  # two layers of swfc at two coefficients, sttp and stmp at one
            for cell in cells.itertuples():
                same = usual[(usual.scope == scope) & (usual.direction == "aligned")]
                same = same[(same.method == cell.method) & (same.layer == cell.layer)]
                same = same[same.alpha == cell.alpha]
                assert cell.trait == pytest.approx(same.trait.mean())
                assert cell.coherence == pytest.approx(same.coherence.mean())
                assert cell.trait_low <= cell.trait <= cell.trait_high
            points = json.loads(run.operating_points_file.read_text())["operating_points"]
            chosen = {p["method"]: p for p in points if p["scope"] == scope}
            for method, point in found["points"].items():
                assert point["layer"] == chosen[method]["layer"]
                assert point["alpha"] == chosen[method]["alpha"]

    def test_traces_are_the_stored_rows(self, run: Run, shown: dict[str, Any]) -> None:
        stored = pd.concat(
            [read_traces(p).to_pandas() for p in sorted(run.traces_folder.glob("*.parquet"))]
        )
        traces = shown["traces"]["traces"]
        assert sum(len(trace["pos"]) for trace in traces) == len(stored)
        for trace in traces:
            rows = stored[(stored["sample"] == trace["sample"]) & (stored.layer == trace["layer"])]
            rows = rows.sort_values("pos")
            assert trace["pos"] == rows.pos.tolist()
            assert trace["token"] == [make_visible(token) for token in rows.token]
            assert trace["fired"] == rows.fired.astype(int).tolist()
            for name in ("projection_before", "projection_after", "delta_norm", "logprob"):
                expected = rows[name].to_numpy(np.float32)
                assert np.array_equal(decoded(trace[name]), expected, equal_nan=True)
            assert trace["boundary"] == rows.boundary.iloc[0]

    def test_more_values_than_are_kept_become_quantiles_that_say_so(self) -> None:
        values = np.random.default_rng(0).normal(3.0, 2.0, 50_000)
        found = packed(values, "projections")
        kept = decoded(found["f32"])
        assert (found["n"], found["exact"], kept.size) == (50_000, False, MOST_VALUES)
        assert kept.mean() == pytest.approx(values.mean(), abs=1e-3)
        # The share below any place is right to half a quantile.
        for place in (-2.0, 1.0, 3.0, 6.0):
            share = (kept < place).mean() - (values < place).mean()
            assert abs(share) <= 0.5 / MOST_VALUES + 1e-9
        assert packed(values[:MOST_VALUES], "projections")["exact"]

    def test_what_is_not_finite_is_refused_with_its_name(self) -> None:
        with pytest.raises(FigureError, match="1 of 2 aligned projections are not finite"):
            packed(np.array([1.0, np.nan]), "aligned projections")

    @pytest.mark.parametrize(
        "scope",
        "all prompt response first:2 response+last_prompt first:1+last_prompt".split(),
    )
    def test_a_scope_covers_the_tokens_that_the_hooks_would_edit(self, scope: str) -> None:
        lengths = {"a": (3, 4), "b": (2, 1), "c": (4, 0)}
        rows = [
            {"scenario": name, "side": "aligned", "response_index": 0, "pos": pos}
            | {"segment": "user" if pos < prompt else "response"}
            for name, (prompt, answer) in lengths.items()
            for pos in range(prompt + answer)
        ]
        found = scope_mask(pd.DataFrame(rows), scope).tolist()
        expected: list[bool] = []
        for prompt, answer in lengths.values():
            kinds = [Segment.USER] * prompt + [Segment.RESPONSE] * answer
            index = [pos - prompt if pos >= prompt else -1 for pos in range(prompt + answer)]
            last = [pos == prompt - 1 for pos in range(prompt + answer)]
            chunk = TokenChunk(
                rows=torch.zeros(1, dtype=torch.int64),
                token_ids=torch.zeros(1, len(kinds), dtype=torch.int64),
                segments=torch.tensor([[int(kind) for kind in kinds]]),
                positions=torch.arange(len(kinds))[None],
                response_index=torch.tensor([index]),
                is_last_prompt=torch.tensor([last]),
            )
            expected += Scope.parse(scope).mask(chunk)[0].tolist()
        assert found == expected


class TestText:
    def test_no_character_of_embedded_json_means_anything_to_html(self) -> None:
        text = embedded_json(list(HOSTILE))
        assert not set(text) & set("<>&") and text.isascii()
        assert json.loads(text) == list(HOSTILE)
        with pytest.raises(ValueError, match="Out of range"):
            embedded_json(float("nan"))
        assert plain({"a": np.float32("nan"), "b": [np.int64(2)]}) == {"a": None, "b": [2]}

    def test_hostile_tokens_and_names_add_no_element(self, run: Run, tmp_path: Path) -> None:
        calm = Page(page_html(report_data([run])))
        bad = copied(run, tmp_path / "bad", trait="</title><script>window.hacked = 1</script>")
        plant_hostile(bad)
        page = Page(page_html(report_data([bad])))
        assert [tag for tag, _ in page.elements] == [tag for tag, _ in calm.elements]
        assert "</script>" in page.of("title")[0][1]
        (data,) = [text for attrs, text in page.of("script") if attrs.get("id") == "data"]
        (one,) = json.loads(data)["runs"]
        tokens = {token for trace in one["traces"]["traces"] for token in trace["token"]}
        assert tokens == {make_visible(token) for token in HOSTILE}
        assert not any("\u202e" in token or "\n" in token for token in tokens)

    def test_own_scripts_never_write_markup_or_evaluate_text(self) -> None:
        for name in SCRIPTS:
            text = (files("interp_steer.report") / name).read_text(encoding="utf-8")
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
            assert not re.search(r"</script|<!--|https?:|new Function|fetch\(", text)
            assert len(text.splitlines()) <= 250
        there = {path.name for path in files("interp_steer.report").iterdir()}
        assert {name for name in there if name.endswith(".js")} == set(SCRIPTS)


class TestPolicy:
    def test_it_names_exactly_the_scripts_and_styles_of_the_page(self, run: Run) -> None:
        text = page_html(report_data([run]))
        page = Page(text)
        (said,) = [
            attrs["content"]
            for attrs, _ in page.of("meta")
            if attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        rules = dict(rule.partition(" ")[::2] for rule in str(said).split("; "))
        assert rules["default-src"] == "'none'" and "unsafe" not in rules["script-src"]
        scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        assert len(scripts) == len(page.of("script")) - 1 == 2
        assert rules["script-src"].split() == [_hash(script) for script in scripts]
        styles = {
            _hash(style) for style in re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
        }
        assert styles <= set(rules["style-src-elem"].split())
        assert _hash("changed") not in policy(scripts=("a",), styles=("b",))

    def test_the_page_refers_to_no_other_file(self, run: Run) -> None:
        page = Page(page_html(report_data([run])))
        attributes = {name for _, attrs in page.elements for name in attrs}
        assert not attributes & {"src", "href", "action", "srcset"}
        assert not any(name.startswith("on") for name in attributes)
        assert "url(" not in page.of("style")[0][1]


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("gone", "lost", "command"),
        [
            ("sweep", "sweep", "interp-steer sweep"),
            ("traces", "traces", "interp-steer trace"),
            ("projections.parquet", "tokens", "interp-steer fit"),
            ("residuals.safetensors", "pooled", "interp-steer fit"),
            ("probes.json", "probes", "interp-steer fit"),
        ],
    )
    def test_a_stage_that_was_not_run_names_its_command(
        self, run: Run, tmp_path: Path, gone: str, lost: str, command: str
    ) -> None:
        less = copied(run, tmp_path / "less")
        (less.path / gone).rename(tmp_path / "gone")
        (one,) = report_data([less])["runs"]
        assert one[lost]["here"] is False
        assert one[lost]["command"].startswith(command) and str(less.path) in one[lost]["command"]
        assert page_html(report_data([less])).startswith("<!doctype html>")

    def test_what_no_stage_made_yet_is_said_beside_what_is_there(
        self, shown: dict[str, Any]
    ) -> None:
        assert shown["scan"]["command"].startswith("python -m analyses.causal_scan ")
        assert shown["readability"]["intervals_command"].startswith("python -m analyses.layer_")
        assert shown["sweep"]["select_command"] is None

    def test_a_damaged_artifact_is_a_part_that_says_so(self, run: Run, tmp_path: Path) -> None:
        bad = copied(run, tmp_path / "bad")
        next(bad.traces_folder.glob("*.parquet")).write_bytes(b"PAR1 cut short")
        (one,) = report_data([bad])["runs"]
        assert "damaged" in one["traces"]["what"] and one["probes"]["here"]

    def test_a_bug_is_not_taken_for_a_missing_stage(self) -> None:
        def broken() -> dict[str, Any]:
            raise AttributeError("a bug")

        with pytest.raises(AttributeError):
            part(broken)


class TestFiles:
    def test_a_folder_of_runs_becomes_one_page_with_every_trait(
        self, run: Run, tmp_path: Path
    ) -> None:
        copied(run, tmp_path / "b", trait="compassion")
        copied(run, tmp_path / "a")
        (tmp_path / "summary.json").write_text("{}")
        names = [one["name"] for one in report_data(open_runs(tmp_path))["runs"]]
        assert names == ["honesty", "compassion"]
        copied(run, tmp_path / "c")
        names = [one["name"] for one in report_data(open_runs(tmp_path))["runs"]]
        assert names == ["honesty (a)", "compassion", "honesty (c)"]

    def test_command_writes_a_small_whole_file_and_says_where(
        self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "deep" / "report.html"
        assert main(["report", str(run.path), "--out", str(out)]) == 0
        assert str(out) in capsys.readouterr().out
        assert out.stat().st_size < 6 * MEGABYTE
        assert out.read_text(encoding="utf-8").rstrip().endswith("</html>")
        first = out.read_bytes()
        assert write_report(run.path, out).read_bytes() == first

    def test_the_largest_page_of_eight_layers_stays_under_its_limit(self) -> None:
        # Two traits of the demo's size with every set full: projections are all that grows.
        most = packed(np.random.default_rng(0).normal(size=3 * MOST_VALUES), "projections")
        per_run = len(json.dumps(most)) * 8 * 2 * 2
        assert 2 * per_run < 2 * MEGABYTE

    def test_refusals(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ReportError, match="suffix .html, got 'report.pdf'"):
            write_report(run.path, tmp_path / "report.pdf")
        with pytest.raises(RunError, match="or a folder of some"):
            open_runs(tmp_path)
        assert main(["report", str(tmp_path / "nowhere")]) == 1
        assert "there is no run directory" in capsys.readouterr().err
