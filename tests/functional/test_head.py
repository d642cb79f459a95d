"""Log-probs without logits: the same numbers and gradients as with all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_rlhf.functional.head import (
    TILE_BYTES,
    Head,
    head_logprobs,
    head_statistics,
    tile_rows,
)
from lightning_rlhf.functional.logprobs import token_logprobs, token_statistics

V, H = 97, 32
BENDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "scale": {"scale": 0.5},
    "soft cap": {"softcap": 2.0},
    "all of them": {"temperature": 0.7, "scale": 2.0, "softcap": 3.0},
}


def problem(n: int, seed: int = 0, **bend: Any) -> tuple[Tensor, Head, Tensor, Tensor]:
    """Hidden states, a head, targets, and a loss's weight of each log-prob."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, H, generator=g).requires_grad_()
    head = Head(
        0.3 * torch.randn(V, H, generator=g),
        torch.randn(V, generator=g) if seed % 2 else None,
        **bend,
    )
    targets = torch.randint(0, V, (n,), generator=g)
    return hidden, head, targets, torch.randn(n, generator=g)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    tile=st.none() | st.integers(1, 50),
    bend=st.sampled_from(sorted(BENDS)),
    seed=st.integers(0, 7),
)
def test_tiles_change_no_number(n: int, tile: int | None, bend: str, seed: int) -> None:
    hidden, head, targets, upstream = problem(n, seed, **BENDS[bend])
    plain = token_logprobs(head.logits(hidden), targets)
    ours = head_logprobs(hidden, head, targets, tile)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    (expected,) = torch.autograd.grad((plain * upstream).sum(), hidden)
    (found,) = torch.autograd.grad((ours * upstream).sum(), hidden)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(head_logprobs(hidden, head, targets, tile), ours)


@pytest.mark.parametrize("bend", BENDS)
def test_a_trained_head_gets_its_gradient(bend: str) -> None:
    hidden, head, targets, upstream = problem(20, 1, **BENDS[bend])
    head.weight.requires_grad_()
    head.bias.requires_grad_()
    inputs = (hidden, head.weight, head.bias)
    plain = torch.autograd.grad(
        (token_logprobs(head.logits(hidden), targets) * upstream).sum(), inputs
    )
    tiled = torch.autograd.grad((head_logprobs(hidden, head, targets, 7) * upstream).sum(), inputs)
    for one, other in zip(tiled, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bend", BENDS)
def test_statistics_can_be_differentiated(bend: str) -> None:
    hidden, head, targets, upstream = problem(20, **BENDS[bend])

    def gradient(found: Any) -> Tensor:
        loss = sum(((k + 1) * upstream * part).sum() for k, part in enumerate(found))
        return torch.autograd.grad(loss, hidden)[0]

    tiled, plain = (
        head_statistics(hidden, head, targets, 7),
        token_statistics(head.logits(hidden), targets),
    )
    for one, other in zip(tiled, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient(tiled), gradient(plain), rtol=1e-4, atol=1e-5)


def test_no_counting_token_is_no_error() -> None:
    hidden, head, targets, _ = problem(0)
    logprobs = head_logprobs(hidden, head, targets)
    assert logprobs.shape == (0,)
    logprobs.sum().backward()
    assert hidden.grad.shape == (0, H)
    assert head_statistics(hidden, head, targets).entropy.shape == (0,)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("gain", [12, 16, 20, 24])
def test_confident_tokens_keep_their_gradient_in_bf16(gain: int, autocast: bool) -> None:
    """1 - p down to 1e-6: subtracting in bf16 loses it all, rounding its logit a tenth of it."""
    g = torch.Generator().manual_seed(gain)
    weight = (0.05 * torch.randn(8000, 256, generator=g)).bfloat16()
    targets = torch.randint(0, 8000, (64,), generator=g)
    own = weight[targets].float()
    hidden = torch.randn(64, 256, generator=g) + gain * own / own.norm(dim=1, keepdim=True) ** 2
    hidden = hidden.bfloat16()
    exact = hidden.double().requires_grad_()
    logits = exact @ weight.double().T
    (expected,) = torch.autograd.grad(token_exact(logits, targets).sum(), exact)
    ours = hidden.clone().requires_grad_()
    head = Head(weight.float() if autocast else weight)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        head_logprobs(ours, head, targets).sum().backward()
    off = (ours.grad.double() - expected).norm(dim=1) / expected.norm(dim=1)
    assert off.max() < 1e-2
    naive = hidden.clone().requires_grad_()
    token_logprobs(naive @ weight.T, targets).sum().backward()
    missed = (naive.grad.double() - expected).norm(dim=1) / expected.norm(dim=1)
    assert missed.max() > 1e-2, "what the tiles do better"


def token_exact(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


class Largest(TorchDispatchMode):
    """Count the elements of the largest tensor that an operator returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else [out]:
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
        return out


@pytest.mark.parametrize("reduce", [head_logprobs, lambda *a: head_statistics(*a).logprob])
def test_all_the_logits_are_never_there(reduce: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TILE_BYTES, "cpu", 4 * V * 20)
    hidden, head, targets, _ = problem(400)
    with Largest() as largest:
        reduce(hidden, head, targets).sum().backward()
    assert largest.elements <= max(20 * V, hidden.numel())


def test_tiles_are_even_and_adapt_to_the_vocabulary() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert tile_rows(10, 1000, cpu) == 10
    for n, vocabulary in ((512, 49152), (5000, 128256), (129, 49152)):
        rows = tile_rows(n, vocabulary, cpu)
        assert 4 * rows * vocabulary <= 24 * 2**20 or rows <= 16
        assert n % rows == 0 or rows - n % rows < -(-n // rows), "the last is as large as the rest"
        assert tile_rows(n, vocabulary, cuda) >= rows
