"""``lightning-rlhf chat``: talk to a trained role beside its reference."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.columns import Columns
from rich.panel import Panel
from rich.text import Text

from lightning_rlhf.cli.arguments import call_with
from lightning_rlhf.data.template_settings import Template
from lightning_rlhf.data.templates import ChatTemplate
from lightning_rlhf.models.backbone import POLICY, REFERENCE
from lightning_rlhf.models.generation import generate
from lightning_rlhf.models.loading import DType, Quantization
from lightning_rlhf.models.saved import load_role
from lightning_rlhf.text.display import PrintableConsole, printable
from lightning_rlhf.text.messages import Message


def main(args: list[str]) -> None:
    """Read the arguments of ``chat`` and call it."""
    call_with(chat, "chat", args)


def chat(
    role: str,
    reference: str | None = None,
    prompt: str | None = None,
    quantization: Quantization | None = None,
    dtype: DType = "auto",
    temperature: float = 0.7,
    max_new_tokens: int = 256,
    template: Template = "auto",
) -> None:
    """Talk to a role; every answer is shown beside that of its reference.

    Args:
        role: a folder that ``fit`` wrote (``runs/.../policy``), or any model.
        reference: folder of the role it was trained from; without one, the bare base.
        prompt: ask this once, instead of a conversation.
        quantization: hold the base in 4 bits, as in training.
        dtype: of the base.
        temperature: 0 is greedy.
        max_new_tokens: length at which an answer is cut.
        template: how a conversation becomes text, as in the data modules.
    """
    backbone = load_role(role, reference, quantization, dtype)
    template_ = ChatTemplate(backbone.tokenizer, template)
    console = PrintableConsole()
    names = [name for name in (POLICY, REFERENCE) if name in backbone.roles]
    history: list[Message] = []
    for line in [prompt] if prompt is not None else _lines(console):
        history.append({"role": "user", "content": line})
        # a first question is a string: a model without a chat template gets its text alone
        ids = template_.encode_prompt(history if len(history) > 1 else line)
        answers = {
            name: backbone.tokenizer.decode(
                generate(backbone, name, [ids], max_new_tokens, temperature)[0].ids,
                skip_special_tokens=True,
            ).strip()
            for name in names
        }
        panels = [Panel(Text(printable(text)), title=name) for name, text in answers.items()]
        console.print(Columns(panels, equal=True, expand=True))
        history.append({"role": "assistant", "content": answers[POLICY]})


def _lines(console: PrintableConsole) -> Iterator[str]:
    if sys.stdin.isatty():
        console.print("Type a message; an empty line ends the conversation.", style="dim")
    while True:
        try:
            line = console.input(Text("you> ", "bold")).strip()
        except EOFError:
            return
        if not line:
            return
        yield line
