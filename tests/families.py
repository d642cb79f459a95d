"""Tiny models of every family of causal language models that transformers can build.

``python tests/families.py FILE`` walks them through every method and writes a table.
"""

from __future__ import annotations

import logging
import random
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lightning_rlhf.data.collate import completion_batch, token_batch
from lightning_rlhf.models import parity
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.sampler import HFSampler, Sampling
from lightning_rlhf.planning.budget import run_of
from lightning_rlhf.quickstart.model import word_tokenizer
from runs import Runs, enumerate_names
from support import NUMBERS

TOKENIZER = word_tokenizer(NUMBERS)
IDS = {
    "vocab_size": len(TOKENIZER),
    "pad_token_id": TOKENIZER.pad_token_id,
    "bos_token_id": TOKENIZER.bos_token_id,
    "eos_token_id": TOKENIZER.eos_token_id,
}

# encoders and encoder-decoders that are listed as causal too, and models of other inputs than text
NOT_TEXT_DECODERS = frozenset(
    "bart bert bert-generation big_bird bigbird_pegasus blenderbot blenderbot-small camembert "
    "data2vec-text electra ernie git got_ocr2 marian mbart megatron-bert mllama moshi musicgen "
    "musicgen_melody mvp pegasus plbart prophetnet reformer rembert roberta roberta-prelayernorm "
    "roc_bert roformer trocr whisper xlm xlm-roberta xlm-roberta-xl xmod xlnet fuyu emu3 blt "
    "moss_transcribe_diarize".split()
)
# sizes by the names that configs give them; a family takes those it knows
SIZES: dict[str, Any] = {
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "n_embed": 64, "dim": 64,
    "intermediate_size": 128, "ffn_dim": 128, "ffn_hidden_size": 128, "n_inner": 128,
    "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "n_positions": 128,
    "n_ctx": 128, "max_seq_len": 128, "word_embed_proj_dim": 64,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_topk": 2, "moe_k": 2, "top_k_experts": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "expert_ffn_hidden_size": 64,
    # latent attention
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    # state spaces and linear attention
    "state_size": 16, "mamba_d_state": 16, "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_d_ssm": 128, "mamba_num_heads": 8, "mamba_head_dim": 16, "num_heads": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "attention_hidden_size": 64, "lru_width": 64, "n_groups": 1,
    "mamba_n_groups": 1, "mamba_ngroups": 1, "time_step_rank": 4, "expand": 2,
    "sliding_window": 8, "initializer_range": 0.1, "init_std": 0.1,
}  # fmt: skip
# what a family needs beside or instead of these
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 8},
    "falcon": {"num_kv_heads": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"head_dim": 16, "num_heads": 8},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "attention_window_size": 64},
    "zaya": {"num_experts_per_tok": 1},
}


