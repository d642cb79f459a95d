"""A causal language model that runs a batch as any of its roles."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.functional.logprobs import TokenStatistics
from lightning_rlhf.models import lora
from lightning_rlhf.models.heads import ScalarHead
from lightning_rlhf.models.roles import Role, RoleSwitch
from lightning_rlhf.models.runner import Runner


class RoleModel(nn.Module):
    """A base with its roles and their heads, and the forwards through them.

    A role is a named LoRA adapter on the shared base, plus a scalar head if it needs one. The
    subclass ``Backbone`` loads the base and creates the roles.

    Args:
        head_tile: rows of logits held at a time; None adapts them.
    """

    def __init__(self, head_tile: int | None = None):
        super().__init__()
        self.head_tile = head_tile
        self.roles: dict[str, Role] = {}
        self.heads = nn.ModuleDict()
        self.model: PreTrainedModel | None = None
        self.frozen: PreTrainedModel | None = None  # without LoRA: the model of the reference
        self.switch = RoleSwitch(self.roles, self._restore_requires_grad)
        self._runner: Runner | None = None

    @property
    def base(self) -> PreTrainedModel:
        """The causal language model with its adapters.

        Raises:
            RuntimeError: the backbone is still a description.
        """
        if self.model is None:
            raise RuntimeError(
                "the backbone is not loaded yet: call backbone.load(), or let a Trainer do it"
            )
        return self.model

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self.base.config.get_text_config().hidden_size

    # ---- roles ----

    def role(self, name: str) -> AbstractContextManager[None]:
        """Run the forwards inside as one role. Nests, restores, and may be entered again.

        Raises:
            KeyError: no such role.
        """
        return self.switch.role(name)

    def merged(self, name: str) -> AbstractContextManager[None]:
        """Like ``role``, with the adapter merged into the base weights: faster for sampling.

        Afterwards the base has its own bits again, whatever happens inside. May be entered again
        inside. A role that is the bare base, or a whole model, is only switched to.

        Raises:
            ValueError: the base is in 4 bits, which would round the adapter away.
            RuntimeError: on switching to another role inside.
        """
        return self.switch.merged(name)

    def train_roles(self, *names: str) -> None:
        """Give gradients to these roles and to no other."""
        for name, role in self.roles.items():
            self.roles[name] = role._replace(trainable=name in names)
        self._restore_requires_grad()

    def remove_role(self, name: str) -> None:
        """Drop a role with its adapter and its head."""
        if self.roles.pop(name).adapter:
            lora.remove(self.base, name)
        if name in self.heads:
            del self.heads[name]
        self.switch.forget()
        self._restore_requires_grad()

    def _restore_requires_grad(self) -> None:
        for name, role in self.roles.items():
            for parameter in self.role_parameters(name):
                parameter.requires_grad_(role.trainable)

    def role_parameters(self, name: str) -> list[nn.Parameter]:
        """List a role's own parameters in a stable order: adapter or whole model, then head."""
        role = self.roles[name]
        own = list(lora.parameters(self.base, name).values()) if role.adapter else []
        if role.whole:
            own = list(self.model_of(name).parameters())
        if name in self.heads:
            own += list(self.heads[name].parameters())
        return own

    def head(self, role: str) -> ScalarHead:
        """A role's scalar head.

        Raises:
            KeyError: the role has none.
        """
        if role not in self.heads:
            raise KeyError(f"role {role!r} has no scalar head: use one of {[*self.heads]}")
        head = self.heads[role]
        assert isinstance(head, ScalarHead)
        return head

    def model_of(self, role: str) -> PreTrainedModel:
        """The model a role runs through: the shared one, or without LoRA the frozen copy."""
        if self.roles[role].copied:
            assert self.frozen is not None
            return self.frozen
        return self.base

    def runner_of(self, role: str) -> Runner:
        """The runner of a role's model; the caller switches to the role."""
        assert self._runner is not None, "not loaded"
        return self._runner._replace(model=self.model_of(role), tile=self.head_tile)

    # ---- forwards ----

    def hidden_states(self, tokens: TokenBatch, role: str) -> Tensor:
        """Compute the decoder's last hidden states as a role, laid out as the batch: (B, T, H)."""
        with self.role(role):
            states: Tensor = self.runner_of(role).run(tokens).last_hidden_state
            return states

    def logits(self, tokens: TokenBatch, role: str) -> Tensor:
        """Compute as a role the logits that predict the tokens under the loss mask: (N, V)."""
        with self.role(role):
            return self.runner_of(role).logits(tokens)

    def logprobs(self, tokens: TokenBatch, role: str, temperature: float = 1.0) -> Tensor:
        """Compute as a role the log-probs of the tokens under the loss mask: (N,) fp32."""
        with self.role(role):
            return self.runner_of(role).logprobs(tokens, temperature)

    def statistics(
        self, tokens: TokenBatch, role: str, temperature: float = 1.0
    ) -> TokenStatistics:
        """Like ``logprobs``, with entropy and expected probability: one more matrix product."""
        with self.role(role):
            return self.runner_of(role).statistics(tokens, temperature)

    def scores(self, tokens: TokenBatch, role: str) -> Tensor:
        """Compute a role's scalar head at each completion's last token: (C,) fp32."""
        with self.role(role):
            return self.head(role)(self.runner_of(role).ends(tokens))

    def values(self, tokens: TokenBatch, role: str) -> Tensor:
        """Compute a role's scalar head where the trained tokens are predicted: (N,) fp32."""
        with self.role(role):
            return self.head(role)(self.runner_of(role).at_sources(tokens))

    def logprobs_and_values(
        self, tokens: TokenBatch, read: TokenBatch, role: str, head: str, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Compute a role's log-probs (N,) and another's head on its states at ``read`` (V,)."""
        with self.role(role):
            logprobs, states = self.runner_of(role).logprobs_and_states(tokens, read, temperature)
            return logprobs, self.head(head)(states)
