"""Figure 2, left. What does each method do to a projection?

    python -m figures.transfer RUN [--out FOLDER] [--no-static]

rho' over rho for SwFC, StTP and StMP at every coefficient of the sweep's grid, by the law that the
hooks apply; the operating point's coefficient is thick.

Needs: probes; the sweep for its grid (else the paper's). Writes transfer.* (html, csv, json; svg,
pdf, png at one column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("transfer", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
