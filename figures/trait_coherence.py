"""Figure 3. At which layers does each method work?

    python -m figures.trait_coherence RUN [--out FOLDER] [--no-static]

Trait and coherence by layer for each method and coefficient, baselines and coherence limit dashed,
the operating point ringed; one figure a scope.

Needs: a sweep; operating points for the ring. Writes trait-coherence-SCOPE.* (html, csv, json; svg,
pdf, png at one column, and -double.* at two) in some ten seconds, most of them the browser's.
"""

import sys

from interp_steer.figure_command import figure_main

main = figure_main("trait_coherence", __doc__ or "")
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
