"""How a language model judges: which model at which endpoint, of which trait, at what price.

The defaults are those of the paper (arXiv 2604.08169, table B.1), at a server on this machine. A
file (TOML or JSON) holds what differs, so that a judge can be named, shared and pinned. It never
holds a key.
"""

import os
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from interp_steer.endpoints import ChatEndpoint, EndpointError
from interp_steer.errors import JudgeError
from interp_steer.input_files import parse_json, read_input

DEFAULT_MODEL = "openai/gpt-oss-120b"
"""Judge of table B.1."""


def default_endpoint() -> ChatEndpoint:
    """Table B.1: gpt-oss-120b, temperature 1.0, top-p 1.0, reasoning effort high."""
    return ChatEndpoint(
        model=DEFAULT_MODEL, temperature=1.0, top_p=1.0, reasoning_effort="high", timeout_s=600.0
    )


def default_cache() -> Path:
    """Where judges' answers are kept for all runs of a user: $XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "interp-steer" / "judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """A language model as a judge."""

    endpoint: ChatEndpoint = field(default_factory=default_endpoint)
    """Whom to ask and how."""
    trait_description: str | None = None
    """What the trait is, in a sentence or two; None takes the built-in one of the trait's name."""
    prompt_price: float | None = None
    """Price of a million tokens read, in any currency; None leaves costs out."""
    completion_price: float | None = None
    """Price of a million tokens made."""
    cache: Path | None = field(default_factory=default_cache)
    """Folder of answers that were paid for; None keeps them in memory alone."""


def read_judge_settings(path: Path) -> JudgeSettings:
    """Read a judge from a TOML or JSON file: fields of `ChatEndpoint` and of `JudgeSettings`.

    A relative `cache` is relative to the file.

    Raises:
        JudgeError: no such file, not TOML or JSON, an unknown key, or a value of another type.
        EndpointError: an endpoint that cannot be.
    """
    given = _parsed(path)
    if "api_key" in given:  # its value is not repeated
        raise JudgeError(
            f"{path} holds an api_key; keys come from the environment alone: put it into the "
            "variable OPENAI_API_KEY, or name another one with api_key_env"
        )
    own = {f.name for f in fields(JudgeSettings)} - {"endpoint"}
    asked = {f.name for f in fields(ChatEndpoint)}
    if unknown := sorted(set(given) - own - asked):
        raise JudgeError(
            f"{path}: unknown key {unknown[0]!r:.80}; the keys are {', '.join(sorted(own | asked))}"
        )
    usual = default_endpoint()
    endpoint = {name: getattr(usual, name) for name in asked}
    endpoint |= {name: value for name, value in given.items() if name in asked}
    rest = {name: value for name, value in given.items() if name in own}
    _check_types(path, given)
    if rest.get("cache") is not None:
        rest["cache"] = _cache_folder(path, rest["cache"])
    try:
        return JudgeSettings(endpoint=ChatEndpoint(**endpoint), **rest)
    except EndpointError as error:
        raise EndpointError(f"{path}: {error}") from error


def _cache_folder(path: Path, name: str) -> Path:
    try:
        return (path.resolve().parent / Path(name).expanduser()).resolve()
    except (ValueError, RuntimeError, OSError) as error:
        raise JudgeError(f"{path}: cache must name a folder, got {name!r:.60} ({error})") from error


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = read_input(path).decode("utf-8")
        given = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise JudgeError(f"cannot read the judge's settings {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML that is nested too deep
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise JudgeError(f"{path} is no {kind} ({error}); see docs/judges.md") from error
    if not isinstance(given, dict):
        raise JudgeError(f"{path} must hold keys and values, got {type(given).__name__}")
    return given


_TEXTS = ("model", "base_url", "reasoning_effort", "api_key_env", "trait_description", "cache")
_COUNTS = ("max_tokens", "max_retries", "concurrency")
_OPTIONAL = {f.name for f in (*fields(ChatEndpoint), *fields(JudgeSettings)) if f.default is None}


def _check_types(path: Path, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is None and name in _OPTIONAL:
            continue
        wanted = str if name in _TEXTS else int if name in _COUNTS else (int, float)
        if not isinstance(value, wanted) or isinstance(value, bool):
            what = "a text" if name in _TEXTS else "a number" + " of things" * (name in _COUNTS)
            raise JudgeError(f"{path}: {name} must be {what}, got {value!r:.40}")
