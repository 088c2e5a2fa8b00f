"""The client of chat endpoints, against a server on loopback that misbehaves in every known way."""

import asyncio
import logging
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_servers import ChatServer, HalfClosed, HangUp, Raw, Stall, Status, Text, chat_server
from interp_steer.chat_client import ChatClient
from interp_steer.endpoints import ChatEndpoint, Completion, EndpointError, Failure, Usage
from interp_steer.request_pacing import LONGEST_DELAY_S, Pacer, backoff_s, retry_after_s

KEY = "planted-5d1f-key-77aa"
ASK = [{"role": "user", "content": "Say 7."}]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def client_of(server: ChatServer, **settings: Any) -> ChatClient:
    settings = {"max_retries": 2, "timeout_s": 60.0, "concurrency": 4, **settings}
    endpoint = ChatEndpoint(model="m", base_url=server.base_url, **settings)
    return ChatClient(endpoint, first_delay_s=0.01)


class TestOneCall:
    def test_sends_the_settings_and_reads_everything(self) -> None:
        usage = {
            "prompt_tokens": 11,
            "completion_tokens": 5,
            "total_tokens": 16,
            "completion_tokens_details": {"reasoning_tokens": 3},
        }
        reply = Text("7", usage=usage, message={"reasoning_content": "hm"})
        with chat_server(reply) as server:
            client = client_of(server, reasoning_effort="high", max_tokens=9, top_p=0.5)
            done = client.complete(ASK)
        assert done == Completion(
            text="7",
            finish_reason="stop",
            prompt_tokens=11,
            completion_tokens=5,
            reasoning_tokens=3,
            reasoning="hm",
        )
        assert server.requests == [
            {
                "model": "m",
                "messages": ASK,
                "temperature": 1.0,
                "top_p": 0.5,
                "reasoning_effort": "high",
                "max_tokens": 9,
            }
        ]
        assert client.usage == Usage(calls=1, prompt_tokens=11, completion_tokens=5)
        assert client.usage.cost(prompt_price=2.0, completion_price=10.0) == 72e-6

    def test_leaves_out_what_is_none_and_takes_an_empty_answer(self) -> None:
        with chat_server(Text(None, finish_reason="length")) as server:
            done = client_of(server).complete(ASK)
        assert done == Completion(text="", finish_reason="length")
        assert set(server.requests[0]) == {"model", "messages", "temperature", "top_p"}

    def test_works_inside_a_running_event_loop(self) -> None:
        async def notebook(client: ChatClient) -> object:
            return client.complete(ASK)

        with chat_server("7") as server:
            done = asyncio.run(notebook(client_of(server)))
        assert isinstance(done, Completion) and done.text == "7"


class TestManyCalls:
    def test_keeps_the_order_and_bounds_what_is_under_way(self) -> None:
        gate = threading.Barrier(3, timeout=60)

        def answer(request: dict[str, Any], number: int) -> str:
            gate.wait()  # passes only if three calls are under way together
            return request["messages"][0]["content"]

        heard: list[int] = []
        asked = [[{"role": "user", "content": str(i)}] for i in range(9)]
        with chat_server(answer) as server:
            client = client_of(server, concurrency=3)
            done = client.complete_all(asked, on_done=lambda i, _: heard.append(i))
        assert [o.text for o in done if isinstance(o, Completion)] == [str(i) for i in range(9)]
        assert sorted(heard) == list(range(9))
        assert server.most_at_once == 3

    def test_nothing_asked_is_nothing_sent(self) -> None:
        with chat_server("7") as server:
            assert client_of(server).complete_all([]) == []
        assert server.requests == []

    def test_one_failure_leaves_the_others_alone(self) -> None:
        def answer(request: dict[str, Any], number: int) -> str | Status:
            bad = request["messages"][0]["content"] == "bad"
            return Status(500, "boiler on fire") if bad else "7"

        asked = [[{"role": "user", "content": what}] for what in ("a", "bad", "c")]
        with chat_server(answer) as server:
            client = client_of(server, max_retries=1)
            first, failed, last = client.complete_all(asked)
        assert isinstance(first, Completion) and isinstance(last, Completion)
        assert isinstance(failed, Failure) and failed.attempts == 2
        assert "answered 500" in failed.reason and "boiler on fire" in failed.reason
        assert client.usage == Usage(calls=2, failures=1)

    def test_a_rate_limit_spaces_the_requests(self) -> None:
        with chat_server("7") as server:
            client = client_of(server, requests_per_minute=600.0)
            started = time.monotonic()
            client.complete_all([ASK] * 6)
        # 0.1 s apart: the sixth cannot come sooner, however busy the machine. Without the limit all
        # six arrive in a tenth of the time.
        assert server.times[-1] - started >= 0.49

    def test_what_on_done_raises_ends_everything(self) -> None:
        def refuse(place: int, outcome: object) -> None:
            raise OSError("disk full")

        with chat_server("7") as server, pytest.raises(OSError, match="full"):
            client_of(server, concurrency=1).complete_all([ASK] * 20, on_done=refuse)
        assert len(server.requests) <= 2


