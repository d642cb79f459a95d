"""Record what TRL's own code returns for inputs of ours, into tests/golden/NAME.json.

    .peer/bin/python benchmarks/versus/record_golden.py dpo grpo kto reward
    .peer-ppo/bin/python benchmarks/versus/record_golden.py ppo

All inputs are drawn here from one seed: masks, log-probs, values, scores. A stand-in returns them
where TRL asks a model. All recorded results come from TRL: the loss and its gradient from the
trainer's own method, PPO's tensors from the variables of ``PPOTrainer.train`` while it runs.
No line of TRL is transcribed. Two of its methods are called outside their trainers, ``cpo_loss``
and ``odds_ratio_loss``: they take log-probs that are averaged here, since their trainers average
them inside the forward pass of a model.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", TQDM_DISABLE="1")

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

SEED = 14
SCRATCH = tempfile.TemporaryDirectory()
GOLDEN = Path(__file__).parents[2] / "tests/golden"
PACKAGES = ("trl", "peft", "transformers", "accelerate", "torch")
PAD, END, WORDS = 0, 1, 16
DPO_METRICS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
               "logps/chosen", "logps/rejected")  # fmt: skip
DPO_CASES: dict[str, dict[str, Any]] = {
    **{
        name: {"loss_type": [name]}
        for name in ("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero",
                     "apo_down", "discopop", "sft", "sigmoid_norm")
    },
    "exo_pair": {"loss_type": ["exo_pair"], "label_smoothing": 1e-3},
    "robust": {"loss_type": ["robust"], "label_smoothing": 0.1},
    "aot": {"loss_type": ["aot"], "label_smoothing": 0.1},
    "aot_unpaired": {"loss_type": ["aot_unpaired"], "label_smoothing": 0.1},
    "sigmoid+forward_kl": {"f_divergence_type": "forward_kl"},
    "sigmoid+js_divergence": {"f_divergence_type": "js_divergence"},
    "sigmoid+alpha_divergence": {
        "f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5
    },
    "sigmoid+ld_alpha=0.5": {"ld_alpha": 0.5},
    "sigmoid+wpo": {"use_weighting": True},
    "mpo: 0.8 sigmoid + 0.2 bco_pair + 1.0 sft": {
        "loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]
    },
}  # fmt: skip
# TRL's default multiplies the KL by the ratio (arXiv 2512.02556); ours is the GRPO paper's
KL = {"beta": 0.04, "use_bias_correction_kl": False}
GRPO_CASES: dict[str, dict[str, Any]] = {
    "completion": {"loss_type": "grpo", "beta": 0.0},
    "completion+kl": {"loss_type": "grpo", **KL},
    "token+kl": {"loss_type": "dapo", **KL},
    "length+kl": {"loss_type": "dr_grpo", **KL},
    "completion+dual_clip": {"loss_type": "grpo", "beta": 0.0, "delta": 1.5},
}


class Draw:
    """Source of the inputs: the same seed draws the same ones."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers from low to high, both included."""
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def logprobs(self, *shape: int) -> Tensor:
        """Token log-probs from -3 to 0."""
        return -3 * torch.rand(shape, generator=self.generator) - 0.01

    def near(self, logprobs: Tensor, by: float) -> Tensor:
        """Log-probs of another policy at the same tokens."""
        return (logprobs + by * self.normal(*logprobs.shape)).clamp(max=-0.01)

    def completions(self, rows: int, width: int) -> Tensor:
        """(rows, width) 1 on a completion, behind a prompt and before padding."""
        place = torch.arange(width)
        start = self.integers(2, 3, rows, 1)
        end = start + self.integers(1, width - 3, rows, 1)
        return ((place >= start) & (place < end)).long()


