"""A table as files that a paper can take: CSV, LaTeX (booktabs) and Markdown.

CSV is tidy (one number a column, empty where there is none); the other two show a value with its
interval in one cell and a dash where there is none. Text is escaped for each format: names of
scopes, threats and traits come from users.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from interp_steer.html_tables import DASH, fixed
from interp_steer.intervals import Estimate, finite_or_none
from interp_steer.measured_tables import with_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanMax:
    """Mean and maximum of several draws, in one cell."""

    mean: float
    """Mean."""
    max: float
    """Maximum."""


Value = str | int | float | Estimate | MeanMax | None
"""What a cell may hold."""

_TEX = {
    "\\": r"\textbackslash{}",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    DASH: "--",
}
_MARKDOWN = {"\\": "\\\\", "|": "\\|", "<": "&lt;", "*": "\\*", "_": "\\_", "`": "\\`"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    name: str
    """Key in the rows and name in the CSV file."""
    title: str
    """Head in print."""
    scale: float = 1.0
    """What a number is multiplied by in print (100 for a share in percent)."""
    digits: int | None = 0
    """Decimals in print; None prints what is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, before any file format."""

    name: str
    """Stem of its files, and its label in LaTeX."""
    caption: str
    """What it shows."""
    columns: tuple[Column, ...]
    """Its columns."""
    rows: tuple[Mapping[str, Value], ...]
    """One mapping a row; a column that is missing in it is empty."""

    def as_csv(self) -> str:
        """Tidy: an estimate takes four columns (value, low, high, interval)."""
        names = list(dict.fromkeys(name for c in self.columns for name in self._names(c)))
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, names, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow(
                {k: v for c in self.columns for k, v in _flat(c.name, row.get(c.name)).items()}
            )
        return buffer.getvalue()

    def as_markdown(self) -> str:
        """A table of GitHub's dialect, the caption below it."""
        rows = [[column.title for column in self.columns], *self._printed()]
        lines = [_piped(_escaped(cell, _MARKDOWN) for cell in row) for row in rows]
        lines.insert(1, _piped(["---"] * len(self.columns)))
        return "\n".join([*lines, "", self.caption, ""])

    def as_latex(self) -> str:
        """A table environment for the package booktabs."""
        rows = [[_escaped(cell, _TEX) for cell in row] for row in self._printed()]
        head = [_escaped(column.title, _TEX) for column in self.columns]
        body = [" & ".join(row) + r" \\" for row in rows]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_escaped(self.caption, _TEX)}}}",
                rf"\label{{tab:{self.name.replace('_', '-')}}}",
                rf"\begin{{tabular}}{{{'l' * len(head)}}}",
                r"\toprule",
                " & ".join(head) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )

    def _printed(self) -> Iterator[list[str]]:
        for row in self.rows:
            yield [_printed(row.get(column.name), column) for column in self.columns]

    def _names(self, column: Column) -> Iterator[str]:
        """Names of the CSV columns that one column takes, over all rows."""
        for row in self.rows:
            yield from _flat(column.name, row.get(column.name))


def _flat(name: str, value: Value) -> dict[str, str | int | float | None]:
    if isinstance(value, Estimate):
        interval = value.interval
        return {
            name: finite_or_none(value.value),
            f"{name}_low": finite_or_none(interval.low),
            f"{name}_high": finite_or_none(interval.high),
            f"{name}_interval": interval.kind,
        }
    if isinstance(value, MeanMax):
        ends = {"mean": value.mean, "max": value.max}
        return {f"{name}_{which}": finite_or_none(end) for which, end in ends.items()}
    if value is None:
        return {}
    return {name: finite_or_none(value) if isinstance(value, float) else value}


def _printed(value: Value, column: Column) -> str:
    if value is None:
        return DASH
    scale, digits = column.scale, column.digits
    if isinstance(value, Estimate):
        return with_interval(value, scale=scale, digits=digits or 0)
    if isinstance(value, MeanMax):
        mean, most = (fixed(scale * share, digits or 0) for share in (value.mean, value.max))
        return f"{mean} ({most})"
    if isinstance(value, float):
        return f"{value:g}" if digits is None else fixed(scale * value, digits)
    return str(value)


def _piped(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str, table: Mapping[str, str]) -> str:
    return "".join(table.get(character, character) for character in text)
