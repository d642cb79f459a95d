"""A server with OpenAI's chat API as a generator, over the standard library's HTTP.

``docs/design.md`` says why this is not ``huggingface_hub.InferenceClient``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, OpenerDirector, build_opener
from urllib.request import Request as HttpRequest

from lightning_rlhf.constitution.generator import Completion, Request
from lightning_rlhf.text.messages import Message

TOP = 20  # log-probs that a server returns per token


class _NoRedirect(HTTPRedirectHandler):
    """Refuse redirects: urllib would send the key to the other host, and not the request."""

    def redirect_request(self, *args: Any) -> None:
        return None


@cache
def _opener() -> OpenerDirector:
    return build_opener(_NoRedirect)


class OpenAICompatible:
    """Generator behind ``POST <base_url>/chat/completions``.

    Args:
        base_url: URL up to and including ``/v1``.
        model: the server's name of it.
        api_key_env: environment variable with the key; None where none is needed. The key itself
            is only put into the request's header.
        max_tokens: of an answer.
        temperature: of sampling.
        top_p: of sampling.
        parallel: number of requests sent at once.
        retries: number of further tries after a 429, a 5xx or no connection.
        backoff: seconds before the first retry; each further one waits twice as long.
        timeout: seconds for one request.
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
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url {base_url!r} must begin with http:// or https://")
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ValueError(
                f"the environment variable {api_key_env} holds no API key: set it, or give "
                "api_key_env=None for a server that needs none"
            )
        self.url = base_url.rstrip("/") + "/chat/completions"
        self.model = model
        self.api_key_env = api_key_env
        self.sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        self.parallel = parallel
        self.retries = retries
        self.backoff = backoff
        self.timeout = timeout

    @property
    def identity(self) -> dict[str, str]:
        return {
            "model": self.model,
            "endpoint": self.url,
            **{key: str(value) for key, value in self.sampling.items()},
        }

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer each request, in order; the server gets the seed."""
        return self._all(self._complete, requests)

    def option_logprobs(
        self, prompts: Sequence[list[Message]], options: Sequence[str]
    ) -> list[list[float]]:
        """Score options of one token each; -inf for one not among the server's 20 likeliest.

        Raises:
            ValueError: an option takes several tokens, or the server returns no log-probs.
        """
        return self._all(lambda prompt: self._score(prompt, options), prompts)

    def _all(self, work: Any, items: Sequence[Any]) -> list[Any]:
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(work, items))

    def _complete(self, request: Request) -> Completion:
        body = {**self.sampling, "seed": request.seed}
        choice = self._post(request.messages, body)
        text = (choice.get("message") or {}).get("content") or ""
        return Completion(text, choice.get("finish_reason") == "stop")

    def _score(self, prompt: list[Message], options: Sequence[str]) -> list[float]:
        body = {"max_tokens": 1, "temperature": 1.0, "logprobs": True, "top_logprobs": TOP}
        choice = self._post(prompt, body)
        content = (choice.get("logprobs") or {}).get("content") or []
        if not content or not content[0].get("top_logprobs"):
            raise ValueError(
                f"{self.model} at {self.url} gives no top_logprobs: use a server that does"
            )
        tokens = [(entry["token"], entry["logprob"]) for entry in content[0]["top_logprobs"]]
        return [option_logprob(option, tokens, self.model) for option in options]

    def _post(self, messages: list[Message], body: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return the first choice of the answer."""
        body = {"model": self.model, "messages": messages, **body}
        if messages[-1]["role"] == "assistant":  # continue it: vLLM's and SGLang's arguments
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        answer = self._retried(json.dumps(body).encode())
        try:
            return answer["choices"][0]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"{self.url} answered without choices: {str(answer)[:200]}; check base_url"
            ) from error

    def _retried(self, data: bytes) -> Any:
        """Send, and try again after failures that may pass."""
        for attempt in range(self.retries + 1):
            wait = self.backoff * 2**attempt
            try:
                return self._send(data)
            except HTTPError as error:
                reason = error.read().decode(errors="replace")[:200].strip()
                if error.code != 429 and error.code < 500:
                    raise ValueError(
                        _refused(self.url, error.code, reason, self.api_key_env)
                    ) from error
                problem, wait = f"{error.code} {reason}", _wait(error, wait)
            except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
                problem = str(getattr(error, "reason", error))
            if attempt < self.retries:
                time.sleep(wait)
        raise ValueError(
            f"{self.url} did not answer in {self.retries + 1} tries, last {problem}; start again "
            "later: the journal keeps all answers so far"
        )

    def _send(self, data: bytes) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ.get(self.api_key_env, '')}"
        request = HttpRequest(self.url, data, headers)  # the scheme was checked
        with _opener().open(request, timeout=self.timeout) as response:
            try:
                return json.load(response)
            except ValueError as error:
                raise ValueError(
                    f"{self.url} did not answer with JSON: give the base_url of a chat API"
                ) from error


def option_logprob(option: str, tokens: Sequence[tuple[str, float]], model: str) -> float:
    """Look up an option among the likeliest first tokens, with or without a leading space.

    Raises:
        ValueError: only a prefix of it is among them, so it takes several tokens.
    """
    wanted = option.strip()
    matches = [logprob for token, logprob in tokens if token.strip() == wanted]
    if matches:
        top = max(matches)
        return top + math.log(sum(math.exp(x - top) for x in matches))
    parts = [token for token, _ in tokens if token.strip() and wanted.startswith(token.strip())]
    if parts:
        raise ValueError(
            f"option {option!r} takes several tokens of {model} ({parts[0]!r} begins it), and an "
            "endpoint returns log-probs of one: choose options of one token each"
        )
    return -math.inf


def _wait(error: HTTPError, wait: float) -> float:
    """Seconds to wait: ours, or the server's ``Retry-After`` where that is longer."""
    try:
        return max(wait, float(error.headers.get("Retry-After", "")))
    except ValueError:
        return wait


def _refused(url: str, code: int, reason: str, key: str | None) -> str:
    fix = f"check the key in {key}" if code in (401, 403) else "check model and base_url"
    return f"{url} refused with {code}: {reason or 'no reason given'}; {fix}"