def model(kind: Any = AutoModelForCausalLM, **options: Any) -> Any:
    """A model that a trainer accepts; no recorded number comes from it."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=64,
        pad_token_id=PAD, eos_token_id=END, bos_token_id=None, **options,
    )  # fmt: skip
    folder = tempfile.mkdtemp(dir=SCRATCH.name)
    kind.from_config(config).save_pretrained(folder)
    return kind.from_pretrained(folder).train()


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": PAD, "<end>": END, **{f"w{i}": i for i in range(2, WORDS)}}
    by_words = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    by_words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=by_words, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def arguments(**more: Any) -> dict[str, Any]:
    """Arguments that every trainer takes."""
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    return {
        "output_dir": tempfile.mkdtemp(dir=SCRATCH.name),
        "bf16": False,
        "seed": SEED,
        **quiet,
        **more,
    }


def outputs(logprobs: Tensor, log_sum_sq: Tensor | None = None) -> SimpleNamespace:
    """Outputs that TRL 1.16 reads from a model: token log-probs, and figures that it only logs."""
    none = torch.zeros_like(logprobs)
    return SimpleNamespace(
        log_probs=logprobs, log_sum_sq_probs=log_sum_sq, entropy=none, mean_logits=none,
        is_top1=none.bool(),
    )  # fmt: skip


def dpo() -> dict[str, Any]:
    """Pair losses of the DPO family, at two betas."""
    draw = Draw(SEED)
    return {"batches": [dpo_batch(draw, pairs, beta) for pairs, beta in ((4, 0.1), (3, 0.5))]}


def dpo_batch(draw: Draw, pairs: int, beta: float) -> dict[str, Any]:
    mask = draw.completions(2 * pairs, 9)
    counts = mask[:, 1:]
    policy = draw.logprobs(*counts.shape) * counts
    reference = draw.near(policy, 0.7) * counts
    log_sum_sq = draw.logprobs(*counts.shape) * counts
    expected = {}
    for name, options in DPO_CASES.items():
        expected[name] = dpo_case(options, beta, mask, policy, reference, log_sum_sq)
    expected |= reference_free(beta, counts, policy)
    return {
        "beta": beta, "completion_mask": mask, "policy_logprobs": policy,
        "reference_logprobs": reference, "log_sum_sq_probs": log_sum_sq, "expected": expected,
    }  # fmt: skip


def dpo_case(options: dict[str, Any], beta: float, mask: Tensor, *inputs: Tensor) -> dict[str, Any]:
    """Compute one loss through ``DPOTrainer._compute_loss``."""
    from trl import DPOConfig, DPOTrainer

    policy, reference, log_sum_sq = inputs
    trainer = DPOTrainer(
        model=model(),
        args=DPOConfig(beta=beta, **arguments(**options)),
        processing_class=tokenizer(),
        train_dataset=Dataset.from_list([{"prompt": "w2", "chosen": "w3", "rejected": "w4"}]),
    )
    trainer.ref_model = lambda **_: outputs(reference)
    leaf = policy.clone().requires_grad_()
    asked = lambda **_: outputs(leaf * mask[:, 1:], log_sum_sq)  # noqa: E731
    batch = {name: torch.ones_like(mask) for name in ("input_ids", "attention_mask")}
    loss = trainer._compute_loss(asked, {**batch, "completion_mask": mask}, False)
    loss.backward()
    logged = trainer._metrics["train"]
    return {
        "loss": loss,
        "metrics": {name: logged[name][0] for name in DPO_METRICS},
        "gradient": leaf.grad,
    }


def reference_free(beta: float, counts: Tensor, policy: Tensor) -> dict[str, Any]:
    """SimPO's loss, and ORPO's without its negative log-likelihood."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    settings = SimpleNamespace(
        alpha=0.0, beta=beta, simpo_gamma=0.5, loss_type="simpo", label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    expected = {}
    for name, loss in (("simpo", CPOTrainer.cpo_loss), ("orpo", ORPOTrainer.odds_ratio_loss)):
        leaf = policy.clone().requires_grad_()
        chosen, rejected = ((leaf * counts).sum(1) / counts.sum(1)).chunk(2)
        value = loss(settings, chosen, rejected)[0].mean()
        value = -value if name == "orpo" else value  # its trainer subtracts it
        value.backward()
        expected[name] = {"loss": value, "metrics": {}, "gradient": leaf.grad}
    return expected


def grpo() -> dict[str, Any]:
    """Losses and advantages of GRPO and RLOO, two prompts of three completions."""
    draw, rows, longest = Draw(SEED + 1), 6, 5
    mask = draw.completions(rows, longest + 3)[:, 3:]
    mask[:, 0] = 1  # no completion is empty
    mask[0] = 1
    new = draw.logprobs(*mask.shape) * mask
    batch = {
        "completion_mask": mask, "logprobs": new, "old": draw.near(new, 0.6) * mask,
        "reference": draw.near(new, 0.7) * mask, "advantages": 2 * draw.normal(rows),
    }  # fmt: skip
    expected = {name: grpo_case(batch, longest, **how) for name, how in GRPO_CASES.items()}
    expected["rloo"] = rloo_case(batch)
    scores = draw.normal(rows)
    return {
        "clip": 0.2, "longest": longest, "samples": 3, **batch, "expected": expected,
        "scores": scores, "expected_advantages": group_advantages(scores),
    }  # fmt: skip


