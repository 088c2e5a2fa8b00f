"""What a judge reads of the rows of a sweep, long after they were made.

The text is stored; the start that a threat prefill:K put into the model's mouth is not, but whose
tokens it was is known. Only to decode it is the model loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from interp_steer.cells import Cell
from interp_steer.judged_answers import prefilled_answer
from interp_steer.judges import Answer
from interp_steer.runs import Run
from interp_steer.sampling import answer_ids
from interp_steer.scenarios import Scenario
from interp_steer.study import Study
from interp_steer.sweep import read_rows
from interp_steer.sweep_rows import Baselines, SweepRow

STORED = ("response", "token_ids", "stop_reason")
"""Columns that are read beside the key's."""


class StoredAnswers:
    """Reads rows of one run's sweep."""

    def __init__(
        self, run: Run, scenarios: Sequence[Scenario], open_study: Callable[[], Study]
    ) -> None:
        """Name them; nothing is read.

        Args:
            run: with a sweep.
            scenarios: those that its rows are about.
            open_study: loads the run's model; called at the first row with a prefilled start.
        """
        self._run, self._open = run, open_study
        self._scenarios = {scenario.id: scenario for scenario in scenarios}
        self._opened: tuple[Study, Baselines] | None = None

    def of(self, row: Mapping[str, Any]) -> Answer:
        """What a judge reads of a row with the columns of a key and `STORED`.

        Raises:
            GridError: the malicious baseline that a prefilled start is of is not there.
        """
        scenario, cell = self._scenarios[row["scenario"]], Cell.from_row(row)
        stopped = row["stop_reason"] == "stop_token"
        if cell.prefill is None:
            return Answer(scenario=scenario, text=row["response"], stopped=stopped)
        if self._opened is None:
            self._opened = (self._open(), Baselines.read(read_rows(self._run)))
        study, baselines = self._opened
        asked = SweepRow(scenario=scenario, cell=cell, response_index=row["response_index"])
        prompt, prefix = study.lm.tokenize(scenario.prompt(cell.side)), baselines.prefix(asked)
        return prefilled_answer(
            study.lm,
            prompt,
            scenario,
            prefix=prefix,
            token_ids=answer_ids(prompt.with_prefill(prefix), row["token_ids"]),
            text=row["response"],
            stopped=stopped,
        )
