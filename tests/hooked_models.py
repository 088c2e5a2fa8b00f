"""Tiny models as a HookedTransformer of TransformerLens 3.x, and the same weights in Hugging Face.

TransformerLens loads what is on the hub by name. A local directory is put together from the steps
that its `from_pretrained` takes.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXForCausalLM,
    PreTrainedModel,
)

from architectures import CONFIGS, N_CTX
from conftest import tiny_model, tiny_tokenizer

FAMILIES = ("gpt2", "llama", "mistral", "neox")
PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


def save_family(directory: Path, family: str) -> Path:
    """Write a random model and its tokenizer; biases and norms are random too."""
    torch.manual_seed(0)
    model = _model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name or "ln_" in name:
                parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def _model(family: str) -> PreTrainedModel:
    if family == "neox":
        return GPTNeoXForCausalLM(CONFIGS["neox"]()).eval()
    if family != "gpt2":
        return tiny_model(family)
    config = CONFIGS["gpt2"]().to_dict() | {"n_inner": None, "n_ctx": N_CTX}
    return GPT2LMHeadModel(GPT2Config(**config)).eval()


def hooked_transformer(
    directory: Path, *, processed: bool = False, n_ctx: int = N_CTX, dtype: Any = torch.float32
) -> Any:
    """Return a local model as a HookedTransformer, like its from_pretrained(_no_processing)."""
    from transformer_lens import HookedTransformer
    from transformer_lens import loading_from_pretrained as loading

    cfg = loading.get_pretrained_model_config(
        str(directory), fold_ln=processed, device="cpu", n_ctx=n_ctx, dtype=dtype
    )
    plain = plain_model(directory)
    weights = loading.get_pretrained_state_dict(str(directory), cfg, plain, dtype=dtype)
    model = HookedTransformer(cfg, AutoTokenizer.from_pretrained(directory))
    model.load_and_process_state_dict(weights, **dict.fromkeys(PROCESSING, processed))
    return model


def plain_model(directory: Path) -> PreTrainedModel:
    """Return the model as Hugging Face has it."""
    return AutoModelForCausalLM.from_pretrained(directory).eval()


def context_of(directory: Path) -> int:
    """Longest sequence of a model on disk."""
    return AutoConfig.from_pretrained(directory).max_position_embeddings
