"""Turn messages into tokens, so that prompt and completion meet at a token boundary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from lightning_rlhf.data.rendered import ends_once
from lightning_rlhf.data.rendering import begun_in, check_written
from lightning_rlhf.data.template_text import PROBE, TemplateText, said
from lightning_rlhf.data.turns import turn_in_history
from lightning_rlhf.text.messages import BadRow, Message, Prompt, Tools, begun_turn

PROBE_TOOL = {  # shows whether a template writes tools
    "type": "function",
    "function": {"name": "probe", "description": "", "parameters": {"type": "object"}},
}


class ChatTemplate(TemplateText):
    """Render and tokenize prompts and answers.

    Args and errors: those of ``TemplateText``.
    """

    def encode_prompt(self, prompt: Prompt, tools: Tools = None) -> list[int]:
        """Tokenize everything before an answer, with one BOS if the tokenizer uses one.

        Earlier answers end as in training: without a chat template, with the eos_token.

        Raises:
            BadRow: the chat template refuses the prompt, or does not write all of it.
        """
        text = self.render(prompt, None, tools)
        if self.jinja is not None:
            self._check_prompt(prompt, text)
        return self._with_bos(self._lead(prompt, text, tools))

    def _lead(self, prompt: Prompt, text: str, tools: Tools = None) -> list[int]:
        """Tokenize the text of a prompt, and what is begun of its answer."""
        if begun_turn(prompt) is not None:
            prompt = prompt[:-1]
        answers = [] if isinstance(prompt, str) else [m["role"] == "assistant" for m in prompt]
        if self.jinja is not None or not any(answers):
            return self._text.ids(text)
        assert not isinstance(prompt, str)
        last = len(answers) - 1 - answers[::-1].index(True)
        ids, _ = self._turns(prompt[: last + 1], tools)
        before = self.render(prompt[:last], prompt[last], tools)
        return ids + self._text.ids_after(before, text[len(before) :])

    def encode_begun(
        self, prompt: Prompt, begun: str = "", tails: Sequence[str] = ()
    ) -> tuple[list[int], list[list[int]]]:
        """Tokenize a prompt with the beginning of its answer, and some continuations of it.

        Prompt and continuation are tokenized as one text and cut where they meet; if a token
        crosses that point, the continuation is tokenized alone.
        """
        text = self._begun(prompt, begun)
        if tails and not begun:  # as it is once one of them is there
            text = text.removesuffix(self.only_asked or "")
        lead = self._lead(prompt, text)
        continuations = []
        for tail in tails:
            both = self._lead(prompt, self._begun(prompt, begun + tail))
            cut = both[: len(lead)] == lead and len(both) > len(lead)
            continuations.append(both[len(lead) :] if cut else self._text.ids(tail))
        return self._with_bos(lead), continuations

    def encode_answer(
        self, prompt: Prompt, answer: str | Message, tools: Tools = None
    ) -> list[int]:
        """Tokenize one answer, as ``encode_answers`` does."""
        return self.encode_answers(prompt, [answer], tools)[1][0]

    def encode_answers(
        self, prompt: Prompt, answers: Sequence[str | Message], tools: Tools = None
    ) -> tuple[list[int], list[list[int]]]:
        """Tokenize a prompt, and its answers: what each whole conversation adds to the prompt.

        The prompt is that of ``encode_prompt``, without what the template leaves out once one of
        these answers is there. Every answer has its end token.

        Raises:
            BadRow: the template does not write all of a prompt or an answer, or rewrites this
                prompt once an answer is there.
            ValueError: the template does so with every prompt, or writes no end token.
        """
        before = self.render(prompt, None, tools)
        if self.jinja is not None:
            self._check_prompt(prompt, before)
        rendered = self.rendered if isinstance(prompt, str) else None
        own = rendered.own_words if rendered is not None and rendered.holds(str(prompt)) else None
        replies = [ends_once(answer, self._ends) for answer in answers]
        replies = replies if own is None else [own(reply) for reply in replies]
        wholes = [self.render(prompt, reply, tools) for reply in replies]
        start = min((self._meet(before, whole)[0] for whole in wholes), key=len)
        tails = [whole[len(start) :] for whole in wholes]
        turns = [
            self._until_stop(*self._said_after(start, tail, reply))
            for tail, reply in zip(tails, replies, strict=True)
        ]
        return self._with_bos(self._lead(prompt, start, tools)), [self._ended(t) for t in turns]

    def _said_after(self, before: str, tail: str, answer: str | Message) -> tuple[list[int], int]:
        """Tokenize an answer behind a text, and count the tokens that hold what it says.

        The count is 0 if it holds no marks, or if that is not clear.
        """
        ids = self._text.ids_after(before, tail)
        if self.jinja is None:
            return ids, 0
        message = answer if isinstance(answer, dict) else said(answer)
        content = (message["content"] or "").strip()
        check_written(message, tail if content in tail else begun_in(before, content) + tail)
        place = tail.rfind(content) if content else -1
        if place < 0 or sum(i in self._text.marks for i in ids) < 2:
            return ids, 0
        spoken = self._text.ids_after(before, tail[: place + len(content)])
        return ids, len(spoken) if ids[: len(spoken)] == spoken else 0

    def encode_conversation(
        self, messages: list[Message], tools: Tools = None
    ) -> tuple[list[int], list[bool]]:
        """Tokenize many turns, with the loss mask: every assistant turn with its end token.

        Raises:
            RewrittenHistory: a turn reads otherwise once the next is there.
            BadRow, ValueError: as for ``encode_answer``.
        """
        ids, mask = self._turns(messages, tools)
        with_bos = self._with_bos(ids)
        return with_bos, [False] * (len(with_bos) - len(ids)) + mask

    def _turns(self, messages: list[Message], tools: Tools) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        mask: list[bool] = []
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=-1)
        earlier: tuple[str, str] | None = None  # text up to the answer before, and with it
        # where that answer is in ids, whether it is trained on, how many tokens say it
        start, counts, spoken = 0, True, 0
        for i, message in enumerate(messages[: last + 1]):
            if message["role"] != "assistant":
                continue
            whole = self.render(messages[:i], message, tools)
            before, tail = self._meet(self.render(messages[:i], None, tools), whole)
            if earlier is None or before.startswith(earlier[1]):
                opening = self._added(earlier[1] if earlier else "", before)
            else:
                turn, opening = turn_in_history(self._text, *earlier, before, spoken=spoken)
                ids, mask = ids[:start] + turn, mask[:start] + [counts] * len(turn)
            answer, spoken = self._said_after(before, tail, message)
            turn = self._until_stop(answer, spoken)
            rest = answer[len(turn) :]  # text of the template after the end token
            if i == last and self._ended(turn) != turn:
                turn, rest = self._ended(turn), []
            start, counts = len(ids) + len(opening), message.get("train", True)
            ids += opening + turn + rest
            mask += [False] * len(opening) + [counts] * len(turn) + [False] * len(rest)
            earlier = before, whole
        if earlier and self.jinja is not None:
            self._check_prompt(messages[:last], earlier[0])
        return ids, mask

    def _check_prompt(self, prompt: Prompt, text: str) -> None:
        for message in [said(prompt, "user")] if isinstance(prompt, str) else prompt:
            check_written(message, text, history=True)

    @cached_property
    def opening_note(self) -> str:
        """Clause for the log on what a template writes only with an answer; "" for nothing."""
        if self.jinja is None:
            return ""
        try:
            _, tail = self._meet(self.render("question"), self.render("question", PROBE))
        except ValueError:
            return ""
        opening = tail.partition(PROBE)[0]
        if self.only_asked:
            return (
                f"the chat template ends a prompt with {self.only_asked!r} but leaves it out once "
                "there is an answer without it: such answers are trained on without it; "
            )
        if not opening.strip() or opening == tail:
            return ""
        return (
            f"the chat template writes {opening!r} before an answer but not in the prompt: it is "
            "trained on as part of the answer; "
        )

    @cached_property
    def ending_note(self) -> str:
        """Clause for the log on how answers end; "" if they end with the eos_token.

        Raises:
            ValueError: the chat template writes no end token after an answer.
        """
        turn_end = self._turn_end
        if turn_end in (None, self._text.eos):
            return ""
        token = self.tokenizer.convert_ids_to_tokens(turn_end)
        return (
            f"the chat template ends an answer with {token!r}, not the tokenizer's eos_token "
            f"{self.tokenizer.eos_token!r}: both are trained on, and the "
            "eos_token is added after the last answer; "
        )

    @cached_property
    def tools_note(self) -> str:
        """Clause for the log on tools that are not written; "" if they are."""
        if self.jinja is None:
            return "tools are not written: only a chat template writes them; "
        try:
            without, with_one = (self.render("question", None, t) for t in (None, [PROBE_TOOL]))
        except BadRow:
            return ""
        return "tools are not written: the chat template ignores them; " * (without == with_one)

    @cached_property
    def _ends(self) -> list[str]:
        """The texts of the tokens that end an answer, if a chat template writes them."""
        ends = self.end_ids if self.jinja is not None else ()
        return [str(self.tokenizer.convert_ids_to_tokens(end)) for end in ends]

    @cached_property
    def end_ids(self) -> set[int]:
        """All tokens that end an answer."""
        return {token for token in (self._text.eos, self._turn_end) if token is not None}

    def _ended(self, turn: list[int]) -> list[int]:
        """End a last turn with eos: every decoder stops at eos."""
        assert self._text.eos is not None, "_until_stop has checked it"
        return turn if turn[-1:] == [self._text.eos] else [*turn, self._text.eos]

    def _until_stop(self, ids: list[int], spoken: int = 0) -> list[int]:
        """Cut off what a template writes after the last end token; add eos if there is none.

        The first ``spoken`` tokens are not an end, the answer itself says them.
        """
        if self._text.eos is None:
            raise ValueError("the tokenizer has no eos_token: set one, else no answer can end")
        for i in range(len(ids) - 1, spoken - 1, -1):
            if ids[i] in self.end_ids:
                return ids[: i + 1]
        if self.jinja is not None:  # a call may end with a token of its own
            i = len(ids)
            while i > spoken and self._text.is_blank(ids[i - 1]):
                i -= 1
            if i > spoken and ids[i - 1] in self._text.marks:
                return ids[:i]
        return [*ids, self._text.eos]

    @cached_property
    def _turn_end(self) -> int | None:
        """The token with which a chat template ends an answer: eos, else its first special token.

        It is read off the text after a probe. It is None without a chat template, or if the
        template refuses or rewrites the probe: then only eos ends an answer.

        Raises:
            ValueError: the template writes no such token, so no model would learn to stop.
        """
        if self.jinja is None:
            return None
        try:
            whole = self.render("question", PROBE)
        except BadRow:
            return None
        _, found, closing = whole.rpartition(PROBE)
        ids = self._text.ids(closing)
        if not found or self._text.eos in ids:
            return self._text.eos if found else None
        end = next((i for i in ids if i in self._text.marks), None)
        if end is None:
            place = f"{closing[:40]!r} after" if closing else "nothing after"
            raise ValueError(
                f"the chat template writes no end token behind an answer, but {place} "
                f"{(whole[: len(whole) - len(closing)])[-40:]!r}, so a model would never learn to "
                "stop: write {{ eos_token }} there, or a special token of the tokenizer, or give "
                'template="plain"'
            )
        return end

    def _added(self, before: str, whole: str) -> list[int]:
        """Tokenize the part of ``whole`` after ``before``."""
        return self._text.ids_after(before, whole[len(before) :])

    def keeps_first(self, ids: list[int]) -> bool:
        """Tell whether a prompt starts with a BOS, not with a mark that starts every turn."""
        bos = self.tokenizer.bos_token_id
        return ids[:1] == [bos] and (bos == self._text.bos or ids.count(bos) == 1)

    def _with_bos(self, ids: list[int]) -> list[int]:
        """Put BOS in front once: a chat template writes its own, else the tokenizer decides."""
        bos = self._text.bos
        if bos is None or ids[:1] == [bos] or (ids and self.jinja is not None):
            return ids
        return [bos, *ids]
