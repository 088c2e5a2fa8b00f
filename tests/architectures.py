"""Tiny random-weight models of every architecture class that is tested, made from configs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
)

from conftest import TINY_WORDS, tiny_tokenizer

N_CTX = 96
_TOKENS = {
    "vocab_size": 7 + len(TINY_WORDS),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
_ROTARY = {
    **_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": N_CTX,
}
_SLIDING, _FULL = "sliding_attention", "full_attention"
_RECURRENT = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", _FULL],
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_ROTARY),
    "llama_tied": lambda: LlamaConfig(**_ROTARY, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**_ROTARY, sliding_window=16, head_dim=8),
    "qwen3": lambda: Qwen3Config(**_ROTARY, head_dim=16),
    "qwen3_5": lambda: Qwen3_5TextConfig(**(_ROTARY | _RECURRENT)),
    "gemma3": lambda: Gemma3TextConfig(
        **_ROTARY,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        layer_types=[_SLIDING, _FULL, _SLIDING],
    ),
    "gpt2": lambda: GPT2Config(
        **_TOKENS, n_embd=32, n_inner=48, n_layer=3, n_head=4, n_positions=N_CTX
    ),
    "neox": lambda: GPTNeoXConfig(**{k: v for k, v in _ROTARY.items() if "key_value" not in k}),
}


def random_model(name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """The Hugging Face model of an architecture, random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[name]()).to(dtype).eval()


def save_random(directory: Path, name: str, *, seed: int = 0) -> Path:
    """Write a random model and the tiny tokenizer as a Hugging Face directory."""
    random_model(name, seed=seed).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory
