"""Scenario files: what is read is what was written, and what does not fit is refused by line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp_steer.errors import ScenarioError
from interp_steer.scenarios import (
    Message,
    Prompt,
    Scenario,
    load_scenarios,
    save_scenarios,
    scenario_hash,
)

CHAT = {
    "id": "a",
    "trait": "honesty",
    "split": "train",
    "category": "geography",
    "system_aligned": "Be honest.",
    "system_malicious": "Lie.",
    "user": "What is the capital of France?",
}
RAW = {
    "id": "r",
    "trait": "honesty",
    "split": "test",
    "category": "geography",
    "prompt_aligned": "True: ",
    "prompt_malicious": "False: ",
}


def chat(**changes: Any) -> Scenario:
    return Scenario(**{**CHAT, "user": (CHAT["user"],), **changes})


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
optional = st.none() | texts


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of one scenario. (Constructed in the test: beartype draws random numbers, which
    Hypothesis refuses inside a strategy.)"""
    record = {name: draw(texts) for name in ("id", "trait", "category")}
    record |= {"split": draw(st.sampled_from(["train", "test"]))}
    record |= {"notes": draw(optional), "reference": draw(optional)}
    if draw(st.booleans()):
        return record | {name: draw(texts) for name in ("prompt_aligned", "prompt_malicious")}
    record |= {name: draw(texts) for name in ("system_aligned", "system_malicious")}
    return record | {"user": tuple(draw(st.lists(texts, min_size=1, max_size=3)))}


sets = st.lists(records(), min_size=1, max_size=3, unique_by=lambda record: record["id"])


@settings(max_examples=40, deadline=None)
@given(sets)
def test_saving_and_loading_returns_the_same_scenarios(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[dict[str, Any]]
) -> None:
    some = tuple(Scenario(**record) for record in drawn)
    path = tmp_path_factory.mktemp("s") / "scenarios.jsonl"
    save_scenarios(path, some)
    assert load_scenarios(path) == some
    assert path.read_bytes().count(b"\n") == len(some)


@settings(max_examples=40, deadline=None)
@given(sets)
def test_the_hash_ignores_order_and_notes_and_sees_everything_else(
    drawn: list[dict[str, Any]],
) -> None:
    first, *rest = drawn
    known = _hash(drawn)
    assert _hash(drawn[::-1]) == known
    assert _hash([first | {"notes": "another"}, *rest]) == known
    for name, value in first.items():
        if name == "split":
            other: object = "test" if value == "train" else "train"
        elif name == "user":
            other = (*value, "and then?")
        else:
            other = f"{value}!"
        if name != "notes":
            assert _hash([first | {name: other}, *rest]) != known, name


def _hash(drawn: list[dict[str, Any]]) -> str:
    return scenario_hash(Scenario(**record) for record in drawn)


def test_the_hash_is_sha256_of_canonical_json() -> None:
    import hashlib

    record = {**CHAT, "user": [CHAT["user"]], "prompt_aligned": None, "prompt_malicious": None}
    text = json.dumps([{**record, "reference": None}], sort_keys=True, separators=(",", ":"))
    assert scenario_hash([chat()]) == hashlib.sha256(text.encode()).hexdigest()


def test_prompts_have_the_system_message_of_their_side_and_the_first_turn() -> None:
    scenario = chat(user=("first", "second"))
    user = Message(role="user", content="first")
    for side, system in (("aligned", "Be honest."), ("malicious", "Lie.")):
        assert scenario.prompt(side).messages == (Message(role="system", content=system), user)
    assert scenario.prompt("neutral").messages == (user,)
    raw = Scenario(**RAW)
    assert raw.prompt("aligned") == Prompt(text="True: ")
    assert raw.prompt("malicious") == Prompt(text="False: ")


def test_a_raw_pair_has_no_neutral_side() -> None:
    with pytest.raises(ScenarioError, match="no neutral side; ask for 'aligned' or 'malicious'"):
        Scenario(**RAW).prompt("neutral")


