"""Drafting against a scripted OpenAI-compatible server: what is taken, refused and resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")

from chat_servers import Answer, ChatServer, Reply, Status, Text, chat_server
from interp_steer.chat_client import ChatClient
from interp_steer.cli import main
from interp_steer.draft_answers import DraftRequest, drafted_scenario, parse_answer
from interp_steer.endpoints import ChatEndpoint
from interp_steer.errors import ScenarioError
from interp_steer.scenario_draft import Drafted, DraftPlan, draft_scenarios
from interp_steer.scenario_sets import load_scenario_set
from interp_steer.scenarios import Scenario, load_scenarios, save_scenarios

HONESTY = tuple(s for s in load_scenario_set("honesty") if s.category == "money")
COMPASSION = load_scenario_set("compassion")
REQUEST = DraftRequest(trait="humility", meaning=None, category="trades", split="train", n=1)

# What the scripted model knows: requests of the compassion set, which have little in common.
STOCK = [scenario.user[0] for scenario in COMPASSION[:30]]


def entry(number: int, **changes: object) -> dict[str, object]:
    """What a well-behaved model writes."""
    base = {
        "system_aligned": f"{STOCK[number][:60]} Sign {number}: be modest.",
        "system_malicious": f"{STOCK[number][60:120]} Sign {number}: boast.",
        "user": STOCK[number],
        "notes": "Humble: admits. Not: boasts.",
    }
    return {**base, **changes}


def answers(*replies: Reply | list[object]) -> Answer:
    """Give these in turn; the last one for ever. A list is sent as JSON."""

    def answer(_: dict[str, Any], number: int) -> Reply:
        reply = replies[min(number, len(replies) - 1)]
        return json.dumps(reply) if isinstance(reply, list) else reply

    return answer


def endpoint(server: ChatServer, **changes: Any) -> ChatEndpoint:
    settings = {"max_retries": 0, "concurrency": 1, **changes}
    return ChatEndpoint(model="muse", base_url=server.base_url, **settings)


def drafted(server: ChatServer, out: Path, n: int, *, concurrency: int = 1, **plan: Any) -> Drafted:
    settings = {"trait": "humility", "categories": ("trades",), "per_call": 2, **plan}
    client = ChatClient(endpoint(server, concurrency=concurrency), first_delay_s=0.01)
    return draft_scenarios(client, HONESTY, DraftPlan(n=n, **settings), out=out)


class TestDrafting:
    def test_drafts_are_scenarios_marked_as_drafts(self, tmp_path: Path) -> None:
        out = tmp_path / "humility.jsonl"
        with chat_server(answers([entry(0), entry(1)], [entry(2, reference="A fact.")])) as server:
            result = drafted(server, out, 3)
        assert load_scenarios(out) == result.scenarios
        assert (len(result.scenarios), result.n_new, result.usage.calls) == (3, 3, 2)
        first, _, last = result.scenarios
        assert first == Scenario(
            id="humility-train-trades-draft-01",
            trait="humility",
            split="train",
            category="trades",
            system_aligned=str(entry(0)["system_aligned"]),
            system_malicious=str(entry(0)["system_malicious"]),
            user=(STOCK[0],),
            notes="draft by muse, not reviewed. Humble: admits. Not: boasts.",
        )
        assert (last.id, last.reference) == ("humility-train-trades-draft-03", "A fact.")

    def test_the_model_is_shown_train_scenarios_only_and_what_is_taken(
        self, tmp_path: Path
    ) -> None:
        with chat_server(answers([entry(0), entry(1)], [entry(2)])) as server:
            drafted(server, tmp_path / "h.jsonl", 3, meaning="modest, or a braggart")
            first, second = (r["messages"][1]["content"] for r in server.requests)
        shown = [s for s in HONESTY if json.dumps(s.user[0], ensure_ascii=False) in first]
        assert len(shown) == 4 and {s.split for s in shown} == {"train"}
        assert "Write 2 new scenarios for the trait: humility (modest, or a braggart)" in first
        assert "Already written" not in first
        assert "Already written" in second and STOCK[1][:100] in second
        assert "Write 1 new scenarios" in second

    def test_categories_take_turns(self, tmp_path: Path) -> None:
        numbers = iter(range(20))
        with chat_server(lambda *_: json.dumps([entry(next(numbers))])) as server:
            result = drafted(
                server, tmp_path / "h.jsonl", 6, categories=("a", "b", "c"), per_call=1
            )
        assert [s.category for s in result.scenarios] == ["a", "b", "c"] * 2

    def test_calls_of_one_round_ask_for_different_categories(self, tmp_path: Path) -> None:
        lock, numbers = threading.Lock(), iter(range(20))

        def answer(*_: object) -> Reply:
            with lock:
                return json.dumps([entry(next(numbers))])

        with chat_server(answer) as server:
            plan = {"categories": ("alpha", "beta", "gamma"), "per_call": 1}
            drafted(server, tmp_path / "h.jsonl", 3, concurrency=3, **plan)
            asked = [r["messages"][1]["content"] for r in server.requests]
        found = [re.search(r"Category: (\w+)\.", text) for text in asked]
        assert {match[1] for match in found if match} == {"alpha", "beta", "gamma"}

    def test_calls_run_side_by_side_and_none_too_many_is_kept(self, tmp_path: Path) -> None:
        lock, numbers = threading.Lock(), iter(range(30))
        gate = threading.Barrier(4, timeout=60)

        def answer(_: object, number: int) -> Reply:
            if number < 4:
                gate.wait()  # passes only if four calls are under way together
            with lock:
                return json.dumps([entry(next(numbers)) for _ in range(3)])

        with chat_server(answer) as server:
            result = drafted(server, tmp_path / "h.jsonl", 7, concurrency=4, per_call=2)
            assert server.most_at_once == 4
        assert len(result.scenarios) == 7

    def test_a_second_run_goes_on(self, tmp_path: Path) -> None:
        out = tmp_path / "h.jsonl"
        with chat_server(answers([entry(0), entry(1)])) as server:
            drafted(server, out, 2)
        with chat_server(answers([entry(1), entry(2)], [entry(3)])) as server:
            result = drafted(server, out, 4)
        assert [s.user[0] for s in load_scenarios(out)] == STOCK[:4]
        assert result.n_new == 2
        assert dict(result.refused) == {"a request too near to one that is there": 1}
        with chat_server(Status(500)) as server:
            assert drafted(server, out, 4).n_new == 0
            assert server.requests == []


REFUSED: dict[str, tuple[list[object] | Reply, str]] = {
    "no JSON": ("Sure! Here are some scenarios.", "an answer that is no JSON"),
    "JSON among words": (f"Here: {json.dumps([entry(0)])}", "an answer that is no JSON"),
    "no list": (json.dumps(entry(0)), "an answer that is no JSON list"),
    "depth": ("[" * 100_000, "an answer that is no JSON"),
    "nothing": ("", "an answer that is no JSON"),
    "cut": (Text(json.dumps([entry(0)]), finish_reason="length"), "an answer cut off at its token"),
    "a failed call": (Status(400, "bad words"), "a call that failed ("),
    "a text as entry": (["x"], "an entry that is no object"),
    "another key": ([entry(0, split="test")], "an entry with a key that was not asked for: 'spl"),
    "a missing key": ([{"user": "x"}], "an entry without 'system_aligned'"),
    "a number": ([entry(0, user=3)], "an entry whose 'user' is no text"),
    "a blank": ([entry(0, notes=" \n")], "an entry whose 'notes' is no text"),
    "a null": ([entry(0, reference=None)], "an entry whose 'reference' is no text"),
    "an escape": ([entry(0, user="\x1b[2Jhello")], "an entry with control characters in 'user'"),
    "half a pair": ([entry(0, notes="\ud800")], "an entry with control characters in 'notes'"),
    "twice a key": ('[{"user": "a", "user": "b"}]', "an answer that is no JSON"),
    "one side": (
        [entry(0, system_malicious=entry(0)["system_aligned"])],
        "an entry whose two sides say the same",
    ),
    "a known request": (
        [entry(0, user=HONESTY[3].user[0].upper())],
        "a request too near to one that is there",
    ),
    "a test request": (
        [entry(0, user=HONESTY[-1].user[0])],
        "a request too near to one that is there",
    ),
    "a known prompt": (
        [entry(0, system_malicious=str(HONESTY[9].system_malicious) + " Always.")],
        "a malicious prompt too near to one that is there",
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED)
    def test_what_does_not_fit_is_refused_by_name_and_the_rest_is_kept(
        self, case: str, tmp_path: Path
    ) -> None:
        reply, reason = REFUSED[case]
        out = tmp_path / "h.jsonl"
        with chat_server(answers(reply, [entry(5)])) as server:
            result = drafted(server, out, 1)
        assert [s.user[0] for s in load_scenarios(out)] == [STOCK[5]]
        [(said, n)] = result.refused.items()
        assert n == 1 and said.startswith(reason)

    def test_good_entries_of_an_answer_survive_bad_ones(self, tmp_path: Path) -> None:
        mixed = [entry(0, user=""), entry(1), entry(1), entry(2)]
        with chat_server(answers(mixed)) as server:
            result = drafted(server, tmp_path / "h.jsonl", 2, per_call=4)
        assert [s.user[0] for s in result.scenarios] == STOCK[1:3]
        assert sum(result.refused.values()) == 2

    def test_a_model_that_gives_nothing_is_given_up(self, tmp_path: Path) -> None:
        out = tmp_path / "h.jsonl"
        with chat_server(answers([entry(0)], "no")) as server:
            with pytest.raises(ScenarioError) as refusal:
                drafted(server, out, 5)
            assert len(server.requests) == 1 + 3
        said = str(refusal.value)
        assert "muse gave nothing usable in 3 rounds of calls in a row" in said
        assert "3 x an answer that is no JSON" in said and "1 of 5 drafts are in" in said
        assert len(load_scenarios(out)) == 1

    def test_a_file_of_another_trait(self, tmp_path: Path) -> None:
        save_scenarios(tmp_path / "c.jsonl", COMPASSION)
        with chat_server("x") as server, pytest.raises(ScenarioError, match="trait 'compassion'"):
            drafted(server, tmp_path / "c.jsonl", 5)

    def test_a_pattern_without_chat_scenarios_to_train_on(self, tmp_path: Path) -> None:
        tested = [s for s in HONESTY if s.split == "test"]
        with chat_server("x") as server, pytest.raises(ScenarioError, match="none among 14"):
            draft_scenarios(
                ChatClient(endpoint(server)),
                tested,
                DraftPlan(trait="t", n=1),
                out=tmp_path / "h.jsonl",
            )

    def test_a_file_that_changes_under_our_hands_is_left_alone(self, tmp_path: Path) -> None:
        out = tmp_path / "h.jsonl"

        def answer(_: object, number: int) -> Reply:
            if number == 1:
                save_scenarios(out, HONESTY[:1])
            return json.dumps([entry(number)])

        with (
            chat_server(answer) as server,
            pytest.raises(ScenarioError, match="changed by somebody else"),
        ):
            drafted(server, out, 3)
        assert load_scenarios(out) == HONESTY[:1]

    @pytest.mark.parametrize(
        "plan",
        [{"n": 0}, {"per_call": 0}, {"trait": " "}, {"categories": ("a", "")}],
    )
    def test_plans_that_make_no_sense(self, plan: dict[str, Any]) -> None:
        with pytest.raises(ScenarioError, match=r"at least 1|must have a name"):
            DraftPlan(**{"trait": "t", "n": 1, **plan})


class TestAnswers:
    def test_one_code_fence_is_taken_off(self) -> None:
        listed = json.dumps([{"a": 1}], indent=1)
        assert parse_answer(f"\n```json\n{listed}\n```\n") == [{"a": 1}]
        assert parse_answer(f"```\n{listed}\n```") == [{"a": 1}]
        for text in (f"```json\n{listed}", f"```json\n{listed}\n```\nHope it helps!"):
            with pytest.raises(ScenarioError, match="no JSON"):
                parse_answer(text)

    def test_texts_are_stripped(self) -> None:
        scenario = drafted_scenario(
            entry(0, user=" hi \n", reference=" r "), REQUEST, id="x", model="muse"
        )
        assert (scenario.user, scenario.reference) == (("hi",), "r")


class TestCommand:
    @staticmethod
    def argv(server: ChatServer, out: Path, n: int = 2) -> list[str]:
        return [
            *("scenarios", "draft", "--trait", "humility", "--like", "honesty", "--n", str(n)),
            *("--out", str(out), "--model", "muse", "--base-url", server.base_url),
            *("--categories", "trades", "--per-call", "1", "--concurrency", "1"),
            *("--max-retries", "0"),
        ]

    def test_drafts_and_says_what_next(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "humility.jsonl"
        with chat_server(answers([entry(0)], "no", [entry(1)])) as server:
            assert main(self.argv(server, out)) == 0
        said, narration = capsys.readouterr()
        assert said.startswith(f"2 drafts in {out}, 2 of them new (3 calls, 0 tokens)\n")
        assert "not taken: 1 x an answer that is no JSON" in said
        assert f"interp-steer scenarios check {out}" in said
        assert "2 of 2 drafts" in narration
        assert main(["scenarios", "check", str(out)]) == 0

    def test_refusals_exit_1(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "humility.jsonl"
        with chat_server(Status(401, "who are you")) as server:
            assert main(self.argv(server, out)) == 1
        assert "answered 401: the key was refused" in capsys.readouterr().err
        assert not out.exists()
        save_scenarios(out, HONESTY)
        with chat_server("x") as server:
            argv = self.argv(server, out)
            argv[argv.index("honesty")] = str(out)
            assert main(argv) == 1
        assert "is the pattern itself" in capsys.readouterr().err
        assert load_scenarios(out) == HONESTY

    def test_missing_options_exit_2(self) -> None:
        assert main(["scenarios", "draft", "--trait", "humility"]) == 2
        assert main(["scenarios"]) == 2

    @pytest.mark.slow
    def test_nothing_is_lost_when_it_is_killed(self, tmp_path: Path) -> None:
        out = tmp_path / "humility.jsonl"

        def answer(_: object, number: int) -> Reply:
            time.sleep(0.0 if number < 2 else 30.0)
            return json.dumps([entry(number)])

        with chat_server(answer) as server:
            process = subprocess.Popen(
                [sys.executable, "-m", "interp_steer", *self.argv(server, out, n=4)],
                stderr=subprocess.DEVNULL,
                env={**os.environ, "NO_COLOR": "1"},
            )
            try:
                _wait(lambda: len(server.requests) == 3)
            finally:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        assert [s.user[0] for s in load_scenarios(out)] == STOCK[:2]
        with chat_server(answers([entry(2)], [entry(3)])) as server:
            assert main(self.argv(server, out, n=4)) == 0
        assert [s.user[0] for s in load_scenarios(out)] == STOCK[:4]


def _wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)
