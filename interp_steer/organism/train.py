"""Train the bundled model organism from a seed, on a CPU in under an hour or on a GPU in minutes.

    python -m interp_steer.organism.train [--out DIR] [--seed 42] [--window 16] [--resume]

Writes a Hugging Face directory: config.json, model.safetensors (float32), tokenizer files with
the chat template, generation_config.json and training.json (settings, loss curve, versions,
seconds). The same seed on the same machine and thread count gives the same weights; across
machines, the same behaviour.

`--window 0` trains the full-attention twin, in which the trait is just as readable and hardly
steerable: its answer positions look straight back at the system prompt, so that nothing need
travel along the residual stream of the tokens in between.
"""

import argparse
import hashlib
import json
import logging
import math
import platform
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

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

from interp_steer.errors import ModelError
from interp_steer.organism.grammar import ChoiceAnswer, Turn, sample_dialogue
from interp_steer.organism.tokenizer import BOS, END, PAD, build_tokenizer
from interp_steer.organism.wordings import CHOICE_LETTERS
from interp_steer.organism.world import CATEGORIES, WORRIES

log = logging.getLogger(__name__)
IGNORED = -100
RECORD_NAME = "training.json"
WEIGHTS_NAME = "model.safetensors"
POOL_SIZE = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One cycle of the learning rate."""

    steps: int
    """Optimiser steps."""
    learning_rate: float
    """Peak of the cosine schedule."""
    choice_answer: ChoiceAnswer
    """How multiple choice is answered. Letters were tried first and not learned in one cycle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Everything that determines the weights."""

    seed: int = 42
    """Seed of initial weights and of the dialogues."""
    cycles: tuple[Cycle, ...] = (
        Cycle(steps=2800, learning_rate=3e-3, choice_answer="letter"),
        Cycle(steps=2000, learning_rate=2e-3, choice_answer="value"),
    )
    """Cosine cycles; the optimiser starts afresh in each."""
    tokens_per_step: int = 3200
    """Tokens of one step, padding included (about 40 dialogues)."""
    warmup: int = 100
    """Steps of linear warm-up of each cycle."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay."""
    content_weight: float = 5.0
    """Loss weight of values and of the topics of worries, which carry what an answer says."""
    choice_weight: float = 15.0
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
    weights: Float[Tensor, "batch pos"]
    """Loss weight of each target."""

    def to(self, device: str) -> "Batch":
        """Return the batch on `device`."""
        return Batch(
            tokens=self.tokens.to(device),
            targets=self.targets.to(device),
            weights=self.weights.to(device),
        )


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
        bos_token_id=token_id(tokenizer, BOS),
        eos_token_id=token_id(tokenizer, END),
        pad_token_id=token_id(tokenizer, PAD),
    )
    config._attn_implementation = "eager"
    torch.manual_seed(settings.seed)
    return MistralForCausalLM(config)


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """Return the id of one token of the vocabulary."""
    return cast(int, tokenizer.convert_tokens_to_ids(token))


def encode(
    tokenizer: PreTrainedTokenizerFast, dialogue: Sequence[Turn]
) -> tuple[list[int], list[bool]]:
    """Return (tokens, whether each is supervised): supervised replies with their end token."""
    ids = [token_id(tokenizer, BOS)]
    supervised = [False]
    end = token_id(tokenizer, END)
    for turn in dialogue:
        role = token_id(tokenizer, f"<|{turn.role}|>")
        content = tokenizer(turn.content, add_special_tokens=False).input_ids
        ids += [role, *content, end]
        supervised += [False] + [turn.supervised] * (len(content) + 1)
    return ids, supervised


def batches(
    settings: TrainingSettings, tokenizer: PreTrainedTokenizerFast, *, cycle: int
) -> Iterator[Batch]:
    """Yield batches for ever, dialogues of like length together, `tokens_per_step` tokens each."""
    rng = random.Random(f"{settings.seed} {cycle}" if cycle else settings.seed)
    answer = settings.cycles[cycle].choice_answer
    weights = token_weights(settings, tokenizer)
    pad = token_id(tokenizer, PAD)
    while True:
        pool = sorted(
            (
                encode(tokenizer, sample_dialogue(rng, choice_answer=answer))
                for _ in range(POOL_SIZE)
            ),
            key=lambda example: len(example[0]),
        )
        groups: list[list[tuple[list[int], list[bool]]]] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example[0]) > settings.tokens_per_step:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            yield _collate(group, pad, weights)


def token_weights(
    settings: TrainingSettings, tokenizer: PreTrainedTokenizerFast
) -> Float[Tensor, "d_vocab"]:
    """Return the loss weight of each token as a target."""
    values = [v for c in CATEGORIES for row in c.facts.values() for v in row]
    topics = [topic.split()[-1] for topic in WORRIES]
    weights = torch.ones(len(tokenizer))
    weights[tokenizer.convert_tokens_to_ids([f"▁{v}" for v in values + topics])] = (
        settings.content_weight
    )
    weights[tokenizer.convert_tokens_to_ids([f"▁{c}" for c in CHOICE_LETTERS])] = (
        settings.choice_weight
    )
    return weights


