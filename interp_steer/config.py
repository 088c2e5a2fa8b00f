"""What each stage can be told, in one place that imports nothing heavy.

The command line builds its `--help` from these dataclasses, and must do so before any model code is
imported. Defaults are the demo's; the grids are subsets of the paper's table B.2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

FitMethod = Literal["logistic", "logistic_sklearn_default", "mean_difference"]
MethodName = Literal["swfc", "sttp", "stmp"]
Protocol = Literal["split", "two_fold"]
EngineName = Literal["local", "ray"]
Extra = Literal["mean_difference", "defence", "guard"]
JudgeName = Literal["exact", "llm"]

JUDGE_NAMES: tuple[JudgeName, ...] = get_args(JudgeName)
"""exact: the parser of the bundled model's grammar. llm: a language model at an endpoint."""

PAPER_GRID: dict[str, tuple[float, ...]] = {
    "swfc": (1, 2, 3, 4, 5),
    "sttp": (0, 6, 12, 18, 24, 30, 36),
    "stmp": (1, 1.5, 2, 2.5, 3, 3.5, 4),
}
"""Coefficients of table B.2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How responses are sampled (pinned by the run)."""

    max_new_tokens: int = 1024
    """Upper limit on response tokens; clamped to the model's context."""
    temperature: float = 0.6
    """0 is greedy."""
    top_p: float = 0.9
    """Nucleus mass, in (0, 1]."""
    seed: int = 42
    """Seed of every random number of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """Where a model runs; options of every command that loads one."""

    device: str | None = None
    """Where the model runs: cpu (without a word), cuda, cuda:1, mps; or a device map."""
    device_map: str | None = None
    """Spread the model over devices: auto, balanced, sequential."""
    n_devices: int | None = None
    """Split the model evenly over so many GPUs."""
    reference: bool = False
    """Run everything through TransformerLens' own components: slower, a check of the fast path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig(ModelPlace):
    """On-policy training responses, their residuals, and the probes."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Sampling of responses, here and in the sweep."""
    responses_per_scenario: int = 1
    """Responses of each side to each training scenario (the paper's sources use 1 and 5)."""
    probe: FitMethod = "logistic"
    """Exact L2 logistic regression, scikit-learn's defaults, or the mean difference."""
    batch_size: int = 64
    """Rows generated together."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The model's dtype; auto is bfloat16 on CUDA and float32 elsewhere. Edits and probes are
    computed in float32 or better whatever it is."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; the commit loaded is recorded."""
    enable_thinking: bool = False
    """Let a thinking model think before it answers."""
    chat_date: str = "2024-07-26"
    """Date that chat templates may write (Llama 3 does), year-month-day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectConfig:
    """Per-token projections of the training responses (teacher-forced), for the figures."""

    projected_responses: int | None = None
    """Responses of each side whose tokens are projected; None takes all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """The grid on the scenarios that choose, then what the operating points are held against."""

    protocol: Protocol = "two_fold"
    """two_fold: every test scenario answers the grid, each half chooses for the other, all report.
    split: some scenarios choose, the others report; cheaper, wider intervals, fewer to choose."""
    test_scenarios: int | None = None
    """Use at most so many test scenarios, balanced by category; None takes all."""
    layers: tuple[int, ...] | None = None
    """Layers to screen; None takes every layer that has a probe."""
    methods: tuple[MethodName, ...] = ("swfc", "sttp", "stmp")
    """Interventions to screen."""
    alphas: tuple[float, ...] | None = None
    """One grid of coefficients for every method; None leaves each its own, below."""
    swfc_alphas: tuple[float, ...] = (2, 3, 3.5, 4, 4.5, 5)
    """Multiples of delta_mu."""
    sttp_alphas: tuple[float, ...] = (6, 12, 24, 36)
    """Multiples of sigma+ above mu+."""
    stmp_alphas: tuple[float, ...] = (1, 1.5, 2, 3)
    """Multiples of the mirror step."""
    scopes: tuple[str, ...] = ("all", "response")
    """Which tokens: all, response, prompt, first:K."""
    threats: tuple[str, ...] = ("malicious_prompt",)
    """What steering is tried against: malicious_prompt, prefill:K."""
    selection_scenarios: int = 24
    """split: test scenarios that choose; all others report. At most half of the test scenarios."""
    reporting_scenarios: int | None = None
    """split: at most so many reporting scenarios, balanced by category; None takes all others."""
    finalists: int = 2
    """split: best cells of each method and scope that go on to the reporting scenarios."""
    control_draws: int = 8
    """Draws of each kind of control at each operating point; 0 leaves controls out."""
    extras: tuple[Extra, ...] = ("mean_difference", "defence", "guard")
    """Beside each operating point: the mean difference under the same gate, the prompt-only
    defence, and the price of a guard."""
    control_scenarios: int | None = 24
    """Reporting scenarios (balanced by category) that controls, mean difference and guards answer;
    None takes all."""
    coherence_share: float = 0.9
    """Share of the aligned baseline's coherence that an operating point must keep."""
    judge: JudgeName = "exact"
    """Who scores: exact (the bundled model's parser), llm (a language model at an endpoint)."""
    judge_config: Path | None = None
    """llm: TOML or JSON file with model, base_url and what else differs from the paper's judge
    (gpt-oss-120b at http://localhost:8000/v1); keys come from the environment alone."""
    trait_description: str | None = None
    """llm: what the trait is, in a sentence or two; honesty and compassion have one built in."""
    judge_free: bool = True
    """Whether rows are measured without a judge too: cross-entropy under the unsteered model beside
    the aligned baseline's, edit sizes, firing rates, repetition, divergence of guards."""
    embedder: Path | None = None
    """Local directory of a sentence-transformers model, for the cosine to the aligned baseline."""
    batch_size: int = 512
    """Rows generated together; halved by itself where memory does not suffice."""

    def grid(self) -> dict[str, tuple[float, ...]]:
        """Coefficients by method."""
        grids = {"swfc": self.swfc_alphas, "sttp": self.sttp_alphas, "stmp": self.stmp_alphas}
        return {m: grids[m] if self.alphas is None else self.alphas for m in self.methods}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeChoice:
    """Who judges stored responses."""

    judge: JudgeName | None = None
    """exact or llm; None takes the sweep's own."""
    judge_config: Path | None = None
    """llm: TOML or JSON file, see `SweepConfig`; by default the sweep's own."""
    trait_description: str | None = None
    """llm: what the trait is, in a sentence or two; by default as in the sweep."""

    def as_sweep(self, manifest: Mapping[str, Any]) -> SweepConfig:
        """The judge that was asked for as options of a sweep; by default that of a run's sweep."""
        own = manifest.get("sweep", {}).get("config", {})
        usual = SweepConfig()
        if self.judge is None or self.judge == own.get("judge"):
            path = own.get("judge_config")
            usual = replace(
                usual,
                judge=own.get("judge", usual.judge),
                judge_config=None if path is None else Path(path),
                trait_description=own.get("trait_description"),
            )
        return replace(
            usual,
            judge=self.judge or usual.judge,
            judge_config=self.judge_config or usual.judge_config,
            trait_description=self.trait_description or usual.trait_description,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TournamentConfig:
    """The pairwise tournament of both baselines and the operating points of a sweep."""

    judge: JudgeChoice = field(default_factory=JudgeChoice)
    """Who decides; the exact judge lets the higher trait win."""
    scopes: tuple[str, ...] = ("all",)
    """Scopes of the operating points that play."""
    threat: str = "malicious_prompt"
    """What they play under: malicious_prompt, or a prefill:K of the sweep. After a prefilled start
    the continuations are compared; the model is loaded to decode the start."""
    scenarios: int | None = None
    """Play on at most so many reporting scenarios, balanced by category; None takes all."""
    both_orders: bool = False
    """Show every pair in both orders: twice the calls, and the position bias by pairs."""
    resamples: int = 1000
    """Bootstrap samples behind the intervals of the ratings."""
    seed: int = 42
    """Seed of the order in which pairs are shown, and of the bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """How well a language model judges, held against the judge of the sweep."""

    judge_config: Path | None = None
    """TOML or JSON file of the judge in question; see `SweepConfig`."""
    trait_description: str | None = None
    """What the trait is, in a sentence or two."""
    responses: int = 200
    """Stored responses that are judged, half of them unsteered; each twice, for test-retest."""
    pairs: int = 50
    """Pairs of an aligned and a malicious response, each shown in both orders."""
    seed: int = 42
    """Seed of the sample and of the bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig(ModelPlace):
    """Who generates: this process, or Ray workers on more GPUs or machines."""

    engine: EngineName = "local"
    """local, or ray (the extra `ray`)."""
    address: str | None = None
    """ray: address of a running cluster; by default Ray is started on this machine alone."""
    workers: int | None = None
    """ray: how many; by default as many as the cluster holds."""
    num_gpus_per_worker: float = 0.0
    """ray: GPUs of each worker; a fraction shares one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceConfig:
    """What one trace shows."""

    method: MethodName = "sttp"
    """The intervention."""
    layer: int | None = None
    """Steered layer; None takes that of the method's operating point in the scope."""
    alpha: float | None = None
    """Coefficient; None takes that of the method's operating point in the scope."""
    scope: str = "all"
    """Which tokens: all, response, prompt, first:K."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig(ModelPlace):
    """The whole pipeline on the bundled model."""

    quick: bool = False
    """Fewer layers, coefficients, scenarios and control draws; under a minute."""
    full: bool = False
    """The paper's whole grid on half of the test scenarios."""
    out: Path | None = None
    """Where to write; default runs/demo, runs/demo-quick or runs/demo-full."""
    traits: tuple[str, ...] = ("honesty", "compassion")
    """Traits of the bundled model."""
