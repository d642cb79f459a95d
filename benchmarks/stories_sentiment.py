"""Real text: a storyteller of 260 thousand weights learns to be cheerful, and stays a storyteller.

    pip install -e .[bench]
    python benchmarks/stories_sentiment.py FOLDER [--method rloo] [--write true]

FOLDER holds a causal language model of children's stories, with its tokenizer. The reward is
vaderSentiment's compound, from -1 to 1, of what follows an opening. Figures are of openings that
were held out, sampled at temperature 1; the perplexity ratio is that of the reference on what the
policy wrote to that of the reference on what it wrote itself. Prints a table; ``write`` puts it
into benchmarks/README.md.
"""

from __future__ import annotations

import math
import tempfile
import time
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

import datasets
import torch
from jsonargparse import auto_cli
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
from versus.harness import between

from lightning_rlhf import Backbone, LoRA, PromptData, Shaping, UpdateSchedule
from lightning_rlhf.cli.main import quiet
from lightning_rlhf.data.collate import completion_batch
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.models.backbone import POLICY, REFERENCE
from lightning_rlhf.models.sampler import HFSampler, Sample, Sampling
from lightning_rlhf.modules.online import OnlineModule
from lightning_rlhf.modules.ppo import Critic, PPOModule
from lightning_rlhf.modules.rloo import RLOOModule

README = Path(__file__).parent / "README.md"
Method = Literal["ppo", "rloo"]
LENGTH = 48  # tokens of a completion: about 20 words, and no story ends so soon
OPENINGS = """
    One morning, Ben found a small box under his bed.
    The old tree by the river had a secret.
    Mia and her brother walked to the shop.
    It was raining, and the cat sat by the window.
    A little bird could not find its nest.
    Sam had a red kite that he took everywhere.
    On the farm there lived a very slow horse.
    Grandma put a cake on the table and left the room.
    The children heard a noise in the garden.
    Anna lost her shoe on the way to school.
    Every night, the moon looked down at the village.
    There was a big dog who lived behind the wall.
    Tom wanted to climb the highest hill.
    A boat came over the lake in the morning.
    The teacher opened the door and looked at the class.
    Lucy had never seen snow before.
    The fox and the rabbit met on a bridge.
    In the kitchen there was a pot that nobody used.
    Max broke his toy car in the afternoon.
    A frog was sitting on a stone in the sun.
    The king had a room full of clocks.
    Nina did not want to go to bed.
    Two boys found a map in the sand.
    The train stopped, and an old man got off.
    Dad came home with a bag in his hand.
    A bear woke up and it was still winter.
    Sara painted the fence with her friend.
    The wind took the hat and carried it away.
    Jack saw a light in the forest.
    A mouse lived in the wall of a school.

    Once there was a boy who talked to fish.
    The girl in the yellow coat waited for the bus.
    A squirrel hid his nuts and forgot where.
    Mom gave Leo a spoon and a bowl.
    The duck swam to the other side of the pond.
    Behind the house there was a deep hole.
    Ella and the dragon sat on the roof.
    At the market, a man sold three eggs.
    The truck would not start in the cold.
    Peter knocked at the door of his neighbour.
"""  # the last ten are held out


class Figures(NamedTuple):
    """Of completions of the held-out openings by one role."""

    compound: float
    error: float  # standard, of the compound
    k1: float  # nats per completion to the reference; 0 for itself
    k3: float
    perplexity: float  # the reference's
    distinct: float  # share of different completions
    ended: float
    length: float
    texts: list[str]


def main(
    folder: str,
    method: Method = "rloo",
    rollouts: int = 60,
    lr: float = 1e-3,
    kl_coef: float = 0.02,
    samples: int = 20,
    seeds: int = 2,
    write: bool = False,
) -> None:
    """Train, measure, print a table and some texts.

    Args:
        folder: of the model.
        method: ppo with an adapter for the critic, or rloo with siblings as the baseline.
        rollouts: of 60 completions each.
        lr: peak learning rate.
        kl_coef: KL coefficient, in units of the compound score per nat.
        samples: completions of each held-out opening that figures are made of.
        seeds: how many runs.
        write: put the table into benchmarks/README.md.
    """
    quiet()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    lines = [
        "| seed | compound before | after | gain | KL k1, nats | KL k3 | perplexity before | after "
        "| ratio | ended | length | different | seconds |",
        "|---" * 13 + "|",
    ]
    for seed in range(seeds):
        module = _module(folder, method, lr, kl_coef, seed)
        seconds = _fit(module, rollouts, seed)
        torch.manual_seed(1000 + seed)
        before = _figures(module.backbone, REFERENCE, samples)
        after = _figures(module.backbone, POLICY, samples)
        lines.append(_line(seed, before, after, seconds))
        for text in before.texts[:2] + after.texts[:: max(1, samples)][:6]:
            print(f"  {text!r}")
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    print(table)
    if write:
        README.write_text(between(README.read_text(), "stories_sentiment", table))


