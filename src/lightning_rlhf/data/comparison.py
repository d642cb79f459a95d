"""Compare the tokens of rows with those of the tokenizer's own ``apply_chat_template``."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.data.token_table import Maker
from lightning_rlhf.text.messages import BadRow, Message, Prompt, Tools, as_messages


class Piece(NamedTuple):
    """A run of tokens that both texts have, or that one of them has."""

    kind: str  # "both", "ours" or "theirs"
    ids: list[int]


class Compared(NamedTuple):
    """A text of a row, beside the template's own."""

    pieces: list[Piece]
    refused: str = ""  # reason why ``apply_chat_template`` writes no text

    @property
    def same(self) -> bool:
        """True if both have the same tokens."""
        return not self.refused and all(piece.kind == "both" for piece in self.pieces)


class _Recorder(ChatTemplate):
    """Keep every conversation that a row makes, with the tokens that it became."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template):
        super().__init__(tokenizer, template)
        self.kept: list[tuple[list[Message], Tools, list[int], bool]] = []

    def encode_prompt(self, prompt: Prompt, tools: Tools = None) -> list[int]:
        ids = super().encode_prompt(prompt, tools)
        self.kept.append((as_messages(prompt), tools, ids, True))
        return ids

    def encode_answers(
        self, prompt: Prompt, answers: Sequence[str | Message], tools: Tools = None
    ) -> tuple[list[int], list[list[int]]]:
        ids, completions = super().encode_answers(prompt, answers, tools)
        for answer, completion in zip(answers, completions, strict=True):
            reply = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
            self.kept.append(([*as_messages(prompt), reply], tools, ids + completion, False))
        return ids, completions

    def encode_conversation(
        self, messages: list[Message], tools: Tools = None
    ) -> tuple[list[int], list[bool]]:
        ids, mask = super().encode_conversation(messages, tools)
        self.kept.append((messages, tools, ids, False))
        return ids, mask


def compare(row: dict[str, Any], maker: Maker, template: Template) -> list[Compared]:
    """Compare each text of a source row, before cuts, with the template's own.

    Args:
        row: as the source has it.
        maker: of its source.
        template: of the data module.

    Raises:
        BadRow: the row is dropped.
        ValueError: there is no chat template to compare with.
    """
    chat = _Recorder(maker.chat.tokenizer, template)
    if chat.jinja is None:
        raise ValueError("--compare needs a chat template: give --template FILE")
    renamed = {maker.names.get(key, key): value for key, value in row.items()}
    maker.encode(maker.read(renamed), chat, 1 << 30)
    return [_compared(chat, *one) for one in chat.kept]


def _compared(
    chat: ChatTemplate, messages: list[Message], tools: Tools, ids: list[int], asked: bool
) -> Compared:
    try:
        theirs = chat.stock_ids(messages, tools, asked)
    except BadRow as reason:
        return Compared([], str(reason))
    pieces = []
    for kind, i, j, k, n in SequenceMatcher(None, ids, theirs, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(Piece("both", ids[i:j]))
            continue
        pieces += [Piece(name, part) for name, part in (("ours", ids[i:j]), ("theirs", theirs[k:n]))
                   if part]  # fmt: skip
    return Compared(pieces)
