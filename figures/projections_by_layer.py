"""Figure 4. How do the distributions grow apart with depth?

    python -m figures.projections_by_layer RUN [--out FOLDER] [--no-static]

Response-averaged projections at four layers with m and cross-fitted Cohen's d (the paper's A.2).

Needs: probes, residuals. Writes projections-by-layer.* (html, csv, json; svg, pdf, png at one
column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("projections_by_layer", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
