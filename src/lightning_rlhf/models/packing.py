"""Packed rows: a prompt once, its completions after it, each seeing the prompt and itself.

A model is prepared for them at load, and probed: results must equal those of padded rows, and no
completion may see another. Then every forward counts the layers that applied the layout.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from lightning_rlhf.batches import Groups, TokenBatch
from lightning_rlhf.models.attention import OVER_EAGER, OVER_SDPA, PackedRow
from lightning_rlhf.models.heads import decoder_of
from lightning_rlhf.models.layout import positions, unpacked

ATTENTION_KINDS = {"full_attention", "sliding_attention"}


def run_packed(
    model: PreTrainedModel, inputs: dict[str, Any], groups: Groups, cache: Cache | None = None
) -> Any:
    """Run one packed row; an empty cache takes its keys and values in the packed layout.

    Raises:
        RuntimeError: a layer did not get the layout, so that its output would be silently wrong.
    """
    row = PackedRow(groups)
    # transformers passes a mask of four dimensions on as it is; packed attention ignores it
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=inputs["input_ids"].device)
    kept: dict[str, Any] = {} if cache is None else {cache_name(model) or "cache": cache}
    out = model(**inputs, **kept, attention_mask=no_mask, use_cache=cache is not None, packed=row)
    layers = model.config.get_text_config().num_hidden_layers
    if len(row.seen) != layers:
        raise RuntimeError(
            f"{type(model).__name__}: {len(row.seen)} of {layers} layers saw the packed layout; "
            'give Backbone(attention="sdpa") for padded rows'
        )
    return out


def cache_name(model: PreTrainedModel) -> str | None:
    """Name of a forward's cache argument: ``past_key_values`` before transformers 5.23."""
    names = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)


def enable(model: PreTrainedModel) -> str | None:
    """Make a model take packed rows. If it cannot, leave it unchanged and return the reason."""
    before = model.config._attn_implementation
    reason = _known_misfit(model, before)
    if reason is not None:
        return reason
    softcap = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    eager = before == "eager" or softcap is not None
    try:
        model.set_attn_implementation(OVER_EAGER if eager else OVER_SDPA)
        reason = _probe(model) if model.device.type != "meta" else None
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        reason = str(error)
    if reason is not None:
        model.set_attn_implementation(before)
    return reason


def _known_misfit(model: PreTrainedModel, attention: str) -> str | None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - ATTENTION_KINDS
    if attention not in ("sdpa", "eager"):
        return f"its attention is {attention}"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if getattr(model, "_is_stateful", False) or kinds:
        return f"not all its layers are attention ({', '.join(sorted(kinds)) or 'stateful'})"
    if getattr(config, "attention_chunk_size", None) is not None:
        return "its attention is chunked"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    return None


@torch.no_grad()
def _probe(model: PreTrainedModel) -> str | None:
    """Compare packed with unpacked rows on a few tokens; completions must not see each other."""
    decoder = decoder_of(model)
    device = model.device
    groups = ((4, 3, 2), (3, 2, 4))
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.tensor([[(3 * t + 1) % vocabulary for t in range(18)]], device=device)
    none = torch.empty(0, dtype=torch.long, device=device)
    batch = TokenBatch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        position_ids=positions(groups).to(device),
        predictor_index=none,
        target_ids=none,
        completion_index=none,
        last_index=torch.tensor([6, 8, 13, 17], device=device),
        groups=groups,
    )

    def hidden(tokens: Tensor) -> Tensor:
        inputs = {"input_ids": tokens, "position_ids": batch.position_ids}
        return run_packed(decoder, inputs, groups).last_hidden_state[0]

    ours = hidden(ids)
    apart = unpacked(batch)
    for row, (mask, place) in enumerate(
        zip(apart.attention_mask, batch.last_index.tolist(), strict=True)
    ):
        alone = decoder(input_ids=apart.input_ids[row : row + 1, mask], use_cache=False)
        stock = alone.last_hidden_state[0, -1].float()
        tolerance = 1e-3 if ours.dtype == torch.float32 else 5e-2
        if (stock - ours[place].float()).abs().max() > tolerance * stock.abs().max():
            return "packed rows do not give what unpacked ones give"
    changed = ids.clone()
    changed[0, 4:7] = (ids[0, 4:7] + 1) % vocabulary
    moved = (hidden(changed) - ours).abs().amax(-1)
    others = torch.cat([moved[:4], moved[7:]])
    return "one completion sees another" if others.max() > 0 else None
