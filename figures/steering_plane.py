"""Figure 2, right. Where does steering put a residual?

    python -m figures.steering_plane RUN [--out FOLDER] [--no-static] [--no-analyses]

Response tokens in the plane of v_hat and the leading orthogonal component, the boundary, and an
arrow from each malicious token to its steered place, for each method. Without the analysis,
response means.

Needs: probes, residuals; the sweep for the coefficients; the analysis baseline_projections for
single tokens, made first where it is missing or out of date. Writes steering-plane.* (html, csv,
json; svg, pdf, png at one column, and -double.* at two) in some ten seconds, most of them the
browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("steering_plane", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