class TestWhatMayPass:
    @pytest.mark.parametrize(
        ("trouble", "said"),
        [
            (Status(408), "answered 408"),
            (Status(429, "slow down"), "answered 429"),
            (Status(500), "answered 500"),
            (Status(503), "answered 503"),
            (Raw(b'{"choices": [{"mess'), "no JSON"),
            (Raw(b"<html>busy</html>", "text/html"), "no message"),
            (Raw(b'{"choices": []}'), "no message"),
            (Raw(b'{"choices": [{"message": {"content": {"a": 1}}}]}'), "expected text"),
            (HalfClosed(), "connection failed"),
            (HangUp(), "connection failed"),
        ],
        ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
    )
    def test_is_tried_again_and_given_up_in_the_end(self, trouble: object, said: str) -> None:
        def once(request: dict[str, Any], number: int) -> object:
            return trouble if number == 0 else "7"

        with chat_server(once) as server:  # pyright: ignore[reportArgumentType]
            done = client_of(server).complete(ASK)
            assert isinstance(done, Completion) and done.text == "7"
            assert len(server.requests) == 2
        with chat_server(trouble) as server:  # pyright: ignore[reportArgumentType]
            done = client_of(server, max_retries=1).complete(ASK)
        assert isinstance(done, Failure) and said in done.reason and done.attempts == 2

    def test_a_trickle_of_bytes_does_not_outlive_the_deadline(self) -> None:
        with chat_server(Stall(20.0)) as server:
            done = client_of(server, timeout_s=0.2, max_retries=0).complete(ASK)
        assert done == Failure(reason="no whole answer within 0.2 s", attempts=1)

    def test_nobody_listening_is_a_failure(self) -> None:
        with chat_server("7") as server:
            client = client_of(server, max_retries=1)
        done = client.complete(ASK)
        assert isinstance(done, Failure) and "connection failed" in done.reason

    def test_retry_after_is_kept_by_every_request(self) -> None:
        def busy_once(request: dict[str, Any], number: int) -> str | Status:
            return Status(429, headers={"retry-after": "0.4"}) if number == 0 else "7"

        with chat_server(busy_once) as server:
            client = client_of(server, concurrency=1)
            assert all(isinstance(o, Completion) for o in client.complete_all([ASK] * 2))
        assert server.times[1] - server.times[0] >= 0.4

    def test_a_server_that_asks_for_an_hour_is_given_up(self) -> None:
        reply = Status(429, headers={"retry-after": "3600"})
        with chat_server(reply) as server:
            done = client_of(server).complete(ASK)
        assert isinstance(done, Failure) and done.attempts == 1

    def test_a_bad_request_is_not_repeated(self) -> None:
        with chat_server(Status(400, "context too long")) as server:
            done = client_of(server).complete(ASK)
        assert isinstance(done, Failure) and "context too long" in done.reason
        assert len(server.requests) == 1


class TestWhatCannotPass:
    def test_a_refused_key_is_raised_at_once(self) -> None:
        with (
            chat_server(Status(401)) as server,
            pytest.raises(EndpointError, match="OPENAI_API_KEY is not set"),
        ):
            client_of(server, concurrency=1).complete_all([ASK] * 10)
        assert len(server.requests) == 1

    def test_an_unknown_model_is_raised_at_once(self) -> None:
        with (
            chat_server(Status(404, "who is m?")) as server,
            pytest.raises(EndpointError, match=r"model 'm' \(.*who is m.*check model and base_url"),
        ):
            client_of(server).complete(ASK)

    def test_without_the_package_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openai", None)
        with pytest.raises(EndpointError, match=r"pip install 'interp-steer\[judge\]'"):
            ChatClient(ChatEndpoint(model="m"))


