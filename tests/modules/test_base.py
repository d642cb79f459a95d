"""What every method says of itself: its rows, its largest step, and an objective without values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from torch import Tensor
from transformers import LlamaConfig

from lightning_rlhf import Backbone, LoRA
from lightning_rlhf.batches import PreferenceBatch, RankingBatch, TokenBatch, UnpairedBatch
from lightning_rlhf.modules.base import AlignmentModule
from lightning_rlhf.planning.plan import plan_step
from methods import METHODS, OFFLINE, ONLINE
from runs import Runs
from support import number_pairs


@pytest.fixture(scope="module")
def config_only(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that holds a config and no weights."""
    folder = tmp_path_factory.mktemp("config")
    LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=512,
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def make(method: str, path: str) -> AlignmentModule:
    return METHODS[method].make(Backbone(path, lora=LoRA(r=4), dtype="float32"))


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("method", METHODS)
def test_every_objective_runs_on_meta_tensors(config_only: str, method: str, target: Any) -> None:
    module = make(method, config_only)
    data = METHODS[method].data(number_pairs(4), max_length=32, batch_size=2)
    planned = plan_step(module, module.largest_step(data), target=target)
    assert {"forward as policy", "forward as reward"} & {phase.name for phase in planned.phases}
    assert planned.peak.total > 0
    assert not module.backbone.is_loaded


def shapes(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    if hasattr(batch, "_asdict"):
        return {name: shapes(value) for name, value in batch._asdict().items() if value is not None}
    return batch


@pytest.mark.parametrize("method", OFFLINE)
def test_an_example_is_the_datas_own_batch_but_for_content(runs: Runs, method: str) -> None:
    module, data = runs.make(method, rows=4, val_fraction=0.0)
    data.tokenizer = module.backbone.tokenizer
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    tokens = getattr(batch, "tokens", batch)
    example = module.example_batch(tokens.groups)
    assert type(example) is type(batch)
    assert shapes(example) == shapes(batch)


def test_methods_of_several_kinds_of_rows_tell_them_by_their_lengths(config_only: str) -> None:
    reward, kto = make("reward", config_only), make("kto", config_only)
    assert isinstance(reward.example_batch([(3, 2, 1)]), PreferenceBatch)
    assert isinstance(reward.example_batch([(3, 2, 1), (3, 2, 1, 1)]), RankingBatch)
    assert isinstance(kto.example_batch([(3, 2, 1)]), PreferenceBatch)
    single = kto.example_batch([(3, 2), (1, 1)])
    assert isinstance(single, UnpairedBatch)
    assert single.label.tolist() == [1, 1]
    assert isinstance(make("sft", config_only).example_batch([(3, 2)]), TokenBatch)
    assert plan_step(kto, [(3, 2), (4, 1)], target="cpu").peak.total > 0


def largest(method: str, path: str, completions: int = 2, **data: Any) -> Sequence[Sequence[int]]:
    rows = METHODS[method].data(number_pairs(4), **{"max_length": 20, "batch_size": 3, **data})
    return make(method, path).largest_step(rows, completions)


def test_the_largest_step_by_hand(config_only: str) -> None:
    """Half of 20 tokens to the prompt; of online methods 6 new tokens behind a whole one."""
    assert largest("sft", config_only) == [(10, 10)] * 3
    assert largest("dpo", config_only) == [(10, 10, 10)] * 3
    assert largest("kto", config_only, max_tokens=70) == [(10, 10, 10)] * 2
    assert largest("reward", config_only, completions=4) == [(10, 10, 10, 10, 10)] * 3
    assert largest("ppo", config_only, max_tokens=99) == [(20, 6)] * 4
    assert largest("grpo", config_only) == [(20, 6, 6)] * 3
    for method in METHODS:
        if method != "reward":
            with pytest.raises(ValueError, match="only a RewardModule learns from rankings, not"):
                largest(method, config_only, completions=4)


@pytest.mark.parametrize("method", ["dpo", "kto", *ONLINE])
def test_dropout_is_refused_where_two_forwards_are_compared(runs: Runs, method: str) -> None:
    with pytest.raises(ValueError, match=r"Module compares two forwards .* give LoRA\(dropout=0\)"):
        METHODS[method].make(runs.backbone(lora=LoRA(dropout=0.1)))
