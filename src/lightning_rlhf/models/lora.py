"""LoRA adapters by role: create, switch, read and write in PEFT's own format."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightning_rlhf.functional.finite import refuse_nan
from lightning_rlhf.models import loading
from lightning_rlhf.models.heads import decoder_of
from lightning_rlhf.text.reading import reading
from lightning_rlhf.text.suggest import nearest

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."  # of the names of a model wrapped by PeftModel
SCORE = PEFT_PREFIX + "score.weight"  # PEFT's name of a sequence classifier's head


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation (arXiv 2106.09685) of every linear layer of the base.

    Attributes:
        r: rank.
        alpha: scale; the update is ``alpha / r * B A``.
        dropout: on the adapter's input. DPO and PPO compare two forwards of one text and need 0.
        target_modules: PEFT's names of the layers to adapt, such as ["q_proj", "embed_tokens"], or
            one regular expression; "all-linear" leaves out the output head.
        use_rslora: scale by ``alpha / sqrt(r)`` (arXiv 2312.03732).
        use_dora: learn the norm of each weight's columns too (arXiv 2402.09353).
        rank_pattern: layer name or regular expression -> its own rank.
        alpha_pattern: layer name or regular expression -> its own alpha.
        layers_to_transform: numbers of the decoder layers to adapt; None for all.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    _: KW_ONLY
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, int] | None = None
    layers_to_transform: list[int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.r, int) or self.r < 1 or not isinstance(self.alpha, int | float):
            raise ValueError(f"LoRA needs r of 1 or more and alpha, got {self.r!r}, {self.alpha!r}")

    def config(self) -> LoraConfig:
        """Convert to PEFT's configuration."""
        targets = self.target_modules
        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            rank_pattern=dict(self.rank_pattern or {}),
            alpha_pattern=dict(self.alpha_pattern or {}),
            layers_to_transform=self.layers_to_transform,
            task_type="CAUSAL_LM",
        )


def inject(model: nn.Module, role: str, config: LoraConfig) -> None:
    """Add a new adapter, named after its role, to every target layer, in fp32.

    PEFT would use the base's dtype: in bf16 at a small learning rate hardly an entry moves.
    """
    _check_targets(model, config.target_modules)
    if config.target_modules == "all-linear" and not config.exclude_modules:
        config.exclude_modules = _left_alone(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        # a merged model is written with untied weights
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        inject_adapter_in_model(config, model, adapter_name=role)
    for parameter in parameters(model, role).values():
        parameter.data = parameter.data.float()


def _left_alone(model: nn.Module) -> str | None:
    """Match the linear layers that "all-linear" does not adapt; None if there are none.

    They are those outside of the text decoder (vision and audio towers), the routers of experts,
    and the projections of state spaces whose weights are used without their forward.
    """
    if not isinstance(model, PreTrainedModel):
        return None
    output = model.get_output_embeddings()  # PEFT leaves it out
    inside = {id(m) for m in decoder_of(model).modules()}
    mamba = {n for n, m in model.named_modules() if hasattr(m, "conv1d") and hasattr(m, "out_proj")}
    names = [
        name.replace(".base_layer", "")
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, LoraLayer))
        and module is not output
        and (
            id(module) not in inside
            or name.rsplit(".", 1)[-1] in ("router", "gate", "shared_expert_gate")
            or (name.rpartition(".")[0] in mamba and name.endswith((".out_proj", ".dt_proj")))
        )
    ]
    return "|".join(map(re.escape, names)) or None


def _check_targets(model: nn.Module, targets: str | Collection[str]) -> None:
    """Refuse a target without a layer; PEFT ignores it if other targets have layers.

    Raises:
        ValueError: names the target and the layers there are.
    """
    if targets == "all-linear":
        return
    names = [name.replace(".base_layer", "") for name, _ in model.named_modules()]
    if isinstance(targets, str):
        lost = [] if any(re.fullmatch(targets, n) for n in names) else [targets]
    else:
        lost = [t for t in sorted(targets) if not any(f".{n}".endswith(f".{t}") for n in names)]
    if not lost:
        return
    own = (nn.Linear, LoraLayer)
    linear = sorted({n.split(".")[-1] for n, m in model.named_modules() if isinstance(m, own)})
    near = nearest(lost[0], linear)
    meant = f"; did you mean {near!r}?" if near else ";"
    raise ValueError(
        f"LoRA target_modules {lost} name no layer of this model{meant} "
        f'Its linear layers are {linear}, or use "all-linear"'
    )


