"""lightning-rlhf: preference optimization for PyTorch Lightning."""

import logging

# Said at import on every CPU: that an optional kernel of a hub is absent.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

from lightning_rlhf.callbacks.memory_guard import MemoryGuard
from lightning_rlhf.callbacks.token_budget import FindTokenBudget
from lightning_rlhf.data.datamodules import DemonstrationData, PreferenceData, PromptData
from lightning_rlhf.functional.pairs import Term
from lightning_rlhf.functional.shaping import Shaping
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.sampler import Sampling
from lightning_rlhf.modules.ai_feedback import AIFeedbackModule
from lightning_rlhf.modules.dpo import DPOModule
from lightning_rlhf.modules.grpo import GRPOModule
from lightning_rlhf.modules.kto import KTOModule
from lightning_rlhf.modules.ppo import Critic, PPOModule
from lightning_rlhf.modules.reward import RewardModule
from lightning_rlhf.modules.rloo import RLOOModule
from lightning_rlhf.modules.self_critique import SelfCritiqueModule
from lightning_rlhf.modules.sft import SFTModule
from lightning_rlhf.modules.update_schedule import UpdateSchedule
from lightning_rlhf.rewards.classifier import ClassifierReward
from lightning_rlhf.rewards.function import FunctionReward
from lightning_rlhf.rewards.judge import JudgeReward
from lightning_rlhf.rewards.role import RoleReward

__version__ = "0.1.0"
__all__ = [
    "AIFeedbackModule",
    "Backbone",
    "ClassifierReward",
    "Critic",
    "DPOModule",
    "DemonstrationData",
    "FindTokenBudget",
    "FunctionReward",
    "GRPOModule",
    "JudgeReward",
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
    "SelfCritiqueModule",
    "Shaping",
    "Term",
    "UpdateSchedule",
]
