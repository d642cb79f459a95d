"""The plan of a step: the same bytes as a real one, from a config alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config

from lightning_rlhf import Backbone, DPOModule, KTOModule, LoRA, RewardModule, SFTModule
from lightning_rlhf.models import loading, lora
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning import meta
from lightning_rlhf.planning.budget import Run, changes, largest, stepping_of
from lightning_rlhf.planning.plan import (
    ADAPTERS,
    GIB,
    GRADIENTS,
    WEIGHTS,
    Stepping,
    _run,
    plan_step,
)
from lightning_rlhf.planning.tracker import MemoryTracker
from lightning_rlhf.training.optim import fused_adamw

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 8192,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PAIRS = [(40, 30, 50), (20, 60, 10)]
METHODS = {"sft": SFTModule, "reward": RewardModule, "dpo": DPOModule}
GROUPS = {"sft": [(40, 30), (20, 60)], "reward": PAIRS, "dpo": PAIRS}


@pytest.fixture(scope="module")
def config_only(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that holds a config and not one weight."""
    folder = tmp_path_factory.mktemp("config")
    LlamaConfig(**SHAPE).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
    return str(folder)


def described(path: str, method: str, **options: Any) -> AlignmentModule:
    settings = {"lora": LoRA(r=4), "dtype": "float32", **options}
    return METHODS[method](Backbone(path, **settings))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("method", METHODS)
def test_meta_takes_what_a_real_step_takes(
    model: str, method: str, quantization: Any, checkpointing: bool
) -> None:
    options = {"quantization": quantization, "gradient_checkpointing": checkpointing}
    planned = plan_step(described(model, method, **options), GROUPS[method], target="cpu")
    module = described(model, method, **options)
    module.configure_model()
    module.train()
    backbone = module.backbone
    batch = module.example_batch(GROUPS[method])
    stage = "forward"
    tracker = MemoryTracker(
        lambda: f"{stage} as {backbone.switch.active}" if stage == "forward" else stage, 512
    )
    tracker.hold(ADAPTERS, [p for n, p in backbone.named_parameters() if backbone.is_saved(n)])
    tracker.hold(WEIGHTS, meta.storages(backbone))
    trained = [p for role in module.trained for p in backbone.role_parameters(role)]
    tracker.live["optimizer"] = 8 * sum(p.numel() for p in trained)
    with tracker:
        loss = module.objective(batch).value
        stage = "backward"
        loss.backward()
    for phase in planned.phases:
        if phase.name in tracker.peaks:
            found = sum(tracker.peaks[phase.name].values())
            assert phase.total == pytest.approx(found, rel=0.02), phase.name
    assert {"backward"} <= {p.name for p in planned.phases} & tracker.peaks.keys()


@pytest.mark.parametrize("method", METHODS)
def test_two_depths_say_what_full_depth_says(config_only: str, method: str) -> None:
    module = described(config_only, method)
    config = meta.read_config(config_only)
    settings = {"precision": "32-true", "target": "cpu", "stepping": Stepping()}
    whole = _run(module, GROUPS[method], config, 6, **settings)
    planned = plan_step(module, GROUPS[method], target="cpu")
    for phase in planned.phases:
        assert phase.total == pytest.approx(sum(whole[phase.name].values()), rel=1e-3)


def test_every_objective_runs_without_a_weight(config_only: str) -> None:
    backbone = Backbone(config_only, lora=LoRA(r=4), dtype="bfloat16", quantization="nf4")
    for module, groups in (
        (DPOModule(backbone, wpo=True, ld_alpha=0.5), PAIRS),
        (RewardModule(backbone), [(10, 5, 6, 7, 8)]),
        (RewardModule(backbone, ranking="plackett_luce"), [(10, 5, 6, 7, 8)]),
        (KTOModule(backbone), PAIRS),
    ):
        for target in ("cpu", "cuda"):
            planned = plan_step(module, groups, "bf16-mixed", target)  # type: ignore[arg-type]
            assert planned.peak.total > 0
    assert not backbone.is_loaded


def test_roles_that_start_from_a_folder_are_planned(
    config_only: str, model: str, tmp_path: Path
) -> None:
    """The reference is then an adapter of its own, a copy of the policy's."""
    trained = described(model, "dpo")
    trained.configure_model()
    lora.save(trained.backbone.base, "policy", tmp_path, {}, task_type="CAUSAL_LM")
    there = described(config_only, "dpo", adapters={"policy": str(tmp_path)})
    fresh = described(config_only, "dpo")
    more, less = (plan_step(m, PAIRS, target="cpu").peak.kinds[ADAPTERS] for m in (there, fresh))
    assert more == 2 * less