def validate_adapters(skeleton: nn.Module, shape: LoRA, adapters: dict[str, str]) -> None:
    """Try adapters on a model without data, so that a misfit is found before the base is loaded.

    Args:
        skeleton: the base on meta.
        shape: of new adapters.
        adapters: role -> PEFT folder.

    Raises:
        FileNotFoundError, ValueError: like ``read``, ``inject`` and ``load``.
    """
    _check_targets(skeleton, shape.config().target_modules)
    for role, folder in adapters.items():
        load_adapter(skeleton, role, *read(Path(folder)), Path(folder))


def load_adapter(
    model: nn.Module, role: str, config: LoraConfig, tensors: dict[str, Tensor], folder: Path
) -> None:
    """Add a role's adapter with the weights of a folder.

    Raises:
        ValueError: an adapter of another base, or one that is more than LoRA.
    """
    _refuse_more_than_lora(config, folder)
    config.modules_to_save, config.inference_mode = None, False  # heads are ours
    config.init_lora_weights = True  # the folder's weights replace any other initial ones
    try:
        inject(model, role, config)
    except ValueError as error:
        raise ValueError(f"{folder} holds an adapter of another base model: {error}") from error
    load(model, role, tensors, folder)


# Initializations that change the base's weights as well
CHANGE_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