def openings(held_out: bool) -> list[str]:
    """Ten that no training sees, or the others."""
    seen, unseen = (part.strip().splitlines() for part in OPENINGS.split("\n\n"))
    return [line.strip() for line in (unseen if held_out else seen)]


def compound(prompts: list[str], completions: list[str], rows: list[dict[str, Any]]) -> list[float]:
    """Sentiment of each completion, from -1 to 1."""
    return [_analyzer().polarity_scores(text)["compound"] for text in completions]


@cache
def _analyzer() -> Any:
    return SentimentIntensityAnalyzer()


def _module(folder: str, method: Method, lr: float, kl_coef: float, seed: int) -> OnlineModule:
    seed_everything(seed, verbose=False)
    backbone = Backbone(folder, lora=LoRA(r=16), dtype="float32")
    shaping = Shaping(kl_coef=kl_coef, missing_eos_penalty=0.0)  # stories go on
    sampling = Sampling(max_new_tokens=LENGTH, num_samples=4)
    if method == "rloo":
        return RLOOModule(
            backbone, compound, sampling, shaping=shaping, updates=UpdateSchedule(1, 2), lr=lr
        )
    return PPOModule(
        backbone, compound, sampling=sampling, shaping=shaping, updates=UpdateSchedule(2, 2), lr=lr,
        critic=Critic(lam=1.0),
    )  # fmt: skip


def _fit(module: OnlineModule, rollouts: int, seed: int) -> float:
    """Train; seconds of CPU."""
    rows = [{"prompt": text} for text in openings(held_out=False)]
    start = time.process_time()
    with tempfile.TemporaryDirectory() as logs:
        Trainer(
            max_steps=rollouts * module.updates_per_rollout, max_epochs=-1, accelerator="cpu",
            gradient_clip_val=1.0, logger=CSVLogger(logs), log_every_n_steps=1,
            enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        ).fit(module, PromptData(rows, val_fraction=0.0, batch_size=15, seed=seed))  # fmt: skip
    return time.process_time() - start


@torch.no_grad()
def _figures(backbone: Backbone, role: str, samples: int) -> Figures:
    chat = ChatTemplate(backbone.tokenizer)
    prompts = [chat.encode_prompt(text) for text in openings(held_out=True)]
    said = HFSampler().sample(backbone, role, prompts, Sampling(LENGTH, num_samples=samples))
    tokens = completion_batch(prompts, [s.ids for s in said], range(len(prompts)))
    own, reference = backbone.logprobs(tokens, role), backbone.logprobs(tokens, REFERENCE)
    apart = reference - own
    texts = [_text(backbone, s) for s in said]
    scores = compound([], texts, [])
    return Figures(
        mean(scores),
        stdev(scores) / math.sqrt(len(scores)),
        -float(apart.sum()) / len(said),
        float((apart.exp() - 1 - apart).sum()) / len(said),
        math.exp(-float(reference.mean())),
        len(set(texts)) / len(texts),
        mean(s.finished for s in said),
        mean(len(s.ids) for s in said),
        texts,
    )


def _text(backbone: Backbone, said: Sample) -> str:
    return str(backbone.tokenizer.decode(said.ids, skip_special_tokens=True))


def _line(seed: int, before: Figures, after: Figures, seconds: float) -> str:
    cells = [
        str(seed),
        f"{before.compound:+.2f} ± {before.error:.2f}",
        f"{after.compound:+.2f} ± {after.error:.2f}",
        f"**{after.compound - before.compound:+.2f}**",
        f"{after.k1:.1f}",
        f"{after.k3:.1f}",
        f"{before.perplexity:.2f}",
        f"{after.perplexity:.2f}",
        f"**{after.perplexity / before.perplexity:.2f}**",
        f"{100 * after.ended:.0f} %",
        f"{after.length:.0f}",
        f"{100 * after.distinct:.0f} %",
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