def families() -> list[str]:
    """List the families that are text decoders."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - NOT_TEXT_DECODERS)


def tiny_config(family: str, ids: dict[str, int]) -> PretrainedConfig:
    """Make the config of a tiny model.

    Args:
        family: transformers' ``model_type``.
        ids: vocabulary and special tokens.
    """
    known = AutoConfig.for_model(family).to_dict()
    own = {key: value for key, value in SIZES.items() if key in known}
    if "qk_rope_head_dim" in known:  # latent attention has no groups
        own["num_key_value_heads"] = own["num_attention_heads"]
        own = {**own, "head_dim": own["qk_rope_head_dim"]} if "head_dim" in known else own
    if isinstance(types := known.get("layer_types"), list):
        last = [t for t in dict.fromkeys(types) if "full" in t or t == "attention"]
        own["layer_types"] = [types[0], (last or types)[-1]]
    return AutoConfig.for_model(family, **{**own, **OWN.get(family, {}), **ids})


def tiny_model(family: str, ids: dict[str, int], seed: int = 0) -> PreTrainedModel:
    """Build a tiny model with random weights.

    Raises:
        Exception: whatever transformers says where the sizes above do not fit.
    """
    torch.manual_seed(seed)
    config = tiny_config(family, ids)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config).num_parameters()
    if size > 5e6:
        raise ValueError(f"{size / 1e6:.0f} million parameters")
    model = AutoModelForCausalLM.from_config(config).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logits = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits
    if not logits.isfinite().all():
        raise ValueError("logits that are not finite")
    return model


def walk(family: str, folder: Path) -> dict[str, str]:
    """Take a tiny model of a family through every method and every form of saving.

    Returns:
        What came of each: "ok", a number, "refused: ..." with a sentence of ours, or "broken: ..."
        with anybody else's exception.
    """
    base = folder / family
    try:
        tiny_model(family, IDS).save_pretrained(base)
    except Exception as reason:
        return {"load": f"not built: {_short(reason)}"}
    TOKENIZER.save_pretrained(base)
    runs = Runs(str(base), folder, logger=False)
    cells = {"load": _tried(lambda: runs.backbone().load() and "ok")}
    for method in ("sft", "reward", "dpo", "kto", "ppo"):
        cells[method] = _tried(lambda method=method: _fit(runs, method))
    cells["gap"] = _tried(lambda: _gap(runs))
    cells["nf4"] = _tried(lambda: _fit(runs, "dpo", quantization="nf4"))
    for form in (_saved, _merged, _classifier, _planned):
        cells[form.__name__.strip("_")] = _tried(lambda form=form: form(runs, folder))
    return cells


def _fit(runs: Runs, method: str, quantization: Any = None) -> str:
    module, data = runs.make(method, quantization, rows=8, max_length=48)
    before = None
    trainer = runs.trainer(max_steps=2, max_epochs=-1, num_sanity_val_steps=0)
    module.configure_model = partial(_loaded, module, module.configure_model)  # type: ignore[method-assign]
    trainer.fit(module, data)
    before, after = module.first, runs.weights(module)  # type: ignore[attr-defined]
    assert before, "nothing is trained"
    assert all(w.isfinite().all() for w in after.values()), "weights that are not finite"
    still = [n for n in after if torch.equal(before[n], after[n])]
    return "ok" if len(still) <= len(after) // 2 else f"{len(still)} of {len(after)} did not move"


def _gap(runs: Runs) -> str:
    """Largest difference of the sampler's log-probs from the trainer's, over ragged prompts."""
    backbone = _trained(runs, "policy")
    draw = random.Random(0)
    prompts = [[draw.randrange(4, len(TOKENIZER)) for _ in range(n)] for n in (2, 7, 4)]
    sampling = Sampling(max_new_tokens=8)
    samples = HFSampler().sample(backbone, "policy", prompts, sampling)
    tokens = completion_batch(prompts, [s.ids for s in samples], range(3))
    with torch.no_grad():
        own = backbone.logprobs(tokens, "policy")
    theirs = torch.tensor([lp for s in samples for lp in s.logprobs])
    gap = float((own - theirs).abs().max())
    assert gap < 1e-2, f"sampler and trainer differ by {gap:.0e} nats"
    return f"{gap:.0e}"


def _loaded(module: Any, configure: Any) -> None:
    configure()
    if not hasattr(module, "first"):
        module.first = {
            n: p.detach().clone()
            for role in module.trained
            for n, p in enumerate_names(module.backbone, role)
        }


def _trained(runs: Runs, role: str, head: bool = False) -> Backbone:
    backbone = runs.backbone().load()
    backbone.add_role(role, head=head)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.role_parameters(role):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return backbone


def _saved(runs: Runs, folder: Path) -> str:
    """Save a policy, read it with plain peft, and compare the logits."""
    backbone = _trained(runs, "policy")
    written = backbone.save_role("policy", folder / "role")
    plain = AutoModelForCausalLM.from_pretrained(runs.base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(plain, str(written)).eval()
    rows = parity.probe_rows(backbone.tokenizer, len(TOKENIZER))
    ids = torch.tensor([row.prompt_ids + row.completion_ids[0] for row in rows])
    with torch.no_grad():
        logits = theirs(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        own = backbone.logits(token_batch(rows), "policy")
    return f"{parity.relative_error(own, logits):.0e}"


def _merged(runs: Runs, folder: Path) -> str:
    backbone = _trained(runs, "policy")
    backbone.save_merged("policy", folder / "merged", "float32")
    return "ok"


def _classifier(runs: Runs, folder: Path) -> str:
    backbone = _trained(runs, "reward", head=True)
    backbone.save_merged("reward", folder / "classifier", "float32")
    return "ok"


def _planned(runs: Runs, folder: Path) -> str:
    module, data = runs.make("ppo", rows=8, max_length=48)
    run = run_of(module, data, "32-true", "cuda", accumulates=False, completions=2)
    return f"{run.plan().peak.total / 2**20:.0f} MiB"


def _tried(act: Callable[[], str]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return act()
    except Exception as reason:
        last = traceback.extract_tb(reason.__traceback__)[-1].filename
        ours = "lightning_rlhf" in last and isinstance(reason, ValueError | FileNotFoundError)
        return f"{'refused' if ours else 'broken'}: {_short(reason)}"


def _short(reason: Exception) -> str:
    text = " ".join(str(reason).split())
    return text if isinstance(reason, ValueError) else f"{type(reason).__name__} {text}"


COLUMNS = ["load", "sft", "reward", "dpo", "kto", "ppo", "gap", "nf4", "saved", "merged",
           "classifier", "planned"]  # fmt: skip
HEAD = """# Families of causal language models

`make bench-families` writes this table: tiny random models of every family that transformers can
build, through two steps of each method. "gap" is the largest difference of the sampler's log-probs
from the trainer's (nats, ragged prompts), "saved" the relative error of the adapter in plain peft,
"merged" and "classifier" the merged model's check, "planned" the peak of PPO's plan on a card.
"refused" is a sentence of ours, "broken" anybody else's exception; the numbers are notes.
"""


def main(file: Path, names: list[str]) -> None:
    """Write a Markdown table of some families, or of all."""
    logging.disable(logging.WARNING)
    rows, notes = [], dict[str, int]()
    for family in names or families():
        with tempfile.TemporaryDirectory() as folder:
            cells = walk(family, Path(folder))
        for column, text in cells.items():
            kind, colon, reason = text.partition(": ")
            reason = reason.replace(family, "FAMILY").replace("|", "/")
            reason = re.sub(r"\w+For\w+(?= cannot be merged| does not run)", "MODEL", reason)
            if colon:
                cells[column] = f"{kind} ({notes.setdefault(reason, len(notes) + 1)})"
        rows.append(f"| {family} | {' | '.join(cells.get(c, '') for c in COLUMNS)} |")
        print(rows[-1], flush=True)
        head = f"| family | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|"
        listed = "\n".join(f"{number}. {reason}" for reason, number in notes.items())
        table = "\n".join(rows)
        file.write_text(f"{HEAD}\n{head}\n{table}\n\n{listed}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
