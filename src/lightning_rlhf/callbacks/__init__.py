"""Floor 3. What a Trainer takes beside a module."""

from lightning_rlhf.callbacks.roles import SaveRoles
from lightning_rlhf.callbacks.rows import WriteRows
from lightning_rlhf.callbacks.samples import SampleTable

__all__ = ["SampleTable", "SaveRoles", "WriteRows"]