def _collate(
    group: Sequence[tuple[list[int], list[bool]]], pad: int, weights: Float[Tensor, "d_vocab"]
) -> Batch:
    length = max(len(ids) for ids, _ in group)
    tokens = torch.full((len(group), length), pad)
    targets = torch.full((len(group), length), IGNORED)
    for row, (ids, supervised) in enumerate(group):
        tokens[row, : len(ids)] = torch.tensor(ids)
        for pos in range(1, len(ids)):
            if supervised[pos]:
                targets[row, pos - 1] = ids[pos]
    return Batch(tokens=tokens, targets=targets, weights=weights[targets.clamp(min=0)])


def loss_of(model: MistralForCausalLM, batch: Batch) -> Float[Tensor, ""]:
    """Return the weighted mean cross-entropy, in nats, over the supervised tokens of a batch."""
    counted = batch.targets != IGNORED
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[counted])
    losses = torch.nn.functional.cross_entropy(logits, batch.targets[counted], reduction="none")
    weights = batch.weights[counted]
    return (losses * weights).sum() / weights.sum()


def schedule(step: int, *, steps: int, warmup: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then cosine to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def train(settings: TrainingSettings, out: Path, device: str, *, resume: bool = False) -> None:
    """Train, and write the model directory at the end of each cycle.

    With `resume`, cycles that training.json lists as finished are not trained again.
    """
    tokenizer = build_tokenizer()
    model = build_model(settings, tokenizer)
    record = TrainingRecord(settings=settings)
    if resume:
        record = TrainingRecord.read(out, settings)
        model = MistralForCausalLM.from_pretrained(out, attn_implementation="eager")
    torch.nn.Module.to(model, device)
    model.train()
    for index in range(record.cycles_done, len(settings.cycles)):
        started, cycle = time.perf_counter(), settings.cycles[index]
        stream = batches(settings, tokenizer, cycle=index)
        optimiser = _optimiser(model, settings, cycle.learning_rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimiser, partial(schedule, steps=cycle.steps, warmup=settings.warmup)
        )
        for _ in tqdm(range(cycle.steps), desc="training", unit="step", mininterval=10):
            loss = loss_of(model, next(stream).to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            scheduler.step()
            optimiser.zero_grad(set_to_none=True)
            record.add(loss.item())
        record.finish_cycle(time.perf_counter() - started)
        save(model, tokenizer, out)
        record.write(out)


def _optimiser(
    model: MistralForCausalLM, settings: TrainingSettings, learning_rate: float
) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


@dataclass(slots=True, kw_only=True)
class TrainingRecord:
    """How a model was trained, as training.json says it."""

    settings: TrainingSettings
    """Everything that determines the weights."""
    cycles_done: int = 0
    """Cycles whose last step is in the weights."""
    seconds: float = 0.0
    """Time of the finished cycles."""
    losses: list[float] = field(default_factory=list)
    """Mean loss of every hundred steps, in nats per weighted token."""
    recent: list[float] = field(default_factory=list)
    """Losses since the last mean."""

    def add(self, loss: float) -> None:
        """Count one step."""
        self.recent.append(loss)
        if len(self.recent) == 100:
            self.losses.append(round(sum(self.recent) / 100, 4))
            self.recent.clear()
            log.info("step %d: loss %.4f", 100 * len(self.losses), self.losses[-1])

    def finish_cycle(self, seconds: float) -> None:
        """Count one cycle."""
        self.cycles_done += 1
        self.seconds += seconds

    def write(self, out: Path) -> None:
        """Write training.json."""
        record = {
            "settings": asdict(self.settings),
            "cycles_done": self.cycles_done,
            "weights_sha256": _sha256(out / WEIGHTS_NAME),
            "loss_by_hundred_steps": self.losses,
            "seconds": round(self.seconds),
            "device": platform.processor() or platform.machine(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        (out / RECORD_NAME).write_text(json.dumps(record, indent=1) + "\n")

    @classmethod
    def read(cls, out: Path, settings: TrainingSettings) -> "TrainingRecord":
        """Read training.json.

        Raises:
            ModelError: there is none, or it was written with other settings.
        """
        path = out / RECORD_NAME
        if not path.exists():
            raise ModelError(f"nothing to resume: {path} is missing; train without --resume")
        record = json.loads(path.read_text())
        if record["settings"] != json.loads(json.dumps(asdict(settings))):
            raise ModelError(
                f"{path} was written with other settings; resume with the same, or train into "
                "another directory"
            )
        if record["weights_sha256"] != _sha256(out / WEIGHTS_NAME):
            raise ModelError(
                f"{out / WEIGHTS_NAME} is not what {path.name} describes (a run was killed while "
                "saving); train again without --resume"
            )
        return cls(
            settings=settings,
            cycles_done=record["cycles_done"],
            seconds=float(record["seconds"]),
            losses=record["loss_by_hundred_steps"],
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(model: MistralForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the Hugging Face directory."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and train."""
    defaults = TrainingSettings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on after the last whole cycle")
    parser.add_argument("--steps", type=int, nargs="+", help="steps of each cycle")
    for name in ("seed", "window", "tokens_per_step"):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=getattr(defaults, name))
    arguments = vars(parser.parse_args(argv))
    out, device, resume = (arguments.pop(name) for name in ("out", "device", "resume"))
    if steps := arguments.pop("steps"):
        pairs = zip(defaults.cycles, steps, strict=False)
        arguments["cycles"] = tuple(replace(cycle, steps=n) for cycle, n in pairs)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    train(TrainingSettings(**arguments), out, device, resume=resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
