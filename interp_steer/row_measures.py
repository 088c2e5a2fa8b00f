"""The judge-free measures of a pack's rows, gathered from where each is made.

`edit_meter` has counted in the hooks while the rows were generated; here the unsteered model reads
the responses again, beside those of the baselines. A measure whose baseline is not in the sweep is
left undefined, never computed against something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interp_steer.divergence import next_token_kl
from interp_steer.edit_meter import EditMeter
from interp_steer.embedders import Embedder
from interp_steer.measures import (
    GUARD_COLUMNS,
    REFERENCE_COLUMNS,
    MeasureArrays,
    measure_records,
    measure_texts,
)
from interp_steer.model import HookedLM
from interp_steer.probes import ProbeSet
from interp_steer.prompt_cache import PromptCache
from interp_steer.reference_measures import Comparison, measure_references
from interp_steer.sampling import Generation
from interp_steer.specs import SteeringSpec
from interp_steer.steering import SteeringPlan
from interp_steer.sweep_rows import Baselines, SweepRow


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeRows:
    """Rows, what was made of them, and what they are compared with."""

    rows: tuple[SweepRow, ...]
    """The rows of one pack."""
    specs: Sequence[SteeringSpec | None]
    """How each was steered."""
    generations: Sequence[Generation]
    """What each said."""
    baselines: Baselines
    """Baselines of their scenarios."""


class RowMeter:
    """Measures packs; holds the unsteered model and the embedder."""

    def __init__(
        self,
        lm: HookedLM,
        probes: ProbeSet,
        prompts: PromptCache,
        *,
        embedder: Embedder | None = None,
        batch_size: int = 256,
    ) -> None:
        """Keep what every pack needs.

        Args:
            lm: the model, nothing attached to it when `measure` is called.
            probes: what the rows were steered with.
            prompts: tokenised prompts.
            embedder: for embedding_cosine; without one that column is null.
            batch_size: rows run together at most.
        """
        self._lm, self._probes, self._prompts = lm, probes, prompts
        self._embedder, self._batch_size = embedder, batch_size

    def measure(self, made: MadeRows, edits: EditMeter) -> list[dict[str, float | None]]:
        """`MEASURE_COLUMNS` of every row."""
        n_rows = len(made.rows)
        return measure_records(
            edits.results(n_rows),
            measure_texts([generation.text for generation in made.generations]),
            self._references(made),
            self._divergence(made),
            n_rows=n_rows,
        )

    def _references(self, made: MadeRows) -> MeasureArrays:
        """Against the aligned baseline's responses; that baseline's rows against themselves."""
        place, comparisons = [], []
        for index, (row, generation) in enumerate(zip(made.rows, made.generations, strict=True)):
            own = generation.token_ids
            reference = own if row.wave == 0 else made.baselines.aligned.get(row.sample_key)
            if reference is None:
                continue
            aligned = self._prompts.of(row.scenario, "aligned")
            prefix = made.baselines.prefix(row)
            place.append(index)
            comparisons.append(
                Comparison(
                    prompt=aligned.with_prefill(prefix) if prefix else aligned,
                    token_ids=own,
                    reference_prompt=aligned,
                    reference_ids=reference,
                )
            )
        if not comparisons:
            return {}
        found = measure_references(
            self._lm, comparisons, embedder=self._embedder, batch_size=self._batch_size
        )
        return {name: _spread(found[name], place, len(made.rows)) for name in REFERENCE_COLUMNS}

    def _divergence(self, made: MadeRows) -> MeasureArrays:
        """For guards: against the unsteered model on the responses of the same side's baseline."""
        place, sequences = [], []
        for index, row in enumerate(made.rows):
            unsteered = made.baselines.unthreatened(row) if row.cell.is_guard else None
            if unsteered is None:
                continue
            place.append(index)
            prompt = self._prompts.of(row.scenario, row.cell.side)
            sequences.append(prompt.with_response(unsteered))
        if not sequences:
            return {}
        plan = SteeringPlan([made.specs[index] for index in place], self._probes)
        kl = next_token_kl(self._lm, sequences, plan, batch_size=self._batch_size)
        return {GUARD_COLUMNS[0]: _spread(kl, place, len(made.rows))}


def _spread(values: np.ndarray, place: Sequence[int], n_rows: int) -> np.ndarray:
    """Put the values at their rows, NaN elsewhere."""
    whole = np.full(n_rows, np.nan)
    whole[list(place)] = values
    return whole
