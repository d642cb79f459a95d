"""lightning-rlhf: preference optimization for PyTorch Lightning."""

import logging

# Said at import on every CPU: that an optional kernel of a hub is absent.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from lightning_rlhf.data.modules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.rewards import ClassifierReward, FunctionReward, RoleReward
from lightning_rlhf.models.rollout import Sampling
from lightning_rlhf.modules.dpo import DPOModule, Term
from lightning_rlhf.modules.grpo import GRPOModule
from lightning_rlhf.modules.kto import KTOModule
from lightning_rlhf.modules.online import Shaping, Updates
from lightning_rlhf.modules.ppo import PPOModule, Value
from lightning_rlhf.modules.reward import RewardModule
from lightning_rlhf.modules.rloo import RLOOModule
from lightning_rlhf.modules.sft import SFTModule
from lightning_rlhf.planning.guard import MemoryGuard
from lightning_rlhf.planning.search import FindTokenBudget

__version__ = "0.1.0"
__all__ = [
    "Backbone",
    "ClassifierReward",
    "DPOModule",
    "DemonstrationData",
    "FindTokenBudget",
    "FunctionReward",
    "GRPOModule",
    "KTOModule",
    "LoRA",
    "MemoryGuard",
    "PPOModule",
    "PreferenceData",
    "PromptData",
    "RLOOModule",
    "RewardModule",
    "RoleReward",
    "SFTModule",
    "Sampling",
    "Shaping",
    "Term",
    "Updates",
    "Value",
]
