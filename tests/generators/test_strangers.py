"""A server that redirects, drips, floods and lies: one sentence each, and the key stays here."""

from __future__ import annotations

import json
import math
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from lightning_rlhf.cli.main import main
from lightning_rlhf.constitution.generator import Completion, Request, Unanswered
from lightning_rlhf.constitution.seeds import seed_of
from lightning_rlhf.generators import endpoint, http
from lightning_rlhf.generators.endpoint import EndpointError, OpenAICompatible
from lightning_rlhf.generators.journal import Journaled
from lightning_rlhf.text.display import CONTROL

KEY = "sk-SECRETKEY-0123456789"
LIMIT = 0.4  # seconds of a request
Send = Callable[[socket.socket], None]


def answered(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body


def good(text: str = "fine") -> bytes:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    top = [{"token": "A", "logprob": -0.5}, {"token": "B", "logprob": -1.5}]
    choice["logprobs"] = {"content": [{"token": "A", "top_logprobs": top}]}
    return answered(json.dumps({"choices": [choice]}).encode())


class Server:
    """Read each request whole, then do what ``reply`` says about it."""

    def __init__(self, reply: Callable[[int, bytes], Send | bytes], tls: Any = None):
        self.reply, self.tls = reply, tls
        self.seen: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(0.05)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        self.open = True
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while self.open:
            try:
                one, _ = self.listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._answer, args=(one,), daemon=True).start()
        self.listener.close()

    def _answer(self, one: socket.socket) -> None:
        try:
            one.settimeout(5)
            one = self.tls.wrap_socket(one, server_side=True) if self.tls else one
            data = one.recv(65536)
            while b"\r\n\r\n" not in data and (more := one.recv(65536)):
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            length = [int(x.split(b":")[1]) for x in head.split(b"\r\n") if b"ength" in x]
            while length and len(body) < length[0]:
                body += one.recv(65536)
            self.seen.append(head + b"\r\n\r\n" + body)
            does = self.reply(len(self.seen), body)
            one.sendall(does) if isinstance(does, bytes) else does(one)
        except OSError:
            pass  # the client has hung up
        finally:
            one.close()


@contextmanager
def serving(reply: Callable[[int, bytes], Send | bytes], tls: Any = None) -> Iterator[Server]:
    server = Server(reply, tls)
    try:
        yield server
    finally:
        server.open = False


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)


def client(url: str, **options: Any) -> OpenAICompatible:
    given = {"retries": 0, "backoff": 0.0, "timeout": LIMIT, **options}
    return OpenAICompatible(url, "m", "SOME_KEY", **given)


def asked(text: str, seed: int = 0) -> Request:
    return Request([{"role": "user", "content": text}], seed)


def sentence(error: BaseException) -> str:
    """A sentence of ours: short, printable, without the key."""
    assert type(error) in (ValueError, EndpointError, Unanswered), repr(error)
    text = str(error)
    assert KEY not in text and not CONTROL.search(text) and "\n" not in text, text
    assert 10 < len(text) < 700, text
    return text


# ---- lies ----


def dripping(data: bytes, pause: float = 0.05) -> Send:
    def send(one: socket.socket) -> None:
        for byte in data:
            one.sendall(bytes([byte]))
            time.sleep(pause)

    return send


def flooding(head: bytes, block: bytes, blocks: int) -> Send:
    def send(one: socket.socket) -> None:
        one.sendall(head)
        for _ in range(blocks):
            one.sendall(block)

    return send


WRONG: list[Any] = [
    None, True, 0, -1, 2.5, math.nan, math.inf, -math.inf, 10**400, "", "text", KEY, "\ud83d",
    "\x1b[31m\u202e", [], {}, [None], [[]], {"a": 1}, ["text"], [{}], "x" * 5000, 1e308,
]  # fmt: skip
PLACES = (
    (), ("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "finish_reason"),
    ("choices", 0, "message", "content"), ("choices", 0, "logprobs"),
    ("choices", 0, "logprobs", "content"), ("choices", 0, "logprobs", "content", 0),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 1),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 1, "token"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 1, "logprob"),
)  # fmt: skip


