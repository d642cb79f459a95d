"""Write trained roles: adapters and score heads in PEFT's form, or merged into a plain model."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from lightning_rlhf.models import lora
from lightning_rlhf.models.heads import ScalarHead
from lightning_rlhf.models.lora import SCORE
from lightning_rlhf.models.merging import merged_weight


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


# The text of a chat template, up to its last mark, and eos after it
UNTIL_EOS = (
    "{% set text %}TEMPLATE{% endset %}{{ text.rstrip() }}"
    "{% if not text.rstrip().endswith(eos_token) %}{{ eos_token }}{% endif %}"
)
SCORES_AT_EOS = "scores_at_eos"  # the mark of such a tokenizer in its config


def reward_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Copy a tokenizer for a reward role, which reads its score at the end token.

    Plain transformers read it at the last token of the text. Many chat templates write a line end
    there; this tokenizer's ends with eos. They take the last token that is not padding; this
    tokenizer pads with another token than eos.
    """
    own = copy.deepcopy(tokenizer)
    if own.pad_token_id in (None, own.eos_token_id):
        others = (own.unk_token_id, own.bos_token_id, 0, 1)
        own.pad_token = own.convert_ids_to_tokens(
            next(i for i in others if i not in (None, own.eos_token_id))
        )
    if isinstance(own.chat_template, str):
        own.chat_template = UNTIL_EOS.replace("TEMPLATE", own.chat_template)
    own.init_kwargs[SCORES_AT_EOS] = True
    return own


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
    if tensors[SCORE].shape != head.weight.shape:
        raise ValueError(
            f"{folder} holds a head of {len(tensors[SCORE])} outputs and a reward role has one: "
            "give a classifier with num_labels=1, or use it through ClassifierReward"
        )
    with torch.no_grad():
        head.weight.copy_(tensors[SCORE])


def _plain(module: nn.Module, parameter: nn.Parameter) -> Tensor:
    """Return a parameter's values, dequantized.

    Raises:
        ValueError: they are in a format that cannot be dequantized here.
    """
    if isinstance(parameter, bnb.nn.Params4bit):
        return bnb.functional.dequantize_4bit(parameter.data, parameter.quant_state)
    if isinstance(parameter, bnb.nn.Int8Params):
        return dequantize_bnb_weight(parameter, module.state)
    if not parameter.is_floating_point() or parameter.element_size() < 2:
        raise ValueError(
            f"its weights are quantized to {parameter.dtype} by {type(module).__name__}: merge the "
            "saved role into the unquantized model"
        )
    return parameter.detach()


def _plain_name(name: str) -> str:
    """Name of a parameter in the model without adapters."""
    return re.sub(r"(\.base_layer)+\.", ".", name)


