"""The prompts of a sweep, each tokenised once."""

from collections.abc import Sequence

from interp_steer.model import HookedLM
from interp_steer.scenarios import Scenario, Side
from interp_steer.sweep_rows import SweepRow
from interp_steer.tokens import TokenizedPrompt


class PromptCache:
    """Tokenised prompts by scenario and side."""

    def __init__(self, lm: HookedLM) -> None:
        self._lm = lm
        self._known: dict[tuple[str, Side], TokenizedPrompt] = {}

    def of(self, scenario: Scenario, side: Side) -> TokenizedPrompt:
        """The scenario's prompt under one side's system prompt.

        Raises:
            ScenarioError: the scenario has no such side.
        """
        key = (scenario.id, side)
        if key not in self._known:
            self._known[key] = self._lm.tokenize(scenario.prompt(side))
        return self._known[key]

    def of_row(self, row: SweepRow, prefix: Sequence[int] = ()) -> TokenizedPrompt:
        """The row's prompt, with the start of its response put in."""
        prompt = self.of(row.scenario, row.cell.side)
        return prompt.with_prefill(prefix) if prefix else prompt
