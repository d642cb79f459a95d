"""A tiny random Llama, roles on it that differ from one another, and batches in any padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PretrainedConfig

from lightning_rlhf.batches import TokenBatch
from lightning_rlhf.models import lora
from lightning_rlhf.models.backbone import Backbone
from lightning_rlhf.models.lora import LoRA
from lightning_rlhf.quickstart.model import word_tokenizer
from support import pad_rows

Sequences = list[tuple[list[int], list[bool]]]
Build = Callable[..., Backbone]
Pad = Callable[..., TokenBatch]
Write = Callable[..., str]

TOKENIZER = word_tokenizer([f"w{i}" for i in range(92)])
PAD = TOKENIZER.pad_token_id
IDS = {
    "vocab_size": len(TOKENIZER),
    "pad_token_id": PAD,
    "bos_token_id": TOKENIZER.bos_token_id,
    "eos_token_id": TOKENIZER.eos_token_id,
}


@pytest.fixture(scope="session")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Write a random model of any config beside the word tokenizer; returns the folder."""

    def write(config: PretrainedConfig, kind: type, seed: int = 0) -> str:
        folder = tmp_path_factory.mktemp("model") / config.model_type
        torch.manual_seed(seed)
        kind(config).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        return str(folder)

    return write


@pytest.fixture(scope="session")
def model_ids() -> dict[str, int]:
    """The word tokenizer's part of a config: pad and eos are two tokens."""
    assert IDS["pad_token_id"] != IDS["eos_token_id"]
    return dict(IDS)


def llama_config(hidden_size: int = 64, layers: int = 3) -> LlamaConfig:
    """Every linear layer's width is a multiple of 32; wide weights, so that logits differ."""
    return LlamaConfig(
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
        **IDS,
    )


@pytest.fixture(scope="session")
def base(write_model: Write) -> str:
    """The folder of the tiny Llama."""
    return write_model(llama_config(), LlamaForCausalLM)


@pytest.fixture(scope="session")
def other_base(write_model: Write) -> str:
    """A model of another width, which no adapter of ``base`` fits."""
    return write_model(llama_config(hidden_size=32), LlamaForCausalLM, seed=1)


def warm(backbone: Backbone, role: str, seed: int) -> None:
    """Give a fresh adapter, whose update is zero, weights that change the outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in lora.parameters(backbone.base, role).items():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def build(base: str) -> Build:
    """Build a loaded backbone; each role gets a nonzero adapter, those in ``heads`` a head."""

    def build(
        *roles: str, name: str = base, heads: tuple[str, ...] = (), **options: object
    ) -> Backbone:
        options = {"lora": LoRA(r=4, alpha=8), "dtype": "float32", **options}
        backbone = Backbone(name, **options).load()  # type: ignore[arg-type]
        torch.manual_seed(7)
        for seed, role in enumerate(roles):
            backbone.add_role(role, head=role in heads)
            warm(backbone, role, seed)
        backbone.train()
        return backbone

    return build


def random_sequences(seed: int = 0) -> Sequences:
    """Three prompts with their completions, of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def words(n: int) -> list[int]:
        return torch.randint(4, len(TOKENIZER), (n,), generator=generator).tolist()

    return [(words(p + c), [False] * p + [True] * c) for p, c in ((3, 4), (5, 6), (2, 2))]


@pytest.fixture(scope="session")
def sequences() -> Sequences:
    return random_sequences()


@pytest.fixture(scope="session")
def tokens(sequences: Sequences) -> TokenBatch:
    """Lay out the sequences, one per row, padded on the right."""
    return pad_rows(sequences, PAD)


@pytest.fixture(scope="session")
def padded() -> Pad:
    """The same batch with ``left`` and ``right`` more columns; rows aligned right if ``left``."""

    def pad(sequences: Sequences, left: int = 0, right: int = 0) -> TokenBatch:
        plain = pad_rows(sequences, PAD)
        rows, length = plain.input_ids.shape
        width = left + length + right
        lengths = plain.attention_mask.sum(1)
        start = length - lengths + left if left else torch.zeros_like(lengths)
        ids = torch.full((rows, width), PAD)
        mask = torch.zeros(rows, width, dtype=torch.bool)
        for row, (first, n) in enumerate(zip(start.tolist(), lengths.tolist(), strict=True)):
            ids[row, first : first + n] = plain.input_ids[row, :n]
            mask[row, first : first + n] = True

        def moved(flat: Tensor) -> Tensor:
            row, place = flat // length, flat % length
            return row * width + place + start[row]

        return plain._replace(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(torch.arange(width) - start[:, None]).clamp(min=0),
            predictor_index=moved(plain.predictor_index),
            last_index=moved(plain.last_index),
        )

    return pad


@pytest.fixture(scope="session")
def gradients() -> Callable[[Backbone, str], dict[str, Tensor]]:
    """Copy a role's gradients by name, and clear them."""

    def gradients(backbone: Backbone, role: str) -> dict[str, Tensor]:
        found = {}
        for name, parameter in lora.parameters(backbone.base, role).items():
            assert parameter.grad is not None, f"{name} got no gradient"
            found[name] = parameter.grad.clone()
        backbone.zero_grad()
        return found

    return gradients
