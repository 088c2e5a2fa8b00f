"""One self-contained HTML page of a run, or of several: layers, boundary, tokens, one selection.

The page opens from disk without a network and without a server, and re-thresholds from embedded
projections. It shows what stages have written and computes nothing that they have not measured but
the arithmetic of the three laws on those projections: what the text would then have become, only a
generation says.
"""

from interp_steer.report.page import page_html, write_report

__all__ = ["page_html", "write_report"]
