"""A small OpenAI-compatible chat server for the tests, which can be told to misbehave.

`chat_server(answer)` listens on loopback; `answer` is a reply (a text, or one of the misbehaviours
below), or a function of the request's body and the request's number (from 0) that returns one.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Status:
    """Answer with an HTTP status."""

    code: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """Answer 200 with this body, whatever it is."""

    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Stall:
    """Answer headers, then a byte now and then: no read times out, the whole does."""

    seconds: float


@dataclass(frozen=True)
class HalfClosed:
    """Announce a whole body, send part of it, close."""

    sent: bytes = b'{"id": "x", "choi'


@dataclass(frozen=True)
class HangUp:
    """Close without a word."""


@dataclass(frozen=True)
class Text:
    """A well-formed answer with all that a server may add."""

    text: str | None
    finish_reason: str = "stop"
    usage: dict[str, Any] | None = None
    message: dict[str, Any] = field(default_factory=dict)


Reply = str | Text | Status | Raw | Stall | HalfClosed | HangUp
Answer = Callable[[dict[str, Any], int], Reply]


class ChatServer:
    """Serves until closed; remembers every request."""

    def __init__(self, answer: Answer | Reply) -> None:
        self.answer: Answer = answer if callable(answer) else lambda *_: answer
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @contextmanager
    def serving(self, request: dict[str, Any], key: str | None) -> Iterator[int]:
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
            self.keys.append(key)
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield number
        finally:
            with self._lock:
                self._now -= 1

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                request = json.loads(self.rfile.read(length))
                with server.serving(request, self.headers.get("authorization")) as number:
                    self._reply(server.answer(request, number))

            def log_message(self, *args: object) -> None:
                """Say nothing."""

            def _reply(self, reply: Reply) -> None:
                match reply:
                    case str():
                        self._send(200, completion(Text(reply)))
                    case Text():
                        self._send(200, completion(reply))
                    case Status():
                        body = json.dumps({"error": {"message": reply.message}}).encode()
                        self._send(reply.code, body, headers=reply.headers)
                    case Raw():
                        self._send(200, reply.body, content_type=reply.content_type)
                    case HangUp():
                        self.connection.shutdown(socket.SHUT_RDWR)
                        self.close_connection = True
                    case HalfClosed():
                        self._head(200, len(reply.sent) + 1000)
                        self.wfile.write(reply.sent)
                        self.wfile.flush()
                        self.connection.shutdown(socket.SHUT_WR)
                        self.close_connection = True
                    case Stall():
                        self._stall(reply.seconds)

            def _stall(self, seconds: float) -> None:
                self._head(200, 100_000)
                self.close_connection = True
                until = time.monotonic() + seconds
                while time.monotonic() < until and not server.closing.wait(0.02):
                    try:
                        self.wfile.write(b" ")
                        self.wfile.flush()
                    except OSError:
                        return

            def _send(
                self,
                code: int,
                body: bytes,
                *,
                content_type: str = "application/json",
                headers: dict[str, str] | None = None,
            ) -> None:
                self._head(code, len(body), content_type, headers)
                self.wfile.write(body)

            def _head(
                self,
                code: int,
                length: int,
                content_type: str = "application/json",
                headers: dict[str, str] | None = None,
            ) -> None:
                self.send_response(code)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(length))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()

        return Handler


def completion(reply: Text) -> bytes:
    """The body of a well-formed answer."""
    message = {"role": "assistant", "content": reply.text, **reply.message}
    choice = {"index": 0, "finish_reason": reply.finish_reason, "message": message}
    body: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return json.dumps(body | {"choices": [choice], "usage": reply.usage}).encode()


@contextmanager
def chat_server(answer: Answer | Reply) -> Iterator[ChatServer]:
    """A server for the block."""
    server = ChatServer(answer)
    try:
        yield server
    finally:
        server.close()
