"""Post JSON to a server that is not trusted: bounded in time and size, and never redirected."""

from __future__ import annotations

import io
import json
import math
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from functools import cache, partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

from lightning_rlhf.text.display import printable

LARGEST = 2**24  # bytes of an answer
LONGEST_WAIT = 300.0  # seconds before a retry, whatever the server asks for
QUOTED = 200  # characters of an answer in a message


class Refused(Exception):
    """The server answered with a status that a retry does not change."""

    def __init__(self, code: int, reason: str):
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


class Busy(Exception):
    """The server did not answer, or asked to try again after ``wait`` seconds."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(HTTPRedirectHandler):
    """Refuse redirects: urllib would send the key to the other host, and not the request."""

    def redirect_request(self, *args: Any) -> None:
        return None


class _Until(io.RawIOBase):
    """Read a socket until a moment; ``timeout`` alone bounds each read, not their sum."""

    def __init__(self, sock: socket.socket, deadline: float):
        self.sock, self.deadline = sock, deadline
        self.raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        self.sock.settimeout(left)
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **kwargs: Any):
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Until(sock, deadline))


class _Bounded:
    """Mix into a connection: status, headers and body have ``timeout`` seconds together."""

    response_class: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        deadline = time.monotonic() + self.timeout  # type: ignore[attr-defined]
        self.response_class = partial(_Response, deadline=deadline)


class _Connection(_Bounded, HTTPConnection):
    pass


class _SecureConnection(_Bounded, HTTPSConnection):
    pass


class _Handler(HTTPHandler):
    def http_open(self, req: Request) -> Any:
        return self.do_open(_Connection, req)


class _SecureHandler(HTTPSHandler):
    def https_open(self, req: Request) -> Any:
        return self.do_open(_SecureConnection, req, context=_tls())


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


@cache
def _opener() -> OpenerDirector:
    return build_opener(_NoRedirect, _Handler, _SecureHandler)


def post(url: str, body: Any, key: str | None, timeout: float) -> Any:
    """Post JSON and return the JSON of the answer.

    Args:
        url: http or https, checked.
        body: of the request.
        key: sent as a bearer token, to this host only; None for none.
        timeout: seconds for the whole request.

    Raises:
        Refused: the status says that this request will never be answered.
        Busy: there was no answer in time, or the status says to try again.
        ValueError: the answer is not JSON, is larger than ``LARGEST`` or nested too deep.
    """
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    request = Request(url, json.dumps(body).encode(), headers)  # the scheme was checked
    try:
        with _opener().open(request, timeout=timeout) as response:
            data = response.read(LARGEST + 1)
    except HTTPError as error:
        reason = _reason(error, key)
        if error.code != 429 and error.code < 500:
            raise Refused(error.code, reason) from None
        wait = wanted_wait(error.headers.get("Retry-After"))
        raise Busy(f"{error.code} {reason}", wait) from None
    except (HTTPException, OSError, UnicodeError) as error:  # a URLError is an OSError
        reason = str(error.reason if isinstance(error, URLError) else error)
        raise Busy(hidden(reason or type(error).__name__, key)) from None
    if len(data) > LARGEST:
        raise ValueError(f"sent an answer of more than {LARGEST:,} bytes")
    try:
        return json.loads(data)
    except ValueError:
        raise ValueError("did not answer with JSON") from None
    except RecursionError:
        raise ValueError("sent JSON that is nested too deep") from None


def _reason(error: HTTPError, key: str | None) -> str:
    """Read the beginning of a refusal's body."""
    try:
        return hidden(error.read(1 << 16).decode(errors="replace"), key)
    except (HTTPException, OSError):
        return ""


def hidden(text: str, key: str | None) -> str:
    """Make what a server says one short printable line without the key."""
    text = text.replace(key, "***") if key else text
    return printable(" ".join(text.split())[:QUOTED])


def wanted_wait(header: str | None) -> float:
    """Read ``Retry-After``, seconds or a date; 0 for anything else, ``LONGEST_WAIT`` at most."""
    text = (header or "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else 0.0
