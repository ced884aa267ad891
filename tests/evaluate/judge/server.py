"""An OpenAI-compatible server of the tests' own: it answers by a function, or passes on to a real one.

Faults are put before the answer by their order of arrival; every request and its fate is counted.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str]

FAULTS = ("timeout", "429", "500", "broken", "cut", "drop")


@dataclass
class Stub:
    """A running server. `asked`: the conversations that got an answer; `fates`: what became of requests.

    `faults`: what to do to the n-th request from now; afterwards `fault_of` decides by the conversation.
    """

    answer: Answer
    faults: list[str] = field(default_factory=list)
    fault_of: Callable[[str], str | None] = lambda conversation: None
    key: str | None = None
    model: str | None = None
    unknown_parameter: str | None = None
    finish_reason: str = "stop"
    retry_after: str = "0.2"
    hang_seconds: float = 3.0
    base_url: str = ""
    asked: list[str] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    most_at_once: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def repeated(self) -> int:
        """How many answered conversations were answered before."""
        return len(self.asked) - len(set(self.asked))


@contextmanager
def serving(answer: Answer, **options: Any) -> Iterator[Stub]:
    """A server for as long as the block lasts."""
    stub = Stub(answer, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        counted = False

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": stub.model or "judge", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            conversation = json.dumps(body["messages"], ensure_ascii=False)
            with stub.lock:
                stub.arrived.append(time.monotonic())
                stub.at_once += 1
                self.counted = True
                stub.most_at_once = max(stub.most_at_once, stub.at_once)
                fault = stub.faults.pop(0) if stub.faults else stub.fault_of(conversation)
            try:
                fate = self._fault(fault) if fault else self._complete(body, conversation)
            finally:
                self._leave()
            with stub.lock:
                stub.fates[fate] += 1

        def _leave(self) -> None:
            """Count this request no longer; before its reply goes out, as the next may then be on its way."""
            with stub.lock:
                stub.at_once -= self.counted
                self.counted = False

        def _complete(self, body: dict[str, Any], conversation: str) -> str:
            if stub.key is not None and self.headers["Authorization"] != f"Bearer {stub.key}":
                given = self.headers["Authorization"]
                self._send(
                    401, {"error": {"message": f"incorrect key in {given}", "code": "invalid_api_key"}}
                )
                return "401"
            if stub.model is not None and body["model"] != stub.model:
                self._send(404, {"error": {"message": f"no model {body['model']}"}})
                return "404"
            if stub.unknown_parameter in body:
                message = f"'{stub.unknown_parameter}' is not supported, use 'max_completion_tokens' instead"
                self._send(400, {"error": {"message": message}})
                return "400"
            text = stub.answer(body)
            with stub.lock:
                stub.asked.append(conversation)
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "finish_reason": stub.finish_reason, "message": message}
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            self._send(200, {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})
            return "answered"

        def _fault(self, fault: str) -> str:
            if fault == "timeout":
                time.sleep(stub.hang_seconds)
                self.close_connection = True
            elif fault == "429":
                self._send(429, {"error": {"message": "slow down"}}, {"Retry-After": stub.retry_after})
            elif fault == "broken":
                self._send_bytes(200, b'{"choices": [{"message": {"content": "{\\"score\\": 1')
            elif fault == "cut":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
            elif fault == "drop":
                self.close_connection = True
                self.connection.close()
            else:
                self._send(int(fault), {"error": {"message": f"status {fault}"}})
            return fault

        def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            self._send_bytes(status, json.dumps(body).encode(), headers)

        def _send_bytes(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self._leave()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients that hang up are part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    stub.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def passed_on(base_url: str) -> Answer:
    """The answers of a real server."""

    def ask(body: dict[str, Any]) -> str:
        request = urllib.request.Request(
            f"{base_url}/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            return json.loads(response.read())["choices"][0]["message"]["content"]

    return ask
