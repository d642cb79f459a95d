"""List the layouts of the common preference sets, annotation tools and other trainers.

docs/data.md says of each what becomes of its columns and what is left out. Most sets have two
layouts: the prompts alone, which need no judgment, stand before the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from lightning_rlhf.data import arena, exports, other_tools, preference_sets, trees
from lightning_rlhf.data.gathering import Gather, read_gathered
from lightning_rlhf.data.preference_sets import with_system
from lightning_rlhf.data.votes import Row, is_empty
from lightning_rlhf.text.messages import BadRow

PAIR, RANKED, RATED = "chosen rejected", "completions ranks", "completions ratings"
ANSWERED = "prompt response_0 response_1"
SAFE_RLHF = f"{ANSWERED} is_response_0_safe is_response_1_safe"
ARENA_TABLE = "prompt response_a response_b winner_model_a winner_model_b winner_tie"
TREE = "message_id parent_id text role"
QUESTIONS = ("preference", "comparison", "winner", "choice")  # columns of a vote


class CommonSet(NamedTuple):
    """A layout of columns, see ``layouts.Format``."""

    name: str
    columns: frozenset[str]
    gives: frozenset[str]
    read: Callable[[Row], Row]
    asked: bool = False
    gather: Gather | None = None
    also: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()  # it does not apply where one of them is there


def _layout(
    name: str, columns: str, gives: str, read: Callable[[Row], Row], asked: bool = False
) -> CommonSet:
    return CommonSet(name, frozenset(columns.split()), frozenset(gives.split()), read, asked)


def _gathered(
    name: str, columns: str, gives: str, prompts: Gather, gather: Gather, asked: bool = False
) -> Sequence[CommonSet]:
    """Make the layouts of a set whose rows are gathered before they are read, see ``_set``."""
    return (
        _layout(name, columns, "prompt", read_gathered, asked)._replace(gather=prompts),
        _layout(name, columns, gives, read_gathered, asked)._replace(gather=gather),
    )


def _set(
    name: str,
    columns: str,
    prompt: str | Callable[[Row], Any],
    answers: Callable[[Row], Row],
    gives: str = PAIR,
    *,
    asked: bool = False,
) -> Sequence[CommonSet]:
    """Make the layouts of a set: its prompts alone, and with their answers.

    Args:
        name: of both.
        columns: that recognize it.
        prompt: its column, or what reads it from a row.
        answers: reads the answers of a row and their order.
        gives: our columns that it reads.
        asked: whether its answers are read only if it is asked for by name.
    """
    read = partial(with_system, prompt=prompt) if isinstance(prompt, str) else prompt
    return (
        _layout(name, columns, "prompt", partial(_prompt_alone, read), asked),
        _layout(name, columns, f"prompt {gives}", partial(_whole, read, answers), asked),
    )


def _prompt_alone(prompt: Callable[[Row], Any], row: Row) -> Row:
    read = prompt(row)
    if is_empty(read):
        raise BadRow("no prompt")
    return {"prompt": read}


def _whole(prompt: Callable[[Row], Any], answers: Callable[[Row], Row], row: Row) -> Row:
    return {**_prompt_alone(prompt, row), **answers(row)}


def _feedback_sets() -> Sequence[CommonSet]:
    """Make the layouts of UltraFeedback and HelpSteer, one for each attribute."""
    rated, steered = "instruction completions", "prompt response helpfulness correctness"
    aspects: dict[str, tuple[str, ...]] = {"mean": preference_sets.ASPECTS}
    aspects |= {aspect.replace("_", "-"): (aspect,) for aspect in preference_sets.ASPECTS}
    return (
        *(one for name, chosen in aspects.items()
          for one in _set(f"ultrafeedback-{name}", rated, "instruction",
                          partial(preference_sets.ratings_by, chosen), RATED, asked=True)),
        _layout("helpsteer", steered, "prompt", read_gathered)._replace(
            gather=trees.prompts_alone
        ),
        *(one for name in trees.ATTRIBUTES
          for one in _gathered(f"helpsteer-{name}", f"prompt response {name}", f"prompt {RANKED}",
                               trees.prompts_alone, partial(trees.rankings_by, name), asked=True)),
    )  # fmt: skip


def _strength_sets() -> Sequence[CommonSet]:
    """Make the layouts of the preferences of HelpSteer 2 and 3, with and without a margin."""
    found: list[CommonSet] = []
    for margin in (False, True):
        sign = partial(preference_sets.strength, "response_", "preference_strength", margin)
        found += _set(
            "helpsteer2" + "-margin" * margin,
            "prompt response_1 response_2 preference_strength",
            preference_sets.turns_of_prompt,
            sign,
            asked=margin,
        )
        sign = partial(preference_sets.strength, "response", "overall_preference", margin)
        found += _set(
            "helpsteer3" + "-margin" * margin,
            "context response1 response2 overall_preference",
            "context",
            sign,
            asked=margin,
        )
    return found  # fmt: skip


def _safe_rlhf_sets() -> Sequence[CommonSet]:
    """Make the layouts of PKU-SafeRLHF, by its two labels."""
    return [
        one
        for label in ("better", "safer")
        for safe in (True, False)
        for one in _set(
            f"safe-rlhf-{label}{'' if safe else '-all'}",
            f"{SAFE_RLHF if safe else ANSWERED} {label}_response_id",
            "prompt",
            partial(preference_sets.safe_rlhf, label, safe),
            asked=True,
        )
    ]


def _after(name: str, column: str) -> Sequence[CommonSet]:
    """Make the layouts of pairs beside a column with their prompt, or with their own."""
    columns = f"{column} chosen rejected"
    prompt = partial(other_tools.prompt_before, column)
    return (
        _layout(name, columns, "prompt", partial(_prompt_alone, prompt)),
        _layout(name, columns, f"prompt {PAIR}", partial(other_tools.sides_after, column)),
    )


def _axolotl_pairs() -> Sequence[CommonSet]:
    """Make the layouts of sides that follow messages; beside a prompt, messages are its copy."""
    columns = "messages chosen rejected"
    shown = _layout("axolotl-pairs", columns, "messages", other_tools.messages_and_chosen)
    unless = frozenset(("prompt",))
    return [one._replace(unless=unless) for one in (shown, *_after("axolotl-pairs", "messages"))]


def _vote_sets() -> Sequence[CommonSet]:
    """Make the layouts of votes beside two answers, under all their names."""
    found: list[CommonSet] = []
    for names in exports.ANSWERS:
        for name, question in (
            ("argilla", "preference.responses"),
            *(("votes", question) for question in QUESTIONS),
        ):
            columns = f"prompt {' '.join(names)} {question}"
            found += _set(name, columns, "prompt", partial(exports.votes, names, question))
    return found


ALSO = {  # columns that a layout reads where they are there
    "orca-pairs": "label margin status", "oasst": "rank deleted review_result", "arena": "turn",
    "oasst-rankings": "deleted review_result", "shp": "score_A score_B", "alpaca-farm": "input",
}  # fmt: skip
SETS = (
    *_feedback_sets(),
    *_strength_sets(),
    *_safe_rlhf_sets(),
    *_set("beavertails", "prompt response is_safe", "prompt", preference_sets.safety,
          "completion label"),
    *_set("shp", "history human_ref_A human_ref_B labels", "history", preference_sets.shp),
    *_set("webgpt", "question answer_0 answer_1 score_0 score_1", preference_sets.webgpt_question,
          preference_sets.webgpt),
    *_set("summaries", "info summaries choice", preference_sets.to_summarize,
          preference_sets.summaries),
    *_set("alpaca-farm", "instruction output_1 output_2 preference",
          preference_sets.alpaca_farm_prompt, preference_sets.alpaca_farm),
    *_set("preference-collection",
          "orig_instruction orig_response_A orig_response_B orig_preference", "orig_instruction",
          other_tools.preference_collection),
    *_set("ultrainteract", "trajectory chosen rejected", "trajectory", other_tools.both_sides),
    *_set("step-dpo", "prompt initial_reason_steps chosen rejected", other_tools.first_steps,
          other_tools.both_sides),
    *_gathered("oasst", TREE, "messages", trees.questions, trees.best_paths),
    *_gathered("oasst-rankings", f"{TREE} rank", f"prompt {RANKED}", trees.questions,
               trees.rankings_of_trees),
    _layout("arena", "conversation_a conversation_b winner", "chosen", arena.first_conversation),
    _layout("arena", "conversation_a conversation_b winner", PAIR, arena.votes),
    _layout("arena-table", ARENA_TABLE, "chosen", arena.first_table_conversation),
    _layout("arena-table", ARENA_TABLE, PAIR, arena.table_votes),
    *_set("rewardbench-2", "prompt chosen rejected num_correct num_incorrect", "prompt",
          preference_sets.several_sides, RANKED),
    *_set("stack-exchange", "qid question answers", "question", preference_sets.stack_exchange,
          RATED),
    _layout("red-team", "transcript task_description", "chosen", preference_sets.transcript),
    *_vote_sets(),
    *_set("label-studio", "data annotations", exports.task_prompt, exports.task_votes),
    *_after("orca-pairs", "question"),
    *_after("orca-pairs", "input"),
    *_axolotl_pairs(),
    *_set("orca-feedback", "question completion label", "question", other_tools.labeled,
          "completion label"),
    *_set("distilabel", "instruction generations ratings", "instruction",
          partial(other_tools.ratings, "ratings"), RATED),
    *_set("distilabel", "input generations rating", "input", partial(other_tools.ratings, "rating"),
          RATED),
    *_set("openai-pairs", "input preferred_output non_preferred_output", other_tools.input_messages,
          other_tools.outputs),
    _layout("swift-pairs", "messages rejected_response", "messages", other_tools.whole_messages),
    *_set("swift-pairs", "messages rejected_response", other_tools.earlier_messages,
          other_tools.last_and_rejected),
    *_set("swift-pairs", "query response rejected_response", other_tools.query,
          other_tools.responses),
    *_set("nemo-rankings", "context completions", "context", other_tools.ranked_completions,
          RANKED),
)  # fmt: skip
COMMON_SETS = tuple(one._replace(also=frozenset(ALSO.get(one.name, "").split())) for one in SETS)
