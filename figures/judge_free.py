"""Figure 7. What do measures without a judge say?

    python -m figures.judge_free RUN [--out FOLDER] [--no-static]

Cross-entropy beside its matched reference, embedding cosine, target distance, relative L2, fired
share, length and repetition by layer (the paper's C.3 and C.5); one figure a scope.

Needs: a sweep that recorded them. Writes judge-free-SCOPE.* (html, csv, json; svg, pdf, png at one
column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("judge_free", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
