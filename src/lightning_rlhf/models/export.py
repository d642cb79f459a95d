"""Write trained roles: adapters and score heads in PEFT's form, or merged into a plain model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lightning_rlhf.models import lora
from lightning_rlhf.models.heads import ScalarHead
from lightning_rlhf.models.lora import SCORE


def head_as_peft(head: ScalarHead) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Convert a scalar head to the tensors and config fields of a ``SEQ_CLS`` adapter.

    Without ``modules_to_save`` PEFT would leave a random head, frozen and unsaved.
    """
    tensors = {SCORE: head.weight.detach().cpu().contiguous()}
    return tensors, {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}


def save_adapter(
    model: PreTrainedModel, role: str, folder: Path, base: str, head: ScalarHead | None
) -> None:
    """Write a role's adapter, with its head, for peft, transformers and vLLM.

    Args:
        model: the adapted base.
        role: the adapter to write.
        folder: made if absent.
        base: the name by which others find the base.
        head: None for a plain causal language model.
    """
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if head is not None:
        tensors, config = head_as_peft(head)
    lora.save(model, role, folder, tensors, base_model_name_or_path=base, **config)


def read_head(head: ScalarHead, tensors: dict[str, Tensor], folder: str) -> None:
    """Fill a head from a PEFT folder's tensors.

    Raises:
        ValueError: the folder has no head, such as a policy's.
    """
    if SCORE not in tensors:
        raise ValueError(
            f"{folder} holds an adapter without a score head, so it is not a reward role: "
            "give a folder that RewardModule trained"
        )
    with torch.no_grad():
        head.weight.copy_(tensors[SCORE])


def _plain_weight(parameter: nn.Parameter) -> Tensor:
    if isinstance(parameter, bnb.nn.Params4bit):
        return bnb.functional.dequantize_4bit(parameter.data, parameter.quant_state)
    return parameter.detach()


def merged_state_dict(
    model: PreTrainedModel, role: str | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Compute the weights of a plain model with a role's adapter merged, on the CPU.

    Dequantize, add in fp32, round once: merging into 4-bit weights would round the adapter away and
    make sampler and trainer disagree.

    Args:
        model: the adapted base.
        role: the adapter to merge; None for the bare base.
        dtype: of the result.
    """
    adapted = {
        f"{name}.base_layer.weight": module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    state = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                continue
            weight = _plain_weight(parameter).float()
            if role is not None and name in adapted:
                weight = weight + adapted[name].get_delta_weight(role).float()
            state[name.replace(".base_layer.", ".")] = weight.to(dtype).cpu()
    return state


def save_merged(model: PreTrainedModel, role: str | None, folder: Path, dtype: torch.dtype) -> None:
    """Write ``merged_state_dict`` as a folder that ``from_pretrained`` reads, unquantized."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(merged_state_dict(model, role, dtype), strict=False, assign=True)
    plain.tie_weights()
    if missing := [name for name, p in plain.named_parameters() if p.is_meta]:
        raise ValueError(f"{type(model).__name__} cannot be merged: no weights for {missing[0]!r}")
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder)
