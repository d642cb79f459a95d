"""One frozen base, loaded once, carrying every role of RLHF as a LoRA adapter and a scalar head."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.functional.autocast import autocast_enabled
from lightning_rlhf.functional.logprobs import TokenStatistics
from lightning_rlhf.models import export, loading, lora
from lightning_rlhf.models.heads import ScalarHead
from lightning_rlhf.models.lora import LoRA, LoraLayer
from lightning_rlhf.models.merging import MergedWeights
from lightning_rlhf.models.offload import Offload, embedding_to_host
from lightning_rlhf.models.runner import Runner

POLICY, REFERENCE = "policy", "reference"


class Role(NamedTuple):
    """What a role is made of; the base is everybody's."""

    trainable: bool
    adapter: bool  # False: the bare base, or the whole model where there is no LoRA
    copied: bool = False  # where there is no LoRA: runs through the frozen copy
    shares: str | None = None  # the role whose adapter it runs through: it has a head alone


class Backbone(nn.Module):
    """A causal language model and its roles; a *description* until ``load`` builds it.

    A role is a named LoRA adapter on the shared base, plus a scalar head where it needs one.
    Constructing a backbone costs nothing and reads nothing: a plan, ``--print_config`` and a
    resumed run all rely on that. Lightning's ``configure_model`` calls ``load``.

    With ``lora=None`` the base itself is trained, whole: one trained role, for small models; its
    ``reference`` is then a frozen copy.

    Args:
        name_or_path: a hub id, a local folder, or a ``.gguf`` file.
        quantization: "nf4" holds the base's linear layers in 4 bits (QLoRA, arXiv 2305.14314).
        lora: the adapters' shape, or None to train the whole model.
        dtype: of the frozen base and of its computation; adapters and heads are always fp32.
        adapters: role -> PEFT folder it starts from, e.g. ``{"policy": "runs/sft"}``.
        gradient_checkpointing: recompute each layer in the backward: less memory, a third slower.
        attention: transformers' name of an attention implementation, over padded rows; None packs
            rows, prompts shared, wherever the model can be taught to.
        offload: what waits in host memory: the "embedding" table, and the "activations" that
            checkpointing keeps.
        head_tile: rows of logits to hold at a time; None adapts them.
    """

    def __init__(
        self,
        name_or_path: str,
        quantization: loading.Quantization | None = None,
        lora: LoRA | None = LoRA(),
        dtype: loading.DType = "auto",
        adapters: dict[str, str] | None = None,
        gradient_checkpointing: bool = False,
        attention: str | None = None,
        offload: list[Offload] | None = None,
        head_tile: int | None = None,
    ):
        super().__init__()
        if offload and lora is None:
            raise ValueError("a model trained whole stays on its card: give lora=LoRA()")
        if "activations" in (offload or ()) and not gradient_checkpointing:
            raise ValueError('offload="activations" needs gradient_checkpointing=True')
        if head_tile is not None and head_tile < 1:
            raise ValueError(f"head_tile is rows of logits: 1 or more, got {head_tile}")
        if quantization is not None and lora is None:
            raise ValueError(
                "4-bit weights cannot be trained: give lora=LoRA(), or quantization=None"
            )
        if lora is None and adapters:
            raise ValueError(f"adapters for {sorted(adapters)} need LoRA: give lora=LoRA()")
        self.name_or_path = name_or_path
        self.quantization = quantization
        self.lora = lora
        self.dtype = dtype
        self.adapters = dict(adapters or {})
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.offload = list(offload or ())
        self.head_tile = head_tile
        self.roles: dict[str, Role] = {}
        self.heads = nn.ModuleDict()
        self.model: PreTrainedModel | None = None
        self.frozen: PreTrainedModel | None = None  # the reference where there is no LoRA
        self._adapted: list[LoraLayer] = []
        self._active: str | None = None  # the role a forward runs as
        self._applied: str | None = None  # the adapter the layers are switched to; None: bare base
        self._runner: Runner | None = None
        self._casts = True  # whether adapters cast their inputs to fp32
        self._merged: str | None = None  # the role whose adapter the base's weights hold

    # ---- building ----

    @cached_property
    def path(self) -> str:
        """The resolved model: a folder or a hub id."""
        return loading.resolve(self.name_or_path)

    @property
    def public_name(self) -> str:
        """The name by which peft or vLLM find the base elsewhere: a hub id where one was given."""
        return self.path if self.name_or_path.endswith(".gguf") else self.name_or_path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer; can be had before the model is loaded."""
        return loading.load_tokenizer(self.path)

    @cached_property
    def context_length(self) -> int | None:
        """Positions the model has; None where its config names no end. Can be had unloaded too."""
        return loading.context_length(self.path)

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are there."""
        return self.model is not None

    @property
    def base(self) -> PreTrainedModel:
        """The causal language model, adapters and all.

        Raises:
            RuntimeError: the backbone is still a description.
        """
        if self.model is None:
            raise RuntimeError(
                "the backbone is not loaded yet: call backbone.load(), or let a Trainer do it"
            )
        return self.model

    def load(self, device: torch.device | str = "cpu") -> Backbone:
        """Build the model on a device, and the roles named in ``adapters``; once."""
        if self.model is None:
            named = self.lora is not None and self.lora.target_modules != "all-linear"
            if self.lora is not None and (self.adapters or named):
                lora.validate_adapters(loading.skeleton(self.path), self.lora, self.adapters)
            dtype = loading.torch_dtype(self.dtype)
            self.attach(
                loading.load_causal_lm(
                    self.path, self.quantization, dtype, torch.device(device), self.attention
                )
            )
        return self

    def attach(self, model: PreTrainedModel) -> None:
        """Take a built model as the base, as ``load`` does; a memory plan's holds no data."""
        self.model = model.requires_grad_(False)
        if "embedding" in self.offload:
            embedding_to_host(model)
        offloads = "activations" in self.offload
        self._runner = Runner.of(model, self.attention is None, self.head_tile, offloads)
        if self.gradient_checkpointing:
            old_name = model.gradient_checkpointing_enable  # before transformers 5.21
            enable = getattr(model, "activation_checkpointing_enable", old_name)
            enable({"use_reentrant": False, "context_fn": self._checkpoint_contexts})
        try:
            for role in self.adapters:
                self.add_role(role, trainable=role != REFERENCE)
        except Exception:
            self.model, self.roles = None, {}  # not loaded, and not half loaded either
            raise

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self.base.config.get_text_config().hidden_size

    def add_role(
        self,
        name: str,
        trainable: bool = True,
        head: bool = False,
        init_from: str | None = None,
        shares: str | None = None,
    ) -> None:
        """Create a role; a role that is there already keeps its weights.

        It starts from its folder in ``adapters``, else as a copy of the role ``init_from``, else
        as a fresh adapter, which is the bare base until trained. A frozen role with nothing to
        start from *is* the bare base and costs nothing.

        Args:
            name: an identifier; the modules use policy, reference, reward and critic.
            trainable: whether it receives gradients.
            head: give it a scalar head; a copy of that of ``init_from``, if that has one.
            init_from: the role it starts as a copy of.
            shares: the role whose weights it runs through, with nothing but a head of its own.

        Raises:
            ValueError: a second trained role without LoRA, or an adapter of another base.
        """
        if name not in self.roles:
            if shares is not None:
                self.roles[name] = Role(trainable, adapter=False, shares=shares)
            elif self.lora is None:
                self._add_whole_role(name, trainable)
            else:
                self._add_adapter_role(name, trainable, init_from)
        if head and name not in self.heads:
            self.heads[name] = ScalarHead(self.hidden_size).to(self.base.device)
            self._read_head(name)
            if init_from is not None and init_from in self.heads and name not in self.adapters:
                self.head(name).load_state_dict(self.head(init_from).state_dict())
        self._restore_requires_grad()

    def _add_adapter_role(self, name: str, trainable: bool, init_from: str | None) -> None:
        folder = self.adapters.get(name)
        copied = init_from is not None and init_from in self.roles and self.roles[init_from].adapter
        if not trainable and folder is None and not copied:
            self.roles[name] = Role(trainable, adapter=False)
            return
        if folder is not None:
            lora.load_adapter(self.base, name, *lora.read(Path(folder)), Path(folder))
        elif copied:
            assert init_from is not None
            lora.inject(self.base, name, copy.deepcopy(self.base.peft_config[init_from]))
            lora.copy(self.base, init_from, name)
        else:
            assert self.lora is not None
            lora.inject(self.base, name, self.lora.config())
        self.roles[name] = Role(trainable, adapter=True)
        self._adapted = lora.layers(self.base)
        self._casts = True  # a new adapter's layers do
        lora.cast_inputs(self._adapted, True)
        lora.activate(self._adapted, name)
        self._applied = name
        if self._active is not None:
            self._switch(self._active)

    def _add_whole_role(self, name: str, trainable: bool) -> None:
        if not trainable:
            self._freeze_copy()
        elif any(role.trainable for role in self.roles.values()):
            taken = [n for n, role in self.roles.items() if role.trainable]
            raise ValueError(
                f"without LoRA the base holds one trained role, and {taken[0]!r} is it: "
                f"give lora=LoRA() to train {name!r} beside it"
            )
        self.roles[name] = Role(trainable, adapter=False, copied=not trainable)

    def _freeze_copy(self) -> None:
        # Checkpointing's context_fn holds this backbone, which must not be copied with the model.
        self.frozen = copy.deepcopy(self.base, {id(self): self}).requires_grad_(False)

    def _read_head(self, name: str) -> None:
        if name in self.adapters:
            _, tensors = lora.read(Path(self.adapters[name]))
            export.read_head(self.head(name), tensors, self.adapters[name])

    def copy_role(self, source: str, target: str) -> None:
        """Copy one role's weights over another's: iterated DPO moves its reference so."""
        if self.lora is None:
            self._freeze_copy()
            return
        if not self.roles[target].adapter:
            self.roles.pop(target)
            self.add_role(target, trainable=False, init_from=source)
        lora.copy(self.base, source, target)

    # ---- roles ----

    def role(self, name: str) -> AbstractContextManager[None]:
        """Run the forwards inside as one role. Nests, restores, and may be entered again.

        Raises:
            KeyError: no such role.
        """
        if name not in self.roles:
            raise KeyError(f"no role {name!r} on this backbone: it has {sorted(self.roles)}")
        return _ActiveRole(self, name)

    @contextmanager
    def merged(self, name: str) -> Iterator[None]:
        """As ``role``, its adapter added into the base's weights: many short forwards are cheaper.

        The base has its own bits again afterwards, whatever happens inside. May be entered again
        inside; a role that is the bare base, or a whole model, is only switched to.

        Raises:
            ValueError: the base is in 4 bits, which would round the adapter away.
            RuntimeError: on switching to another role inside.
        """
        with self.role(name):
            if self._merged == name or not self.roles[name].adapter:
                yield
                return
            try:
                with MergedWeights(self._adapted, name):
                    self._merged = name
                    self._switch(name)
                    yield
            finally:
                self._merged = None
                self._switch(name)

    def _follow_autocast(self, running: bool) -> None:
        """Let adapters take their inputs as they are while autocast casts for them."""
        enabled = running and self.model is not None and autocast_enabled(self.model.device)
        if enabled == self._casts:
            self._casts = not enabled
            lora.cast_inputs(self._adapted, self._casts)

    def _switch(self, name: str) -> None:
        """Switch the adapted layers, where they are not on that adapter yet."""
        name = self.roles[name].shares or name
        if self._merged not in (None, name):
            raise RuntimeError(f"the base holds role {self._merged!r}: leave merged() for {name!r}")
        adapter = name if self.roles[name].adapter and self._merged is None else None
        if self._adapted and adapter != self._applied:
            lora.activate(self._adapted, adapter)
            self._applied = adapter
            self._restore_requires_grad()

    def _restore_requires_grad(self) -> None:
        for name, role in self.roles.items():
            for parameter in self.role_parameters(name):
                parameter.requires_grad_(role.trainable)

    def train_roles(self, *names: str) -> None:
        """Give gradients to these roles and to no other."""
        for name, role in self.roles.items():
            self.roles[name] = role._replace(trainable=name in names)
        self._restore_requires_grad()

    def role_parameters(self, name: str) -> list[nn.Parameter]:
        """A role's own parameters in a stable order: adapter, or whole model without LoRA; head."""
        role = self.roles[name]
        own = list(lora.parameters(self.base, name).values()) if role.adapter else []
        if self.lora is None and role.shares is None:
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
            raise KeyError(f"role {role!r} has no scalar head: those with one are {[*self.heads]}")
        head = self.heads[role]
        assert isinstance(head, ScalarHead)
        return head

    def forward_weights(self, role: str) -> dict[str, Tensor]:
        """Collect the weights a role's log-probs depend on, by names that no other role changes."""
        if self.lora is None:
            return dict(self.model_of(role).named_parameters())
        base: dict[str, Tensor] = {
            n.replace(".base_layer.", "."): p
            for n, p in self.base.named_parameters()
            if ".lora_" not in n
        }
        if "embedding" in self.offload:
            base["embedding"] = self.base.get_input_embeddings().weight
        return base | lora.parameters(self.base, role)

    def is_saved(self, key: str) -> bool:
        """Whether a ``state_dict`` key of this backbone is worth keeping: not the frozen base.

        By name and not by ``requires_grad``, which PEFT flips as it switches adapters.
        """
        return self.lora is None or ".lora_" in key or key.startswith("heads.")

    def _checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """For ``torch.utils.checkpoint``: a backward recomputes a layer as the role it ran as.

        Without it, a role switched between forward and backward gives wrong gradients and no error.
        """
        if self._active is None:
            return nullcontext(), nullcontext()
        return nullcontext(), _ActiveRole(self, self._active)

    # ---- forward ----

    def model_of(self, role: str) -> PreTrainedModel:
        """The model a role runs through: the shared one, or without LoRA the frozen copy."""
        if self.roles[role].copied:
            assert self.frozen is not None
            return self.frozen
        return self.base

    def runner_of(self, role: str) -> Runner:
        """How a role's model runs a batch; whoever runs it switches to the role."""
        assert self._runner is not None, "not loaded"
        return self._runner._replace(model=self.model_of(role))

    def hidden_states(self, tokens: TokenBatch, role: str) -> Tensor:
        """The decoder's last hidden states as a role, in the layout the batch has: (B, T, H)."""
        with self.role(role):
            states: Tensor = self.runner_of(role).run(tokens).last_hidden_state
            return states

    def logits(self, tokens: TokenBatch, role: str) -> Tensor:
        """Logits as a role, at the places that predict a counting token only: (N, V)."""
        with self.role(role):
            return self.runner_of(role).logits(tokens)

    def logprobs(self, tokens: TokenBatch, role: str, temperature: float = 1.0) -> Tensor:
        """Log-probs of the counting tokens as a role: (N,) fp32, logits a tile at a time."""
        with self.role(role):
            return self.runner_of(role).logprobs(tokens, temperature)

    def statistics(
        self, tokens: TokenBatch, role: str, temperature: float = 1.0
    ) -> TokenStatistics:
        """``logprobs`` with entropy and expected probability, a third matrix product dearer."""
        with self.role(role):
            return self.runner_of(role).statistics(tokens, temperature)

    def scores(self, tokens: TokenBatch, role: str) -> Tensor:
        """A role's scalar head at each completion's last token: (C,) fp32."""
        with self.role(role):
            return self.head(role)(self.runner_of(role).ends(tokens))

    def values(self, tokens: TokenBatch, role: str) -> Tensor:
        """A role's scalar head at the places that predict the counting tokens: (N,) fp32."""
        with self.role(role):
            return self.head(role)(self.runner_of(role).at_sources(tokens))

    def logprobs_and_values(
        self, tokens: TokenBatch, read: TokenBatch, role: str, head: str, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """A role's log-probs (N,), and another's head on its states at ``read`` (V,); one pass."""
        with self.role(role):
            logprobs, states = self.runner_of(role).logprobs_and_states(tokens, read, temperature)
            return logprobs, self.head(head)(states)

    # ---- saving ----

    def save_role(self, name: str, folder: str | Path) -> Path:
        """Write a role for peft, transformers and vLLM, its tokenizer beside it.

        A policy is a plain PEFT adapter. A role with a head is a ``SEQ_CLS`` adapter that loads on
        ``AutoModelForSequenceClassification(num_labels=1)``, head included. Without LoRA, the whole
        model.

        Raises:
            ValueError: the role is the bare base, so that there is nothing to save.
        """
        folder = Path(folder)
        role = self.roles[name]
        if self.lora is None or role.shares is not None:
            if name in self.heads:
                raise ValueError(
                    f"a {name} role without an adapter of its own is saved by its checkpoint only"
                )
            self.model_of(name).save_pretrained(folder)
        elif not role.adapter:
            raise ValueError(f"role {name!r} is the bare base {self.name_or_path}: nothing to save")
        else:
            head: dict[str, Tensor] = {}
            config: dict[str, Any] = {"task_type": "CAUSAL_LM"}
            if name in self.heads:
                head, config = export.head_as_peft(self.head(name))
            config["base_model_name_or_path"] = self.public_name
            lora.save(self.base, name, folder, head, **config)
        self.tokenizer.save_pretrained(folder)
        return folder

    def save_merged(self, name: str, folder: str | Path, dtype: loading.DType = "bfloat16") -> Path:
        """Write base and adapter as one plain transformers model, dequantised before merging.

        Raises:
            ValueError: the role has a scalar head, which a causal language model cannot carry.
        """
        if name in self.heads:
            raise ValueError(f"merging would lose the head of role {name!r}: use save_role")
        if "embedding" in self.offload:
            raise ValueError("merging needs the embedding table: load without offload, then merge")
        folder = Path(folder)
        adapter = name if self.roles[name].adapter else None
        export.save_merged(self.model_of(name), adapter, folder, loading.torch_dtype(dtype))
        self.tokenizer.save_pretrained(folder)
        return folder


class _ActiveRole(AbstractContextManager[None]):
    """Re-enterable: gradient checkpointing enters one context once per backward."""

    def __init__(self, backbone: Backbone, name: str):
        self.backbone = backbone
        self.name = name
        self.before: list[str | None] = []

    def __enter__(self) -> None:
        self.backbone._switch(self.name)
        self.before.append(self.backbone._active)
        self.backbone._active = self.name
        self.backbone._follow_autocast(running=True)

    def __exit__(self, *error: object) -> None:
        previous = self.before.pop()
        self.backbone._active = previous
        if previous is not None:
            self.backbone._switch(previous)
        else:
            self.backbone._follow_autocast(running=False)
