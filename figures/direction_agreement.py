"""Figure 5. Would another estimator, or other scenarios, give another direction?

    python -m figures.direction_agreement RUN [--out FOLDER] [--no-static] [--no-analyses]

Cosine of v_hat and the mean difference by layer (the paper's A.3), and of the directions of two
halves of the scenarios.

Needs: probes; the analyses layer_readability and direction_stability for intervals and halves, made
first where they are missing or out of date. Writes direction-agreement.* (html, csv, json; svg,
pdf, png at one column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("direction_agreement", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
