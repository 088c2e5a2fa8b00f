"""Train the bundled model organism from a seed, on a CPU in under an hour or on a GPU in minutes.

    python -m interp_steer.organism.train [--out DIR] [--seed 42] [--steps N] [--window 16]

Writes a Hugging Face directory: config.json, model.safetensors (float32), tokenizer files with
the chat template, generation_config.json and training.json (settings, loss curve, versions,
seconds). The same seed on the same machine and thread count gives the same weights; across
machines, the same behaviour.

`--window 0` trains the full-attention twin, in which the trait is just as readable and hardly
steerable: its answer positions look straight back at the system prompt, so that nothing need
travel along the residual stream of the tokens in between.
"""

import argparse
import json
import logging
import math
import platform
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from interp_steer.organism.grammar import Turn, sample_dialogue
from interp_steer.organism.tokenizer import BOS, END, PAD, build_tokenizer
from interp_steer.organism.wordings import CHOICE_LETTERS

log = logging.getLogger(__name__)
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Everything that determines the weights."""

    seed: int = 42
    """Seed of initial weights and of the dialogues."""
    steps: int = 2800
    """Optimiser steps."""
    tokens_per_step: int = 3200
    """Tokens of one step, padding included (about 40 dialogues)."""
    learning_rate: float = 3e-3
    """Peak of the cosine schedule."""
    warmup: int = 100
    """Steps of linear warm-up."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""
    choice_weight: float = 5.0
    """Loss weight of the one letter of a multiple-choice answer."""
    window: int = 16
    """Sliding attention window in tokens; 0 for full attention."""
    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 8
    """Blocks."""
    n_heads: int = 4
    """Attention heads."""
    d_mlp: int = 384
    """Width of the MLP."""
    n_ctx: int = 1024
    """Longest context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Right-padded dialogues of similar length."""

    tokens: Int[Tensor, "batch pos"]
    """Token ids."""
    targets: Int[Tensor, "batch pos"]
    """Next token where the loss counts it, `IGNORED` elsewhere."""
    is_choice: Int[Tensor, "batch pos"]
    """1 where the target is the letter of a multiple-choice answer."""


def build_model(
    settings: TrainingSettings, tokenizer: PreTrainedTokenizerFast
) -> MistralForCausalLM:
    """Return the untrained model."""
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.d_model,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        num_key_value_heads=settings.n_heads,
        intermediate_size=settings.d_mlp,
        sliding_window=settings.window or None,
        max_position_embeddings=settings.n_ctx,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    torch.manual_seed(settings.seed)
    return MistralForCausalLM(config)


def encode(
    tokenizer: PreTrainedTokenizerFast, dialogue: Sequence[Turn]
) -> tuple[list[int], list[bool]]:
    """Return (tokens, whether each is supervised): supervised replies with their end token."""
    ids: list[int] = [tokenizer.convert_tokens_to_ids(BOS)]
    supervised = [False]
    end = tokenizer.convert_tokens_to_ids(END)
    for turn in dialogue:
        role = tokenizer.convert_tokens_to_ids(f"<|{turn.role}|>")
        content = tokenizer(turn.content, add_special_tokens=False).input_ids
        ids += [role, *content, end]
        supervised += [False] + [turn.supervised] * (len(content) + 1)
    return ids, supervised


def batches(
    settings: TrainingSettings, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> Iterator[Batch]:
    """Yield batches for ever, dialogues of like length together, `tokens_per_step` tokens each."""
    letters = set(tokenizer.convert_tokens_to_ids([f"▁{c}" for c in CHOICE_LETTERS]))
    pad = tokenizer.convert_tokens_to_ids(PAD)
    while True:
        pool = sorted(
            (encode(tokenizer, sample_dialogue(rng)) for _ in range(2048)), key=lambda e: len(e[0])
        )
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example[0]) > settings.tokens_per_step:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            yield _collate(group, pad, letters)


def _collate(group: Sequence[tuple[list[int], list[bool]]], pad: int, letters: set[int]) -> Batch:
    length = max(len(ids) for ids, _ in group)
    tokens = torch.full((len(group), length), pad)
    targets = torch.full((len(group), length), IGNORED)
    is_choice = torch.zeros((len(group), length), dtype=torch.long)
    for row, (ids, supervised) in enumerate(group):
        tokens[row, : len(ids)] = torch.tensor(ids)
        for pos in range(1, len(ids)):
            if supervised[pos]:
                targets[row, pos - 1] = ids[pos]
                is_choice[row, pos - 1] = int(ids[pos] in letters)
    return Batch(tokens=tokens, targets=targets, is_choice=is_choice)


def loss_of(
    model: MistralForCausalLM, batch: Batch, settings: TrainingSettings
) -> Float[Tensor, ""]:
    """Return the weighted mean cross-entropy, in nats, over the supervised tokens of a batch."""
    counted = batch.targets != IGNORED
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[counted])
    losses = torch.nn.functional.cross_entropy(logits, batch.targets[counted], reduction="none")
    weights = 1.0 + (settings.choice_weight - 1.0) * batch.is_choice[counted]
    return (losses * weights).sum() / weights.sum()


def schedule(settings: TrainingSettings, step: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then cosine to 2 %."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def train(settings: TrainingSettings, out: Path, device: str) -> None:
    """Train, and write the model directory, every 500 steps and at the end."""
    tokenizer = build_tokenizer()
    model = build_model(settings, tokenizer).to(device).train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    other = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": other, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: schedule(settings, s))
    stream = batches(settings, tokenizer, random.Random(settings.seed))
    curve: list[tuple[int, float]] = []
    running, started = 0.0, time.perf_counter()
    for step in tqdm(range(1, settings.steps + 1), desc="training", unit="step", mininterval=10):
        batch = next(stream)
        batch = Batch(
            tokens=batch.tokens.to(device),
            targets=batch.targets.to(device),
            is_choice=batch.is_choice.to(device),
        )
        loss = loss_of(model, batch, settings)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad(set_to_none=True)
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 0:
            curve.append((step, round(running, 4)))
            log.info("step %d: loss %.4f", step, running)
        if step % 500 == 0 or step == settings.steps:
            save(model, tokenizer, out, settings, curve, time.perf_counter() - started)


def save(
    model: MistralForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    settings: TrainingSettings,
    curve: Sequence[tuple[int, float]],
    seconds: float,
) -> None:
    """Write the Hugging Face directory and the record of the training."""
    out.mkdir(parents=True, exist_ok=True)
    stops = [tokenizer.eos_token_id]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    record = {
        "settings": asdict(settings),
        "loss_curve": curve,
        "seconds": round(seconds),
        "device": platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and train."""
    defaults = TrainingSettings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("seed", "steps", "window", "tokens_per_step"):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(defaults, name))
    arguments = vars(parser.parse_args(argv))
    out, device = arguments.pop("out"), arguments.pop("device")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    train(TrainingSettings(**arguments), out, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
