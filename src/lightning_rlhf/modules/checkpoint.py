"""What of a run goes into a checkpoint, and how it comes back: roles by name, random generators."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import torch

from lightning_rlhf.models.backbone import REFERENCE, Backbone


def keep_roles(checkpoint: dict[str, Any], prefix: str, backbone: Backbone) -> None:
    """Drop the frozen base from a checkpoint; a 4-bit one could not even be loaded again.

    Args:
        checkpoint: Lightning's, changed in place as its hook wants it.
        prefix: what its state dict puts before the backbone's names.
        backbone: whose roles stay.
    """
    state = checkpoint["state_dict"]
    for key in [k for k in state if k.startswith(prefix)]:
        if not backbone.keeps(key.removeprefix(prefix)):
            del state[key]


def restore_roles(checkpoint: dict[str, Any], prefix: str, backbone: Backbone, module: str) -> None:
    """Create the reference a checkpoint brings along, and check that every role finds its weights.

    Loading is not strict, since the base is not there; so what must be there is checked here.

    Raises:
        ValueError: the checkpoint of another module, or of another base.
    """
    given = {
        key.removeprefix(prefix): tensor.shape
        for key, tensor in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    brings_reference = any(re.search(rf"\.lora_\w+\.{REFERENCE}\.", key) for key in given)
    if brings_reference and not backbone.roles[REFERENCE].adapter:
        backbone.roles.pop(REFERENCE)
        backbone.add_role(REFERENCE, trainable=False, like="policy")
    wanted = {k: v.shape for k, v in backbone.state_dict().items() if backbone.keeps(k)}
    wrong = sorted(wanted.keys() ^ given.keys())
    if wrong:
        there = "the checkpoint lacks" if wrong[0] in wanted else "the checkpoint brings"
        raise ValueError(
            f"this is no checkpoint of this {module}: {there} {wrong[0]!r} "
            f"({len(wrong)} such tensors); resume with the module and the LoRA it was trained with"
        )
    wrong = sorted(key for key in wanted if wanted[key] != given[key])
    if wrong:
        raise ValueError(
            f"the checkpoint is of another base model or LoRA rank: {wrong[0]!r} has shape "
            f"{tuple(given[wrong[0]])} there and {tuple(wanted[wrong[0]])} here"
        )


def rng_state() -> dict[str, Any]:
    """Every global generator's state, in types a ``weights_only`` load accepts."""
    version, numbers, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002  the global one is what resumes
    assert isinstance(numpy, dict)
    inner = numpy["state"]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), gauss],
        "numpy": [inner["key"].tolist(), inner["pos"], numpy["has_gauss"], numpy["gauss"]],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """The reverse of ``rng_state``."""
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    key, pos, has_gauss, cached = state["numpy"]
    numpy = ("MT19937", np.array(key, dtype=np.uint32), pos, has_gauss, cached)
    np.random.set_state(numpy)  # noqa: NPY002