def retyped(draw: random.Random) -> bytes:
    """An answer with a wrong value, or none, at one place."""
    answer = {"": json.loads(good().partition(b"\r\n\r\n")[2])}
    path = ("", *draw.choice(PLACES))
    node: Any = answer
    for key in path[:-1]:
        node = node[key]
    if draw.random() < 0.2 and path != ("",):
        del node[path[-1]]
    else:
        node[path[-1]] = draw.choice(WRONG)
    return answered(json.dumps(answer[""]).encode())


def refusal(draw: random.Random) -> bytes:
    status = draw.choice(["400 no", "401 no", "403 no", "404 no", "413 no", "429 no", "500 no"])
    echo = draw.choice([KEY, f"{'x' * 190}{KEY}", f"\x1b]0;{KEY}\x07", "", f"bad key '{KEY}'\r\n"])
    wait = draw.choice(["1e9", "inf", "nan", "-5", "soon", "Wed, 21 Oct 2099 07:28:00 GMT", ""])
    return answered(echo.encode(), status, f"Retry-After: {wait}")


def malformed(draw: random.Random) -> Send | bytes:
    """What is not an answer, or does not end."""
    return draw.choice(
        [
            b"",
            b"\r\n\r\n",
            b"\x00\xff\x1b[31m" * 9,
            f"HTTP/9.9 {KEY} \x1b[31m\r\n\r\n".encode(),
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n{}",
            b"HTTP/1.1 999 " + KEY.encode() + b"\r\n\r\n",
            answered(b"[" * 200_000),
            answered(b'{"choices":' * 50_000),
            answered(b"\xff\xfe\x00{"),
            answered(b"9" * 5000),
            answered(b"<html>" + KEY.encode()),
            answered(good()[:-40].partition(b"\r\n\r\n")[2]),
            dripping(good()),
            dripping(b"HTTP/1.1 200 OK\r\nX-Slow: " + b"y" * 99),
            dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 9),
            lambda one: time.sleep(2 * LIMIT),
        ]
    )


LIES = (retyped, retyped, retyped, refusal, malformed)


