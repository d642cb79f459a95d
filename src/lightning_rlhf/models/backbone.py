"""One frozen base, loaded once, with every role of RLHF as a LoRA adapter and a scalar head."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightning_rlhf.models import export, loading, lora, saving
from lightning_rlhf.models.heads import ScalarHead
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.models.offload import Offload, embedding_to_host
from lightning_rlhf.models.role_model import RoleModel
from lightning_rlhf.models.roles import Role
from lightning_rlhf.models.runner import Runner

POLICY, REFERENCE = "policy", "reference"


class Backbone(RoleModel):
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
        dtype: of the frozen base and its computation; adapters, heads and a base that is trained
            whole are always fp32.
        adapters: role -> PEFT folder or hub id it starts from, e.g. ``{"policy": "runs/sft"}``.
        gradient_checkpointing: recompute each layer in the backward: less memory, a third slower.
        attention: transformers' name of an attention implementation, over padded rows; None uses
            packed rows with shared prompts if the model takes them.
        offload: parts kept in host memory: the "embedding" table, and the "activations" that
            checkpointing saves.
        head_tile: rows of logits held at a time; None adapts them.
    """

    def __init__(
        self,
        name_or_path: str,
        quantization: loading.Quantization | None = None,
        lora: LoRA | None = LoRA(),
        *,
        dtype: loading.DType = "auto",
        adapters: dict[str, str] | None = None,
        gradient_checkpointing: bool = False,
        attention: str | None = None,
        offload: list[Offload] | None = None,
        head_tile: int | None = None,
    ):
        super().__init__(head_tile)
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
        if lora is None and dtype == "bfloat16":
            raise ValueError(
                "lora=None trains the base's own weights, and in bf16 a small step changes few of "
                'them: leave dtype, and give Trainer(precision="bf16-mixed") for speed'
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

    # ---- building ----

    @cached_property
    def path(self) -> str:
        """The resolved model: a folder or a hub id."""
        return loading.resolve(self.name_or_path)

    @property
    def public_name(self) -> str:
        """The name by which peft or vLLM find the base elsewhere: a hub id if one was given."""
        return self.path if self.name_or_path.endswith(".gguf") else self.name_or_path

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer; available before the model is loaded."""
        return loading.load_tokenizer(self.path)

    @cached_property
    def context_length(self) -> int | None:
        """Number of positions of the model, None if its config names none; available unloaded."""
        return loading.context_length(self.path)

    @property
    def is_loaded(self) -> bool:
        """True if the weights are loaded."""
        return self.model is not None

    def load(self, device: torch.device | str = "cpu") -> Backbone:
        """Build the model on a device, and the roles named in ``adapters``; once."""
        if self.model is None:
            named = self.lora is not None and self.lora.target_modules != "all-linear"
            if self.lora is not None and (self.adapters or named):
                lora.validate_adapters(loading.skeleton(self.path), self.lora, self.adapters)
            dtype = torch.float32 if self.lora is None else loading.torch_dtype(self.dtype)
            self.attach(
                loading.load_causal_lm(
                    self.path, self.quantization, dtype, torch.device(device), self.attention
                )
            )
            if self.quantization is not None:
                loading.report_unquantized(self.base)
        return self

    def attach(self, model: PreTrainedModel) -> None:
        """Use a built model as the base, as ``load`` does; that of a memory plan holds no data."""
        self.model = model.requires_grad_(False)
        if "embedding" in self.offload:
            embedding_to_host(model)
        offloads = "activations" in self.offload
        try:
            self._runner = Runner.of(model, self.attention is None, offloads)
        except (RuntimeError, KeyError) as reason:  # the first forward
            self.model = None
            if self.quantization is None:
                raise
            raise ValueError(
                f"{type(model).__name__} does not run in 4 bits ({reason}): give quantization=None"
            ) from reason
        if self.gradient_checkpointing:
            old_name = model.gradient_checkpointing_enable  # before transformers 5.21
            enable = getattr(model, "activation_checkpointing_enable", old_name)
            enable({"use_reentrant": False, "context_fn": self.switch.checkpoint_contexts})
        try:
            for role in self.adapters:
                self.add_role(role, trainable=role != REFERENCE)
        except Exception:
            self.model = None  # not loaded, rather than half loaded
            self.roles.clear()
            raise

    def on_meta(self, model: PreTrainedModel) -> Backbone:
        """Copy the description, with its roles, onto a model without data: for a memory plan.

        Roles that start from folders get fresh adapters, since ``model`` may have fewer layers.

        Args:
            model: on meta.
        """
        copied = Backbone(
            self.name_or_path,
            self.quantization,
            self.lora,
            dtype=self.dtype,
            gradient_checkpointing=self.gradient_checkpointing,
            attention=self.attention,
            offload=self.offload,
            head_tile=self.head_tile,
        )
        found = {"path", "tokenizer", "context_length"} & self.__dict__.keys()
        copied.__dict__.update({name: self.__dict__[name] for name in found})
        copied.attach(model)
        for role in self.adapters:
            copied.add_role(role, head=role not in (POLICY, REFERENCE))
        return copied.to("meta")

    # ---- roles ----

    def add_role(
        self,
        name: str,
        trainable: bool = True,
        head: bool = False,
        init_from: str | None = None,
        shares: str | None = None,
    ) -> None:
        """Create a role; an existing role keeps its weights.

        It starts from its folder in ``adapters``, else as a copy of the role ``init_from``, else
        as a fresh adapter, which is the bare base until trained. A frozen role with nothing to
        start from *is* the bare base and costs nothing.

        Args:
            name: an identifier; the modules use policy, reference, reward and critic.
            trainable: True if it receives gradients.
            head: give it a scalar head, a copy of that of ``init_from`` if it has one.
            init_from: the role it starts as a copy of.
            shares: the role whose adapter it runs through; only the head is its own.

        Raises:
            ValueError: a second trained role without LoRA, or an adapter of another base.
        """
        if name not in self.roles:
            if shares is not None:
                self.roles[name] = Role(trainable, shares=shares)
            elif self.lora is None:
                self._add_whole_role(name, trainable)
            else:
                self._add_adapter_role(name, trainable, init_from)
        if head and name not in self.heads:
            self._add_head(name, init_from)
        self._restore_requires_grad()

    def _add_adapter_role(self, name: str, trainable: bool, init_from: str | None) -> None:
        folder = self.adapters.get(name)
        copied = init_from is not None and init_from in self.roles and self.roles[init_from].adapter
        if not trainable and folder is None and not copied:
            self.roles[name] = Role(trainable)
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
        self.switch.adapt(lora.layers(self.base), name)

    def _add_whole_role(self, name: str, trainable: bool) -> None:
        if not trainable:
            self._freeze_copy()
        elif any(role.trainable for role in self.roles.values()):
            taken = [n for n, role in self.roles.items() if role.trainable]
            raise ValueError(
                f"without LoRA the base holds one trained role, and {taken[0]!r} is it: "
                f"give lora=LoRA() to train {name!r} beside it"
            )
        self.roles[name] = Role(trainable, whole=True, copied=not trainable)

    def _freeze_copy(self) -> None:
        # Checkpointing's context_fn holds the switch, which must not be copied with the model.
        self.frozen = copy.deepcopy(self.base, {id(self.switch): self.switch}).requires_grad_(False)

    def _add_head(self, name: str, init_from: str | None) -> None:
        self.heads[name] = head = ScalarHead(self.hidden_size).to(self.base.device)
        if name in self.adapters:
            _, tensors = lora.read(Path(self.adapters[name]))
            export.read_head(head, tensors, self.adapters[name])
        elif init_from is not None and init_from in self.heads:
            head.load_state_dict(self.head(init_from).state_dict())

    def copy_role(self, source: str, target: str) -> None:
        """Copy a role's weights over another's, as iterated DPO does to its reference."""
        if self.lora is None:
            self._freeze_copy()
            return
        if not self.roles[target].adapter:
            self.roles.pop(target)
            self.add_role(target, trainable=False, init_from=source)
        lora.copy(self.base, source, target)

    def forward_weights(self, role: str) -> dict[str, Tensor]:
        """Collect the weights a role's log-probs depend on, by names that no other role changes."""
        if self.lora is None:
            return dict(self.model_of(role).named_parameters())
        weights: dict[str, Tensor] = {
            name.replace(".base_layer.", "."): weight
            for name, weight in self.base.named_parameters()
            if ".lora_" not in name
        }
        if "embedding" in self.offload:
            weights["embedding"] = self.base.get_input_embeddings().weight
        return weights | lora.parameters(self.base, role)

    def is_saved(self, key: str) -> bool:
        """Tell whether a checkpoint keeps a ``state_dict`` key; the frozen base is left out.

        Decides by name, since PEFT flips ``requires_grad`` as it switches adapters.
        """
        return self.lora is None or ".lora_" in key or key.startswith("heads.")

    # ---- saving ----

    def save_role(self, name: str, folder: str | Path, check: bool = True) -> Path:
        """Write a role for peft, transformers and vLLM, its tokenizer beside it.

        A policy is a plain PEFT adapter. A role with a head is a ``SEQ_CLS`` adapter that loads on
        ``AutoModelForSequenceClassification(num_labels=1)``, head included. Without LoRA, the whole
        model: a plain causal language model, or a sequence classifier.

        Args:
            name: the role.
            folder: made if absent. What it holds stays until the new files are checked.
            check: read the files again and compare their outputs with those of the role.

        Raises:
            ValueError: no such role, it is the bare base, it has no adapter of its own, or what was
                written differs from it.
        """
        if self.lora is None and name in self.heads:
            return self.save_merged(name, folder, "float32")
        tokenizer, base = self.tokenizer, self.public_name
        return saving.save_role(self, name, Path(folder), tokenizer, base=base, check=check)

    def save_merged(self, name: str, folder: str | Path, dtype: loading.DType = "bfloat16") -> Path:
        """Write base and adapter as one plain transformers model, dequantized before merging.

        A role with a head becomes an ``AutoModelForSequenceClassification`` of one output.

        Args:
            name: the role; one that is the bare base is written too.
            folder: made if absent. What it holds stays until the new files are checked.
            dtype: of the written weights.

        Raises:
            ValueError: no such role, it cannot be merged, or what was written differs from it.
        """
        if "embedding" in self.offload:
            raise ValueError("merging needs the embedding table: load without offload, then merge")
        written = loading.torch_dtype(dtype)
        return saving.save_merged(self, name, Path(folder), self.tokenizer, dtype=written)
