"""Figure 5. At which layers can the trait be read?

    python -m figures.readability RUN [--out FOLDER] [--no-static] [--no-analyses]

Cohen's d, accuracy and AUROC, cross-fitted, the in-sample values beside them.

Needs: probes; the analysis layer_readability for intervals and the shuffled-label null, made first
where it is missing or out of date. Writes readability.* (html, csv, json; svg, pdf, png at one
column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("readability", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
