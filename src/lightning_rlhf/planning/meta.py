"""A model on the meta device from its config: any number of layers, bf16 or 4-bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import bitsandbytes as bnb
import torch
import torch.nn.functional as F
from bitsandbytes.functional import QuantState
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lightning_rlhf.models import attention
from lightning_rlhf.models.loading import disable_dropout

BLOCK, NESTED_BLOCK = 64, 256  # bitsandbytes' block sizes of NF4 and of its second quantization


def read_config(path: str) -> PretrainedConfig:
    """A model's config; no other file is read or fetched."""
    return AutoConfig.from_pretrained(path)


def period(config: PretrainedConfig) -> int:
    """Number of layers after which their kinds repeat."""
    kinds = getattr(config.get_text_config(), "layer_types", None) or ["full_attention"]
    return next(
        (n for n in range(1, len(kinds)) if kinds == (kinds[:n] * len(kinds))[: len(kinds)]),
        len(kinds),
    )


def meta_model(
    config: PretrainedConfig, layers: int, dtype: torch.dtype, four_bit: bool, kernel: str | None
) -> PreTrainedModel:
    """A causal LM with a given number of layers, in train mode, dropout off."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if text.to_dict().get("layer_types"):  # elsewhere it is computed from other fields
        text.layer_types = text.layer_types[:layers]
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=kernel or "sdpa"
            )
        except ValueError:  # the family has no such kernel
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="eager"
            )
    disable_dropout(model)
    if four_bit:
        _quantize(model, dtype)
    return model.train()


def _quantize(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Replace every linear layer but the head by a 4-bit one, its state built by hand."""
    spared = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child is not spared:
                setattr(parent, name, _linear4bit(child, dtype))


def _linear4bit(linear: nn.Linear, dtype: torch.dtype) -> bnb.nn.Linear4bit:
    made = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, linear.bias is not None,
        compute_dtype=dtype, quant_type="nf4", device="meta",
    )  # fmt: skip
    n = linear.weight.numel()
    blocks = -(-n // BLOCK)

    def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device="meta")

    nested = QuantState(
        absmax=meta(-(-blocks // NESTED_BLOCK)), blocksize=NESTED_BLOCK, code=meta(256),
        dtype=torch.float32,
    )  # fmt: skip
    state = QuantState(
        absmax=meta(blocks, dtype=torch.uint8), shape=linear.weight.shape, code=meta(16),
        blocksize=BLOCK, quant_type="nf4", dtype=dtype, offset=meta(1)[0], state2=nested,
    )  # fmt: skip
    packed = meta(-(-n // 2), 1, dtype=torch.uint8)
    made.weight = bnb.nn.Params4bit(packed, quant_state=state, quant_type="nf4", bnb_quantized=True)
    made.quant_state = state
    made.bias = linear.bias
    made.support_avx512bf16_for_cpu = False
    return made


def storages(model: nn.Module) -> list[Tensor]:
    """Every tensor of a model, the state of 4-bit weights included."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            if part is not None:
                tensors += [part.absmax, part.code]
                tensors += [part.offset] if isinstance(part.offset, Tensor) else []
    return tensors


def _attend(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Attend with the memory of a flash kernel."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.empty(attn_mask.shape, dtype=query.dtype, device="meta")
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return out


def _histc(values: Tensor, bins: int = 100, **limits: Any) -> Tensor:
    """Count the tokens of each expert; meta has no such kernel for integers."""
    return torch.empty(bins, device="meta")


def _grouped_mm(rows: Tensor, weight: Tensor, *, offs: Tensor, **more: Any) -> Tensor:
    """Multiply by the experts' weights; the kernel on meta takes bf16 alone."""
    out: Tensor = torch.ops.transformers.grouped_mm_fallback(rows, weight, offs=offs)
    return out


def _autocast(device_type: str, **options: Any) -> AbstractContextManager[None]:
    """Enter no autocast: there is none on meta, where PEFT switches it off around experts."""
    return nullcontext()


# functions that run in another way on meta: (module, name, what runs there)
ON_META: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (F, "scaled_dot_product_attention", _attend),
    (F, "grouped_mm", _grouped_mm),
    (torch, "histc", _histc),
    (torch, "autocast", _autocast),
)


def _for_meta(stock: Callable[..., Any], on_meta: Callable[..., Any]) -> Callable[..., Any]:
    """Choose by the device of the first argument: a tensor, or a device's name."""

    def chosen(*args: Any, **options: Any) -> Any:
        first = args[0] if args else next(iter(options.values()))
        device = first.device.type if isinstance(first, Tensor) else first
        return (on_meta if device == "meta" else stock)(*args, **options)

    return chosen


@contextmanager
def kernels_as_on(target: str) -> Iterator[None]:
    """Give operations on meta the memory of the target's kernels.

    Attention takes that of a flash kernel, not of a T x T matrix of scores. The patched attributes
    are looked up at every call, also when checkpointing recomputes a layer.
    """
    with ExitStack() as patched:
        for module, name, on_meta in ON_META:
            chosen = _for_meta(getattr(module, name), on_meta)
            patched.enter_context(patch.object(module, name, chosen))
        if target == "cuda":
            bf16 = lambda query: query.dtype == torch.bfloat16  # noqa: E731
            patched.enter_context(patch.object(attention, "takes_varlen", bf16))
        yield


class Autocast:
    """Emulate autocast to bf16 on a model's linear layers, since autocast ignores meta tensors.

    Inside ``with``, casts of trained weights are kept, as autocast keeps them for a forward.
    """

    def __init__(self, model: nn.Module):
        self._kept: dict[int, Tensor] | None = None
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                layer.cast_input_dtype_enabled = False
            elif type(layer) is nn.Linear:
                layer.forward = partial(self._linear, layer)  # type: ignore[method-assign]

    def __enter__(self) -> None:
        self._kept = {}

    def __exit__(self, *_: object) -> None:
        self._kept = None

    def _linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        bias = None if layer.bias is None else self._cast(layer.bias)
        return F.linear(x.to(torch.bfloat16), self._cast(layer.weight), bias)

    def _cast(self, weight: Tensor) -> Tensor:
        kept = None if self._kept is None else self._kept.get(id(weight))
        if kept is not None:
            return kept
        cast = weight.to(torch.bfloat16)
        if self._kept is not None and weight.requires_grad and torch.is_grad_enabled():
            self._kept[id(weight)] = cast
        return cast
