"""One script a question: a run directory in, tidy tables out (`python -m analyses.NAME RUN`).

`python -m analyses RUN` asks all of them. What scripts share lives in `interp_steer`.
"""

NAMES = (
    "layer_readability",
    "projection_distributions",
    "boundary_placement",
    "direction_stability",
    "layer_alpha_scores",
    "operating_points",
    "judge_free_by_layer",
    "causal_scan",
    "baseline_projections",
    "token_interventions",
    "dose",
    "matched_dose",
    "calibration",
    "steering_duration",
    "multi_turn",
    "capabilities",
    "cross_trait",
    "cost",
)
"""The analyses, in the order of the paper's questions."""
