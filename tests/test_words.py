"""The words that the glossary of docs/design.md retires do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GLOSSARY = ROOT / "docs/design.md"
FOLDERS = ("src", "docs", "configs", "examples", "benchmarks")
# not CHANGELOG.md: it says what the names of before were
PAGES = ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")
KINDS = {".py", ".md", ".yaml", ".j2", ".toml", ".sh"}
DATA = {"default.yaml", "transcripts.yaml"}  # the constitution's own sentences, which have digests
FAILURES = "LOG.md"  # keeps past entries as they were written
RETIRED = {  # what is written now: what it replaces
    "tokens under the loss mask": r"tokens? that counts?\b|counting tokens?\b|tokens? count\b",
    "fix": r"\bmend(s|ed|ing)?\b",
    "KL coefficient": r"price of a nat|nat's price|what a nat costs|\bdearer\b",
    "safety tasks": r"\bdeeds?\b",
    "takes, trained on": r"\beats?\b",
    "is not a": r"(?<!there )\b(is|are) no (?!longer|more\b|less\b)\w",
    "logged, printed": r"\baloud\b|\bunheard\b",
    "n-th": r"manieth",
    "column": r"\bin place \d",
    "resumes where it stopped": r"go(es)? on where",
    "(rewrite)": r"\baffair\b|\bwhoever\b|in a circle\b|shop window",
    "a sampler": r"rollout engine|RolloutEngine",
    "harmful compliance": r"harm helped with",
    "over-refusal": r"harmless(ly)? refused",
    "build-demonstrations": r"lightning-rlhf demonstrate\b",
    "American spelling": (
        r"\w*(colour|favour|behaviour|neighbour|honour|judgement|licence)\w*"
        r"|\bcent(re|red|ring)\b|\bgrey\b|\w*labell(ed|ing)\b|\w*modell(ed|ing)\b|\btravell\w+"
        r"|\w*(recogn|normal|token|quant|general|minim|maxim|initial|summar|optim|serial|organ"
        r"|random|regular|real|critic|util|categor|emphas|penal|analy)[iy]s(e|es|ed|er|ing|ation)\b"
    ),
    "(the names of before)": (
        r"(?-i:\b(FeedbackBatch|Thumbs|HFRollout|VLLMRollout|weight_of|slot_after|update_like"
        r"|longest_row|rehearse|judge_policy|judge_reward)\b)"
    ),
}
ALLOWED = {"analyses"}  # a noun, too
# inputs of recorded runs, and words of the micro-world
QUOTED = {("stories_sentiment.py", "neighbour"), ("world.py", "colour"), ("world.py", "grey")}


def text_of(page: Path) -> str:
    """The text of a page; the glossary itself, which quotes the retired words, is left out."""
    text = page.read_text(encoding="utf-8")
    if page == GLOSSARY:
        start = text.index("## Glossary")
        text = text[:start] + text[text.index("\n## ", start) :]
    return text


def pages() -> list[Path]:
    """Every text of the project that a user or a reader of the code sees; tests are left out."""
    found = [ROOT / name for name in PAGES]
    for folder in FOLDERS:
        found += [f for f in sorted((ROOT / folder).rglob("*")) if f.suffix in KINDS]
    return [f for f in found if f.name not in DATA and f.name != FAILURES]


@pytest.mark.parametrize("word", RETIRED)
def test_retired_words_stay_out(word: str) -> None:
    pattern = re.compile(RETIRED[word], re.IGNORECASE)
    hits = []
    for page in pages():
        for number, line in enumerate(text_of(page).splitlines(), 1):
            for match in pattern.finditer(line):
                if match.group() not in ALLOWED and (page.name, match.group()) not in QUOTED:
                    hits.append(f"{page.relative_to(ROOT)}:{number} {match.group()!r}")
    assert not hits, f"write {word!r} instead:\n" + "\n".join(hits)


def test_the_glossary_names_each_word() -> None:
    glossary = GLOSSARY.read_text(encoding="utf-8")
    for word in RETIRED:
        if not word.startswith("("):
            for name in word.split(", "):
                assert name in glossary, f"docs/design.md does not explain {name!r}"
