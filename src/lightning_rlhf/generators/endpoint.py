"""A server with OpenAI's chat API as a generator, over the standard library's HTTP.

``docs/design.md`` says why this is not ``huggingface_hub.InferenceClient``, and
``docs/security.md`` what the server is not trusted with.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lightning_rlhf.constitution.generator import Completion, Request, Unanswered
from lightning_rlhf.generators.answers import (
    option_logprob,
    read_choice,
    read_completion,
    read_top_logprobs,
)
from lightning_rlhf.generators.http import LONGEST_WAIT, Busy, Refused, hidden, post
from lightning_rlhf.text.messages import Message

TOP = 20  # log-probs that a server returns per token
SECRET = 8  # characters from which a key is looked for in answers; "EMPTY" is a word
T = TypeVar("T")
R = TypeVar("R")


class EndpointError(ValueError):
    """The server answers no request at all: no further one is sent."""


class OpenAICompatible:
    """Generator behind ``POST <base_url>/chat/completions``.

    Args:
        base_url: URL up to and including ``/v1``; without a user, password or query.
        model: the server's name of it.
        api_key_env: environment variable with the key; None where none is needed. The key itself
            is only put into the request's header.
        max_tokens: of an answer.
        temperature: of sampling.
        top_p: of sampling.
        parallel: number of requests sent at once.
        retries: number of further tries after a 429, a 5xx or no connection.
        backoff: seconds before the first retry; each further one waits twice as long, at most 300.
        timeout: seconds for one request, from the connection to the last byte.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str | None = "OPENAI_API_KEY",
        *,
        max_tokens: int = 512,
        temperature: float = 1.0,
        top_p: float = 1.0,
        parallel: int = 8,
        retries: int = 5,
        backoff: float = 1.0,
        timeout: float = 120.0,
    ):
        self.url = checked_url(base_url).rstrip("/") + "/chat/completions"
        for name, value, least in (("parallel", parallel, 1), ("retries", retries, 0)):
            if value < least:
                raise ValueError(f"{name} must be {least} or more, got {value}")
        if not 0 < timeout < math.inf or not 0 <= backoff < math.inf:
            raise ValueError(f"timeout {timeout} and backoff {backoff} must be finite seconds")
        self.model = model
        self.api_key_env = api_key_env
        self.sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        self.parallel = parallel
        self.retries = retries
        self.backoff = backoff
        self.timeout = timeout
        self._key()

    @property
    def identity(self) -> dict[str, str]:
        return {
            "model": self.model,
            "endpoint": self.url,
            **{key: str(value) for key, value in self.sampling.items()},
        }

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer each request, in order; the server gets the seed.

        Raises:
            Unanswered: some requests have no answer; it has those of the others.
        """
        return self._all(self._complete, requests)

    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        """Score options of one token each; -inf for one not among the server's 20 likeliest.

        Raises:
            Unanswered: an option takes several tokens, or the server returns no log-probs.
        """
        return self._all(lambda prompt: self._score(prompt, options), prompts)

    def _all(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Do all of the work; one failure loses no other answer, for answers are paid for."""
        with ThreadPoolExecutor(self.parallel) as pool:
            futures = [pool.submit(work, item) for item in items]
            answers = [_result(future, futures) for future in futures]
        wrong = [answer for answer in answers if isinstance(answer, ValueError)]
        if not wrong:
            return answers
        done = [None if isinstance(answer, ValueError) else answer for answer in answers]
        first = next((error for error in wrong if not isinstance(error, _NotSent)), wrong[0])
        raise Unanswered(str(first), done) from first

    def _complete(self, request: Request) -> Completion:
        return self._read(
            request.messages, {**self.sampling, "seed": request.seed}, read_completion
        )

    def _score(self, prompt: list[Message], options: Sequence[str]) -> list[float]:
        body = {"max_tokens": 1, "temperature": 1.0, "logprobs": True, "top_logprobs": TOP}
        tokens = self._read(prompt, body, read_top_logprobs)
        return [option_logprob(option, tokens, self.model) for option in options]

    def _read(
        self, messages: list[Message], body: dict[str, Any], read: Callable[[dict[str, Any]], R]
    ) -> R:
        """Send a request and read the first choice of the answer."""
        body = {"model": self.model, "messages": messages, **body}
        if messages[-1]["role"] == "assistant":  # continue it: vLLM's and SGLang's arguments
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        key = self._key()
        try:
            made = read(read_choice(self._retried(body, key)))
        except EndpointError:
            raise
        except ValueError as error:
            raise ValueError(f"{self.model} at {self.url} {_without(str(error), key)}") from None
        if key is not None and len(key) >= SECRET and key in str(made):
            raise ValueError(f"{self.model} at {self.url} wrote the API key into its answer")
        return made

    def _retried(self, body: dict[str, Any], key: str | None) -> Any:
        """Send, and try again after failures that may pass."""
        problem = ""
        for attempt in range(self.retries + 1):
            try:
                return post(self.url, body, key, self.timeout)
            except Refused as error:
                raise self._refusal(error) from None
            except Busy as error:
                problem, wait = str(error), error.wait
            if attempt < self.retries:
                ours = self.backoff * 2.0 ** min(attempt, 30)
                time.sleep(min(max(ours, wait), LONGEST_WAIT))
        raise EndpointError(
            f"{self.url} did not answer in {self.retries + 1} tries, last {problem}; start again "
            "later: the journal keeps all answers so far"
        )

    def _refusal(self, error: Refused) -> ValueError:
        named = self.api_key_env
        fix = f"check the key in {named}" if error.code in (401, 403) and named else ""
        fix = fix or "check model and base_url"
        reason = error.reason or "no reason given"
        kind = ValueError if error.code in (400, 413, 422) else EndpointError  # of one request
        return kind(f"{self.url} refused with {error.code}: {reason}; {fix}")

    def _key(self) -> str | None:
        """Read the key; no message quotes it."""
        name = self.api_key_env
        if name is None:
            return None
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                "api_key_env is not the name of an environment variable: give the name, such as "
                "OPENAI_API_KEY, never the key"
            )
        key = os.environ.get(name)
        if not key:
            raise ValueError(
                f"the environment variable {name} holds no API key: set it, or give "
                "api_key_env=None for a server that needs none"
            )
        if not re.fullmatch(r"[!-~]+", key):
            raise ValueError(
                f"the API key in {name} holds a space, a line break or a character that is not "
                "ASCII: set it again, without"
            )
        return key


class _NotSent(ValueError):
    """A request that was not sent, because the server answers none."""


def _result(future: Future[R], others: Sequence[Future[Any]]) -> Any:
    """Return an answer, or the error instead of it; stop what is pointless."""
    try:
        return future.result()
    except CancelledError:
        return _NotSent("was not sent")
    except EndpointError as error:
        for other in others:
            other.cancel()
        return error
    except ValueError as error:
        return error


def _without(text: str, key: str | None) -> str:
    return text.replace(key, "***") if key else text


def checked_url(url: str) -> str:
    """Check a base URL; a message about one with a secret does not quote it.

    Raises:
        ValueError: it is not one that requests can be sent to.
    """
    if not url.startswith(("http://", "https://")):
        shown = hidden(url.rpartition("@")[2].partition("?")[0], None)
        raise ValueError(f"base_url {shown!r} must begin with http:// or https://")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, 0
    if "@" in url or "?" in url or "#" in url:
        raise ValueError(
            "base_url holds a user, password or query, which would be written into every row: give "
            "the key in an environment variable, as api_key_env, and the URL without it"
        )
    if not host or port == 0 or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(
            f"base_url {hidden(url, None)!r} is not a URL: give http://HOST:PORT/v1, in ASCII"
        )
    return url
