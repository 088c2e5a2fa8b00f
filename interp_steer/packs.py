"""A pack: rows of any configurations generated in one batch, and the worker that makes them.

One configuration at a time wastes a batch. Here a batch holds rows of any cells; a `SteeringPlan`
gives every row its own edit. What a row says depends on (seed, scenario, response index) and its
cell, never on its neighbours: equal texts however rows are packed are exact up to the float noise
of batched arithmetic, which now and then moves a draw across a token boundary. A worker knows
nothing of run directories, so that it can live in any process.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from interp_steer.cells import KEY_COLUMNS
from interp_steer.controls import ControlDirections
from interp_steer.edit_meter import EditMeter
from interp_steer.embedders import Embedder
from interp_steer.errors import ModelError
from interp_steer.judged_answers import prefilled_answer
from interp_steer.judges import Answer, Judge, JudgeScore, score_answers
from interp_steer.memory import is_out_of_memory
from interp_steer.model import HookedLM
from interp_steer.probes import ProbeSet
from interp_steer.prompt_cache import PromptCache
from interp_steer.row_measures import MadeRows, RowMeter
from interp_steer.sampling import Generation, GenerationSettings
from interp_steer.steering import SteeringPlan, SteeringSpec, steer
from interp_steer.sweep_rows import SWEEP_SCHEMA, Baselines, SweepRow, steering_spec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSetting:
    """What every row of a sweep shares."""

    lm: HookedLM
    """The model."""
    probes: ProbeSet
    """Probes of the layers that cells steer at."""
    judge: Judge
    """Scores every response."""
    generation: GenerationSettings
    """Sampling; its seed is the sweep's."""
    directions: ControlDirections | None = None
    """Directions of the controls; needed only where cells have a control."""
    responses_per_scenario: int = 1
    """Responses of each cell to each scenario."""
    batch_size: int = 512
    """Rows generated together; halved where memory does not suffice."""
    judge_free: bool = True
    """Whether rows get the judge-free measures; without, their columns are null."""
    embedder: Embedder | None = None
    """Sentence embeddings for embedding_cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """Rows that are generated together, with what they need of other rows."""

    rows: tuple[SweepRow, ...]
    """The rows, of one wave."""
    baselines: Baselines
    """Baselines of their scenarios, as far as they are there."""

    def halves(self) -> "tuple[Pack, Pack]":
        """The pack in two."""
        middle = len(self.rows) // 2
        return (
            Pack(rows=self.rows[:middle], baselines=self.baselines),
            Pack(rows=self.rows[middle:], baselines=self.baselines),
        )


class PackWorker:
    """Makes the rows of packs, one model replica's worth of work."""

    def __init__(self, setting: SweepSetting) -> None:
        self.setting = setting
        self.prompts = PromptCache(setting.lm)
        self._meter = RowMeter(
            setting.lm,
            setting.probes,
            self.prompts,
            embedder=setting.embedder,
            batch_size=setting.batch_size,
        )
        self.max_rows: int | None = None
        """Rows that fitted after memory ran out; None as long as it never did."""

    def run(self, pack: Pack) -> pa.Table:
        """Generate and score every row of `pack`, in the columns of `SWEEP_SCHEMA`.

        Where memory does not suffice the pack is done in halves, and so are later ones.

        Raises:
            ModelError: a single row does not fit into memory.
            JudgeError: the judge failed.
            GridError: a row lacks what it depends on.
        """
        if self.max_rows is not None and len(pack.rows) > self.max_rows:
            return pa.concat_tables([self.run(half) for half in pack.halves()])
        try:
            return self._make(pack)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(pack.rows) == 1:
                raise ModelError(
                    f"one response of {self.setting.generation.max_new_tokens} tokens at most does "
                    f"not fit into memory ({error}); use a smaller max_new_tokens, a smaller "
                    "dtype, or a larger device"
                ) from error
        # Outside the except block: the traceback would keep the failed batch's tensors alive.
        self._halve(len(pack.rows))
        return self.run(pack)

    def _halve(self, n_rows: int) -> None:
        self.max_rows = n_rows // 2
        _log.warning(
            "out of memory with %d rows in a batch; going on with %d", n_rows, self.max_rows
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _make(self, pack: Pack) -> pa.Table:
        setting, rows = self.setting, pack.rows
        specs = self._specs(rows)
        prefixes = [pack.baselines.prefix(row) for row in rows]
        edits = EditMeter()
        plan = SteeringPlan(specs, setting.probes)
        with steer(setting.lm, plan, recorder=edits if setting.judge_free else None):
            generations = setting.lm.generate(
                [self.prompts.of_row(*pair) for pair in zip(rows, prefixes, strict=True)],
                setting.generation,
                sample_keys=[row.sample_key for row in rows],
                share_prefixes=True,
            )
        scores = self._scores(rows, generations, prefixes)
        measures: list[dict[str, float | None]] = [{} for _ in rows]
        if setting.judge_free:
            made = MadeRows(
                rows=rows, specs=specs, generations=generations, baselines=pack.baselines
            )
            measures = self._meter.measure(made, edits)
        return _table(rows, generations, scores, measures, judge=setting.judge.name)

    def _specs(self, rows: Sequence[SweepRow]) -> list[SteeringSpec | None]:
        """One spec object a cell, so that rows of a cell share a slot of the plan."""
        by_cell = {row.cell: steering_spec(row.cell, self.setting.directions) for row in rows}
        return [by_cell[row.cell] for row in rows]

    def _scores(
        self,
        rows: Sequence[SweepRow],
        generations: Sequence[Generation],
        prefixes: Sequence[tuple[int, ...]],
    ) -> list[JudgeScore]:
        answers = [
            self._answer(row, made, prefix)
            for row, made, prefix in zip(rows, generations, prefixes, strict=True)
        ]
        return score_answers(self.setting.judge, answers)

    def _answer(self, row: SweepRow, made: Generation, prefix: tuple[int, ...]) -> Answer:
        stopped = made.stop_reason == "stop_token"
        if not prefix:
            return Answer(scenario=row.scenario, text=made.text, stopped=stopped)
        return prefilled_answer(
            self.setting.lm,
            self.prompts.of(row.scenario, row.cell.side),
            row.scenario,
            prefix=prefix,
            token_ids=made.answer_ids,
            text=made.text,
            stopped=stopped,
        )


def _table(
    rows: Sequence[SweepRow],
    generations: Sequence[Generation],
    scores: Sequence[JudgeScore],
    measures: Sequence[Mapping[str, float | None]],
    *,
    judge: str,
) -> pa.Table:
    records = [
        {
            **dict(zip(KEY_COLUMNS, row.key, strict=True)),
            "response": generation.text,
            "token_ids": list(generation.token_ids),
            "n_tokens": len(generation.token_ids),
            "stop_reason": generation.stop_reason,
            "judge": judge,
            "trait": math.nan if score.trait is None else score.trait,
            "coherence": math.nan if score.coherence is None else score.coherence,
            **measured,
        }
        for row, generation, score, measured in zip(
            rows, generations, scores, measures, strict=True
        )
    ]
    return pa.Table.from_pylist(records, schema=SWEEP_SCHEMA)
