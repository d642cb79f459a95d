"""Our side of a comparison."""

from __future__ import annotations

from typing import Any

import measure
import torch

from lightning_rlhf import Backbone, DPOModule, LoRA, RewardModule, SFTModule
from lightning_rlhf.batches import to_device
from lightning_rlhf.data.collate import preference_batch, ranking_batch, token_batch
from lightning_rlhf.data.tokens import TokenRow
from lightning_rlhf.models import lora
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning.meta import storages

MODULES = {"dpo": DPOModule, "reward": RewardModule, "sft": SFTModule}


def build(work: dict[str, Any]) -> tuple[AlignmentModule, Any]:
    """Load the module, fill its weights by name, and collate its batch."""
    backbone = Backbone(
        work["model"],
        lora=LoRA(r=16, alpha=32) if work["lora"] else None,
        dtype=work["dtype"],
        quantization=work["quantization"],
        gradient_checkpointing=work["checkpointing"],
    ).load(work["device"])
    make = getattr(torch.optim, work["optimizer"]) if work["optimizer"] else None
    module: AlignmentModule = MODULES[work["method"]](backbone, optimizer=make)
    module.configure_model()
    (role,) = module.trained
    if work["lora"]:
        measure.fill(lora.parameters(backbone.base, role).items())
    if role in backbone.heads:
        measure.fill([("score.weight", backbone.head(role).weight)])
    rows = [
        TokenRow(
            prompt_ids=row["prompt"],
            completion_ids=row["completions"],
            loss_mask=[[True] * len(c) for c in row["completions"]],
            ranks=list(range(len(row["completions"]))),
        )
        for row in work["rows"]
    ]
    pairs = all(len(row["completions"]) == 2 for row in work["rows"])
    collate = preference_batch if pairs else ranking_batch
    batch = (token_batch if work["method"] == "sft" else collate)(rows)
    return module, to_device(batch, torch.device(work["device"]))


def main() -> None:
    work = measure.load()
    module, batch = build(work)
    backbone = module.backbone
    trained = [p for role in module.trained for p in backbone.role_parameters(role)]
    optimizer = measure.optimizer(trained)

    def step() -> float:
        with measure.autocast(work):
            loss = module.objective(batch).value
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    def static() -> float:
        """MiB of weights and optimizer state, without what a step allocates."""
        states = [t for state in optimizer.state.values() for t in state.values()]
        held = {t.untyped_storage().data_ptr(): t for t in [*storages(backbone), *states]}
        return sum(t.untyped_storage().nbytes() for t in held.values()) / 2**20

    measure.serve(step, work["device"], static)


if __name__ == "__main__":
    main()
