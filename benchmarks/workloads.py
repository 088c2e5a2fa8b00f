"""What the benchmarks of steered generation run on: a fitted model, its scenarios, a grid.

Two models: the bundled one, and one of about 110 million parameters with random weights, which
costs what a trained model of its shape costs. Both are fitted the ordinary way (responses of both
sides, residuals, probes), so that gates fire as they do in a sweep; what the random model says
means nothing.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.peers import PlainModel
from benchmarks.ratios import Options
from interp_steer.cells import Cell, steered_grid
from interp_steer.config import FitConfig, SamplingConfig, SweepConfig
from interp_steer.fit_stage import fit
from interp_steer.model import HookedLM
from interp_steer.organism import MODEL_DIR, scenarios_path
from interp_steer.probes import ProbeSet
from interp_steer.sampling import GenerationSettings
from interp_steer.scenarios import Scenario
from interp_steer.study import Sources, Study, start_study


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much work a workload is."""

    n_layers_steered: int
    """Layers of the grid."""
    n_scenarios: int
    """Test scenarios that every cell answers."""
    max_new_tokens: int
    """Tokens of a response, at most or exactly."""
    n_single: int
    """Rows of the same work that the one-at-a-time contestant does."""
    alphas: dict[str, tuple[float, ...]]
    """Coefficients by method; every one in the scopes all and response."""
    batch_size: int = SweepConfig().batch_size
    """Rows of a pack: the sweep's default."""


QUICK = Size(
    n_layers_steered=1,
    n_scenarios=4,
    max_new_tokens=6,
    n_single=2,
    alphas={"sttp": (12.0,), "stmp": (2.0,)},
    batch_size=16,
)
BUNDLED = Size(
    n_layers_steered=2,
    n_scenarios=112,
    max_new_tokens=32,
    n_single=24,
    alphas={"swfc": (2.0, 4.0), "sttp": (12.0, 24.0), "stmp": (1.0, 2.0)},
)
LARGER = Size(
    n_layers_steered=1,
    n_scenarios=112,
    max_new_tokens=12,
    n_single=12,
    alphas={"swfc": (2.0,), "sttp": (12.0,)},
)
"""Less of everything: a CPU takes a minute for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A fitted model with the rows that are to be generated."""

    name: str
    """As cases call it."""
    model: Path
    """Directory of the model."""
    study: Study
    """Run directory, model and scenarios of this library."""
    probes: ProbeSet
    """Probes of every layer."""
    plain: PlainModel
    """The same weights in plain Hugging Face."""
    cells: tuple[Cell, ...]
    """The grid, all under the malicious prompt."""
    scenarios: tuple[Scenario, ...]
    """What every cell answers."""
    size: Size
    """How much work it is."""

    @property
    def n_rows(self) -> int:
        """Generations of the whole work."""
        return len(self.cells) * len(self.scenarios)

    def repeated(self, n_rows: int) -> list[Scenario]:
        """So many scenarios, again from the first where there are not enough."""
        return [self.scenarios[row % len(self.scenarios)] for row in range(n_rows)]

    def prompts(self, scenarios: Sequence[Scenario]) -> list[tuple[int, ...]]:
        """Token ids of the malicious prompts, the same for every contestant."""
        tokenize = self.study.lm.tokenize
        return [tokenize(scenario.prompt("malicious")).token_ids for scenario in scenarios]


def in_turn(
    options: Options, n_tokens: Sequence[int] = (48, 16)
) -> Iterator[tuple[Workload, GenerationSettings]]:
    """Both models, one after the other, with the settings for rows of one length.

    Args:
        options: quick makes 6 tokens a row; `models` leaves the others out.
        n_tokens: of a row, of the bundled model and of the larger one.
    """
    for (name, build), n in zip(MODELS.items(), n_tokens, strict=True):
        if options.models and name not in options.models:
            continue
        with tempfile.TemporaryDirectory() as folder:
            work = build(Path(folder), options)
            n = 6 if options.quick else n
            yield work, replace(work.study.settings, max_new_tokens=n)


def bundled(folder: Path, options: Options) -> Workload:
    """The bundled model."""
    size = QUICK if options.quick else BUNDLED
    return _fitted("bundled model", MODEL_DIR, folder, options, size)


def random_100m(folder: Path, options: Options) -> Workload:
    """A Llama with random weights: 12 layers, d_model 768, 32 000 tokens, 110 M parameters."""
    shape = {
        "hidden_size": 96 if options.quick else 768,
        "intermediate_size": 128 if options.quick else 2048,
        "num_hidden_layers": 3 if options.quick else 12,
        "num_attention_heads": 12,
        "vocab_size": 2000 if options.quick else 32_000,
    }
    n = random_llama(folder / "random-100m", **shape)
    size = QUICK if options.quick else LARGER
    name = f"random weights, {n / 1e6:.0f} M parameters"
    return _fitted(name, folder / "random-100m", folder, options, size)


def random_llama(folder: Path, **shape: int) -> int:
    """Write a Llama with random weights and the bundled model's tokenizer; return its parameters.

    Args:
        folder: becomes the model's directory.
        shape: entries of Hugging Face's config.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    fixed = {
        "vocab_size": 2000,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.05,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**fixed | shape))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL_DIR / name, folder / name)
    return model.num_parameters()


def _fitted(name: str, model: Path, folder: Path, options: Options, size: Size) -> Workload:
    lm = HookedLM.load(model, device=options.device)
    sources = Sources(model=str(model), scenarios=scenarios_path("honesty"))
    sampling = SamplingConfig(max_new_tokens=size.max_new_tokens)
    study = start_study(folder / f"run-{model.name}", lm, sources, sampling=sampling)
    fit(study, FitConfig(sampling=sampling, probe="mean_difference"))
    probes = ProbeSet.load(study.run.path)
    middle = lm.n_layers // 2
    cells = steered_grid(
        layers=range(middle, middle + size.n_layers_steered),
        alphas=size.alphas,
        scopes=("all", "response"),
    )
    return Workload(
        name=name,
        model=model,
        study=study,
        probes=probes,
        plain=PlainModel.load(model, device=options.device),
        cells=cells,
        scenarios=study.split("test")[: size.n_scenarios],
        size=size,
    )


MODELS: dict[str, Callable[[Path, Options], Workload]] = {
    "bundled": bundled,
    "random": random_100m,
}
"""What makes each workload, by a short name."""
