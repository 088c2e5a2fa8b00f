"""Which of Hugging Face's modules run as PyTorch's RMS norm, and that they say the same."""

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

from interp_steer.fused_norms import fused_forward

D = 24


def weighted(norm: nn.Module, seed: int = 3) -> Any:
    """The norm with weights that are neither 0 nor 1."""
    generator = torch.Generator().manual_seed(seed)
    for weight in norm.parameters():
        weight.data.normal_(1.5, 0.5, generator=generator)
    return norm.eval().requires_grad_(requires_grad=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, MistralRMSNorm, Qwen3RMSNorm])
def test_an_rms_norm_is_fused_and_says_the_same(kind: Any, dtype: torch.dtype) -> None:
    norm = weighted(kind(D, eps=1e-5)).to(dtype)
    forward = fused_forward(norm)
    assert forward is not None
    x = torch.randn(3, 5, D, generator=torch.Generator().manual_seed(1)).to(dtype)
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 0.0}
    torch.testing.assert_close(forward(x), norm(x), **close)
    # Weights and epsilon are read when it is called; a norm is not taken for what it was.
    norm.weight.data.mul_(2.0)
    norm.variance_epsilon = 0.5
    torch.testing.assert_close(forward(x), norm(x), **close)


class MeanNorm(MistralRMSNorm):
    """Looks like an RMS norm and is none."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))


class AlmostNorm(MistralRMSNorm):
    """Differs where rows are as small as the epsilon."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        length = hidden_states.square().mean(-1, keepdim=True).sqrt()
        return self.weight * hidden_states / (length + math.sqrt(self.variance_epsilon))


@pytest.mark.parametrize(
    "norm",
    [
        Gemma3RMSNorm(D),  # adds 1 to its weight
        Qwen3NextRMSNormGated(D),  # takes a gate
        MeanNorm(D),
        AlmostNorm(D),
        nn.LayerNorm(D),
        nn.RMSNorm(D),  # PyTorch's own, whose epsilon is None
        nn.Linear(D, 1, bias=False),
        nn.Embedding(4, D),
        nn.Sequential(MistralRMSNorm(D)),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_what_is_something_else_is_left_alone(norm: nn.Module) -> None:
    assert fused_forward(weighted(norm)) is None


def test_a_replaced_forward_and_weights_that_are_elsewhere_are_left_alone() -> None:
    norm = weighted(MistralRMSNorm(D))
    norm.forward = lambda x: x
    assert fused_forward(norm) is None
    assert fused_forward(MistralRMSNorm(D).to("meta")) is None


def test_a_norm_is_tried_again_in_another_dtype_and_not_kept_alive() -> None:
    norm = weighted(MistralRMSNorm(D))
    assert fused_forward(norm) is not None
    forward = fused_forward(norm.to(torch.bfloat16))
    assert forward is not None
    assert forward(torch.ones(1, 1, D, dtype=torch.bfloat16)).dtype == torch.bfloat16
    gone = weakref.ref(norm)
    del norm, forward
    gc.collect()
    assert gone() is None