@pytest.mark.parametrize("part", range(4))
def test_each_lie_is_a_sentence_or_an_answer(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LONGEST_WAIT", 0.01)
    outcomes = {"answered": 0, "refused": 0}
    for seed in range(part * 30, part * 30 + 30):
        draw = random.Random(seed)
        lie = draw.choice(LIES)(draw)
        with serving(lambda number, body, lie=lie: lie) as server:
            start = time.monotonic()
            generator = client(server.url, retries=draw.choice([0, 0, 1]))
            try:
                if draw.random() < 0.5:
                    made = generator.generate([asked("q")])[0]
                    assert isinstance(made, Completion) and made.text.encode().decode() == made.text
                    assert KEY not in made.text
                else:
                    (row,) = generator.option_logprobs([asked("q").messages], ["A", "B"])
                    assert all(x <= 1e-3 for x in row), row
                outcomes["answered"] += 1
            except Exception as error:
                sentence(error)
                outcomes["refused"] += 1
            assert time.monotonic() - start < 2 * LIMIT + 1.0, f"seed {seed}"
    assert outcomes["refused"] > 5


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_the_key_and_the_request_go_to_nobody_else(code: int) -> None:
    with serving(lambda *_: good()) as other:
        to = other.url.replace("127.0.0.1", "localhost")
        moved = answered(b"", f"{code} moved", f"Location: {to}/chat/completions")
        with serving(lambda *_: moved) as server, pytest.raises(Unanswered) as refused:
            client(server.url).generate([asked("q"), asked("p")])
        assert f"refused with {code}" in sentence(refused.value)
        assert other.seen == [] and KEY.encode() in server.seen[0]


def test_https_is_not_left_for_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    files = [str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")]
    try:
        command = ["openssl", *made, "-keyout", files[0], "-out", files[1]]
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl for a certificate")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files[1], files[0])
    with serving(lambda *_: good()) as plain:
        moved = answered(b"", "302 moved", f"Location: {plain.url}/chat/completions")
        replies = [moved, good("by TLS")]
        with serving(lambda *_: replies.pop(0), tls) as server:
            with pytest.raises(ValueError, match="certificate verify failed"):
                client(server.url).generate([asked("q")])
            http._tls.cache_clear()
            trusting = ssl.create_default_context(cafile=files[1])
            monkeypatch.setattr(http, "_tls", lambda: trusting)
            url = server.url.replace("127.0.0.1", "localhost")
            with pytest.raises(ValueError, match="refused with 302"):
                client(url, timeout=5).generate([asked("q")])
            assert client(url, timeout=5).generate([asked("q")])[0].text == "by TLS"
        assert plain.seen == []


def test_an_answer_has_a_largest_size() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    flood = flooding(head, b" " * 2**20, 40)
    with serving(lambda *_: flood) as server, pytest.raises(Unanswered, match="more than 16,777"):
        client(server.url, timeout=20).generate([asked("q"), asked("p")])


def test_a_body_that_drips_ends_at_the_limit() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
    with serving(lambda *_: lambda one: (one.sendall(head), dripping(b" " * 99)(one))) as server:
        start = time.monotonic()
        with pytest.raises(EndpointError, match="did not answer in 1 tries"):
            client(server.url)._read(asked("q").messages, {}, lambda choice: choice)
        assert time.monotonic() - start < LIMIT + 0.4


def test_a_server_is_waited_for_no_longer_than_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(endpoint, "time", SimpleNamespace(sleep=waits.append))
    asks = ["1e9", "inf", "2", "-3", "Wed, 21 Oct 2099 07:28:00 GMT", "\u00b2", "9" * 5000, ""]
    with (
        serving(lambda n, _: answered(b"", "429 wait", f"Retry-After: {asks[n - 1]}")) as server,
        pytest.raises(ValueError, match="did not answer in 8 tries"),
    ):
        client(server.url, retries=7, backoff=1.0).generate([asked("q")])
    assert len(waits) == 7 and waits[0] == waits[4] == http.LONGEST_WAIT
    assert waits[1:4] == [2.0, 4.0, 8.0] and max(waits) == http.LONGEST_WAIT


@pytest.mark.parametrize("seed", range(3))
def test_one_lie_loses_no_other_answer_of_the_batch(seed: int, tmp_path: Path) -> None:
    """What was answered is in the journal, and only the rest is asked again."""
    draw = random.Random(seed)
    lies = {f"q{i}" for i in draw.sample(range(12), 3)}
    half = '{"choices": [{"message": {"content": "cut \\ud83d"}, "finish_reason": "length"}]}'

    def reply(number: int, body: bytes) -> bytes:
        text = json.loads(body)["messages"][0]["content"]
        if text in lies:
            return answered(b'{"choices": "none"}')
        return answered(half.encode()) if text == "half" else good(f"to {text}")

    requests = [asked(f"q{i}", seed_of(i)) for i in range(12)] + [asked("half")]
    with serving(reply) as server:
        journal = Journaled(client(server.url, timeout=5), tmp_path / "journal.jsonl")
        with pytest.raises(Unanswered, match=r"without choices: .* \(3 of 13 requests\)"):
            journal.generate(requests)
        lies.clear()
        server.seen.clear()
        again = Journaled(client(server.url, timeout=5), tmp_path / "journal.jsonl")
        texts = [answer.text for answer in again.generate(requests)]
        assert texts == [*(f"to q{i}" for i in range(12)), "cut \N{REPLACEMENT CHARACTER}"]
        assert len(server.seen) == 3 and KEY not in (tmp_path / "journal.jsonl").read_text()


def test_a_server_that_refuses_all_is_asked_few_times() -> None:
    with serving(lambda *_: answered(KEY.encode(), "401 no")) as server:
        with pytest.raises(Unanswered, match="check the key in SOME_KEY") as refused:
            client(server.url, parallel=2).generate([asked("q", i) for i in range(64)])
        assert "refused with 401: ***;" in sentence(refused.value) and len(server.seen) < 10


def test_a_journal_keeps_what_no_utf8_can_hold(tmp_path: Path) -> None:
    class Halves:
        identity: ClassVar = {"model": "halves"}

        def generate(self, requests: Any) -> list[Completion]:
            return [Completion(f"{r.seed} \ud83d", True) for r in requests]

    for _ in range(2):
        journal = Journaled(Halves(), tmp_path / "j.jsonl")  # type: ignore[arg-type]
        assert journal.generate([asked("q\udcff", 1)]) == [Completion("1 \ud83d", True)]
    assert journal.asked == 0


# ---- what is written down ----


@pytest.mark.parametrize("key", ["sk-abc\r", "sk-abc\ndef", "sk abc", "ключ-abc", "sk-abc\x00"])
def test_a_key_that_no_header_can_hold_is_not_quoted(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {"SOME_KEY": key})
    with pytest.raises(ValueError, match="the API key in SOME_KEY holds a space") as refused:
        client("http://127.0.0.1:9/v1")
    assert "abc" not in str(refused.value)


def test_a_key_in_the_place_of_its_name_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="give the name") as refused:
        OpenAICompatible("http://127.0.0.1:9/v1", "m", KEY)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter22@host/v1", "http://host/v1?api-key=hunter22", "https://hunter22@host",
        "http://host/v1#hunter22", "user:hunter22@host/v1", "ftp://user:hunter22@host/v1",
        "host/v1?api-key=hunter22",
    ],
)  # fmt: skip
def test_a_secret_in_the_url_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="base_url ") as refused:
        client(url)
    assert "hunter22" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://", "http:///v1", "http://host:port/v1", "http://host:99999/v1", "http://[::1/v1",
            "http://ho st/v1", "http://host/v1\r\nX: y", "http://höst/v1", "http://host:0/v1"]
)  # fmt: skip
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL: give http://HOST:PORT/v1"):
        client(url)


