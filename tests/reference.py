"""What plain Hugging Face modules with plain PyTorch hooks give: one unpadded sequence at a time.

The independent means by which batching, padding, caching, chunking and the bridge are checked.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import PreTrainedModel

from interp_steer.tokens import Segment, TokenizedPrompt

Edit = Callable[[Tensor], Tensor]
"""Takes and returns resid_post [pos, d_model] of one sequence."""


def blocks(plain: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder blocks of a Llama-like (GPT-NeoX too) or GPT-2-like model."""
    inner = plain.base_model
    return inner.h if hasattr(inner, "h") else inner.layers


def plain_forward(
    plain: PreTrainedModel, token_ids: Sequence[int], edits: Mapping[int, Edit] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Return logits [pos, d_vocab] and resid_post [pos, d_model] of every layer, edits applied."""
    seen: dict[int, Tensor] = {}

    def hook_at(layer: int) -> Callable[..., object]:
        def hook(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
            resid = output[0] if isinstance(output, tuple) else output
            if edits and layer in edits:
                resid = edits[layer](resid[0])[None]
            seen[layer] = resid[0].clone()
            return (resid, *output[1:]) if isinstance(output, tuple) else resid

        return hook

    with ExitStack() as stack, torch.no_grad():
        for layer, block in enumerate(blocks(plain)):
            stack.callback(block.register_forward_hook(hook_at(layer)).remove)
        logits = plain(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits[0]
    return logits, [seen[layer] for layer in sorted(seen)]


def random_sequences(
    d_vocab: int, lengths: Sequence[int], *, n_response: int = 0, seed: int = 0
) -> list[TokenizedPrompt]:
    """Random token sequences (ids from 7, so no special token), the last tokens RESPONSE."""
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for length in lengths:
        token_ids = torch.randint(7, d_vocab, (length,), generator=generator).tolist()
        n_prompt = max(length - n_response, 1)
        prompt = TokenizedPrompt(
            token_ids=tuple(token_ids[:n_prompt]), segments=(int(Segment.USER),) * n_prompt
        )
        sequences.append(prompt.with_response(token_ids[n_prompt:]))
    return sequences
