"""The tables as files: what CSV, LaTeX and Markdown say, and that hostile names do no harm."""

import csv
import io
import math
import re
from pathlib import Path

import pytest

from interp_steer.cells import ALIGNED, DEFENDED, MALICIOUS, NEUTRAL, control_cells
from interp_steer.operating_points import Plan
from interp_steer.report_tables import report_tables, write_tables
from interp_steer.reporting import Report, report
from interp_steer.scenario_clusters import cluster_scenarios
from interp_steer.splits import halve_scenarios
from interp_steer.table_files import Column, MeanMax, Table, Value
from selection_cases import BASE, SCENARIOS, cell, rows

HALVES = halve_scenarios(SCENARIOS, cluster_scenarios(SCENARIOS)).with_answering(6)


@pytest.fixture(scope="module")
def found() -> Report:
    points = [cell(3, 12.0), cell(2, 1.5, method="stmp")]
    scores = {**BASE, DEFENDED: (70.0, 100.0), NEUTRAL: (60.0, 97.0), MALICIOUS: (20.0, 98.0)}
    for point, trait in zip(points, (90.0, 60.0), strict=True):
        scores |= {point: (trait, 95.0), point.with_control("mean_difference"): (50.0, 95.0)}
        scores |= dict.fromkeys(control_cells([point], n_draws=2), (24.0, 80.0))
        scores |= {point.as_guard(side): (96.0, 94.0) for side in ("aligned", "neutral")}
    plan = Plan(split=HALVES, control_draws=2, extras=("mean_difference", "defence", "guard"))
    return report(rows(scores), plan)


def parsed(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.as_csv())))


class TestOperatingPoints:
    def test_rows_are_baselines_points_and_reviewers_baselines(self, found: Report) -> None:
        table = report_tables(found, title="honesty")[0]
        assert [row["method"] for row in table.rows] == [
            "aligned, unsteered",
            "malicious prompt, unsteered",
            "prompt-only defence",
            "StTP",
            "StMP",
            "StTP, mean difference",
            "StMP, mean difference",
        ]

    def test_csv_is_tidy(self, found: Report) -> None:
        sttp = parsed(report_tables(found, title="honesty")[0])[3]
        assert (sttp["layer"], sttp["alpha"], sttp["threat"]) == ("3", "12.0", "malicious_prompt")
        assert float(sttp["trait"]) == pytest.approx(90)
        assert float(sttp["recovered"]) == pytest.approx(70 / 80)
        assert float(sttp["recovered_in_sample"]) == pytest.approx(70 / 80)
        assert sttp["trait_interval"] == "selection_bootstrap"
        assert float(sttp["random_direction_max"]) == pytest.approx(4 / 80)
        assert sttp["halves_chose"] == "3:12 / 3:12"

    def test_latex_is_a_booktabs_table_with_as_many_cells_in_every_row(self, found: Report) -> None:
        for table in report_tables(found, title="100 % of_it & more"):
            text = table.as_latex()
            assert text.count(r"\begin{") == text.count(r"\end{") == 2
            rules = [text.index(rf"\{rule}rule") for rule in ("top", "mid", "bottom")]
            assert rules == sorted(rules)
            columns = re.search(r"\\begin\{tabular\}\{(l+)\}", text)
            assert columns is not None
            body = text[rules[0] : rules[2]].splitlines()
            lines = [line for line in body if line.endswith(r"\\")]
            assert len(lines) == len(table.rows) + 1
            for line in lines:
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
            # % comments the rest of a line away, _ and & are errors in text
            assert not re.search(r"(?<!\\)[%_#$]", text)
            assert r"100 \% of\_it \& more" in text

    def test_markdown_has_as_many_cells_in_every_row(self, found: Report) -> None:
        for table in report_tables(found, title="honesty"):
            lines = table.as_markdown().splitlines()[: len(table.rows) + 2]
            assert set(re.findall(r"\| ---", lines[1])) == {"| ---"}
            assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {
                len(table.columns) + 1
            }
        assert "| StTP | all | malicious\\_prompt | 3 | 12 | 3:12 / 3:12 | 90 [90, 90] |" in (
            report_tables(found, title="honesty")[0].as_markdown()
        )

    def test_differences_and_guard_have_tables_of_their_own(self, found: Report) -> None:
        _, differences, guard = (parsed(t) for t in report_tables(found, title="honesty"))
        assert [(r["of"], r["minus"]) for r in differences] == [
            ("StTP", "StMP"),
            ("StTP", "prompt-only defence"),
            ("StMP", "prompt-only defence"),
            ("StTP", "mean difference"),
            ("StMP", "mean difference"),
        ]
        assert float(differences[0]["trait"]) == pytest.approx(30)
        assert [r["side"] for r in guard] == ["aligned"] * 3 + ["neutral"] * 3
        assert float(guard[4]["trait_change"]) == pytest.approx(36)
        assert "fired_share" not in guard[1]  # nothing was measured: no column without a number
        assert report_tables(found, title="x")[2].as_markdown().count("| – |") > 3


class TestFormats:
    def table(self, *values: Value) -> Table:
        columns = tuple(Column(name=f"c{i}", title=f"c{i}") for i in range(len(values)))
        row = {f"c{i}": value for i, value in enumerate(values)}
        return Table(name="t", caption="c", columns=columns, rows=(row,))

    def test_hostile_text(self) -> None:
        hostile = "a|b\\c{d}_e%f&g<h>*i*`j`~^$#"
        text = self.table(hostile).as_latex()
        assert (
            r"a|b\textbackslash{}c\{d\}\_e\%f\&g<h>*i*`j`\textasciitilde{}\textasciicircum{}\$\#"
            in text
        )
        line = self.table(hostile).as_markdown().splitlines()[2]
        assert line == r"| a\|b\\c{d}\_e%f&g&lt;h>\*i\*\`j\`~^$# |"
        assert parsed(self.table(hostile)) == [{"c0": hostile}]

    def test_numbers_that_are_not_defined(self) -> None:
        table = self.table(math.nan, MeanMax(mean=math.nan, max=1.0), None)
        assert table.as_markdown().splitlines()[2] == "| – | – (1) | – |"
        assert parsed(table) == [{"c0": "", "c1_mean": "", "c1_max": "1.0"}]

    def test_files_are_written_whole(self, found: Report, tmp_path: Path) -> None:
        paths = write_tables(found, tmp_path / "tables", title="honesty")
        assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == sorted(
            f"{name}.{suffix}"
            for name in ("operating_points", "differences", "guard_price")
            for suffix in ("csv", "tex", "md")
        )
        assert len(paths) == 9
        assert found.aligned.cells == (ALIGNED,)
