"""What a guard does to the next token where there is nothing to guard against.

The same tokens are read twice, by the unsteered and by the steered model, and their next-token
distributions compared: a price that shows before any text changes. A small divergence on these
responses says nothing about prompts unlike theirs, nor what a divergence of a given size does to a
sampled text. The measure is this project's.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.layer_hooks import LayerHook
from interp_steer.measures import MeasureError
from interp_steer.model import PAD_ID, HookedLM
from interp_steer.reference_measures import MAX_LOGITS, micro_batches, rows_at_once
from interp_steer.runners import ModelRunner
from interp_steer.steering import SteeringPlan
from interp_steer.tokens import TokenizedPrompt, left_pad


def next_token_kl(
    lm: HookedLM,
    sequences: Sequence[TokenizedPrompt],
    plan: SteeringPlan,
    *,
    batch_size: int = 256,
    max_logits: int = MAX_LOGITS,
) -> Float[np.ndarray, "row"]:
    """Mean over the response's tokens of KL(unsteered || steered), nats per token.

    KL_t = sum_x p(x) (log p(x) - log q(x)) with p and q the next-token distributions (temperature
    1, float32) of the unsteered and the steered model that choose response token t, both reading
    the same tokens before it. End-of-turn is left out, as from every measure. Rounding below 0 is
    set to 0; NaN where a response is empty.

    Args:
        lm: the model, nothing attached to it.
        sequences: prompts with the unsteered response of the same prompt; equal ones run unsteered
            once.
        plan: one spec per sequence.
        batch_size: rows run together at most.
        max_logits: logits held at once at most, for each of the two models.

    Raises:
        MeasureError: a plan for another number of sequences, or a response that follows nothing.
        SteeringError: a plan that does not fit the model.
        ModelError: hooks are attached to `lm` already.
    """
    if plan.n_rows is not None and plan.n_rows != len(sequences):
        raise MeasureError(
            f"expected a plan with one spec for each of the {len(sequences)} sequences, got "
            f"{plan.n_rows} specs"
        )
    if any(not sequence.n_prompt for sequence in sequences):
        raise MeasureError(
            "expected prompts with a response, got a sequence of response tokens alone; its first "
            "token has no distribution to compare"
        )
    plan.check_fits(lm)
    runner = lm.fresh_runner()
    lengths = [len(s) - s.n_prompt for s in sequences]
    todo = [row for row, length in enumerate(lengths) if length]
    todo.sort(key=lambda row: (len(sequences[row]), sequences[row].token_ids))
    per_row = (max(lengths, default=0) + 1) * lm.d_vocab
    size = rows_at_once(batch_size, max_logits=max_logits, logits_per_row=per_row)
    means = np.full(len(sequences), np.nan)
    for part in micro_batches(todo, size):
        means[part] = _mean_kl(runner, lm.device, [sequences[row] for row in part], plan, part)
    return means


def _mean_kl(
    runner: ModelRunner,
    device: torch.device,
    sequences: Sequence[TokenizedPrompt],
    plan: SteeringPlan,
    rows: Sequence[int],
) -> list[float]:
    """Return the mean KL of a micro-batch whose rows are `rows` of the plan."""
    different = {(s.token_ids, s.segments): s for s in sequences}
    place = {key: row for row, key in enumerate(different)}
    width = max(len(s) - s.n_prompt for s in sequences)
    unsteered = _log_p(runner, device, list(different.values()), width)
    with runner.attached(_hooks(plan, rows)):
        steered = _log_p(runner, device, sequences, width)
    means = []
    for sequence, log_q in zip(sequences, steered, strict=True):
        n = len(sequence) - sequence.n_prompt
        log_p = unsteered[place[(sequence.token_ids, sequence.segments)], width - n :]
        kl = (log_p.exp() * (log_p - log_q[width - n :])).sum(dim=-1).clamp(min=0)
        means.append(kl.double().mean())
    return torch.stack(means).tolist()


def _log_p(
    runner: ModelRunner, device: torch.device, sequences: Sequence[TokenizedPrompt], width: int
) -> Float[Tensor, "row token d_vocab"]:
    """Return the log-distributions that choose the last `width` tokens of every row."""
    batch = left_pad(sequences, pad_id=PAD_ID, device=device)
    with runner.prepared():
        logits = runner.run(batch.chunk, batch.chunk.is_real.long(), n_logits=width + 1)
    return logits[:, :-1].float().log_softmax(dim=-1)


def _hooks(plan: SteeringPlan, rows: Sequence[int]) -> dict[int, LayerHook]:
    """Return hooks for a call with these rows of the plan, in this order."""
    chosen = torch.tensor(rows)
    compiled = {
        layer: one if one.slot_of_row is None else replace(one, slot_of_row=one.slot_of_row[chosen])
        for layer, one in plan.compiled.items()
    }
    return {layer: LayerHook(one) for layer, one in compiled.items()}
