"""Figure 11. Which configuration wins the pairwise tournament?

    python -m figures.elo RUN [--out FOLDER] [--no-static]

Bradley-Terry ratings with their intervals, and how far the judge favours what it sees first.

Needs: RUN/analyses/pairwise_elo.parquet, from `interp-steer judge-tournament RUN`. Writes elo.*
(html, csv, json; svg, pdf, png at one column, and -double.* at two) in some ten seconds, most of
them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("elo", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
