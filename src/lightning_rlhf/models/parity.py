"""Compare a written model with the role it was written from, before it is called saved."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from lightning_rlhf.batches import to_device
from lightning_rlhf.data.collate import token_batch
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.functional.autocast import without_autocast
from lightning_rlhf.models import export, lora
from lightning_rlhf.models.role_model import RoleModel
from lightning_rlhf.models.roles import Role

# Largest median error of a position's logits that rounding explains, relative to their norm. A deep
# model in bf16 rounds its activations too; `make bench-families` checks small ones in fp32.
LIMIT = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
ROWS, LENGTH = 6, 12
WRITTEN = "written"  # name of the role that a written adapter is read as


def probe_rows(
    tokenizer: PreTrainedTokenizerBase, vocabulary: int, context: int | None = None
) -> list[TokenRow]:
    """Draw rows of ordinary tokens, always the same ones for a tokenizer.

    Args:
        tokenizer: its special and added tokens are left out: they may ask for an image.
        vocabulary: number of rows of the embedding.
        context: number of positions of the model; None if it has no limit.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = [i for i in range(min(len(tokenizer), vocabulary)) if i not in special]
    draw = random.Random(0)
    length = min(LENGTH, context or LENGTH)
    texts = [draw.choices(ids, k=length) for _ in range(ROWS)]
    return [
        TokenRow(
            prompt_ids=text[:1],
            completion_ids=[text[1:]],
            loss_mask=[[True] * (length - 1)],
            ranks=[0],
        )
        for text in texts
    ]


def relative_error(live: Tensor, written: Tensor) -> float:
    """Median over positions of the error's norm, relative to that of the live outputs.

    Args:
        live: logits (N, V) or scores (N,).
        written: of the same shape.
    """
    live, written = live.float().cpu(), written.float().cpu()
    if live.dim() == 1:
        return float((written - live).abs().median() / live.abs().mean().clamp(min=1e-6))
    live, written = (x - x.mean(-1, keepdim=True) for x in (live, written))
    return float(((written - live).norm(dim=-1) / live.norm(dim=-1).clamp(min=1e-6)).median())


def check_adapter(
    backbone: RoleModel, role: str, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> float:
    """Read a written adapter onto the same base, beside its role, and compare their outputs.

    Returns:
        The relative error.

    Raises:
        ValueError: rounding does not explain it.
    """
    rows = _rows(backbone, tokenizer)
    config, tensors = lora.read(folder)
    live = _outputs(backbone, role, rows)
    lora.load_adapter(backbone.base, WRITTEN, config, tensors, folder)
    backbone.roles[WRITTEN] = Role(trainable=False, adapter=True)
    try:
        backbone.switch.adapt(lora.layers(backbone.base), WRITTEN)
        if role in backbone.heads:
            backbone.heads[WRITTEN] = head = copy.deepcopy(backbone.head(role))
            export.read_head(head, tensors, str(folder))
        written = _outputs(backbone, WRITTEN, rows)
    finally:
        backbone.remove_role(WRITTEN)
    return _compared(live, written, [torch.float32], role)


def check_model(
    backbone: RoleModel, role: str, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> float:
    """Load a written model with plain transformers on the CPU and compare its outputs.

    Returns:
        The relative error.

    Raises:
        ValueError: rounding does not explain it.
    """
    rows = _rows(backbone, tokenizer)
    live = _outputs(backbone, role, rows)
    scored = role in backbone.heads
    auto = AutoModelForSequenceClassification if scored else AutoModelForCausalLM
    plain = auto.from_pretrained(folder, dtype="auto").eval()
    ids = torch.tensor([row.prompt_ids + row.completion_ids[0] for row in rows])
    with torch.no_grad():
        logits = plain(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    written = logits[:, 0] if scored else logits[:, :-1].flatten(0, 1)
    return _compared(live, written, [plain.dtype, backbone.model_of(role).dtype], role)


def _rows(backbone: RoleModel, tokenizer: PreTrainedTokenizerBase) -> list[TokenRow]:
    config = backbone.base.config.get_text_config()
    vocabulary = backbone.base.get_input_embeddings().weight.shape[0]
    return probe_rows(tokenizer, vocabulary, getattr(config, "max_position_embeddings", None))


@torch.no_grad()
def _outputs(backbone: RoleModel, role: str, rows: Sequence[TokenRow]) -> Tensor:
    """Compute a role's scores if it has a head, else its logits."""
    device = backbone.base.device
    tokens = to_device(token_batch(rows), device)
    with without_autocast(device):
        if role in backbone.heads:
            return backbone.scores(tokens, role)
        return backbone.logits(tokens, role)


def _compared(live: Tensor, written: Tensor, dtypes: Sequence[torch.dtype], role: str) -> float:
    error = relative_error(live, written)
    limit = max(LIMIT[dtype] for dtype in dtypes)
    if not error <= limit:
        raise ValueError(
            f"what was written for role {role!r} is not the role in training: its outputs differ "
            f"by {error:.1%}, and rounding explains {limit:.1%}; the files were deleted. Keep the "
            "checkpoint, and report the model's name and the adapter's settings"
        )
    return error
