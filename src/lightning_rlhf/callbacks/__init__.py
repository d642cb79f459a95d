"""Floor 3. What a Trainer takes beside a module."""

from lightning_rlhf.callbacks.doctor import Doctor
from lightning_rlhf.callbacks.roles import SaveRoles
from lightning_rlhf.callbacks.rollouts import RolloutTable
from lightning_rlhf.callbacks.rows import WriteRows
from lightning_rlhf.callbacks.samples import SampleTable

__all__ = ["Doctor", "RolloutTable", "SampleTable", "SaveRoles", "WriteRows"]
