"""Tokenize texts exactly as they stand: no special tokens added, none lost where two texts meet."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# text before a completion, so that no tokenizer takes it for the start of a document; the first one
# whose tokens do not merge with the completion's is used
ANCHORS = ("\n", "a", ".", "0")
LOOK_BACK = 64  # characters before a text in which a mark is looked for
CORE_SETTINGS = ("truncation", "padding", "encode_special_tokens")  # a call resets them


class TextTokenizer:
    """Token ids of texts and of their continuations.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        """Tokenize a text alone."""
        return self._tokenize(text) if text else []

    def ids_after(self, before: str, text: str) -> list[int]:
        """Tokenize a text that continues another.

        SentencePiece-like tokenizers put a space before the first word they see, and before the
        first after a mark. Where that would change the text, it is tokenized after an anchor, and
        the anchor's tokens are removed. The anchor is what stands before it from the last mark on,
        if that is short.
        """
        if not text:
            return []
        if not before or not self._sees_what_is_before:
            return self.ids(text)
        marks = [found.start() for found in self._mark.finditer(before[-LOOK_BACK:])]
        anchors = [before[-LOOK_BACK:][marks[-1] :], *ANCHORS] if marks else ANCHORS
        found = (ids for a in anchors if (ids := self._behind(a, text)) is not None)
        return next(found, None) or self.ids(text)

    @cached_property
    def eos(self) -> int | None:
        """The tokenizer's end token."""
        eos: Any = self.tokenizer.eos_token_id
        return eos

    @cached_property
    def bos(self) -> int | None:
        """The token that the tokenizer puts before a text by itself; None if it puts none."""
        bos: Any = self.tokenizer.bos_token_id
        return bos if bos is not None and self.tokenizer("a").input_ids[:1] == [bos] else None

    @cached_property
    def marks(self) -> set[int]:
        """The special and added tokens: marks of a template, not text.

        The token of unknown text is not one, if it is nothing else.
        """
        marks = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        return marks - {self.tokenizer.unk_token_id} | {self.eos, self.tokenizer.bos_token_id} - {
            None
        }

    def is_blank(self, token: int) -> bool:
        """Tell whether a token is nothing but spaces or line ends."""
        return token not in self.marks and not str(self.tokenizer.decode([token])).strip()

    @cached_property
    def _tokenize(self) -> Callable[[str], list[int]]:
        """The tokenizer without special tokens; its Rust core alone if a call does no more.

        A call takes twice as long as the core, and a data set may have millions of rows.
        """
        tokenizer: Any = self.tokenizer
        core: Any = getattr(tokenizer, "backend_tokenizer", None)
        stock = core is not None and all(
            getattr(type(tokenizer), name) is getattr(PreTrainedTokenizerFast, name)
            for name in ("__call__", "_encode_plus")
        )
        if (
            not stock
            or tokenizer.split_special_tokens
            or any(getattr(core, setting) for setting in CORE_SETTINGS)
        ):
            return lambda text: tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return lambda text: core.encode(text, add_special_tokens=False).ids

    def _behind(self, anchor: str, text: str) -> list[int] | None:
        """Tokenize a text after an anchor; None if the two share a token."""
        lead, both = self.ids(anchor), self.ids(anchor + text)
        return (both[len(lead) :] or None) if lead and both[: len(lead)] == lead else None

    @cached_property
    def _mark(self) -> re.Pattern[str]:
        """A special or added token's text."""
        texts = {str(token) for token in self.tokenizer.added_tokens_decoder.values()}
        texts |= set(self.tokenizer.all_special_tokens)
        longest_first = sorted(filter(None, texts), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @cached_property
    def _sees_what_is_before(self) -> bool:
        """Tell whether a text's tokens depend on what stands before it."""
        tokens = self.tokenizer.added_tokens_decoder.values()
        if any(token.rstrip for token in tokens):  # a mark that takes the spaces behind it
            return True
        return any(self._behind(a, "a") not in (None, self.ids("a")) for a in ANCHORS)