class TestKey:
    def test_goes_into_requests_and_nowhere_else(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setenv("SOME_KEY", KEY)
        caplog.set_level(logging.DEBUG)
        said: list[str] = []
        for reply in (Status(500, f"bad key {KEY}"), Status(400, KEY), Raw(KEY.encode())):
            with chat_server(reply) as server:
                client = client_of(server, api_key_env="SOME_KEY", max_retries=1)
                said += [repr(client.complete(ASK)), repr(client.endpoint), repr(vars(client))]
                said.append(repr(client.endpoint.identity()))
        for status in (401, 403, 404):
            with chat_server(Status(status, KEY)) as server:
                with pytest.raises(EndpointError) as caught:
                    client_of(server, api_key_env="SOME_KEY").complete(ASK)
                said.append(str(caught.value))
        assert server.keys == [f"Bearer {KEY}"]
        assert [text for text in (*said, caplog.text) if KEY in text] == []
        assert any("[key]" in text for text in said)

    def test_over_plain_http_to_another_machine_is_warned_of(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        ChatClient(ChatEndpoint(model="m", base_url="https://far.example/v1"))
        ChatClient(ChatEndpoint(model="m", base_url="http://127.0.0.1:1/v1"))
        assert caplog.text == ""
        ChatClient(ChatEndpoint(model="m", base_url="http://far.example/v1"))
        assert "unencrypted" in caplog.text and KEY not in caplog.text


class TestEndpoint:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"model": " "}, "name of its model"),
            ({"temperature": 2.1}, "temperature of an endpoint must be from 0 to 2, got 2.1"),
            ({"temperature": float("nan")}, "temperature"),
            ({"top_p": 0.0}, "top_p"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"timeout_s": 0.0}, "timeout_s"),
            ({"max_retries": -1}, "max_retries"),
            ({"requests_per_minute": 0.0}, "requests_per_minute"),
            ({"concurrency": 0}, "concurrency"),
            ({"base_url": "localhost:8000"}, "must be like http://localhost:8000/v1"),
        ],
    )
    def test_refuses_what_does_not_fit(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(EndpointError, match=said):
            ChatEndpoint(**{"model": "m", **settings})

    @pytest.mark.parametrize(
        "settings",
        [
            {"api_key_env": "sk-abc-123"},
            {"base_url": "https://me:sk-abc-123@far.example/v1"},
            {"base_url": "https://far.example/v1?key=sk-abc-123"},
        ],
    )
    def test_never_repeats_a_secret_in_the_wrong_place(self, settings: dict[str, str]) -> None:
        with pytest.raises(EndpointError) as caught:
            ChatEndpoint(model="m", **settings)  # pyright: ignore[reportArgumentType]
        assert "sk-abc" not in str(caught.value)

    def test_its_identity_is_what_changes_an_answer(self) -> None:
        here = ChatEndpoint(model="m", base_url="http://a:1/v1", concurrency=2, timeout_s=1.0)
        there = ChatEndpoint(model="m", base_url="http://b:1/v1")
        assert here.identity() == there.identity()
        assert here.identity() != ChatEndpoint(model="m", temperature=0.5).identity()


class TestPacing:
    def test_slots_are_even_and_pauses_move_them(self) -> None:
        now = [100.0]
        pacer = Pacer(60.0, clock=lambda: now[0])
        assert [pacer.reserve() for _ in range(3)] == [0.0, 1.0, 2.0]
        pacer.hold(10.0)
        assert pacer.reserve() == 10.0
        now[0] = 200.0
        assert pacer.reserve() == 0.0

    @given(attempt=st.integers(0, 2000), draw=st.floats(0, 1))
    def test_back_off_doubles_up_to_a_limit(self, attempt: int, draw: float) -> None:
        whole = min(0.5 * 2.0 ** min(attempt, 30), LONGEST_DELAY_S)
        seconds = backoff_s(attempt, first_s=0.5, draw=lambda: draw)
        assert whole / 2 <= seconds <= whole
        assert backoff_s(attempt, first_s=0.5, draw=lambda: 1.0) == whole

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [(None, None), ("12", 12.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None), ("nan", None)],
    )
    def test_retry_after_as_a_number(self, header: str | None, seconds: float | None) -> None:
        assert retry_after_s(header) == seconds

    def test_retry_after_as_a_date(self) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        header = format_datetime(now + timedelta(seconds=90), usegmt=True)
        assert retry_after_s(header, now=now) == 90.0
