"""A role loaded from its folder, with its reference."""

from __future__ import annotations

import pytest
import torch

from lightning_rlhf.models.saved import base_of, load_role


def test_a_saved_role_is_the_policy(build, tokens, tmp_path):
    trained = build("policy")
    folder = str(trained.save_role("policy", tmp_path / "policy"))
    loaded = load_role(folder, None, None, "float32")
    assert base_of(folder) == trained.path
    assert not any(p.requires_grad for p in loaded.parameters())
    with torch.no_grad():
        ours, theirs = (b.logprobs(tokens, "policy") for b in (loaded, trained))
        bare = loaded.logprobs(tokens, "reference")
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, bare)


def test_a_model_is_a_policy_without_an_adapter(base):
    loaded = load_role(base, None, None, "float32")
    assert base_of(base) == base
    assert set(loaded.roles) == {"policy"}
    assert not loaded.roles["policy"].adapter


def test_two_bases_are_refused(build, other_base, tmp_path):
    folder = str(build("policy").save_role("policy", tmp_path / "policy"))
    with pytest.raises(ValueError, match="give two adapters of one base"):
        load_role(folder, other_base, None, "float32")
