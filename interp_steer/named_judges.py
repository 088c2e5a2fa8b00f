"""Judges by name, as the command line and a run's manifest spell them."""

from typing import cast, get_args

from interp_steer.errors import JudgeError
from interp_steer.judges import Judge
from interp_steer.organism import ExactJudge, Trait

JUDGE_NAMES = ("exact",)
"""exact: the parser of the bundled model's grammar."""


def load_judge(name: str, trait: str) -> Judge:
    """The judge of that name for a trait.

    Raises:
        JudgeError: no judge has that name, or it does not know the trait.
    """
    if name not in JUDGE_NAMES:
        raise JudgeError(f"there is no judge {name!r}; available: {', '.join(JUDGE_NAMES)}")
    if trait not in get_args(Trait):
        raise JudgeError(
            f"the exact judge knows the bundled model's traits ({', '.join(get_args(Trait))}), got "
            f"{trait!r}"
        )
    return cast(Judge, ExactJudge())
