"""Figure 1. Where do both sides lie along v_hat?

    python -m figures.projections RUN [--out FOLDER] [--no-static]

Response-averaged projections above, single response tokens below, with the boundary m, the class
means and StTP's target, at the layer of StTP's operating point.

Needs: probes, residuals; projections.parquet for the lower panel; operating points for layer and
target. Writes projections.* (html, csv, json; svg, pdf, png at one column, and -double.* at two) in
some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("projections", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
