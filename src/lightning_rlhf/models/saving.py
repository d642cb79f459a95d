"""Write a role to a folder, and check what was written before it counts as saved."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from lightning_rlhf.models import export, parity
from lightning_rlhf.models.role_model import RoleModel
from lightning_rlhf.models.roles import Role


def save_role(
    model: RoleModel,
    name: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    base: str,
    check: bool,
) -> Path:
    """Write a role's adapter, or its whole model; see ``Backbone.save_role``.

    Args:
        model: loaded.
        name: the role.
        folder: made if absent.
        tokenizer: of the base.
        base: the name by which others find the base.
        check: compare what was written with the role.
    """
    role = _saved(model, name)
    if not (role.adapter or role.whole):
        raise ValueError(f"role {name!r} is the bare base {base}: nothing to save")
    with replacing(folder) as partial:
        if role.adapter:
            head = model.head(name) if name in model.heads else None
            export.save_adapter(model.base, name, partial, base, head)
        else:
            model.model_of(name).save_pretrained(partial)
        _tokenizer_of(model, name, tokenizer).save_pretrained(partial)
        if check:
            compare = parity.check_adapter if role.adapter else parity.check_model
            compare(model, name, partial, tokenizer)
    return folder


def save_merged(
    model: RoleModel,
    name: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype,
) -> Path:
    """Write a role as a plain transformers model; see ``Backbone.save_merged``."""
    role = _saved(model, name)
    head = model.head(name) if name in model.heads else None
    own = _tokenizer_of(model, name, tokenizer)
    adapter = name if role.adapter else None
    plain = export.merged_model(
        model.model_of(name), adapter, dtype, head=head, pad_id=own.pad_token_id
    )
    with replacing(folder) as partial:
        plain.save_pretrained(partial)
        own.save_pretrained(partial)
        del plain  # before it is read again
        parity.check_model(model, name, partial, tokenizer)
    return folder


def _tokenizer_of(
    model: RoleModel, name: str, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    return export.reward_tokenizer(tokenizer) if name in model.heads else tokenizer


def _saved(model: RoleModel, name: str) -> Role:
    """Return a role that can be written.

    Raises:
        ValueError: there is none of this name, or it runs through another's adapter.
    """
    role = model.roles.get(name)
    if role is None:
        there = ", ".join(model.roles) or "none yet: call load(), or fit a module"
        raise ValueError(f"no role {name!r} to save; the backbone has {there}")
    if role.shares is not None:
        raise ValueError(
            f"role {name!r} runs through the adapter of {role.shares!r} and has only a head of "
            "its own: it is saved by its checkpoint"
        )
    return role


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a new folder beside ``folder``, and move its files there if nothing was raised.

    Weights that were there before go too: ``from_pretrained`` would read an old shard beside the
    new ones. Anything else in the folder stays.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        folder.mkdir(parents=True, exist_ok=True)
        new = {file.name for file in partial.iterdir()}
        for old in folder.glob("*.safetensors*"):
            if old.name not in new:
                old.unlink()
        for file in partial.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
