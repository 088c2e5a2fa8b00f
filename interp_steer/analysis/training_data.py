"""What a run's probes were fitted from, put together again from its artifacts.

Analyses of readability, stability and placement all start from the pooled residuals with their
scenarios, system prompts and clusters; they must group and cluster as the fit did. Nothing is
fitted here, and no model is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from interp_steer.analysis.run_rows import scenario_clusters
from interp_steer.analysis.tidy_tables import AnalysisError, require
from interp_steer.fit_stage import load_probes, read_responses, training_scenario_ids
from interp_steer.labelled import LabelledResiduals
from interp_steer.planes import FitMethod
from interp_steer.probes import LayerProbe, ProbeSet
from interp_steer.readability import Folds, SidePair, make_folds
from interp_steer.residuals import load_residuals
from interp_steer.runs import Run
from interp_steer.study import run_scenarios


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """Pooled residuals of the training responses, aligned first, and who they belong to."""

    residuals: LabelledResiduals
    """Both sides, with the scenario of each response."""
    probes: ProbeSet
    """The probes fitted from them."""
    system_ids: SidePair | None
    """System prompt of each response; None for raw prompts."""
    clusters: tuple[str, ...]
    """Cluster of each response: what intervals resample."""
    method: FitMethod
    """How the probes were fitted."""
    c: float
    """Weight of the log-loss in that fit."""
    seed: int
    """Seed of the run."""

    @property
    def is_aligned(self) -> Bool[np.ndarray, "response"]:
        """Side of each response."""
        return self.residuals.is_aligned

    @property
    def scenarios(self) -> list[str]:
        """Scenario of each response."""
        return [*self.residuals.scenario_ids[0], *self.residuals.scenario_ids[1]]

    def folds(self) -> Folds:
        """The folds of the fit: same groups, same seed."""
        said = self.probes.conventions.get("crossfit", {})
        return make_folds(
            self.residuals.scenario_ids,
            self.system_ids,
            n_folds=max(2, said.get("n_folds", 5)),
            seed=said.get("seed", self.seed),
        )

    def layers(
        self, wanted: tuple[int, ...] = ()
    ) -> Iterator[tuple[LayerProbe, Float[np.ndarray, "response d_model"]]]:
        """Each layer's probe with its residuals in float64; all layers by default.

        Raises:
            AnalysisError: a layer without residuals.
        """
        known = self.residuals.layers
        for layer in wanted or known:
            if layer not in known:
                raise AnalysisError(
                    f"the run has no residuals of layer {layer}; it has layers "
                    f"{', '.join(map(str, known))}"
                )
            yield self.probes.probe(layer), self.residuals.rows(known.index(layer))

    def pooled(self, wanted: tuple[int, ...] = ()) -> pd.DataFrame:
        """Projection of every response at every layer: one row each, with its margin rho - m."""
        who = {
            "side": np.where(self.is_aligned, "aligned", "malicious"),
            "scenario": self.scenarios,
            "cluster": self.clusters,
        }
        frames = []
        for probe, rows in self.layers(wanted):
            rho = rows @ probe.v_hat.double().numpy()
            numbers = {"layer": probe.layer, "projection": rho, "margin": rho - probe.boundary}
            frames.append(pd.DataFrame({**who, **numbers}))
        frame = pd.concat(frames, ignore_index=True)
        frame["response_index"] = frame.groupby(["layer", "side", "scenario"]).cumcount()
        return frame


def training_data(run: Run) -> TrainingData:
    """The training data of a run.

    Raises:
        AnalysisError, RunError: the run has no probes, responses or residuals, or other scenarios.
    """
    fit = f"interp-steer fit --out {run.path} --model ... --scenarios ..."
    require(run.probes_file, "probes", command=fit)
    require(run.residuals_file, "residuals", command=fit)
    require(run.responses_file, "training responses", command=fit)
    probes, pair = load_probes(run), load_residuals(run.residuals_file)
    ids = training_scenario_ids(read_responses(run))
    by_id = {scenario.id: scenario for scenario in run_scenarios(run)}
    systems = (
        [str(by_id[i].system_aligned) for i in ids[0]],
        [str(by_id[i].system_malicious) for i in ids[1]],
    )
    clusters = scenario_clusters(run)
    return TrainingData(
        residuals=LabelledResiduals(
            aligned=pair.aligned.values,
            malicious=pair.malicious.values,
            layers=pair.aligned.layers,
            scenario_ids=ids,
        ),
        probes=probes,
        system_ids=None if any(s.is_raw for s in by_id.values()) else systems,
        clusters=tuple(clusters[i] for side in ids for i in side),
        method=probes.conventions.get("method", "logistic"),
        c=probes.conventions.get("c") or 1.0,
        seed=run.manifest["pins"]["generation"]["seed"],
    )


def token_projections(run: Run) -> pd.DataFrame:
    """projections.parquet with `cluster`: one row a token and layer.

    Raises:
        AnalysisError: the run has none.
    """
    from interp_steer.files import read_table

    command = f"interp-steer fit --out {run.path} --model ... --scenarios ..."
    path = require(run.projections_file, "per-token projections", command=command)
    frame = read_table(path, remedy=f"remove it and run `{command}`").to_pandas()
    return frame.assign(cluster=frame["scenario"].map(scenario_clusters(run)))
