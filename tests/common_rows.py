"""Rows in the shapes of the common sets, in our own words, and what is read of each."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

Row = dict[str, Any]


class Kept(NamedTuple):
    """What is read of a row, under the "plain" template."""

    prompt: str
    completions: list[str]
    facts: Row  # of the token row


class Sample(NamedTuple):
    """Rows of a source, and what is read of each of them: a row, or the reason for its drop."""

    kind: str
    rows: list[Row]
    read: list[Kept | str]
    asked: bool = False


ASKED = "\n\nHuman: Name a river.\n\nAssistant:"
LATER = "\n\nHuman: Hi.\n\nAssistant: Hello.</s>\n\nHuman: Name a river.\n\nAssistant:"
GOOD, BAD, WORST = " The Rhine.</s>", " Oslo.</s>", " No.</s>"
RHINE, OSLO, NO = "The Rhine.", "Oslo.", "No."
QUESTION = "Name a river."
TALK = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": QUESTION},
]


def pair(prompt: str = ASKED, label: float | None = None, margin: float | None = None) -> Kept:
    return Kept(prompt, [GOOD, BAD], {"ranks": [0, 1], "label": label, "margin": margin})


def ranked(answers: list[str], ranks: list[int], ratings: Any = None, prompt: str = ASKED) -> Kept:
    return Kept(prompt, answers, {"ranks": ranks, "ratings": ratings})


def said(*turns: str) -> list[Row]:
    roles = ("user", "assistant") * len(turns)
    return [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]


# ---- UltraFeedback ----


def feedback(*ratings: Any, mean: bool = False) -> Row:
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    answers = [
        {
            "model": "m",
            "response": text,
            "overall_score": 1.0,
            "custom_system_prompt": "Be kind.",
            "annotations": {
                a: {"Rating": str(min(int(rating) + (mean and i), 9)), "Rationale": "so"}
                if str(rating).isdecimal()
                else {"Rating": rating, "Rationale": None}
                for i, a in enumerate(aspects)
            },
        }
        for text, rating in zip((RHINE, OSLO, NO), ratings, strict=False)
    ]
    return {"source": "s", "instruction": QUESTION, "models": ["m"], "completions": answers}


def ultrafeedback(aspect: str) -> Sample:
    return Sample(
        "preference",
        [feedback("5", "2", "2"), feedback("5", "N/A", "2"), feedback("3", "3")],
        [
            ranked([GOOD, BAD, WORST], [0, 1, 1], [5, 2, 2]),
            f"an answer without a rating of its {aspect}",
            "no completion is better than another",
        ],
        asked=True,
    )


# ---- HelpSteer ----


def rated(prompt: str, response: str, attribute: str, rating: Any) -> Row:
    others = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    ratings = {name: 2 for name in others if name != attribute}
    return {"prompt": prompt, "response": response, **ratings, attribute: rating}


def helpsteer(attribute: str) -> Sample:
    marked = "Hi.\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\n" + QUESTION
    return Sample(
        "preference",
        [
            rated(QUESTION, OSLO, attribute, 1),
            rated(QUESTION, RHINE, attribute, 4),
            rated("Alone?", RHINE, attribute, 4),
            rated(marked, RHINE, attribute, 3),
            rated("Equal?", RHINE, attribute, 3),
            rated("Equal?", OSLO, attribute, 3),
            rated(QUESTION, "Unrated.", attribute, None),
            rated(marked, OSLO, attribute, 0),
        ],
        [
            f"no {attribute}",
            pair(),
            "an answer alone has nothing to be compared with",
            pair(LATER),
            "no completion is better than another",
        ],
        asked=True,
    )


def strength(value: Any, first: str = RHINE, second: str = OSLO, prompt: str = QUESTION) -> Row:
    return {
        "split": "train",
        "prompt": prompt,
        "response_1": first,
        "response_2": second,
        "preference_strength": value,
        "preference_statement": "so",
        "all_preferences_unprocessed": [{"strength": -3, "statement": "so"}],
    }


def overall(value: Any, first: str = RHINE, second: str = OSLO, context: Any = TALK) -> Row:
    return {
        "domain": "general",
        "language": "english",
        "context": context,
        "response1": first,
        "response2": second,
        "overall_preference": value,
        "individual_preference": [{"score": 3, "reasoning": "so"}],
    }


MARKED = "Hi.\n<extra_id_1>Assistant\nHello.\n<extra_id_1>User\n" + QUESTION
HELPSTEER_2 = [
    strength(-3),
    strength(2, OSLO, RHINE),
    strength(0),
    strength(None),
    strength(-1, prompt=MARKED),
    strength(4),
]
HELPSTEER_3 = [
    overall(-2),
    overall(1, OSLO, RHINE, context=TALK[2:]),
    overall(0),
    overall(None),
    overall(-7),
    overall(-3, context=None),
]


def helpsteer_2(margins: bool) -> Sample:
    margin = [3, 2, 1] if margins else [None] * 3
    return Sample(
        "preference",
        HELPSTEER_2,
        [
            pair(margin=margin[0]),
            pair(margin=margin[1]),
            "judged a tie",
            "no preference_strength",
            pair(LATER, margin=margin[2]),
            "preference_strength 4 is not between -3 and 3",
        ],
        asked=margins,
    )


def helpsteer_3(margins: bool) -> Sample:
    margin = [2, 1] if margins else [None] * 2
    return Sample(
        "preference",
        HELPSTEER_3,
        [
            pair(LATER, margin=margin[0]),
            pair(margin=margin[1]),
            "judged a tie",
            "no overall_preference",
            "overall_preference -7 is not between -3 and 3",
            "no prompt",
        ],
        asked=margins,
    )


# ---- PKU-SafeRLHF ----


def safety(better: Any, safer: Any, safe: tuple[Any, Any], swapped: bool = False) -> Row:
    texts = (OSLO, RHINE) if swapped else (RHINE, OSLO)
    return {
        "prompt": QUESTION,
        "response_0": texts[0],
        "response_1": texts[1],
        "is_response_0_safe": safe[0],
        "is_response_1_safe": safe[1],
        "response_0_severity_level": 0,
        "better_response_id": better,
        "safer_response_id": safer,
    }


SAFETY = [
    safety(0, 0, (True, True)),
    safety(1, 1, (False, True), swapped=True),
    safety(0, 0, (False, False)),
    safety(0, 1, (False, True)),
    safety(None, None, (True, True)),
]
SAFER = [*SAFETY[:3], safety(0, 0, (False, True)), safety(None, None, (True, True))]


def safe_rlhf(label: str, safe: bool) -> Sample:
    rows = SAFETY if label == "better" else SAFER
    refused = ["both answers are marked unsafe", f"the {label} answer is marked unsafe"]
    read = [pair(), pair(), *(refused if safe else [pair(), pair()]), f"no {label}_response_id"]
    return Sample("preference", rows, read, asked=True)


# ---- comparisons ----


def shp(labels: Any, scores: tuple[Any, Any], first: str = RHINE, second: str = OSLO) -> Row:
    return {
        "post_id": "p",
        "domain": "d",
        "history": QUESTION,
        "human_ref_A": first,
        "human_ref_B": second,
        "score_A": scores[0],
        "score_B": scores[1],
        "labels": labels,
        "score_ratio": 4.0,
    }


def webgpt(scores: tuple[Any, Any], first: str = RHINE, second: str = OSLO) -> Row:
    return {
        "question": {"dataset": "d", "id": "1", "full_text": QUESTION},
        "quotes_0": {"title": ["t"], "extract": ["e"]},
        "answer_0": first,
        "score_0": scores[0],
        "answer_1": second,
        "score_1": scores[1],
    }


def summary(info: Row, choice: Any, first: str = RHINE, second: str = OSLO) -> Row:
    texts = [{"text": first, "policy": "a", "note": None}, {"text": second, "policy": "b"}]
    return {"info": info, "summaries": texts, "choice": choice, "worker": "w"}


POST = {"id": "1", "post": "I saw it.", "title": "A river", "subreddit": "water", "article": None}
ARTICLE = {"id": "2", "post": None, "title": None, "article": "It flows."}
SUMMARIZED = (
    "\n\nHuman: SUBREDDIT: r/water\nTITLE: A river\nPOST: I saw it.\nTL;DR:\n\nAssistant:",
    "\n\nHuman: ARTICLE: It flows.\nTL;DR:\n\nAssistant:",
)


def farm(preference: Any, first: str = RHINE, second: str = OSLO, text: str = "") -> Row:
    outputs = {"output_1": first, "output_2": second}
    return {"instruction": QUESTION, "input": text, **outputs, "preference": preference}


# ---- Arena, MT-bench ----


def battle(winner: Any, first: str = RHINE, second: str = OSLO, **more: Any) -> Row:
    return {
        "question_id": "q",
        "model_a": "m",
        "model_b": "n",
        "winner": winner,
        "conversation_a": said(QUESTION, first),
        "conversation_b": said(QUESTION, second),
        **more,
    }


LONG = {
    "conversation_a": said(QUESTION, RHINE, "Why?", "So."),
    "conversation_b": said(QUESTION, OSLO, "Why?", "Because."),
}
SPLIT = "the two sides differ before their last turn"


def battle_table(winner: str, first: Any = (RHINE,), second: Any = (OSLO,)) -> Row:
    marks = {f"winner_{who}": int(who == winner) for who in ("model_a", "model_b", "tie")}
    asked = [QUESTION, "Why?"][: len(first)]
    texts = {"prompt": asked, "response_a": list(first), "response_b": list(second)}
    return {"id": 1, **{name: json.dumps(text) for name, text in texts.items()}, **marks}


# ---- trees ----


def message(name: str, parent: str | None, text: str, **more: Any) -> Row:
    role = "assistant" if text in (RHINE, OSLO, NO, "Hello.") else "prompter"
    facts = {"rank": None, "deleted": False, "lang": "en", "message_tree_id": "1"}
    return {"message_id": name, "parent_id": parent, "text": text, "role": role, **facts, **more}


TREE = [
    message("3", "2", QUESTION),
    message("1", None, "Hi."),
    message("2", "1", "Hello."),
    message("5", "3", OSLO, rank=1),
    message("4", "3", RHINE, rank=0),
    message("6", "3", NO, rank=None),
    message("7", "4", "Thanks."),
    message("8", None, QUESTION),
    message("9", "8", OSLO, rank=2),
    message("10", "8", NO, rank=1, deleted=True),
    message("11", "10", "Why?"),
    message("12", "8", RHINE, rank=0),
    message("13", None, "Anyone?"),
    message("14", "99", RHINE),
]
LOST = "a reply to a message that is not there or is left out"
ALONE = "an answer alone has nothing to be compared with"
DELETED = "a deleted message"
PATH = Kept("\n\nHuman: Hi.\n\nAssistant:", [f" Hello.</s>{ASKED} The Rhine.</s>"], {})

# ---- tools ----


def argilla(values: list[Any], statuses: list[str], **more: Any) -> Row:
    return {
        "id": "1",
        "status": "completed",
        "prompt": QUESTION,
        "response1": RHINE,
        "response2": OSLO,
        "preference.responses": values,
        "preference.responses.users": ["u"] * len(values),
        "preference.responses.status": statuses,
        **more,
    }


def votes(preference: Any, **more: Any) -> Row:
    texts = {"prompt": QUESTION, "response1": RHINE, "response2": OSLO}
    return {**texts, "preference": preference, "metadata": "{}", **more}


def response(value: Any, status: str = "submitted") -> Row:
    return {"user_id": "u", "value": value, "status": status}


def task(*results: Any, data: Row | None = None, cancelled: int = -1) -> Row:
    data = data or {"prompt": QUESTION, "answer1": RHINE, "answer2": OSLO}
    annotations = [
        {"id": i, "completed_by": i, "was_cancelled": i == cancelled, "result": list(result)}
        for i, result in enumerate(results)
    ]
    return {"id": 1, "data": data, "annotations": annotations, "predictions": []}


def side(selected: str, to_name: str = "answer1,answer2") -> list[Row]:
    value = {"selected": selected}
    return [{"value": value, "from_name": "pw", "to_name": to_name, "type": "pairwise"}]


def choice(selected: str, name: str = "best") -> Row:
    value = {"choices": [selected]}
    return {"value": value, "from_name": name, "to_name": "prompt", "type": "choices"}


def openai(given: Any, good: str = RHINE, bad: str = OSLO) -> Row:
    sides = [[{"role": "assistant", "content": text}] for text in (good, bad)]
    return {"input": given, "preferred_output": sides[0], "non_preferred_output": sides[1]}


WHOLE = {"chosen": said(QUESTION, RHINE), "rejected": said(QUESTION, OSLO)}


def collected(preference: Any, first: str = RHINE, second: str = OSLO) -> Row:
    texts = {"orig_response_A": first, "orig_response_B": second, "orig_criteria": "c"}
    return {"orig_instruction": QUESTION, **texts, "orig_preference": preference}


def nemo(context: list[Row], *answers: tuple[Any, str]) -> Row:
    completions = [
        {"rank": rank, "completion": [{"role": "assistant", "content": text}]}
        for rank, text in answers
    ]
    return {"context": context, "completions": completions}
