"""Figure 11. Which configuration wins the pairwise tournament?

    python -m figures.elo RUN [--out FOLDER] [--no-static]

Ratings with their intervals.

Needs: RUN/analyses/elo.parquet, from a suite of a later version; refused until then. Writes elo.*
(html, csv, json; svg, pdf, png at one column, and -double.* at two) in some ten seconds, most of
them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("elo", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
