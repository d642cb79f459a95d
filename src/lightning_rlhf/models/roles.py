"""Run one base as any of its roles: switch adapters, merge one, recompute as the role that ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

from lightning_rlhf.functional.autocast import autocast_enabled
from lightning_rlhf.models import lora
from lightning_rlhf.models.lora import LoraLayer
from lightning_rlhf.models.merging import MergedWeights


class Role(NamedTuple):
    """The parts of a role; the base is shared by all."""

    trainable: bool
    adapter: bool = False  # it has one; without any of these it is the bare base
    whole: bool = False  # without LoRA: the whole model
    copied: bool = False  # without LoRA: the frozen copy of the model
    shares: str | None = None  # the role whose adapter it runs through; its head is its own


class RoleSwitch:
    """Switch the adapted layers of a base from role to role.

    Args:
        roles: by name; roles may be added later.
        restore: sets ``requires_grad`` of all roles again, since PEFT freezes every adapter but
            the active one as it switches.
    """

    def __init__(self, roles: Mapping[str, Role], restore: Callable[[], None]):
        self.roles = roles
        self.restore = restore
        self.active: str | None = None  # the role a forward runs as
        self._layers: list[LoraLayer] = []
        self._applied: str | None = None  # the adapter the layers apply; None: bare base
        self._merged: str | None = None  # the role whose adapter the base's weights hold
        self._casts = True  # whether adapters cast their inputs to fp32

    def adapt(self, layers: list[LoraLayer], role: str) -> None:
        """Take the adapted layers of a base, after the adapter of a role was added to them."""
        self._layers = layers
        self._casts = True  # layers of a new adapter do
        lora.cast_inputs(layers, True)
        lora.activate(layers, role)
        self._applied = role
        if self.active is not None:
            self.to(self.active)

    def forget(self) -> None:
        """Apply the bare base, after an adapter was deleted."""
        lora.activate(self._layers, None)
        self._applied = None

    def role(self, name: str) -> AbstractContextManager[None]:
        """Run the forwards inside as a role; see ``Backbone.role``."""
        if name not in self.roles:
            raise KeyError(f"no role {name!r} on this backbone: use one of {sorted(self.roles)}")
        return _ActiveRole(self, name)

    @contextmanager
    def merged(self, name: str) -> Iterator[None]:
        """Run the forwards inside as a role merged into the base; see ``Backbone.merged``."""
        with self.role(name):
            if self._merged == name or not self.roles[name].adapter:
                yield
                return
            try:
                with MergedWeights(self._layers, name):
                    self._merged = name
                    self.to(name)
                    yield
            finally:
                self._merged = None
                self.to(name)

    def to(self, name: str) -> None:
        """Switch the layers to a role's adapter, if they do not apply it yet."""
        name = self.roles[name].shares or name
        if self._merged not in (None, name):
            raise RuntimeError(f"the base holds role {self._merged!r}: leave merged() for {name!r}")
        adapter = name if self.roles[name].adapter and self._merged is None else None
        if self._layers and adapter != self._applied:
            lora.activate(self._layers, adapter)
            self._applied = adapter
            self.restore()

    def follow_autocast(self, running: bool) -> None:
        """Let adapters take their inputs as they are while autocast casts for them."""
        if not self._layers:
            return
        device = next(self._layers[0].parameters()).device
        enabled = running and autocast_enabled(device)
        if enabled == self._casts:
            self._casts = not enabled
            lora.cast_inputs(self._layers, self._casts)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Give ``torch.utils.checkpoint`` its contexts: recompute a layer as the role that ran it.

        Without them, a role switched between forward and backward gives wrong gradients and no
        error.
        """
        if self.active is None:
            return nullcontext(), nullcontext()
        return nullcontext(), _ActiveRole(self, self.active)


class _ActiveRole(AbstractContextManager[None]):
    """Re-enterable: gradient checkpointing enters one context once per backward."""

    def __init__(self, switch: RoleSwitch, name: str):
        self.switch = switch
        self.name = name
        self.before: list[str | None] = []

    def __enter__(self) -> None:
        self.switch.to(self.name)
        self.before.append(self.switch.active)
        self.switch.active = self.name
        self.switch.follow_autocast(running=True)

    def __exit__(self, *error: object) -> None:
        previous = self.before.pop()
        self.switch.active = previous
        if previous is not None:
            self.switch.to(previous)
        else:
            self.switch.follow_autocast(running=False)