def grouped(method: str, reward: Any = len, **options: Any) -> Any:
    """A trainer of two prompts and three completions of each."""
    import trl

    config = getattr(trl, f"{method}Config")(
        num_generations=3, per_device_train_batch_size=6, max_completion_length=5, epsilon=0.2,
        **arguments(**options),
    )  # fmt: skip
    return getattr(trl, f"{method}Trainer")(
        model=model(), reward_funcs=reward, args=config, processing_class=tokenizer(),
        train_dataset=Dataset.from_list([{"prompt": "w2"}, {"prompt": "w3"}]),
    )  # fmt: skip


def loss_of(trainer: Any, batch: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Compute the batch's loss and gradient through the trainer's ``_compute_loss``."""
    leaf = batch["logprobs"].clone().requires_grad_()
    answer = leaf, torch.zeros_like(leaf), None  # with entropies, which are only logged
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: answer
    trainer.current_gradient_accumulation_steps = 1
    mask = batch["completion_mask"]
    given = {
        "prompt_ids": torch.full((len(mask), 1), 2), "prompt_mask": torch.ones(len(mask), 1).long(),
        "completion_ids": torch.full_like(mask, 3), "completion_mask": mask,
        "advantages": batch["advantages"], "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = trainer._compute_loss(trainer.model, {**given, **inputs})
    loss.backward()
    return {"loss": loss, "gradient": leaf.grad}


def grpo_case(batch: dict[str, Any], longest: int, **options: Any) -> dict[str, Any]:
    trainer = grouped("GRPO", **options)
    assert trainer.max_completion_length == longest
    inputs = {"old_per_token_logps": batch["old"], "ref_per_token_logps": batch["reference"]}
    settings = {"beta": options["beta"], "delta": options.get("delta")}
    return settings | loss_of(trainer, batch, inputs)


def rloo_case(batch: dict[str, Any]) -> dict[str, Any]:
    return loss_of(grouped("RLOO"), batch, {"old_logps": batch["old"].sum(1)})


def group_advantages(scores: Tensor) -> dict[str, Any]:
    """Compute the advantages of our scores; the tiny model's samples do not matter."""

    def reward(completions: list[str], **_: Any) -> list[float]:
        return scores.tolist()

    trainers = {
        "grpo": grouped("GRPO", reward, scale_rewards="group"),
        "dr_grpo": grouped("GRPO", reward, scale_rewards="none"),
        "rloo": grouped("RLOO", reward, beta=0.0),
    }
    prompts = [{"prompt": word} for word in ("w2", "w3") for _ in range(3)]
    return {
        name: trainer._generate_and_score_completions(prompts)["advantages"]
        for name, trainer in trainers.items()
    }


def kto() -> dict[str, Any]:
    """KTO and unpaired APO-zero, unequal weights."""
    from trl import KTOConfig, KTOTrainer

    draw, rows = Draw(SEED + 2), 6
    mask = draw.completions(rows, 8)
    counts = mask[:, 1:]
    policy = draw.logprobs(*counts.shape) * counts
    reference = draw.near(policy, 0.7) * counts
    mismatched = draw.logprobs(*counts.shape)
    drifted = draw.near(mismatched - 0.1, 0.1)
    label = torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    tokens = torch.full_like(mask, 2)
    batch = {"input_ids": tokens, "attention_mask": tokens, "completion_mask": mask,
             "label": label, "KL_input_ids": tokens + 1, "KL_attention_mask": tokens,
             "KL_completion_mask": mask}  # fmt: skip

    def stand_in(of_rows: Tensor, of_mismatched: Tensor) -> Any:
        return lambda input_ids, **_: outputs(of_rows if input_ids[0, 0] == 2 else of_mismatched)

    expected = {}
    for name in ("kto", "apo_zero_unpaired"):
        args = KTOConfig(
            loss_type=name, beta=0.3, desirable_weight=1.5, undesirable_weight=0.8,
            **arguments(per_device_train_batch_size=2),
        )  # fmt: skip
        rows_given = [{"prompt": "w2", "completion": w, "label": w == "w3"} for w in ("w3", "w4")]
        trainer = KTOTrainer(
            model=model(), args=args, processing_class=tokenizer(),
            train_dataset=Dataset.from_list(rows_given),
        )  # fmt: skip
        trainer.ref_model = stand_in(reference, drifted)
        leaf = policy.clone().requires_grad_()
        loss = trainer._compute_loss(stand_in(leaf * counts, mismatched), batch, False)
        loss.backward()
        names = ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins")
        logged = {n: trainer._metrics["train"][n][0] for n in names}
        expected[name] = {"loss": loss, "metrics": logged, "gradient": leaf.grad}
    return {
        "beta": 0.3, "up_weight": 1.5, "down_weight": 0.8, "label": label, "completion_mask": mask,
        "policy_logprobs": policy, "reference_logprobs": reference,
        "mismatched_ratio": (mismatched - drifted).sum(1), "expected": expected,
    }  # fmt: skip


def reward() -> dict[str, Any]:
    """Bradley-Terry with and without margin and centering."""
    from trl import RewardConfig, RewardTrainer

    draw, pairs = Draw(SEED + 3), 5
    scores, margin = 2 * draw.normal(2 * pairs), draw.normal(pairs).abs()
    expected = {}
    for name, centering in (("plain", None), ("margin", None), ("margin+centering", 0.01)):
        trainer = RewardTrainer(
            model=model(AutoModelForSequenceClassification, num_labels=1),
            args=RewardConfig(center_rewards_coefficient=centering, **arguments()),
            processing_class=tokenizer(),
            train_dataset=Dataset.from_list([{"chosen": "w2 w3", "rejected": "w2 w4"}]),
        )
        leaf = scores.clone().requires_grad_()
        asked = lambda leaf=leaf, **_: SimpleNamespace(logits=leaf[:, None])  # noqa: E731
        inputs = {"attention_mask": torch.ones(2 * pairs, 3)}
        if "margin" in name:
            inputs["margin"] = margin
        loss = trainer.compute_loss(asked, inputs)
        loss.backward()
        logged = {n: trainer._metrics["train"][n][0] for n in ("accuracy", "margin")}
        expected[name] = {"loss": loss, "metrics": logged, "gradient": leaf.grad}
    return {"centering": 0.01, "scores": scores, "margin": margin, "expected": expected}


def ppo() -> dict[str, Any]:
    """Two rollouts with all their updates, each through ``PPOTrainer.train``."""
    draw = Draw(SEED + 4)
    return {
        "runs": [
            ppo_run(draw, kl_estimator="k1", whiten_rewards=True, gamma=0.98),
            ppo_run(draw, kl_estimator="k3", whiten_rewards=False, gamma=1.0),
        ]
    }


class PPOWorld:
    """Stand in for the four models of one rollout; each row is known by its query's first token."""

    def __init__(self, draw: Draw, rows: int, length: int):
        self.draw = draw
        self.queries = torch.stack([torch.arange(rows) + 2, torch.full((rows,), 3)], 1)
        self.responses = draw.integers(2, WORDS - 1, rows, length)
        ends = [*draw.integers(0, length - 3, rows - 4).tolist(), length - 2, length - 1]
        for row, end in enumerate(ends):  # the last two rows never end
            self.responses[row, end] = END
        self.policy = draw.normal(rows, length, WORDS)
        self.reference = self.policy + 0.5 * draw.normal(rows, length, WORDS)
        self.values, self.scores = draw.normal(rows, length), 2 * draw.normal(rows)
        self.reference_model = model()

    def generate(self, policy: Any, queries: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        rows = queries[:, 0] - 2
        return torch.cat([queries, self.responses[rows]], 1), self.policy[rows]

    def forward(self, asked: Any, tokens: Tensor, pad: int) -> Any:
        """Return the reference's logits, or logits and values of the model in training."""
        rows = tokens[:, 0] - 2
        if asked is self.reference_model:
            return SimpleNamespace(logits=self._placed(self.reference[rows]))
        moved = self.policy[rows] + 0.3 * self.draw.normal(*self.policy[rows].shape)
        values = self.values[rows] + 0.3 * self.draw.normal(*self.values[rows].shape)
        logits = self._placed(moved).requires_grad_() * 1.0  # TRL divides it in place
        return SimpleNamespace(logits=logits), self._placed(values[..., None]).requires_grad_()

    def get_reward(self, asked: Any, tokens: Tensor, pad: int, context: int) -> Any:
        rows = tokens[:, 0] - 2
        return self._placed(self.values[rows][..., None]), self.scores[rows].clone(), None

    def _placed(self, rows: Tensor) -> Tensor:
        """Pad to the positions of a whole sequence; an entry stands one before its token."""
        return torch.nn.functional.pad(rows, (0, 0, 1, 1)).contiguous()


def ppo_run(draw: Draw, **options: Any) -> dict[str, Any]:
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    rows, length = 8, 6
    world = PPOWorld(draw, rows, length)
    config = {"gamma": 1.0, "lam": 0.95, "kl_coef": 0.2, "cliprange": 0.2, "cliprange_value": 0.2,
              "vf_coef": 0.1, "missing_eos_penalty": 1.0, **options}  # fmt: skip
    args = PPOConfig(
        per_device_train_batch_size=rows // 2, gradient_accumulation_steps=2, num_mini_batches=1,
        num_ppo_epochs=2, total_episodes=rows, response_length=length, stop_token="eos",
        num_sample_generations=0, learning_rate=1e-8, **arguments(**config),
    )  # fmt: skip
    critic, judge = (model(AutoModelForSequenceClassification, num_labels=1) for _ in range(2))
    trainer = PPOTrainer(
        args=args, processing_class=tokenizer(), model=model(), ref_model=world.reference_model,
        reward_model=judge, value_model=critic,
        train_dataset=Dataset.from_list([{"input_ids": q} for q in world.queries.tolist()]),
        eval_dataset=Dataset.from_list([{"input_ids": world.queries[0].tolist()}]),
    )  # fmt: skip
    run: dict[str, Any] = {"config": config, "steps": []}
    whiten = ppo_trainer.masked_whiten

    def watched_whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        run["advantages_raw" if shift_mean else "rewards_prewhiten"] = values.clone()
        return whiten(values, mask, shift_mean)

    def backward(loss: Tensor) -> None:
        """Record the variables of ``train`` instead of the backward pass."""
        seen = sys._getframe(1).f_locals
        names = ("logprobs", "ref_logprobs", "scores", "values", "sequence_lengths",
                 "rewards", "padding_mask", "padding_mask_p1", "kl", "non_score_reward",
                 "returns")  # fmt: skip
        run.update({name: seen[name].clone() for name in names})
        run.setdefault("rewards_prewhiten", run["rewards"])
        run["advantages_whitened"] = seen["advantages"].clone()
        wanted = [seen["new_logprobs"], seen["vpred"]]
        gradients = torch.autograd.grad(loss, wanted, retain_graph=True)
        step = {
            name: seen[name].detach().clone()
            for name in ("new_logprobs", "vpred", "pg_loss", "vf_loss")
        }
        run["steps"].append({
            "inds": seen["micro_batch_inds"], **step, "loss": loss.detach(),
            "new_logprobs_gradient": gradients[0], "vpred_gradient": gradients[1],
        })  # fmt: skip

    trainer.accelerator.backward = backward
    logged: dict[str, float] = {}
    trainer.log = logged.update
    np.random.seed(SEED)  # noqa: NPY002  # it cuts the minibatches
    stand_ins = {
        "batch_generation": world.generate, "forward": world.forward,
        "get_reward": world.get_reward, "masked_whiten": watched_whiten,
    }  # fmt: skip
    with patch.multiple(ppo_trainer, **stand_ins):
        trainer.train()
    kept = ("objective/kl", "objective/non_score_reward", "policy/clipfrac_avg", "val/clipfrac_avg")
    return {**run, "metrics": {name: logged[name] for name in kept}}


def plain(value: Any) -> Any:
    """Turn tensors into lists; nine digits tell any two fp32 numbers apart."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (Tensor, np.ndarray)):
        return plain(value.tolist())
    return float(f"{value:.9g}") + 0.0 if isinstance(value, float) else value


def main(*names: str) -> None:
    command = Path(sys.prefix).name, "bin/python benchmarks/versus/record_golden.py"
    for name in names:
        torch.manual_seed(SEED)
        header = {
            "peer": "TRL",
            "versions": {package: version(package).split("+")[0] for package in PACKAGES},
            "command": f"{'/'.join(command)} {name}",
            "seed": SEED,
        }
        recorded = {"dpo": dpo, "grpo": grpo, "kto": kto, "reward": reward, "ppo": ppo}[name]()
        text = json.dumps({"recorded": header, **plain(recorded)}, separators=(",", ":"))
        file = GOLDEN / f"{name}.json"
        file.write_text(text.replace('],"', '],\n"') + "\n")
        print(f"{file.relative_to(GOLDEN.parents[1])}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
