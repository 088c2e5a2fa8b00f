"""Would other scenarios, fewer of them or another estimator have given another direction?

    python -m analyses.direction_stability RUN [--layers 2 4] [--seeds 5]

direction_stability: one row a layer, comparison, pair of methods and number of scenarios.
  layer; comparison (to_all: a subset's direction against that of all scenarios; disjoint: two
  subsets without a common scenario, the largest being split halves; between_methods: two methods on
  one subset); method, other_method (logistic, logistic_sklearn_default, mean_difference);
  n_scenarios behind each direction; cosine_mean, cosine_min, cosine_max over subsets; n_subsets;
  random_cosine (1 / sqrt(d_model), the spread of unrelated directions).
direction_stability_draws: one row a subset: ... seed, cosine.

To_all rises to 1 by construction; disjoint is the one that says how much is shared. A few
seconds for the demo's run.
"""

import sys
from dataclasses import asdict, dataclass

import pandas as pd

from interp_steer.analysis.command import Analysis, RunOption
from interp_steer.analysis.direction_fits import layer_agreements
from interp_steer.analysis.tidy_tables import Findings
from interp_steer.analysis.training_data import training_data
from interp_steer.planes import FitMethod
from interp_steer.runs import Run

METHODS: tuple[FitMethod, ...] = ("logistic", "logistic_sklearn_default", "mean_difference")
KEYS = ["layer", "comparison", "method", "other_method", "n_scenarios"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(RunOption):
    """Would other scenarios, fewer of them or another estimator have given another direction?"""

    layers: tuple[int, ...] = ()
    """Layers; all that have a probe by default."""
    seeds: int = 5
    """Subsets of each size."""


def find(run: Run, options: Options) -> Findings:
    """Cosines over subsets, sizes and methods."""
    data = training_data(run)
    records = [
        {"layer": probe.layer, **asdict(agreement)}
        for probe, rows in data.layers(options.layers)
        for agreement in layer_agreements(
            rows,
            data.is_aligned,
            data.scenarios,
            methods=METHODS,
            n_seeds=options.seeds,
            c=data.c,
            seed=data.seed,
        )
    ]
    draws = pd.DataFrame(records)
    return Findings(
        tables={"": _over_subsets(draws, data.probes.v_hat.shape[1]), "draws": draws},
        inputs=(run.residuals_file, run.responses_file),
    )


def _over_subsets(draws: pd.DataFrame, d_model: int) -> pd.DataFrame:
    groups = draws.groupby(KEYS, sort=True)["cosine"]
    table = groups.agg(["mean", "min", "max", "count"]).add_prefix("cosine_").reset_index()
    table = table.rename(columns={"cosine_count": "n_subsets"})
    return table.assign(random_cosine=d_model**-0.5)


ANALYSIS = Analysis(name="direction_stability", about=__doc__ or "", options=Options, find=find)
main = ANALYSIS.main
"""Command: arguments in, exit code out."""

if __name__ == "__main__":
    sys.exit(main())
