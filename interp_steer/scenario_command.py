"""`interp-steer scenarios check` and `scenarios draft`: the faces of the two modules of that name.

A check's report goes to stdout whether or not something is refused; what is refused makes the
command fail with exit code 1, so that a script stops there.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from interp_steer.command_options import Common, UsageError
from interp_steer.endpoints import ChatEndpoint
from interp_steer.errors import ScenarioError

if TYPE_CHECKING:
    from interp_steer.scenario_likeness import TextLikeness


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckScenarios:
    """Count, measure and compare the scenarios of a file; exit 1 where something is refused."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(name="file", metavar="FILE")]
    """Scenario file, JSONL, or the name of a bundled set (honesty, compassion)."""
    embedder: Path | None = None
    """Directory of a sentence-transformers model that near-duplicates are measured by; without one
    they are measured by wording alone (character n-grams)."""
    threshold: float | None = None
    """Cosine from which on a train and a test text are too alike; 0.65 by embeddings and 0.5 by
    wording, by default."""
    length_tolerance: float | None = None
    """How far from 0.5 the AUROC of prompt lengths may be; 0.15 by default."""
    closest: int = 3
    """Closest pairs to show of each kind, across and within splits."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return the report of a file in which nothing is refused."""
        from interp_steer.scenario_check import check_scenarios
        from interp_steer.scenario_check_text import check_text
        from interp_steer.scenario_lengths import LENGTH_TOLERANCE
        from interp_steer.scenario_sets import find_scenarios
        from interp_steer.scenarios import load_scenarios

        self._require_ranges()
        path = find_scenarios(self.source)
        tolerance = self.length_tolerance
        check = check_scenarios(
            load_scenarios(path),
            _likeness(self.embedder),
            threshold=self.threshold,
            length_tolerance=LENGTH_TOLERANCE if tolerance is None else tolerance,
            n_closest=self.closest,
        )
        report = check_text(check, title=str(path))
        if not check.refused:
            return report
        sys.stdout.write(report + "\n")
        sys.stdout.flush()
        raise ScenarioError(
            f"{len(check.refused)} of {len(check.findings)} verdicts on {path} are refusals; the "
            "report above says what to do about each"
        )

    def _require_ranges(self) -> None:
        for option, value, most in (
            ("threshold", self.threshold, 1.0),
            ("length-tolerance", self.length_tolerance, 0.5),
        ):
            if value is not None and not 0 < value <= most:
                raise UsageError(f"--{option} must be above 0 and at most {most}, got {value}")
        if self.closest < 0:
            raise UsageError(f"--closest must be at least 0, got {self.closest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftScenarios:
    """Ask a chat model for scenarios of your own trait, as drafts for you to review."""

    trait: str
    """Name of the trait, e.g. humility."""
    like: str
    """The pattern: a scenario file or a bundled set; train scenarios of it are shown as examples,
    so the model's provider sees them."""
    n: int
    """Drafts that the file holds in the end."""
    out: Path
    """JSONL file to add to; drafts that are there count, so the same command goes on."""
    endpoint: ChatEndpoint
    """Whom to ask."""
    meaning: str | None = None
    """What the trait and its opposite are, in a sentence."""
    categories: tuple[str, ...] = ()
    """What the scenarios are about; the pattern's categories by default."""
    split: Literal["train", "test"] = "train"
    """Where they go."""
    per_call: int = 4
    """Scenarios that one call asks for."""
    seed: int = 42
    """Which examples a call shows."""
    common: Common = field(default_factory=Common)
    """Options of every command."""

    def run(self) -> str:
        """Return what was drafted and what to do next."""
        from interp_steer.chat_client import ChatClient
        from interp_steer.scenario_draft import DraftPlan, draft_scenarios, refusals
        from interp_steer.scenario_sets import find_scenarios
        from interp_steer.scenarios import load_scenarios

        plan = DraftPlan(
            trait=self.trait,
            n=self.n,
            categories=self.categories,
            split=self.split,
            meaning=self.meaning,
            per_call=self.per_call,
            seed=self.seed,
        )
        pattern = find_scenarios(self.like)
        if self.out.is_file() and self.out.samefile(pattern):
            raise ScenarioError(f"--out {self.out} is the pattern itself; give another file")
        drafted = draft_scenarios(
            ChatClient(self.endpoint), load_scenarios(pattern), plan, out=self.out
        )
        tokens = drafted.usage.prompt_tokens + drafted.usage.completion_tokens
        return (
            f"{len(drafted.scenarios)} drafts in {self.out}, {drafted.n_new} of them new "
            f"({drafted.usage.calls} calls, {tokens} tokens)\n"
            f"not taken: {refusals(drafted.refused)}\n\n"
            'Read each aloud, mend or delete it, take "draft" out of its notes; then:\n'
            f"interp-steer scenarios check {self.out}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenarios:
    """Check a scenario file, or draft scenarios of your own trait with a chat model."""

    task: (
        Annotated[CheckScenarios, tyro.conf.subcommand("check", prefix_name=False)]
        | Annotated[DraftScenarios, tyro.conf.subcommand("draft", prefix_name=False)]
    )
    """What to do."""

    @property
    def common(self) -> Common:
        """Options of every command."""
        return self.task.common

    def run(self) -> str:
        """Do it."""
        return self.task.run()


def _likeness(directory: Path | None) -> "TextLikeness":
    from interp_steer.embedders import SentenceTransformerEmbedder
    from interp_steer.scenario_likeness import EmbeddedLikeness, LexicalLikeness

    if directory is None:
        return LexicalLikeness()
    return EmbeddedLikeness(SentenceTransformerEmbedder(directory))
