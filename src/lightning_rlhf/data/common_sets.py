"""List the layouts of the common preference sets, annotation tools and other trainers.

docs/data.md says of each what becomes of its columns and what is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from lightning_rlhf.data import exports, preference_sets, trees
from lightning_rlhf.data.gathering import Gather, read_gathered
from lightning_rlhf.data.votes import Row

PAIR, SIDES = "prompt chosen rejected", "chosen rejected"
RANKED, RATED = "prompt completions ranks", "prompt completions ratings"
SAFE_RLHF = "prompt response_0 response_1 is_response_0_safe is_response_1_safe"
TREE = "message_id parent_id text role"
QUESTIONS = ("preference", "comparison", "winner", "choice")  # columns of a vote


class CommonSet(NamedTuple):
    name: str
    columns: frozenset[str]
    gives: frozenset[str]
    read: Callable[[Row], Row]
    asked: bool = False
    gather: Gather | None = None


def _set(
    name: str, columns: str, gives: str, read: Callable[[Row], Row], asked: bool = False
) -> CommonSet:
    return CommonSet(name, frozenset(columns.split()), frozenset(gives.split()), read, asked)


def _gathered(
    name: str, columns: str, gives: str, gather: Gather, asked: bool = False
) -> CommonSet:
    """Make the layout of a set whose rows are gathered before they are read."""
    return _set(name, columns, gives, read_gathered, asked)._replace(gather=gather)


PUBLISHED = (
    *(_set(f"ultrafeedback-{aspect.replace('_', '-')}", "instruction completions", RATED,
           preference_sets.ultrafeedback((aspect,)), asked=True)
      for aspect in preference_sets.ASPECTS),
    _set("ultrafeedback-mean", "instruction completions", RATED,
         preference_sets.ultrafeedback(preference_sets.ASPECTS), asked=True),
    *(_gathered(f"helpsteer-{attribute}", f"prompt response {attribute}", RANKED,
                trees.rankings_by(attribute), asked=True)
      for attribute in trees.ATTRIBUTES),
    _set("helpsteer2", "prompt response_1 response_2 preference_strength", PAIR,
         preference_sets.preference_strength(margin=False)),
    _set("helpsteer2-margin", "prompt response_1 response_2 preference_strength", PAIR,
         preference_sets.preference_strength(margin=True), asked=True),
    _set("helpsteer3", "context response1 response2 overall_preference", PAIR,
         preference_sets.overall_preference(margin=False)),
    _set("helpsteer3-margin", "context response1 response2 overall_preference", PAIR,
         preference_sets.overall_preference(margin=True), asked=True),
    *(_set(f"safe-rlhf-{label}{'' if safe else '-all'}", f"{SAFE_RLHF} {label}_response_id", PAIR,
           preference_sets.safe_rlhf(label, safe), asked=True)
      for label in ("better", "safer") for safe in (True, False)),
    _set("beavertails", "prompt response is_safe", "prompt completion label",
         preference_sets.is_safe),
    _set("shp", "history human_ref_A human_ref_B labels", PAIR, preference_sets.shp),
    _set("webgpt", "question answer_0 answer_1 score_0 score_1", PAIR, preference_sets.webgpt),
    _set("summaries", "info summaries choice", PAIR, preference_sets.summaries),
    _set("alpaca-farm", "instruction output_1 output_2 preference", PAIR,
         preference_sets.alpaca_farm),
    _gathered("oasst-rankings", f"{TREE} rank", RANKED, trees.rankings_of_trees),
    _gathered("oasst", TREE, "messages", trees.best_paths),
    _set("arena", "conversation_a conversation_b winner", SIDES, preference_sets.arena),
    _set("arena-table", "prompt response_a response_b winner_model_a winner_model_b winner_tie",
         PAIR, preference_sets.arena_table),
    _set("rewardbench-2", "prompt chosen rejected num_correct num_incorrect", RANKED,
         exports.several_sides),
    _set("stack-exchange", "qid question answers", RATED, exports.stack_exchange),
    _set("red-team", "transcript task_description", "prompt", exports.red_team),
)  # fmt: skip
TOOLS = (
    *(_set("argilla", f"prompt {' '.join(names)} preference.responses", PAIR,
           exports.voted(names, "preference.responses"))
      for names in exports.ANSWERS),
    *(_set("votes", f"prompt {' '.join(names)} {question}", PAIR, exports.voted(names, question))
      for names in exports.ANSWERS for question in QUESTIONS),
    _set("label-studio", "data annotations", PAIR, exports.label_studio),
    _set("orca-pairs", "question chosen rejected", PAIR, exports.judged_pair("question")),
    _set("orca-pairs", "input chosen rejected", PAIR, exports.judged_pair("input")),
    _set("distilabel", "instruction generations ratings", RATED,
         exports.distilabel("ratings", "instruction")),
    _set("distilabel", "input generations rating", RATED, exports.distilabel("rating", "input")),
    _set("openai-pairs", "input preferred_output non_preferred_output", PAIR,
         exports.openai_preferences),
    _set("swift-pairs", "messages rejected_response", PAIR, exports.rejected_response),
)  # fmt: skip
COMMON_SETS = (*PUBLISHED, *TOOLS)
