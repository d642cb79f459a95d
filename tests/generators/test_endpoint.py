"""A local HTTP server: requests, answers, log-probs, refusals and retries."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lightning_rlhf.constitution.generator import Completion, Request
from lightning_rlhf.generators.endpoint import OpenAICompatible


class Server:
    """Echo the last message; record the requests."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str | None] = []
        self.failures: list[int] = []  # codes to answer with first
        self.redirect = ""  # where a 3xx points
        self.top = [("A", math.log(0.5)), (" A", math.log(0.1)), ("B", math.log(0.3))]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.headers.append(self.headers["Authorization"])
                code = outer.failures.pop(0) if outer.failures else 200
                data = json.dumps(outer.answer(body) if code == 200 else {"error": "no"}).encode()
                self.send_response(code)
                if code // 100 == 3:
                    self.send_header("Location", outer.redirect)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                outer.headers.append(self.headers["Authorization"])
                self.send_error(405)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        text = body["messages"][-1]["content"]
        choice: dict[str, Any] = {
            "message": {"content": f"echo {text} {body.get('seed')}"},
            "finish_reason": "length" if text == "long" else "stop",
        }
        if body.get("logprobs"):
            top = [{"token": t, "logprob": x} for t, x in self.top]
            choice["logprobs"] = {"content": [{"token": "A", "top_logprobs": top}]}
        return {"choices": [choice]}


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.server.shutdown()
    one.server.server_close()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_requests_run_side_by_side_and_come_back_in_order(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    generator = OpenAICompatible(server.url, "m", "SOME_KEY", max_tokens=7, temperature=0.5)
    answers = generator.generate([Request(user(f"q{i}"), i) for i in range(20)])
    assert answers == [Completion(f"echo q{i} {i}", True) for i in range(20)]
    assert set(server.headers) == {"Bearer secret"} and "secret" not in str(generator.identity)
    body = next(b for b in server.bodies if b["seed"] == 3)
    assert body == {
        "model": "m", "messages": user("q3"), "max_tokens": 7, "temperature": 0.5, "top_p": 1.0,
        "seed": 3,
    }  # fmt: skip
    assert generator.generate([Request(user("long"), 0)])[0].finished is False


def test_options_are_looked_up_among_the_likeliest_tokens(server: Server) -> None:
    generator = OpenAICompatible(server.url, "m", api_key_env=None)
    (row,) = generator.option_logprobs([user("which?")], ["A", "B", "C"])
    assert row == pytest.approx([math.log(0.6), math.log(0.3), -math.inf])
    assert server.headers == [None] and server.bodies[0]["max_tokens"] == 1
    server.top = [("1", -0.5)]
    with pytest.raises(ValueError, match=r"option '10' takes several tokens of m \('1' begins it"):
        generator.option_logprobs([user("rate")], ["1", "10"])
    server.top = []
    with pytest.raises(ValueError, match="m at .* gives no top_logprobs"):
        generator.option_logprobs([user("rate")], ["1"])


def test_the_identity_that_keys_a_journal() -> None:
    generator = OpenAICompatible("http://x/v1/", "m", None, max_tokens=7, temperature=0.5)
    assert generator.identity == {
        "model": "m",
        "endpoint": "http://x/v1/chat/completions",
        "max_tokens": "7",
        "temperature": "0.5",
        "top_p": "1.0",
    }


def test_a_trailing_assistant_turn_is_continued(server: Server) -> None:
    generator = OpenAICompatible(server.url, "m", api_key_env=None)
    generator.generate([Request([*user("q"), {"role": "assistant", "content": "so"}], 0)])
    assert server.bodies[0]["continue_final_message"] is True


def test_retries_of_a_busy_server_and_refusals(server: Server) -> None:
    generator = OpenAICompatible(server.url, "m", None, retries=2, backoff=0.01)
    server.failures = [429, 503]
    assert generator.generate([Request(user("q"), 1)])[0].text == "echo q 1"
    assert len(server.bodies) == 3
    server.failures = [500] * 3
    with pytest.raises(ValueError, match=r"did not answer in 3 tries, last 500"):
        generator.generate([Request(user("q"), 1)])
    server.failures = [404]
    with pytest.raises(ValueError, match="refused with 404: .* check model and base_url"):
        generator.generate([Request(user("q"), 1)])


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_key_stays(
    server: Server, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    other = Server()
    server.failures, server.redirect = [code], f"{other.url}/chat/completions"
    with pytest.raises(ValueError, match=rf"refused with {code}: .* check model and base_url"):
        OpenAICompatible(server.url, "m", "SOME_KEY").generate([Request(user("q"), 1)])
    assert server.headers == ["Bearer secret"] and other.headers == []
    other.server.shutdown()
    other.server.server_close()


def test_errors_without_a_key_or_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ValueError, match="the environment variable NO_KEY holds no API key"):
        OpenAICompatible("http://x/v1", "m", "NO_KEY")
    with pytest.raises(ValueError, match="must begin with http"):
        OpenAICompatible("x/v1", "m", None)
    gone = OpenAICompatible("http://127.0.0.1:9/v1", "m", None, retries=1, backoff=0.01)
    with pytest.raises(ValueError, match="did not answer in 2 tries, last .*refused"):
        gone.generate([Request(user("q"), 0)])