def test_layers_are_planned_in_whole_periods(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    config = Qwen2Config(**SHAPE, layer_types=kinds, use_sliding_window=True, sliding_window=16)
    assert meta.period(config) == 3
    config.save_pretrained(tmp_path)
    planned = plan_step(described(str(tmp_path), "dpo"), PAIRS, target="cpu")
    assert {p.name for p in planned.phases} >= {"forward as reference", "forward as policy"}


def test_weights_are_counted_to_the_byte(config_only: str, model: str) -> None:
    for quantization in (None, "nf4"):
        made = loading.load_causal_lm(model, quantization, torch.bfloat16, torch.device("cpu"))
        held = {t.untyped_storage().data_ptr(): t.nbytes for t in meta.storages(made)}
        module = described(config_only, "dpo", quantization=quantization, dtype="bfloat16")
        planned = plan_step(module, PAIRS, "bf16-mixed", "cpu").peak.kinds[WEIGHTS]
        assert planned == pytest.approx(sum(held.values()), abs=4096)  # rotary tables


# ---- what a card allows ----


def run(path: str, **fields: Any) -> Run:
    backbone = Backbone(path, lora=LoRA(r=4), dtype="bfloat16")
    config = meta.read_config(path)
    defaults = Run(
        DPOModule(backbone), [(128, 128, 128)] * 4, "bf16-mixed", "cpu", Stepping(), config
    )
    return defaults._replace(**fields)


@pytest.mark.parametrize(("field", "step"), [("rows", 1), ("length", 64)])
def test_the_largest_fits_and_a_little_more_does_not(
    config_only: str, field: str, step: int
) -> None:
    asked = run(config_only).resized(rows=1)
    memory = 3 * asked.plan().peak.total
    most = largest(asked, memory, field)

    def peak(value: int) -> float:
        return asked.resized(**{field: value}).plan().peak.total

    assert peak(most) <= memory
    assert peak(int(most * 1.06) + 2 * step) > memory
    assert largest(asked, 1000, field) == 0


def test_changes_are_planned_and_sorted(config_only: str) -> None:
    asked = run(config_only)
    peak = asked.plan().peak.total
    found = changes(asked, peak * 0.7)
    names = [change.name for change in found]
    assert "gradient_checkpointing: true" in names
    assert "quantization: nf4" in names
    assert "2 rows to a step" in names
    assert [c.saves for c in found] == sorted((c.saves for c in found), reverse=True)
    half = next(c for c in found if c.name == "2 rows to a step")
    assert half.saves == peak - run(config_only).resized(rows=2).plan().peak.total
    assert half.fits == (peak - half.saves <= 0.7 * peak)


def test_an_embedding_on_the_host_is_off_the_card(config_only: str) -> None:
    there = described(config_only, "dpo", dtype="bfloat16")
    gone = described(config_only, "dpo", dtype="bfloat16", offload=["embedding"])
    with_, without = (
        plan_step(m, PAIRS, "bf16-mixed", "cpu").peak.kinds[WEIGHTS] for m in (there, gone)
    )
    assert with_ - without == 512 * 64 * 2


def test_activations_on_the_host_are_off_the_card(
    config_only: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_rlhf.models.offload.SMALLEST", 1024)
    kept, parked = (
        plan_step(
            described(config_only, "reward", gradient_checkpointing=True, offload=offload),
            [(300, 100, 100)], target="cuda",
        )
        for offload in ([], ["activations"])
    )  # fmt: skip
    assert parked.peak.total < kept.peak.total


def test_what_an_optimizer_takes_is_known_by_name() -> None:
    assert stepping_of(None) == (8, 0, False)
    assert stepping_of(lambda params: fused_adamw(params, lr=1e-3)) == (8, 0, False)
    assert stepping_of(lambda params: torch.optim.AdamW(params, foreach=False)) == (8, 0, False)
    assert stepping_of(torch.optim.AdamW) == (8, 4, False)
    assert stepping_of(lambda params: torch.optim.SGD(params, lr=1e-3)) == (4, 0, False)

    class AdamW8bit(torch.optim.SGD):
        pass

    assert stepping_of(lambda params: AdamW8bit(params, lr=1e-3)) == (2, 0, False)


def test_rows_of_data_keep_their_shape_when_resized(config_only: str) -> None:
    found = run(config_only, groups=[(30, 10, 20), (8, 4)])
    assert (found.rows, found.length) == (2, 50)
    assert found.resized(rows=3).groups == [[30, 10, 20], [8, 4], [30, 10, 20]]
    assert found.resized(length=25).groups == [[15, 5, 10], [4, 2]]


def test_gradients_that_wait_are_in_the_forward(config_only: str) -> None:
    """By hand: 4 bytes per weight of the adapters, which are all that is trained."""
    module = described(config_only, "sft")
    plans = [
        plan_step(module, GROUPS["sft"], target="cpu", stepping=Stepping(accumulates=on))
        for on in (False, True)
    ]
    fresh, waiting = ({p.name: p for p in plan.phases} for plan in plans)
    adapters = fresh["forward as policy"].kinds[ADAPTERS]
    more = waiting["forward as policy"].total - fresh["forward as policy"].total
    assert more == waiting["forward as policy"].kinds[GRADIENTS] == adapters
    assert fresh["optimizer"].total == pytest.approx(waiting["optimizer"].total, abs=64)
    scratch = plan_step(module, GROUPS["sft"], target="cpu", stepping=Stepping(8, 4))
    assert scratch.phases[-1].total - fresh["optimizer"].total == adapters


def test_an_eight_billion_model_in_seconds_and_on_twelve_gib(tmp_path: Path) -> None:
    LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    ).save_pretrained(tmp_path)  # fmt: skip
    backbone = Backbone(
        str(tmp_path), quantization="nf4", dtype="bfloat16", gradient_checkpointing=True
    )
    planned = plan_step(DPOModule(backbone), [(512, 512, 512)], "bf16-mixed")
    assert 6 * GIB < planned.peak.total < 9 * GIB
    assert planned.peak.kinds[WEIGHTS] == pytest.approx(5.31 * GIB, rel=0.01)
