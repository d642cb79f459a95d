"""Save trained roles as folders."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_info

from lightning_rlhf.callbacks.run_folder import run_folder
from lightning_rlhf.functional.finite import refuse_nan
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.text.writing import writing


class SaveRoles(Callback):
    """At the end of fit, write each trained role for peft, transformers and vLLM.

    Args:
        folder: gets a subfolder for each role; None for the run's own folder.
    """

    def __init__(self, folder: str | None = None):
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, AlignmentModule) or not trainer.is_global_zero:
            return
        parent = Path(self.folder) if self.folder else run_folder(trainer)
        backbone = pl_module.backbone
        for role in pl_module.trained:
            own = backbone.lora is not None and backbone.roles[role].shares is None
            if role in backbone.heads and not own:
                continue  # a head without an adapter is in the checkpoint only
            weights = {str(i): p for i, p in enumerate(backbone.role_parameters(role))}
            refuse_nan(weights, f"the {role}", "it is not saved; lower lr and start again")
            with writing(parent / role):
                folder = backbone.save_role(role, parent / role)
            talk = "" if role in backbone.heads else f"; talk to it: lightning-rlhf chat {folder}"
            rank_zero_info(f"{role} saved to {folder}{talk}")