@pytest.mark.parametrize("option", ["parallel", "timeout", "backoff", "retries"])
def test_limits_are_checked(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        client("http://127.0.0.1:9/v1", **{option: -1})


def test_a_host_that_cannot_be_encoded_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="did not answer in 1 tries") as refused:
        client(f"http://{'a' * 70}.example/v1").generate([asked("q")])
    sentence(refused.value)


def test_a_secret_in_a_config_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in the sentence nor in a saved config."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(
        "model:\n  class_path: lightning_rlhf.AIFeedbackModule\n  init_args:\n"
        "    backbone: {class_path: lightning_rlhf.Backbone, init_args: {name_or_path: none}}\n"
        "    generator:\n"
        "      class_path: lightning_rlhf.generators.endpoint.OpenAICompatible\n      init_args:\n"
        "        {base_url: 'https://user:hunter22@host/v1', model: m, api_key_env: null}\n"
        "data: {class_path: lightning_rlhf.PromptData, init_args: {source: rows.jsonl}}\n"
    )
    with pytest.raises(SystemExit):
        main(["predict", "--config", "run.yaml"])
    said = capsys.readouterr()
    assert "base_url holds a user, password or query" in said.err
    files = [f.read_text() for f in tmp_path.rglob("*") if f.is_file() and f.name != "run.yaml"]
    assert "hunter22" not in said.err + said.out + "".join(files)
