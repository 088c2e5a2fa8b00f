"""What a judge reads of a row that was begun for the model: what was sampled, and what was not."""

from collections.abc import Sequence

from interp_steer.judges import Answer
from interp_steer.model import HookedLM
from interp_steer.sampling import answer_ids
from interp_steer.scenarios import Scenario
from interp_steer.tokens import TokenizedPrompt


def prefilled_answer(
    lm: HookedLM,
    prompt: TokenizedPrompt,
    scenario: Scenario,
    *,
    prefix: Sequence[int],
    token_ids: Sequence[int],
    text: str,
    stopped: bool,
) -> Answer:
    """A response that was begun for the model; decoded as one, or the space between is lost.

    Args:
        lm: decodes.
        prompt: the scenario's, without the prefix.
        scenario: what was asked.
        prefix: tokens that the response was begun with.
        token_ids: the answer's tokens that were sampled after them.
        text: those alone, decoded; taken where the whole does not begin as its prefix does.
        stopped: whether the model ended the response itself.
    """
    begun = answer_ids(prompt, prefix)
    start = lm.decode(begun) if begun else ""
    whole = lm.decode((*begun, *token_ids)) if begun else text
    return Answer(
        scenario=scenario,
        text=whole[len(start) :] if whole.startswith(start) else text,
        stopped=stopped,
        prefix=start,
    )
