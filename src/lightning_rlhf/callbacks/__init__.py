"""Callbacks of a Trainer."""

from lightning_rlhf.callbacks.doctor import Doctor
from lightning_rlhf.callbacks.rollout_table import RolloutTable
from lightning_rlhf.callbacks.sample_table import SampleTable
from lightning_rlhf.callbacks.save_on_stop import SaveOnStop
from lightning_rlhf.callbacks.save_roles import SaveRoles
from lightning_rlhf.callbacks.write_rows import WriteRows

__all__ = ["Doctor", "RolloutTable", "SampleTable", "SaveOnStop", "SaveRoles", "WriteRows"]