def _adapted(model: nn.Module, role: str | None) -> dict[str, list[LoraLayer]]:
    """Map the plain name of each adapted weight to the layers that adapt it for a role."""
    found: dict[str, list[LoraLayer]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and role in module.scaling:
            weight = getattr(module, "parameter_name", "weight")
            found[_plain_name(f"{name}.{weight}")].append(module)
    return found


def merged_state_dict(
    model: PreTrainedModel, role: str | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Compute the weights of a plain model with a role's adapter merged, on the CPU.

    Dequantize, add in fp32, round once: merging into 4-bit weights would round the adapter away and
    make sampler and trainer disagree. Weights that were tied are written one by one, since an
    adapter may have been on one of them. Buffers are written as they are.

    Args:
        model: the adapted base.
        role: the adapter to merge; None for the bare base.
        dtype: of the result.

    Raises:
        ValueError: the base is quantized in a format other than bitsandbytes', or a part of the
            adapter has no place in a plain model.
    """
    adapted = _adapted(model, role)
    state: dict[str, Tensor] = {}
    with torch.no_grad():
        for path, module in model.named_modules():
            if ".lora_" in f"{path}.":
                continue
            for name, parameter in module.named_parameters(recurse=False):
                plain = _plain_name(f"{path}.{name}")
                weight = _plain(module, parameter).float()
                for layer in adapted.pop(plain, ()):
                    assert role is not None
                    weight = merged_weight(layer, role, weight)
                state[plain] = weight.to(dtype).cpu()
            for name, buffer in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:
                    state[_plain_name(f"{path}.{name}")] = buffer.detach().cpu()
    if adapted:
        raise ValueError(f"the adapter on {next(iter(adapted))!r} has no weight to be merged into")
    _add_biases(model, role, state)
    return state


def _add_biases(model: nn.Module, role: str | None, state: dict[str, Tensor]) -> None:
    """Add the biases of an adapter that has them (PEFT's ``lora_bias``) to those of the base.

    Raises:
        ValueError: the base has no bias there, so a plain model has no place for it.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or not layer.lora_bias.get(role):
            continue
        plain = _plain_name(f"{name}.bias")
        if plain not in state:
            raise ValueError(
                f"the adapter has a bias on {_plain_name(name)!r}, where the base has none"
            )
        own = layer.lora_B[role].bias.detach().float().cpu() * layer.scaling[role]
        state[plain] = (state[plain].float() + own).to(state[plain].dtype)


def merged_model(
    model: PreTrainedModel,
    role: str | None,
    dtype: torch.dtype,
    *,
    head: ScalarHead | None = None,
    pad_id: int | None = None,
) -> PreTrainedModel:
    """Build a plain transformers model with a role's adapter merged, on the CPU.

    Args:
        model: the adapted base.
        role: the adapter to merge; None for the bare base.
        dtype: of its weights.
        head: makes it a sequence classifier of one output, read at the last token that is not
            padding.
        pad_id: the padding token of a classifier.

    Raises:
        ValueError: transformers has no such plain model, or a weight has no place in it.
    """
    try:
        state = merged_state_dict(model, role, dtype)
        plain = _without_data(model, role, dtype, classifier=head is not None, pad_id=pad_id)
        _turn_conv1d(model, plain, state)
        if head is not None:
            output = model.get_output_embeddings()
            names = {_plain_name(f"{n}.") for n, m in model.named_modules() if m is output}
            state = {n: t for n, t in state.items() if not n.startswith(tuple(names))}
        lost = plain.load_state_dict(state, strict=False, assign=True).unexpected_keys
        plain.tie_weights()
        if head is not None:
            _set_head(plain, head.weight.detach().to(dtype).cpu())
        empty = [name for name, tensor in plain.state_dict().items() if tensor.is_meta]
        if empty or lost:
            raise ValueError(f"no weights for {empty[0]!r}" if empty else f"{lost[0]!r} is left")
    except ValueError as reason:
        raise ValueError(
            f"{type(model).__name__} cannot be merged into a plain model: {reason}; "
            "save_role writes the adapter instead"
        ) from reason
    plain.generation_config = copy.deepcopy(model.generation_config)
    return plain.eval()


def _without_data(
    model: PreTrainedModel,
    role: str | None,
    dtype: torch.dtype,
    *,
    classifier: bool,
    pad_id: int | None,
) -> PreTrainedModel:
    """Build the plain model on meta; untied if only one of the tied weights is adapted."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if any(isinstance(end, LoraLayer) and role in end.scaling for end in ends):
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    if classifier:
        config.num_labels = 1
        config.pad_token_id = config.get_text_config().pad_token_id = pad_id
    auto = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    if type(config) not in auto._model_mapping:
        raise ValueError(f"transformers has no {auto.__name__} for {config.model_type}")
    with torch.device("meta"):
        plain: PreTrainedModel = auto.from_config(config, dtype=dtype)
    return plain


def _set_head(plain: PreTrainedModel, weight: Tensor) -> None:
    """Set the only weight that a classifier has beside its decoder, whatever its name is."""
    empty = [name for name, parameter in plain.named_parameters() if parameter.is_meta]
    if len(empty) != 1 or plain.get_parameter(empty[0]).shape != weight.shape:
        raise ValueError(f"its classifier has more than one linear head: {empty}")
    plain.load_state_dict({empty[0]: weight}, strict=False, assign=True)


def _turn_conv1d(model: PreTrainedModel, plain: PreTrainedModel, state: dict[str, Tensor]) -> None:
    """Transpose the weights that bitsandbytes turned as it replaced GPT-2's Conv1D layers."""
    linear = {
        _plain_name(f"{name}.weight")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    for name, module in plain.named_modules():
        weight = f"{name}.weight"
        if isinstance(module, Conv1D) and weight in linear:
            state[weight] = state[weight].T.contiguous()
