"""The bundled model organism: a small chat model whose two traits can be scored exactly.

It is data (a Hugging Face directory, scenario files), the grammar it was trained on and its exact
judge. The rest of the library loads it as it loads any other model. What steers a model of two
million parameters on a toy grammar need not steer a large one: the organism shows that the method
and this software work, not how strong the method is elsewhere.
"""

from pathlib import Path
from typing import Literal

Trait = Literal["honesty", "compassion"]

MODEL_DIR = Path(__file__).parent / "model"
DATA_DIR = Path(__file__).parent / "data"


def scenarios_path(trait: Trait) -> Path:
    """Return the JSONL file of one trait's scenarios."""
    return DATA_DIR / f"{trait}.jsonl"


from interp_steer.organism.judge import ExactJudge  # noqa: E402
from interp_steer.organism.questions import ChoiceQuestion, multiple_choice_questions  # noqa: E402

__all__ = [
    "DATA_DIR",
    "MODEL_DIR",
    "ChoiceQuestion",
    "ExactJudge",
    "Trait",
    "multiple_choice_questions",
    "scenarios_path",
]
