"""How a steering sweep is usually written: Hugging Face `generate` and a forward hook.

One configuration at a time, its scenarios in one left-padded batch, or one generation at a time, as
the examples of most steering packages do. The edit is the same as this library's (equations 3-5),
written again from its numbers and without its code; `benchmarks.sweep` compares the tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_steer.cells import Cell
from interp_steer.layer_probe import LayerProbe
from interp_steer.sampling import GenerationSettings

PAD_ID = 0

Edit = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"]]
"""Returns the residual stream with one configuration's edit."""


def plain_edit(cell: Cell, probe: LayerProbe, *, device: torch.device) -> Edit:
    """The edit of one cell on every token it is shown."""
    v_hat = probe.v_hat.to(device)
    alpha, m = float(cell.alpha or 0.0), probe.boundary
    target = probe.mu_pos + alpha * probe.sigma_pos
    cap = probe.mu_pos + 40 * probe.sigma_pos

    def shift(rho: Float[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        if cell.method == "swfc":
            return torch.full_like(rho, alpha * probe.delta_mu)
        if cell.method == "sttp":
            return torch.where(rho < m, target - rho, 0.0)
        return torch.where(rho < m, torch.minimum(2 * alpha * (m - rho), cap - rho), 0.0)

    def edit(h: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        wide = h.float()
        return (wide + shift(wide @ v_hat)[..., None] * v_hat).to(h.dtype)

    return edit


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainModel:
    """A Hugging Face model as a peer uses it."""

    model: Any
    """AutoModelForCausalLM, its own attention implementation."""
    tokenizer: Any
    """For decoding."""

    @classmethod
    def load(cls, folder: Path, *, device: str) -> "PlainModel":
        """Load model and tokenizer the ordinary way, in float32."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(model=model.to(device).eval(), tokenizer=AutoTokenizer.from_pretrained(folder))

    @contextmanager
    def steered(self, cell: Cell, probe: LayerProbe) -> Iterator[None]:
        """Edit resid_post of the cell's layer in every forward call of the block."""
        edit = plain_edit(cell, probe, device=self.model.device)

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            if cell.scope == "response" and hidden.shape[1] > 1:  # the prompt comes in one call
                return output
            edited = edit(hidden)
            return (edited, *output[1:]) if isinstance(output, tuple) else edited

        handle = self.model.model.layers[cell.layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], settings: GenerationSettings, *, stops: bool
    ) -> list[list[int]]:
        """Sample one response per prompt as one batch; return its tokens, stop token left out.

        Args:
            prompts: token ids.
            settings: sampling; top-k, which `generate` adds by itself, is switched off.
            stops: False lets no row end before `max_new_tokens`.
        """
        width = max(map(len, prompts))
        padded = [[PAD_ID] * (width - len(ids)) + list(ids) for ids in prompts]
        masks = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        device = self.model.device
        is_greedy = settings.temperature == 0
        sampling: dict[str, Any] = (
            {"do_sample": False}
            if is_greedy
            else {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": 0}
            | {"do_sample": True}
        )
        eos = self.tokenizer.eos_token_id
        self.model.generation_config.eos_token_id = eos if stops else None
        made = self.model.generate(
            torch.tensor(padded, device=device),
            attention_mask=torch.tensor(masks, device=device),
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=PAD_ID,
            **sampling,
        )
        rows = made[:, width:].tolist()
        responses = [row[: row.index(eos)] if stops and eos in row else row for row in rows]
        self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        return responses
