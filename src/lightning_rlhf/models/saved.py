"""Load a trained role from its folder, with its reference."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_rlhf.models.backbone import POLICY, REFERENCE, Backbone
from lightning_rlhf.models.loading import DType, Quantization, check_vocabulary


def load_role(
    role: str, reference: str | None, quantization: Quantization | None, dtype: DType
) -> Backbone:
    """Load a backbone with a role as its policy, and its reference; nothing on it is trained.

    Args:
        role: a PEFT folder, or any model.
        reference: a PEFT folder; None for the bare base.
        quantization: "nf4" holds the base in 4 bits.
        dtype: of the base.

    Raises:
        ValueError: the two adapters are of different bases.
    """
    base = base_of(role)
    adapters = {} if base == role else {POLICY: role}
    if reference is not None:
        if base_of(reference) != base:
            raise ValueError(
                f"{reference} is of base {base_of(reference)}, but {role} is of base {base}: "
                "give two adapters of one base"
            )
        adapters[REFERENCE] = reference
    backbone = Backbone(base, quantization, dtype=dtype, adapters=adapters).load()
    check_vocabulary(backbone.base, backbone.tokenizer)
    backbone.add_role(REFERENCE if POLICY in adapters else POLICY, trainable=False)
    backbone.train_roles()
    return backbone


def base_of(role: str) -> str:
    """Read the base model of a PEFT folder; any other name is a model itself."""
    config = Path(role) / "adapter_config.json"
    if not config.is_file():
        return role
    return str(json.loads(config.read_text())["base_model_name_or_path"])