def _refuse_more_than_lora(config: LoraConfig, folder: Path) -> None:
    """Refuse what an adapter of a role cannot carry.

    Raises:
        ValueError: it trained whole modules or single tokens, or it fits another base's weights.
    """
    kind = config.init_lora_weights
    if isinstance(kind, str) and kind.lower().startswith(CHANGE_THE_BASE):
        raise ValueError(
            f"{folder} was initialized by {kind!r}, which changed the base's weights too: write it "
            "again with peft's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    whole = [m for m in config.modules_to_save or () if m not in ("score", "classifier")]
    if whole or config.trainable_token_indices:
        what = f"{whole} whole" if whole else "single rows of the embedding"
        raise ValueError(
            f"{folder} trained {what}, more than LoRA layers, which no role carries: merge it into "
            'its base and start from that; target_modules=["embed_tokens"] adapts an embedding'
        )


def layers(model: nn.Module) -> list[LoraLayer]:
    """List the layers that have adapters."""
    return [m for m in model.modules() if isinstance(m, LoraLayer)]


def parameters(model: nn.Module, role: str) -> dict[str, nn.Parameter]:
    """A role's adapter parameters, found by name, since PEFT flips ``requires_grad``."""
    own = re.compile(rf"\.lora_\w+\.{role}(\.|$)")  # the name ends so on an embedding
    return {n: p for n, p in model.named_parameters() if own.search(n)}


def _on_disk(model: nn.Module, role: str) -> dict[str, Tensor]:
    """Map PEFT's names on disk to a role's adapter parameters."""
    named = get_peft_model_state_dict(
        model, parameters(model, role), adapter_name=role, save_embedding_layers=False
    )
    return {PEFT_PREFIX + name: tensor for name, tensor in named.items()}


def activate(adapted: list[LoraLayer], role: str | None) -> None:
    """Make the forward use one role's adapter, or the bare base.

    PEFT freezes every adapter but the active one as it switches. The caller must restore
    ``requires_grad`` afterwards, else an optimizer built before would train nothing.
    """
    for layer in adapted:
        if role is None:
            layer.enable_adapters(False)
        else:
            layer._disable_adapters = False  # enable_adapters(True) would set the old adapter first
            layer.set_adapter(role)


def cast_inputs(adapted: list[LoraLayer], wanted: bool) -> None:
    """Switch the cast of adapters' inputs to fp32, which PEFT always makes.

    Under autocast it is a detour from bf16 to fp32 and back. Every adapted layer then keeps a copy
    of its input for the backward, which is a sixth of a step's memory.
    """
    for layer in adapted:
        layer.cast_input_dtype_enabled = wanted


def remove(model: nn.Module, role: str) -> None:
    """Delete a role's adapter."""
    for layer in layers(model):
        if role in layer.scaling:
            with warnings.catch_warnings():  # it says which adapter is active afterwards
                warnings.filterwarnings("ignore", message="Adapter .* was active")
                layer.delete_adapter(role)
    model.peft_config.pop(role)  # type: ignore[union-attr,operator]


def copy(model: nn.Module, source: str, target: str) -> None:
    """Copy one role's adapter weights over another's."""
    pairs = zip(parameters(model, source).values(), parameters(model, target).values(), strict=True)
    with torch.no_grad():
        for old, new in pairs:
            if not old.is_meta:  # weights of a memory plan hold no data
                new.copy_(old)


def save(
    model: nn.Module, role: str, folder: Path, extra: dict[str, Tensor], **config: object
) -> None:
    """Write a role as PEFT does: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        model: the adapted base.
        role: the adapter to write.
        folder: made if absent.
        extra: further tensors by PEFT's names (a score head).
        config: fields of the written ``LoraConfig`` that differ from the injected one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: p.detach().cpu().contiguous() for n, p in _on_disk(model, role).items()}
    save_file({**tensors, **extra}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    peft_config = LoraConfig.from_peft_type(
        **{**model.peft_config[role].to_dict(), "inference_mode": True, **config}  # type: ignore[union-attr,index]
    )
    peft_config.save_pretrained(str(folder))


def read(folder: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Read the config and tensors of a PEFT folder or hub id.

    Raises:
        FileNotFoundError: the folder has no adapter.
        ValueError: a file of it is damaged.
    """
    folder = loading.adapter_folder(str(folder)) or folder
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}: "
                "give a folder written by save_role or by peft's save_pretrained"
            )
    fix = "save the role again, from its checkpoint or its run, or give another folder"
    with reading(f"the adapter's {folder / CONFIG_FILE}", fix):
        config = LoraConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{folder} holds a {type(config).__name__}, not a LoRA adapter: give one")
    with reading(f"the adapter's {folder / WEIGHTS_FILE}", fix):
        tensors = load_file(folder / WEIGHTS_FILE)
    refuse_nan(tensors, str(folder), "give another folder")
    return config, tensors


def load(model: nn.Module, role: str, tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill a role's adapter from PEFT-named tensors; both must have exactly the same names.

    Raises:
        ValueError: the adapter was trained on another base, or with more than LoRA layers.
    """
    base = dict(model.named_parameters(remove_duplicate=False))
    more = [
        name
        for name, tensor in tensors.items()
        if ".lora_" not in name and name != SCORE and not _repeats(base, name, tensor)
    ]
    if more:
        raise ValueError(
            f"{folder} trained more than LoRA layers, such as {more[0]!r}, which no role carries: "
            "merge it into its base and start from that"
        )
    own = _on_disk(model, role)
    given = {n: t for n, t in tensors.items() if ".lora_" in n}
    wrong = sorted(own.keys() ^ given.keys()) or sorted(
        n for n in own if own[n].shape != given[n].shape
    )
    if wrong:
        raise ValueError(
            f"{folder} holds an adapter of another base model: {len(wrong)} of {len(own)} tensors "
            f"do not fit, the first {wrong[0]!r}; load it on the base its adapter_config.json names"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(given[name])


def _repeats(base: dict[str, nn.Parameter], name: str, tensor: Tensor) -> bool:
    """Tell whether a tensor is the base's own, which PEFT writes beside an adapted embedding."""
    own = base.get(name.removeprefix(PEFT_PREFIX))
    if own is None or own.shape != tensor.shape:
        return False
    return own.is_meta or torch.equal(own.detach().to(tensor.device, tensor.dtype), tensor)
