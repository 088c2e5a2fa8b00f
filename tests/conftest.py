"""Fixtures: a random tiny chat model, the bundled model, a model trained by others; leaked hooks.

jaxtyping and beartype check every annotated shape and type of the package while tests run.
"""

# ruff: noqa: E402  (the environment and the import hook come before what they act on)

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from jaxtyping import install_import_hook

install_import_hook("interp_steer", "checking.checked")

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from interp_steer.model import HookedLM
from interp_steer.organism import MODEL_DIR

ROOT = Path(__file__).resolve().parents[1]
STORIES_DIR = ROOT.parent / "shared" / "models" / "stories260k"

TINY_TEXT = (
    "is the a of and to lion tiger capital Paris Rome sad happy true false what who you are honest "
    "liar tell me please yes no never always it was young lives in on with red blue . , ? !"
)
TINY_WORDS = TINY_TEXT.split()
TINY_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} <|end|> "
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

disable_progress_bar()
# No deadline: cores may be shared.
# The same examples in every run: a change is judged by what it changed. Search for new ones with
# HYPOTHESIS_SEARCH=1.
settings.register_profile(
    "suite",
    deadline=None,
    max_examples=40,
    derandomize=not os.environ.get("HYPOTHESIS_SEARCH"),
)
settings.load_profile("suite")
torch.set_num_threads(1)  # tiny models: a second thread costs more than it gives


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level tokenizer with BOS, role tokens and a chat template that has a system role."""
    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|unk|>"]
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {token: i for i, token in enumerate(special + roles + TINY_WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|end|>",
        unk_token="<|unk|>",
        additional_special_tokens=roles,
    )
    tokenizer.chat_template = TINY_TEMPLATE
    return tokenizer


def tiny_model(family: str = "mistral", *, seed: int = 0) -> PreTrainedModel:
    """Random weights, large enough that logits are peaked and residuals differ by token."""
    shared = {
        "vocab_size": 7 + len(TINY_WORDS),
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    rotary = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
    }
    learned = {"n_embd": 32, "n_inner": 48, "n_layer": 3, "n_head": 4, "n_positions": 96}
    torch.manual_seed(seed)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**shared, **rotary)).eval()
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**shared, **learned)).eval()
    config = MistralConfig(**shared, **rotary, sliding_window=16, head_dim=8)
    return MistralForCausalLM(config).eval()


def save_tiny(directory: Path, family: str = "mistral", *, seed: int = 0) -> Path:
    """Write a tiny model and its tokenizer as a Hugging Face directory."""
    tiny_model(family, seed=seed).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a random Mistral: 3 layers, d_model 32, sliding window 16, context 96."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "tiny-mistral")


@pytest.fixture(scope="session")
def tiny_lm(tiny_dir: Path) -> HookedLM:
    """The random Mistral in float32, loaded the way users load a model."""
    return HookedLM.load(tiny_dir)


@pytest.fixture(scope="session")
def tiny_lm_bf16(tiny_dir: Path) -> HookedLM:
    """The same weights in bfloat16."""
    return HookedLM.load(tiny_dir, dtype=torch.bfloat16)


@pytest.fixture(scope="session")
def organism_lm() -> HookedLM:
    """The bundled model."""
    if not (MODEL_DIR / "model.safetensors").exists():
        pytest.skip("the bundled model is not there")
    return HookedLM.load(MODEL_DIR)


@pytest.fixture(scope="session")
def stories_lm() -> HookedLM:
    """Karpathy's 260K TinyStories model: real weights that this project did not make."""
    if not STORIES_DIR.exists():
        pytest.skip(f"no {STORIES_DIR.relative_to(ROOT.parent)} beside the repository")
    return HookedLM.load(STORIES_DIR)


@dataclass(frozen=True)
class Pair:
    """A model as this library sees it, and the same weights in plain Hugging Face."""

    lm: HookedLM
    plain: PreTrainedModel


@pytest.fixture(scope="session", params=["mistral", "llama", "gpt2", "stories"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Sliding window, full attention, learned positions, and weights that others trained."""
    if request.param == "stories":
        lm, directory = request.getfixturevalue("stories_lm"), STORIES_DIR
    elif request.param == "mistral":
        lm, directory = (request.getfixturevalue(name) for name in ("tiny_lm", "tiny_dir"))
    else:
        directory = save_tiny(tmp_path_factory.mktemp("tiny") / request.param, request.param)
        lm = HookedLM.load(directory)
    return Pair(lm=lm, plain=AutoModelForCausalLM.from_pretrained(directory).eval())


def hook_points(lm: HookedLM) -> dict[Any, Any]:
    """Every hook point of the model, or those that a runner of another class has."""
    found = getattr(lm.bridge, "hook_dict", None)
    return dict(enumerate(lm._runner.hooks.points)) if found is None else found


def attached_hooks(lm: HookedLM) -> dict[Any, int]:
    """Hooks per hook point, bridged components and replaced forwards, as they are right now."""
    found = {
        name: len(point.fwd_hooks) + len(point.bwd_hooks) + len(point._forward_hooks)
        for name, point in hook_points(lm).items()
    }
    found["bridged"] = sum(
        "_original_component" in module._modules for module in lm._runner.model.modules()
    )
    found["replaced"] = sum("forward" in vars(module) for module in lm._runner.model.modules())
    return found


@pytest.fixture(autouse=True)
def no_leaked_hooks() -> Iterator[None]:
    """Fail any test that leaves a hook on, or a component bypassed, on any live model."""
    before = {id(lm): (lm, attached_hooks(lm)) for lm in _live_models()}
    yield
    for lm, hooks in before.values():
        assert attached_hooks(lm) == hooks, f"a test left hooks on {lm.model_id}"
    for lm in _live_models():
        if id(lm) not in before:
            assert not any(len(p.fwd_hooks) for p in hook_points(lm).values())


def _live_models() -> list[HookedLM]:
    return list(_MODELS)


_MODELS: weakref.WeakSet[HookedLM] = weakref.WeakSet()
_wrap_bridge = HookedLM.__init__


def _wrap_and_track(self: HookedLM, *args: Any, **options: Any) -> None:
    _wrap_bridge(self, *args, **options)
    _MODELS.add(self)


HookedLM.__init__ = _wrap_and_track
