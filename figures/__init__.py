"""One script a paper figure: `python -m figures.NAME RUN`; all of them: `interp-steer figures RUN`.

Builders live in `interp_steer.plots`; what reads a run for them is in `interp_steer.run_figures`.
"""

from interp_steer.run_figures import RECIPES

NAMES = tuple(RECIPES)
"""The figures, in the order of the paper's list."""