def test_a_prompt_is_messages_or_text() -> None:
    with pytest.raises(ScenarioError, match="got neither"):
        Prompt()
    with pytest.raises(ScenarioError, match="got both"):
        Prompt(messages=(Message(role="user", content="x"),), text="x")


REFUSED: dict[str, tuple[object, str]] = {
    "not JSON": ("{", "expected one JSON object, got no JSON"),
    "a list": ([1], "expected one JSON object, got list"),
    "an unknown key": ({**CHAT, "sytem": "x"}, "unknown key 'sytem'; the keys are id, trait"),
    "a missing key": ({k: v for k, v in CHAT.items() if k != "trait"}, "missing 'trait'"),
    "no system": ({k: v for k, v in CHAT.items() if k != "system_aligned"}, "'system_aligned'"),
    "no user": ({k: v for k, v in CHAT.items() if k != "user"}, "missing 'user'"),
    "half a raw pair": ({**RAW, "prompt_malicious": None}, "missing 'prompt_malicious'"),
    "chat and raw": ({**CHAT, "prompt_aligned": "x", "prompt_malicious": "y"}, "not both"),
    "an empty text": ({**CHAT, "system_aligned": " \n"}, "'system_aligned' must not be empty"),
    "an empty turn": ({**CHAT, "user": ["x", ""]}, "'user' must not be empty"),
    "an empty id": ({**CHAT, "id": ""}, "'id' must not be empty"),
    "an empty note": ({**CHAT, "notes": ""}, "'notes' must not be empty"),
    "no turns": ({**CHAT, "user": []}, "a text or a list of texts"),
    "a number": ({**CHAT, "id": 3}, "'id' must be a text, got 3"),
    "a turn that is no text": ({**CHAT, "user": ["x", 3]}, "a text or a list of texts"),
    "an unknown split": ({**CHAT, "split": "dev"}, "split must be 'train' or 'test', got 'dev'"),
    "a repeated id": (CHAT, "id 'a' was already used on line 1"),
    "a repeated key": ('{"id": "b", "id": "c"}', "key 'id' is given twice"),
    "half a surrogate": ({**CHAT, "category": "\ud800"}, "surrogate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_line_that_does_not_fit_is_refused_by_number(tmp_path: Path, case: str) -> None:
    line, message = REFUSED[case]
    if isinstance(line, dict) and case not in ("a repeated id", "an empty id", "a number"):
        line = {**line, "id": "b"}
    # Line 2 is blank and skipped, so the number is that of the file and not of the records.
    path = write(tmp_path / "s.jsonl", CHAT, "", line)
    with pytest.raises(ScenarioError) as refusal:
        load_scenarios(path)
    assert f"{path}:3: " in str(refusal.value)
    assert message in str(refusal.value)


def test_files_that_are_no_scenario_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"cannot read .*missing.jsonl: No such file"):
        load_scenarios(tmp_path / "missing.jsonl")
    with pytest.raises(ScenarioError, match="got an empty file"):
        load_scenarios(write(tmp_path / "empty.jsonl", " "))
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "caf\xe9"}')
    with pytest.raises(ScenarioError, match="must be UTF-8"):
        load_scenarios(tmp_path / "latin.jsonl")


def test_line_separators_inside_a_text_do_not_end_the_line(tmp_path: Path) -> None:
    scenario = chat(category="one\u2028two\x85three")
    save_scenarios(tmp_path / "s.jsonl", [scenario])
    assert load_scenarios(tmp_path / "s.jsonl") == (scenario,)


def test_saving_or_hashing_two_scenarios_of_one_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    with pytest.raises(ScenarioError, match="id 'a' is used more than once"):
        save_scenarios(path, [chat(), chat()])
    assert not path.exists()
    with pytest.raises(ScenarioError, match="id 'a' is used more than once"):
        scenario_hash([chat(), chat()])
