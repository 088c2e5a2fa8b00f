"""The cache of judges' answers: across runs, beside other processes, after kills, without keys."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chat_servers import ChatServer, chat_server
from interp_steer.errors import JudgeError
from interp_steer.judge_cache import AnswerCache, StoredAnswer
from interp_steer.judges import JudgeScore
from judge_cases import answer, judge

STORED = StoredAnswer(
    attempt=0, text="80", finish_reason="stop", prompt_tokens=3, completion_tokens=1
)


class TestCache:
    def test_what_one_process_adds_another_reads(self, tmp_path: Path) -> None:
        one, other = AnswerCache(tmp_path / "c"), AnswerCache(tmp_path / "c")
        one.add("k", STORED)
        one.close()
        assert other.answers("k") == []
        other.refresh()
        assert other.answers("k") == [STORED] == AnswerCache(tmp_path / "c").answers("k")

    def test_half_a_line_and_foreign_lines_are_skipped(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = AnswerCache(tmp_path)
        one.add("k", STORED)
        one.close()
        (path,) = tmp_path.glob("*.jsonl")
        line = path.read_bytes()
        for damage in (b"[1]\n", b'{"key": "x"}\n', line.replace(b"80", b"\xff"), b"\n"):
            third = line.replace(b'"k"', b'"m"')
            path.write_bytes(line + damage + line.replace(b'"k"', b'"l"') + third[:20])
            caplog.clear()
            again = AnswerCache(tmp_path)
            assert len(again) == 2 and again.answers("l") == [STORED]
            assert caplog.text.count("damaged line") == 1
        with path.open("ab") as file:  # the writer was only slow
            file.write(third[20:])
        again.refresh()
        assert again.answers("m") == [STORED]

    def test_an_answer_that_two_processes_paid_for_counts_once(self, tmp_path: Path) -> None:
        for _ in range(2):
            AnswerCache(None).add("k", STORED)
            cache = AnswerCache(tmp_path)
            cache._known.clear()
            cache.add("k", STORED)
            cache.close()
        assert len(list(tmp_path.glob("*.jsonl"))) == 2 and len(AnswerCache(tmp_path)) == 1

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "c").write_text("a file")
        with pytest.raises(JudgeError, match="cannot keep the judge's answers"):
            AnswerCache(tmp_path / "c").add("k", STORED)


class TestAcrossRuns:
    def test_nothing_is_asked_twice(self, tmp_path: Path) -> None:
        with chat_server("80") as server:
            first = judge(server.base_url, cache=tmp_path)
            scores = first.score_all([answer("a"), answer("b")])
            second = judge(server.base_url, cache=tmp_path)
            assert second.score_all([answer("b"), answer("a")]) == scores
            assert len(server.requests) == 4
            assert (second.tally.n_cached, second.tally.usage.calls) == (4, 0)
            judge(server.base_url, cache=tmp_path, temperature=0.5).score(answer("a"))
            assert len(server.requests) == 6
            second.score_all([answer("a")], repeat=1)
            assert len(server.requests) == 8

    def test_a_gap_stays_a_gap_and_a_failure_is_asked_again(self, tmp_path: Path) -> None:
        from chat_servers import Status

        with chat_server("eighty") as server:
            for _ in range(2):
                asked = judge(server.base_url, cache=tmp_path / "gaps")
                assert asked.score(answer()) == JudgeScore(trait=None, coherence=None)
        assert len(server.requests) == 4

        def picky(request: dict[str, Any], number: int) -> Any:
            is_long = number < 4 and "too long" in request["messages"][1]["content"]
            return Status(400) if is_long else "80"

        with chat_server(picky) as server:
            asked = judge(server.base_url, cache=tmp_path / "failures")
            found = asked.score_all([answer("too long"), answer("short")])
            assert found[0] == JudgeScore(trait=None, coherence=None)
            asked = judge(server.base_url, cache=tmp_path / "failures")
            assert asked.score(answer("too long")) == JudgeScore(trait=80, coherence=80)
        assert len(server.requests) == 6

    def test_tokens_and_cost_are_told(self) -> None:
        from dataclasses import replace

        from chat_servers import Text

        usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
        with chat_server(Text("80", usage=usage)) as server:
            asked = judge(server.base_url)
            asked.score(answer())
        priced = replace(asked.settings, prompt_price=0.5, completion_price=100.0)
        assert "2000 tokens read, 20 made; cost 0.003" in asked.tally.text(priced)
        assert "cost" not in asked.tally.text(asked.settings)


class TestKey:
    def test_is_in_no_file_and_no_message(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        key = "planted-91ab-key"
        monkeypatch.setenv("OPENAI_API_KEY", key)
        caplog.set_level(logging.DEBUG)
        with chat_server("80") as server:
            asked = judge(server.base_url, cache=tmp_path)
            asked.score(answer())
        assert server.keys == [f"Bearer {key}"] * 2
        written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert written and key.encode() not in written
        said = (caplog.text, repr(vars(asked)), repr(asked.settings), repr(asked.identity()))
        assert [text for text in said if key in text] == []


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from judge_cases import answer, judge
scores = judge({url!r}, cache=Path({cache!r})).score_all([answer(str(i)) for i in range(40)])
print(sum(score.trait for score in scores))
"""


class TestKill:
    @pytest.mark.slow
    def test_whatever_was_answered_is_not_asked_again(self, tmp_path: Path) -> None:
        """Kill -9 at a random moment of the calls; go on; count what was asked of either server."""

        def slow(request: dict[str, Any], number: int) -> str:
            time.sleep(0.01)
            return "80"

        def command(server: ChatServer) -> list[str]:
            tests, cache = str(Path(__file__).parent), str(tmp_path)
            program = PROGRAM.format(tests=tests, url=server.base_url, cache=cache)
            return [sys.executable, "-c", program]

        with chat_server(slow) as server:
            process = subprocess.Popen(command(server), stdout=subprocess.PIPE)
            kill_at = random.randint(5, 60)
            until = time.monotonic() + 300
            while len(server.requests) < kill_at and time.monotonic() < until:
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        kept = len(AnswerCache(tmp_path))
        # Another server: the first may still be reading what the killed process sent last.
        with chat_server(slow) as later:
            done = subprocess.run(command(later), capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "3200", f"killed at {kill_at}"
        every = [*server.requests, *later.requests]
        asked = Counter(json.dumps(request["messages"]) for request in every)
        assert len(asked) == 80 and 0 < kept < 80
        assert len(later.requests) == 80 - kept, f"killed at {kill_at}"
        assert len(every) - 80 <= 4, "only what was under way may be asked again"
        assert len(AnswerCache(tmp_path)) == 80
