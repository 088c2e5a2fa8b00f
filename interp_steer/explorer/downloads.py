"""What a view shows, as files: tables, one small page, pictures for print.

A download holds exactly the rows on the screen, all columns of them. Pictures are drawn by the same
builder as the paper's token strips, through the system's Chromium.
"""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from interp_steer.explorer.library import ExplorerError
from interp_steer.explorer.token_panes import Pane, pane_frame
from interp_steer.names import resid_post
from interp_steer.plots.from_tokens import traced_token
from interp_steer.plots.rendering import Picture, missing_renderer, render
from interp_steer.plots.style import DOUBLE
from interp_steer.plots.text import as_text
from interp_steer.plots.token_page import StripToken, TokenStrip, TokenStrips
from interp_steer.plots.tokens import token_strips
from interp_steer.trace_view import render_html

KINDS = ("csv", "parquet", "html", "png", "pdf")
MOST_DRAWN = 400
"""Tokens of a response in a picture."""


def token_download(panes: Sequence[Pane], kind: str, *, title: str) -> bytes:
    """The shown responses as one file.

    Args:
        panes: what is shown.
        kind: one of `KINDS`.
        title: heading of page and picture (untrusted).

    Raises:
        ExplorerError: nothing with projections is shown, or no browser for a picture.
    """
    tables = [pane.table for pane in panes if pane.table is not None and pane.table.num_rows]
    if not tables:
        raise ExplorerError(
            "nothing to export yet: no shown response has token rows; generate one, or pick a "
            "stored trace"
        )
    if kind == "csv":
        return pane_frame(panes).to_csv(index=False).encode("utf-8")
    if kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(pane_frame(panes), preserve_index=False), sink)
        return sink.getvalue()
    if kind == "html":
        return render_html(pa.concat_tables(tables), title).encode("utf-8")
    return _picture(panes, kind, title)


def _picture(panes: Sequence[Pane], kind: str, title: str) -> bytes:
    lacking = missing_renderer()
    if lacking is not None:
        raise ExplorerError(lacking)
    strips = strips_of(panes)
    figure = token_strips(strips, title=as_text(title), column=DOUBLE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"tokens.{kind}"
        render([Picture(figure=figure, path=path)])
        return path.read_bytes()


def strips_of(panes: Sequence[Pane]) -> TokenStrips:
    """The panes as the strips of a figure."""
    tables = [pane.table for pane in panes if pane.table is not None and pane.table.num_rows]
    layers = {table["layer"][0].as_py() for table in tables}
    hook = ", ".join(resid_post(layer) for layer in sorted(layers))
    return TokenStrips(strips=tuple(_strip(pane) for pane in panes), hook=hook)


def _strip(pane: Pane) -> TokenStrip:
    if pane.table is None or not pane.table.num_rows:
        words = [f" {word}" for word in pane.text.split()]
        tokens = [StripToken(text=word, segment="response") for word in words]
    else:
        tokens = [traced_token(row) for row in pane.table.to_pylist()]
    return TokenStrip(
        heading=pane.heading,
        tokens=tuple(tokens[:MOST_DRAWN]),
        note=pane.note,
        n_left_out=max(0, len(tokens) - MOST_DRAWN),
    )
