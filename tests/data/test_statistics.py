"""Figures of a table of token rows, by hand."""

from __future__ import annotations

import numpy as np

from lightning_rlhf import Backbone, PreferenceData
from lightning_rlhf.data.statistics import batch_plan, figures_of


def test_figures_by_hand(tiny_base: str) -> None:
    rows = [
        {"prompt": "w1 w2", "chosen": "w3", "rejected": "w4 w5"},
        {"prompt": "w1 w2", "chosen": "w3", "rejected": "w4 w5"},
        {"prompt": "w1 w2", "chosen": "w4 w5", "rejected": "w3"},
        {"prompt": "w1", "chosen": "w3 w3 w3", "rejected": "w4 w5"},
    ]
    data = PreferenceData(rows, val_fraction=0, tokenizer=Backbone(tiny_base).tokenizer)
    data.setup()
    assert data.train_rows is not None
    found = figures_of(data.train_rows)
    assert found.prompt.tolist() == [2, 2, 2, 1]
    assert found.completion.tolist() == [2, 3, 2, 3, 3, 2, 4, 3]  # an end token each
    assert found.row.tolist() == [5, 5, 5, 5]
    assert found.tokens.tolist() == [7, 7, 7, 8]
    assert (found.loss_tokens, found.same_rows, found.same_prompts) == (22, 1, 2)
    plan = batch_plan(found, [[0, 1, 2], [3]])
    assert [x.tolist() for x in plan] == [[3, 1], [21, 8], [30, 10]]
    assert figures_of(data.train_rows.select(np.array([3, 0]))).tokens.tolist() == [8, 7]
