"""The numbers of one steered generation, three times over, with so many threads.

    python tests/steered_numbers.py THREADS FILE

Writes a safetensors file: token ids and steered residuals of each repetition, padded with -1. A
process of its own, because the number of threads belongs to the process.
"""

import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from torch import Tensor

from interp_steer.files import atomic_write_tensors
from interp_steer.model import GenerationSettings, HookedLM, Prompt
from interp_steer.organism import MODEL_DIR
from interp_steer.specs import SteeringSpec
from interp_steer.steering import steer
from interp_steer.tokens import TokenChunk
from steering_cases import make_probes

SETTINGS = GenerationSettings(max_new_tokens=8, temperature=1.0, top_p=0.95)
TEXTS = ("is it true", "tell me of the lion", "who are you and what do you want of me today")
REPETITIONS = 3


def numbers(lm: HookedLM) -> tuple[Tensor, Tensor]:
    """Token ids [row, pos] and residuals of the last layer [token, d_model] of one generation."""
    probes = make_probes(1, layers=(2, 3), d_model=lm.d_model)
    spec = SteeringSpec(method="stmp", layer=(2, 3), alpha=1.5, cap_sigmas=4)
    seen: list[Tensor] = []

    def keep(resid: Tensor, chunk: TokenChunk) -> None:
        seen.append(resid[chunk.is_real].clone())

    prompts = [lm.tokenize(Prompt.chat(text)) for text in TEXTS]
    with steer(lm, spec, probes), lm.hooks({lm.n_layers - 1: keep}):
        made = lm.generate(prompts, SETTINGS, sample_keys=list("abc"))
    ids = torch.full((len(made), SETTINGS.max_new_tokens), -1)
    for row, one in enumerate(made):
        ids[row, : len(one.token_ids)] = torch.tensor(one.token_ids)
    return ids, torch.cat(seen)


def main(threads: str, file: str) -> None:
    """Generate three times and write the numbers."""
    torch.set_num_threads(int(threads))
    assert torch.get_num_threads() == int(threads)
    lm = HookedLM.load(MODEL_DIR)
    tensors = {}
    for repetition in range(REPETITIONS):
        tensors[f"ids.{repetition}"], tensors[f"resid.{repetition}"] = numbers(lm)
    atomic_write_tensors(Path(file), tensors)


if __name__ == "__main__":
    main(*sys.argv[1:])
