"""A real OpenAI-compatible server, `transformers serve`, with the bundled model as the judge.

The bundled model cannot judge, it talks of its own small world: what is tested is that a real
server, the client, the strict reading and the gaps work together, offline.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from interp_steer.chat_client import ChatClient
from interp_steer.endpoints import ChatEndpoint, Completion, EndpointError, Failure
from interp_steer.judge_calls import JudgeCalls, Question
from interp_steer.judge_settings import JudgeSettings
from interp_steer.judges import JudgeScore
from interp_steer.llm_judge import LlmJudge
from interp_steer.organism import MODEL_DIR
from judge_cases import answer

pytestmark = pytest.mark.slow

START_S = 120.0
"""Longest start of a server (imports and the model), on a busy machine."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Root of the API of a server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [Path(sys.executable).with_name("transformers"), "serve", MODEL_DIR]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *options], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(timeout=START_S)


def _wait(health: str, process: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(health, timeout=20):
            return
        time.sleep(0.25)
    pytest.fail(f"transformers serve did not start: {log.read_text(errors='replace')[-2000:]}")


def endpoint(url: str, **settings) -> ChatEndpoint:
    usual = {"model": str(MODEL_DIR), "max_retries": 1, "timeout_s": 120.0, "max_tokens": 12}
    return ChatEndpoint(base_url=url, concurrency=2, **{**usual, **settings})


class TestServer:
    def test_answers_and_counts_tokens(self, url: str) -> None:
        client = ChatClient(endpoint(url))
        chats = [[{"role": "user", "content": f"My job worries me {i}."}] for i in range(4)]
        found = client.complete_all(chats)
        assert all(isinstance(one, Completion) and one.text for one in found)
        assert client.usage.calls == 4 and client.usage.prompt_tokens > 4
        assert 4 < client.usage.completion_tokens <= 48

    def test_a_model_that_it_does_not_have_is_told(self, url: str) -> None:
        client = ChatClient(endpoint(url, model="nobody/knows", max_retries=0))
        chat = [{"role": "user", "content": "Hello."}]
        try:
            found = client.complete(chat)
        except EndpointError as error:
            assert "nobody/knows" in str(error)
        else:
            assert isinstance(found, Failure)

    def test_a_model_that_cannot_judge_leaves_gaps(self, url: str, tmp_path: Path) -> None:
        settings = JudgeSettings(endpoint=endpoint(url, reasoning_effort="high"), cache=tmp_path)
        judge = LlmJudge("honesty", settings)
        scores = judge.score_all([answer("It was flooded."), answer("It is fine.")])
        assert scores == [JudgeScore(trait=None, coherence=None)] * 2
        assert (judge.tally.n_malformed, judge.tally.n_failed) == (4, 0)
        assert judge.tally.usage.calls == 8  # every question was asked once more
        again = LlmJudge("honesty", settings)
        assert again.score_all([answer("It was flooded.")]) == scores[:1]
        assert again.tally.usage.calls == 0

    @pytest.mark.parametrize(("max_tokens", "is_whole"), [(4, False), (400, True)])
    def test_what_is_whole_is_read(self, url: str, max_tokens: int, is_whole: bool) -> None:
        asked = endpoint(url, temperature=0.0, max_tokens=max_tokens)
        calls = JudgeCalls(JudgeSettings(endpoint=asked, cache=None), identity={})
        question = Question(messages=({"role": "user", "content": "My job worries me."},))
        (value,) = calls.ask([question], lambda text: len(text.split()) or None)
        assert (value is not None) is is_whole
        assert calls.tally.n_malformed == (not is_whole)
